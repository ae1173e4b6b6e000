"""Compare `clip4clip embed` with plain code: embedding the videos of a library.

`clip4clip embed`, with its default runtime and with torch, is compared with a straightforward script in the manner of
Towhee's tutorial. The script uses the published model code (`towhee.models`, torch), decodes every frame of a video,
keeps twelve, and processes one video after the other. All have the same random weights, the same torch and the same
videos, which are made from the real frames of bigbuckbunny.mp4. Every measurement is the whole run of a process; the
tools take turns within a round. clip4clip exports a checkpoint to a graph for ONNX Runtime once; this is done before,
and its time is reported separately. benchmarks/index.py measures searches.

The published model code needs torchvision, which needs the torch it was built for. On Linux, x86-64:

    python3 -m venv /tmp/library
    grep -v -e '^torch==' -e '^torchmetrics==' constraints.txt > /tmp/library/constraints.txt
    /tmp/library/bin/pip install -c /tmp/library/constraints.txt -e '.[peers,retrieval]'
    /tmp/library/bin/python benchmarks/library.py --json docs/library.json
    /tmp/library/bin/python benchmarks/library.py --videos 4 --seconds 10 --rounds 1   # a short trial
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

MODEL = "clip_vit_b32"
SIZE, SEGMENT_SECONDS, SEGMENTS = (1280, 720), 10, 12  # each segment starts with its only key frame
OURS, OURS_BY_TORCH = "clip4clip embed", "clip4clip embed --runtime torch"
TUTORIAL, TUTORIAL_AT_BEST = "tutorial's script", "the same, decoding at best"
TOOLS = {  # with the options of clip4clip
    OURS: ["--runtime", "onnxruntime"],  # the default if it is installed
    OURS_BY_TORCH: ["--runtime", "torch"],
    TUTORIAL: None,
    TUTORIAL_AT_BEST: None,
}
TIMES = "times clip4clip's"
REQUIRED_SPEEDUP, REQUIRED_COSINE = 2.0, 0.9999  # to the tutorial's script

REQUIREMENTS = ("torchvision", "towhee.models", "av", "scikit-video", "pyarrow", "onnx", "onnxruntime")
VERSIONS = ("torch", "torchvision", "onnxruntime", "towhee.models", "av", "numpy")

console = Console(width=200, stderr=True, highlight=False)


# The inputs


def make_segment(number: int, path: Path) -> None:
    """Encode ten seconds of a real film as one group of pictures; each number has other frames, crops and tints."""
    import av
    import video

    zoom = (1.0, 0.8, 0.6)[number % 3]
    wide, high = (int(zoom * side) // 2 * 2 for side in SIZE)
    filters = [
        ("crop", f"{wide}:{high}:{(SIZE[0] - wide) * (number % 4) // 3}:{(SIZE[1] - high) * (number % 5) // 4}"),
        ("scale", f"{SIZE[0]}:{SIZE[1]}"),
        ("hue", f"h={30 * number}"),
        *([("hflip", "")] if number % 2 else []),
    ]
    graph = av.filter.Graph()
    source = graph.add_buffer(width=SIZE[0], height=SIZE[1], format="yuv420p", time_base=Fraction(1, video.RATE))
    graph.link_nodes(source, *(graph.add(name, options) for name, options in filters), graph.add("buffersink"))
    graph.configure()
    skipped, count = 11 * number, SEGMENT_SECONDS * video.RATE
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=video.RATE, options={**video.X264, "g": str(count)})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in video.pictures(SIZE, skipped + count):
            if frame.pts >= skipped:
                graph.push(frame)
                picture = graph.pull()
                picture.pts -= skipped
                picture.pict_type = av.video.frame.PictureType.NONE
                file.mux(stream.encode(picture))
        file.mux(stream.encode(None))


def splice(segments: Sequence[Path], path: Path) -> None:
    """Join the packets of several videos to one video, without encoding them again."""
    import av

    with av.open(str(segments[0])) as first, av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream_from_template(first.streams.video[0])
        offset = 0
        for segment in segments:
            with av.open(str(segment)) as source:
                packets = [packet for packet in source.demux(video=0) if packet.size]
                for packet in packets:
                    packet.pts, packet.dts = offset + (packet.pts or 0), offset + (packet.dts or 0)
                    packet.stream = stream
                    file.mux(packet)
            offset += sum(packet.duration or 0 for packet in packets)


def make_videos(count: int, seconds: int, folder: Path) -> list[Path]:
    """Make the videos that a folder does not have yet.

    No two videos have the same segments in the same order, up to 132 videos of 30 seconds.
    """
    sequences: list[list[int]] = []
    for number in range(count):
        step = 1 + number // SEGMENTS % (SEGMENTS - 1)
        sequences.append([(number + step * position) % SEGMENTS for position in range(seconds // SEGMENT_SECONDS)])
    used = sorted({segment for sequence in sequences for segment in sequence})
    segments = {number: folder / f"segment-{number}.mp4" for number in used}
    videos = {folder / f"video-{seconds}s-{number:04}.mp4": sequence for number, sequence in enumerate(sequences)}
    tasks: list[tuple[Path, Callable[[Path], None]]] = [
        (path, lambda target, number=number: make_segment(number, target)) for number, path in segments.items()
    ]
    tasks += [
        (path, lambda target, sequence=sequence: splice([segments[number] for number in sequence], target))
        for path, sequence in videos.items()
    ]
    for path, make in track(tasks, "making videos", console=console):
        if not path.exists():
            make(folder / "making.mp4")
            (folder / "making.mp4").rename(path)
    return list(videos)


def make_checkpoint(path: str) -> None:
    """Write random weights. Runs in a process of its own, because a child inherits the peak memory of its parent."""
    from safetensors.torch import save_file

    from clip4clip.config import get_model
    from clip4clip.model import random_state_dict

    save_file(random_state_dict(get_model(MODEL).config), path)


def make_graph(weights: str) -> None:
    """Export the graph for ONNX Runtime to the cache that later processes use. Also runs in a process of its own."""
    from clip4clip import VideoEncoder

    VideoEncoder.load(MODEL, weights, "cpu", "onnxruntime")


# The tutorial's script


def embed_by_tutorial(tool: str, listing: str, weights: str, out: str, start: str) -> None:
    """Decode, preprocess and embed one video after the other. Prints its start-up time as JSON."""
    import torch
    import video
    from PIL import Image
    from safetensors.torch import load_file
    from torchvision import transforms
    from towhee.models import clip4clip

    model = clip4clip.create_model(MODEL, context_length=77, device="cpu").eval()
    model.load_state_dict({f"clip.{name}": tensor for name, tensor in load_file(weights).items()}, strict=False)
    preprocess = transforms.Compose(
        [
            transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    decode = video.by_decoding_all_at_best if tool == TUTORIAL_AT_BEST else video.by_decoding_all
    paths = Path(listing).read_text("utf-8").split("\n")
    print(json.dumps({"start": time.time() - float(start)}), flush=True)
    vectors = []
    with torch.inference_mode():
        for path in track(paths, tool, console=console):
            pixels = torch.stack([preprocess(Image.fromarray(frame)) for frame in decode(path)])
            mask = torch.ones(1, len(pixels))
            frames = model.get_visual_output(pixels, mask, shaped=True)
            frames = frames / frames.norm(dim=-1, keepdim=True)
            pooled = model._mean_pooling_for_similarity_visual(frames, mask)[0]
            vectors.append((pooled / pooled.norm()).numpy())
    np.savez(out, paths=paths, vectors=np.stack(vectors))


# The figures


def run_command(command: Sequence[str]) -> dict[str, Any]:
    """Run a command; return its wall-clock and CPU seconds, its peak megabytes, and the JSON that it prints."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdout=printed)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"a command failed with exit code {process.returncode}: {' '.join(command)}")
        printed.seek(0)
        reports = [json.loads(line) for line in printed if line.startswith("{")]
    figures = {
        "seconds": seconds,
        "CPU seconds": used.ru_utime + used.ru_stime,
        "megabytes": used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10),
    }
    return figures | (reports[-1] if reports else {})


