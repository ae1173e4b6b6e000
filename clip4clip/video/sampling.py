"""Which frames of a video to read: chosen by count, time step, number or time, within a time range."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from ..errors import InputTypeError, InputValueError, UnknownNameError, brief
from .timestamps import TIME_TOLERANCE, KeyedTimeline, Timeline

SEEK_MODES = ("exact", "keyframe")
SEGMENTS = ("auto", "whole", "shots")
WHOLE_SECONDS = 30.0  # longest video that 'auto' does not cut

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


def _check_seconds(name: str, value: object) -> None:
    if not isinstance(value, Real):
        raise InputTypeError(f"{name} must be a number of seconds, not {type(value).__name__}: {brief(value)}")


@dataclass(frozen=True)
class FrameSampling:
    """How a video is cut into segments, and which of its frames represent them. Each segment gets a vector.

    Attributes:
        frames: number of frames of a video that is not cut, spread evenly over it; at least 1.
        seek: ``'exact'`` for exactly the selected frames; ``'keyframe'`` for the key frame nearest to each, which is
            much faster; or ``'auto'`` for exact frames of a video that is not cut and, of one that is cut, for its key
            frames, and for others between key frames that are more than 1.5 times ``every`` apart. Of H.264 and
            HEVC, the pixels of these others are slightly inexact.
        segments: ``'whole'`` cuts nothing; ``'shots'`` cuts a video where its content changes; a number cuts it into
            windows of so many seconds, which overlap by half; ``'auto'`` cuts videos of more than ``WHOLE_SECONDS``
            into shots.
        every: seconds between the frames of a video that is cut.

    Raises:
        InputTypeError, InputValueError, UnknownNameError: a value is invalid.
    """

    frames: int = 12
    seek: str = "auto"
    segments: str | float = "auto"
    every: float = 1.0

    def __post_init__(self) -> None:
        if not _is_count(self.frames):
            raise InputValueError(f"frames must be a whole number above 0, not {self.frames!r}")
        if self.seek not in ("auto", *SEEK_MODES):
            raise UnknownNameError(f"unknown seek {self.seek!r}; it must be 'auto', 'exact' or 'keyframe'")
        _check_seconds("every", self.every)
        if not 0 < self.every < math.inf:
            raise InputValueError(f"every must be a number of seconds above 0, not {self.every!r}")
        if isinstance(self.segments, str):
            if self.segments not in SEGMENTS:
                raise UnknownNameError(
                    f"unknown segments {self.segments!r}; it must be {', '.join(map(repr, SEGMENTS))} or a number of "
                    "seconds"
                )
            return
        _check_seconds("segments", self.segments)
        if not self.every <= self.segments < math.inf:
            raise InputValueError(
                f"segments must be a number of seconds from every = {self.every:g} on, not {self.segments!r}"
            )

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> FrameSampling:
        """Return the sampling whose fields a table or an index has recorded."""
        return cls(record["frames"], record["seek"], record["segments"], record["every"])

    def cuts(self, seconds: float) -> bool:
        """Return whether a video of a length in seconds is cut."""
        return self.segments != "whole" and (self.segments != "auto" or seconds > WHOLE_SECONDS)

    def __str__(self) -> str:
        segments = f"{self.segments!r}" if isinstance(self.segments, str) else f"of {self.segments:g} s"
        return f"{self.frames} frames, seek {self.seek!r}, segments {segments}, every {self.every:g} s"


DEFAULT_SAMPLING = FrameSampling()


@dataclass(frozen=True)
class FrameSelection:
    """Which frames of a video to read: all or some of those within a time range.

    Attributes:
        choose: chooses from the frames within the time range; None for all of them.
        start_time: start of the time range in seconds; 0 for the start of the video.
        end_time: end of the time range in seconds, inclusive; infinity for the end of the video.
        seek: exactly these frames (``'exact'``), the key frame nearest to each (``'keyframe'``), or these frames, whose
            pixels may be slightly inexact if the video is cut (``'auto'``).
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
        if self.seek == "keyframe" and isinstance(timeline, KeyedTimeline):
            return _nearest_key_frames(timeline, frame_range, frames)
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


def select_sampled(sampling: FrameSampling, on_length: Callable[[float], object]) -> FrameSelection:
    """Return the selection of the frames that represent a video or its segments.

    Args:
        sampling: which frames these are.
        on_length: function that gets the time in seconds between the first and the last frame, once it is known.
    """

    def choose(timeline: Timeline, frame_range: range) -> Sequence[int]:
        start = timeline.time_of(frame_range[0])
        length = timeline.time_of(frame_range[-1]) - start
        on_length(length)
        if not sampling.cuts(length):
            return _spread(frame_range, sampling.frames)
        if sampling.seek == "exact" or not isinstance(timeline, KeyedTimeline):
            return _at_steps(timeline, frame_range, start, sampling.every)
        return _at_key_frames(timeline, sampling.every, fill=sampling.seek == "auto")

    return FrameSelection(choose, 0.0, math.inf, sampling.seek)


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


def _at_key_frames(timeline: KeyedTimeline, every: float, fill: bool) -> list[int]:
    """Choose key frames about ``every`` seconds apart.

    A key frame is often where a scene begins, and it is decoded without any other frame.

    Args:
        timeline: the display times of the video.
        every: seconds. Key frames are at least half as far apart; of several, the one nearest to this step is chosen.
        fill: whether to choose other frames, too, where key frames are further apart: one at each step after the first
            of two key frames, but none within half a step of the second one.
    """
    times = timeline.key_times()
    frames: list[int] = []
    gop = 0
    while gop < len(times):
        frames.append(timeline.key_frame(gop))
        next_gop = _next_key_frame(times, gop, every)
        has_next = next_gop < len(times)
        if fill and (not has_next or times[next_gop] - times[gop] > 1.5 * every):
            end = timeline.count_before(times[next_gop] - every / 2) if has_next else timeline.count
            start = timeline.time_of(frames[-1])
            first = timeline.count_before(start + every)
            frames += _at_steps(timeline, range(first, end), start, every) if first < end else []
        gop = next_gop
    return frames


def _next_key_frame(times: np.ndarray, gop: int, every: float) -> int:
    """Return the number of the GOP whose key frame is chosen after that of another GOP; ``len(times)`` for none."""
    first, after = np.searchsorted(times, times[gop] + np.array([0.5, 1.5]) * every + [-TIME_TOLERANCE, TIME_TOLERANCE])
    first = max(int(first), gop + 1)
    candidates = times[first : max(int(after), first + 1)]
    return first + int(np.abs(candidates - times[gop] - every).argmin()) if len(candidates) else len(times)


def _nearest_key_frames(timeline: KeyedTimeline, frame_range: range, frames: Sequence[int]) -> list[int]:
    """Return the key frame nearest to each frame, each once, within the range if it has any."""
    key_frames = timeline.key_frames
    first, end = np.searchsorted(key_frames, (frame_range.start, frame_range.stop))
    if first == end:
        first, end = 0, len(key_frames)
    candidates = key_frames[first:end]
    middles = (candidates[:-1] + candidates[1:]) / 2
    return [timeline.key_frame(int(gop)) for gop in first + np.unique(np.searchsorted(middles, frames))]


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
