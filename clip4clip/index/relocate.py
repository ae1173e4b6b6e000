"""Change the paths of videos whose folder was moved."""

from __future__ import annotations

import ntpath
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from ..errors import InputTypeError, InputValueError, VideoIndexError, brief
from ..library.sources import absolute_path
from ..video.source import is_url

ChangePath = Callable[[str], "str | None"]
"""Return the new path of a video; None for a video that is not below the old folder."""

PathChanges = dict[str, tuple[str, str]]
"""New id and new path of each row, by its old id."""


@dataclass(frozen=True)
class RelocateReport:
    """What :meth:`clip4clip.index.video_index.VideoIndex.relocate` did, or would do.

    Attributes:
        relocated: new path of each video whose path has changed, by its old path.
        not_found: the same for videos whose files are not at their new paths. They keep their old paths, unless
            ``force`` is set: they are then in ``relocated``, too.
    """

    relocated: dict[str, str]
    not_found: dict[str, str]


def make_path_change(old: str | os.PathLike[str], new: str | os.PathLike[str]) -> ChangePath:
    """Return the function that replaces the folder ``old`` at the beginning of a path by ``new``.

    Args:
        old: path of a folder or file, or the beginning of a URL. Relative paths start at the working directory. A path
            with a drive, such as ``D:\\videos``, is one of Windows, on every system.
        new: the same.

    Raises:
        InputTypeError: ``old`` or ``new`` is not a path.
        InputValueError: one is a path and the other a URL, one is empty, or both are the same.
    """
    old_place, new_place = _parse(old, "the old folder"), _parse(new, "the new folder")
    if old_place == new_place:
        raise InputValueError(f"the old and the new folder are the same: {old_place}")
    if isinstance(old_place, str) and isinstance(new_place, str):
        return _url_change(old_place, new_place)
    if isinstance(old_place, str) or isinstance(new_place, str):
        raise InputValueError(f"{old_place} and {new_place} must both be folders, or both be URLs")
    return _path_change(old_place, new_place)


def plan_relocation(
    rows: Iterable[Mapping[str, Any]], change: ChangePath, force: bool
) -> tuple[PathChanges, RelocateReport]:
    """Return the changes of ids and paths, and a report of them.

    Args:
        rows: all rows of the index, with their paths.
        change: function that changes a path.
        force: also change the paths of videos whose files are not at their new paths.
    """
    changes: PathChanges = {}
    report = RelocateReport({}, {})
    for row in rows:
        id_, path = row["id"], row.get("path", "")
        new_path = change(path)
        if new_path is None:
            continue
        is_found = is_url(new_path) or path in report.relocated or os.path.isfile(new_path)
        if not is_found:
            report.not_found[path] = new_path
        if is_found or force:
            report.relocated[path] = new_path
            changes[id_] = (new_path if id_ == path else id_, new_path)
    return changes, report


def check_conflicts(rows: Iterable[Mapping[str, Any]], changes: PathChanges) -> None:
    """Raise VideoIndexError if rows that do not change have one of the new ids or paths."""
    taken = {value for change in changes.values() for value in change}
    conflicts = [row for row in rows if row["id"] not in changes and {row["id"], row.get("path")} & taken]
    if conflicts:
        others = f" and {len(conflicts) - 1:,} other new paths" if len(conflicts) > 1 else ""
        raise VideoIndexError(
            f"the index already has {conflicts[0]['id']}{others}, so nothing was changed. If the files were indexed "
            "again after they were moved, remove the old rows instead: `clip4clip delete --missing`"
        )


def _parse(place: str | os.PathLike[str], what: str) -> PurePath | str:
    """Return a folder as an absolute path, or a URL without a slash at its end."""
    text = os.fspath(place) if isinstance(place, os.PathLike) else place
    if not isinstance(text, str):
        raise InputTypeError(f"{what} must be a path or a URL, not {brief(place)}")
    if not text.strip():
        raise InputValueError(f"{what} is empty: {brief(text)}")
    if is_url(text):
        return text.rstrip("/")
    if re.match(r"[A-Za-z]:[\\/]|\\\\", text):
        return PureWindowsPath(ntpath.normpath(text))
    return PureWindowsPath(absolute_path(text)) if os.name == "nt" else PurePosixPath(absolute_path(text))


def _url_change(old: str, new: str) -> ChangePath:
    def change(path: str) -> str | None:
        return new + path[len(old) :] if path == old or path.startswith(f"{old}/") else None

    return change


def _path_change(old: PurePath, new: PurePath) -> ChangePath:
    def change(path: str) -> str | None:
        try:
            below = type(old)(path).relative_to(old)
        except ValueError:
            return None
        return str(new.joinpath(*below.parts))

    return change
