"""A video file or URL to sampled RGB frames, by PyAV.

Every frame before the last one wanted is decoded; only the wanted ones are converted to RGB.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import av
import av.error
import numpy as np
from av.video.reformatter import VideoReformatter

from .errors import InputValueError, VideoError, VideoNotFoundError

logger = logging.getLogger(__name__)

Source = str | os.PathLike[str]  # a local path, or an http(s) URL

TIMEOUT = (10.0, 30.0)  # seconds to connect and to wait for the next bytes of a URL
KEPT_PIXELS = 16_000_000  # of all decoded frames of a video together, while it is not known which are wanted
THREADED_PIXELS = 320 * 240  # of one frame; for smaller ones more threads cost more than they bring
MAX_PIXELS = 16_384 * 16_384  # of one frame
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


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        rgb: uint8 of shape (height, width, 3), at its display orientation.
        time: presentation time in seconds, as the file says it.
        key_frame: whether it is decoded without any other frame.
    """

    rgb: np.ndarray
    time: float
    key_frame: bool


def read_frames(source: Source, num_samples: int = 12) -> list[np.ndarray]:
    """Frames spread evenly over a whole video, ready for :class:`~clip4clip.VideoEncoder`.

    Args:
        source: local path, or http(s) URL.
        num_samples: how many frames; from a video with fewer, some come more than once.

    Returns:
        uint8 RGB arrays of shape (height, width, 3).

    Raises:
        VideoNotFoundError, VideoError: see :func:`decode`.
    """
    return [frame.rgb for frame in sample_uniformly(source, num_samples)]


def sample_uniformly(
    source: Source, num_samples: int, start_time: float | None = None, end_time: float | None = None
) -> Iterator[Frame]:
    """The frames at ``linspace(0, N - 1, num_samples)``, cut to whole numbers, of the N between two times.

    Arguments and errors are those of :func:`sample_indices`.
    """
    if not (isinstance(num_samples, int) and num_samples > 0):
        raise InputValueError(f"num_samples must be a whole number above 0, not {num_samples!r}")
    return sample_indices(
        source, lambda count: np.linspace(0, count - 1, num_samples).astype(int), start_time, end_time
    )


def sample_indices(
    source: Source,
    choose: Callable[[int], Iterable[int]],
    start_time: float | None = None,
    end_time: float | None = None,
) -> Iterator[Frame]:
    """The frames whose numbers ``choose`` gives, in rising order, for the number of frames between two times.

    That number is not what the container claims but that of the frames that decode, so a video too large to be kept in
    memory is decoded twice. Arguments and errors are those of :func:`decode`.
    """
    count = pixels = 0
    kept: list[tuple[float, av.VideoFrame]] = []
    for timed in _decode(source, start_time, end_time):
        count += 1
        pixels += timed[1].width * timed[1].height
        if pixels <= KEPT_PIXELS:
            kept.append(timed)
    if not count:
        raise _nothing_between(source, start_time, end_time)
    wanted = [int(index) for index in choose(count)]
    frames = enumerate(kept if len(kept) == count else _decode(source, start_time, end_time))
    for index, repeats in itertools.groupby(wanted):
        found = next((timed for number, timed in frames if number == index), None)
        if found is None:
            return  # the source became shorter between the two passes
        converted = _convert(*found)
        for _ in repeats:
            yield converted


def sample_every(
    source: Source, time_step: float, start_time: float | None = None, end_time: float | None = None
) -> Iterator[Frame]:
    """For each of the times ``start_time + k * time_step`` the first frame at or after it.

    A frame comes more than once where several of these times lie before it. Arguments and errors are those of
    :func:`decode`.
    """
    if not time_step > 0:
        raise InputValueError(f"time_step must be a number of seconds above 0, not {time_step!r}")
    steps = ((start_time or 0) + step * time_step for step in itertools.count())
    due = next(steps)
    empty = True
    for time, frame in _decode(source, start_time, end_time):
        converted = None
        while due <= time:
            converted = converted or _convert(time, frame)
            yield converted
            due, empty = next(steps), False
    if empty:
        raise _nothing_between(source, start_time, end_time)


def decode(source: Source, start_time: float | None = None, end_time: float | None = None) -> Iterator[Frame]:
    """Every frame of a video, lazily, in presentation order.

    Args:
        source: local path, or http(s) URL.
        start_time: seconds; frames presented before it are left out.
        end_time: seconds; frames presented after it are left out.

    Raises:
        VideoNotFoundError: when there is nothing at ``source``.
        VideoError: when it is no video, has no picture stream, or no frame of it can be decoded. Damage in the middle
            or at the end is no error: the frames that can be had are given, and a warning counts what was lost.
        InputValueError: for times that cannot be, or between which there is no frame.
    """
    empty = True
    for time, frame in _decode(source, start_time, end_time):
        yield _convert(time, frame)
        empty = False
    if empty:
        raise _nothing_between(source, start_time, end_time)


