"""Change the paths of videos whose folder was moved."""

from __future__ import annotations

import ntpath
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from ..errors import InputTypeError, InputValueError, brief
from ..library.sources import absolute_path
from ..video.source import is_url

ChangePath = Callable[[str], "str | None"]
"""Return the new path of a video; None for a video that is not below the old folder."""


class Move(NamedTuple):
    """The change of the id, the path and the video of a row."""

    id: str
    path: str
    video: str
    new_id: str
    new_path: str
    new_video: str


@dataclass(frozen=True)
class RelocateReport:
    """What :meth:`clip4clip.index.video_index.VideoIndex.relocate` did, or would do.

    Attributes:
        relocated: new path of each video whose path has changed, by its old path.
        not_found: new paths where there is no file, by the old paths. These videos keep their old paths, unless
            ``force`` is set.
        taken: new paths that other videos of the index have already, by the old paths. These videos keep their old
            paths.
    """

    relocated: dict[str, str] = field(default_factory=dict)
    not_found: dict[str, str] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)


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


def make_move(row: Mapping[str, Any], new_path: str) -> Move:
    """Return the change for a row whose file has a new path. Ids that are made of the path change, too.

    Args:
        row: row of an index, with its path and video.
        new_path: the new path.
    """
    id_, path, video = row["id"], row.get("path", ""), row.get("video", row["id"])
    is_path = id_ == path or id_.startswith(f"{path}#t=")
    new_id = new_path + id_[len(path) :] if is_path else id_
    return Move(id_, path, video, new_id, new_path, new_path if video == path else video)


def place_changes(moves: Iterable[Move]) -> tuple[dict[str, tuple[str, str]], dict[str, str]]:
    """Return moves as the arguments of :meth:`clip4clip.index.engine.Engine.update_paths`."""
    moves = [*moves]
    rows = {move.id: (move.new_id, move.new_path) for move in moves}
    return rows, {move.video: move.new_video for move in moves if move.video != move.new_video}


def plan_moves(
    rows: Iterable[Mapping[str, Any]], change: ChangePath, force: bool
) -> tuple[dict[str, Move], dict[str, str]]:
    """Return the moves of the rows below a folder, by their ids, and the new paths where there is no file.

    Args:
        rows: all rows of the index, with their paths and videos.
        change: function that changes a path.
        force: also move videos whose files are not at their new paths.
    """
    moves: dict[str, Move] = {}
    is_there: dict[str, bool] = {}  # by new path
    not_found: dict[str, str] = {}
    for row in rows:
        path = row.get("path", "")
        new_path = change(path)
        if new_path is None:
            continue
        if new_path not in is_there:
            is_there[new_path] = is_url(new_path) or os.path.isfile(new_path)
        if not is_there[new_path]:
            not_found[path] = new_path
        if force or path not in not_found:
            moves[row["id"]] = make_move(row, new_path)
    return moves, not_found


def drop_conflicts(rows: Iterable[Mapping[str, Any]], moves: dict[str, Move]) -> dict[str, str]:
    """Remove the moves to ids and paths that other rows have and keep, with all moves of the same paths.

    Args:
        rows: all rows of the index, with their paths and videos.
        moves: moves by the ids of their rows.

    Returns:
        The new paths of the removed moves, by the old paths.
    """
    targets = {target for move in moves.values() for target in _targets(move)}
    kept = {
        value for row in rows if row["id"] not in moves for value in (row["id"], row.get("path"), row.get("video"))
    } & targets
    dropped: dict[str, str] = {}
    while paths := {move.path for move in moves.values() if not kept.isdisjoint(_targets(move))}:
        for move in [move for move in moves.values() if move.path in paths]:
            # It keeps its id, path and video, which may be the targets of another one.
            del moves[move.id]
            kept |= {move.id, move.path, move.video}
            dropped[move.path] = move.new_path
    return dropped


def _targets(move: Move) -> set[str]:
    """Return the ids and the path that a row gets and that no other video may have."""
    return {move.new_id, move.new_path} | ({move.new_video} if move.new_video != move.video else set())


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
