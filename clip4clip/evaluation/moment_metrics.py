"""Metrics of moment retrieval: temporal IoU, R@k at an IoU, and mAP as QVHighlights defines it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..errors import InputValueError
from ..video.moments import choose_moments

MAP_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))  # 0.5, 0.55, …, 0.95
MAP_PREDICTIONS = 10  # how many predictions of a query count for mAP
IOU_DECIMALS = 9  # an IoU is rounded, so that 7 of 10 s reach 0.7 wherever the 10 s begin


@dataclass(frozen=True)
class MomentMetrics:
    """How well sentences find their moments, in percent, 0 to 100.

    R@k at an IoU (arXiv 1705.02101, evaluation metric of the experiments) is the percentage of the queries with a right
    prediction among the first k. A prediction is right if its temporal IoU with one of the true moments is at least the
    threshold.

    mAP is the mean over the queries of the average precision (arXiv 2107.09609, evaluation metrics of moment
    retrieval), as the published evaluation of QVHighlights computes it: of the first 10 predictions, with interpolated
    precision.

    Attributes:
        recall_at_1_iou_50: R@1 at an IoU of 0.5.
        recall_at_1_iou_70: R@1 at an IoU of 0.7.
        recall_at_5_iou_50: R@5 at an IoU of 0.5.
        recall_at_5_iou_70: R@5 at an IoU of 0.7.
        map_iou_50: mAP at an IoU of 0.5.
        map_iou_75: mAP at an IoU of 0.75.
        map_average: average of mAP at the IoUs 0.5, 0.55, …, 0.95.
    """

    recall_at_1_iou_50: float
    recall_at_1_iou_70: float
    recall_at_5_iou_50: float
    recall_at_5_iou_70: float
    map_iou_50: float
    map_iou_75: float
    map_average: float

    @classmethod
    def of(cls, ious: Sequence[np.ndarray]) -> MomentMetrics:
        """Compute the metrics.

        Args:
            ious: for each query, the IoU of its predictions with its true moments, (P, M), from :func:`moment_ious`;
                the best prediction first; 0 for a prediction in another video. P may differ, and may be 0.

        Raises:
            InputValueError: ``ious`` is empty.
        """
        if not ious:
            raise InputValueError("there are no queries to compute metrics from: ious must not be empty")

        def recall(count: int, threshold: float) -> float:
            return 100 * float(np.mean([(query[:count] >= threshold).any() for query in ious]))

        precisions = np.array([[average_precision(query, iou) for iou in MAP_THRESHOLDS] for query in ious])
        means = dict(zip(MAP_THRESHOLDS, 100 * precisions.mean(0), strict=True))
        return cls(
            recall_at_1_iou_50=recall(1, 0.5),
            recall_at_1_iou_70=recall(1, 0.7),
            recall_at_5_iou_50=recall(5, 0.5),
            recall_at_5_iou_70=recall(5, 0.7),
            map_iou_50=float(means[0.5]),
            map_iou_75=float(means[0.75]),
            map_average=100 * float(precisions.mean()),
        )

    def to_dict(self) -> dict[str, float]:
        """Return the attributes by their names, ready for JSON."""
        return asdict(self)


def temporal_iou(windows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the length of the intersection of windows, divided by the length of their union.

    Args:
        windows: (P, 2), start and end of each window in seconds.
        others: (W, 2), the same.

    Returns:
        float64 of shape (P, W), 0 to 1.
    """
    start, end = np.asarray(windows, np.float64).reshape(-1, 2).T
    other_start, other_end = np.asarray(others, np.float64).reshape(-1, 2).T
    shared = np.minimum(end[:, None], other_end) - np.maximum(start[:, None], other_start)
    shared = np.maximum(shared, 0)
    union = (end - start)[:, None] + (other_end - other_start) - shared
    return np.round(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), IOU_DECIMALS)


def moment_ious(predictions: np.ndarray, windows: np.ndarray, agreement: int | None = None) -> np.ndarray:
    """Return the IoU of predictions with the true moments of a query.

    Args:
        predictions: (P, 2), start and end in seconds.
        windows: (W, 2), the true windows.
        agreement: None if each window is a moment. A number n if the windows are what several annotators marked for
            one moment: its IoU is then the n-th highest, so that it reaches a threshold where n of the windows do
            (DiDeMo; arXiv 1907.12763, evaluation criteria).

    Returns:
        float64 of shape (P, W), or (P, 1) with an ``agreement``.
    """
    ious = temporal_iou(predictions, windows)
    return ious if agreement is None else -np.sort(-ious, axis=1)[:, agreement - 1 : agreement]


def average_precision(ious: np.ndarray, threshold: float) -> float:
    """Return the area under the curve of interpolated precision over recall, 0 to 1.

    Each prediction in turn finds the true moment with the highest IoU that no earlier prediction has found, if that
    IoU reaches the threshold. A second prediction of one moment is wrong. The interpolated precision at a recall is the
    highest precision at that recall or a higher one (PASCAL VOC). Predictions after the first 10 are ignored.

    Args:
        ious: (P, M), IoU of the predictions with the true moments; the best prediction first.
        threshold: IoU from which on a prediction is right.
    """
    ious = np.where(ious >= threshold, ious, 0)[:MAP_PREDICTIONS]
    is_right = np.zeros(len(ious), bool)
    for number in range(len(ious)):
        moment = ious[number].argmax()
        if ious[number, moment] > 0:
            is_right[number] = True
            ious[:, moment] = 0
    precision = np.cumsum(is_right) / np.arange(1, len(ious) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_from_here[is_right].sum() / ious.shape[1])  # recall grows by 1 / M at each right prediction


def best_moments(scores: np.ndarray, videos: np.ndarray, windows: np.ndarray, count: int) -> list[int]:
    """Return the moments with the highest scores, without those that overlap a better one of the same video.

    A search of an index returns the same moments. Of equal scores, the first comes first.

    Args:
        scores: (S,).
        videos: (S,) int, number of the video of each moment.
        windows: (S, 2), start and end of each moment in seconds.
        count: how many moments to return at most.

    Returns:
        Indices of the moments, the best first.
    """
    limit = 4 * count  # enough for windows that overlap by half: a better one removes two others at most
    if limit < len(scores):
        top = np.flatnonzero(scores >= np.partition(scores, -limit)[-limit])
        if len(best := _rank_without_overlaps(top, scores, videos, windows, count)) == count:
            return best
    return _rank_without_overlaps(np.arange(len(scores)), scores, videos, windows, count)


def _rank_without_overlaps(
    moments: np.ndarray, scores: np.ndarray, videos: np.ndarray, windows: np.ndarray, count: int
) -> list[int]:
    """Return what :func:`best_moments` returns, from some moments only, given as rising indices."""
    ranked = moments[np.argsort(-scores[moments], kind="stable")]
    times = zip(videos[ranked].tolist(), *windows[ranked].T.tolist(), strict=True)
    return [int(ranked[position]) for position in choose_moments(times, None)[:count]]
