"""A video to its frames, sampled: planned first, then decoded no further than each frame wanted needs it.

Frames are what the file says, at their display orientation, but neither stretched to square pixels nor deinterlaced.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import operator
import struct
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Real
from queue import SimpleQueue
from typing import cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from ..errors import InputTypeError, InputValueError, UnknownNameError, VideoError, brief
from .container import DEFAULT_LIMITS, THREADED_PIXELS, Container, Limits, Source, name_of
from .frame_index import TIME_TOLERANCE, FrameIndex, RisingTimes, Times, WrongIndexError, by_packets, timeline
from .tonemap import is_hdr, to_sdr

logger = logging.getLogger(__name__)

SEEKS = ("exact", "keyframe")
KEPT_PIXELS = 16_000_000  # of all frames together, of a video that must be decoded to know which are wanted
AHEAD_PIXELS = 64_000_000  # of the frames that are decoded before they are asked for
GAP = 8  # frames that are rather decoded than jumped over

Choice = Callable[[Times | FrameIndex, range], Sequence[int]]


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        rgb: uint8 of shape (height, width, 3), at its display orientation.
        time: presentation time in seconds, as the file says it.
        key_frame: whether it is decoded without any other frame.
    """

    rgb: np.ndarray
    time: float
    key_frame: bool


@dataclass
class VideoInfo:
    """What is known of a video.

    Attributes:
        frame_count: how many frames it has; None where that is not known without decoding it.
        duration: seconds, as the file says it; None where it does not.
    """

    frame_count: int | None = None
    duration: float | None = None


class Frames(Iterator[Frame]):
    """The frames that :func:`read_frames` gives, as they come.

    Attributes:
        info: of their video; complete once the first frame is there.
    """

    def __init__(self, frames: Generator[Frame, None, None], info: VideoInfo) -> None:
        self.info = info
        self._frames = frames

    def __next__(self) -> Frame:
        return next(self._frames)

    def close(self) -> None:
        """Closes the video, before its last frame is taken."""
        self._frames.close()


def read_frames(
    source: Source,
    num_samples: int | None = 12,
    *,
    time_step: float | None = None,
    indices: Iterable[int] | Callable[[int], Iterable[int]] | None = None,
    times: Iterable[float] | None = None,
    start_time: float | None = None,
    end_time: float | None = None,
    seek: str = "exact",
    threads: int = 0,
    limits: Limits = DEFAULT_LIMITS,
) -> Frames:
    """Frames of a video, lazily, in the order in which they are shown, none of them twice.

    What it costs depends on the frames that are wanted and not on the length of the video. A video of which fewer
    frames can be had than are wanted gives each of them once, as does a still image its one.

    Args:
        source: local path, http(s) URL, the bytes of a file, or a binary file object, which is read from its beginning.
        num_samples: how many, spread evenly: those at ``linspace(0, n - 1, num_samples)``, cut to whole numbers, of the
            n frames there are. None for every frame. Not looked at with one of the next three.
        time_step: seconds: for each of the times ``start_time + k * time_step`` the first frame at or after it.
        indices: numbers of frames, from 0, or from -1 backwards; or a function from how many there are to such numbers.
        times: seconds: for each the frame that is shown then.
        start_time: seconds, as the file counts them; the frames shown before it are as if they were not there.
        end_time: seconds; likewise the frames shown after it.
        seek: ``'exact'``, or ``'keyframe'`` for the key frame nearest to each frame wanted, for a small part of the
            cost. Videos whose key frames are not known give the exact frames.
        threads: how many the decoder may use; 0 for one per core. To read several videos at once, give each 1.
        limits: how much work the video may make; see :class:`clip4clip.video.container.Limits`.

    Raises:
        VideoNotFoundError: when there is nothing at ``source``.
        VideoError: when it is no video, has no picture stream, is over a limit, or no frame wanted can be decoded.
            Damage is no error: the frames that can be had are given, and one warning counts what was lost.
        InputValueError: for arguments that cannot be, and times or numbers at which the video has no frame.
        InputTypeError, UnknownNameError: for another kind of source or of time, or of seek.
    """
    for name, given in (("time_step", time_step), ("start_time", start_time), ("end_time", end_time)):
        if given is not None:
            _check_seconds(name, given)
    choose = _choice(num_samples, time_step, indices, times, start_time or 0.0)
    start, end = start_time or 0.0, math.inf if end_time is None else end_time
    if not 0 <= start <= end:
        raise InputValueError(
            f"start_time must be at least 0 and at most end_time, but they are {start_time!r} and {end_time!r}"
        )
    if seek not in SEEKS:
        raise UnknownNameError(f"unknown seek {seek!r}; it must be {' or '.join(map(repr, SEEKS))}")
    name_of(source)
    info = VideoInfo()
    return Frames(_read(source, choose, start, end, seek == "keyframe", threads, limits, info), info)


