"""Where the frames of a video lie, known without decoding one: from the container's index, or from its packets.

Frames are numbered in the order in which they are shown. Those that are decoded from one key frame are its group.
"""

from __future__ import annotations

import copy
import heapq
import itertools
import math
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from typing import cast

import av
import numpy as np

from ..errors import VideoError
from .container import Container

TIME_TOLERANCE = 1e-6  # seconds by which times may differ and still be the same
CHUNK_HEADER = 8  # bytes in front of a frame in an AVI
MAX_FALL = 1.0  # seconds by which time stamps may fall within one recording
# In which packets do not tell when they are shown.
UNTIMED_FORMATS = {"avi"}
# Whose packets are one shown frame each, and whose key frames need nothing before them. Not so a GIF's, for example.
CODECS = {"h264", "hevc", "vvc", "vp8", "vp9", "av1", "mpeg2video", "mjpeg", "prores", "dnxhd"}


class WrongIndexError(VideoError):
    """Raised when the packets of a file are not those that its index names, or their time stamps do not order them."""


class Times:
    """When the frames of a video are shown.

    Args:
        seconds: of each frame, rising.
    """

    def __init__(self, seconds: np.ndarray) -> None:
        self._seconds = seconds
        self.count = len(seconds)

    def before(self, time: float) -> int:
        """How many frames are shown before a time in seconds."""
        return int(np.searchsorted(self._seconds, time - TIME_TOLERANCE))

    def time(self, number: int) -> float:
        """When a frame is shown, in seconds."""
        return float(self._seconds[number])


