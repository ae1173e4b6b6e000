"""Choose the moments that a search returns: so many of each video, and none that overlaps a better one."""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable

MAX_OVERLAP = 0.25  # share of the shorter of two moments that both may have; windows that overlap by half have more
SHORTEST = 1e-3  # seconds; a moment of one instant counts as this long

Moment = tuple[Hashable, "float | None", "float | None"]
"""Video, start and end in seconds; start and end are None for a row without times."""


def choose_moments(moments: Iterable[Moment], per_video: int | None) -> list[int]:
    """Return the positions of the moments to keep, rising.

    A moment is left out if it overlaps a better one that is kept, or if ``per_video`` better ones of its video are
    kept. Rows without times, such as those of whole videos, overlap nothing.

    Args:
        moments: moments of several videos, the best first.
        per_video: largest number of moments of each video; None for any.
    """
    counts: Counter[Hashable] = Counter()
    kept: defaultdict[Hashable, _Disjoint] = defaultdict(_Disjoint)
    positions = []
    for position, (video, start, end) in enumerate(moments):
        if per_video is not None and counts[video] >= per_video:
            continue
        if start is not None and end is not None and not kept[video].add(start, end):
            continue
        counts[video] += 1
        positions.append(position)
    return positions


class _Disjoint:
    """Time ranges that do not overlap, in the order of their starts. Their ends are in the same order."""

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._ends: list[float] = []

    def add(self, start: float, end: float) -> bool:
        """Add a time range unless it overlaps one. Return whether it was added."""
        end = max(end, start + SHORTEST)
        index = bisect.bisect(self._starts, start)
        if index and self._overlaps(index - 1, start, end):  # those before this one overlap even less
            return False
        for other in range(index, len(self._starts)):
            if self._starts[other] >= end:
                break
            if self._overlaps(other, start, end):
                return False
        self._starts.insert(index, start)
        self._ends.insert(index, end)
        return True

    def _overlaps(self, index: int, start: float, end: float) -> bool:
        other_start, other_end = self._starts[index], self._ends[index]
        common = min(end, other_end) - max(start, other_start)
        return common > MAX_OVERLAP * min(end - start, other_end - other_start)
