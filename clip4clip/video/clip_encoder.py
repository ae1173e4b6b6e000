"""Re-encode a part of a video, to the frame: H.264 and AAC in MP4."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import threading
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.error
from av.codec.context import Flags
from av.filter import Graph
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from ..errors import Clip4clipError, InputValueError, VideoError
from .clip_file import ClipFile
from .container import Container
from .decode import VideoInfo, decode_frames
from .key_frames import TIME_ROUNDING
from .rgb import is_upright, to_rgb
from .sampling import FrameSelection
from .timestamps import DEFAULT_FRAME_RATE, Timeline
from .tonemap import is_hdr

X264_OPTIONS = {"crf": "18", "preset": "veryfast"}  # hardly distinguishable from the source
MAX_FRAME_RATE = 240  # for the encoder; a stated rate above it is a mistake. The times of frames are kept anyway.
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
AAC_RATE = 48000  # for sound with any other rate
AAC_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1")  # others become stereo
AAC_BIT_RATE = 96_000  # of each channel
AAC_FRAME = 1024  # samples
SEEK_MARGIN = 1.0  # seconds before the start from which sound is decoded: codecs need some, and containers seek roughly

_TimedFrame = tuple[float, av.VideoFrame]  # display time in seconds, frame


def encode_clip(
    container: Container, output: Path, muxer: str, start: float, end: float, stopped: threading.Event
) -> None:
    """Re-encode what is seen and heard from ``start`` up to ``end``, to a file whose time starts at 0.

    Args:
        container: the video at its first packet.
        output: file to write.
        muxer: FFmpeg's name of its container.
        start: seconds, as the video states them; minus infinity for the beginning of the video.
        end: seconds; infinity for the end of the video.
        stopped: ends the work when it is set.

    Raises:
        InputValueError: the video has no frame in the range.
        VideoError: the video exceeds a limit, or the file's container takes no H.264 and AAC.
        OSError: the file cannot be written.
        KeyboardInterrupt: ``stopped`` was set.
    """
    shot = _TimeRange(start, end, container.name)
    frames = decode_frames(container, FrameSelection(shot.choose, 0.0, math.inf, "exact"), VideoInfo())
    first = next(frames, None)
    if first is None:
        raise shot.no_frame_error()
    origin = max(start, first[0])
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(ClipFile(output, muxer, container.name, "Choose a name that ends in .mp4"))
            pictures = _Pictures(container, file, first[1])
            streams = [pictures.packets(itertools.chain([first], frames), origin, shot)]
            for number in range(len(container.sound)):
                # Several decoders take turns, so each reads the video for itself.
                reader = stack.enter_context(container.reopen(container.cores))
                streams.append(_sound_packets(reader, number, file, origin, end))
            for packet in heapq.merge(*streams, key=_time):
                if stopped.is_set():
                    raise KeyboardInterrupt
                file.mux(packet)
    except Clip4clipError:
        raise
    except (av.error.FFmpegError, ValueError) as error:  # filters and encoders do not take every size and layout
        raise VideoError(f"{container.name}: it cannot be re-encoded: {error}") from error


def _time(packet: av.Packet) -> float:
    """Return the place of a packet among those of all streams, in seconds."""
    return float(cast("int", packet.dts) * packet.time_base)


class _TimeRange:
    """Choose the frames that are displayed within a range of time.

    Args:
        start: seconds, as the video states them.
        end: seconds; a frame that is displayed from then on is left out.
        name: name of the video, for messages.

    Attributes:
        until: when the last frame ends, if another one follows; infinity if it is the last of the video.
    """

    def __init__(self, start: float, end: float, name: str) -> None:
        self.start, self.end, self.until = start, end, math.inf
        self._name = name

    def choose(self, timeline: Timeline, frame_range: range) -> range:
        """Return the numbers of the frames. This is the ``choose`` of a :class:`FrameSelection`."""
        first, last = timeline.time_of(frame_range[0]), timeline.time_of(frame_range[-1])
        interval = (last - first) / (len(frame_range) - 1) if len(frame_range) > 1 else math.inf
        stop = min(timeline.count_before(self.end - TIME_ROUNDING), frame_range.stop)
        if stop <= frame_range.start or self.start >= last + interval:
            raise self.no_frame_error()
        begin = max(timeline.count_before(self.start + TIME_ROUNDING) - 1, frame_range.start)
        if stop < frame_range.stop:
            self.until = min(timeline.time_of(stop), self.end)
        return range(begin, max(stop, begin + 1))

    def no_frame_error(self) -> InputValueError:
        """Return the error to raise when no frame of the video can be encoded."""
        if math.isinf(self.start) and math.isinf(self.end):
            return InputValueError(f"{self._name}: none of its frames can be decoded")
        return InputValueError(f"{self._name}: no frame between {self.start:g} s and {self.end:g} s can be decoded")


class _Pictures:
    """Encode the frames of a video.

    Args:
        container: the video.
        file: the file that gets a stream for them.
        first: the first frame; the size and colours of the others follow it.
    """

    def __init__(self, container: Container, file: ClipFile, first: av.VideoFrame) -> None:
        self._reformatter = VideoReformatter()
        self._time_base = container.stream.time_base or Fraction(1, 1000)
        rate = container.stream.average_rate or container.stream.guessed_rate
        is_plausible = rate is not None and 1 <= rate <= MAX_FRAME_RATE
        self._rate = rate if rate is not None and is_plausible else Fraction(DEFAULT_FRAME_RATE)
        self._size: tuple[int, int] | None = None
        picture = self._to_yuv(first)
        self._size = picture.width, picture.height
        self._stream = file.add_stream("libx264", self._rate.limit_denominator(1001), **X264_OPTIONS)
        context = self._stream.codec_context
        context.width, context.height = self._size
        context.pix_fmt, context.time_base = "yuv420p", self._time_base
        context.thread_count = container.limits.threads
        context.flags |= Flags.frame_duration  # the last frame's is the file's, too
        aspect = container.stream.sample_aspect_ratio
        if aspect:
            context.sample_aspect_ratio = 1 / aspect if first.rotation % 180 else aspect
        context.color_range = ColorRange.MPEG
        context.colorspace, context.color_primaries = picture.colorspace, picture.color_primaries
        context.color_trc = picture.color_trc

    def packets(self, frames: Iterable[_TimedFrame], origin: float, shot: _TimeRange) -> Iterator[av.Packet]:
        """Encode the frames of a time range, each with its time in seconds; ``origin`` becomes 0."""
        pts = -1
        for (time, frame), following in _with_next(frames):
            if following is not None:
                duration = following[0] - time
            else:
                duration = shot.until - time if shot.until != math.inf else self._duration(frame)
            picture = self._to_yuv(frame)
            # Corrected times may be closer to each other than the time base can state.
            pts = max(round((time - origin) / self._time_base), pts + 1)
            picture.pts, picture.time_base = pts, self._time_base
            picture.duration = max(round(min(duration, shot.end - time) / self._time_base), 1)
            yield from self._stream.encode(picture)
        yield from self._stream.encode(None)

    def _duration(self, frame: av.VideoFrame) -> float:
        """Return how long the last frame of the video is displayed, in seconds."""
        return float(frame.duration * self._time_base) or float(1 / self._rate)

    def _to_yuv(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return a frame in the format of the encoder, upright, in standard dynamic range, of even size."""
        colorspace = None
        if is_hdr(frame) or not is_upright(frame):
            frame = av.VideoFrame.from_ndarray(to_rgb(frame), format="rgb24")
            colorspace = Colorspace.ITU709
        width, height = self._size or (max(frame.width & ~1, 2), max(frame.height & ~1, 2))
        picture = self._reformatter.reformat(
            frame, width, height, "yuv420p", dst_colorspace=colorspace, dst_color_range=ColorRange.MPEG
        )
        if colorspace is not None:
            picture.colorspace, picture.color_primaries = 1, ColorPrimaries.BT709
            picture.color_trc = ColorTrc.BT709
        picture.pict_type = 0  # the encoder chooses
        return picture


