"""Where the frames of a video lie, found without decoding any: from the container's own index or from all packets.

Frames are numbered in display order, from 0. A group of pictures (GOP) is a key frame and the frames decoded from it.
"""

from __future__ import annotations

import copy
import functools
import heapq
import itertools
import math
from abc import abstractmethod
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, cast

import av
import numpy as np

from ..errors import VideoError
from .container import Container
from .timestamps import TIME_TOLERANCE, ArrayTimeline, KeyedTimeline

# Codecs with one displayed frame per packet, whose key frames need no earlier frame. GIF is not such a codec.
INDEXABLE_CODECS = {"h264", "hevc", "vvc", "vp8", "vp9", "av1", "mpeg2video", "mjpeg", "prores", "dnxhd"}
NOT_DISPLAYED = -1  # the frame number of packets whose frame is never displayed
SEEK_MARGIN = 5  # seconds by which a second seek aims before a key frame that the first one missed


class WrongIndexError(VideoError):
    """Raised when the packets of a file contradict its index, or time stamps do not order its frames."""


class FrameIndex(KeyedTimeline):
    """The frames of a video, and the key frames from which they are decoded."""

    _container: Container

    def key_frame(self, gop: int) -> int:
        _, frame = next(self.packets_from(gop), (None, NOT_DISPLAYED))
        return int(self.key_frames[gop]) if frame == NOT_DISPLAYED else frame

    def gop_of(self, frame: int) -> int:
        """Return the number of the GOP that a frame belongs to."""
        return int(np.searchsorted(self.key_frames, frame, "right")) - 1

    def for_container(self, container: Container) -> FrameIndex:
        """Return the same index, reading packets from another container of the same video."""
        other = copy.copy(self)
        other._container = container
        return other

    @abstractmethod
    def packets_from(self, gop: int) -> Iterator[tuple[av.Packet, int]]:
        """Yield the packets from the key frame of a GOP to the end of the video, in decoding order.

        Each packet comes with the number of its frame, or with ``NOT_DISPLAYED``.
        """


class PacketFrameIndex(ArrayTimeline, FrameIndex):
    """An index made by reading all packets of a video once.

    Args:
        container: the video.
        timestamps: int array of shape (frames,): the time stamp at which each frame is displayed, rising.
        key_timestamps: int array of shape (GOPs,): the time stamps of the key frames, rising.
    """

    def __init__(self, container: Container, timestamps: np.ndarray, key_timestamps: np.ndarray) -> None:
        super().__init__(container.seconds(timestamps))
        self._container, self._timestamps, self._key_timestamps = container, timestamps, key_timestamps
        self.key_frames = np.searchsorted(timestamps, key_timestamps)

    def key_times(self) -> np.ndarray:
        return np.asarray(self._container.seconds(self._key_timestamps))

    def key_frame(self, gop: int) -> int:
        return min(int(self.key_frames[gop]), self.count - 1)

    def packets_from(self, gop: int) -> Iterator[tuple[av.Packet, int]]:
        key_timestamp = int(self._key_timestamps[gop])
        for packet in _packets_from(self._container, "pts", key_timestamp, near=key_timestamp):
            yield packet, self._frame_of(packet)

    def _frame_of(self, packet: av.Packet) -> int:
        if packet.pts is None or packet.is_discard:
            return NOT_DISPLAYED
        frame = int(np.searchsorted(self._timestamps, packet.pts))
        is_listed = frame < self.count and self._timestamps[frame] == packet.pts
        return frame if is_listed else NOT_DISPLAYED


