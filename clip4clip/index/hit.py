"""A video of an index, or a moment of it: found by a search, looked up by its id, or listed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Hit:
    """A video of an index, or a moment of it: found by a search, looked up by its id, or listed.

    A long video is cut into segments. Each has a row of the index, which is found as a moment of the video.

    Attributes:
        id: id of the row: of a segment ``<video>#t=<start>,<end>``, of a video that is not cut its id. An integer in a
            collection whose keys are integers.
        path: local path or URL; empty in a collection without a field ``path``.
        score: cosine similarity to the query, -1 to 1; higher is nearer; 1 for a video that was not searched for. In a
            collection with another metric, that metric's value.
        fields: all other stored fields, such as ``duration``, of the whole video, in seconds.
        video: id of the video, which its segments share; ``id`` if None is passed.
        start: start of the moment in seconds; None for a whole video.
        end: its end in seconds; None for a whole video.
    """

    id: Any
    path: str
    score: float
    fields: dict[str, Any] = field(default_factory=dict)
    video: Any = None
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if self.video is None:
            object.__setattr__(self, "video", self.id)

    @property
    def length(self) -> str:
        """Duration of the whole video, as by :func:`format_time`; empty if it is unknown."""
        duration = self.fields.get("duration")
        if not isinstance(duration, int | float) or not math.isfinite(duration) or duration < 0:
            return ""
        return format_time(duration)

    @property
    def time_range(self) -> str:
        """Start and end of the moment, such as ``12:30–12:45``; empty for a whole video."""
        if self.start is None or self.end is None:
            return ""
        return f"{format_time(self.start)}–{format_time(self.end)}"


def format_time(seconds: float) -> str:
    """Return a time as ``minutes:seconds``, or ``hours:minutes:seconds`` from one hour on.

    Args:
        seconds: at least 0; parts of a second are cut off.
    """
    minutes, whole_seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole_seconds:02}" if hours else f"{minutes}:{whole_seconds:02}"


def to_hit(row: Mapping[str, Any], score: float = 1.0, output_fields: Sequence[str] = ("*",)) -> Hit:
    """Return a row of a collection that this package created as a hit.

    Args:
        row: its fields. Those that are None count as missing.
        score: similarity to the query.
        output_fields: names of the fields that ``Hit.fields`` gets; ``*`` for all. It gets ``id`` and ``vector`` only
            if they are named.
    """
    hidden = {"path", "video", "start", "end", *({"id", "vector"} - {*output_fields})}
    names = row if "*" in output_fields else [name for name in output_fields if name in row]
    fields = {name: row[name] for name in names if name not in hidden and row[name] is not None}
    return Hit(
        row["id"], row.get("path", ""), score, fields, row.get("video") or row["id"], row.get("start"), row.get("end")
    )


def common_fields(hits: Sequence[Hit]) -> dict[str, Any]:
    """Return the fields that all of several hits have, with equal values."""
    first, *others = (hit.fields for hit in hits) if hits else ({},)
    return {name: value for name, value in first.items() if all(fields.get(name) == value for fields in others)}


def to_video(segments: Sequence[Hit]) -> Hit:
    """Return the whole video that some hits are of, with their common fields.

    ``segments``, the number of these hits, is a field if the video is cut.
    """
    first = segments[0]
    if len(segments) == 1 and first.id == first.video:
        return first
    return Hit(first.video, first.path, 1.0, common_fields(segments) | {"segments": len(segments)}, first.video)
