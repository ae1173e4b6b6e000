"""Video files of many kinds, encoded when a test needs them, and their frames as a plain decoder returns them."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

RATE = 10


def picture(number: int, width: int = 160, height: int = 96) -> np.ndarray:
    """Return an RGB frame. Its grey and a moving bar show its number; a red top left corner shows its orientation."""
    frame = np.full((height, width, 3), 40 + 6 * number % 200, np.uint8)
    bar = 5 * number % width
    frame[height // 2 :, bar : bar + width // 8] = (30, 200, 90)
    frame[: height // 3, : width // 3] = (250, 20, 20)
    return frame


def write(
    path: Path,
    codec: str = "libx264",
    count: int = 25,
    size: tuple[int, int] = (160, 96),
    pixels: str = "yuv420p",
    *,
    muxer: dict[str, str] | None = None,
    sound: bool | str = False,
    pts: Callable[[int], int] = lambda number: number,
    shift: int = 0,
    edits: Sequence[tuple[int, int]] = (),
    restamp: Callable[[int, av.Packet], None] = lambda number, packet: None,
    **options: str,
) -> Path:
    """Encode a video of ``count`` frames, ten a second, and return its path.

    Args:
        path: its extension decides on the container.
        codec: FFmpeg's name of the encoder.
        count: number of frames.
        size: width and height.
        pixels: FFmpeg's name of the pixel format.
        muxer: options of the container.
        sound: whether to add a sound track, which is longer than the frames; or FFmpeg's name of its encoder.
        pts: from the number of a frame to its time, in tenths of a second.
        shift: added to all time stamps after encoding, in tenths of a second.
        edits: edit list of an MP4: start and duration of each part to show, in tenths of a second.
        restamp: called with each packet and its number in decoding order; may change its time stamps.
        options: options of the encoder.
    """
    with av.open(str(path), "w", options=muxer or {}) as file:
        stream = file.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.thread_count = 1  # else the file differs from machine to machine
        noise = file.add_stream(sound if isinstance(sound, str) else "aac", rate=16000) if sound else None
        numbers = itertools.count()

        def mux(packets: Sequence[av.Packet]) -> None:
            for packet in packets:
                ticks = round(shift / RATE / packet.time_base)
                packet.pts += ticks
                packet.dts += ticks
                restamp(next(numbers), packet)
                file.mux(packet)

        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts = pts(number)
            mux(stream.encode(frame))
        mux(stream.encode(None))
        if noise is not None:
            samples = np.random.default_rng(0).normal(0, 0.1, (1, 16000 * (count + 10) // RATE)).astype(np.float32)
            audio = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            audio.sample_rate = 16000
            file.mux(noise.encode(audio))
            file.mux(noise.encode(None))
    if edits:
        path.write_bytes(_replace_edit_list(path.read_bytes(), edits))
    return path


def _replace_edit_list(content: bytes, edits: Sequence[tuple[int, int]]) -> bytes:
    """Return an MP4, whose index lies behind its frames, with another edit list (ISO 14496-12, 8.6.6)."""
    changed = bytearray(content)

    def read_uint32(offset: int) -> int:
        return int.from_bytes(changed[offset : offset + 4], "big")

    movie, track = (read_uint32(changed.index(name) + 16) // RATE for name in (b"mvhd", b"mdhd"))  # ticks per 0.1 s
    start = changed.index(b"elst") - 4
    first, size = read_uint32(start + 20), read_uint32(start)
    entries = [struct.pack(">3I", length * movie, first + begin * track, 1 << 16) for begin, length in edits]
    box = struct.pack(">I4s2I", 16 + 12 * len(edits), b"elst", 0, len(edits)) + b"".join(entries)
    changed[start : start + size] = box
    for name in (b"moov", b"trak", b"edts"):
        offset = changed.index(name) - 4
        changed[offset : offset + 4] = (read_uint32(offset) + len(box) - size).to_bytes(4, "big")
    return bytes(changed)


SCENES = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 50, 220)}


def write_scenes(path: Path) -> Path:
    """Encode a video of three scenes of one colour each, ``SCENES``, two seconds long, and return its path.

    Its only key frame is the first frame.
    """
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"g": "1000", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(6 * RATE):
            colour = [*SCENES.values()][number // (2 * RATE)]
            frame = av.VideoFrame.from_ndarray(np.full((96, 160, 3), colour, np.uint8), format="rgb24")
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


class Kind(NamedTuple):
    """Arguments of :func:`write` for a file that is difficult in one way."""

    name: str  # file name
    arguments: dict[str, Any]


OPEN_X265 = "keyint=10:min-keyint=1:open-gop=1:bframes=3:b-adapt=0:scenecut=0:log-level=none"
X264 = {"g": "8", "bf": "3", "sc_threshold": "0"}
KINDS = {
    "h264": Kind("a.mp4", X264),
    "h264, one group": Kind("a.mp4", {"g": "1000"}),
    "h264, every frame a key frame": Kind("a.mp4", {"g": "1"}),
    "h264, no b-frames": Kind("a.mp4", {**X264, "bf": "0"}),
    "h264, b-pyramid": Kind("a.mp4", {**X264, "g": "12", "bf": "5", "x264-params": "b-adapt=0:b-pyramid=normal"}),
    "h264, open groups": Kind("a.mp4", {**X264, "x264-params": "open-gop=1:b-adapt=0"}),
    "h264, open groups, mkv": Kind("a.mkv", {**X264, "x264-params": "open-gop=1:b-adapt=0"}),
    "h264, open groups, ts": Kind("a.ts", {**X264, "x264-params": "open-gop=1:b-adapt=0"}),
    "h264, intra refresh": Kind("a.mp4", {"g": "8", "intra-refresh": "1"}),
    "h264, intra refresh, ts": Kind("a.ts", {"g": "8", "intra-refresh": "1"}),
    "h264, interlaced": Kind("a.mp4", {**X264, "flags": "+ilme+ildct"}),
    "h264, interlaced, ts": Kind("a.ts", {**X264, "flags": "+ilme+ildct"}),
    "h264, 10 bit": Kind("a.mp4", {**X264, "pixels": "yuv420p10le"}),
    "h264, odd size": Kind("a.mp4", {**X264, "size": (161, 97), "pixels": "yuv444p"}),
    "h264, 384×216": Kind("a.mp4", {**X264, "size": (384, 216), "muxer": {"movflags": "faststart"}}),
    "h264, with sound": Kind("a.mp4", {**X264, "sound": True}),
    "h264, index in front": Kind("a.mp4", {**X264, "sound": True, "muxer": {"movflags": "faststart"}}),
    "h264, fragments": Kind("a.mp4", {**X264, "muxer": {"movflags": "frag_keyframe+empty_moov"}}),
    "h264, fragments after an index": Kind("a.mp4", {**X264, "muxer": {"movflags": "frag_keyframe"}}),
    "h264, edit list": Kind("a.mp4", {**X264, "shift": -5}),
    "h264, edit list, mov": Kind("a.mov", {**X264, "shift": -10}),
    "h264, trimmed at its end": Kind("a.mp4", {**X264, "edits": [(0, 35)]}),
    "h264, trimmed in a group": Kind("a.mp4", {**X264, "edits": [(0, 37)]}),
    "h264, trimmed at its end, open groups": Kind(
        "a.mp4", {**X264, "x264-params": "open-gop=1:b-adapt=0", "edits": [(0, 39)]}
    ),
    "h264, trimmed at its start, open groups": Kind(
        "a.mp4", {**X264, "x264-params": "open-gop=1:b-adapt=0", "edits": [(6, 37)]}
    ),
    "h264, trimmed at both ends": Kind("a.mp4", {**X264, "edits": [(3, 34)]}),
    "h264, trimmed in its middle": Kind("a.mp4", {**X264, "edits": [(0, 12), (20, 23)]}),
    "h264, a group trimmed in its middle": Kind("a.mp4", {**X264, "edits": [(0, 16), (24, 19)]}),
    "h264, begins late": Kind("a.mp4", {**X264, "shift": 20}),
    "h264, begins late, ts": Kind("a.ts", {**X264, "shift": 20}),
    "h264, begins late, mkv": Kind("a.mkv", {**X264, "shift": 20}),
    "h264, variable rate": Kind("a.mp4", {**X264, "pts": lambda number: number + number * number // 9}),
    "h264, variable rate, mkv": Kind("a.mkv", {**X264, "pts": lambda number: number + number * number // 9}),
    "h264, mkv": Kind("a.mkv", X264),
    "h264, ts": Kind("a.ts", {**X264, "sound": True}),
    "h264, mov": Kind("a.mov", X264),
    "h264, flv": Kind("a.flv", X264),
    "h264, avi": Kind("a.avi", X264),
    "h264, raw": Kind("a.h264", X264),
    "hevc": Kind("a.mp4", {"codec": "libx265", "x265-params": "keyint=8:min-keyint=8:open-gop=0:log-level=none"}),
    "hevc, open groups": Kind("a.mp4", {"codec": "libx265", "x265-params": OPEN_X265}),
    "hevc, open groups, mkv": Kind("a.mkv", {"codec": "libx265", "x265-params": OPEN_X265}),
    "hevc, open groups, ts": Kind("a.ts", {"codec": "libx265", "x265-params": OPEN_X265}),
    "hevc, 10 bit": Kind("a.mp4", {"codec": "libx265", "pixels": "yuv420p10le", "x265-params": "log-level=none"}),
    "vp8, hidden frames": Kind("a.webm", {"codec": "libvpx", "g": "12", "auto-alt-ref": "1", "lag-in-frames": "12"}),
    "vp9, hidden frames": Kind("a.webm", {"codec": "libvpx-vp9", "g": "8", "auto-alt-ref": "1", "lag-in-frames": "8"}),
    "vp9, mp4": Kind("a.mp4", {"codec": "libvpx-vp9", "g": "8"}),
    "av1": Kind("a.mp4", {"codec": "libsvtav1", "g": "8", "preset": "10"}),
    "av1, webm": Kind("a.webm", {"codec": "libsvtav1", "g": "8", "preset": "10"}),
    "mpeg-2, ts": Kind("a.ts", {"codec": "mpeg2video", "g": "8", "bf": "2"}),
    "mpeg-2, ps": Kind("a.mpg", {"codec": "mpeg2video", "g": "8", "bf": "2"}),
    "mpeg-4, avi": Kind("a.avi", {"codec": "mpeg4", "g": "8", "bf": "2"}),
    "flv1": Kind("a.flv", {"codec": "flv", "g": "8"}),
    "mjpeg": Kind("a.mov", {"codec": "mjpeg", "pixels": "yuvj420p"}),
    "gif": Kind("a.gif", {"codec": "gif", "pixels": "rgb8"}),
    "apng": Kind("a.apng", {"codec": "apng", "pixels": "rgb24"}),
    "still": Kind("a.jpg", {"codec": "mjpeg", "pixels": "yuvj420p", "count": 1}),
}


def make(kind: str, folder: Path, count: int = 25) -> Path:
    """Write a file of a kind, a key of ``KINDS``, and return its path."""
    name, arguments = KINDS[kind]
    return write(folder / name, **{"count": count, **arguments})


def straight(path: Path) -> list[np.ndarray]:
    """Return every frame as PyAV decodes it from beginning to end, in RGB."""
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def orient(path: Path, matrix: Sequence[int], output: Path) -> Path:
    """Copy an MP4 to ``output`` with another display matrix; ``matrix`` is its part a, b, c, d, each -1, 0 or 1."""
    # In tkhd, 16.16 fixed point (ISO 14496-12, 8.3.2).
    a, b, c, d = (number << 16 for number in matrix)
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    output.write_bytes(content)
    return output
