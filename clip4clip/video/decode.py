"""Decode the selected frames of a video, and as few others as possible.

A frame index says which frames to select and from which key frames to decode them. Several groups of pictures (GOPs)
are decoded in parallel. A video without a reliable index is decoded completely; the selected frames are the same.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import cast

import av
import numpy as np

from .container import MAX_SINGLE_THREAD_PIXELS, Container
from .frame_index import FrameIndex, WrongIndexError, build_frame_index, index_from_packets
from .sampling import FrameSelection
from .timestamps import TIME_TOLERANCE, ArrayTimeline, MonotonicTimes

logger = logging.getLogger(__name__)

MAX_BUFFERED_PIXELS = 16_000_000  # of all frames, if a video is decoded completely before frames are selected
MAX_PREFETCHED_PIXELS = 64_000_000  # of all frames that are decoded in parallel before the caller takes them
MAX_INEXACT_GOP = 20.0  # seconds; in longer GOPs, too much error would add up from frame to frame
MAX_GAP = 8  # frames between two selected ones: decoding so few is faster than a seek


@dataclass
class VideoInfo:
    """What is known about a video.

    Attributes:
        frame_count: number of frames; None if unknown, because the video was not decoded to its end.
        duration: seconds, as stated by the file; None if it does not state it.
        is_cut: whether :func:`clip4clip.video.reader.read_sampled` selected the frames of a video that is cut.
    """

    frame_count: int | None = None
    duration: float | None = None
    is_cut: bool = False


@dataclass(frozen=True)
class _Plan:
    """The frames to decode.

    Attributes:
        index: the frames and key frames of the video.
        frames: the selected frames, rising.
    """

    index: FrameIndex
    frames: Sequence[int]


def decode_frames(
    container: Container, selection: FrameSelection, info: VideoInfo
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Decode the selected frames, in display order.

    Args:
        container: a video at its first packet. Its ``damage`` counts what is lost.
        selection: the frames to decode.
        info: gets the number of frames, if it is known.

    Yields:
        The display time in seconds and the frame. Frames that cannot be decoded are left out.

    Raises:
        InputValueError: the video has no such frame.
        VideoError: the video exceeds a limit.
    """
    if selection.choose is None and not selection.start_time and selection.seek == "exact":
        yield from _decode_until_end_time(container, selection)
        return
    plan = _plan(container, selection)
    if plan is None:
        _restart(container)
        yield from _decode_all_and_select(container, selection, info)
        return
    info.frame_count = plan.index.count
    if selection.seek == "auto" and info.is_cut and _may_be_inexact(plan):
        container.skip_loop_filter()
    count, last_time = 0, -math.inf
    try:
        for frame in _decode_exact(container, plan.index, plan.frames):
            last_time = container.seconds(frame.pts)
            yield last_time, frame
            count += 1
    except WrongIndexError as error:
        logger.debug("%s", error)
        _restart(container)
        rest = itertools.islice(_decode_all_and_select(container, selection, info), count, None)
        yield from ((time, frame) for time, frame in rest if time > last_time)


def _restart(container: Container) -> None:
    """Go back to the first packet, and count damage from 0 again."""
    container.damage = 0
    container.rewind()


# Planning


def _plan(container: Container, selection: FrameSelection) -> _Plan | None:
    """Build a frame index and select frames with it; None if the video has no reliable index."""
    for build_index in (build_frame_index, index_from_packets):
        index = build_index(container)
        if index is None:
            return None
        try:
            return _Plan(index, selection.frames(index, selection.frame_range(index, container.name)))
        except WrongIndexError as error:
            logger.debug("%s", error)
            _restart(container)
            container.damage = 1  # the wrong index
    return None


def _may_be_inexact(plan: _Plan) -> bool:
    """Return whether leaving out the loop filter saves time, because frames depend on others, and costs little."""
    gops = np.searchsorted(plan.index.key_frames, plan.frames, "right")
    has_only_key_frames = len(np.unique(gops)) == len(gops)
    ends = [*plan.index.key_times(), plan.index.time_of(plan.index.count - 1)]
    return not has_only_key_frames and np.diff(ends).max() <= MAX_INEXACT_GOP


