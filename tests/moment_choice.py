"""Moments of videos by random times, and the choice among them by comparing all pairs, for the tests of the index."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from hypothesis import strategies as st

from clip4clip.video.moments import MAX_OVERLAP, SHORTEST

_whole_seconds = st.integers(0, 20).map(float)
# Start and end in seconds, or None for both. Many are equal, or overlap by half.
TIMES: st.SearchStrategy[Any] = st.one_of(
    st.just((None, None)),
    st.tuples(_whole_seconds, st.sampled_from([0.0, 1.0, 2.0, 10.0, 0.5, 7.25])).map(lambda t: (t[0], t[0] + t[1])),
)


def choose_by_comparing_all(moments: Sequence[tuple[Any, Any, Any]], per_video: int | None) -> list[int]:
    """What ``choose_moments`` returns, by its definition."""
    kept: list[int] = []
    for position, (video, start, end) in enumerate(moments):
        same: list[tuple[Hashable, Any, Any]] = [moments[other] for other in kept if moments[other][0] == video]
        if per_video is not None and len(same) >= per_video:
            continue
        if start is not None and any(other[1] is not None and overlap(start, end, *other[1:]) for other in same):
            continue
        kept.append(position)
    return kept


def overlap(start: float, end: float, other_start: float, other_end: float) -> bool:
    end, other_end = max(end, start + SHORTEST), max(other_end, other_start + SHORTEST)
    common = min(end, other_end) - max(start, other_start)
    return common > MAX_OVERLAP * min(end - start, other_end - other_start)
