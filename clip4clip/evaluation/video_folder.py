"""Find the video files that a table names, with or without their extension."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from ..errors import PairsError, brief

# For a name without extension, the first of these that exists is taken.
VIDEO_EXTENSIONS = (
    *(".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".flv", ".ts", ".gif"),
    *(".wmv", ".mts", ".m2ts", ".3gp", ".ogv", ".vob"),
)


class VideoFolder:
    """A folder of videos. Each folder in it is listed once, when the first of its videos is looked up."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listings: dict[Path, dict[str, str]] = {}

    def find(self, video: str, location: str) -> Path:
        """Return the path of a video.

        Args:
            video: its name, relative to the folder, with or without extension.
            location: where the name stands in the table, for error messages.

        Returns:
            The path of its file; if there is none, the path where it was expected.

        Raises:
            PairsError: the name leads out of the folder.
        """
        # Links are not resolved: a data set may consist of links that lead elsewhere.
        path = Path(os.path.normpath(self._folder / video))
        root = Path(os.path.normpath(self._folder))
        if not path.is_relative_to(root) or path == root:
            raise PairsError(f"{location}: {brief(video)} leads out of the folder {self._folder}")
        names = self._list(path.parent)
        return path.with_name(names.get(path.name, path.name))

    def _list(self, folder: Path) -> dict[str, str]:
        """Return the name of the file for each name, with and without extension, that stands for a file."""
        if folder not in self._listings:
            try:
                files = {entry.name for entry in os.scandir(folder) if not _is_folder(entry)}
            except OSError:
                files = set()
            names: dict[str, str] = {}
            videos = (name for name in files if _priority(name) < len(VIDEO_EXTENSIONS))
            for name in sorted(videos, key=lambda name: (_priority(name), name)):
                names.setdefault(PurePosixPath(name).stem, name)
            self._listings[folder] = names | {name: name for name in files}
        return self._listings[folder]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link; the error concerns this entry only
        return False


def _priority(name: str) -> int:
    """Return the index of a name's extension in VIDEO_EXTENSIONS, or their number for another extension."""
    extension = PurePosixPath(name).suffix.lower()
    return VIDEO_EXTENSIONS.index(extension) if extension in VIDEO_EXTENSIONS else len(VIDEO_EXTENSIONS)
