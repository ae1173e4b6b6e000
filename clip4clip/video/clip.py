"""Write a part of a video to a file of its own: copied from a key frame on, or re-encoded to the frame."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import av

from ..errors import InputValueError, VideoError
from ..files import atomic_write
from .clip_encoder import encode_clip
from .clip_file import MUXERS, ClipFile
from .container import Container
from .key_frames import TIME_ROUNDING, KeyFrameError, find_key_frame, packet_time
from .limits import DEFAULT_LIMITS, Limits
from .source import MAX_COPY_BYTES, is_url

INTERLEAVING = 5.0  # seconds by which the packets of one stream may come later in a file than those of another
SIZE_TOLERANCE = 1 << 20  # bytes by which the copied packets may be larger than the file that they come from
MAX_LATE = 1000  # packets that are held back; far more than any codec reorders
REENCODE = "It can be re-encoded instead: --exact, or exact=True in Python"  # advice for a video that cannot be copied


def source_file_name(source: str) -> str:
    """Return the name of the file behind a path or URL."""
    if not is_url(source):
        return Path(source).name
    return PurePosixPath(unquote(source.partition("#")[0].partition("?")[0])).name


def clip_ending(source: str, exact: bool) -> str:
    """Return the ending of the name of a clip: that of the source where it can be kept, ``.mp4`` if re-encoded.

    Args:
        source: path or URL of the video.
        exact: as for :func:`write_clip`.
    """
    ending = Path(source_file_name(source)).suffix.lower()
    return ".mp4" if exact else ending if ending in MUXERS else ".mkv"


def write_clip(
    source: str | os.PathLike[str] | bytes,
    output: Path,
    start: float | None = None,
    end: float | None = None,
    *,
    exact: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    stopped: threading.Event | None = None,
) -> None:
    """Write a part of a video, or the whole video, to a file: its pictures and its sound, without subtitles.

    A copy loses no quality and takes as long as reading the part. It starts at the last key frame at or before
    ``start``, and may end some frames after ``end``, as others refer to them. Several audio tracks, the rotation and
    the time between frames are kept. Time starts at 0 in a part, and stays as it is in a copy of the whole video.

    Args:
        source: local path, http(s) URL, or the bytes of a file.
        output: file to write; its ending is one of ``MUXERS``. It is complete, or it is what it was before.
        start: seconds, as the video states them; None for the beginning. Start and end may be rounded to milliseconds.
        end: seconds, likewise; None for the end. The frame that is displayed from then on is left out.
        exact: re-encode the frames from ``start`` up to ``end``, in H.264 and AAC, upright and in standard dynamic
            range.
        limits: how much work the video may cause.
        stopped: when it is set, the file is discarded.

    Raises:
        InputValueError: the times are not a range, the ending of ``output`` is unknown, or the video has no frame in
            the range.
        VideoNotFoundError: ``source`` does not exist.
        VideoError: ``source`` is not a supported video, exceeds a limit, or cannot be copied into this container.
        OSError: ``output`` cannot be written.
        KeyboardInterrupt: ``stopped`` was set.
    """
    muxer = MUXERS.get(output.suffix.lower())
    if muxer is None:
        raise InputValueError(f"{output}: the ending of a clip must be one of {', '.join(MUXERS)}")
    begin, stop = -math.inf if start is None else start, math.inf if end is None else end
    if not begin < stop:
        raise InputValueError(f"start must be before end, but they are {start!r} and {end!r} seconds")
    stopped = stopped or threading.Event()
    with Container(source, limits) as container, atomic_write(output) as temporary:
        if exact:
            encode_clip(container, temporary, muxer, begin, stop, stopped)
        else:
            with ClipFile(temporary, muxer, container.name, REENCODE) as file:
                try:
                    _Copy(container, file, stopped).write(start, stop)
                except KeyFrameError as error:
                    raise VideoError(f"{error}. {REENCODE}") from error


class _Copy:
    """Copy the packets of a video from one file to another.

    Args:
        container: the video.
        file: the file to write.
        stopped: ends the copy when it is set.
    """

    def __init__(self, container: Container, file: ClipFile, stopped: threading.Event) -> None:
        self._container, self._file, self._stopped = container, file, stopped
        templates: list[av.VideoStream | av.AudioStream] = [container.stream, *container.sound]
        self._streams = {template.index: file.add_copy(template) for template in templates}
        self._last_dts: dict[int, int] = {}  # by the index of the stream
        self._max_bytes = container.size + SIZE_TOLERANCE if container.size > 0 else MAX_COPY_BYTES
        self._bytes = self._frames = 0
        self._has_shown = False  # a frame that is displayed

    def write(self, start: float | None, end: float) -> None:
        """Copy the packets from the key frame before ``start`` to ``end``, in seconds; None for the beginning."""
        key_frame = None if start is None else find_key_frame(self._container, start)
        key_time = None if key_frame is None else packet_time(key_frame, self._container.name)
        shift = key_time or Fraction(0)
        if key_frame is not None and key_frame.is_discard:
            first_time = (self._container.stream.start_time or 0) * key_frame.time_base
            if shift >= first_time:
                raise self._joined_error()
            shift = first_time  # frames that the video hides have times below 0, and stay hidden
        if not self._container.has_display_times:  # frames are displayed some places after they are decoded
            end += self._container.stream.codec_context.reorder_depth / (self._container.stream.average_rate or 1)
        for packet in self._packets(key_time, end - TIME_ROUNDING):
            if self._stopped.is_set():
                raise KeyboardInterrupt
            self._mux(packet, shift)
        if not self._frames:
            raise InputValueError(f"{self._container.name}: it has no frame before {end:g} s")

    def _packets(self, key_time: Fraction | None, end: float) -> Iterator[av.Packet]:
        """Yield the packets from the key frame at a time on, and only as many others as frames before ``end`` need."""
        video = self._container.stream
        has_started = key_time is None
        reading_end = end + (INTERLEAVING if self._container.sound else 0)
        late: list[av.Packet] = []  # displayed after the end, or never: needed only if one follows that is displayed
        has_hidden_key = False  # after a frame that is displayed: an edit list shows several parts
        for packet in self._container.packets_of([video, *self._container.sound]):
            if packet.stream_index != video.index:
                if has_started and _is_between(packet, key_time, end):
                    yield packet
                continue
            time = packet_time(packet, self._container.name)
            decoding_time = time if packet.dts is None else packet.dts * packet.time_base
            if (decoding_time >= reading_end and not packet.is_discard) or len(late) > MAX_LATE:
                return
            has_started = has_started or (packet.is_keyframe and time == key_time)
            # A packet that is displayed before the key frame, but follows it, refers to frames before it.
            if not has_started or (key_time is not None and time < key_time) or decoding_time >= end:
                continue
            is_hidden = packet.is_discard and self._has_shown
            has_hidden_key |= is_hidden and packet.is_keyframe
            if not has_hidden_key:
                late.append(packet)
            if time < end and not is_hidden:
                if has_hidden_key:
                    raise self._joined_error()
                yield from late
                late.clear()

    def _mux(self, packet: av.Packet, shift: Fraction) -> None:
        """Write a packet, so much earlier in seconds, and check the limits."""
        index = packet.stream_index
        self._bytes += packet.size
        if self._bytes > self._max_bytes:  # an index may name the same bytes any number of times
            raise VideoError(f"{self._container.name}: its packets are larger than the file: it is damaged")
        if index == self._container.stream.index:
            self._has_shown |= not packet.is_discard
            self._frames += 1
            self._container.check_frame_count(self._frames)
        ticks = round(shift / packet.time_base)
        if packet.pts is not None:
            packet.pts -= ticks
        if packet.dts is not None:
            # Damaged files repeat time stamps, which no container accepts.
            packet.dts = max(packet.dts - ticks, self._last_dts.get(index, packet.dts - ticks - 1) + 1)
            self._last_dts[index] = packet.dts
            if packet.pts is not None:
                packet.pts = max(packet.pts, packet.dts)
        packet.stream = self._streams[index]
        self._file.mux(packet)

    def _joined_error(self) -> VideoError:
        return VideoError(f"{self._container.name}: it is joined from several parts. {REENCODE}")


def _is_between(packet: av.Packet, start: Fraction | None, end: float) -> bool:
    """Return whether a packet of sound is played from ``start`` on, None for the beginning, and before ``end``."""
    timestamp = packet.dts if packet.pts is None else packet.pts
    if timestamp is None:
        return False
    time = timestamp * packet.time_base
    return time < end and (start is None or time >= start)
