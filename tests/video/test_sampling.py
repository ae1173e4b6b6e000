"""Each way to choose frames, and the errors of impossible choices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import RATE, straight
from frame_checks import assert_frames, evenly_spaced, times_of
from hypothesis import given
from hypothesis import strategies as st

from clip4clip import InputTypeError, InputValueError, UnknownNameError
from clip4clip.video import FrameSampling, read_frames
from clip4clip.video.sampling import select_sampled
from clip4clip.video.timestamps import ArrayTimeline, KeyedTimeline


def test_a_frame_sampling_says_what_it_is() -> None:
    assert str(FrameSampling(4, "keyframe")) == "4 frames, seek 'keyframe', segments 'auto', every 1 s"
    assert str(FrameSampling(4, "exact", 10, 0.5)) == "4 frames, seek 'exact', segments of 10 s, every 0.5 s"


@pytest.mark.parametrize("frames", [0, -1, 2.5, "12", None])
def test_a_frame_sampling_rejects_an_impossible_number_of_frames(frames: Any) -> None:
    with pytest.raises(InputValueError, match="frames must be a whole number above 0, not "):
        FrameSampling(frames)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"seek": "fast"}, UnknownNameError, "unknown seek 'fast'; it must be 'auto', 'exact' or 'keyframe'"),
        ({"segments": "scenes"}, UnknownNameError, "unknown segments 'scenes'; .* 'shots' or a number of seconds"),
        ({"segments": None}, InputTypeError, "segments must be a number of seconds, not NoneType"),
        ({"segments": 0.5}, InputValueError, "segments must be a number of seconds from every = 1 on, not 0.5"),
        ({"segments": math.inf}, InputValueError, "segments must be a number of seconds from every = 1 on, not inf"),
        ({"every": "2"}, InputTypeError, "every must be a number of seconds, not str"),
        ({"every": 0}, InputValueError, "every must be a number of seconds above 0, not 0"),
        ({"every": math.nan}, InputValueError, "every must be a number of seconds above 0, not nan"),
    ],
)
def test_a_frame_sampling_rejects_impossible_values(values: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FrameSampling(**values)


@pytest.mark.parametrize("sampling", [FrameSampling(), FrameSampling(4, "keyframe", 10.0, 0.5)])
def test_a_frame_sampling_is_restored_from_its_record(sampling: FrameSampling) -> None:
    assert FrameSampling.from_record(asdict(sampling)) == sampling


@pytest.mark.parametrize(
    ("segments", "cut"), [("auto", {31}), ("whole", set()), ("shots", {3, 30, 31}), (10, {3, 30, 31})]
)
def test_segments_say_which_videos_are_cut(segments: str | float, cut: set[int]) -> None:
    sampling = FrameSampling(segments=segments)
    assert {seconds for seconds in (3, 30, 31) if sampling.cuts(seconds)} == cut


class KeyedArrayTimeline(ArrayTimeline, KeyedTimeline):
    """A timeline of closed GOPs."""

    def __init__(self, times: np.ndarray, key_frames: np.ndarray) -> None:
        super().__init__(times)
        self.key_frames = key_frames

    def key_frame(self, gop: int) -> int:
        return int(self.key_frames[gop])

    def key_times(self) -> np.ndarray:
        return self._times[self.key_frames]


@given(
    intervals=st.lists(st.floats(0.01, 3), min_size=1, max_size=80),
    keys=st.sets(st.integers(1, 79)),
    every=st.floats(0.1, 20),
)
def test_no_two_frames_of_a_cut_video_are_much_nearer_or_further_apart_than_every(
    intervals: list[float], keys: set[int], every: float
) -> None:
    times = np.cumsum(intervals)
    key_frames = np.array(sorted({0, *(key for key in keys if key < len(times))}))
    timeline = KeyedArrayTimeline(times, key_frames)

    def select(seek: str) -> list[int]:
        selection = select_sampled(FrameSampling(seek=seek, segments="shots", every=every), lambda _: None)
        return list(selection.frames(timeline, range(len(times))))

    only_keys, auto = select("keyframe"), select("auto")
    assert set(only_keys) <= set(auto)
    assert set(only_keys) <= set(key_frames.tolist())
    assert (np.diff(times[only_keys]) >= every / 2 - 1e-5).all()
    frame = max(intervals) + 1e-5  # a frame may come this much after its step
    assert (np.diff(times[auto]) >= every / 2 - frame).all()
    assert (np.diff([*times[auto], times[-1]]) <= 1.5 * every + frame).all()
    if key_frames.tolist() == [0]:
        assert auto == select("exact")


# num_samples


@pytest.mark.parametrize("samples", [1, 2, 7, 12, 24, 25, 26, 60])
def test_samples_are_a_linspace_rounded_down_and_no_frame_comes_twice(samples: int, clip: Path) -> None:
    expected = sorted(set(np.linspace(0, 24, samples).astype(int)))
    np.testing.assert_allclose(times_of(read_frames(clip, samples)), np.array(expected) / RATE, atol=1e-6)


def test_twelve_samples_are_the_default(bigbuckbunny: Path) -> None:
    # Its sound is longer than its picture, so the duration of the container suggests one frame too many.
    assert_frames(read_frames(bigbuckbunny), evenly_spaced(132, 12), straight(bigbuckbunny))


def test_samples_are_spread_over_the_time_range(clip: Path) -> None:
    np.testing.assert_allclose(times_of(read_frames(clip, 3, start_time=0.5, end_time=1.5)), [0.5, 1, 1.5], atol=1e-6)


@pytest.mark.parametrize("kind", ["h264", "h264, avi"])
def test_asking_for_more_frames_than_the_video_has_costs_no_more(kind: str, clip_of: Callable[..., Path]) -> None:
    assert len(list(read_frames(clip_of(kind), 10**15))) == 25  # a list of as many numbers would take petabytes


# time_step


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, [0, 1, 2]),
        (0.25, [0, 0.3, 0.5, 0.8, 1, 1.3, 1.5, 1.8, 2, 2.3]),
        (10, [0]),
        (0.05, np.arange(25) / 10),
        (1e-12, np.arange(25) / 10),
        (1e-310, np.arange(25) / 10),
    ],
)
def test_time_steps_take_the_first_frame_at_or_after_each(step: float, expected: list[float], clip: Path) -> None:
    np.testing.assert_allclose(times_of(read_frames(clip, time_step=step)), expected, atol=1e-6)


def test_time_steps_count_from_the_start_time(clip: Path) -> None:
    frames = read_frames(clip, time_step=0.5, start_time=0.45, end_time=2)
    np.testing.assert_allclose(times_of(frames), [0.5, 1, 1.5, 2], atol=1e-6)


# indices


def test_indices_count_from_the_end_in_any_order_and_may_repeat(clip: Path) -> None:
    np.testing.assert_allclose(times_of(read_frames(clip, indices=[-1, 3, 0, 3])), [0, 0.3, 2.4], atol=1e-6)


def test_indices_count_from_the_first_frame_of_the_time_range(clip: Path) -> None:
    np.testing.assert_allclose(times_of(read_frames(clip, indices=[0, 2], start_time=1)), [1, 1.2], atol=1e-6)


def test_indices_can_depend_on_the_number_of_frames(clip: Path) -> None:
    np.testing.assert_allclose(times_of(read_frames(clip, indices=lambda count: [count // 2])), [1.2], atol=1e-6)


# times


@pytest.mark.parametrize(
    ("time", "displayed"), [(0, 0), (0.1, 0.1), (0.1999, 0.1), (1.25, 1.2), (2.4, 2.4), (2.49, 2.4)]
)
def test_a_time_selects_the_frame_that_is_displayed_then(time: float, displayed: float, clip: Path) -> None:
    np.testing.assert_allclose(times_of(read_frames(clip, times=[time])), [displayed], atol=1e-6)


def test_numbers_may_be_those_of_numpy(clip: Path) -> None:
    np.testing.assert_allclose(times_of(read_frames(clip, np.int64(3))), [0, 1.2, 2.4], atol=1e-6)
    np.testing.assert_allclose(times_of(read_frames(clip, times=np.float32([0, 1]))), [0, 1], atol=1e-6)


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples must be a whole number above 0, or None, not 0"),
        ({"num_samples": 2.5}, "num_samples must be"),
        ({"time_step": 0}, "time_step must be a number of seconds above 0, not 0"),
        ({"time_step": float("nan")}, "time_step must be"),
        ({"time_step": 1, "indices": [1]}, "only one of time_step, indices and times"),
        ({"start_time": -1}, "start_time must be at least 0 and at most end_time"),
        ({"start_time": 2, "end_time": 1}, "start_time must be"),
        ({"start_time": float("nan")}, "start_time must be"),
    ],
)
def test_impossible_values_are_errors_before_the_video_is_opened(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputValueError, match=message):
        read_frames("nowhere.mp4", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_step": "1"}, "time_step must be a number of seconds, not str: '1'"),
        ({"start_time": "a"}, "start_time must be a number"),
        ({"end_time": [1]}, "end_time must be a number"),
        ({"times": 5}, "times must be several numbers of seconds, not int: 5"),
        ({"times": ["a"]}, "each of times must be a number of seconds, not str: 'a'"),
    ],
)
def test_wrong_types_are_errors_before_the_video_is_opened(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputTypeError, match=message):
        read_frames("nowhere.mp4", **arguments)


def test_an_unknown_seek_is_an_error_before_the_video_is_opened() -> None:
    with pytest.raises(UnknownNameError, match="unknown seek 'fast'; it must be 'exact' or 'keyframe'"):
        read_frames("nowhere.mp4", seek="fast")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"indices": []}, "no frames are selected: indices and times must not be empty"),
        ({"indices": [25]}, "indices must be whole numbers below 25"),
        ({"indices": [-26]}, "indices must be"),
        ({"indices": [1.5]}, "indices must be"),
        ({"times": [2.6]}, r"no frame is displayed at 2\.6 s: the frames go from 0 s to 2\.4 s"),
        ({"times": [float("nan")]}, "no frame is displayed at nan s"),
        ({"start_time": 30, "end_time": 40}, r"a\.mp4: it has no frame between 30 s and 40 s"),
        ({"start_time": 30, "num_samples": None}, r"no frame between 30 s and its end"),
        ({"start_time": 0.41, "end_time": 0.49}, r"no frame between 0\.41 s and 0\.49 s"),
    ],
)
def test_frames_that_the_video_does_not_have_are_errors(arguments: dict[str, Any], message: str, clip: Path) -> None:
    with pytest.raises(InputValueError, match=message):
        list(read_frames(clip, **arguments))


def test_a_time_range_that_ends_before_the_first_frame_is_an_error(clip_of: Callable[..., Path]) -> None:
    for samples in (None, 12):
        with pytest.raises(InputValueError, match=r"it has no frame between 0 s and 0\.5 s"):
            list(read_frames(clip_of("h264, begins late, ts"), samples, end_time=0.5))