def embed_once(tool: str, listing: Path, weights: Path, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Embed the library once; return the figures of the run, and the vectors by path."""
    options = TOOLS[tool]
    if options is None:
        out = folder / "vectors.npz"
        figures = run_command(child("embed_by_tutorial", tool, str(listing), str(weights), str(out), str(time.time())))
        with np.load(out) as arrays:
            return figures, dict(zip(arrays["paths"].tolist(), arrays["vectors"], strict=True))
    import pyarrow.parquet as pq

    table = folder / "vectors.parquet"
    table.unlink(missing_ok=True)
    command = [sys.executable, "-m", "clip4clip", "embed", str(listing), "-o", str(table), "-m", MODEL]
    command += ["--weights", str(weights), "--device", "cpu", *options]
    figures = run_command(command)
    figures["start"] = run_command(command)["seconds"]  # all videos are embedded already: only the start-up
    rows = pq.read_table(table, columns=["path", "vector"]).to_pydict()
    return figures, dict(zip(rows["path"], (np.array(vector) for vector in rows["vector"]), strict=True))


def measure_embedding(count: int, seconds: int, rounds: int, folder: Path, temporary: Path) -> dict[str, Any]:
    paths = make_videos(count, seconds, folder)
    weights = folder / f"{MODEL}.safetensors"
    if not weights.exists():
        run_command(child("make_checkpoint", str(folder / "making.safetensors")))
        (folder / "making.safetensors").rename(weights)
    os.environ["CLIP4CLIP_CACHE"] = str(temporary / "cache")  # not the user's cache
    graph = run_command(child("make_graph", str(weights)))
    listing = temporary / "videos.txt"
    listing.write_text("\n".join(map(str, paths)), "utf-8")
    for path in [weights, *paths]:  # into the disk cache
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass
    runs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in TOOLS}
    vectors: dict[str, dict[str, np.ndarray]] = {}
    for number in range(rounds):
        for tool in [*TOOLS][number % len(TOOLS) :] + [*TOOLS][: number % len(TOOLS)]:
            figures, vectors[tool] = embed_once(tool, listing, weights, temporary)
            runs[tool].append(figures)
            console.print(f"round {number + 1} of {rounds}: {tool}, {figures['seconds']:.1f} s")
    expected = np.stack([vectors[TUTORIAL][str(path)] for path in paths])
    similarity = expected @ expected.T
    np.fill_diagonal(similarity, -1)
    report: dict[str, Any] = {
        "videos": count,
        "length": seconds,
        "rounds": rounds,
        "nearest other video": float(similarity.max()),
        "seconds to make the graph": graph["seconds"],
        "tools": {},
    }
    for tool in TOOLS:
        seconds_taken, start = (statistics.median(each[name] for each in runs[tool]) for name in ("seconds", "start"))
        cosines = (np.stack([vectors[tool][str(path)] for path in paths]) * expected).sum(1)
        report["tools"][tool] = {
            "runs": runs[tool],
            "videos per second": count / seconds_taken,
            "videos per second once started": count / (seconds_taken - start),
            "seconds": seconds_taken,
            "start": start,
            "CPU seconds": statistics.median(each["CPU seconds"] for each in runs[tool]),
            "megabytes": statistics.median(each["megabytes"] for each in runs[tool]),
            "cosine": float(cosines.min()),
            # Ratios are taken within a round: the machine may be busier in another one.
            TIMES: statistics.median(
                theirs["seconds"] / ours["seconds"] for theirs, ours in zip(runs[tool], runs[OURS], strict=True)
            ),
        }
    return report


def rows_of_embedding(report: Mapping[str, Any]) -> Iterator[list[str]]:
    head = ["", "videos/s", "once started", "s", "times clip4clip's", "start, s", "CPU, s", "peak MB", "least cosine"]
    yield head
    for tool, figures in report["tools"].items():
        yield [
            tool,
            f"{figures['videos per second']:.2f}",
            f"{figures['videos per second once started']:.2f}",
            f"{figures['seconds']:.1f}",
            f"{figures[TIMES]:.2f}",
            f"{figures['start']:.1f}",
            f"{figures['CPU seconds']:.1f}",
            f"{figures['megabytes']:.0f}",
            f"{figures['cosine']:.6f}",
        ]


# The report


def child(function: str, *arguments: str) -> list[str]:
    """Return a command that calls a function of this file in a process of its own."""
    return [sys.executable, "-W", "ignore", __file__, "--child", function, *arguments]


def show(title: str, rows: Iterator[list[str]], markdown: bool) -> None:
    head, *body = rows
    table = Table(*head, title=title)
    for row in body:
        table.add_row(*row)
    Console(width=200, highlight=False).print(table)
    if markdown:
        print("\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body]))


def verdicts(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield whether each requirement is met, and two figures for comparison."""

    def verdict(what: str, value: float, bar: float, digits: int) -> str:
        return f"{'met' if value >= bar else 'MISSED'}: {what} {value:.{digits}f}, required {bar}"

    embedding = report["embedding"]
    ours, theirs = embedding["tools"][OURS], embedding["tools"][TUTORIAL]
    yield verdict("times as fast as the tutorial's script", theirs[TIMES], REQUIRED_SPEEDUP, 2)
    yield verdict("least cosine to its vectors", ours["cosine"], REQUIRED_COSINE, 6)
    yield f"seconds to export the graph, once for each checkpoint: {embedding['seconds to make the graph']:.1f}"
    yield f"for comparison, the greatest cosine between two videos: {embedding['nearest other video']:.6f}"


def check_requirements() -> None:
    versions = installed(REQUIREMENTS)
    missing = [name for name in REQUIREMENTS if name not in versions]
    if missing:
        raise SystemExit(
            f"not installed: {', '.join(missing)}. The docstring of this file has the commands to install them."
        )


def installed(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of the distributions that are installed, by name. Imports nothing."""
    versions = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        globals()[sys.argv[2]](*sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=40, help="number of videos to embed")
    parser.add_argument("--seconds", type=int, default=30, help="length of each video, a multiple of ten")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--folder", type=Path, help="folder to keep the videos and the weights in")
    parser.add_argument("--markdown", action="store_true", help="also print the tables as Markdown")
    parser.add_argument("--json", type=Path, help="report to write")
    arguments = parser.parse_args()
    if min(arguments.videos, arguments.rounds) < 1:
        parser.error("--videos and --rounds must be at least 1")
    if arguments.seconds < 1 or arguments.seconds % SEGMENT_SECONDS:
        parser.error(f"--seconds must be a multiple of {SEGMENT_SECONDS}")
    check_requirements()
    report: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "versions": installed(VERSIONS)}
    with tempfile.TemporaryDirectory() as temporary_folder:
        temporary = Path(temporary_folder)
        folder = (arguments.folder or temporary).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        embedding = measure_embedding(arguments.videos, arguments.seconds, arguments.rounds, folder, temporary)
        report["embedding"] = embedding
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    title = f"{embedding['videos']} videos of {embedding['length']} s, 1280×720, {MODEL}, {report['cores']} cores"
    show(title, rows_of_embedding(embedding), arguments.markdown)
    for line in verdicts(report):
        print(line)


if __name__ == "__main__":
    main()
