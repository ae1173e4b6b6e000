"""Compare ways to cut long videos: how often does a sentence find the right moment, and what does the cut cost?

Drawn videos of about four minutes and twenty scenes are cut into shots, into windows of ten seconds, by PySceneDetect's
content detector, and not at all. Their frames are read every 0.5, 1, 2 and 4 seconds and embedded by
clip_vit_tiny_demo; the vectors of all cuts are pooled from the same frame embeddings. Each scene has a sentence. It is
found if the best segment of all videos is one of the right video and overlaps the scene: by an intersection over union
(IoU) of at least 0.5 or 0.7. "true scenes" are cut where the scenes change: what they miss, the model misses.

The drawn scenes are held out: the model was not trained on any of their combinations of shape, colour and background.
The constants of clip4clip/library/shots.py were chosen on other videos, which --tuning measures: they show training
scenes, under another seed.

Costs are processor seconds for an hour of video, all threads together: they depend little on what else the machine
does. Scenes of drawn videos cost little to decode, so the cuts are also timed on one of them at 1280×720 and 25 frames
a second.

    pip install -e '.[bench]'
    python benchmarks/moments.py --json docs/moments.json --plot docs/moments.png
    python benchmarks/moments.py --short    # a trial: two videos, one step
"""

from __future__ import annotations

import argparse
import csv
import functools
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
from moments_report import (
    DEFAULT_EVERY,
    EVERY,
    SCENE_DETECT,
    SHOTS,
    TRUE_SCENES,
    WHOLE,
    WINDOWS,
    check_bars,
    cost_rows,
    plot,
    quality_rows,
    show,
)
from rich.console import Console
from rich.progress import track

from clip4clip import TextEncoder, VideoEncoder
from clip4clip.library.segments import Segmenter, is_uniform
from clip4clip.preprocess import crop_frame
from clip4clip.training.synthetic import write_long_videos
from clip4clip.video.reader import read_sampled
from clip4clip.video.sampling import FrameSampling

MODEL = "clip_vit_tiny_demo"
VIDEOS, SEED, TUNING_SEED = 20, 0, 7
WINDOW = 10.0  # seconds
LARGE_SIZE, LARGE_RATE, LARGE_SECONDS = (1280, 720), 25, 60

console = Console(stderr=True)
Range = tuple[float, float]


@dataclass(frozen=True)
class Moment:
    """A row of the table: a sentence, and where it is right."""

    video: str
    sentence: str
    range: Range


@dataclass(frozen=True)
class Frames:
    """The embedded frames of a video.

    Attributes:
        times: seconds, (T,).
        embeddings: (T, D) float32, not normalised.
        uniform: whether each frame has one colour, (T,) bool.
        duration: seconds.
        cost: processor seconds to read and to embed them.
    """

    times: np.ndarray
    embeddings: np.ndarray
    uniform: np.ndarray
    duration: float
    cost: tuple[float, float]


@dataclass(frozen=True)
class Cut:
    """The segments of a video: their ranges in seconds, and their unit vectors, (S, D)."""

    ranges: list[Range]
    vectors: np.ndarray


def read_moments(table: Path) -> list[Moment]:
    with table.open(encoding="utf-8", newline="") as file:
        return [
            Moment(row["video"], row["sentence"], (float(row["start"]), float(row["end"])))
            for row in csv.DictReader(file)
        ]


# Cuts


def read(path: Path, sampling: FrameSampling, encoder: VideoEncoder) -> Frames:
    start = time.process_time()
    frames = read_sampled(path, sampling)
    times, crops = [], []
    for frame in frames:
        times.append(frame.time)
        crops.append(crop_frame(frame, encoder.config.resolution, encoder.config.image))
    uniform = np.array([is_uniform(crop) for crop in crops])
    middle = time.process_time()
    embeddings = encoder.frame_embeddings(crops)
    cost = middle - start, time.process_time() - middle
    return Frames(np.array(times), embeddings, uniform, frames.info.duration or times[-1], cost)


def cut_by_segmenter(frames: Frames, sampling: FrameSampling, encoder: VideoEncoder) -> Cut:
    segmenter = Segmenter(sampling, encoder.head)
    segments = segmenter.add(frames.times, frames.embeddings, frames.uniform) + segmenter.finish(frames.duration)
    segments = [segment for segment in segments if not segment.is_uniform]
    return Cut([(segment.start, segment.end) for segment in segments], np.stack([s.vector for s in segments]))


