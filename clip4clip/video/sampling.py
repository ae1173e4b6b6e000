"""Which frames of a video to read: chosen by count, time step, number or time, within a time range."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from ..errors import InputTypeError, InputValueError, UnknownNameError, brief
from .timestamps import TIME_TOLERANCE, Timeline

SEEK_MODES = ("exact", "keyframe")

Indices = Iterable[int] | Callable[[int], Iterable[int]]
# A function that chooses frames, in any order, from a timeline and the range of frame numbers to choose from.
Choice = Callable[[Timeline, range], Sequence[int]]


def _is_count(value: object) -> bool:
    """Return whether a value is a whole number above 0."""
    try:
        return operator.index(value) > 0  # type: ignore[arg-type]
    except TypeError:
        return False


def _check_seek(seek: str) -> None:
    if seek not in SEEK_MODES:
        raise UnknownNameError(f"unknown seek {seek!r}; it must be {' or '.join(map(repr, SEEK_MODES))}")


@dataclass(frozen=True)
class FrameSampling:
    """How the frames that represent a video are sampled from it.

    Attributes:
        frames: number of frames, spread evenly over the video; at least 1.
        seek: ``'exact'`` for exactly these frames, or ``'keyframe'`` for the key frame nearest to each, which is much
            faster. See :func:`clip4clip.video.read_frames`.

    Raises:
        InputValueError: ``frames`` is not a whole number above 0.
        UnknownNameError: ``seek`` is not one of the two modes.
    """

    frames: int = 12
    seek: str = "exact"

    def __post_init__(self) -> None:
        if not _is_count(self.frames):
            raise InputValueError(f"frames must be a whole number above 0, not {self.frames!r}")
        _check_seek(self.seek)

    def __str__(self) -> str:
        return f"{self.frames} frames, seek {self.seek!r}"


DEFAULT_SAMPLING = FrameSampling()


@dataclass(frozen=True)
class FrameSelection:
    """Which frames of a video to read: all or some of those within a time range.

    Attributes:
        choose: chooses from the frames within the time range; None for all of them.
        start_time: start of the time range in seconds; 0 for the start of the video.
        end_time: end of the time range in seconds, inclusive; infinity for the end of the video.
        seek: one of ``SEEK_MODES``: exactly these frames, or the key frame nearest to each.
    """

    choose: Choice | None
    start_time: float
    end_time: float
    seek: str

    def frame_range(self, timeline: Timeline, name: str) -> range:
        """Return the numbers of the frames within the time range.

        Args:
            timeline: the display times of the video.
            name: name of the video, for messages.

        Raises:
            InputValueError: the video has frames, but none within the time range.
        """
        first = timeline.count_before(self.start_time) if self.start_time else 0
        end = timeline.count
        if self.end_time != math.inf:
            end = timeline.count_before(self.end_time + 2 * TIME_TOLERANCE)
        if timeline.count and first >= end:
            raise self.no_frame_error(name)
        return range(first, end)

    def frames(self, timeline: Timeline, frame_range: range) -> Sequence[int]:
        """Return the numbers of the selected frames, rising.

        Args:
            timeline: the display times of the video.
            frame_range: the frames within the time range; at least one.

        Raises:
            InputValueError: the choice is empty, or names a frame or a time that the video does not have.
        """
        frames = frame_range if self.choose is None else sorted(set(self.choose(timeline, frame_range)))
        if not frames:
            raise InputValueError("no frames are selected: indices and times must not be empty")
        return frames

    def no_frame_error(self, name: str) -> InputValueError:
        """Return the error to raise when a video has no frame within the time range."""
        end = "its end" if self.end_time == math.inf else f"{self.end_time:g} s"
        return InputValueError(f"{name}: it has no frame between {self.start_time:g} s and {end}")


def select_frames(
    num_samples: int | None,
    *,
    time_step: float | None,
    indices: Indices | None,
    times: Iterable[float] | None,
    start_time: float | None,
    end_time: float | None,
    seek: str,
) -> FrameSelection:
    """Check the arguments of :func:`clip4clip.video.read_frames` and return which frames they select.

    Raises:
        InputTypeError, InputValueError, UnknownNameError: an argument is invalid whatever the video is.
    """
    for name, seconds in (("time_step", time_step), ("start_time", start_time), ("end_time", end_time)):
        if seconds is not None:
            _check_seconds(name, seconds)
    start, end = start_time or 0.0, math.inf if end_time is None else end_time
    choose = _choice(num_samples, time_step, indices, times, start)
    if not 0 <= start <= end:
        raise InputValueError(f"start_time must be at least 0 and at most end_time, but they are {start!r} and {end!r}")
    _check_seek(seek)
    return FrameSelection(choose, start, end, seek)


def _check_seconds(name: str, value: object) -> None:
    if not isinstance(value, Real):
        raise InputTypeError(f"{name} must be a number of seconds, not {type(value).__name__}: {brief(value)}")


def _choice(
    num_samples: int | None,
    time_step: float | None,
    indices: Indices | None,
    times: Iterable[float] | None,
    start: float,
) -> Choice | None:
    """Return the choice that the arguments describe; None for all frames."""
    if sum(argument is not None for argument in (time_step, indices, times)) > 1:
        raise InputValueError("only one of time_step, indices and times can be given")
    if time_step is not None:
        if not time_step > 0:
            raise InputValueError(f"time_step must be a number of seconds above 0, not {time_step!r}")
        return lambda timeline, frame_range: _at_steps(timeline, frame_range, start, time_step)
    if indices is not None:
        return lambda _, frame_range: _at_indices(frame_range, indices)
    if times is not None:
        if not isinstance(times, Iterable):
            raise InputTypeError(
                f"times must be several numbers of seconds, not {type(times).__name__}: {brief(times)}"
            )
        seconds = list(times)  # the choice may be made twice
        for time in seconds:
            _check_seconds("each of times", time)
        return lambda timeline, frame_range: [_at_time(timeline, frame_range, time) for time in seconds]
    if num_samples is None:
        return None
    if not _is_count(num_samples):
        raise InputValueError(f"num_samples must be a whole number above 0, or None, not {num_samples!r}")
    return lambda _, frame_range: _spread(frame_range, operator.index(num_samples))


def _spread(frame_range: range, count: int) -> Sequence[int]:
    """Choose ``count`` frames, spread evenly; all frames if there are fewer."""
    if count >= len(frame_range):
        return frame_range
    frames: list[int] = np.linspace(frame_range[0], frame_range[-1], count).astype(int).tolist()
    return frames


def _at_steps(timeline: Timeline, frame_range: range, start: float, step: float) -> list[int]:
    """Choose the first frame at or after each of the times ``start + k * step``."""
    frames = []
    step = max(step, TIME_TOLERANCE)  # this already takes every frame
    frame = max(timeline.count_before(start), frame_range[0])
    while frame <= frame_range[-1]:
        frames.append(frame)
        next_step = math.floor((timeline.time_of(frame) + TIME_TOLERANCE - start) / step) + 1
        frame = max(timeline.count_before(start + next_step * step), frame + 1)
    return frames


def _at_indices(frame_range: range, indices: Indices) -> list[int]:
    """Choose frames by number, counted from the first frame of the range, or from behind its last frame if below 0."""
    count = len(frame_range)
    numbers = indices(count) if callable(indices) else indices
    try:
        return [frame_range[operator.index(number)] for number in numbers]
    except (IndexError, TypeError) as error:
        raise InputValueError(
            f"indices must be whole numbers below {count}, the number of frames to choose from: {error}"
        ) from error


def _at_time(timeline: Timeline, frame_range: range, time: float) -> int:
    """Choose the frame that is displayed at a time."""
    first, last = timeline.time_of(frame_range[0]), timeline.time_of(frame_range[-1])
    # Files seldom state how long the last frame is displayed: take the average of the others.
    interval = (last - first) / (len(frame_range) - 1) if len(frame_range) > 1 else math.inf
    if not first - TIME_TOLERANCE <= time <= last + interval:
        raise InputValueError(f"no frame is displayed at {time!r} s: the frames go from {first:g} s to {last:g} s")
    return min(timeline.count_before(time + 2 * TIME_TOLERANCE) - 1, frame_range[-1])