def _with_next(frames: Iterable[_TimedFrame]) -> Iterator[tuple[_TimedFrame, _TimedFrame | None]]:
    """Yield each frame with the one that follows it; None after the last."""
    previous = None
    for frame in frames:
        if previous is not None:
            yield previous, frame
        previous = frame
    if previous is not None:
        yield previous, None


def _sound_packets(container: Container, number: int, file: ClipFile, origin: float, end: float) -> Iterator[av.Packet]:
    """Encode an audio stream of a video from ``origin`` to ``end``. The file gets a stream if there is any sound."""
    frames = _sound_frames(container, number, origin, end)
    first = next(frames, None)
    if first is None:
        return
    rate = first.sample_rate if first.sample_rate in AAC_RATES else AAC_RATE
    layout = first.layout.name.partition("(")[0]  # 5.1(side) becomes 5.1
    if layout not in AAC_LAYOUTS:
        layout = "mono" if first.layout.nb_channels == 1 else "stereo"
    stream = file.add_stream("aac", rate)
    stream.codec_context.layout, stream.codec_context.format = layout, "fltp"
    stream.codec_context.bit_rate = AAC_BIT_RATE * stream.codec_context.channels
    language = container.sound[number].language
    if language not in (None, "und"):
        stream.metadata["language"] = language
    graph = _sound_filters(first, rate, layout, origin, end)
    for frame in itertools.chain([first], frames):
        if _sound_format(frame) != _sound_format(first):
            continue  # of another recording; silence takes its place
        with contextlib.suppress(EOFError):  # the end is reached
            graph.push(frame)
        for sound in _pull(graph):
            yield from stream.encode(sound)
    with contextlib.suppress(EOFError):
        graph.push(None)
    for sound in _pull(graph):
        yield from stream.encode(sound)
    yield from stream.encode(None)


