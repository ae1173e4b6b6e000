"""Search by what an index has stored: the vectors of a video, or of one of its moments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputTypeError, InputValueError, VideoIndexError, VideoNotFoundError, brief
from .engine import Engine
from .filters.parse import quote
from .hit import Hit, format_time
from .values import MAX_LIMIT, check_text

MAX_SEARCHES = 100  # for one video: each segment costs a search
END_TOLERANCE = 1.0  # seconds that a time may be after the end: a player may stop a little later than the last segment


class StoredMoment(NamedTuple):
    """A video or a moment of the index to search by.

    Attributes:
        video: id of its video.
        vectors: float32 arrays of shape (D,); 1 to ``MAX_SEARCHES``.
        row_count: number of rows that the index has of the video.
    """

    video: str
    vectors: list[np.ndarray]
    row_count: int


def read_moment(engine: Engine, id_: str, at: float | None) -> StoredMoment:
    """Read the vectors of a video, of its segment at a time, or of a segment by its id.

    Args:
        engine: an open index.
        id_: id of a video or a segment.
        at: time in the video in seconds; None for the whole video, or the whole segment if ``id_`` is of one.

    Raises:
        VideoNotFoundError: the index has no video or segment with this id.
        VideoIndexError: the collection does not exist, or is of another program.
        InputTypeError, InputValueError: ``id_`` or ``at`` is invalid, or ``at`` is after the end of the video.
    """
    _check_time(at)
    literal = quote(check_text(id_, "an id"))
    if engine.require().spec is None:
        raise VideoIndexError(
            f"the collection {engine.address.collection!r} was not created by clip4clip: it can be searched by a "
            "vector, but not by a video of it"
        )
    found = [*engine.rows(["video"], f"id == {literal}")]
    video = str(found[0].get("video") or id_) if found else id_
    rows = [*engine.rows(["vector", "start", "end", "duration"], f"video == {quote(video)}")]
    if not rows:
        raise VideoNotFoundError(f"the index has no video with the id {brief(id_)}: `clip4clip list` shows its videos")
    segment = [row for row in rows if row["id"] == id_]
    chosen = [_row_at(rows, at, video)] if at is not None else segment or _evenly_spaced(rows)
    return StoredMoment(video, [np.asarray(row["vector"], np.float32) for row in chosen], len(rows))


def search_others(
    engine: Engine,
    moment: StoredMoment,
    limit: int,
    per_video: int | None,
    condition: str,
    output_fields: Sequence[str] = ("*",),
) -> Iterator[list[Hit]]:
    """Yield, for each vector of a moment, the nearest moments of other videos, the nearest first.

    Each search runs when its result is asked for, so that not all results are in memory at once.

    Args:
        engine: an open index.
        moment: what to search by.
        limit: largest number of hits of each search.
        per_video: largest number of hits of each video; None for any.
        condition: filter; empty for none.
        output_fields: names of the fields of each hit; ``*`` for all.
    """
    # A filter for other videos would read a field of all rows. The video itself takes only so many places.
    own = moment.row_count if per_video is None else min(per_video, moment.row_count)
    size = min(limit + own, MAX_LIMIT)
    for vector in moment.vectors:
        hits = engine.search(vector, size, filter=condition, per_video=per_video, output_fields=output_fields)
        yield [hit for hit in hits if hit.video != moment.video][:limit]


def _check_time(at: Any) -> None:
    if at is None:
        return
    if isinstance(at, bool) or not isinstance(at, int | float | np.integer | np.floating):
        raise InputTypeError(f"at must be a time in seconds, not {brief(at)}")
    if not math.isfinite(at) or at < 0:
        raise InputValueError(f"at must be a time in seconds from 0, not {brief(at)}")


def _evenly_spaced(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return all rows of a video or, if they are too many, as many as there may be, from its beginning to its end."""
    ordered = sorted(rows, key=lambda row: row.get("start") or 0.0)
    count = min(len(ordered), MAX_SEARCHES)
    return [ordered[number * len(ordered) // count] for number in range(count)]


def _row_at(rows: Sequence[Mapping[str, Any]], at: float, video: str) -> Mapping[str, Any]:
    """Return the row that shows a time best: its middle is nearest, of those that contain the time if there are any.

    A row without times is of the whole video, and contains all of it.
    """
    end = max(_ends(rows), default=math.inf)
    if at > end + END_TOLERANCE:
        raise InputValueError(
            f"the video {brief(video)} ends at {format_time(end)}: expected a time up to {end:g} seconds, not {at:g}"
        )
    return min(rows, key=lambda row: _distance(row, at))


def _ends(rows: Iterable[Mapping[str, Any]]) -> list[float]:
    """Return what is known of the end of a video, in seconds."""
    return [row[name] for row in rows for name in ("end", "duration") if row.get(name) is not None]


def _distance(row: Mapping[str, Any], at: float) -> tuple[float, float]:
    """Return how far a time is from a row, and then from the middle of the row, in seconds."""
    start, end = row.get("start"), row.get("end")
    if start is None or end is None:
        return 0.0, math.inf
    return max(start - at, at - end, 0.0), abs(at - (start + end) / 2)
