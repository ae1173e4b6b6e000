"""Compare the videos of a folder with those that an index has of it: which are new, changed, gone or moved."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..library.sources import Video
from .engine import Engine, Failure

NOT_FOUND_WINDOWS = (None, 2, 3)  # codes of Windows for a missing file or folder; a share that is offline has others


@dataclass
class SyncReport:
    """What :meth:`clip4clip.index.video_index.VideoIndex.sync` did.

    Attributes:
        added: number of new videos.
        changed: number of videos that were re-embedded because their files had changed.
        relocated: number of videos whose files were moved within the folder. They kept their vectors.
        removed: number of videos that were removed because their files were deleted or can no longer be decoded.
        unchanged: number of videos whose files have not changed.
        moved: new paths of files that were left out because they look like videos of another folder whose files are
            gone, each with the old path. :meth:`clip4clip.index.video_index.VideoIndex.relocate` keeps their vectors.
        failed: error of each video that could not be embedded, by its path.
        failed_before: error of each video that could not be decoded by an earlier call and has not changed since, by
            its path. It was not tried again.
        unlisted: error of each folder that could not be listed, by its path. The index keeps the videos in it.
    """

    added: int = 0
    changed: int = 0
    relocated: int = 0
    removed: int = 0
    unchanged: int = 0
    moved: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    failed_before: dict[str, str] = field(default_factory=dict)
    unlisted: dict[str, str] = field(default_factory=dict)


@dataclass
class StoredVideos:
    """The videos that an index has, as far as they concern a folder. Several ids may share a path.

    Attributes:
        below: videos whose paths are below the folder, by path.
        elsewhere: videos of other folders that have the file name, size and modification time of a file in the folder.
    """

    below: dict[str, list[Video]]
    elsewhere: list[Video]


def read_stored_videos(engine: Engine, root: Path, videos: Iterable[Video]) -> StoredVideos:
    """Read the videos that an index has of a folder, and those that may have been moved into it.

    Args:
        engine: the index.
        root: the folder.
        videos: videos in the folder.
    """
    files = {_file_key(video) for video in videos}
    below: defaultdict[str, list[Video]] = defaultdict(list)
    elsewhere: list[Video] = []
    for row in engine.rows(["path", "size", "mtime"]):
        path = row.get("path", "")
        video = Video(row["id"], path, row.get("size"), row.get("mtime"))
        if Path(path).is_relative_to(root):
            below[path].append(video)
        elif video.size is not None and _file_key(video) in files:
            elsewhere.append(video)
    return StoredVideos(dict(below), elsewhere)


def is_stored(video: Video, stored: StoredVideos) -> bool:
    """Return whether the index has the current state of a video's file, under every id that the file has there."""
    same_path = stored.below.get(video.id, [])  # the id of a video in a folder is its path
    return bool(same_path) and all(video.is_same_file(other) for other in same_path)


def has_failed(video: Video, failures: Mapping[str, Failure]) -> bool:
    """Return whether the current state of a video's file could not be decoded by an earlier call."""
    failure = failures.get(video.id)
    return failure is not None and (failure.size, failure.mtime) == (video.size, video.mtime)


def find_moved(videos: Iterable[Video], missing: Iterable[Video]) -> dict[str, list[Video]]:
    """Return videos whose files have been moved: new path to the videos that the index has under the old path.

    A moved file has the name, size and modification time of the missing one. If several missing files have the same,
    the one whose folders are called the same counts; without such a difference, no file counts as moved.

    Args:
        videos: new videos in a folder.
        missing: videos in the index whose files are gone.
    """
    by_file: defaultdict[tuple[object, ...], defaultdict[str, list[Video]]] = defaultdict(lambda: defaultdict(list))
    for video in missing:
        by_file[_file_key(video)][video.path].append(video)
    moved: dict[str, list[Video]] = {}
    taken: set[str] = set()
    for video in videos:
        if video.size is None or _file_key(video) not in by_file:
            continue
        same_file = by_file[_file_key(video)]
        scores = {path: len(_common_end(path, video.id)) for path in same_file}
        best = [path for path, score in scores.items() if score == max(scores.values())]
        if len(best) == 1 and best[0] not in taken:
            taken.add(best[0])
            moved[video.id] = same_file[best[0]]
    return moved


def moved_folders(moved: Mapping[str, str], root: str | os.PathLike[str]) -> dict[tuple[str, str], int]:
    """Return the old and the new folder of moved files, and their number, for :meth:`VideoIndex.relocate`.

    Args:
        moved: new path to old path, as in :attr:`SyncReport.moved`.
        root: folder that was synchronised; no new folder is above it.
    """
    folders: Counter[tuple[str, str]] = Counter()
    for new, old in moved.items():
        depth = len(Path(new).parts) - len(Path(root).parts)
        common = min(len(_common_end(old, new)), depth)
        folders[str(Path(old).parents[common - 1]), str(Path(new).parents[common - 1])] += 1
    return dict(folders)


def videos_to_remove(
    videos: Sequence[Video], stored: StoredVideos, undecodable: Iterable[str], unlisted: Iterable[str]
) -> list[str]:
    """Return the ids of stored videos whose files were deleted or could not be decoded.

    Args:
        videos: videos in the folder.
        stored: videos in the index.
        undecodable: paths of files that were opened and could not be decoded.
        unlisted: folders that could not be listed.
    """
    listed = {video.id for video in videos}
    gone = {path for path in stored.below if path not in listed and is_gone(path, unlisted)}
    return [video.id for path in gone | ({*undecodable} & stored.below.keys()) for video in stored.below[path]]


def is_gone(path: str, unlisted: Iterable[str] = ()) -> bool:
    """Return whether a file no longer exists, as far as can be known.

    A file is not gone if its folder cannot be searched, does not answer, or is below one of the folders ``unlisted``.
    Nor is one whose path is of another system or relative.
    """
    if not Path(path).is_absolute():
        return False
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        is_certain = getattr(error, "winerror", None) in NOT_FOUND_WINDOWS
        return is_certain and not any(Path(path).is_relative_to(folder) for folder in unlisted)
    except (OSError, ValueError):
        return False
    return False


def _file_key(video: Video) -> tuple[object, ...]:
    return Path(video.path).name, video.size, video.mtime


def _common_end(path: str, other: str) -> list[str]:
    """Return the names that two paths have in common at their ends."""
    common: list[str] = []
    for name, other_name in zip(reversed(Path(path).parts), reversed(Path(other).parts), strict=False):
        if name != other_name:
            break
        common.append(name)
    return common
