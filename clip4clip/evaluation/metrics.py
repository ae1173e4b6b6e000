"""Retrieval metrics: R@k, median rank (MdR) and mean rank (MnR), as in arXiv 2104.08860, section 4.2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..errors import InputValueError


@dataclass(frozen=True)
class RetrievalMetrics:
    """How well queries find their matches.

    Attributes:
        recall_at_1: percentage, 0 to 100, of the queries whose match is the first result.
        recall_at_5: percentage of the queries whose match is among the first 5 results.
        recall_at_10: percentage of the queries whose match is among the first 10 results.
        median_rank: median rank of the matches; 1 is best.
        mean_rank: mean rank of the matches; 1 is best.
        queries: number of queries.
        missed: number of queries that have no vector or whose match has none. They are not recalled at any k, and
            count as last in both ranks.
    """

    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    median_rank: float
    mean_rank: float
    queries: int
    missed: int

    @classmethod
    def of(cls, ranks: np.ndarray, candidates: int) -> RetrievalMetrics:
        """Compute the metrics from ranks.

        Args:
            ranks: ranks from :func:`ranks`; NaN for a miss.
            candidates: number of candidates of each query.

        Raises:
            InputValueError: ``ranks`` is empty.
        """
        if not len(ranks):
            raise InputValueError("no ranks to compute metrics from: ranks must not be empty")
        missed = np.isnan(ranks)
        filled = np.where(missed, candidates, ranks)

        def recall_at(k: int) -> float:
            return 100 * float(np.mean((filled <= k) & ~missed))

        return cls(
            recall_at_1=recall_at(1),
            recall_at_5=recall_at(5),
            recall_at_10=recall_at(10),
            median_rank=float(np.median(filled)),
            mean_rank=float(filled.mean()),
            queries=len(ranks),
            missed=int(missed.sum()),
        )

    def to_dict(self) -> dict[str, float]:
        """Return the attributes by their names, ready for JSON."""
        return asdict(self)


def ranks(similarity: np.ndarray, matches: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the rank of each query's match among all candidates, 1 for the most similar.

    Equal similarities share the average of their ranks: a model that gives the same vector to everything is as good as
    chance, not perfect.

    Args:
        similarity: (queries, candidates), higher is more similar. A NaN ranks after all numbers: it stands for a
            candidate without a vector.
        matches: (queries,), index of the right candidate of each query.

    Returns:
        float64 of shape (queries,); NaN where the similarity of the match is NaN.

    Raises:
        InputValueError: the shapes do not fit, or an index is out of range.
    """
    similarity, matches = np.asarray(similarity), np.asarray(matches)
    if similarity.ndim != 2 or matches.shape != similarity.shape[:1]:
        raise InputValueError(
            f"similarity must be (queries, candidates) and matches (queries,), "
            f"not {similarity.shape} and {matches.shape}"
        )
    if matches.size and not (matches.min() >= 0 and matches.max() < similarity.shape[1]):
        raise InputValueError(f"matches must be from 0 to {similarity.shape[1] - 1}")
    own = similarity[np.arange(len(matches)), matches][:, None]
    better, equal = (similarity > own).sum(1), (similarity == own).sum(1)
    return np.where(np.isnan(own[:, 0]), np.nan, better + (equal + 1) / 2)


def max_per_video(similarity: np.ndarray, videos: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """Merge the sentences of each video to one candidate, whose similarity is that of the best sentence.

    This is the paper's protocol from video to text where a video has several sentences: each video is ranked among the
    sentence sets of all videos.

    Args:
        similarity: (queries, sentences).
        videos: (sentences,), index of the video of each sentence.
        count: number of videos.

    Returns:
        (queries, count); -inf for a video without sentences.
    """
    best = np.full((len(similarity), count), -np.inf, similarity.dtype)
    np.maximum.at(best.T, np.asarray(videos), np.asarray(similarity).T)
    return best
