"""Where the frames of a video lie, known without decoding one: from the container's index, or from its packets.

Frames are numbered in the order in which they are shown. Those that are decoded from one key frame are its group.
"""

from __future__ import annotations

import copy
import heapq
import itertools
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Iterator
from typing import cast

import av
import numpy as np

from .container import Container
from .errors import VideoError

SLACK = 1e-6  # seconds by which times may differ and still be the same
# In which packets do not tell when they are shown.
UNTIMED_FORMATS = {"avi"}
# Whose packets are one shown frame each, and whose key frames need nothing before them. Not so a GIF's, for example.
CODECS = {"h264", "hevc", "vvc", "vp8", "vp9", "av1", "mpeg2video", "mjpeg", "prores", "dnxhd"}


class WrongIndexError(VideoError):
    """Raised when the packets of a file are not those that its index names."""


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
        return int(np.searchsorted(self._seconds, time - SLACK))

    def time(self, number: int) -> float:
        """When a frame is shown, in seconds."""
        return float(self._seconds[number])


class Timeline(ABC):
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

    def on(self, container: Container) -> Timeline:
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


class PacketTimeline(Times, Timeline):
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


class IndexTimeline(Timeline):
    """A timeline from the index of an MP4 or MOV file, which tells in which order frames are decoded, and key frames.

    When they are shown is read from the packets of a group, once it is needed. What is decoded from a key frame on and
    shown before it (an open group's leading frames) counts to its group here, as in the file.
    """

    def __init__(self, container: Container, keys: np.ndarray, stamps: np.ndarray, count: int) -> None:
        self._container, self.keys, self._stamps, self.count = container, keys, stamps, count
        self._read: tuple[int, np.ndarray] | None = None  # a group, and the times of its frames

    def before(self, time: float) -> int:
        time -= SLACK
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
        number = int(self.keys[group])
        for packet in itertools.chain(self._from_key(group), [None]):
            while unnumbered and (packet is None or unnumbered[0] <= _stamp(packet.dts)):
                numbers[heapq.heappop(unnumbered)] = number
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
            stamps = np.array(sorted(_stamp(packet.pts) for packet in within if _is_shown(packet)))
            if len(stamps) != np.append(self.keys, self.count)[group + 1] - self.keys[group]:
                raise WrongIndexError(f"{self._container.name}: its index names frames that are not there")
            self._read = group, self._container.seconds(stamps)
        return self._read[1]


def _is_shown(packet: av.Packet) -> bool:
    return not (packet.is_discard or packet.is_corrupt)  # cut off with the file, it is not counted in the index


def _stamp(stamp: int | None) -> int:
    return cast("int", stamp)  # an MP4 has all of them


def timeline(container: Container) -> Timeline | None:
    """The timeline of a video, or None when it cannot be trusted or not be had. The container is read in any case."""
    if container.codec not in CODECS or container.format in UNTIMED_FORMATS:
        return None
    return _by_index(container) or by_packets(container)


def _by_index(container: Container) -> IndexTimeline | None:
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
        if previous is not None and entry.timestamp <= previous:
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
    container.damage += cut
    first_frames, first_stamps = np.array(keys), np.array(stamps)
    has_frames = np.diff(first_frames, append=count) > 0  # an edit list may leave a group none that is shown
    first_stamps[has_frames.argmax()] = first_stamps[0]  # those shown before the key frame need what was before it
    return IndexTimeline(container, first_frames[has_frames], first_stamps[has_frames], count)


def by_packets(container: Container) -> PacketTimeline | None:
    """The timeline from the packets that follow, whatever an index says; None when it cannot be trusted."""
    shown: list[int] = []
    keys: list[int] = []
    for packet in container.packets():
        container.check_frames(len(shown))
        if packet.is_corrupt:
            container.damage += 1
        elif packet.pts is None or not (keys or packet.is_keyframe):
            return None
        # RFC 6386, section 9.1: the fifth bit of a VP8 frame tells whether it is shown.
        elif container.codec != "vp8" or bytes(packet)[0] & 0x10:
            if packet.is_keyframe:
                keys.append(packet.pts)
            if not packet.is_discard:
                shown.append(packet.pts)
    stamps, key_stamps = np.unique(shown), np.array(keys)
    if not shown or len(stamps) < len(shown) or stamps[0] < keys[0] or (np.diff(key_stamps) <= 0).any():
        return None
    return PacketTimeline(container, stamps, key_stamps)


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
