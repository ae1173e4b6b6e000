"""Make an index match a folder: find out which files are new, changed, gone or moved, and store what was embedded."""

from __future__ import annotations

import functools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..library.sources import Video
from ..weights.identity import Identity
from .engine import Engine, Failure
from .hit import common_fields
from .relocate import make_move, place_changes
from .values import TAG_FIELDS, TAG_SCORE

STORE_BATCH = 32  # embedded videos that are stored together: those that a kill may lose
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


class FolderSync:
    """One synchronisation of an index with a folder. Call :meth:`plan`, :meth:`store` and :meth:`remove_gone` in turn.

    Args:
        engine: the index, whose collection exists.
        root: the folder.
        videos: videos in the folder.
        report: receives what is done. Its ``unlisted`` has been filled.
    """

    def __init__(self, engine: Engine, root: Path, videos: Sequence[Video], report: SyncReport) -> None:
        self._engine, self._videos, self._report = engine, videos, report
        self._stored: defaultdict[str, list[Video]] = defaultdict(list)  # in the folder, by path: ids may share a path
        self._failures: dict[str, Failure] = {}  # of earlier calls
        self._undecodable: dict[str, Failure] = {}
        files = {_file_key(video) for video in videos}
        is_below = functools.cache(lambda path: Path(path).is_relative_to(root))  # a video may have many rows
        elsewhere: dict[Video, None] = {}
        for row in engine.rows(["path", "video", "size", "mtime"]):
            video = Video(row["video"], row.get("path", ""), row.get("size"), row.get("mtime"))
            if is_below(video.path):
                if video not in self._stored[video.path]:  # the rows of a video are equal in this
                    self._stored[video.path].append(video)
            elif video.size is not None and _file_key(video) in files:
                elsewhere[video] = None
        self._elsewhere = [*elsewhere]  # in other folders, with name, size and time of a file in this one

    def plan(self, retry_failed: bool, embed_moved: bool) -> list[Video]:
        """Return the videos to embed, and give those that were moved within the folder their new paths.

        Args:
            retry_failed: also embed files that could not be decoded before and have not changed.
            embed_moved: also embed files that look like those that are gone from other folders.
        """
        report = self._report
        to_embed = [video for video in self._videos if not self._is_stored(video)]
        report.unchanged = len(self._videos) - len(to_embed)
        self._failures = self._engine.failures([video.id for video in to_embed])
        if not retry_failed:
            report.failed_before = {
                video.id: self._failures[video.id].error for video in to_embed if self._has_failed(video)
            }
        new = [video for video in to_embed if video.id not in self._stored and video.id not in report.failed_before]
        report.relocated = len(relocated := self._follow_moves(new))
        if not embed_moved:
            missing = [video for video in self._elsewhere if is_gone(video.path)]
            moved = find_moved((video for video in new if video.id not in relocated), missing)
            report.moved = {path: old[0].path for path, old in moved.items()}
        left_out = report.failed_before.keys() | relocated | report.moved.keys()
        return [video for video in to_embed if video.id not in left_out]

    def store(
        self,
        embedded: Iterable[Sequence[dict[str, Any]]],
        model: Identity,
        upsert: Callable[[Sequence[Mapping[str, Any]]], object],
    ) -> None:
        """Store rows of embedded videos, and remember files that cannot be decoded, even if an error ends the rows.

        Args:
            embedded: rows of each video, as :func:`clip4clip.library.local_engine.embed_videos` yields them.
            model: model and weights that computed the vectors.
            upsert: function that stores rows in the place of all rows of the same videos.
        """
        rows: list[dict[str, Any]] = []
        recovered: list[str] = []
        try:
            for segments in embedded:
                first = segments[0]
                path = first["path"]
                if first["undecodable"] and first["size"] is not None:
                    self._undecodable[path] = Failure(path, first["size"], first["mtime"], first["error"])
                if first["error"] is not None:
                    self._report.failed[path] = first["error"]
                    continue
                self._report.changed += path in self._stored
                self._report.added += path not in self._stored
                if path in self._failures:
                    recovered.append(path)
                rows += self._to_stored(segments, model)
                if len(rows) >= STORE_BATCH:
                    upsert(rows)
                    rows = []
        finally:
            upsert(rows)
            if self._undecodable:
                self._engine.record_failures(self._undecodable.values())
            if recovered:
                self._engine.forget_failures(recovered)

    def remove_gone(self) -> None:
        """Remove videos whose files were deleted, or were opened and could not be decoded."""
        unreadable = (self._undecodable.keys() | self._report.failed_before.keys()) & self._stored.keys()
        ids = {video.id for path in {*self._gone()} | unreadable for video in self._stored[path]}
        if ids:
            self._engine.delete([*ids])
            self._report.removed = len(ids)

    def _is_stored(self, video: Video) -> bool:
        """Return whether the index has the current state of a file, under every id that the file has there."""
        same_path = self._stored.get(video.id, [])  # the id of a video in a folder is its path
        return bool(same_path) and all(video.is_same_file(other) for other in same_path)

    def _has_failed(self, video: Video) -> bool:
        """Return whether the current state of a file could not be decoded by an earlier call."""
        failure = self._failures.get(video.id)
        return failure is not None and (failure.size, failure.mtime) == (video.size, video.mtime)

    def _gone(self) -> list[str]:
        """Return the paths of stored videos whose files were deleted."""
        listed = {video.id for video in self._videos}
        return [path for path in self._stored if path not in listed and is_gone(path, self._report.unlisted)]

    def _follow_moves(self, new: Iterable[Video]) -> set[str]:
        """Change the paths of videos that were moved within the folder. Return the new paths."""
        moved = find_moved(new, [video for path in self._gone() for video in self._stored[path]])
        new_paths = {old[0].path: path for path, old in moved.items() if not self._has_id(path)}
        if new_paths:
            rows = self._engine.rows(["path", "video"])
            moves = [make_move(row, new_paths[row["path"]]) for row in rows if row.get("path") in new_paths]
            self._engine.update_paths(*place_changes(moves))
        for path in new_paths:
            del self._stored[path]
        return {*new_paths.values()}

    def _has_id(self, name: str) -> bool:
        """Return whether a row or a video of the index has an id."""
        return self._engine.get(name) is not None or bool(self._engine.rows_of_video(name))

    def _to_stored(self, segments: Sequence[dict[str, Any]], model: Identity) -> Iterator[dict[str, Any]]:
        """Yield the rows of a video for each id that it has in the index, with the other fields stored for that id."""
        rows = [
            {name: value for name, value in row.items() if name != "undecodable"}
            | {"model": model.model, "fingerprint": model.fingerprint}
            for row in segments
            if row["vector"] is not None  # as uniform segments have none
        ]
        stored = {video.id: None for video in self._stored.get(rows[0]["path"], [])}
        for video in stored or {rows[0]["video"]: None}:
            hits = self._engine.rows_of_video(video) if stored else []
            fields = common_fields(hits)
            if any(TAG_SCORE in hit.fields for hit in hits):  # else a field called label is the user's own
                fields = {name: value for name, value in fields.items() if name not in TAG_FIELDS}
            for row in rows:
                yield fields | row | {"id": video + row["id"].removeprefix(row["video"]), "video": video}


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
