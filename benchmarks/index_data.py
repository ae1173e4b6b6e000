"""Rows, queries and right answers of benchmarks/index.py.

Two kinds of vectors, 512 numbers of float32, of norm 1, ten rows a video:

- ``random``: every direction is as likely. All rows are almost equally far from a query.
- ``clustered``: as the vectors of CLIP are. Videos lie around 1,000 centres, and the rows of a video near each other.
  The variances fall like 1, 1/2, 1/3, … over the dimensions. In CLIP's vectors a few dimensions are far larger than all
  others and almost the same in every vector: here one has half of the norm, and another one a quarter.

Queries are drawn in the same way and are not in the index. Rows are made in blocks: a data set may be larger than the
memory.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

DIM, CENTRES, ROWS_PER_VIDEO, NEAREST = 512, 1000, 10, 10
BLOCK = 20_000  # rows made or compared at once: 80 MB as float64
LARGE_DIMENSIONS = {133: -0.5, 92: 0.25}  # and their share of the norm
LARGE_DIMENSION_SPREAD = 0.02
ROW_VARIANCE = 0.3  # share of a video's own variance that differs between its rows

MAX_DURATION = 60.0
FILTER, FILTER_BELOW = "duration < 6", 6.0  # keeps 10 % of the rows
FIELD_FILTER, FIELD = "rating < 6", "rating"  # the same rows by a field of the user's own

PLAIN, FILTERED, FIELD_FILTERED, PER_VIDEO = "10 nearest", "filter", "filter by own field", "per video"
SCORE_TOLERANCE = 1e-6  # of float32 scores


def draw_random(generator: np.random.Generator, count: int) -> np.ndarray:
    """Return vectors of any direction, float32 of shape (count, 512)."""
    return _normalised(generator.standard_normal((count, DIM), np.float32))


def draw_clustered(generator: np.random.Generator, count: int) -> np.ndarray:
    """Return vectors as CLIP's are, float32 of shape (count, 512); ten in a row are of one video."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, DIM), np.float32)  # the same for every generator
    videos = -(-count // ROWS_PER_VIDEO)
    offsets = generator.standard_normal((videos, DIM), np.float32) * np.float32((1 - ROW_VARIANCE) ** 0.5)
    offsets += centres[generator.integers(0, CENTRES, videos)]
    vectors = generator.standard_normal((count, DIM), np.float32) * np.float32(ROW_VARIANCE**0.5)
    vectors += np.repeat(offsets, ROWS_PER_VIDEO, axis=0)[:count]
    vectors *= np.arange(1, DIM + 1, dtype=np.float32) ** -0.5
    vectors = _normalised(vectors)
    vectors *= (1 - sum(share**2 for share in LARGE_DIMENSIONS.values())) ** 0.5
    for dimension, share in LARGE_DIMENSIONS.items():
        vectors[:, dimension] = share + LARGE_DIMENSION_SPREAD * generator.standard_normal(count, np.float32)
    return _normalised(vectors)


DRAW = {"clustered": draw_clustered, "random": draw_random}


def _normalised(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Result(NamedTuple):
    """A row that a contender has found: its number and its score, the cosine similarity."""

    row: int
    score: float


class Judgement(NamedTuple):
    """How right the answer to one query is.

    Attributes:
        recall: share of the right answers found. Rows as near as the last right one count, as they are right, too.
        error: greatest difference between a score and the right one; infinite if there are too few results.
    """

    recall: float
    error: float


class DataSet:
    """A data set in a folder, written by :meth:`make`. Opening it reads nothing yet.

    Args:
        folder: existing folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def vectors_file(self) -> Path:
        return self.folder / "vectors.npy"

    @functools.cached_property
    def vectors(self) -> np.ndarray:
        """Vectors of all rows, float32 of shape (rows, 512), in a memory-mapped file."""
        return np.load(self.vectors_file, mmap_mode="r")

    @functools.cached_property
    def queries(self) -> np.ndarray:
        """Vectors to search for, float32 of shape (queries, 512)."""
        return np.load(self.folder / "queries.npy")

    @functools.cached_property
    def durations(self) -> np.ndarray:
        """Seconds of each row, float64 of shape (rows,), from 0 to 60."""
        return np.load(self.folder / "durations.npy")

    @functools.cached_property
    def best(self) -> dict[str, np.ndarray]:
        """Scores of the right answers by mode, each float64 of shape (queries, 10), the best first."""
        with np.load(self.folder / "best.npz") as arrays:
            return dict(arrays)

    def make(self, kind: str, rows: int, queries: int) -> None:
        """Write vectors, queries and right answers.

        Args:
            kind: key of ``DRAW``.
            rows: number of rows, a multiple of ten.
            queries: number of queries.
        """
        draw = DRAW[kind]
        np.save(self.folder / "queries.npy", draw(np.random.default_rng(1), queries * ROWS_PER_VIDEO)[::ROWS_PER_VIDEO])
        np.save(self.folder / "durations.npy", np.random.default_rng(2).uniform(0, MAX_DURATION, rows))
        vectors = np.lib.format.open_memmap(self.vectors_file, "w+", np.float32, (rows, DIM))
        for number, block in enumerate(self._blocks(rows)):
            vectors[block] = draw(np.random.default_rng([3, number]), block.stop - block.start)
        vectors.flush()
        np.savez(self.folder / "best.npz", **self._find_best(rows))

    def _blocks(self, rows: int) -> Iterator[slice]:
        for start in range(0, rows, BLOCK):
            yield slice(start, min(start + BLOCK, rows))

    def _find_best(self, rows: int) -> dict[str, np.ndarray]:
        queries = _normalised(self.queries.astype(np.float64))
        none = np.full((len(queries), NEAREST), -np.inf)
        best = {PLAIN: none, FILTERED: none, PER_VIDEO: none}
        for block in self._blocks(rows):
            scores = queries @ _normalised(self.vectors[block].astype(np.float64)).T
            best[PLAIN] = _largest(best[PLAIN], scores)
            best[FILTERED] = _largest(best[FILTERED], scores[:, self.durations[block] < FILTER_BELOW])
            best[PER_VIDEO] = _largest(best[PER_VIDEO], scores.reshape(len(queries), -1, ROWS_PER_VIDEO).max(2))
        return {**best, FIELD_FILTERED: best[FILTERED]}

    def scores(self, query: int, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the right scores of rows, float64."""
        vectors = _normalised(self.vectors[np.asarray(rows, int)].astype(np.float64))
        vector = self.queries[query].astype(np.float64)
        return vectors @ (vector / np.linalg.norm(vector))

    def judge(self, mode: str, query: int, results: Sequence[Result]) -> Judgement:
        """Compare the answer to a query with the right one."""
        if not results:
            return Judgement(0.0, float("inf"))
        rows = np.array([result.row for result in results])
        scores, best = self.scores(query, rows), self.best[mode][query]
        right = scores >= best[-1] - SCORE_TOLERANCE
        keys = rows
        if mode == PER_VIDEO:
            keys = rows // ROWS_PER_VIDEO
            of_same_video = keys[:, None] * ROWS_PER_VIDEO + np.arange(ROWS_PER_VIDEO)
            best_of_video = self.scores(query, of_same_video.ravel()).reshape(of_same_video.shape).max(1)
            right &= scores >= best_of_video - SCORE_TOLERANCE
        elif mode != PLAIN:
            right &= self.durations[rows] < FILTER_BELOW
        found = len(set(keys[right].tolist()))
        if len(results) != NEAREST:
            return Judgement(found / NEAREST, float("inf"))
        given = np.array([result.score for result in results])
        return Judgement(found / NEAREST, float(max(abs(given - scores).max(), abs(given - best).max())))


def _largest(best: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the ten largest of the best so far and of further scores, for each query, the largest first."""
    both = np.concatenate([best, scores], axis=1)
    return -np.sort(np.partition(-both, NEAREST - 1, axis=1)[:, :NEAREST], axis=1)
