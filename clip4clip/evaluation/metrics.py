"""Ranks and what is told about them: R@k, median rank (MdR), mean rank (MnR), as in arXiv 2104.08860, section 4.2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..errors import InputValueError


@dataclass(frozen=True)
class RetrievalMetrics:
    """How well queries found what they are about.

    Attributes:
        recall_at_1: percentage, 0 to 100, of the queries whose match is the first result. Likewise at 5 and at 10.
        median_rank: of the matches; 1 is best.
        mean_rank: of the matches; 1 is best.
        queries: how many there were.
        missed: how many of them could not find anything, as their match or they themselves have no vector. They count
            as not recalled at any k, and as last in both ranks.
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
        """The metrics of ranks as :func:`ranks` gives them, each among ``candidates``.

        Raises:
            InputValueError: for no ranks.
        """
        if not len(ranks):
            raise InputValueError("there are no ranks to tell about")
        missed = np.isnan(ranks)
        found = np.where(missed, candidates, ranks)

        def recall_at(k: int) -> float:
            return 100 * float(np.mean((found <= k) & ~missed))

        return cls(
            recall_at_1=recall_at(1),
            recall_at_5=recall_at(5),
            recall_at_10=recall_at(10),
            median_rank=float(np.median(found)),
            mean_rank=float(found.mean()),
            queries=len(ranks),
            missed=int(missed.sum()),
        )

    def to_dict(self) -> dict[str, float]:
        """The attributes by their names."""
        return asdict(self)


def ranks(similarity: np.ndarray, matches: Sequence[int] | np.ndarray) -> np.ndarray:
    """The rank of each query's match among all candidates, 1 for the most similar.

    Equal similarities share the average of the ranks that they take up together: a model that gives the same vector to
    everything is as good as chance, not perfect.

    Args:
        similarity: (queries, candidates), higher is more similar. NaN stands for a pair that cannot be compared; it
            comes after all others.
        matches: for each query the index of its candidate.

    Returns:
        float64 of shape (queries,); NaN where the match itself cannot be compared.

    Raises:
        InputValueError: for shapes or indices that do not fit.
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


def best_of_each(similarity: np.ndarray, owners: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    """Similarity of videos and captions to that of videos and the captions of a video taken together, by the best one.

    This is the paper's protocol for video→text with several captions a video: each video is ranked among all videos'
    sets of captions.

    Args:
        similarity: (videos, captions).
        owners: for each caption the index of its video.
        count: number of videos.

    Returns:
        (videos, count); -inf for a video without captions.
    """
    best = np.full((len(similarity), count), -np.inf, similarity.dtype)
    np.maximum.at(best.T, np.asarray(owners), np.asarray(similarity).T)
    return best