class RisingTimes:
    """When the frames of a video are shown that is decoded from its beginning: rising, whatever its time stamps do.

    A frame is shown at its time stamp. If that is missing or not later than the frame before, it is shown one interval
    after that one, or half an interval where the stamps lag behind but rise, so that they catch up. Where they fall by
    more than ``MAX_FALL``, another recording begins: it is moved to follow the one before.

    Some files number their frames in the order in which they are decoded, not shown. There, and in AVI, which has no
    other stamps, the frames get the stamps of their packets in rising order.

    Args:
        container: to be read from its beginning.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._interval = float(1 / (container.stream.average_rate or 25))
        self._is_untimed = container.format in UNTIMED_FORMATS
        # An AVI's index tells where each of its frames lies: after damage, counting those that are there would not do.
        entries = container.stream.index_entries if self._is_untimed else ()
        self._indexed: dict[int | None, int | None] = {entry.pos + CHUNK_HEADER: entry.timestamp for entry in entries}
        self._in_decoding_order = self._is_untimed or is_reordered(container)
        # Count and time stamp of the packets whose frames are not shown yet.
        self._waiting: deque[tuple[int, int | None]] = deque()
        self._count = 0
        self._highest: float = -math.inf
        self._previous: float | None = None  # the last time stamp that is not missing, in seconds
        self._shift = 0.0  # of the recording, in seconds
        self._last: float | None = None

    def feed(self, packet: av.Packet) -> None:
        """Note the next packet, before it is decoded."""
        stamp = self._indexed.get(packet.pos, packet.dts) if self._is_untimed else packet.pts
        if not self._is_untimed:
            self._in_decoding_order &= stamp is not None and stamp >= self._highest
            self._highest = -math.inf if stamp is None else stamp
        if self._in_decoding_order and not packet.is_discard:
            self._waiting.append((self._count, stamp))
        packet.dts = self._count  # a decoder hands it on to the frame that this packet brings out
        self._count += 1

    def lose(self) -> None:
        """Forget the last packet, which cannot be decoded."""
        if self._waiting and self._waiting[-1][0] == self._count - 1:
            self._waiting.pop()

    def next(self, frame: av.VideoFrame) -> float | None:
        """When the next frame that the decoder gives is shown, in seconds; None if damage has mixed up their order."""
        stamp = self._next_waiting(frame) if self._in_decoding_order else frame.pts
        seconds = None if stamp is None else float(self._container.seconds(stamp))
        previous = math.inf if self._previous is None else self._previous
        if self._container.damage and seconds is not None and previous - MAX_FALL < seconds < previous:
            return None
        self._last = self._rise(seconds)
        if seconds is not None:
            self._previous = seconds
        return self._last

    def _next_waiting(self, frame: av.VideoFrame) -> int | None:
        if frame.dts is not None:
            # When it gives one, the decoder holds back so many others. Those that wait still longer were lost.
            held = self._container.stream.codec_context.reorder_depth
            while len(self._waiting) > held + 1 and self._waiting[held + 1][0] <= frame.dts:
                self._waiting.popleft()
        return self._waiting.popleft()[1] if self._waiting else None

    def _rise(self, seconds: float | None) -> float:
        if self._last is None:
            return seconds or 0.0
        after = self._last + self._interval
        if seconds is None:
            self._container.has_wrong_times |= self._previous is not None
            return after
        if seconds + self._shift > self._last:
            return seconds + self._shift
        self._container.has_wrong_times = True
        if self._previous is None or seconds < self._previous - MAX_FALL:
            self._shift = after - seconds
            return after
        return after if seconds == self._previous else self._last + self._interval / 2


class FrameIndex(ABC):
    """The frames of one video, and where to begin to decode them.

    Attributes:
        count: how many frames it has.
        keys: of each group the number of its first frame, rising from 0.
    """

    count: int
    keys: np.ndarray
    _container: Container

    def group(self, number: int) -> int:
        """The group of a frame."""
        return int(np.searchsorted(self.keys, number, "right")) - 1

    def on(self, container: Container) -> FrameIndex:
        """The same timeline for the same video, opened once more."""
        other = copy.copy(self)
        other._container = container
        return other

    @abstractmethod
    def before(self, time: float) -> int:
        """How many frames are shown before a time in seconds."""

    @abstractmethod
    def time(self, number: int) -> float:
        """When a frame is shown, in seconds."""

    @abstractmethod
    def packets(self, group: int) -> Iterator[tuple[av.Packet, int]]:
        """The packets from a group's key frame on, to the end of the video, in the order in which they are decoded.

        Each comes with the number of its frame; with -1 when its frame is never shown.
        """


class PacketFrameIndex(Times, FrameIndex):
    """A timeline from all packets of a video, read once."""

    def __init__(self, container: Container, stamps: np.ndarray, key_stamps: np.ndarray) -> None:
        super().__init__(container.seconds(stamps))
        self._container, self._stamps, self._key_stamps = container, stamps, key_stamps
        self.keys = np.searchsorted(stamps, key_stamps)

    def packets(self, group: int) -> Iterator[tuple[av.Packet, int]]:
        stamp = int(self._key_stamps[group])
        for packet in _from_key(self._container, "pts", stamp, stamp):
            place = int(np.searchsorted(self._stamps, packet.pts)) if packet.pts is not None else self.count
            shown = place < self.count and self._stamps[place] == packet.pts and not packet.is_discard
            yield packet, place if shown else -1


class ContainerFrameIndex(FrameIndex):
    """A timeline from the index of an MP4 or MOV file, which tells in which order frames are decoded, and key frames.

    When they are shown is read from the packets of a group, once it is needed. What is decoded from a key frame on and
    shown before it (an open group's leading frames) counts to its group here, as in the file.
    """

    def __init__(self, container: Container, keys: np.ndarray, stamps: np.ndarray, count: int) -> None:
        self._container, self.keys, self._stamps, self.count = container, keys, stamps, count
        self._read: tuple[int, np.ndarray] | None = None  # a group, and the times of its frames

    def before(self, time: float) -> int:
        time -= TIME_TOLERANCE
        scale = float(self._container.stream.time_base or 1)
        # By the times of decoding, which are earlier than those of showing.
        group = max(int(np.searchsorted(self._stamps, time / scale, "right")) - 1, 0)
        while group and self._times(group)[0] >= time:
            group -= 1
        while group + 1 < len(self.keys) and self._times(group)[-1] < time:
            group += 1
        return int(self.keys[group] + np.searchsorted(self._times(group), time))

    def time(self, number: int) -> float:
        group = self.group(number)
        return float(self._times(group)[number - self.keys[group]])

    def packets(self, group: int) -> Iterator[tuple[av.Packet, int]]:
        # A packet's number is known when none that follows can be shown before it: none is shown before it is decoded.
        waiting: deque[av.Packet] = deque()
        unnumbered: list[int] = []
        numbers: dict[int, int] = {}
        number, last = int(self.keys[group]), -math.inf
        for packet in itertools.chain(self._from_key(group), [None]):
            while unnumbered and (packet is None or unnumbered[0] <= _stamp(packet.dts)):
                if unnumbered[0] <= last:
                    raise WrongIndexError(f"{self._container.name}: its index names frames that are shown at once")
                last = heapq.heappop(unnumbered)
                numbers[last] = number
                number += 1
            while waiting and (not _is_shown(waiting[0]) or waiting[0].pts in numbers):
                known = waiting.popleft()
                yield known, numbers.pop(_stamp(known.pts)) if _is_shown(known) else -1
            if packet is not None:
                waiting.append(packet)
                if _is_shown(packet):
                    heapq.heappush(unnumbered, _stamp(packet.pts))

    def _from_key(self, group: int) -> Iterator[av.Packet]:
        stamps = self._stamps[group : group + 2].tolist()
        # FFmpeg takes it for a time of showing: the middle of a group is within it in either way of counting.
        yield from _from_key(self._container, "dts", stamps[0], sum(stamps) // len(stamps))

    def _times(self, group: int) -> np.ndarray:
        if self._read is None or self._read[0] != group:
            end = self._stamps[group + 1] if group + 1 < len(self._stamps) else np.inf
            within = itertools.takewhile(lambda packet: _stamp(packet.dts) < end, self._from_key(group))
            stamps = np.unique([_stamp(packet.pts) for packet in within if _is_shown(packet)])
            if len(stamps) != np.append(self.keys, self.count)[group + 1] - self.keys[group]:
                raise WrongIndexError(f"{self._container.name}: its index names missing or simultaneous frames")
            self._read = group, self._container.seconds(stamps)
        return self._read[1]


def _is_shown(packet: av.Packet) -> bool:
    return not (packet.is_discard or packet.is_corrupt)  # cut off with the file, it is not counted in the index


def _stamp(stamp: int | None) -> int:
    return cast("int", stamp)  # an MP4 has all of them


def timeline(container: Container) -> FrameIndex | None:
    """The timeline of a video, or None when it cannot be trusted or not be had. The container is read in any case."""
    if container.codec not in CODECS or container.format in UNTIMED_FORMATS:
        return None
    return _by_index(container) or by_packets(container)


def _by_index(container: Container) -> ContainerFrameIndex | None:
    entries, size = container.stream.index_entries, container.size
    if "mp4" not in container.format or not len(entries):
        return None
    container.check_frames(len(entries))
    if 0 < size < len(entries):
        raise VideoError(f"{container.name}: its index names {len(entries):,} frames in {size:,} bytes")
    if len(entries) > container.stream.frames:  # in fragments, of which not all may be known
        return None
    keys, stamps, count, cut = array("q"), array("q"), 0, 0
    previous = None
    for entry in entries:
        if 0 < size < entry.pos + entry.size:
            cut += 1
            continue
        if previous is not None and entry.timestamp <= previous + 1:  # in ticks so coarse that stamps may be the same
            return None
        previous = entry.timestamp
        if entry.is_keyframe:
            keys.append(count)
            stamps.append(entry.timestamp)
        elif not keys:
            return None
        count += not entry.is_discard
    if not count:
        return None
    if is_reordered(container) and not _falls(packet.pts for packet in container.packets()):
        container.rewind()
        return None
    container.damage += cut
    first_frames, first_stamps = np.array(keys), np.array(stamps)
    has_frames = np.diff(first_frames, append=count) > 0  # an edit list may leave a group none that is shown
    first_stamps[has_frames.argmax()] = first_stamps[0]  # those shown before the key frame need what was before it
    return ContainerFrameIndex(container, first_frames[has_frames], first_stamps[has_frames], count)


def by_packets(container: Container) -> PacketFrameIndex | None:
    """The timeline from the packets that follow, whatever an index says; None when it cannot be trusted."""
    shown, keys = array("q"), array("q")
    is_vp8 = container.codec == "vp8"
    for packet in container.packets():
        container.check_frames(len(shown))
        if packet.is_corrupt:
            container.damage += 1
        elif packet.pts is None or not (keys or packet.is_keyframe):
            return None
        # RFC 6386, section 9.1: the fifth bit of a VP8 frame tells whether it is shown.
        elif not is_vp8 or bytes(packet)[0] & 0x10:
            if packet.is_keyframe:
                keys.append(packet.pts)
            if not packet.is_discard:
                shown.append(packet.pts)
    stamps, key_stamps = np.unique(shown), np.array(keys)
    if not shown or len(stamps) < len(shown) or stamps[0] < keys[0] or (np.diff(key_stamps) <= 0).any():
        return None
    if is_reordered(container) and not _falls(shown):
        return None
    return PacketFrameIndex(container, stamps, key_stamps)


def is_reordered(container: Container) -> bool:
    """Whether frames may be decoded in another order than they are shown in."""
    return bool(container.stream.codec_context.has_b_frames)


def _falls(stamps: Iterable[int | None]) -> bool:
    """Whether time stamps fall somewhere. Those of reordered frames do, in the order of decoding, if they are right."""
    return any(later < earlier for earlier, later in itertools.pairwise(stamp for stamp in stamps if stamp is not None))


def _from_key(container: Container, field: str, stamp: int, near: int) -> Iterator[av.Packet]:
    """Packets from the key frame on whose ``field``, pts or dts, is ``stamp``."""
    second = round(1 / (container.stream.time_base or 1))
    # Where no index leads, a seek may end beyond the key frame.
    for attempt in (near, stamp - 5 * second, None):
        if attempt is None:
            container.rewind()
        else:
            container.seek(attempt)
        packets = container.packets()
        for packet in packets:
            if getattr(packet, field) == stamp:
                yield packet
                yield from packets
                return
            if packet.is_keyframe and (getattr(packet, field) or 0) > stamp:
                break
    container.damage += 1
