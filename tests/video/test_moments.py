"""Which moments of a video a search returns."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from moment_choice import TIMES, choose_by_comparing_all

from clip4clip.video.moments import choose_moments


def kept(*times: tuple[float | None, float | None], per_video: int | None = None) -> list[int]:
    return choose_moments([("a", start, end) for start, end in times], per_video)


def test_shots_never_overlap_and_windows_that_overlap_by_half_do() -> None:
    assert kept((0, 7.5), (7.5, 9), (9, 30)) == [0, 1, 2]
    assert kept((5, 15), (0, 10), (10, 20), (15, 25), (20, 30)) == [0, 3]
    assert kept((0.02, 9.98), (5.01, 15.02)) == [0]  # half, but for rounding


def test_a_moment_within_another_overlaps_it_whatever_is_between_their_starts() -> None:
    assert kept((0, 100), (90, 200), (50, 52)) == [0, 1]
    assert kept((50, 52), (0, 100)) == [0]
    assert kept((50, 50), (0, 100), (50, 50)) == [0]
    assert kept((0, 100), (10, 10)) == [0]


def test_moments_of_other_videos_and_rows_without_times_overlap_nothing() -> None:
    moments = [("a", 0, 10), ("b", 0, 10), ("a", None, None), ("a", None, None), ("a", 1, 10)]
    assert choose_moments(moments, None) == [0, 1, 2, 3]
    assert choose_moments(moments, 2) == [0, 1, 2]
    assert choose_moments(moments, 1) == [0, 1]


def test_one_that_overlaps_does_not_count_as_one_of_its_video() -> None:
    assert kept((0, 10), (5, 15), (10, 20), (20, 30), per_video=2) == [0, 2]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.sampled_from("ab"), TIMES), max_size=40), st.sampled_from([None, 1, 2, 5]))
def test_the_choice_is_that_by_comparing_all(moments: list, per_video: int | None) -> None:
    flat = [(video, *times) for video, times in moments]
    assert choose_moments(flat, per_video) == choose_by_comparing_all(flat, per_video)
