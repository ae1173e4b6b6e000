"""The exact nearest rows, from codes that say how wrong they can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..video.moments import choose_moments
from .codes import Codes, rotate_query, unit_rows

EXTRA_CANDIDATES = 16  # rows that are read at first, beside those that were asked for
READ_BATCH = 512  # vectors read at once

ReadVectors = Callable[[list[int]], np.ndarray]
ReadTimes = Callable[[list[int]], Sequence[tuple["float | None", "float | None"]]]


def find_nearest(
    codes: Codes,
    query: np.ndarray,
    rotation: np.ndarray,
    read_vectors: ReadVectors,
    read_times: ReadTimes,
    limit: int,
    per_video: int | None = None,
    selected: np.ndarray | None = None,
) -> list[tuple[int, float]]:
    """Return the rows with the highest cosine similarity to a query, without those that overlap a nearer one.

    The result is exact: that of :func:`clip4clip.video.moments.choose_moments` for all rows. Vectors are read and
    compared in the order of the highest similarity that their codes allow, until no other row can be in the result.

    Args:
        codes: codes of the collection.
        query: float32 of shape (dim,), finite and not all zeros.
        rotation: rotation of the codes, float32 of shape (part, part).
        read_vectors: function from numbers of rows to their vectors, float32 of shape (m, dim), in the same order.
        read_times: function from numbers of rows to their start and end in seconds, in the same order; None for rows
            without times.
        limit: largest number of rows.
        per_video: largest number of rows of one video; None for any.
        selected: numbers of the rows to choose from, int64 of shape (m,); None for all.

    Returns:
        Number and similarity of each row, the nearest first; of rows that are equally near, the one added first.
    """
    unit = unit_rows(query[None])[0]
    positions = None if selected is None else codes.positions(selected)
    similarities, highest = codes.bounds(rotate_query(unit, rotation), positions)
    videos = codes.videos if positions is None else codes.videos[positions]
    best = (_BestOfVideos if per_video == 1 else _Moments)(codes, unit, read_vectors, read_times, limit, per_video)
    remaining = np.isfinite(highest)

    def read(chosen: np.ndarray) -> None:
        best.read(chosen if positions is None else positions[chosen])
        remaining[chosen] = False

    # Those that look nearest first: their similarities decide how many others have to be read.
    count, candidates = limit + EXTRA_CANDIDATES, remaining
    while not best.is_full and candidates.any():
        read(_largest(np.where(candidates, similarities, -np.inf), min(count, int(candidates.sum()))))
        candidates = remaining & (best.least(videos) == -np.inf)
        count *= 4
    while len(others := np.flatnonzero(remaining & (highest >= best.least(videos)))):
        others = others[np.argsort(-highest[others], kind="stable")]
        start, size = 0, READ_BATCH
        while start < len(others):
            batch = others[start : start + size]
            batch = batch[highest[batch] >= best.least(videos[batch])]
            if len(batch):
                read(batch)
            start, size = start + size, size * best.growth
    return best.rows()


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the positions of the largest values, in any order."""
    if count >= len(values):
        return np.arange(len(values))
    return np.argpartition(values, len(values) - count)[len(values) - count :]


class _Nearest:
    """The nearest of the rows whose vectors were read: a result, as far as it is known.

    Attributes:
        growth: factor between the numbers of rows to read.
    """

    growth = 1

    def __init__(
        self,
        codes: Codes,
        unit: np.ndarray,
        read_vectors: ReadVectors,
        read_times: ReadTimes,
        limit: int,
        per_video: int | None,
    ) -> None:
        self._codes, self._unit, self._read_vectors, self._read_times = codes, unit, read_vectors, read_times
        self._limit, self._per_video = limit, per_video
        self._positions = np.empty(0, np.int64)  # of the result, the nearest first
        self._scores = np.empty(0)

    @property
    def is_full(self) -> bool:
        """Whether there are as many rows as were asked for."""
        return len(self._positions) >= self._limit

    def least(self, videos: np.ndarray) -> np.ndarray:
        """Return the similarity that another row of each of these videos must have to change the result.

        Args:
            videos: numbers of videos, int64 of shape (m,).

        Returns:
            float64 of shape (m,), or of shape () if it is the same for all.
        """
        least = np.asarray(self._scores[-1] if self.is_full else -np.inf)
        if self._per_video is None or not len(self._scores):
            return least
        # The last row of each video is its least similar one.
        kept, last, counts = np.unique(self._codes.videos[self._positions[::-1]], return_index=True, return_counts=True)
        complete, scores = kept[counts >= self._per_video], self._scores[::-1][last[counts >= self._per_video]]
        if len(complete):
            index = np.searchsorted(complete, videos).clip(max=len(complete) - 1)
            least = np.where(complete[index] == videos, np.maximum(least, scores[index]), least)
        return least

    def read(self, positions: np.ndarray) -> None:
        """Compare the vectors of the records at these positions, and update the result."""
        raise NotImplementedError

    def rows(self) -> list[tuple[int, float]]:
        """Return number and similarity of each row of the result, the nearest first."""
        return list(zip(self._codes.rows[self._positions].tolist(), self._scores.tolist(), strict=True))

    def _compare(self, positions: np.ndarray) -> np.ndarray:
        vectors = self._read_vectors(self._codes.rows[positions].tolist())
        # Not by BLAS, which rounds by the place of a row in the matrix: equal vectors must have equal similarities.
        scores: np.ndarray = (unit_rows(vectors) * self._unit).sum(axis=1).clip(-1, 1)
        return scores


class _BestOfVideos(_Nearest):
    """The nearest row of each video. A row that is not in the result once will not be in it later."""

    def read(self, positions: np.ndarray) -> None:
        positions, scores = np.r_[self._positions, positions], np.r_[self._scores, self._compare(positions)]
        order = np.lexsort((positions, -scores))
        order = order[_is_first(self._codes.videos[positions[order]])][: self._limit]
        self._positions, self._scores = positions[order], scores[order]


class _Moments(_Nearest):
    """The nearest rows without those that overlap a nearer one.

    A row that is read later may take the place of several ones, and those that they had kept out come back. So all rows
    that were read are kept, and :meth:`least` may fall.
    """

    growth = 2

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._read_positions, self._read_scores = self._positions, self._scores
        self._times: dict[int, tuple[float | None, float | None]] = {}  # by position

    def read(self, positions: np.ndarray) -> None:
        scores = np.r_[self._read_scores, self._compare(positions)]
        self._times.update(zip(positions.tolist(), self._read_times(self._codes.rows[positions].tolist()), strict=True))
        positions = np.r_[self._read_positions, positions]
        order = np.lexsort((positions, -scores))
        self._read_positions, self._read_scores = positions[order], scores[order]
        videos = self._codes.videos[self._read_positions].tolist()
        times = map(self._times.__getitem__, self._read_positions.tolist())
        moments = ((video, *time) for video, time in zip(videos, times, strict=True))
        chosen = choose_moments(moments, self._per_video)[: self._limit]
        self._positions, self._scores = self._read_positions[chosen], self._read_scores[chosen]


def _is_first(values: np.ndarray) -> np.ndarray:
    """Return whether each value is the first one that is equal to it: ``[7, 5, 7]`` gives ``[True, True, False]``."""
    is_first = np.zeros(len(values), bool)
    is_first[np.unique(values, return_index=True)[1]] = True
    return is_first
