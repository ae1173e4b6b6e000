"""The vectors of a library in time: which vector each video has when."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class VideoFile:
    """A video of a library.

    Attributes:
        id: id of the video.
        path: local path or URL; may be empty.
        duration: seconds; None if it is unknown.
        size: in bytes; None if it is unknown.
    """

    id: str
    path: str
    duration: float | None
    size: int | None


class Library:
    """The videos of a library that have vectors, and their segments in the order of time.

    Attributes:
        videos: the V videos.
        first: number of the first segment of each video, int64 of shape (V + 1,); the last one is N.
        starts: of the N segments in seconds, float64 of shape (N,). A video that is not cut has one segment, with NaN.
        ends: likewise.
        vectors: of the segments, float32 of shape (N, D), norm 1.
    """

    def __init__(self, videos: list[VideoFile], numbers: list[int], times: np.ndarray, vectors: np.ndarray) -> None:
        """Put rows in order.

        Args:
            videos: the videos.
            numbers: of each of N rows, the position of its video in ``videos``.
            times: start and end of each row, float64 of shape (N, 2); NaN for a video that is not cut.
            vectors: float32 of shape (N, D), norm 1.
        """
        owners = np.array(numbers, np.int64)
        order = np.lexsort((times[:, 1], times[:, 0], owners))
        if (np.diff(order) != 1).any():
            owners, times, vectors = owners[order], times[order], vectors[order]
        self.videos, self.vectors = videos, vectors
        self.starts, self.ends = np.ascontiguousarray(times.T)
        self.first = np.searchsorted(owners, np.arange(len(videos) + 1))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Library:
        """Read the rows of a table or an index. Rows without a vector, and those of one colour, are left out.

        Args:
            rows: rows with ``id`` and ``vector``, of any norm; and, where they are known, with ``video``, ``path``,
                ``start``, ``end``, ``duration``, ``size`` and ``uniform``.
        """
        videos: dict[Any, int] = {}
        files: list[VideoFile] = []
        numbers: list[int] = []
        times: list[tuple[float, float]] = []
        vectors = np.empty((0, 0), np.float32)
        for row in rows:
            if row.get("vector") is None or row.get("uniform"):
                continue
            if len(numbers) == len(vectors):  # in place: a copy would take as much memory again
                vectors.resize((max(1024, 2 * len(numbers)), len(row["vector"])), refcheck=False)
            vectors[len(numbers)] = row["vector"]
            video = row.get("video") or row["id"]
            if video not in videos:
                videos[video] = len(files)
                files.append(VideoFile(video, row.get("path") or "", row.get("duration"), row.get("size")))
            numbers.append(videos[video])
            times.append((_seconds(row.get("start")), _seconds(row.get("end"))))
        vectors.resize((len(numbers), vectors.shape[1]), refcheck=False)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return cls(files, numbers, np.array(times, np.float64).reshape(-1, 2), vectors)

    @functools.cached_property
    def is_cut(self) -> np.ndarray:
        """Whether each video is cut into segments, bool of shape (V,)."""
        return ~np.isnan(self.starts[self.first[:-1]])

    @functools.cached_property
    def durations(self) -> np.ndarray:
        """Lengths of the videos in seconds, float64 of shape (V,); NaN if unknown."""
        return np.array([_seconds(video.duration) for video in self.videos], np.float64)

    @functools.cached_property
    def owners(self) -> np.ndarray:
        """Number of the video of each segment, int64 of shape (N,)."""
        return np.repeat(np.arange(len(self.videos)), np.diff(self.first))

    def rows(self, video: int) -> slice:
        """Return which segments are those of a video, by its number."""
        return slice(int(self.first[video]), int(self.first[video + 1]))

    def timeline(self, video: int) -> Timeline:
        """Return the timeline of a video that is cut."""
        rows = self.rows(video)
        return Timeline(self.starts[rows], self.ends[rows], self.vectors[rows])


class Timeline:
    """The vectors of a video that is cut, as a function of time.

    Attributes:
        starts: of the n segments in seconds, float64 of shape (n,), rising.
        ends: likewise. Windows that overlap share the time that both have: each gets half of it.
        vectors: float32 of shape (n, D).
    """

    def __init__(self, starts: np.ndarray, ends: np.ndarray, vectors: np.ndarray) -> None:
        self.starts, self.ends, self.vectors = starts.copy(), np.maximum(ends, starts + 1e-3), vectors
        overlapping = self.starts[1:] < self.ends[:-1]
        middles = (self.starts[1:] + self.ends[:-1]) / 2
        self.starts[1:][overlapping] = self.ends[:-1][overlapping] = middles[overlapping]
        lengths = (self.ends - self.starts)[:, None]
        integral = np.zeros((2 * len(starts), vectors.shape[1]))
        integral[1::2] = np.cumsum(vectors * lengths, 0)
        integral[2::2] = integral[1:-1:2]
        self._knots = np.column_stack([self.starts, self.ends]).ravel()
        self._integral = integral  # of the vectors over time, up to each start and end

    @property
    def range(self) -> tuple[float, float]:
        """Start of the first segment and end of the last one, in seconds."""
        return float(self.starts[0]), float(self.ends[-1])

    def pool(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return what the vectors of other segments of this video would be: the means of the vectors in that time.

        A vector is the mean of the embeddings of frames that are evenly spread, so this is nearly exact.

        Args:
            starts: seconds, of shape (m,).
            ends: likewise.

        Returns:
            float32 of shape (m, D), norm 1; zeros where there is no segment.
        """
        pooled = self._integral_until(ends) - self._integral_until(starts)
        norms = np.linalg.norm(pooled, axis=1, keepdims=True)
        return np.divide(pooled, norms, out=np.zeros_like(pooled), where=norms > 1e-9).astype(np.float32)

    def shares(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return how many seconds of each segment are in each of m time ranges, float64 of shape (m, n)."""
        common = np.minimum(ends[:, None], self.ends) - np.maximum(starts[:, None], self.starts)
        return np.maximum(common, 0)

    def _integral_until(self, times: np.ndarray) -> np.ndarray:
        left = np.clip(np.searchsorted(self._knots, times, side="right") - 1, 0, len(self._knots) - 2)
        length = self._knots[left + 1] - self._knots[left]
        share = np.divide(times - self._knots[left], length, out=np.zeros_like(times), where=length > 0)
        share = np.clip(share, 0, 1)[:, None]
        return self._integral[left] * (1 - share) + self._integral[left + 1] * share


def _seconds(value: Any) -> float:
    return math.nan if value is None else float(value)
