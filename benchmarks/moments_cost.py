"""Measure what it costs to read the frames of a long video that is cut into segments.

The videos are H.264 and HEVC at 1280×720, with key frames every 30 frames, every 250, and only at the beginning; and as
x264 encodes by default, with key frames at scene cuts and after at most 250 frames. The program reads a frame for every
0.5, 1, 2 and 4 seconds: exact frames, key frames only, and both (``seek='auto'``). It reports processor seconds for an
hour of video, all threads together, which depend little on what else the machine does; then the frames of an hour, and
the longest time between two frames. "decode all" is plain PyAV, which makes no arrays of the frames. --embed also
embeds the frames of one video, by ONNX Runtime with random weights of clip_vit_b32.

The input videos are made from the real frames of bigbuckbunny.mp4: scenes of 4 to 12 seconds, of different crops and
colours. They are encoded for 40 seconds and then repeated without encoding them again.

    pip install -c <(grep -v '^torch==' constraints.txt) -e '.[bench]'
    python benchmarks/moments_cost.py --embed --json docs/moments_cost.json --markdown
    python benchmarks/moments_cost.py --short    # a trial on short videos
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.console import Console
from rich.table import Table
from video import RATE, pictures

from clip4clip.video import FrameSampling, read_sampled

SIZE = (1280, 720)
SECONDS, BASE_SECONDS = 120, 40  # length of a video, and of the part that is encoded
SHORT_SECONDS, SHORT_BASE_SECONDS = 8, 4
EVERY = (0.5, 1.0, 2.0, 4.0)
SEEKS = ("exact", "auto", "keyframe")
DECODE_ALL = "decode all"
EMBEDDED, MODEL = "h264, 250 and cuts", "clip_vit_b32"
X264 = {"preset": "veryfast", "crf": "23"}
FIXED = {**X264, "sc_threshold": "0"}
X265 = "log-level=none:scenecut=0:keyint="
# Codec and options of the encoder. x264 puts a key frame at each scene cut by default, and after 250 frames without.
BASES: dict[str, tuple[str, dict[str, str]]] = {
    "h264, 30": ("libx264", {**FIXED, "g": "30"}),
    "h264, 250": ("libx264", {**FIXED, "g": "250"}),
    "h264, 250 and cuts": ("libx264", {**X264, "g": "250"}),
    "h264, single": ("libx264", {**FIXED, "g": "100000"}),
    "hevc, 30": ("libx265", {"preset": "superfast", "x265-params": f"{X265}30"}),
    "hevc, 250": ("libx265", {"preset": "superfast", "x265-params": f"{X265}250"}),
    "hevc, single": ("libx265", {"preset": "superfast", "x265-params": f"{X265}100000"}),
}


# The inputs


def film(seconds: int) -> Iterator[av.VideoFrame]:
    """Yield the frames of a film: scenes of 4 to 12 seconds, with slow pans over the frames of a real video."""
    random = np.random.default_rng(0)
    number, stream = 0, pictures(SIZE, 1 << 30)
    while number < seconds * RATE:
        length = int(random.integers(4, 13)) * RATE
        wide, high = (int(random.uniform(0.55, 0.95) * side) // 16 * 16 for side in SIZE)
        start, end = random.uniform(0, 1, (2, 2)) * (SIZE[0] - wide, SIZE[1] - high)
        colours = random.permutation(3)
        for step in np.linspace(0, 1, length):
            left, top = (start + 0.2 * step * (end - start)).astype(int)
            picture = next(stream).to_ndarray(format="rgb24")[top : top + high, left : left + wide, colours]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(*SIZE, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            yield frame
            number += 1
            if number == seconds * RATE:
                return


def encode(path: Path, codec: str, options: dict[str, str], seconds: int) -> None:
    """Encode so many seconds of the film."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in film(seconds):
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def repeat(base: Path, times: int, path: Path, is_single: bool) -> None:
    """Write the packets of a video several times.

    Args:
        base: the video.
        times: how often.
        path: the video to write.
        is_single: whether to mark only the first key frame as one.
    """
    with av.open(str(base)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        time_base, length = source.streams.video[0].time_base, sum(packet.duration or 0 for packet in packets)
        stamps = [(packet.pts or 0, packet.dts or 0) for packet in packets]
        for number in range(times):
            for packet, (pts, dts) in zip(packets, stamps, strict=True):
                packet.time_base, packet.stream = time_base, stream
                packet.pts, packet.dts = pts + number * length, dts + number * length
                packet.is_keyframe &= not (is_single and number)
                file.mux(packet)


def make_video(name: str, seconds: int, base_seconds: int, folder: Path) -> Path:
    """Return the path of a video of ``BASES``; make it if the folder does not have it yet."""
    base, path = folder / f"{name} {base_seconds} s.mp4", folder / f"{name} {seconds} s.mp4"
    if not base.exists():
        encode(folder / "making.mp4", *BASES[name], base_seconds)
        (folder / "making.mp4").rename(base)
    if not path.exists():
        repeat(base, seconds // base_seconds, folder / "making.mp4", name.endswith("single"))
        (folder / "making.mp4").rename(path)
    return path


# The figures


def measure_all(path: Path) -> float:
    """Return the processor seconds for an hour of video to decode every frame."""
    start = time.process_time()
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_type = "AUTO"
        count = sum(1 for _ in file.decode(stream))
    return (time.process_time() - start) * 3600 * RATE / count


def measure(path: Path, seek: str, every: float) -> dict[str, float]:
    """Return the processor seconds for an hour of video to read its frames, their number, and the longest gap."""
    start = time.process_time()
    frames = read_sampled(path, FrameSampling(seek=seek, segments="shots", every=every))
    times = np.array([frame.time for frame in frames])
    seconds = time.process_time() - start
    hours = (frames.info.frame_count or 0) / RATE / 3600
    gaps = np.diff([*times, hours * 3600])
    return {"seconds": seconds / hours, "frames": len(times) / hours, "gap": float(gaps.max())}


def measure_embedding(path: Path, every: float, folder: Path) -> float:
    """Return the processor seconds for an hour of video to read and to embed its frames."""
    from safetensors.torch import save_file

    from clip4clip import VideoEncoder
    from clip4clip.config import get_model
    from clip4clip.model import random_state_dict

    os.environ["CLIP4CLIP_CACHE"] = str(folder / "cache")  # the graph of random weights is useless later
    weights = folder / "random.safetensors"
    if not weights.exists():
        save_file(random_state_dict(get_model(MODEL).config), weights)
    encoder = VideoEncoder.load(MODEL, weights, "cpu", "onnxruntime")
    encoder([np.zeros((224, 224, 3), np.uint8)])
    start = time.process_time()
    frames = read_sampled(path, FrameSampling(segments="shots", every=every))
    encoder(frames)
    return (time.process_time() - start) * 3600 * RATE / (frames.info.frame_count or 1)


def cell(figures: dict[str, float]) -> str:
    return f"{figures['seconds']:.0f} s; {figures['frames']:,.0f}; {figures['gap']:.1f} s"


def lines_of(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Return the lines of the table, the first one its head: one for each video and seek."""
    lines = [["video", DECODE_ALL, "seek", *(f"every {every:g} s" for every in EVERY)]]
    for video, row in rows.items():
        for seek, name in zip(SEEKS, ([video, f"{row[DECODE_ALL]:.0f} s"], ["", ""], ["", ""]), strict=True):
            lines.append([*name, seek, *(cell(row[seek][f"{every:g}"]) for every in EVERY)])
    return lines


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="two videos of eight seconds")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"length of a video, a multiple of {BASE_SECONDS}")
    parser.add_argument("--only", default="", help="measure the videos whose name contains this")
    parser.add_argument("--embed", action="store_true", help="also embed the frames of one video")
    parser.add_argument("--folder", type=Path, help="folder to keep the input videos in")
    parser.add_argument("--markdown", action="store_true", help="also print the table as Markdown")
    parser.add_argument("--json", type=Path, help="report to write")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    console = Console(width=220)
    names = [name for name in (("h264, 30", "h264, single") if arguments.short else BASES) if arguments.only in name]
    lengths = (SHORT_SECONDS, SHORT_BASE_SECONDS) if arguments.short else (arguments.seconds, BASE_SECONDS)
    rows: dict[str, dict[str, Any]] = {}
    report: dict[str, Any] = {"versions": {name: version(name) for name in ("av", "numpy")}, "videos": rows}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            path = make_video(name, *lengths, folder)
            rows[name] = {DECODE_ALL: measure_all(path)}
            for seek in SEEKS:
                rows[name][seek] = {f"{every:g}": measure(path, seek, every) for every in EVERY}
        if arguments.embed:
            path = make_video(EMBEDDED, *lengths, folder)
            report["embedded"] = {every: measure_embedding(path, every, Path(temporary)) for every in EVERY}
    head, *lines = lines_of(rows)
    table = Table(*head, title="processor seconds for an hour of video; frames; longest time between two")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    if arguments.embed:
        console.print(f"reading and embedding, {EMBEDDED}, auto:", report["embedded"])
    if arguments.markdown:
        print("\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