def _sound_format(frame: av.AudioFrame) -> tuple[int, str, str]:
    return frame.sample_rate, frame.layout.name, frame.format.name


def _sound_frames(container: Container, number: int, start: float, end: float) -> Iterator[av.AudioFrame]:
    """Decode an audio stream from before ``start`` to ``end``, in seconds. Damaged packets are left out."""
    time_base = container.stream.time_base or 1
    timestamp = math.floor((start - SEEK_MARGIN) / time_base)
    if timestamp > (container.stream.start_time or 0):
        container.seek(timestamp)
    stream = container.sound[number]
    for packet in itertools.chain(container.packets_of([stream]), [None]):
        if packet is not None and packet.pts is not None and packet.pts * packet.time_base >= end:
            return
        try:
            frames = stream.decode(packet)
        except av.error.FFmpegError:
            continue
        for frame in frames:
            if frame.time is not None and frame.sample_rate and frame.time + frame.samples / frame.sample_rate > start:
                yield frame


def _sound_filters(first: av.AudioFrame, rate: int, layout: str, origin: float, end: float) -> Graph:
    """Return filters that cut sound to the sample, and fill gaps with silence, so that it fits the pictures."""
    graph = Graph()
    filters = {
        "atrim": f"start={origin!r}" + ("" if end == math.inf else f":end={end!r}"),
        "asetpts": f"PTS-{origin!r}/TB",
        "aresample": "async=1:first_pts=0",
        "aformat": f"sample_fmts=fltp:sample_rates={rate}:channel_layouts={layout}",
        "abuffersink": None,
    }
    source = graph.add_abuffer(
        sample_rate=first.sample_rate, format=first.format, layout=first.layout, time_base=first.time_base
    )
    graph.link_nodes(source, *(graph.add(name, arguments) for name, arguments in filters.items())).configure()
    graph.set_audio_frame_size(AAC_FRAME)
    return graph


def _pull(graph: Graph) -> Iterator[av.AudioFrame]:
    """Yield the frames that the filters have finished."""
    try:
        while True:
            yield cast("av.AudioFrame", graph.pull())
    except (BlockingIOError, EOFError):
        return
