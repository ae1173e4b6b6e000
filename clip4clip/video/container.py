"""An open video: the packets of its video stream and the decoder for them, within limits."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import av
import av.error

from ..errors import VideoError
from ..runtime.placement import available_cores
from . import remote
from .limits import DEFAULT_LIMITS, Limits
from .mp4 import count_samples
from .remote import RemoteVideo
from .source import READ_SIZE, Source, copy_to_temporary_file, is_local_file, is_url, open_source, source_name

logger = logging.getLogger(__name__)

MAX_SINGLE_THREAD_PIXELS = 320 * 240  # of one frame; for frames this small, more threads cost more than they gain
MAX_THREADS = 16  # of a decoder, unless the caller asks for more
MAX_THREAD_PIXELS = 1 << 28  # pixels of one frame times threads: each thread may hold a frame
MAX_STREAMS = 100  # in one container
MAX_UNDECODABLE = 100_000  # packets in a row, an hour at 30 a second; after them, the rest of the video is skipped
MIN_PACKET_PIXELS = 128 * 128  # counted for a packet of a smaller frame, towards Limits.decoded_pixels
# Only containers that hold their own data. Playlists and the like name other files or addresses for FFmpeg to open.
FORMATS = (
    *("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "flv"),
    *("ogg", "asf", "mxf", "nut", "rm", "wtv"),
    *("h264", "hevc", "m4v", "mpegvideo", "ivf", "obu", "dv", "mjpeg", "yuv4mpegpipe", "gif", "apng"),
    *("png_pipe", "jpeg_pipe", "bmp_pipe", "tiff_pipe", "webp_pipe"),
    *("mp3", "wav", "flac", "aac"),  # so that the error can say that they have no video stream
)
LOOP_FILTER_CODECS = {"h264", "hevc"}  # whose decoder can leave out the loop filter
UNTIMED_FORMATS = {"avi"}  # whose packets do not state when they are displayed


class Container:
    """An open video: its video stream, the packets of this stream, and the decoder for them.

    Args:
        source: local path, http(s) URL, the bytes of a file, or a binary file object. A source that cannot seek, such
            as a named pipe, is first copied to a temporary file; so is an MP4 with an index from a server that does
            not support range requests.
        limits: how much work the video may cause.

    Raises:
        InputTypeError: ``source`` is none of these.
        VideoNotFoundError: the file does not exist or the URL cannot be fetched.
        VideoError: the source is not a supported video, has no video stream, or exceeds a limit.

    Attributes:
        name: name of the video, for messages.
        limits: how much work the video may cause.
        cores: CPU cores that decoding may use.
        stream: the first video stream that is not a cover picture.
        damage: number of packets and frames that are lost or altered.
        has_wrong_times: whether some time stamps are missing, repeat or fall.
    """

    def __init__(self, source: Source, limits: Limits = DEFAULT_LIMITS) -> None:
        self.name, self._source, self.limits = source_name(source), source, limits
        self.cores = limits.threads or available_cores()
        self._decoded_pixels = 0
        self._undecodable = 0  # packets in a row
        self.damage = 0
        self.has_wrong_times = False
        self._skips_loop_filter = False
        self._resources = contextlib.ExitStack()
        self._input: RemoteVideo | BinaryIO
        try:
            if isinstance(source, str | os.PathLike) and is_url(os.fspath(source)):
                self._input = RemoteVideo(os.fspath(source), self.name)
            else:
                self._use_file(open_source(source, self._resources))
            self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close everything that was opened here. A file object that was passed in stays open."""
        if hasattr(self, "_container"):
            self._container.close()
        self._resources.close()

    @property
    def can_reopen(self) -> bool:
        """Whether several readers can cheaply read the source at once: it is a local file or bytes."""
        return isinstance(self._source, bytes) or is_local_file(self._source)

    def reopen(self, threads: int) -> Container:
        """Open the same video once more, with a decoder of its own that uses this many threads."""
        other = Container(self._source, dataclasses.replace(self.limits, threads=threads))
        if self._skips_loop_filter:
            other.skip_loop_filter()
        return other

    @property
    def format(self) -> str:
        """FFmpeg's name of the container format."""
        return self._container.format.name

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec."""
        return self.stream.codec.canonical_name

    @property
    def has_display_times(self) -> bool:
        """Whether the packets state when they are displayed."""
        return self.format not in UNTIMED_FORMATS

    @property
    def reorders_frames(self) -> bool:
        """Whether frames may be decoded in another order than they are displayed in."""
        return bool(self.stream.codec_context.has_b_frames)

    @property
    def duration(self) -> float | None:
        """Seconds, as stated by the stream or else by the container; None if neither states it."""
        if self.stream.duration:
            return float(self.seconds(self.stream.duration))
        return self._container.duration / av.time_base if self._container.duration else None

    @property
    def size(self) -> int:
        """Size of the file in bytes; 0 or less if unknown."""
        return self._container.size

    @property
    def timecode(self) -> str | None:
        """Timecode of the first frame, such as ``01:00:00:00``, if the camera has recorded one."""
        return self.stream.metadata.get("timecode") or self._container.metadata.get("timecode")

    @property
    def sound(self) -> list[av.AudioStream]:
        """The audio streams that can be decoded."""
        return [stream for stream in self._container.streams.audio if stream.codec_context is not None]

    def seconds(self, timestamps: Any) -> Any:
        """Convert time stamps of the stream, one number or an array, to seconds."""
        time_base = self.stream.time_base or Fraction(1)
        return timestamps * time_base.numerator / time_base.denominator

    def check_frame_count(self, count: int) -> None:
        """Raise VideoError if a video has more frames than the limit."""
        if count > self.limits.frames:
            raise VideoError(f"{self.name}: it has over {self.limits.frames:,} frames, which is the limit")

    def rewind(self) -> None:
        """Go back to the first packet, even where seeking is impossible."""
        self._container.close()
        if not isinstance(self._input, RemoteVideo):
            self._input.seek(0)
        self._open()

    def seek(self, timestamp: int) -> None:
        """Go to a key frame at or before a time stamp, or near it; to the first packet where seeking is impossible."""
        try:
            self._container.seek(timestamp, stream=self.stream)
        except av.error.FFmpegError:
            self.rewind()

    def packets(self) -> Iterator[av.Packet]:
        """Yield the packets of the stream from the current position, in decoding order.

        Only the last packet may be marked as corrupt: it is then cut off with the file. FFmpeg also marks packets next
        to a gap in a transport stream; those may be intact, so they count as damage and lose the mark.
        """
        previous = None
        try:
            for packet in self._demux(self.stream):
                if self._undecodable > MAX_UNDECODABLE:
                    return
                # An empty packet would flush the decoder.
                if not packet.size or packet.stream_index != self.stream.index:
                    continue
                if previous is not None:
                    self.damage += previous.is_corrupt
                    previous.is_corrupt = False
                    yield previous
                previous = packet
        except av.error.FFmpegError as error:
            if isinstance(self._input, RemoteVideo):
                raise self._input.connection_error(error) from error
            self.damage += 1
            logger.debug("%s: %s", self.name, error)
        except IndexError:  # raised by PyAV at the end of a file in which damage has made another stream appear
            self.damage += 1
        if previous is not None:
            yield previous

    def packets_of(self, streams: Sequence[av.VideoStream | av.AudioStream]) -> Iterator[av.Packet]:
        """Yield the packets of several streams from the current position, in the order of the file.

        Raises:
            VideoError: the connection to a server fails. Damage ends the packets of a local file.
        """
        indices = {stream.index for stream in streams}
        try:
            for packet in self._demux(*streams):
                if packet.size and packet.stream_index in indices:  # an empty packet would flush a decoder
                    yield packet
        except av.error.FFmpegError as error:
            if isinstance(self._input, RemoteVideo):
                raise self._input.connection_error(error) from error
            self.damage += 1
            logger.debug("%s: %s", self.name, error)
        except IndexError:  # as in packets()
            self.damage += 1

    def decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        """Decode one more packet. Damage costs only the frames that depend on the damaged packet.

        Args:
            packet: the next packet; None to get the frames that the decoder still holds.

        Returns:
            The frames that the decoder has finished, often of earlier packets.

        Raises:
            VideoError: the decoded pixels exceed the limit.
        """
        self._decoded_pixels += max(self.stream.width * self.stream.height, MIN_PACKET_PIXELS)
        if self._decoded_pixels > self.limits.decoded_pixels:
            raise VideoError(
                f"{self.name}: decoding it takes more than {self.limits.decoded_pixels:,.0f} pixels, which is the "
                "limit. Use a smaller or shorter video, or one with more key frames"
            )
        if packet is not None and packet.is_corrupt:  # it would also cost the frames next to it
            self.damage += 1
            return []
        try:
            frames = self.stream.decode(packet)
        except av.error.FFmpegError as error:
            logger.debug("%s: %s", self.name, error)
            self.damage += 1
            self._undecodable += 1
            return []
        if frames:
            self._undecodable = 0
        self.damage += sum(frame.is_corrupt for frame in frames)
        return frames

    def flush(self) -> None:
        """Reset the decoder, so that decoding can begin at another key frame."""
        self.stream.codec_context.flush_buffers()
        self._undecodable = 0

    def skip_unreferenced(self, skip: bool) -> None:
        """Set whether the decoder may skip the next packet if no other frame refers to it."""
        if not self.stream.codec_context.name.startswith("lib"):  # those apply the setting to all packets
            self.stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"

    def skip_loop_filter(self) -> None:
        """Leave out the filter that smooths the edges of blocks. Call this before anything is decoded.

        Decoding then takes a quarter to a third less time. Frames become slightly inexact: more so, the more frames lie
        between them and their key frame.
        """
        self._skips_loop_filter = self.codec in LOOP_FILTER_CODECS
        self._set_decoder_options()

    def _set_decoder_options(self) -> None:
        options = {"max_pixels": str(self.limits.pixels)}  # for frames that become larger later
        if self._skips_loop_filter:
            options["skip_loop_filter"] = "all"
        self.stream.codec_context.options = options

    def _use_file(self, file: BinaryIO) -> None:
        if not file.seek(0, os.SEEK_END):
            raise VideoError(f"{self.name}: the file is empty")
        self.check_frame_count(count_samples(file, self.limits.frames))
        file.seek(0)
        self._input = file

    def _open(self) -> None:
        self._container = self._open_input()
        self.stream = self._find_stream()
        self._set_decoder_options()
        if (
            isinstance(self._input, RemoteVideo)
            and "mp4" in self.format
            and self.stream.frames
            and not self._input.supports_ranges()
        ):
            # Some MP4 files have their index behind their frames; others have fragments that the index does not list.
            # Without range requests, FFmpeg would fail to open the former and would miss frames of the latter.
            self._container.close()
            with contextlib.closing(self._input.download()) as chunks:
                file = copy_to_temporary_file(chunks, self.name, self._resources)
            self._use_file(file)
            self._open()

    def _open_input(self) -> av.container.InputContainer:
        options = {
            "format_whitelist": ",".join(FORMATS),
            "max_streams": str(MAX_STREAMS),
            "max_pixels": str(self.limits.pixels),  # for the pictures that FFmpeg decodes to learn their size
        }
        source: Any
        if isinstance(self._input, RemoteVideo):
            source = self._input.url
            options |= self._input.options()
        else:
            # Hide the file's name: FFmpeg would take it for a hint of its format, or for a pattern of several files.
            source = SimpleNamespace(read=self._input.read, seek=self._input.seek, tell=self._input.tell)
            options["protocol_whitelist"] = "pipe"
        timeout = (remote.OPEN_TIMEOUT, remote.READ_TIMEOUT)
        try:
            return cast(
                "av.container.InputContainer",
                av.open(source, options=options, timeout=timeout, metadata_errors="replace", buffer_size=READ_SIZE),
            )
        except av.error.FFmpegError as error:
            if isinstance(self._input, RemoteVideo) and not self._input.is_content_error(error):
                raise self._input.not_found_error(error) from error
            raise VideoError(
                f"{self.name}: unsupported or corrupt video. If a media player can play it, convert it to MP4"
            ) from error

    def _demux(self, *streams: av.VideoStream | av.AudioStream) -> Iterator[av.Packet]:
        if isinstance(self._input, RemoteVideo):
            # Read all streams: a live stream whose sound outlasts its pictures must run into the time limit, too.
            return self._input.limit_waiting(self._container.demux())
        return self._container.demux(*streams)

    def _find_stream(self) -> av.VideoStream:
        cover = av.stream.Disposition.attached_pic
        stream = next((stream for stream in self._container.streams.video if not stream.disposition & cover), None)
        if stream is None:
            raise VideoError(f"{self.name}: it has no video stream")
        if stream.codec_context is None:
            raise VideoError(f"{self.name}: there is no decoder for its video stream")
        pixels = stream.width * stream.height
        if pixels > self.limits.pixels:
            raise VideoError(
                f"{self.name}: its frames of {stream.width}×{stream.height} are over the limit of "
                f"{self.limits.pixels:,} pixels"
            )
        stream.thread_type = "AUTO"
        stream.thread_count = self._thread_count(pixels)
        return stream

    def _thread_count(self, pixels: int) -> int:
        """Return the number of decoder threads for frames of this many pixels."""
        if pixels <= MAX_SINGLE_THREAD_PIXELS:
            return 1
        threads = self.limits.threads or min(self.cores + 1, MAX_THREADS)  # FFmpeg's own choice
        return min(threads, max(MAX_THREAD_PIXELS // pixels, 1))