def cut_at(frames: Frames, ranges: Sequence[Range], encoder: VideoEncoder) -> Cut:
    """Pool the frames of given ranges as the segmenter does. A range without any frame has no vector."""
    kept, vectors = [], []
    for start, end in ranges:
        inside = (frames.times >= start) & (frames.times < end)
        inside = inside & ~frames.uniform if (inside & ~frames.uniform).any() else inside
        if inside.any():
            vector = encoder.head.pool(encoder.head(frames.embeddings[inside], None))
            kept.append((start, end))
            vectors.append(vector / np.linalg.norm(vector))
    return Cut(kept, np.stack(vectors))


def detect_scenes(path: Path) -> list[Range]:
    """Return the scenes that PySceneDetect's content detector finds with its own settings."""
    from scenedetect import ContentDetector, detect

    scenes = detect(str(path), ContentDetector(), start_in_scene=True)
    return [(start.seconds, end.seconds) for start, end in scenes]


# Quality


def overlap(one: Range, other: Range) -> float:
    """Return the intersection over union of two time ranges."""
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    return shared / (one[1] - one[0] + other[1] - other[0] - shared)


def recalls(moments: Sequence[Moment], queries: np.ndarray, cuts: dict[str, Cut]) -> dict[str, float]:
    """Return the percentages of sentences whose best segment is right, over all videos and within the right one.

    Args:
        moments: the sentences and where they are right.
        queries: vectors of the sentences, (N, D).
        cuts: of each video.
    """
    vectors = np.concatenate([cut.vectors for cut in cuts.values()])
    places = [(video, span) for video, cut in cuts.items() for span in cut.ranges]
    best = [places[number] for number in (queries @ vectors.T).argmax(1)]
    all_videos = [
        overlap(span, moment.range) if video == moment.video else 0.0
        for (video, span), moment in zip(best, moments, strict=True)
    ]
    within = []
    for moment, query in zip(moments, queries, strict=True):
        cut = cuts[moment.video]
        within.append(overlap(cut.ranges[int((cut.vectors @ query).argmax())], moment.range))
    right = [video == moment.video for (video, _), moment in zip(best, moments, strict=True)]
    figures = {"R@1 video": np.mean(right)}
    for name, overlaps in (("R@1", all_videos), ("R@1 within", within)):
        figures |= {f"{name} IoU {bound}": np.mean(np.array(overlaps) >= bound) for bound in (0.5, 0.7)}
    return {name: round(100 * float(share), 2) for name, share in figures.items()} | {"segments": len(places)}


class Trial:
    """The cuts of all videos, and what they cost.

    Args:
        folder: folder of the videos.
        moments: the moments of their table.
        encoder: encoder of the videos.
    """

    def __init__(self, folder: Path, moments: Sequence[Moment], encoder: VideoEncoder) -> None:
        self.folder, self.moments, self.encoder = folder, moments, encoder
        self.videos = sorted({moment.video for moment in moments})
        self.queries = TextEncoder.load(MODEL, device="cpu")([moment.sentence for moment in moments])
        self.hours = sum(max(m.range[1] for m in moments if m.video == video) for video in self.videos) / 3600
        self.scenes = {video: [m.range for m in moments if m.video == video] for video in self.videos}

    def row(
        self, name: str, every: float | None, cuts: dict[str, Cut], seconds: float, frames: dict[str, Frames]
    ) -> dict[str, Any]:
        """Return the figures of one way to cut: quality, and processor seconds for an hour of video."""
        costs = np.sum([each.cost for each in frames.values()], axis=0) / self.hours
        cost = {"read": float(costs[0]), "embed": float(costs[1]), "cut": seconds / self.hours}
        return {"cut": name, "every": every, **recalls(self.moments, self.queries, cuts), "cost": cost}

    def measure_whole(self) -> dict[str, Any]:
        frames = self.read(FrameSampling(segments="whole"), WHOLE)
        cuts = {video: cut_at(frames[video], [(0.0, frames[video].duration)], self.encoder) for video in self.videos}
        return self.row(WHOLE, None, cuts, 0.0, frames)

    def measure(self, every: float, detected: dict[str, list[Range]], detecting: float) -> list[dict[str, Any]]:
        """Return the rows of the cuts whose frames are a step in seconds apart.

        Args:
            every: the step.
            detected: the scenes that PySceneDetect found in each video; empty if it is not installed.
            detecting: processor seconds that this took.
        """
        frames = self.read(FrameSampling(segments="shots", every=every), f"every {every:g} s")
        rows = []
        for name, segments in ((WINDOWS, WINDOW), (SHOTS, "shots")):
            sampling = FrameSampling(segments=segments, every=every)
            start = time.process_time()
            cuts = {video: cut_by_segmenter(frames[video], sampling, self.encoder) for video in self.videos}
            rows.append(self.row(name, every, cuts, time.process_time() - start, frames))
        for name, ranges, seconds in ((SCENE_DETECT, detected, detecting), (TRUE_SCENES, self.scenes, 0.0)):
            if ranges:
                cuts = {video: cut_at(frames[video], ranges[video], self.encoder) for video in self.videos}
                rows.append(self.row(name, every, cuts, seconds, frames))
        return rows

    def read(self, sampling: FrameSampling, title: str) -> dict[str, Frames]:
        return {
            video: read(self.folder / video, sampling, self.encoder)
            for video in track(self.videos, f"reading, {title}", console=console)
        }

    def detect(self) -> tuple[dict[str, list[Range]], float]:
        """Return PySceneDetect's scenes of each video, and the processor seconds that finding them takes."""
        start = time.process_time()
        scenes = {
            video: detect_scenes(self.folder / video) for video in track(self.videos, SCENE_DETECT, console=console)
        }
        return scenes, time.process_time() - start


