"""Duplicates are found from vectors and times: the pairs that match, and how they are grouped."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from clip4clip.errors import InputValueError
from clip4clip.index import duplicates
from clip4clip.index.duplicates import DuplicateReport, MatchedTimes, find_duplicates
from clip4clip.index.timelines import Timeline
from clip4clip.retrieval import VideoIndex
from clip4clip.weights.identity import Identity

DIM = 64
Row = dict[str, Any]


def scene(number: int, distance: float = 0.0) -> np.ndarray:
    """Return the unit vector of a scene, the same in each call, or one at a cosine distance from it."""
    random = np.random.default_rng(number)
    vector, other = random.normal(size=(2, DIM))
    vector /= np.linalg.norm(vector)
    other -= other @ vector * vector
    other /= np.linalg.norm(other)
    cosine = 1 - distance
    return (cosine * vector + math.sqrt(1 - cosine**2) * other).astype(np.float32)


def clip(name: str, vector: np.ndarray | None, duration: float | None = 8.0, size: int | None = None) -> Row:
    return {"id": name, "path": f"/{name}.mp4", "duration": duration, "size": size, "vector": vector}


def video(name: str, *segments: tuple[float, float, np.ndarray | None], size: int | None = None) -> list[Row]:
    """Return the rows of a video that is cut; a segment without a vector has one colour."""
    same = {"video": name, "path": f"/{name}.mp4", "duration": max(end for _, end, _ in segments), "size": size}
    return [
        same | {"id": f"{name}#t={start},{end}", "start": start, "end": end, "vector": vector}
        for start, end, vector in segments
    ]


def film(name: str, first: int = 0, start: float = 0.0, rate: float = 1.0, distance: float = 0.0) -> list[Row]:
    """Return a video of ten scenes of 6 to 15 s, from the scene ``first`` on, which begins at ``start``."""
    cuts = np.concatenate([[0], np.cumsum(6.0 + np.arange(10))]) * rate + start
    scenes = [scene(first + number, distance) for number in range(10)]
    return video(name, *zip(cuts[:-1].tolist(), cuts[1:].tolist(), scenes, strict=True))


def groups(report: DuplicateReport) -> dict[str, list[str]]:
    """Return the ids of the duplicates of each group, by the id of the video to keep."""
    return {group.kept.id: [duplicate.video.id for duplicate in group.duplicates] for group in report.groups}


def test_videos_with_the_same_vector_are_a_group_and_others_are_not() -> None:
    rows = [clip("a", scene(1)), clip("b", scene(2)), clip("c", scene(1, 0.004)), clip("d", scene(1, 0.006))]
    report = find_duplicates(rows)
    assert groups(report) == {"a": ["c"]}
    assert report.groups[0].duplicates[0].score == pytest.approx(0.996, abs=1e-4)
    assert report.groups[0].duplicates[0].times == (MatchedTimes(None, None, None, None),)
    assert (report.videos, report.usual_views) == (4, 0)
    assert groups(find_duplicates(rows, threshold=0.99)) == {"a": ["c", "d"]}


def test_the_longest_video_is_kept_in_whole_seconds_and_then_the_largest() -> None:
    rows = [clip("a", scene(1), 20.2, 100), clip("b", scene(1), 19.8, 300), clip("c", scene(1), 30.0, 1)]
    report = find_duplicates(rows)
    assert groups(report) == {"c": ["b", "a"]}
    assert [duplicate.is_part for duplicate in report.groups[0].duplicates] == [True, True]
    report = find_duplicates(rows[:2])
    assert groups(report) == {"b": ["a"]}
    assert not report.groups[0].duplicates[0].is_part


def test_a_match_is_not_passed_on_to_a_third_video() -> None:
    near, far = (np.array([math.cos(angle), math.sin(angle)], np.float32) for angle in (0.09, 0.18))
    rows = [clip("a", np.array([1, 0], np.float32)), clip("b", near), clip("c", far)]
    assert groups(find_duplicates(rows)) == {"a": ["b"]}


def test_a_video_without_a_vector_or_of_one_colour_matches_nothing() -> None:
    black = clip("black", scene(1)) | {"uniform": True}
    assert groups(find_duplicates([black, black | {"id": "dark"}, clip("broken", None), clip("a", scene(1))])) == {}
    assert find_duplicates([]).groups == ()
    fades = [(0.0, 100.0, None), (100.0, 110.0, scene(1))]
    assert groups(find_duplicates([*video("a", *fades), *video("b", *fades[:1], (100.0, 110.0, scene(2)))])) == {}


@pytest.mark.parametrize("tile", [3, 100])
def test_many_views_of_a_fixed_camera_match_nothing_but_equal_files(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "TILE", tile)
    rows = [clip(f"v{number}", scene(1, 1e-4 * number), 10.0 + number / 7, number) for number in range(22)]
    rows.append(rows[5] | {"id": "copy", "path": "/z.mp4"})
    report = find_duplicates(rows)
    assert groups(report) == {"v5": ["copy"]}
    assert report.usual_views == 22
    assert groups(find_duplicates([*rows[:20], clip("other", scene(2))])).keys() == {"v19"}


def test_copies_of_a_long_video_are_found_by_their_scenes_in_order() -> None:
    report = find_duplicates([*film("a"), *film("other", 20), *film("copy", distance=0.02)])
    assert groups(report) == {"a": ["copy"]}
    duplicate = report.groups[0].duplicates[0]
    assert duplicate.times == (MatchedTimes(0.0, 105.0, 0.0, 105.0),)
    assert (duplicate.covered, duplicate.is_part) == (1.0, False)
    assert groups(find_duplicates([*film("a"), *film("b", distance=0.06)])) == {}


def test_videos_of_very_usual_moments_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MAX_ALIKE", 2)
    copies = [row for number in range(4) for row in film(f"copy{number}", distance=0.001 * number)]
    report = find_duplicates([*copies, *film("other", 20), *film("its_copy", 20)])
    assert groups(report) == {"its_copy": ["other"]}
    assert report.usual_cuts == 4
    shared = [
        row for number in range(4) for row in [*film(f"v{number}")[:2], *film(f"v{number}", 30 + 20 * number)[2:]]
    ]
    assert find_duplicates(shared).usual_cuts == 0  # they have an opening in common


def test_scenes_in_another_order_or_few_of_them_are_no_duplicates() -> None:
    rows = film("b")
    shuffled = [row | {"vector": other["vector"]} for row, other in zip(rows, rows[::-1], strict=True)]
    assert groups(find_duplicates([*film("a"), *shuffled])) == {}
    mostly_other = [*film("c", 30)[:7], *film("c")[7:8], *film("c", 30)[8:]]
    assert groups(find_duplicates([*film("a"), *mostly_other])) == {}


def test_what_only_the_shorter_video_has_does_not_match() -> None:
    longer_start = [(0.0, 30.0, scene(0)), (30.0, 37.0, scene(1)), (37.0, 45.0, scene(2))]  # 24 s more of the scene 0
    assert groups(find_duplicates([*film("a"), *video("b", *longer_start)])) == {}
    assert groups(find_duplicates([*film("a"), *video("b", (24.0, 30.0, scene(0)), *longer_start[1:])])) == {"a": ["b"]}


@pytest.mark.parametrize(("rate", "start"), [(1.0, 0.0), (0.96, 0.0), (1.05, 0.0), (1.0, -15.0)])
def test_a_trimmed_or_faster_copy_is_aligned_by_its_times(rate: float, start: float) -> None:
    copy = [row for row in film("copy", start=start, rate=rate, distance=0.01) if row["start"] >= 0]
    report = find_duplicates([*film("a"), *copy])
    [group] = report.groups
    other = group.duplicates[0]
    [times] = other.times
    in_a, in_copy = (times.kept_start, times.kept_end), (times.start, times.end)
    if group.kept.id == "copy":
        in_a, in_copy = in_copy, in_a
    assert in_copy == pytest.approx((copy[0]["start"], copy[-1]["end"]), abs=1.5)
    assert in_copy == pytest.approx([rate * second + start for second in in_a], abs=1.5)


def test_a_video_without_its_middle_matches_in_two_parts() -> None:
    rows = film("a")
    copy = [row | {"video": "copy", "duration": 75.0} for row in [*rows[:4], *rows[6:]]]
    copy = [row if row["end"] <= 40 else row | {"start": row["start"] - 21, "end": row["end"] - 21} for row in copy]
    [duplicate] = find_duplicates([*rows, *copy]).groups[0].duplicates
    assert duplicate.times == (MatchedTimes(0, 30, 0, 30), MatchedTimes(30, 84, 51, 105))


def test_a_clip_is_found_in_the_video_that_it_was_cut_from_with_its_time() -> None:
    timeline = Timeline(*(np.array([row[name] for row in film("a")]) for name in ("start", "end", "vector")))
    inside = timeline.pool(np.array([9.0]), np.array([31.0]))[0]
    report = find_duplicates([*film("a"), *film("b", 20), clip("clip", inside, 22.0), clip("no", scene(50), 22.0)])
    assert groups(report) == {"a": ["clip"]}
    [times] = report.groups[0].duplicates[0].times
    assert (times.start, times.end) == (0.0, 22.0)
    assert (times.kept_start, times.kept_end) == pytest.approx((9.0, 31.0), abs=0.5)


def test_a_clip_of_one_frame_is_looked_for_at_a_few_places_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[int] = []
    pool = Timeline.pool

    def count_windows(timeline: Timeline, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        windows.append(len(starts))
        return pool(timeline, starts, ends)

    monkeypatch.setattr(Timeline, "pool", count_windows)
    assert groups(find_duplicates([*film("a"), clip("frame", scene(3), 0.04)])) == {"a": ["frame"]}
    assert sum(windows) < 4 * 105 + 2 * duplicates.MAX_PLACES + 10


def test_a_picture_that_stands_long_or_recurs_matches_nothing_by_itself() -> None:
    still = [(30.0 * number, 30.0 * number + 30.0) for number in range(5)]
    slides = [video(name, *((*times, scene(1, 1e-4 * number)) for times in still)) for number, name in enumerate("abc")]
    assert groups(find_duplicates([*slides[0], *slides[1], *slides[2], clip("clip", scene(1), 20.0)])) == {}
    # Beside it, a copy is found by its other scenes, and the still picture is part of the match.
    rows = [
        *video("film", (0.0, 30.0, scene(2)), *((s + 30, e + 30, scene(1)) for s, e in still), (180.0, 190.0, scene(3)))
    ]
    copy = [row | {"id": f"copy{row['id']}", "video": "copy"} for row in rows]
    report = find_duplicates([*rows, *copy, *slides[0]])
    assert groups(report) == {"copy": ["film"]} or groups(report) == {"film": ["copy"]}
    assert report.groups[0].duplicates[0].covered == 1.0


def test_scenes_that_recur_in_a_video_match_nothing_by_themselves() -> None:
    turns = [(8.0 * number, 8.0 * number + 8.0, scene(number % 2)) for number in range(6)]
    assert groups(find_duplicates([*video("talk", *turns), *video("other", *turns), clip("clip", scene(0))])) == {}


def test_a_video_of_scenes_that_look_alike_is_found() -> None:
    rows = film("a")
    for number, row in enumerate(rows):
        row["vector"] = math.sqrt(0.985) * scene(99) + math.sqrt(0.015) * scene(number)
    copy = [row | {"video": "copy", "path": "/copy.mp4"} for row in rows]
    assert groups(find_duplicates([*rows, *copy, *film("other", 20)])) == {"a": ["copy"]}


def test_equal_files_are_found_even_if_nothing_moves_in_them() -> None:
    still = [(30.0 * number, 30.0 * number + 30.0, scene(1)) for number in range(5)]
    other = [(start, end, scene(2)) for start, end, _ in still]
    files = (("a", still, 7), ("b", still, 7), ("c", still, 8), ("d", other, 7))
    report = find_duplicates([row for name, segments, size in files for row in video(name, *segments, size=size)])
    assert groups(report) == {"a": ["b"]}
    assert report.groups[0].duplicates[0].times == (MatchedTimes(0.0, 150.0, 0.0, 150.0),)


@pytest.mark.parametrize("duration", [15.0, 20.0])
def test_an_equal_copy_of_a_duplicate_is_in_its_group(duration: float) -> None:
    rows = [clip("a", scene(1), 20.0, 9), clip("b", scene(1, 0.002), duration, 8)]
    assert groups(find_duplicates([*rows, rows[1] | {"id": "b2", "path": "/b2.mp4"}])) == {"a": ["b", "b2"]}


def test_tiles_and_the_order_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        *film("a"),
        *film("copy", distance=0.02),
        *(clip(f"v{n}", scene(n % 30, 0.001 * (n > 30))) for n in range(60)),
    ]
    report = find_duplicates(rows)
    monkeypatch.setattr(duplicates, "TILE", 3)
    tracked: list[str] = []

    def track(items: Any, total: int, description: str) -> Any:
        tracked.append(f"{description} {total}")
        return items

    order = np.random.default_rng(0).permutation(len(rows))
    mixed = find_duplicates([rows[number] for number in order], track=track)
    assert {kept: sorted(others) for kept, others in groups(mixed).items()} == {
        kept: sorted(others) for kept, others in groups(report).items()
    }
    assert len(report.groups) > 20
    assert tracked[0] == "comparing videos 210"


def test_the_pool_of_a_timeline_is_the_mean_of_its_vectors_over_time() -> None:
    vectors = np.eye(3, dtype=np.float32)
    timeline = Timeline(np.array([0.0, 10.0, 30.0]), np.array([10.0, 20.0, 40.0]), vectors)
    pooled = timeline.pool(np.array([5.0, 15.0, 21.0, 0.0]), np.array([15.0, 40.0, 29.0, 5.0]))
    half = math.sqrt(0.5)
    expected = [[half, half, 0], np.array([0, 1, 2]) / math.sqrt(5), [0, 0, 0], [1, 0, 0]]
    np.testing.assert_allclose(pooled, expected, atol=1e-6)
    windows = Timeline(np.array([0.0, 5.0, 10.0]), np.array([10.0, 15.0, 20.0]), vectors)
    assert windows.starts.tolist() == [0, 7.5, 12.5]
    assert windows.ends.tolist() == [7.5, 12.5, 20]


@pytest.mark.parametrize("threshold", [0.0, 1.0, math.nan])
def test_the_threshold_is_a_cosine(threshold: float) -> None:
    with pytest.raises(InputValueError, match="threshold must be above 0 and below 1"):
        find_duplicates([], threshold)


def test_an_index_finds_its_duplicates(uri: str, collection: str) -> None:
    demo = Identity("clip_vit_tiny_demo", "0" * 32)
    rows = [*film("a"), *film("copy", distance=0.005), clip("other", scene(40)) | {"uniform": True}]
    rows = [row | {"model": demo.model, "fingerprint": demo.fingerprint} for row in rows]
    with VideoIndex(uri, collection, timeout=60) as index:
        index.add(rows)
        report = index.duplicates()
        assert groups(report) == {"a": ["copy"]}
        assert report.videos == 2
        assert index.duplicates(0.9999).groups == ()
