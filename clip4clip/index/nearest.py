"""The exact nearest rows, from codes that say how wrong they can be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .codes import Codes, rotate_query, unit_rows

EXTRA_CANDIDATES = 16  # rows that are read at first, beside those that were asked for
READ_BATCH = 512  # vectors read at once

ReadVectors = Callable[[list[int]], np.ndarray]


def find_nearest(
    codes: Codes,
    query: np.ndarray,
    rotation: np.ndarray,
    read_vectors: ReadVectors,
    limit: int,
    per_video: int | None = None,
    selected: np.ndarray | None = None,
) -> list[tuple[int, float]]:
    """Return the rows with the highest cosine similarity to a query.

    The result is exact. Vectors are read and compared in the order of the highest similarity that their codes allow,
    until no other row can be among the nearest.

    Args:
        codes: codes of the collection.
        query: float32 of shape (dim,), finite and not all zeros.
        rotation: rotation of the codes, float32 of shape (part, part).
        read_vectors: function from numbers of rows to their vectors, float32 of shape (m, dim), in the same order.
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
    best = _Nearest(codes, unit, read_vectors, limit, per_video)

    def read(chosen: np.ndarray) -> None:
        best.read(chosen if positions is None else positions[chosen])

    remaining = candidates = np.isfinite(highest)
    # Those that look nearest first: their similarities decide how many others have to be read.
    count = limit + EXTRA_CANDIDATES
    while not best.is_full and candidates.any():
        chosen = _largest(np.where(candidates, similarities, -np.inf), min(count, int(candidates.sum())))
        read(chosen)
        remaining[chosen] = False
        candidates = remaining & (best.least(videos) == -np.inf)
        count *= 4
    others = np.flatnonzero(remaining & (highest >= best.least(videos)))
    others = others[np.argsort(-highest[others], kind="stable")]
    for start in range(0, len(others), READ_BATCH):
        batch = others[start : start + READ_BATCH]
        batch = batch[highest[batch] >= best.least(videos[batch])]
        if len(batch):
            read(batch)
    return best.rows()


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the positions of the largest values, in any order."""
    if count >= len(values):
        return np.arange(len(values))
    return np.argpartition(values, len(values) - count)[len(values) - count :]


class _Nearest:
    """The nearest of the rows whose vectors were read."""

    def __init__(
        self, codes: Codes, unit: np.ndarray, read_vectors: ReadVectors, limit: int, per_video: int | None
    ) -> None:
        self._codes, self._unit, self._read_vectors = codes, unit, read_vectors
        self._limit, self._per_video = limit, per_video
        self._positions = np.empty(0, np.int64)
        self._scores = np.empty(0)

    @property
    def is_full(self) -> bool:
        """Whether there are as many rows as were asked for."""
        return len(self._positions) >= self._limit

    def least(self, videos: np.ndarray) -> np.ndarray:
        """Return the similarity that another row of each of these videos must have to be one of the nearest.

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
        """Compare the vectors of the records at these positions, and keep the nearest of all."""
        vectors = self._read_vectors(self._codes.rows[positions].tolist())
        # Not by BLAS, which rounds by the place of a row in the matrix: equal vectors must have equal similarities.
        scores = (unit_rows(vectors) * self._unit).sum(axis=1).clip(-1, 1)
        positions, scores = np.concatenate([self._positions, positions]), np.concatenate([self._scores, scores])
        order = np.lexsort((positions, -scores))
        if self._per_video is not None:
            order = order[_rank_in_group(self._codes.videos[positions[order]]) < self._per_video]
        order = order[: self._limit]
        self._positions, self._scores = positions[order], scores[order]

    def rows(self) -> list[tuple[int, float]]:
        """Return number and similarity of each row, the nearest first."""
        return list(zip(self._codes.rows[self._positions].tolist(), self._scores.tolist(), strict=True))


def _rank_in_group(groups: np.ndarray) -> np.ndarray:
    """Return for each value how many equal values are before it: ``[7, 5, 7]`` gives ``[0, 0, 1]``."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(groups) else np.empty(0, np.int64)
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    return ranks