# Cost at a usual size


def make_large(source: Path, path: Path) -> None:
    """Encode the beginning of a video at 1280×720 and 25 frames a second, with a key frame every ten seconds."""
    with av.open(str(source)) as drawn, av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("libx264", rate=LARGE_RATE, options={"preset": "veryfast", "g": "250"})
        stream.width, stream.height = LARGE_SIZE
        number = 0
        for frame in drawn.decode(video=0):
            large = frame.reformat(*LARGE_SIZE, format="yuv420p")
            large.time_base, large.pict_type = Fraction(1, LARGE_RATE), av.video.frame.PictureType.NONE
            while number < LARGE_RATE * (float(frame.time) + 1 / 8) and number < LARGE_RATE * LARGE_SECONDS:
                large.pts = number
                file.mux(stream.encode(large))
                number += 1
        file.mux(stream.encode(None))


def measure_large(path: Path, steps: Sequence[float], encoder: VideoEncoder, detects: bool) -> list[dict[str, Any]]:
    """Return the processor seconds for an hour of one video: to read, embed and cut it, and of PySceneDetect's cut."""
    hours = LARGE_SECONDS / 3600
    rows = []
    for every in steps:
        sampling = FrameSampling(segments="shots", every=every)
        frames = read(path, sampling, encoder)
        seconds = processor_seconds(functools.partial(cut_by_segmenter, frames, sampling, encoder))
        cost = {"read": frames.cost[0] / hours, "embed": frames.cost[1] / hours, "cut": seconds / hours}
        rows.append({"cut": SHOTS, "every": every, "cost": cost})
    if detects:
        seconds = processor_seconds(functools.partial(detect_scenes, path))
        rows.append({"cut": SCENE_DETECT, "every": None, "cost": {"cut": seconds / hours}})
    return rows


def processor_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=VIDEOS, help="number of videos")
    parser.add_argument("--short", action="store_true", help="two videos, and only the default step between frames")
    parser.add_argument("--tuning", action="store_true", help="the videos that the constants were chosen on")
    parser.add_argument("--folder", type=Path, help="folder to keep the videos in")
    parser.add_argument("--markdown", action="store_true", help="also print the tables as Markdown")
    parser.add_argument("--json", type=Path, help="report to write")
    parser.add_argument("--plot", type=Path, help="picture to write")
    arguments = parser.parse_args()
    steps = (DEFAULT_EVERY,) if arguments.short else EVERY
    count, seed = 2 if arguments.short else arguments.videos, TUNING_SEED if arguments.tuning else SEED
    detects = importlib.util.find_spec("scenedetect") is not None
    if not detects:
        console.print(f"{SCENE_DETECT} is not installed, so it is left out: pip install scenedetect")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        with console.status("drawing the videos"):
            moments = read_moments(write_long_videos(folder, count, seed, held_out=not arguments.tuning))
        trial = Trial(folder, moments, VideoEncoder.load(MODEL, device="cpu"))
        detected, detecting = trial.detect() if detects else ({}, 0.0)
        rows = [trial.measure_whole()]
        for every in steps:
            rows += trial.measure(every, detected, detecting)
        make_large(folder / trial.videos[0], Path(temporary) / "large.mp4")
        large = measure_large(Path(temporary) / "large.mp4", steps, trial.encoder, detects)
    report = {
        "videos": count,
        "sentences": len(moments),
        "hours": trial.hours,
        "held out": not arguments.tuning,
        "versions": {name: version(name) for name in ("av", "numpy", *(["scenedetect"] if detects else []))},
        "rows": rows,
        "large": large,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    show(f"{count} videos, {len(moments)} sentences: R@1 in %", quality_rows(report), arguments.markdown)
    show("processor seconds for an hour of video", cost_rows(report), arguments.markdown)
    if arguments.plot:
        plot(report, arguments.plot)
    for line in check_bars(report):
        print(line)


if __name__ == "__main__":
    main()