def _check_seconds(name: str, given: object) -> None:
    if not isinstance(given, Real):
        raise InputTypeError(f"{name} must be a number of seconds, not {type(given).__name__}: {brief(given)}")


def _choice(
    num_samples: int | None,
    time_step: float | None,
    indices: Iterable[int] | Callable[[int], Iterable[int]] | None,
    times: Iterable[float] | None,
    start: float,
) -> Choice | None:
    """Which numbers are wanted among those between two times; None for all of them."""
    if sum(given is not None for given in (time_step, indices, times)) > 1:
        raise InputValueError("only one of time_step, indices and times can be given")
    if time_step is not None:
        if not time_step > 0:
            raise InputValueError(f"time_step must be a number of seconds above 0, not {time_step!r}")
        return lambda shown, among: _at_steps(shown, among, start, time_step)
    if indices is not None:
        return lambda _, among: _at_indices(among, indices(len(among)) if callable(indices) else indices)
    if times is not None:
        if not isinstance(times, Iterable):
            raise InputTypeError(
                f"times must be several numbers of seconds, not {type(times).__name__}: {brief(times)}"
            )
        seconds = list(times)  # it may be asked for twice
        for time in seconds:
            _check_seconds("each of times", time)
        return lambda shown, among: [_at_time(shown, among, time) for time in seconds]
    if num_samples is None:
        return None
    try:
        count = operator.index(num_samples)
    except TypeError:
        count = 0
    if count <= 0:
        raise InputValueError(f"num_samples must be a whole number above 0, or None, not {num_samples!r}")
    return lambda _, among: _spread(among, count)


def _spread(among: range, count: int) -> Sequence[int]:
    if count >= len(among):
        return among
    numbers: list[int] = np.linspace(among[0], among[-1], count).astype(int).tolist()
    return numbers


def _at_steps(shown: Times | FrameIndex, among: range, start: float, step: float) -> list[int]:
    numbers = []
    step = max(step, TIME_TOLERANCE)  # which takes every frame
    number = max(shown.before(start), among[0])
    while number <= among[-1]:
        numbers.append(number)
        steps = math.floor((shown.time(number) + TIME_TOLERANCE - start) / step) + 1
        number = max(shown.before(start + steps * step), number + 1)
    return numbers


def _at_indices(among: range, indices: Iterable[int]) -> list[int]:
    try:
        return [among[operator.index(index)] for index in indices]
    except (IndexError, TypeError) as error:
        raise InputValueError(
            f"indices must be whole numbers below {len(among)}, which is how many frames there are: {error}"
        ) from error


def _at_time(shown: Times | FrameIndex, among: range, time: float) -> int:
    first, last = shown.time(among[0]), shown.time(among[-1])
    # How long the last frame is shown is seldom told.
    interval = (last - first) / (len(among) - 1) if len(among) > 1 else math.inf
    if not first - TIME_TOLERANCE <= time <= last + interval:
        raise InputValueError(f"no frame is shown at {time!r} s: there are frames from {first:g} s to {last:g} s")
    return min(shown.before(time + 2 * TIME_TOLERANCE) - 1, among[-1])


