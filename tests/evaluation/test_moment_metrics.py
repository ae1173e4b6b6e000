"""Metrics of moments, compared with results by hand and with a second implementation."""

from __future__ import annotations

import numpy as np
import pytest

from clip4clip import InputValueError
from clip4clip.evaluation.moment_metrics import (
    MAP_THRESHOLDS,
    MomentMetrics,
    average_precision,
    best_moments,
    moment_ious,
    temporal_iou,
)
from clip4clip.video.moments import MAX_OVERLAP


def test_temporal_iou_is_the_shared_time_over_the_time_of_both() -> None:
    predictions = np.array([[0, 10], [5, 15], [20, 30], [2, 4]])
    windows = np.array([[0, 10], [10, 20]])
    expected = [[1, 0], [5 / 15, 5 / 15], [0, 0], [2 / 10, 0]]
    np.testing.assert_allclose(temporal_iou(predictions, windows), expected, atol=1e-9)
    assert temporal_iou(np.zeros((0, 2)), windows).shape == (0, 2)
    assert temporal_iou(np.array([[3, 3]]), np.array([[3, 3]])).tolist() == [[0]]


def test_an_iou_on_a_threshold_reaches_it_wherever_the_window_begins() -> None:
    starts = np.round(np.arange(0, 40, 0.1), 1)
    for start in starts:
        assert temporal_iou(np.array([[start, start + 7]]), np.array([[start, start + 10]])) >= 0.7


def test_a_moment_marked_by_annotators_has_the_iou_that_enough_of_them_reach() -> None:
    # IoU with the three windows: 1, 0.5 and 0 for the first prediction; 0.5, 1 and 0; 0, 0 and 1.
    predictions, windows = np.array([[0, 5], [0, 10], [25, 30]]), np.array([[0, 5], [0, 10], [25, 30]])
    assert moment_ious(predictions, windows, agreement=2).tolist() == [[0.5], [0.5], [0]]
    assert moment_ious(predictions, windows, agreement=1).tolist() == [[1], [1], [1]]
    assert moment_ious(predictions, windows).shape == (3, 3)


def test_average_precision_is_that_worked_out_by_hand() -> None:
    # Two moments. The first prediction is wrong, the second and the third find moment 0, the fourth finds moment 1.
    ious = np.array([[0.2, 0], [0.8, 0], [0.9, 0], [0.1, 0.6]])
    # Precision at the two right predictions: 1/2 and 2/4; interpolated: 1/2 and 1/2.
    assert average_precision(ious, 0.5) == pytest.approx((1 / 2 + 1 / 2) / 2)
    # At 0.75 only the second is right. Recall 1/2 at a precision of 1/2; recall 1 is never reached.
    assert average_precision(ious, 0.75) == pytest.approx(1 / 2 * 1 / 2)
    # At 0.85 the third finds moment 0, at a precision of 1/3.
    assert average_precision(ious, 0.85) == pytest.approx(1 / 2 * 1 / 3)
    assert average_precision(ious, 0.95) == 0
    assert average_precision(np.zeros((0, 2)), 0.5) == 0


def test_interpolated_precision_is_the_highest_at_that_recall_or_a_higher_one() -> None:
    # wrong, right, right: precision 1/2 at recall 1/2, but 2/3 at recall 1
    assert average_precision(np.array([[0, 0], [1, 0], [0, 1]]), 0.5) == pytest.approx(2 / 3)


def test_a_prediction_that_covers_two_moments_finds_only_one_of_them() -> None:
    ious = np.array([[0.6, 0.7], [0, 0.9], [0.8, 0]])
    # The first finds moment 1, the second finds nothing new, the third finds moment 0.
    assert average_precision(ious, 0.5) == pytest.approx((1 + 2 / 3) / 2)


def test_predictions_after_the_tenth_do_not_count_for_average_precision() -> None:
    ious = np.zeros((11, 1))
    ious[9] = 1
    assert average_precision(ious, 0.5) == pytest.approx(1 / 10)
    assert average_precision(np.roll(ious, 1, 0), 0.5) == 0


