"""Evaluations of moments: what is ranked for each sentence, failed videos, ties and invalid queries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip4clip import InputValueError
from clip4clip.evaluation.moment_tables import MomentQuery
from clip4clip.evaluation.moments import evaluate_moments

DIRECTIONS = {"east": (1.0, 0.0), "north": (0.0, 1.0), "west": (-1.0, 0.0)}


class DirectionEncoder:
    """Stands for a text encoder: gives each word a vector in the plane."""

    def __call__(self, sentences: list[str]) -> np.ndarray:
        return np.array([DIRECTIONS[sentence] for sentence in sentences], np.float32)


def angle(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], np.float32)


def row(video: str, start: float | None, end: float | None, vector: np.ndarray | None, **fields: Any) -> dict[str, Any]:
    path = str(Path(video).absolute())
    return {"path": path, "start": start, "end": end, "duration": 60.0, "vector": vector, "error": None, **fields}


def query(video: str, sentence: str, *windows: tuple[float, float], agreement: int | None = None) -> MomentQuery:
    return MomentQuery(video, Path(video).absolute(), sentence, windows, agreement)


# Two videos of a minute, each cut into segments. East is at 0°, north at 90°.
ROWS = [
    row("a.mp4", 0, 20, angle(0)),
    row("a.mp4", 20, 40, angle(80)),
    row("a.mp4", 40, 60, angle(60)),
    row("b.mp4", 0, 30, angle(90)),
    row("b.mp4", 30, 60, angle(10)),
    row("b.mp4", 60, 61, None, uniform=True),
]


def test_segments_are_ranked_in_the_video_and_in_all_videos() -> None:
    queries = [query("a.mp4", "east", (0, 20)), query("a.mp4", "north", (22, 40)), query("b.mp4", "east", (0, 30))]
    evaluation = evaluate_moments(queries, ROWS, DirectionEncoder())  # type: ignore[arg-type]
    assert (evaluation.videos, evaluation.segments, evaluation.uncut, evaluation.failed) == (2, 5, 0, {})
    # In its video: rank 1, 1 and 2. In all videos: rank 1; 2, after b.mp4 at 90°; 5, after all others.
    assert evaluation.within_video.recall_at_1_iou_50 == pytest.approx(100 * 2 / 3)
    assert evaluation.within_video.map_iou_50 == pytest.approx(100 * (1 + 1 + 1 / 2) / 3)
    assert evaluation.all_videos.recall_at_1_iou_50 == pytest.approx(100 / 3)
    assert evaluation.all_videos.recall_at_5_iou_50 == 100
    assert evaluation.all_videos.map_iou_50 == pytest.approx(100 * (1 + 1 / 2 + 1 / 5) / 3)
    assert evaluation.reachable == {0.5: 100, 0.7: 100}
    north = evaluation.results[1].to_dict()
    assert (north["video"], north["sentence"], north["windows"]) == ("a.mp4", "north", ((22, 40),))
    assert north["best_iou"] == 0.9
    assert north["within_video"]["rank"] == {"iou_0.5": 1, "iou_0.7": 1}
    assert north["all_videos"]["rank"] == {"iou_0.5": 2, "iou_0.7": 2}
    first, second = north["all_videos"]["predictions"][:2]
    assert first == {"video": "b.mp4", "start": 0.0, "end": 30.0, "score": pytest.approx(1), "iou": 0.0}
    assert second == {"video": "a.mp4", "start": 20.0, "end": 40.0, "score": pytest.approx(0.984808), "iou": 0.9}
    assert evaluation.to_dict()["results"][1] == north
    assert evaluation.to_dict()["sentences"] == 3


def test_one_of_several_moments_is_enough_for_recall_but_not_for_average_precision() -> None:
    queries = [query("a.mp4", "east", (0, 20), (40, 60))]
    evaluation = evaluate_moments(queries, ROWS, DirectionEncoder())  # type: ignore[arg-type]
    assert evaluation.within_video.recall_at_1_iou_70 == 100
    assert evaluation.within_video.map_average == 100  # 0° and 60° are both nearer than 80°
    swapped = [query("a.mp4", "east", (0, 20), (20, 40))]
    evaluation = evaluate_moments(swapped, ROWS, DirectionEncoder())  # type: ignore[arg-type]
    assert evaluation.within_video.map_average == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_annotators_of_one_moment_must_agree() -> None:
    windows = ((0, 20), (0, 20), (20, 40))
    for agreement, recall in ((1, 100), (2, 100), (3, 0)):
        queries = [query("a.mp4", "east", *windows, agreement=agreement)]
        evaluation = evaluate_moments(queries, ROWS, DirectionEncoder())  # type: ignore[arg-type]
        assert evaluation.within_video.recall_at_1_iou_50 == recall


def test_videos_without_a_vector_are_named_misses() -> None:
    queries = [query("a.mp4", "east", (0, 20)), query("gone", "east", (0, 20)), query("new", "north", (0, 20))]
    rows = [*ROWS, row("gone", None, None, None, duration=None, error="no such file")]
    evaluation = evaluate_moments(queries, rows, DirectionEncoder())  # type: ignore[arg-type]
    assert evaluation.failed == {"gone": "no such file", "new": "it is not in the table of vectors"}
    assert (evaluation.videos, evaluation.segments) == (3, 3)  # not those of b.mp4, which has no query
    assert evaluation.within_video.recall_at_5_iou_50 == pytest.approx(100 / 3)
    assert [len(result.within_video) for result in evaluation.results] == [3, 0, 0]
    assert [len(result.all_videos) for result in evaluation.results] == [3, 3, 3]
    nothing = evaluate_moments(queries, [], DirectionEncoder())  # type: ignore[arg-type]
    assert nothing.all_videos.map_average == nothing.reachable[0.5] == 0
    assert len(nothing.failed) == 3


def test_a_whole_video_is_a_segment_from_its_start_to_its_end() -> None:
    rows = [row("a.mp4", None, None, angle(0)), row("b.mp4", None, None, angle(90), duration=None)]
    queries = [query("a.mp4", "east", (20, 60)), query("b.mp4", "north", (0, 60))]
    evaluation = evaluate_moments(queries, rows, DirectionEncoder())  # type: ignore[arg-type]
    assert (evaluation.segments, evaluation.uncut) == (2, 2)
    assert evaluation.results[0].best_iou == pytest.approx(40 / 60)
    assert evaluation.results[1].best_iou == 0  # nobody knows how long it is


def test_a_true_window_ends_with_its_video() -> None:
    rows = [row("a.mp4", 25, 28.2, angle(0), duration=28.2)]
    queries = [query("a.mp4", "east", (25, 30)), query("a.mp4", "east", (40, 50))]
    evaluation = evaluate_moments(queries, rows, DirectionEncoder())  # type: ignore[arg-type]
    assert [result.best_iou for result in evaluation.results] == [1, 0]


def test_segments_that_overlap_a_better_one_are_left_out() -> None:
    rows = [row("a.mp4", 10 * number, 10 * number + 20, angle(10 * number)) for number in range(4)]
    evaluation = evaluate_moments([query("a.mp4", "east", (0, 20))], rows, DirectionEncoder())  # type: ignore[arg-type]
    assert [(found.start, found.end) for found in evaluation.results[0].within_video] == [(0, 20), (20, 40)]


def test_equal_vectors_are_as_good_as_chance() -> None:
    rows = [row(f"{video}.mp4", 10 * number, 10 * number + 10, angle(0)) for video in range(100) for number in range(4)]
    queries = [query(f"{video}.mp4", "east", (0, 10)) for video in range(100)]
    evaluation = evaluate_moments(queries, rows, DirectionEncoder())  # type: ignore[arg-type]
    assert 10 <= evaluation.within_video.recall_at_1_iou_50 <= 40  # 25 on average; the first would give 100
    assert evaluation.all_videos.recall_at_1_iou_50 <= 1
    again = evaluate_moments(queries, rows, DirectionEncoder())  # type: ignore[arg-type]
    assert again.within_video == evaluation.within_video


def test_many_sentences_are_compared_in_batches_with_progress() -> None:
    queries = [query("a.mp4", ("east", "north", "north")[number % 3], (0, 20)) for number in range(600)]
    tracked: list[tuple[int, str]] = []

    def track(items: Any, total: int, description: str) -> Iterator[Any]:
        tracked.append((total, description))
        yield from items

    evaluation = evaluate_moments(queries, ROWS, DirectionEncoder(), track)  # type: ignore[arg-type]
    assert tracked == [(1, "embedding sentences"), (600, "searching")]
    assert [result.within_video[0].start for result in evaluation.results] == [0, 20, 20] * 200


def test_no_queries_are_rejected() -> None:
    with pytest.raises(InputValueError, match="no moments to evaluate"):
        evaluate_moments([], ROWS, DirectionEncoder())  # type: ignore[arg-type]
