"""Read a few frames of a video, or of a part of it, by seeking."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import av

from ..errors import VideoError
from .container import Container
from .key_frames import TIME_ROUNDING, KeyFrameError, find_key_frame, packet_time
from .limits import DEFAULT_LIMITS, Limits
from .reader import Frame, read_frames
from .rgb import to_rgb
from .source import Source
from .timestamps import DEFAULT_FRAME_RATE

KEY_FRAME_SHARE = 0.25  # of a part of the range; a key frame this much before the middle of a part is shown instead
MAX_STEP = 2.5  # seconds to decode on to the next frame, rather than seek: GOPs may be longer


def read_stills(
    source: Source,
    count: int,
    start_time: float | None = None,
    end_time: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> list[Frame]:
    """Return the frames displayed in the middles of ``count`` equal parts of a video, or of a range of it.

    The cost does not depend on the length of the video. :func:`clip4clip.video.read_frames`, which finds frames also by
    their numbers, has to read a whole Matroska or MPEG-TS file for that, and to decode a whole AVI.

    In place of a frame, the key frame before it is returned if it comes less than a quarter of a part earlier.

    Args:
        source: as for :func:`clip4clip.video.read_frames`.
        count: number of frames; at least 1.
        start_time: seconds, as stated by the file; None for the start of the video.
        end_time: seconds, likewise; None for its end. If it is ``start_time``, the frame displayed then is returned.
        limits: how much work the video may cause.

    Returns:
        ``count`` frames in display order. If the video has fewer, some of them are repeated.

    Raises:
        VideoNotFoundError, VideoError, InputTypeError: as for :func:`clip4clip.video.read_frames`.
        InputValueError: the video ends before ``start_time``.
    """
    try:
        with Container(source, limits) as container:
            start, end = _range(container, start_time, end_time)
            step = (end - start) / count
            frames = _FramesBySeeking(container)
            times = [start + (number + 0.5) * step for number in range(count)]
            return [frames.at(time, KEY_FRAME_SHARE * step) for time in times]
    except KeyFrameError:
        return _read_completely(source, count, start_time, end_time, limits)


def _range(container: Container, start_time: float | None, end_time: float | None) -> tuple[float, float]:
    """Return the times in seconds of the part of a range that the video has.

    Raises:
        KeyFrameError: one of them is the end of the video, which it does not state.
    """
    first = float(container.seconds(container.stream.start_time or 0))
    start = first if start_time is None else start_time
    if end_time is not None and (container.duration is None or end_time == start):
        return start, end_time
    if container.duration is None:
        raise KeyFrameError(f"{container.name}: it does not state its length")
    last = first + container.duration
    end = last if end_time is None else min(end_time, last)
    return start, max(start, end)


def _read_completely(
    source: Source, count: int, start_time: float | None, end_time: float | None, limits: Limits
) -> list[Frame]:
    """Return the same frames of a video that cannot seek."""
    if start_time is not None and start_time == end_time:
        frames = list(read_frames(source, times=[start_time], limits=limits))
    else:

        def middles(length: int) -> Sequence[int]:
            return [(2 * number + 1) * length // (2 * count) for number in range(count)]

        frames = list(read_frames(source, indices=middles, start_time=start_time, end_time=end_time, limits=limits))
    return [frames[number * len(frames) // count] for number in range(count)]


class _FramesBySeeking:
    """Read frames at rising times, each decoded from the key frame before it, or from the frame before.

    Args:
        container: the video.
    """

    def __init__(self, container: Container) -> None:
        container.skip_loop_filter()  # frames are shown small, where nobody sees the difference
        self._container = container
        self._frame_interval = float(1 / (container.stream.average_rate or DEFAULT_FRAME_RATE))
        self._decoded: Iterator[tuple[float, av.VideoFrame]] = iter(())
        self._shown: tuple[float, av.VideoFrame] | None = None  # a time and the frame that is displayed from then on
        self._next: tuple[float, av.VideoFrame] | None = None  # the frame after it, once it is decoded
        self._wanted = -math.inf  # time of the frame that is looked for

    def at(self, time: float, tolerance: float) -> Frame:
        """Return the frame displayed at a time, or a key frame up to ``tolerance`` seconds before it."""
        self._wanted = time
        if self._shown is None or time - self._shown[0] > MAX_STEP:
            key_frame = find_key_frame(self._container, time)
            key_time = float(packet_time(key_frame, self._container.name))
            if time - key_time <= tolerance:
                self._wanted = key_time
            self._decoded = self._decode_from(key_frame)
            self._shown = self._next = None
        while self._next is None or self._next[0] <= self._wanted + TIME_ROUNDING:
            self._shown = self._next or self._shown
            self._next = next(self._decoded, None)
            if self._next is None:
                break
        shown = self._shown or self._next  # the latter if the video begins after this time
        if shown is None:
            raise VideoError(f"{self._container.name}: the frame at {time:g} s cannot be decoded: the file is damaged")
        return Frame(to_rgb(shown[1]), shown[0], bool(shown[1].key_frame))

    def _decode_from(self, key_frame: av.Packet) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yield the frames from a key frame on, with the times from which they are displayed, in seconds."""
        container, has_started = self._container, False
        container.flush()
        for packet in container.packets():
            has_started = has_started or (packet.pts, packet.dts) == (key_frame.pts, key_frame.dts)
            if not has_started:
                continue
            # Several intervals: a frame that is displayed for long may come before the one that is looked for.
            is_early = packet_time(packet, container.name) < self._wanted - 4 * self._frame_interval
            container.skip_unreferenced(is_early)
            yield from self._timed(container.decode(packet))
        yield from self._timed(container.decode(None))

    def _timed(self, frames: Sequence[av.VideoFrame]) -> Iterator[tuple[float, av.VideoFrame]]:
        for frame in frames:
            timestamp = frame.dts if frame.pts is None else frame.pts
            if timestamp is not None:
                yield float(self._container.seconds(timestamp)), frame
