"""The files of an index that visitors may fetch, and their content types."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..errors import MissingExtraError
from ..evaluation.video_folder import VIDEO_EXTENSIONS
from ..index.hit import Hit
from ..index.video_index import VideoIndex
from ..video.source import is_url

try:
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

from .lookup import NO_SUCH_VIDEO, find
from .workers import Workers

LOOKUP_WORKERS = 4  # files that are looked up at once; further ones wait

# By the endings of the files; not those of the system, which differ and may be types that a browser runs.
MEDIA_TYPES = {
    **dict.fromkeys((".mp4", ".m4v"), "video/mp4"),
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
    **dict.fromkeys((".mpg", ".mpeg", ".vob"), "video/mpeg"),
    **dict.fromkeys((".ts", ".mts", ".m2ts"), "video/mp2t"),
    ".flv": "video/x-flv",
    ".wmv": "video/x-ms-wmv",
    ".3gp": "video/3gpp",
    ".ogv": "video/ogg",
    ".gif": "image/gif",
}


@dataclass(frozen=True)
class VideoFile:
    """The file of a video, or of a moment of it.

    Attributes:
        hit: the row of the index.
        version: size and time of the last change, in nanoseconds; another one means another content.
    """

    hit: Hit
    version: tuple[int, int]

    @property
    def path(self) -> str:
        """Absolute path."""
        return self.hit.path

    @property
    def name(self) -> str:
        """File name."""
        return PurePath(self.hit.path).name


class VideoFiles:
    """Look up files by the ids of an index. A path comes from the index, never from a visitor.

    Args:
        index: index of the videos.
    """

    def __init__(self, index: VideoIndex) -> None:
        self._index = index
        self._workers = Workers(LOOKUP_WORKERS)

    async def find(self, id: str) -> VideoFile:  # noqa: A002
        """Return the file of a video or of a segment.

        Raises:
            HTTPException: 404; there is no such video in the index, or no file that may be fetched.
            IndexUnavailableError: the index does not answer.
        """
        return await self._workers.run(self._find, id)

    def _find(self, id: str) -> VideoFile:  # noqa: A002
        hit = find(self._index, id)
        if is_url(hit.path):
            raise HTTPException(404, f"This video is not on this server, but at {hit.path}")
        # An index may name any file of this machine.
        if not os.path.isabs(hit.path) or not hit.path.lower().endswith(VIDEO_EXTENSIONS):
            raise HTTPException(404, NO_SUCH_VIDEO)
        version = file_version(hit.path)
        if version is None:
            raise HTTPException(404, gone(PurePath(hit.path).name))
        return VideoFile(hit, version)


def file_version(path: str) -> tuple[int, int] | None:
    """Return the size and the time of the last change of a regular file; None if there is none."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):  # ValueError: it has a null character
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def gone(name: str) -> str:
    """Return the sentence about a file that the index names and that is gone."""
    return (
        f"{name} has been moved or deleted. On the server, `clip4clip relocate` gives moved videos their new paths, "
        "and `clip4clip delete --missing` removes deleted ones from the index."
    )


def media_type(path: str) -> str:
    """Return the content type of a file by its ending: never one that a browser runs."""
    return MEDIA_TYPES.get(PurePath(path).suffix.lower(), "application/octet-stream")