def _read(
    source: Source,
    choose: Choice | None,
    start: float,
    end: float,
    only_keys: bool,
    threads: int,
    limits: Limits,
    info: VideoInfo,
) -> Generator[Frame, None, None]:
    given = False
    with Container(source, threads, limits) as container:
        info.duration = container.duration
        for time, frame in _wanted(container, choose, start, end, only_keys, info):
            yield _convert(time, frame)
            given = True
        if not given and choose and container.stream.width:
            raise VideoError(f"{container.name}: none of the frames asked for can be decoded: it is cut off or damaged")
        if not given:
            limit = "" if container.stream.width else f", or they are over the limit of {limits.pixels:,} pixels"
            raise VideoError(f"{container.name}: no frame of its video stream can be decoded{limit}")
        faults = []
        if container.damage:
            faults.append(f"it is damaged: {container.damage} of its packets or frames are lost, or not as they were")
        if container.has_wrong_times:
            faults.append("its time stamps are missing, repeat or fall: its frames got times that rise")
        if faults:
            logger.warning("%s: %s", container.name, "; ".join(faults))


def _wanted(
    container: Container, choose: Choice | None, start: float, end: float, only_keys: bool, info: VideoInfo
) -> Iterator[tuple[float, av.VideoFrame]]:
    if choose is None and not start and not only_keys:
        for number, (time, frame) in enumerate(_decode_all(container)):
            if time > end + TIME_TOLERANCE:
                if not number:
                    raise _no_frame_between(container, start, end)
                return
            yield time, frame
        return
    plan = _plan(container, choose, start, end)
    if plan is None:
        container.damage = 0  # what is damaged is found again
        container.rewind()
        yield from _choose_among_decoded(container, choose, start, end, info)
        return
    line, among, numbers = plan
    info.frame_count = line.count
    frames = _key_frames(container, line, numbers, among) if only_keys else _exact_frames(container, line, numbers)
    given, last = 0, -math.inf
    try:
        for frame in frames:
            last = container.seconds(frame.pts)
            yield last, frame
            given += 1
    except WrongIndexError as error:
        logger.debug("%s", error)
        container.damage = 0
        container.rewind()
        rest = itertools.islice(_choose_among_decoded(container, choose, start, end, info), given, None)
        yield from ((time, frame) for time, frame in rest if time > last)


def _plan(
    container: Container, choose: Choice | None, start: float, end: float
) -> tuple[FrameIndex, range, Sequence[int]] | None:
    """The timeline of a video, the frames between two times, and which of them are wanted; None without a timeline."""
    for find in (timeline, by_packets):
        line = find(container)
        if line is None:
            return None
        try:
            among = _between(container, line, start, end)
            return line, among, _numbers(choose, line, among)
        except WrongIndexError as error:
            logger.debug("%s", error)
            container.damage = 1  # the index; what else is damaged is found again
            container.rewind()
    return None


def _between(container: Container, shown: Times | FrameIndex, start: float, end: float) -> range:
    first = shown.before(start) if start else 0
    among = range(first, shown.count if end == math.inf else shown.before(end + 2 * TIME_TOLERANCE))
    if shown.count and not among:
        raise _no_frame_between(container, start, end)
    return among


def _no_frame_between(container: Container, start: float, end: float) -> InputValueError:
    until = "its end" if end == math.inf else f"{end:g} s"
    return InputValueError(f"{container.name}: it has no frame between {start:g} s and {until}")


def _numbers(choose: Choice | None, shown: Times | FrameIndex, among: range) -> Sequence[int]:
    """Which frames are wanted, rising; of those between two times."""
    numbers = among if choose is None else sorted(set(choose(shown, among)))
    if not numbers:
        raise InputValueError("no frame is wanted: neither indices nor times may be empty")
    return numbers