class ContainerFrameIndex(FrameIndex):
    """An index made from the one in an MP4 or MOV file, which lists frames in decoding order and marks key frames.

    The display times of a GOP are read from its packets when they are needed. A GOP has the same frames as in the file:
    if it is an open GOP, also the leading frames, which are decoded after its key frame but displayed before it.

    Args:
        container: the video.
        key_frames: int array of shape (GOPs,): the number of the first frame of each GOP.
        key_timestamps: int array of shape (GOPs,): the decoding time stamp of each key frame, rising.
        count: number of frames.
    """

    def __init__(self, container: Container, key_frames: np.ndarray, key_timestamps: np.ndarray, count: int) -> None:
        self._container, self.key_frames, self._key_timestamps = container, key_frames, key_timestamps
        self.count = count
        self._last_read: tuple[int, np.ndarray] | None = None  # a GOP and its display times

    def count_before(self, time: float) -> int:
        time -= TIME_TOLERANCE
        time_base = float(self._container.stream.time_base or 1)
        # Frames are decoded before they are displayed, so their decoding times lead to a GOP near the right one.
        gop = max(int(np.searchsorted(self._key_timestamps, time / time_base, "right")) - 1, 0)
        while gop and self._display_times(gop)[0] >= time:
            gop -= 1
        while gop + 1 < len(self.key_frames) and self._display_times(gop)[-1] < time:
            gop += 1
        return int(self.key_frames[gop] + np.searchsorted(self._display_times(gop), time))

    def time_of(self, frame: int) -> float:
        gop = self.gop_of(frame)
        return float(self._display_times(gop)[frame - self.key_frames[gop]])

    def key_times(self) -> np.ndarray:
        return np.asarray(self._container.seconds(self._key_timestamps + self._display_delay))

    @functools.cached_property
    def _display_delay(self) -> int:
        """Ticks by which key frames are displayed after they are decoded: read from one, as it hardly differs."""
        packet = next(self._packets_from_key(len(self.key_frames) // 2), None)
        return 0 if packet is None else _timestamp(packet.pts) - _timestamp(packet.dts)

    def packets_from(self, gop: int) -> Iterator[tuple[av.Packet, int]]:
        # No frame is displayed before it is decoded. So the lowest time stamp gets the next number as soon as a packet
        # is decoded at or after it: no later packet can be displayed earlier.
        waiting: deque[av.Packet] = deque()  # packets to yield, in decoding order
        unnumbered: list[int] = []  # a heap of the display time stamps of waiting packets
        frame_at: dict[int, int] = {}  # of numbered packets that still wait: display time stamp to frame number
        next_frame, last_pts = int(self.key_frames[gop]), -math.inf
        for packet in itertools.chain(self._packets_from_key(gop), [None]):
            while unnumbered and (packet is None or unnumbered[0] <= _timestamp(packet.dts)):
                if unnumbered[0] <= last_pts:
                    raise WrongIndexError(f"{self._container.name}: its index lists several frames for one time stamp")
                last_pts = heapq.heappop(unnumbered)
                frame_at[last_pts] = next_frame
                next_frame += 1
            while waiting and (not _is_displayed(waiting[0]) or waiting[0].pts in frame_at):
                first = waiting.popleft()
                yield first, frame_at.pop(_timestamp(first.pts)) if _is_displayed(first) else NOT_DISPLAYED
            if packet is not None:
                waiting.append(packet)
                if _is_displayed(packet):
                    heapq.heappush(unnumbered, _timestamp(packet.pts))

    def _packets_from_key(self, gop: int) -> Iterator[av.Packet]:
        # FFmpeg takes the target of a seek for a display time. The middle of a GOP is within it in either order.
        start, *end = self._key_timestamps[gop : gop + 2].tolist()
        middle = (start + end[0]) // 2 if end else start
        return _packets_from(self._container, "dts", start, near=middle)

    def _display_times(self, gop: int) -> np.ndarray:
        """Return the display times of the frames of a GOP in seconds, rising."""
        if self._last_read is None or self._last_read[0] != gop:
            end = self._key_timestamps[gop + 1] if gop + 1 < len(self._key_timestamps) else np.inf
            packets = itertools.takewhile(lambda packet: _timestamp(packet.dts) < end, self._packets_from_key(gop))
            timestamps = np.unique([_timestamp(packet.pts) for packet in packets if _is_displayed(packet)])
            if len(timestamps) != np.append(self.key_frames, self.count)[gop + 1] - self.key_frames[gop]:
                raise WrongIndexError(
                    f"{self._container.name}: its index lists frames that are missing, or several for one time stamp"
                )
            self._last_read = gop, self._container.seconds(timestamps)
        return self._last_read[1]


def build_frame_index(container: Container) -> FrameIndex | None:
    """Return the index of the frames of a video, from the container's own index or else from its packets.

    Args:
        container: a video at its first packet. Its position changes.

    Returns:
        The index; None if the packets do not identify the frames reliably, so that the video must be decoded.

    Raises:
        VideoError: the video has more frames than the limit.
    """
    if container.codec not in INDEXABLE_CODECS or not container.has_display_times:
        return None
    return _index_from_container(container) or index_from_packets(container)


def index_from_packets(container: Container) -> PacketFrameIndex | None:
    """Return the index of the frames of a video from its packets only; None if they do not identify the frames.

    Args:
        container: a video at its first packet. All packets are read.

    Raises:
        VideoError: the video has more frames than the limit.
    """
    displayed, keys = array("q"), array("q")  # time stamps
    is_vp8 = container.codec == "vp8"
    for packet in container.packets():
        container.check_frame_count(len(displayed))
        if packet.is_corrupt:
            container.damage += 1
        elif packet.pts is None or not (keys or packet.is_keyframe):
            return None
        # RFC 6386, section 9.1: the fifth bit of a VP8 frame says whether it is displayed.
        elif not is_vp8 or bytes(packet)[0] & 0x10:
            if packet.is_keyframe:
                keys.append(packet.pts)
            if not packet.is_discard:
                displayed.append(packet.pts)
    timestamps, key_timestamps = np.unique(displayed), np.array(keys)
    if not displayed or len(timestamps) < len(displayed) or timestamps[0] < keys[0]:
        return None
    if (np.diff(key_timestamps) <= 0).any():
        return None
    if container.reorders_frames and not _has_fall(displayed):
        return None  # time stamps in decoding order
    return PacketFrameIndex(container, timestamps, key_timestamps)


def _index_from_container(container: Container) -> ContainerFrameIndex | None:
    entries, size = container.stream.index_entries, container.size
    if "mp4" not in container.format or not len(entries):
        return None
    container.check_frame_count(len(entries))
    if 0 < size < len(entries):
        raise VideoError(f"{container.name}: its index lists {len(entries):,} frames in {size:,} bytes")
    if len(entries) > container.stream.frames:  # a fragmented file: not all fragments may be in the index yet
        return None
    listed = _read_entries(entries, size)
    if listed is None:
        return None
    key_frames, key_timestamps, count, cut_off = listed
    if container.reorders_frames and not _has_fall(packet.pts for packet in container.packets()):
        container.rewind()
        return None  # time stamps in decoding order
    container.damage += cut_off
    is_displayed = np.diff(key_frames, append=count) > 0  # an edit list may hide all frames of a GOP
    # The first frames that are displayed may need hidden ones: decode from the first key frame of the file.
    key_timestamps[is_displayed.argmax()] = key_timestamps[0]
    return ContainerFrameIndex(container, key_frames[is_displayed], key_timestamps[is_displayed], count)


def _read_entries(entries: Iterable[Any], size: int) -> tuple[np.ndarray, np.ndarray, int, int] | None:
    """Read the entries of an MP4's index, in decoding order.

    Args:
        entries: FFmpeg's index entries of the video stream.
        size: size of the file in bytes; 0 or less if unknown.

    Returns:
        The frame number and the decoding time stamp of each key frame, the number of frames, and the number of frames
        that are cut off with the file. None if the entries do not identify the frames reliably.
    """
    key_frames, key_timestamps, count, cut_off = array("q"), array("q"), 0, 0
    previous = None
    for entry in entries:
        if 0 < size < entry.pos + entry.size:
            cut_off += 1
            continue
        if previous is not None and entry.timestamp <= previous + 1:  # with ticks so long, time stamps may repeat
            return None
        previous = entry.timestamp
        if entry.is_keyframe:
            key_frames.append(count)
            key_timestamps.append(entry.timestamp)
        elif not key_frames:
            return None
        count += not entry.is_discard
    return (np.array(key_frames), np.array(key_timestamps), count, cut_off) if count else None


def _has_fall(timestamps: Iterable[int | None]) -> bool:
    """Return whether time stamps, in decoding order, fall anywhere. Correct ones do if frames are reordered."""
    present = (timestamp for timestamp in timestamps if timestamp is not None)
    return any(later < earlier for earlier, later in itertools.pairwise(present))


def _is_displayed(packet: av.Packet) -> bool:
    """Return whether the frame of a packet counts in the index: it is neither hidden nor cut off with the file."""
    return not (packet.is_discard or packet.is_corrupt)


def _timestamp(value: int | None) -> int:
    return cast("int", value)  # packets of an MP4 always have time stamps


def _packets_from(container: Container, field: str, timestamp: int, near: int) -> Iterator[av.Packet]:
    """Yield the packets from a key frame to the end of the video.

    Args:
        container: the video.
        field: time stamp that identifies the key frame: ``'pts'`` or ``'dts'``.
        timestamp: its value.
        near: time stamp to seek to first.
    """
    ticks_per_second = round(1 / (container.stream.time_base or 1))
    # Without an index, a seek may end behind the key frame. Then aim earlier, and finally begin at the first packet.
    for target in (near, timestamp - SEEK_MARGIN * ticks_per_second, None):
        if target is None:
            container.rewind()
        else:
            container.seek(target)
        packets = container.packets()
        for packet in packets:
            if getattr(packet, field) == timestamp:
                yield packet
                yield from packets
                return
            if packet.is_keyframe and (getattr(packet, field) or 0) > timestamp:
                break
    container.damage += 1