def second_average_precision(ious: np.ndarray, threshold: float) -> float:
    """Compute average precision as the mean, over the possible recalls, of the best precision at least that recall."""
    moments = ious.shape[1]
    taken: set[int] = set()
    curve: list[tuple[int, float]] = []  # number of moments found, and precision, after each prediction
    for count, row in enumerate(ious[:10], 1):
        for moment in sorted(range(moments), key=lambda moment: -row[moment]):
            if row[moment] >= threshold and moment not in taken:
                taken.add(moment)
                break
        curve.append((len(taken), len(taken) / count))
    best = [
        max((precision for found, precision in curve if found >= level), default=0) for level in range(1, moments + 1)
    ]
    return sum(best) / moments


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_that_of_a_second_implementation(seed: int) -> None:
    random = np.random.default_rng(seed)
    starts = random.integers(0, 30, 5), random.integers(0, 30, 15)
    lengths = random.integers(1, 10, 5), random.integers(1, 10, 15)
    windows, predictions = (np.stack([start, start + length], 1) for start, length in zip(starts, lengths, strict=True))
    ious = temporal_iou(predictions[: random.integers(0, 16)], windows[: random.integers(1, 6)])
    for threshold in (0.1, 0.3, *MAP_THRESHOLDS):
        assert average_precision(ious, threshold) == pytest.approx(second_average_precision(ious, threshold))


def test_metrics_are_those_worked_out_by_hand() -> None:
    queries = [
        np.array([[0.72], [0.1]]),  # right at once; AP 1 at 0.5 to 0.7, 0 from 0.75 on
        np.array([[0], [0.1], [0.55], [1.0]]),  # third at 0.5, fourth at 0.7
        np.array([[0.0]] * 5 + [[0.9]]),  # sixth: not among the first five
        np.zeros((0, 1)),  # a video that failed
    ]
    metrics = MomentMetrics.of(queries)
    assert (metrics.recall_at_1_iou_50, metrics.recall_at_1_iou_70) == (25, 25)
    assert (metrics.recall_at_5_iou_50, metrics.recall_at_5_iou_70) == (50, 50)
    assert metrics.map_iou_50 == pytest.approx(100 * (1 + 1 / 3 + 1 / 6) / 4)
    assert metrics.map_iou_75 == pytest.approx(100 * (0 + 1 / 4 + 1 / 6) / 4)
    # 0.5 to 0.7 (5 thresholds) for the first; 2 thresholds at 1/3, 8 at 1/4; 9 thresholds (to 0.9) at 1/6
    average = (5 * 1 + 2 / 3 + 8 / 4 + 9 / 6) / 10
    assert metrics.map_average == pytest.approx(100 * average / 4)
    assert metrics.to_dict()["map_average"] == metrics.map_average
    with pytest.raises(InputValueError, match="no queries"):
        MomentMetrics.of([])


def test_moments_that_overlap_a_better_one_of_the_same_video_are_left_out() -> None:
    windows = np.array([[0, 10], [5, 15], [10, 20], [0, 10], [9.5, 11]])
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    assert best_moments(scores, np.array([0, 0, 0, 1, 0]), windows, 5) == [0, 2, 3]
    assert best_moments(scores, np.array([0, 0, 0, 1, 0]), windows, 2) == [0, 2]
    assert best_moments(scores[::-1], np.array([0, 1, 0, 0, 0]), windows[::-1], 5) == [4, 2, 1]
    assert best_moments(np.zeros(0), np.zeros(0, int), np.zeros((0, 2)), 5) == []


@pytest.mark.parametrize("length", [2, 40])
def test_the_best_of_many_moments_are_those_of_a_full_ranking(length: int) -> None:
    random = np.random.default_rng(0)
    starts = np.tile(np.arange(60), 5)
    windows = np.stack([starts, starts + length], 1)
    videos = np.repeat(np.arange(5), 60)
    scores = random.integers(0, 50, 300) / 50  # with ties
    scores[videos == 0] += 1  # of these, the longer windows overlap each other, so that the best are not enough
    best: list[int] = []
    for moment in sorted(range(300), key=lambda moment: -scores[moment]):
        common = [length - abs(starts[moment] - starts[other]) for other in best if videos[moment] == videos[other]]
        if all(shared <= MAX_OVERLAP * length for shared in common):
            best.append(moment)
    assert best_moments(scores, videos, windows, 6) == best[:6]