def _decode(source: Source, start_time: float | None, end_time: float | None) -> Iterator[tuple[float, av.VideoFrame]]:
    """Decoded frames between two times, not yet converted, each with its time."""
    start, end = start_time or 0.0, math.inf if end_time is None else end_time
    if not 0 <= start <= end:
        raise InputValueError(
            f"start_time must be at least 0 and at most end_time, but they are {start_time!r} and {end_time!r}"
        )
    name = os.fspath(source)
    decoded = False
    with contextlib.ExitStack() as stack:
        container = stack.enter_context(_open(name, stack))
        for time, frame in _frames_of(container, name):
            decoded = True
            if time > end:
                break
            if time >= start:
                yield time, frame
    if not decoded:
        raise VideoError(f"{name}: no frame of its video stream can be decoded")


def _open(name: str, stack: contextlib.ExitStack) -> av.container.InputContainer:
    options = {"format_whitelist": ",".join(FORMATS)}
    file: str | BinaryIO = name
    if name.startswith(("http://", "https://")):
        options["protocol_whitelist"] = "http,https,tcp,tls"
    else:
        # Opened by Python, so that to FFmpeg its name is neither a pattern nor a protocol.
        try:
            file = stack.enter_context(Path(name).open("rb"))  # noqa: SIM115  the stack closes it
        except FileNotFoundError as error:
            raise VideoNotFoundError(f"{name}: there is no such file") from error
        except (OSError, ValueError) as error:
            raise VideoError(f"{name}: cannot be opened: {error}") from error
        if not os.fstat(file.fileno()).st_size:
            raise VideoError(f"{name}: the file is empty")
        options["protocol_whitelist"] = "pipe"
    try:
        return cast(
            "av.container.InputContainer", av.open(file, options=options, timeout=TIMEOUT, metadata_errors="replace")
        )
    except (av.error.HTTPNotFoundError, av.error.HTTPError, av.error.ConnectionRefusedError) as error:
        raise VideoNotFoundError(f"{name}: cannot be fetched: {error}") from error
    except av.error.FFmpegError as error:
        raise VideoError(f"{name}: not a video file of a kind that is read here ({error})") from error


def _frames_of(container: av.container.InputContainer, name: str) -> Iterator[tuple[float, av.VideoFrame]]:
    """Decodes packet by packet, so that a damaged one costs only what depends on it."""
    cover = av.stream.Disposition.attached_pic
    stream = next((stream for stream in container.streams.video if not stream.disposition & cover), None)
    if stream is None:
        raise VideoError(f"{name}: it has no video stream")
    if stream.codec_context is None:
        raise VideoError(f"{name}: there is no decoder for its video stream")
    stream.thread_type = "AUTO"
    if stream.width * stream.height <= THREADED_PIXELS:
        stream.thread_count = 1
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # for pictures that grow on the way
    if stream.width * stream.height > MAX_PIXELS:
        raise VideoError(
            f"{name}: its frames of {stream.width}×{stream.height} are over the limit of {MAX_PIXELS:,} pixels"
        )
    lost = count = 0
    for packet in itertools.chain(_packets(container, stream, name), [None]):  # None: what the decoder still holds
        if packet is not None and packet.is_corrupt:  # cut off: an error in it would take its neighbours' frames along
            lost += 1
            continue
        try:
            frames = stream.decode(packet)
        except av.error.FFmpegError:
            lost += packet is not None
            continue
        for frame in frames:
            # Not frame.time, which PyAV leaves undefined for the last frames. A raw stream has no times of its own.
            yield (
                float(
                    count / (stream.average_rate or 25) if frame.pts is None else frame.pts * (stream.time_base or 0)
                ),
                frame,
            )
            count += 1
    if lost:
        logger.warning("%s: %d packets could not be decoded; their frames are left out", name, lost)


def _packets(container: av.container.InputContainer, stream: av.VideoStream, name: str) -> Iterator[av.Packet]:
    try:
        for packet in container.demux(stream):
            if packet.size:  # the empty one at the end would flush the decoder
                yield packet
    except av.error.FFmpegError as error:
        logger.warning("%s: cannot be read to its end: %s", name, error)


_of_thread = threading.local()


def _convert(time: float, frame: av.VideoFrame) -> Frame:
    # Kept, and without threads: to set up either for every frame costs more than to convert a small one.
    if not hasattr(_of_thread, "reformatter"):
        _of_thread.reformatter = VideoReformatter()
    rgb = _of_thread.reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, like numpy's
    return Frame(np.ascontiguousarray(np.rot90(rgb, turns)), time, bool(frame.key_frame))


def _nothing_between(source: Source, start_time: float | None, end_time: float | None) -> InputValueError:
    end = "its end" if end_time is None else f"{end_time} s"
    return InputValueError(f"{os.fspath(source)}: it has no frame between {start_time or 0} s and {end}")