def _split_into_parts(index: FrameIndex, frames: Iterable[int]) -> Iterator[list[int]]:
    """Split frames into parts that are decoded in one go.

    A part has the frames of one GOP, and of the next one if only a few frames lie between them.
    """
    part: list[int] = []
    for frame in frames:
        if part and frame - part[-1] > MAX_GAP and index.gop_of(frame) != index.gop_of(part[-1]):
            yield part
            part = []
        part.append(frame)
    yield part


# Exact frames


def _decode_exact(container: Container, index: FrameIndex, frames: Iterable[int]) -> Iterator[av.VideoFrame]:
    """Decode frames in parallel up to the first damage, and one part after the other from there."""
    remaining = deque(frames)
    parts = list(_split_into_parts(index, remaining))
    workers = _worker_count(container, parts)
    if workers > 1:
        for frame in _decode_in_parallel(container, index, parts, workers):
            remaining.popleft()
            yield frame
    yield from _decode_in_turn(container, index, remaining)


def _worker_count(container: Container, parts: Sequence[Sequence[int]]) -> int:
    """Return how many parts to decode at the same time."""
    pixels = container.stream.width * container.stream.height
    if pixels <= MAX_SINGLE_THREAD_PIXELS or not container.can_reopen:
        return 1
    part_pixels = max(map(len, parts)) * pixels
    return min(container.cores, len(parts), MAX_PREFETCHED_PIXELS // max(part_pixels, 1))


def _decode_in_parallel(
    container: Container, index: FrameIndex, parts: list[list[int]], workers: int
) -> Iterator[av.VideoFrame]:
    """Decode several parts at the same time, up to the first one that is damaged.

    Each worker opens the video for itself: independent decoders use the cores better than one decoder's threads do.
    """
    with contextlib.ExitStack() as stack:
        idle: SimpleQueue[Container] = SimpleQueue()
        for _ in range(workers):
            idle.put(stack.enter_context(container.reopen(max(container.cores // workers, 1))))
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        stack.callback(pool.shutdown, cancel_futures=True)

        def decode(part: list[int]) -> list[av.VideoFrame]:
            """Return the frames of a part; none if it is damaged."""
            reader = idle.get()
            try:
                decoded = dict(_decode_from_gop(reader, index.for_container(reader), index.gop_of(part[0]), part))
                is_intact = not reader.damage and list(decoded) == part
            finally:
                idle.put(reader)
            return list(decoded.values()) if is_intact else []

        pending = deque(pool.submit(decode, part) for part in parts[:workers])
        for next_part in itertools.chain(parts[workers:], itertools.repeat(None, workers)):
            frames = pending.popleft().result()
            if not frames:
                return
            yield from frames
            if next_part:
                pending.append(pool.submit(decode, next_part))


def _decode_in_turn(container: Container, index: FrameIndex, frames: Iterable[int]) -> Iterator[av.VideoFrame]:
    """Decode part by part, each from its key frame to its last frame and no further.

    If frames are missing, either the file is damaged or a frame is wrongly marked as a key frame. Then the part is
    decoded from the previous key frame. If frames are still missing, the rest is decoded from the beginning of the
    video.
    """
    remaining = deque(frames)
    while remaining:
        part = next(_split_into_parts(index, remaining))
        gop, damage = index.gop_of(part[0]), container.damage
        for first_gop in range(gop, max(gop - 2, -1), -1):
            container.damage = damage  # counted again by each attempt
            for number, frame in _decode_from_gop(container, index, first_gop, part):
                if number != remaining[0] or frame.is_corrupt:
                    break
                remaining.popleft()
                yield frame
            part = [number for number in part if remaining and number >= remaining[0]]
            if not part:
                break
        else:
            container.damage = damage
            yield from _decode_from_beginning(container, index, remaining)
            return


def _decode_from_beginning(container: Container, index: FrameIndex, frames: Iterable[int]) -> Iterator[av.VideoFrame]:
    """Decode from the beginning of the video to the last of some frames; leave out those that are missing."""
    remaining = deque(frames)
    for number, frame in _decode_from_gop(container, index, 0, remaining):
        while remaining and remaining[0] < number:
            remaining.popleft()
            container.damage += 1
        if remaining and remaining[0] == number:  # otherwise it comes too late: after frames that are displayed later
            remaining.popleft()
            yield frame
    container.damage += len(remaining)


def _decode_from_gop(
    container: Container, index: FrameIndex, gop: int, frames: Iterable[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode from the key frame of a GOP to the last of some frames; yield these frames with their numbers."""
    container.flush()
    remaining = set(frames)
    number_at: dict[int, int] = {}  # selected frames that the decoder holds: time stamp to number
    key_timestamp, last_pts = None, -math.inf

    def select(decoded: Iterable[av.VideoFrame]) -> Iterator[tuple[int, av.VideoFrame]]:
        nonlocal last_pts
        for frame in decoded:
            if frame.pts is None:
                continue
            if frame.pts < last_pts:
                raise WrongIndexError(f"{container.name}: its time stamps fall, so they do not order its frames")
            last_pts = frame.pts
            if frame.pts in number_at:
                yield number_at.pop(frame.pts), frame

    for packet, number in index.packets_from(gop):
        timestamp = cast("int", packet.pts)
        if key_timestamp is None:
            key_timestamp = timestamp  # even if an edit list hides the key frame, so that it has no number
        is_selected = number in remaining
        if is_selected:
            if timestamp < key_timestamp and gop:
                return  # displayed before the key frame, it needs the GOP before
            number_at[timestamp] = number
            remaining.remove(number)
        container.skip_unreferenced(not is_selected)
        yield from select(container.decode(packet))
        if not remaining:
            break
    yield from select(container.decode(None))


# Without an index


def _decode_until_end_time(container: Container, selection: FrameSelection) -> Iterator[tuple[float, av.VideoFrame]]:
    """Decode every frame from the beginning up to the end of the time range."""
    for count, (time, frame) in enumerate(_decode_all(container)):
        if time > selection.end_time + TIME_TOLERANCE:
            if not count:
                raise selection.no_frame_error(container.name)
            return
        yield time, frame


def _decode_all_and_select(
    container: Container, selection: FrameSelection, info: VideoInfo
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Decode the whole video, then select frames. If it is too large to buffer, decode it a second time."""
    buffered: list[tuple[float, av.VideoFrame]] = []
    times: list[float] = []
    pixels = 0
    for time, frame in _decode_all(container):
        times.append(time)
        pixels += frame.width * frame.height
        if pixels <= MAX_BUFFERED_PIXELS:
            buffered.append((time, frame))
    info.frame_count = len(times)
    timeline = ArrayTimeline(np.array(times))
    frame_range = selection.frame_range(timeline, container.name)
    if not times:
        return
    selected = selection.frames(timeline, frame_range)
    if len(buffered) == len(times):
        yield from (buffered[number] for number in selected)
        return
    _restart(container)
    remaining = deque(selected)
    for number, timed_frame in enumerate(_decode_all(container)):
        if number == remaining[0]:
            yield timed_frame
            remaining.popleft()
        if not remaining:
            return


def _decode_all(container: Container) -> Iterator[tuple[float, av.VideoFrame]]:
    """Decode every frame from the beginning; yield it with its display time."""
    times = MonotonicTimes(container)
    for packet in itertools.chain(container.packets(), [None]):  # None gets what the decoder still holds
        damage = container.damage
        if packet is not None:
            times.add_packet(packet)
        frames = container.decode(packet)
        if packet is not None and container.damage > damage and not frames:
            times.drop_last_packet()
        for frame in frames:
            time = times.next_time(frame)
            if time is None:
                container.damage += 1
            else:
                yield time, frame