def _exact_frames(container: Container, line: FrameIndex, numbers: Iterable[int]) -> Iterator[av.VideoFrame]:
    """Several parts at once while all is well, each with a decoder of its own; else one after the other.

    Decoders that know nothing of each other use the cores better than the threads of one.
    """
    left = deque(numbers)
    parts = list(_parts(line, left))
    workers = _workers(container, max(map(len, parts)), len(parts))
    if workers > 1:
        with contextlib.ExitStack() as stack:
            idle: SimpleQueue[Container] = SimpleQueue()
            for _ in range(workers):
                idle.put(stack.enter_context(container.again(max(container.cores // workers, 1))))
            pool = stack.enter_context(ThreadPoolExecutor(workers))
            stack.callback(pool.shutdown, cancel_futures=True)

            def decode(part: list[int]) -> list[av.VideoFrame]:
                own = idle.get()
                try:
                    found = list(_decode_from(own, line.on(own), line.group(part[0]), part))
                finally:
                    idle.put(own)
                sound = not own.damage and [number for number, _ in found] == part
                return [frame for _, frame in found] if sound else []

            ahead = deque(pool.submit(decode, part) for part in parts[:workers])
            for later in itertools.chain(parts[workers:], itertools.repeat(None, workers)):
                frames = ahead.popleft().result()
                if not frames:
                    break
                for frame in frames:
                    left.popleft()
                    yield frame
                if later:
                    ahead.append(pool.submit(decode, later))
    yield from _exact_frames_in_turn(container, line, left)


def _workers(container: Container, longest: int, parts: int) -> int:
    """How many parts of at most so many frames to decode at once."""
    pixels = container.stream.width * container.stream.height
    if pixels <= THREADED_PIXELS or not container.can_open_again:
        return 1
    return min(container.cores, parts, AHEAD_PIXELS // max(longest * pixels, 1))


def _exact_frames_in_turn(container: Container, line: FrameIndex, numbers: Iterable[int]) -> Iterator[av.VideoFrame]:
    """Part by part, each from its key frame to the last frame wanted and no further.

    Where frames are missing, what the file calls a key frame may be none, or the file is damaged: then from the key
    frame before, and if that does not help, all the rest from the beginning.
    """
    left = deque(numbers)
    while left:
        part = next(_parts(line, left))
        group, damage = line.group(part[0]), container.damage
        for start in range(group, max(group - 2, -1), -1):
            container.damage = damage
            for number, frame in _decode_from(container, line, start, part):
                if number != left[0] or frame.is_corrupt:
                    break
                left.popleft()
                yield frame
            part = [number for number in part if left and number >= left[0]]
            if not part:
                break
        else:
            container.damage = damage
            yield from _what_can_be_had(container, line, left)
            return


def _what_can_be_had(container: Container, line: FrameIndex, numbers: Iterable[int]) -> Iterator[av.VideoFrame]:
    """From the beginning, without those that are missing."""
    left = deque(numbers)
    for number, frame in _decode_from(container, line, 0, left):
        while left and left[0] < number:
            left.popleft()
            container.damage += 1
        if left and left[0] == number:  # else it comes after frames that are shown later
            left.popleft()
            yield frame
    container.damage += len(left)


def _parts(line: FrameIndex, numbers: Iterable[int]) -> Iterator[list[int]]:
    """Frames that are decoded in one go: those of one group, and of the next if only a few frames lie between them."""
    part: list[int] = []
    for number in numbers:
        if part and number - part[-1] > GAP and line.group(number) != line.group(part[-1]):
            yield part
            part = []
        part.append(number)
    yield part


def _decode_from(
    container: Container, line: FrameIndex, group: int, numbers: Iterable[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames wanted that come of decoding from a group's key frame on, with their numbers."""
    container.flush()
    left = set(numbers)
    due: dict[int, int] = {}  # number of each frame wanted that the decoder was given, by its time stamp
    first, last = None, -math.inf

    def wanted(frames: Iterable[av.VideoFrame]) -> Iterator[tuple[int, av.VideoFrame]]:
        nonlocal last
        for frame in frames:
            if frame.pts is None:
                continue
            if frame.pts < last:
                raise WrongIndexError(f"{container.name}: its time stamps fall, so that they do not number its frames")
            last = frame.pts
            if frame.pts in due:
                yield due.pop(frame.pts), frame

    for packet, number in line.packets(group):
        stamp = cast("int", packet.pts)
        first = stamp if first is None else first  # not its number: an edit list may hide it
        is_wanted = number in left
        if is_wanted:
            if stamp < first and group:
                return  # shown before the key frame, it needs the group before
            due[stamp] = number
            left.remove(number)
        container.skip_unreferenced(not is_wanted)
        yield from wanted(container.decode(packet))
        if not left:
            break
    yield from wanted(container.decode(None))


def _key_frames(
    container: Container, line: FrameIndex, numbers: Sequence[int], among: range
) -> Iterator[av.VideoFrame]:
    first, end = np.searchsorted(line.keys, (among.start, among.stop))
    within = np.arange(first, end) if first < end else np.arange(len(line.keys))
    nearest = {int(within[np.abs(line.keys[within] - number).argmin()]) for number in numbers}
    groups = sorted(nearest)
    for place, group in enumerate(groups):
        container.flush()
        container.skip_unreferenced(False)
        packets = [packet for packet, _ in itertools.islice(line.packets(group), 1)]
        frames = [frame for packet in [*packets, None] for frame in container.decode(packet)]
        if not frames:  # what the file calls a key frame needs others, or is not shown
            yield from _exact_frames(container, line, sorted({int(line.keys[group]) for group in groups[place:]}))
            return
        yield frames[0]


def _choose_among_decoded(
    container: Container, choose: Choice | None, start: float, end: float, info: VideoInfo
) -> Iterator[tuple[float, av.VideoFrame]]:
    """For a video without a timeline: decoded to its end, and if that cannot be kept, once more."""
    kept: list[tuple[float, av.VideoFrame]] = []
    seconds: list[float] = []
    pixels = 0
    for time, frame in _decode_all(container):
        seconds.append(time)
        pixels += frame.width * frame.height
        if pixels <= KEPT_PIXELS:
            kept.append((time, frame))
    info.frame_count = len(seconds)
    shown = Times(np.array(seconds))
    among = _between(container, shown, start, end)
    if not seconds:
        return
    wanted = _numbers(choose, shown, among)
    if len(kept) == len(seconds):
        yield from (kept[number] for number in wanted)
        return
    container.damage = 0
    container.rewind()
    left = deque(wanted)
    for number, timed in enumerate(_decode_all(container)):
        if number == left[0]:
            yield timed
            left.popleft()
        if not left:
            return


def _decode_all(container: Container) -> Iterator[tuple[float, av.VideoFrame]]:
    """Every frame from the beginning, with its time."""
    times = RisingTimes(container)
    for packet in itertools.chain(container.packets(), [None]):  # None: what the decoder still holds
        damage = container.damage
        if packet is not None:
            times.feed(packet)
        frames = container.decode(packet)
        if packet is not None and container.damage > damage and not frames:
            times.lose()
        for frame in frames:
            time = times.next(frame)
            if time is None:
                container.damage += 1
            else:
                yield time, frame


_of_thread = threading.local()


def _convert(time: float, frame: av.VideoFrame) -> Frame:
    # Kept, and without threads: to set up either for every frame costs more than to convert a small one.
    if not hasattr(_of_thread, "reformatter"):
        _of_thread.reformatter = VideoReformatter()
    if is_hdr(frame):
        rgb = to_sdr(frame, _of_thread.reformatter)
    else:
        rgb = _of_thread.reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    return Frame(np.ascontiguousarray(_orient(frame, rgb)), time, bool(frame.key_frame))


def _orient(frame: av.VideoFrame, rgb: np.ndarray) -> np.ndarray:
    """Turn and mirror a picture as its display matrix says; angles in between go to the nearest quarter turn."""
    try:
        matrix = cast("bytes | None", frame.side_data.get("DISPLAYMATRIX"))  # a buffer
    except ValueError:  # PyAV does not know all kinds of side data (EXIF), and then gives none, but the angle
        return np.rot90(rgb, round(frame.rotation / 90) % 4)  # counter-clockwise, both
    if matrix is None:
        return rgb
    # A pixel at (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    if abs(b) + abs(c) > abs(a) + abs(d):
        rgb, a, d = rgb.swapaxes(0, 1), c, b
    return rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
