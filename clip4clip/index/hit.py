"""A video of an index: found by a search, looked up by its id, or listed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Hit:
    """A video of an index: found by a search, looked up by its id, or listed.

    Attributes:
        id: id of the video; an integer in a collection whose keys are integers.
        path: local path or URL; empty in a collection without a field ``path``.
        score: cosine similarity to the query, -1 to 1; higher is nearer; 1 for a video that was not searched for. In a
            collection with another metric, that metric's value.
        fields: all other stored fields, such as ``duration`` in seconds. ``video``, which the rows of one video share,
            is left out if it is the id.
    """

    id: Any
    path: str
    score: float
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> str:
        """Duration as ``minutes:seconds``, or ``hours:minutes:seconds`` from one hour on; empty if it is unknown."""
        duration = self.fields.get("duration")
        if not isinstance(duration, int | float) or not math.isfinite(duration) or duration < 0:
            return ""
        return format_time(duration)


def format_time(seconds: float) -> str:
    """Return a time as ``minutes:seconds``, or ``hours:minutes:seconds`` from one hour on.

    Args:
        seconds: at least 0; parts of a second are cut off.
    """
    minutes, whole_seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole_seconds:02}" if hours else f"{minutes}:{whole_seconds:02}"
