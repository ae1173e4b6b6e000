"""A video opened: path, URL, bytes or file object to the packets of its picture stream, within limits."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import math
import os
import select
import socket
import ssl
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit
from urllib.request import getproxies

import av
import av.error
import certifi

from ..errors import InputTypeError, VideoError, VideoNotFoundError, brief, printable
from ..runtime.placement import available_cores
from .mp4 import count_samples

logger = logging.getLogger(__name__)

Source = str | os.PathLike[str] | bytes | BinaryIO

TIMEOUT = (60.0, 30.0)  # seconds to open a URL, whose index may be long, and to wait for its next bytes
MAX_FETCH_SECONDS = 600.0  # to wait for the bytes of one URL, all together
PIPE_TIMEOUT = (60.0, 600.0)  # seconds to wait for a program that writes to a named pipe, and for its next bytes
THREADED_PIXELS = 320 * 240  # of one frame; for smaller ones more threads cost more than they bring
MAX_THREADS = 16  # of a decoder, unless more are asked for
THREADS_PIXELS = 1 << 28  # of one frame times the decoder's threads, each of which may hold a frame
MAX_STREAMS = 100  # of a container
MAX_COPIED = 16 << 30  # bytes of what cannot seek: a file object, a pipe, a server without ranges
MAX_UNDECODABLE = 100_000  # packets in a row, an hour at 30 a second; what follows is given up
MIN_WORK = 128 * 128  # pixels that a packet counts for at least in Limits.decoded_pixels
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
HTTP_ERRORS = (
    (av.error.HTTPBadRequestError, "400 Bad Request"),
    (av.error.HTTPUnauthorizedError, "401 Unauthorized: it asks for a login"),
    (av.error.HTTPForbiddenError, "403 Forbidden: the address may have expired, or need a login"),
    (av.error.HTTPNotFoundError, "404 Not Found: there is nothing at this address"),
    (av.error.HTTPTooManyRequestsError, "429 Too Many Requests: try again later"),
    (av.error.HTTPClientError, "with an error of the kind 4xx: it refuses this address"),
    (av.error.HTTPServerError, "with an error of the kind 5xx: try again later"),
)


@dataclass(frozen=True)
class Limits:
    """How much work one video may make. The defaults suit files of one's own; set lower ones for those of strangers.

    Attributes:
        pixels: of one frame. A decoder may hold 16 frames that others refer to and one for each of its threads, of 1.5
            to 6 bytes a pixel: at the default 2.5 GB of the usual 8 bits, for 4096×2304 0.5 GB.
        frames: of the video, as its index or its packets tell. Each costs about 100 bytes and 2 microseconds.
        decoded_pixels: of all frames together that a decoder is given. A core decodes 100 to 300 million a second.
    """

    pixels: int = 8192 * 8192
    frames: int = 6_000_000  # a day at 60 a second has 5.2 million
    decoded_pixels: float = math.inf


DEFAULT_LIMITS = Limits()


class Container:
    """The picture stream of an open video: where it is read, and the decoder that it is fed to.

    Args:
        source: local path, http(s) URL, the bytes of a file, or a binary file object. One that cannot seek, a pipe's
            path too, is copied to a temporary file first, at most ``MAX_COPIED`` bytes; so is an MP4 with an index from
            a server without ranges.
        threads: how many the decoder may use; 0 for one per core.
        limits: of the work.

    Raises:
        InputTypeError: when ``source`` is none of these.
        VideoNotFoundError: when there is nothing there.
        VideoError: when it is no video, has no picture stream, or is over a limit.
    """

    def __init__(self, source: Source, threads: int = 0, limits: Limits = DEFAULT_LIMITS) -> None:
        self.name, self._given, self.limits = name_of(source), source, limits
        self.cores, self._threads = threads or available_cores(), threads
        self._waited = 0.0  # seconds, for the bytes of a URL
        self._work = 0  # pixels that the decoder was given
        self._undecodable = 0  # packets in a row
        self.damage = 0  # packets and frames that could not be had as they were meant
        self.has_wrong_times = False  # time stamps that are missing in part, repeat or fall
        self._files = contextlib.ExitStack()
        try:
            self._source = self._to_open(source)
            self._check_size()
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
        return isinstance(self._given, bytes) or (path and Path(cast("str", self._given)).is_file())  # no URL, no pipe

    def again(self, threads: int) -> Container:
        """The same video, opened once more."""
        return Container(self._given, threads, self.limits)

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
        url, held = isinstance(self._source, str), None
        try:
            # Of a URL those of all streams: one that goes on without pictures must come to its end, too.
            found = self._in_time(self._container.demux()) if url else self._container.demux(self.stream)
            for packet in found:
                if self._undecodable > MAX_UNDECODABLE:
                    return
                if not packet.size or packet.stream_index != self.stream.index:  # an empty one would flush the decoder
                    continue
                if held is not None:
                    self.damage += held.is_corrupt
                    held.is_corrupt = False
                    yield held
                held = packet
        except av.error.FFmpegError as error:
            if url:
                raise self._no_connection(error) from error
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
        self._work += max(self.stream.width * self.stream.height, MIN_WORK)
        if self._work > self.limits.decoded_pixels:
            raise VideoError(
                f"{self.name}: to decode it takes over {self.limits.decoded_pixels:,.0f} pixels, which is the limit: "
                "give a smaller or shorter video, or one with more key frames"
            )
        if packet is not None and packet.is_corrupt:  # cut off: an error in it would take its neighbours' frames along
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
        """Makes the decoder forget what it was given."""
        self.stream.codec_context.flush_buffers()
        self._undecodable = 0

    def skip_unreferenced(self, on: bool) -> None:
        """Whether the decoder may leave out the next packet if no other one refers to it."""
        if not self.stream.codec_context.name.startswith("lib"):  # which take it once, for all packets
            self.stream.codec_context.skip_frame = "NONREF" if on else "DEFAULT"

    def _to_open(self, source: Source) -> str | BinaryIO:
        if isinstance(source, bytes):
            return io.BytesIO(source)
        if isinstance(source, str | os.PathLike):
            path = os.fspath(source)
            if is_url(path):
                scheme, rest = path.split(":", 1)
                return f"{scheme.lower()}:{rest}"  # FFmpeg knows it in lower case alone
            # Opened by Python, so that to FFmpeg its name is neither a pattern nor a protocol.
            try:
                is_pipe = _is_pipe(path)
                source = self._files.enter_context(_open_pipe(path) if is_pipe else Path(path).open("rb"))  # noqa: SIM115
            except FileNotFoundError as error:
                hint = "; of URLs only http(s):// can be read" if "://" in path else ""
                raise VideoNotFoundError(f"{self.name}: there is no such file{hint}") from error
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise VideoError(f"{self.name}: cannot be opened: {reason}") from error
            if is_pipe:
                return self._copy(self._from_pipe(source))
        if source.seekable():
            return source
        return self._copy(iter(lambda: source.read(BUFFER), b""))

    def _from_pipe(self, pipe: BinaryIO) -> Iterator[bytes]:
        while select.select([pipe], [], [], PIPE_TIMEOUT[1])[0]:
            part = pipe.read(BUFFER)
            if not part:
                return
            yield part
        raise VideoError(f"{self.name}: nothing has come through this pipe for {PIPE_TIMEOUT[1]:g} s")

    def _copy(self, parts: Iterable[bytes]) -> BinaryIO:
        copy = cast("BinaryIO", self._files.enter_context(tempfile.TemporaryFile()))  # noqa: SIM115
        for part in parts:
            try:
                copy.write(part)
            except OSError as error:
                raise VideoError(
                    f"{self.name}: it cannot seek, and cannot be copied to {tempfile.gettempdir()}: {error.strerror}"
                ) from error
            if copy.tell() > MAX_COPIED:
                raise VideoError(f"{self.name}: it cannot seek, and is over the {MAX_COPIED:,} bytes that are copied")
        return copy

    def _in_time(self, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        """Packets of a URL, until all the waiting for them has taken too long."""
        while True:
            began = time.monotonic()
            packet = next(packets, None)
            self._waited += time.monotonic() - began
            if self._waited > MAX_FETCH_SECONDS:
                raise VideoError(
                    f"{self.name}: fetching it takes over {MAX_FETCH_SECONDS:g} s, which is the limit: download it "
                    "first, if it is not a stream without an end"
                )
            if packet is None:
                return
            yield packet

    def _fetch(self, **options: str) -> av.container.InputContainer:
        """The bytes of a URL, whatever they are, as packets."""
        options = _http() | {"format_whitelist": "data"} | options
        return cast(
            "av.container.InputContainer", av.open(self._source, format="data", options=options, timeout=TIMEOUT)
        )

    def _fetch_whole(self) -> BinaryIO:
        try:
            with self._fetch() as raw:
                return self._copy(bytes(packet) for packet in self._in_time(raw.demux()))
        except av.error.FFmpegError as error:
            raise self._no_connection(error) from error

    def _can_fetch(self, **options: str) -> bool:
        try:
            self._fetch(**options).close()
        except av.error.FFmpegError:
            return False
        return True

    def _check_size(self) -> None:
        if not isinstance(self._source, str):
            if not self._source.seek(0, os.SEEK_END):
                raise VideoError(f"{self.name}: the file is empty")
            self.check_frames(count_samples(self._source, self.limits.frames))
            self._source.seek(0)

    def _open(self) -> None:
        options = {
            "format_whitelist": ",".join(FORMATS),
            "max_streams": str(MAX_STREAMS),
            "max_pixels": str(self.limits.pixels),  # for pictures that are decoded to know their size
        }
        options |= _http() if isinstance(self._source, str) else {"protocol_whitelist": "pipe"}
        source: Any = self._source
        if not isinstance(source, str):
            # Without its name, which FFmpeg would take for a hint of its format, or a pattern of several files.
            source = SimpleNamespace(read=source.read, seek=source.seek, tell=source.tell)
        try:
            self._container = cast(
                "av.container.InputContainer",
                av.open(source, options=options, timeout=TIMEOUT, metadata_errors="replace", buffer_size=BUFFER),
            )
        except av.error.FFmpegError as error:
            if isinstance(self._source, str) and not self._is_of_content(error):
                raise VideoNotFoundError(f"{self.name}: cannot be fetched: {self._why(error)}") from error
            raise VideoError(
                f"{self.name}: not a video file of a kind that is read here, or one that is cut off or damaged; if a "
                "player shows it, convert it to MP4"
            ) from error
        self.stream = self._find_stream()
        if isinstance(self._source, str) and "mp4" in self.format and self.stream.frames and not self._has_ranges():
            # An MP4's index lies behind its frames, or hides fragments behind them: FFmpeg fails, or stops early.
            self._container.close()
            self._source = self._fetch_whole()
            self._check_size()
            self._open()

    def check_frames(self, count: int) -> None:
        """Raises VideoError when a video has more frames than the limit."""
        if count > self.limits.frames:
            raise VideoError(f"{self.name}: it has over {self.limits.frames:,} frames, which is the limit")

    def _no_connection(self, error: av.error.FFmpegError) -> VideoError:
        return VideoError(f"{self.name}: the connection failed: {self._why(error)}")

    def _why(self, error: av.error.FFmpegError) -> str:
        """Why a URL cannot be fetched. FFmpeg tells much of it as one and the same error."""
        for kind, answer in HTTP_ERRORS:
            if isinstance(error, kind):
                return f"its server answers {answer}"
        if isinstance(error, av.error.ExitError | av.error.TimeoutError):
            return f"no answer within {TIMEOUT[0]:g} s, or no more bytes for {TIMEOUT[1]:g} s"
        if isinstance(error, av.error.ConnectionRefusedError):
            return "nothing listens at this address: the connection is refused"
        if isinstance(error, av.error.ArgumentError):
            return "it leads to something else than http or https, or is no valid address"
        parts = urlsplit(cast("str", self._source))
        secure = ", or its certificate is not valid (TLS)" if parts.scheme == "https" else ""
        if parts.scheme in getproxies():
            return f"the connection, which goes through a proxy, failed or was lost{secure}"
        try:
            socket.getaddrinfo(parts.hostname, None)
        except (OSError, UnicodeError):
            return f"the host {brief(parts.hostname)} has no address: check its name, and the network"
        return f"the connection failed or was lost{secure}"

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
        pixels = stream.width * stream.height
        if pixels > self.limits.pixels:
            raise VideoError(
                f"{self.name}: its frames of {stream.width}×{stream.height} are over the limit of "
                f"{self.limits.pixels:,} pixels"
            )
        stream.thread_type = "AUTO"
        threads = self._threads or min(self.cores + 1, MAX_THREADS)  # FFmpeg's own choice
        stream.thread_count = 1 if pixels <= THREADED_PIXELS else min(threads, max(THREADS_PIXELS // pixels, 1))
        stream.codec_context.options = {"max_pixels": str(self.limits.pixels)}  # for pictures that grow on the way
        return stream


def _http() -> dict[str, str]:
    # For when FFmpeg seeks, as PyAV keeps no time then. Else PyAV must be first: FFmpeg takes this for the file's end.
    timeout = str(round((max(TIMEOUT) + 1) * 1_000_000))  # microseconds
    # FFmpeg by itself accepts any certificate. $SSL_CERT_FILE comes first, then the system's, then Mozilla's.
    authorities = ssl.get_default_verify_paths().cafile or certifi.where()
    return HTTP | {"timeout": timeout, "tls_verify": "1", "ca_file": authorities}


def name_of(source: Source) -> str:
    """What messages call a source."""
    if isinstance(source, str | os.PathLike):
        return printable(os.fspath(source))
    if isinstance(source, bytes):
        return f"video of {len(source):,} bytes"
    if hasattr(source, "read") and hasattr(source, "seekable"):
        name = getattr(source, "name", None)
        return printable(name) if isinstance(name, str) else f"<{type(source).__name__}>"
    raise InputTypeError(
        f"a video must be a path, a URL, bytes or a binary file object, not {type(source).__name__}: {brief(source)}"
    )


def _is_pipe(path: str) -> bool:
    return sys.platform != "win32" and stat.S_ISFIFO(Path(path).stat().st_mode)


def _open_pipe(path: str) -> BinaryIO:
    """Opens a named pipe once a program writes to it, or gives it up."""
    opened: Future[BinaryIO] = Future()

    def wait() -> None:
        try:
            opened.set_result(cast("BinaryIO", Path(path).open("rb", buffering=0)))  # noqa: SIM115
        except OSError as error:
            opened.set_exception(error)

    threading.Thread(target=wait, daemon=True).start()
    try:
        return opened.result(PIPE_TIMEOUT[0])
    except FutureTimeoutError:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # lets the thread go
        opened.result().close()
        raise TimeoutError(
            errno.ETIMEDOUT, f"it is a pipe to which no program has begun to write within {PIPE_TIMEOUT[0]:g} s"
        ) from None


def is_url(name: str) -> bool:
    """Whether it is fetched over HTTP; everything else is the name of a local file."""
    return name.lower().startswith(("http://", "https://"))
