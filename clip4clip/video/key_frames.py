"""Find the key frame from which a video can be read from some time on, by seeking."""

from __future__ import annotations

import math
from fractions import Fraction

import av

from ..errors import InputValueError, VideoError
from .container import Container

TIME_ROUNDING = 0.001  # seconds: a frame this close to a time is taken to be at it
UNSEEKABLE_FORMATS = {"mpeg"}  # whose time stamps are wrong for some time after a seek
LAST_FRAME = 1  # seconds that the last frame of a video may be displayed, if the video does not say
MAX_TIMESTAMP = 1 << 62  # FFmpeg counts in 64 bits
FIRST_STEP = 1.0  # seconds that the search for a key frame goes back, four times as many with each further step


class KeyFrameError(VideoError):
    """Raised when a video cannot be read from a key frame on, but only from its beginning."""


def packet_time(packet: av.Packet, name: str) -> Fraction:
    """Return when a packet is displayed, in seconds; when it is decoded, where its container states no more (AVI).

    Args:
        packet: a packet of the video stream.
        name: name of the video, for messages.
    """
    timestamp = packet.dts if packet.pts is None else packet.pts
    if timestamp is None:
        raise KeyFrameError(f"{name}: it does not state when its frames are displayed")
    return timestamp * packet.time_base


def find_key_frame(container: Container, start: float) -> av.Packet:
    """Return the packet of the last key frame at or before ``start`` seconds, or of the first one of the video.

    The container is left at a position before it.

    Raises:
        InputValueError: the video ends before ``start``.
        KeyFrameError: no key frame can be found, or it cannot be decoded without others.
    """
    latest = start + TIME_ROUNDING
    step = 0.0
    while True:
        is_beginning = not _seek(container, start - step)
        first = last = None
        shown_until = -math.inf
        for packet in container.packets_of([container.stream]):
            time = packet_time(packet, container.name)
            duration = float((packet.duration or 0) * packet.time_base)
            shown_until = max(shown_until, float(time) + max(duration, LAST_FRAME))
            if packet.is_keyframe and (first is None or time <= latest):
                first = first or packet
                last = packet if time <= latest else last
            decoding_time = time if packet.dts is None else packet.dts * packet.time_base
            if decoding_time > latest and (first is not None or not is_beginning):
                break
        else:
            if -math.inf < shown_until < start:  # some formats have no packets at all after a seek behind the end
                raise InputValueError(f"{container.name}: it has no frame at {start:g} s")
        key_frame = first if last is None and is_beginning else last
        if key_frame is not None:
            if not _is_decodable(container, key_frame):
                raise KeyFrameError(f"{container.name}: it has no key frames to begin with")
            _seek(container, start - step)
            return key_frame
        if is_beginning:
            raise KeyFrameError(f"{container.name}: it has no key frames")
        step = 4 * step or FIRST_STEP


def _is_decodable(container: Container, packet: av.Packet) -> bool:
    """Return whether a packet is decoded to a frame without others. If not, its picture builds up over several."""
    if packet.is_discard:  # the decoder would hide its frame
        return True
    container.flush()
    frames = [*container.decode(packet), *container.decode(None)]
    container.flush()
    return bool(frames)


def _seek(container: Container, time: float) -> bool:
    """Go to a key frame near a time in seconds. Return False if that is the beginning of the video."""
    first = container.stream.start_time or 0
    timestamp = math.floor(min(time / (container.stream.time_base or 1), MAX_TIMESTAMP))
    if timestamp <= first or container.format in UNSEEKABLE_FORMATS:
        container.rewind()
        return False
    container.seek(timestamp)
    return True
