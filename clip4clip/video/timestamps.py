"""When the frames of a video are displayed.

Frames are numbered in display order, from 0. Times are seconds, as the file states them, and need not begin at 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # sampling needs no PyAV
    import av

    from .container import Container

TIME_TOLERANCE = 1e-6  # seconds; times that differ by less are the same
MAX_TIMESTAMP_FALL = 1.0  # seconds by which time stamps may fall within one recording
DEFAULT_FRAME_RATE = 25  # for videos that do not state theirs
AVI_CHUNK_HEADER = 8  # bytes in front of each frame


class Timeline(ABC):
    """The display times of the frames of a video.

    Attributes:
        count: number of frames.
    """

    count: int

    @abstractmethod
    def count_before(self, time: float) -> int:
        """Return how many frames are displayed before a time in seconds."""

    @abstractmethod
    def time_of(self, frame: int) -> float:
        """Return the display time of a frame in seconds."""


class KeyedTimeline(Timeline):
    """A timeline that also knows the key frames: those that are decoded without any other frame.

    A group of pictures (GOP) is a key frame and the frames decoded from it.

    Attributes:
        key_frames: int array of shape (GOPs,), rising from 0: the number of the first frame of each GOP.
    """

    key_frames: np.ndarray

    @abstractmethod
    def key_frame(self, gop: int) -> int:
        """Return the number of the key frame of a GOP, or of its first frame if the key frame is not displayed.

        In an open GOP, leading frames come first: they are displayed before the key frame but decoded after it.
        """

    @abstractmethod
    def key_times(self) -> np.ndarray:
        """Return when the key frames are displayed, to within a few frames: float of shape (GOPs,), seconds, rising."""


class ArrayTimeline(Timeline):
    """A timeline that holds the time of every frame.

    Args:
        times: float array of shape (frames,), in seconds, rising.
    """

    def __init__(self, times: np.ndarray) -> None:
        self._times = times
        self.count = len(times)

    def count_before(self, time: float) -> int:
        return int(np.searchsorted(self._times, time - TIME_TOLERANCE))

    def time_of(self, frame: int) -> float:
        return float(self._times[frame])


class MonotonicTimes:
    """Display times for all frames of a video that is decoded from its beginning. They rise even if time stamps do not.

    A frame is displayed at its time stamp. If the time stamp is missing or repeats, the frame comes one frame interval
    after the frame before. If the time stamp falls, the frame comes half an interval after the frame before, so that
    the time stamps can catch up. If it falls by more than ``MAX_TIMESTAMP_FALL``, another recording begins: all its
    time stamps are shifted so that it follows the one before.

    Some files have time stamps that number the frames in decoding order instead of display order. There, and in AVI,
    which has no others, the frames get the time stamps of their packets in rising order.

    Args:
        container: a video at its first packet.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._interval = float(1 / (container.stream.average_rate or DEFAULT_FRAME_RATE))
        self._has_display_times = container.has_display_times
        # The index of an AVI says which frame lies at which position. Counting packets would go wrong after damage.
        entries = () if self._has_display_times else container.stream.index_entries
        self._timestamp_at: dict[int | None, int | None] = {
            entry.pos + AVI_CHUNK_HEADER: entry.timestamp for entry in entries
        }
        self._in_decoding_order = not self._has_display_times or container.reorders_frames
        # Packets whose frames the decoder still holds: number of the packet, time stamp.
        self._pending: deque[tuple[int, int | None]] = deque()
        self._packet_count = 0
        self._previous_pts: float = -math.inf  # of the packets
        self._previous_seconds: float | None = None  # the last time stamp of a frame that is not missing
        self._shift = 0.0  # seconds by which the current recording is moved
        self._last_time: float | None = None  # the last result

    def add_packet(self, packet: av.Packet) -> None:
        """Register the next packet. Call this before the packet is decoded."""
        if self._has_display_times:
            timestamp = packet.pts
            self._in_decoding_order &= timestamp is not None and timestamp >= self._previous_pts
            self._previous_pts = -math.inf if timestamp is None else timestamp
        else:
            timestamp = self._timestamp_at.get(packet.pos, packet.dts)
        if self._in_decoding_order and not packet.is_discard:
            self._pending.append((self._packet_count, timestamp))
        packet.dts = self._packet_count  # the decoder copies it to the frame that it returns for this packet
        self._packet_count += 1

    def drop_last_packet(self) -> None:
        """Forget the last packet, which cannot be decoded."""
        if self._pending and self._pending[-1][0] == self._packet_count - 1:
            self._pending.pop()

    def next_time(self, frame: av.VideoFrame) -> float | None:
        """Return the display time of the next frame from the decoder; None if damage has put it out of order."""
        timestamp = self._pop_pending(frame) if self._in_decoding_order else frame.pts
        seconds = None if timestamp is None else float(self._container.seconds(timestamp))
        previous = math.inf if self._previous_seconds is None else self._previous_seconds
        if self._container.damage and seconds is not None and previous - MAX_TIMESTAMP_FALL < seconds < previous:
            return None
        self._last_time = self._rising_time(seconds)
        if seconds is not None:
            self._previous_seconds = seconds
        return self._last_time

    def _pop_pending(self, frame: av.VideoFrame) -> int | None:
        """Return the time stamp of the packet that a frame was decoded from."""
        if frame.dts is not None:
            # When the decoder returns a frame, it holds at most so many others. Packets before those were lost.
            held = self._container.stream.codec_context.reorder_depth
            while len(self._pending) > held + 1 and self._pending[held + 1][0] <= frame.dts:
                self._pending.popleft()
        return self._pending.popleft()[1] if self._pending else None

    def _rising_time(self, seconds: float | None) -> float:
        """Return the time for a frame with this time stamp, later than the last time."""
        if self._last_time is None:
            return seconds or 0.0
        next_time = self._last_time + self._interval
        if seconds is None:
            self._container.has_wrong_times |= self._previous_seconds is not None
            return next_time
        if seconds + self._shift > self._last_time:
            return seconds + self._shift
        self._container.has_wrong_times = True
        if self._previous_seconds is None or seconds < self._previous_seconds - MAX_TIMESTAMP_FALL:
            self._shift = next_time - seconds
            return next_time
        return next_time if seconds == self._previous_seconds else self._last_time + self._interval / 2
