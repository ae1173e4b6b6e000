"""A video opened: path, URL, bytes or file object to the packets of its picture stream, within limits."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import av.error

from .device import cores
from .errors import InputTypeError, VideoError, VideoNotFoundError, brief

logger = logging.getLogger(__name__)

Source = str | os.PathLike[str] | bytes | BinaryIO

TIMEOUT = (60.0, 30.0)  # seconds to open a URL, whose index may be long, and to wait for its next bytes
THREADED_PIXELS = 320 * 240  # of one frame; for smaller ones more threads cost more than they bring
MAX_PIXELS = 8192 * 8192  # of one frame
MAX_STREAMS = 100  # of a container
MAX_COPIED = 16 << 30  # bytes of what cannot seek: a file object, a pipe, a server without ranges
BUFFER = 1 << 18  # bytes read at once: less often into Python, which FFmpeg asks for every read
# Containers that hold their own data: playlists and the like name other files or addresses, which we would open.
FORMATS = (
    *(
        "mov,mp4,m4a,3gp,3g2,mj2",
        "matroska,webm",
        "avi",
        "mpegts",
        "mpeg",
        "flv",
        "ogg",
        "asf",
        "mxf",
        "nut",
        "rm",
        "wtv",
    ),
    *("h264", "hevc", "m4v", "mpegvideo", "ivf", "obu", "dv", "mjpeg", "yuv4mpegpipe", "gif", "apng"),
    *("png_pipe", "jpeg_pipe", "bmp_pipe", "tiff_pipe", "webp_pipe"),
    *("mp3", "wav", "flac", "aac"),  # to say that they have no video stream
)
HTTP = {
    "protocol_whitelist": "http,https,httpproxy,tcp,tls",
    "reconnect": "1",
    "reconnect_delay_max": "5",  # seconds
    "multiple_requests": "1",  # over one connection
    "request_size": str(1 << 20),  # bytes; else every seek would leave what the server has already sent
    "short_seek_size": str(1 << 18),  # bytes that are rather read than jumped over; else a whole TCP window
}


class Container:
    """The picture stream of an open video: where it is read, and the decoder that it is fed to.

    Args:
        source: local path, http(s) URL, the bytes of a file, or a binary file object. One that cannot seek, a pipe's
            path too, is copied to a temporary file first, at most ``MAX_COPIED`` bytes; so is an MP4 with an index from
            a server without ranges.
        threads: how many the decoder may use; 0 for one per core.

    Raises:
        InputTypeError: when ``source`` is none of these.
        VideoNotFoundError: when there is nothing there.
        VideoError: when it is no video, has no picture stream, or is over a limit.
    """

    def __init__(self, source: Source, threads: int = 0) -> None:
        self.name, self._given = name_of(source), source
        self.cores, self._threads = threads or cores(), threads
        self.damage = 0  # packets and frames that could not be had as they were meant
        self.has_wrong_times = False  # time stamps that are missing in part, repeat or fall
        self._files = contextlib.ExitStack()
        try:
            self._source = self._to_open(source)
            self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes what was opened here; a file object that was given stays open."""
        if hasattr(self, "_container"):
            self._container.close()
        self._files.close()

    @property
    def can_open_again(self) -> bool:
        """Whether the source can be read at two places at once, and cheaply."""
        path = isinstance(self._given, str | os.PathLike)
        return isinstance(self._given, bytes) or (path and Path(self.name).is_file())  # no URL, no pipe

    def again(self, threads: int) -> Container:
        """The same video, opened once more."""
        return Container(self._given, threads)

    @property
    def format(self) -> str:
        """FFmpeg's name of the container's format."""
        return self._container.format.name

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec."""
        return self.stream.codec.canonical_name

    @property
    def duration(self) -> float | None:
        """Seconds, as the stream or else the file says it; None when neither does."""
        if self.stream.duration:
            return float(self.seconds(self.stream.duration))
        return self._container.duration / av.time_base if self._container.duration else None

    @property
    def size(self) -> int:
        """Bytes of the file; 0 or less when that is not known."""
        return self._container.size

    def seconds(self, stamps: Any) -> Any:
        """Time stamps of the stream, a number or an array, in seconds."""
        base = self.stream.time_base or Fraction(1)
        return stamps * base.numerator / base.denominator

    def rewind(self) -> None:
        """To the first packet, whatever can or cannot seek."""
        self._container.close()
        if not isinstance(self._source, str):
            self._source.seek(0)
        self._open()

    def seek(self, stamp: int) -> None:
        """To a key frame at or before a time stamp, or somewhere near; to the first packet when there is no seeking."""
        try:
            self._container.seek(stamp, stream=self.stream)
        except av.error.FFmpegError:
            self.rewind()

    def packets(self) -> Iterator[av.Packet]:
        """The packets of the stream from where it stands, in the order in which they are decoded.

        One that the end of the file cuts off is marked as corrupt. One beside a gap in a transport stream may be whole.
        """
        held = None
        try:
            for packet in self._container.demux(self.stream):
                if not packet.size:  # the empty one at the end would flush the decoder
                    continue
                if held is not None:
                    self.damage += held.is_corrupt
                    held.is_corrupt = False
                    yield held
                held = packet
        except av.error.FFmpegError as error:
            if isinstance(self._source, str):
                raise VideoError(f"{self.name}: the connection failed: {error}") from error
            self.damage += 1
            logger.debug("%s: %s", self.name, error)
        except IndexError:  # PyAV's at the end of a file, if damage makes another stream appear on the way
            self.damage += 1
        if held is not None:
            yield held

    def decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        """The frames that the decoder gives for one more packet, or at its end, for None.

        A damaged packet costs only what depends on it.
        """
        if packet is not None and packet.is_corrupt:  # cut off: an error in it would take its neighbours' frames along
            self.damage += 1
            return []
        try:
            frames = self.stream.decode(packet)
        except av.error.FFmpegError as error:
            logger.debug("%s: %s", self.name, error)
            self.damage += 1
            return []
        self.damage += sum(frame.is_corrupt for frame in frames)
        return frames

    def flush(self) -> None:
        """Makes the decoder forget what it was given."""
        self.stream.codec_context.flush_buffers()

    def skip_unreferenced(self, on: bool) -> None:
        """Whether the decoder may leave out the next packet if no other one refers to it."""
        if not self.stream.codec_context.name.startswith("lib"):  # which take it once, for all packets
            self.stream.codec_context.skip_frame = "NONREF" if on else "DEFAULT"

    def _to_open(self, source: Source) -> str | BinaryIO:
        if isinstance(source, bytes):
            return io.BytesIO(source)
        if isinstance(source, str | os.PathLike):
            if is_url(self.name):
                scheme, rest = self.name.split(":", 1)
                return f"{scheme.lower()}:{rest}"  # FFmpeg knows it in lower case alone
            # Opened by Python, so that to FFmpeg its name is neither a pattern nor a protocol.
            try:
                source = self._files.enter_context(Path(self.name).open("rb"))  # noqa: SIM115
            except FileNotFoundError as error:
                raise VideoNotFoundError(f"{self.name}: there is no such file") from error
            except (OSError, ValueError) as error:
                raise VideoError(f"{self.name}: cannot be opened: {error}") from error
        if source.seekable():
            return source
        return self._copy(iter(lambda: source.read(shutil.COPY_BUFSIZE), b""))  # type: ignore[attr-defined]

    def _copy(self, parts: Iterable[bytes]) -> BinaryIO:
        copy = cast("BinaryIO", self._files.enter_context(tempfile.TemporaryFile()))  # noqa: SIM115
        for part in parts:
            copy.write(part)
            if copy.tell() > MAX_COPIED:
                raise VideoError(f"{self.name}: it cannot seek, and is over the {MAX_COPIED:,} bytes that are copied")
        return copy

    def _fetch(self, **options: str) -> av.container.InputContainer:
        """The bytes of a URL, whatever they are, as packets."""
        options = _http() | {"format_whitelist": "data"} | options
        return cast(
            "av.container.InputContainer", av.open(self._source, format="data", options=options, timeout=TIMEOUT)
        )

    def _fetch_whole(self) -> BinaryIO:
        try:
            with self._fetch() as raw:
                return self._copy(bytes(packet) for packet in raw.demux())
        except av.error.FFmpegError as error:
            raise VideoError(f"{self.name}: the connection failed: {error}") from error

    def _can_fetch(self, **options: str) -> bool:
        try:
            self._fetch(**options).close()
        except av.error.FFmpegError:
            return False
        return True

    def _open(self) -> None:
        options = {
            "format_whitelist": ",".join(FORMATS),
            "max_streams": str(MAX_STREAMS),
            "max_pixels": str(MAX_PIXELS),  # for pictures that are decoded to know their size
        }
        options |= _http() if isinstance(self._source, str) else {"protocol_whitelist": "pipe"}
        if not isinstance(self._source, str) and not self._source.seek(0, os.SEEK_END):
            raise VideoError(f"{self.name}: the file is empty")
        if not isinstance(self._source, str):
            self._source.seek(0)
        try:
            self._container = cast(
                "av.container.InputContainer",
                av.open(self._source, options=options, timeout=TIMEOUT, metadata_errors="replace", buffer_size=BUFFER),
            )
        except av.error.FFmpegError as error:
            if isinstance(self._source, str) and not self._is_of_content(error):
                raise VideoNotFoundError(f"{self.name}: cannot be fetched: {error}") from error
            raise VideoError(f"{self.name}: not a video file of a kind that is read here ({error})") from error
        self.stream = self._find_stream()
        if isinstance(self._source, str) and "mp4" in self.format and self.stream.frames and not self._has_ranges():
            # An MP4's index lies behind its frames, or hides fragments behind them: FFmpeg fails, or stops early.
            self._container.close()
            self._source = self._fetch_whole()
            self._open()

    def _has_ranges(self) -> bool:
        return self._can_fetch(offset="1", request_size="1024")

    def _is_of_content(self, error: av.error.FFmpegError) -> bool:
        """Whether an error at opening a URL tells of its content, and not of the way to it."""
        if isinstance(error, av.error.ArgumentError):  # a format that is not allowed, or else a protocol
            return self._can_fetch()
        return isinstance(error, av.error.InvalidDataError)

    def _find_stream(self) -> av.VideoStream:
        cover = av.stream.Disposition.attached_pic
        stream = next((stream for stream in self._container.streams.video if not stream.disposition & cover), None)
        if stream is None:
            raise VideoError(f"{self.name}: it has no video stream")
        if stream.codec_context is None:
            raise VideoError(f"{self.name}: there is no decoder for its video stream")
        if stream.width * stream.height > MAX_PIXELS:
            raise VideoError(
                f"{self.name}: its frames of {stream.width}×{stream.height} are over the limit of {MAX_PIXELS:,} pixels"
            )
        stream.thread_type = "AUTO"
        stream.thread_count = 1 if stream.width * stream.height <= THREADED_PIXELS else self._threads
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # for pictures that grow on the way
        return stream


def _http() -> dict[str, str]:
    # For when FFmpeg seeks, as PyAV keeps no time then. Else PyAV must be first: FFmpeg takes this for the file's end.
    return HTTP | {"timeout": str(round((max(TIMEOUT) + 1) * 1_000_000))}  # microseconds


def name_of(source: Source) -> str:
    """What messages call a source."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, bytes):
        return f"video of {len(source):,} bytes"
    if hasattr(source, "read") and hasattr(source, "seekable"):
        name = getattr(source, "name", None)
        return name if isinstance(name, str) else f"<{type(source).__name__}>"
    raise InputTypeError(
        f"a video must be a path, a URL, bytes or a binary file object, not {type(source).__name__}: {brief(source)}"
    )


def is_url(name: str) -> bool:
    """Whether it is fetched over HTTP; everything else is the name of a local file."""
    return name.lower().startswith(("http://", "https://"))
