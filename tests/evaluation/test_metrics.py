"""Ranks and metrics, compared with results by hand and with torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clip4clip import InputValueError
from clip4clip.evaluation.metrics import RetrievalMetrics, max_per_video, ranks


def test_metrics_of_a_matrix_are_those_worked_out_by_hand() -> None:
    similarity = np.array(
        [
            [0.9, 0.1, 0.2, 0.3],  # its match is the best: rank 1
            [0.8, 0.5, 0.6, 0.1],  # two are better than 0.5: rank 3
            [0.3, 0.3, 0.4, 0.1],  # rank 1
            [0.9, 0.8, 0.7, 0.6],  # rank 4
        ]
    )
    computed = ranks(similarity, [0, 1, 2, 3])
    assert computed.tolist() == [1, 3, 1, 4]
    metrics = RetrievalMetrics.of(computed, 4)
    assert metrics == RetrievalMetrics(50.0, 100.0, 100.0, 2.0, 2.25, 4, 0)
    assert metrics.to_dict()["median_rank"] == 2.0


def test_equal_similarities_share_the_average_of_their_ranks() -> None:
    assert ranks(np.array([[0.5, 0.5, 0.5, 0.1]]), [1]).tolist() == [2.0]
    assert ranks(np.array([[0.9, 0.5, 0.5, 0.1]]), [2]).tolist() == [2.5]


def test_a_model_that_gives_equal_similarities_is_as_good_as_chance() -> None:
    metrics = RetrievalMetrics.of(ranks(np.ones((101, 101)), np.arange(101)), 101)
    assert metrics.mean_rank == metrics.median_rank == 51
    assert metrics.recall_at_10 == 0


def test_nan_is_a_miss_and_ranks_last() -> None:
    similarity = np.array([[np.nan, 0.1, 0.2], [np.nan, 0.1, 0.2], [0.5, np.nan, 0.2]])
    computed = ranks(similarity, [0, 1, 2])
    np.testing.assert_array_equal(computed, [np.nan, 2, 2])
    metrics = RetrievalMetrics.of(computed, 3)
    assert metrics.missed == 1
    assert metrics.recall_at_1 == 0
    assert metrics.recall_at_5 == pytest.approx(100 * 2 / 3)  # not 3 of 3: a miss is no recall, even among three
    assert metrics.mean_rank == pytest.approx(7 / 3)


def test_the_best_of_several_sentences_of_a_video_counts() -> None:
    # Two videos; sentences 0 and 1 belong to the first, 2 to the second.
    similarity = np.array([[0.1, 0.9, 0.5], [0.8, 0.2, 0.7]])
    best = max_per_video(similarity, [0, 0, 1], 2)
    assert best.tolist() == [[0.9, 0.5], [0.8, 0.7]]
    assert ranks(best, [0, 1]).tolist() == [1, 2]


def test_a_video_without_sentences_ranks_last() -> None:
    assert max_per_video(np.ones((1, 2)), [0, 0], 2).tolist() == [[1, -np.inf]]


@pytest.mark.parametrize(
    ("similarity", "matches"),
    [(np.ones((2, 2)), [0]), (np.ones(4), [0]), (np.ones((2, 2)), [0, 2]), (np.ones((2, 2)), [-1, 0])],
)
def test_shapes_and_indices_that_do_not_fit_are_rejected(similarity: np.ndarray, matches: list[int]) -> None:
    with pytest.raises(InputValueError, match="must be"):
        ranks(similarity, matches)


def test_metrics_of_no_ranks_are_rejected() -> None:
    with pytest.raises(InputValueError, match="no ranks"):
        RetrievalMetrics.of(np.array([]), 3)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_is_that_of_torchmetrics(k: int) -> None:
    retrieval = pytest.importorskip("torchmetrics.retrieval")
    if not hasattr(retrieval, "RetrievalHitRate"):
        pytest.skip("this torchmetrics has no hit rate")
    similarity = np.random.default_rng(k).random((60, 40))
    matches = np.random.default_rng(7).integers(0, 40, 60)
    ours = RetrievalMetrics.of(ranks(similarity, matches), 40)
    try:
        hit_rate = retrieval.RetrievalHitRate(top_k=k)
    except TypeError:  # before torchmetrics 1.0
        hit_rate = retrieval.RetrievalHitRate(k=k)
    target = np.arange(40) == matches[:, None]
    queries = torch.arange(60).repeat_interleave(40)
    theirs = hit_rate(torch.tensor(similarity).flatten(), torch.tensor(target).flatten(), queries)
    assert getattr(ours, f"recall_at_{k}") == pytest.approx(100 * theirs.item())


def test_the_mean_reciprocal_rank_is_that_of_torchmetrics() -> None:
    retrieval = pytest.importorskip("torchmetrics.retrieval")
    similarity = np.random.default_rng(3).random((50, 30))  # above 0: torchmetrics takes anything else for no result
    matches = np.random.default_rng(4).integers(0, 30, 50)
    target = np.arange(30) == matches[:, None]
    queries = torch.arange(50).repeat_interleave(30)
    theirs = retrieval.RetrievalMRR()(torch.tensor(similarity).flatten(), torch.tensor(target).flatten(), queries)
    assert np.mean(1 / ranks(similarity, matches)) == pytest.approx(theirs.item(), abs=1e-6)
