"""Measure how many changed copies of videos `clip4clip duplicates` finds, and how many pairs it reports wrongly.

The library is made of drawn clips of two seconds, which differ only in a few words of their captions and all have the
same length: the hardest case. Some of them are copied, and each copy is changed in one way: encoded by another codec
or very strongly, scaled, trimmed, played faster, mirrored, cropped, stretched or framed by black bars. Each kind of
copy is searched for among all clips. A copy is found if it is in a group with its original. Every other pair of a group
is wrong.

Drawn videos of four minutes are copied likewise, and clips of 3 to 29 seconds are cut out of them at random times, as
H.264 and HEVC. Such a clip has one vector, and mostly shows several scenes.

The vectors are those of the demo model. Its clips were not used to choose any constant: those have another seed.

    python benchmarks/duplicates.py --json docs/duplicates.json --markdown
    python benchmarks/duplicates.py --short    # a trial
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from clip4clip.encoder import EncoderSpec
from clip4clip.index.duplicates import find_duplicates
from clip4clip.library.embed import embed_library
from clip4clip.library.table import read_rows
from clip4clip.training.drawing import FRAME_RATE
from clip4clip.training.synthetic import write_dataset, write_long_videos

MODEL, SEED = "clip_vit_tiny_demo", 0
CLIPS, COPIED, LONG, CUT = 500, 50, 5, 24  # CUT: clips cut out of each long video
SHORT = (16, 2, 1, 2)
THRESHOLDS = (0.99, 0.995, 0.998)
SHORTEST_CUT, LONGEST_CUT = 3.0, 29.0  # seconds

Frames = list[np.ndarray]
Rows = list[dict[str, Any]]
console = Console(stderr=True)


@dataclass(frozen=True)
class Change:
    """How a copy differs from its original.

    Attributes:
        edit: function of the frames, uint8 RGB of shape (height, width, 3).
        codec: FFmpeg's name of the encoder.
        crf: quality of the encoder.
        speed: how much faster the copy is.
        ending: of the file name.
    """

    edit: Callable[[Frames], Frames] = list
    codec: str = "libx264"
    crf: int = 28
    speed: Fraction = Fraction(1)
    ending: str = ".mp4"


def scale(frames: Frames, width: int, height: int) -> Frames:
    return [
        av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        .reformat(width, height)
        .to_ndarray(format="rgb24")
        for frame in frames
    ]


def frame_black(frames: Frames, width: int, height: int) -> Frames:
    """Put each frame in the middle of a larger black one."""
    framed = []
    for frame in frames:
        picture = np.zeros((height, width, 3), np.uint8)
        top, left = (height - frame.shape[0]) // 2, (width - frame.shape[1]) // 2
        picture[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
        framed.append(picture)
    return framed


CHANGES = {
    "H.264, crf 28": Change(),
    "HEVC, crf 28": Change(codec="libx265"),
    "VP9, crf 35": Change(codec="libvpx-vp9", crf=35, ending=".webm"),
    "H.264, crf 40 (very strong)": Change(crf=40),
    "twice the size": Change(lambda frames: scale(frames, 256, 256)),
    "half the size (64×64)": Change(lambda frames: scale(frames, 64, 64)),
    "trimmed by 1/8 at its start": Change(lambda frames: frames[len(frames) // 8 :]),
    "trimmed by 1/8 at its start, 1/4 at its end": Change(
        lambda frames: frames[len(frames) // 8 : -(len(frames) // 4)]
    ),
    "5 % faster": Change(speed=Fraction(21, 20)),
    "black bars left and right, 16:9": Change(lambda frames: frame_black(frames, 228, 128)),
    "black frame all around": Change(lambda frames: frame_black(scale(frames, 96, 96), 128, 128)),
    "black bars above and below": Change(lambda frames: frame_black(scale(frames, 128, 96), 128, 128)),
    "stretched to 4:3": Change(lambda frames: scale(frames, 160, 120)),
    "cropped by 5 % on each side": Change(lambda frames: [frame[6:-6, 6:-6] for frame in frames]),
    "mirrored": Change(lambda frames: [frame[:, ::-1] for frame in frames]),
}
LONG_CHANGES = {
    "HEVC, crf 28": Change(codec="libx265"),
    "half the size (64×64)": Change(lambda frames: scale(frames, 64, 64)),
    "trimmed by 1/8 at its start, 1/4 at its end": CHANGES["trimmed by 1/8 at its start, 1/4 at its end"],
    "4 % faster": Change(speed=Fraction(25, 24)),
    "without 30 s in its middle": Change(lambda frames: frames[: FRAME_RATE * 80] + frames[FRAME_RATE * 110 :]),
    "mirrored": CHANGES["mirrored"],
}


# The files


def read_frames(path: Path) -> Frames:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def write(path: Path, frames: Frames, change: Change) -> None:
    options = {"crf": str(change.crf)}
    if change.codec == "libx265":
        options["x265-params"] = "log-level=none"
    if change.codec == "libvpx-vp9":
        options |= {"b": "0", "cpu-used": "4"}
    path.parent.mkdir(parents=True, exist_ok=True)
    edited = change.edit(frames)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(change.codec, rate=FRAME_RATE * change.speed, options=options)
        stream.height, stream.width = edited[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in edited:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        file.mux(stream.encode(None))


def copy_all(originals: Iterable[Path], changes: dict[str, Change], folder: Path) -> None:
    """Write a copy of each original for each change, in a folder for the number of the change."""
    for original in track([*originals], "copying", console=console):
        frames = read_frames(original)
        for number, change in enumerate(changes.values()):
            write(folder / str(number) / f"{original.stem}{change.ending}", frames, change)


def cut_clips(originals: Iterable[Path], count: int, folder: Path) -> dict[str, tuple[float, float]]:
    """Cut clips out of videos, at random times. Return the start and end of each in seconds, by its path."""
    random = np.random.default_rng(SEED)
    times = {}
    for original in track([*originals], "cutting", console=console):
        frames = read_frames(original)
        for number in range(count):
            length = int(random.uniform(SHORTEST_CUT, LONGEST_CUT) * FRAME_RATE)
            start = int(random.integers(0, len(frames) - length))
            path = folder / f"{original.stem}-{number:02}.mp4"
            write(path, frames[start : start + length], Change(codec=("libx264", "libx265")[number % 2]))
            times[str(path)] = (start / FRAME_RATE, (start + length) / FRAME_RATE)
    return times


def embed(folder: Path) -> Rows:
    """Return the rows of the videos in a folder."""
    table = folder.parent / f"{folder.name}.parquet"
    embed_library(folder, table, EncoderSpec(MODEL, device="cpu"))
    return [*read_rows(table)]


# What is found


def name_of(path: str) -> str:
    """Return the name of the original that a file is a copy of, or was cut out of."""
    return "-".join(Path(path).stem.split("-")[:2])


def judge(rows: Rows, copies: set[str], threshold: float) -> dict[str, Any]:
    """Return how many copies are found, how many pairs are wrong, and the right pairs."""
    found, wrong = [], 0
    for group in find_duplicates(rows, threshold).groups:
        for duplicate in group.duplicates:
            if name_of(duplicate.video.path) != name_of(group.kept.path):
                wrong += 1
            elif {duplicate.video.path, group.kept.path} & copies:
                found.append(duplicate)
    return {"copies": len(copies), "found": len(found), "wrong": wrong, "duplicates": found}


def measure(originals: Rows, copies: Rows, changes: dict[str, Change], title: str) -> Iterator[dict[str, Any]]:
    """Yield a row of the report for each change and threshold."""
    for (number, name), threshold in itertools.product(enumerate(changes), THRESHOLDS):
        changed = [row for row in copies if Path(row["path"]).parent.name == str(number)]
        figures = judge(originals + changed, {row["path"] for row in changed}, threshold)
        figures.pop("duplicates")
        yield {"videos": title, "change": name, "threshold": threshold, **figures}


def measure_cuts(
    originals: Rows, clips: Rows, times: dict[str, tuple[float, float]], title: str
) -> Iterator[dict[str, Any]]:
    """Yield a row of the report for each threshold, with the median error of where the clips begin, in seconds."""
    for threshold in THRESHOLDS:
        figures = judge(originals + clips, {*times}, threshold)
        errors = [
            abs(duplicate.times[0].kept_start - times[duplicate.video.path][0]) for duplicate in figures["duplicates"]
        ]
        figures.pop("duplicates")
        error = float(np.median(errors)) if errors else None
        yield {"videos": title, "change": "clips", "threshold": threshold, **figures, "error": error}


def table_lines(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Yield the lines of the table: copies that are found in percent, and wrong pairs, for each threshold."""
    yield ["videos", "copies", *(f"found, {threshold}" for threshold in THRESHOLDS), "wrong pairs"]
    for (videos, change), group in itertools.groupby(rows, key=lambda row: (row["videos"], row["change"])):
        each = [*group]
        shares = [f"{100 * row['found'] / row['copies']:.0f} %" if row["copies"] else "" for row in each]
        yield [videos, change, *shares, " / ".join(str(row["wrong"]) for row in each)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few videos")
    parser.add_argument("--folder", type=Path, help="folder to keep the videos in")
    parser.add_argument("--markdown", action="store_true", help="also print the table as Markdown")
    parser.add_argument("--json", type=Path, help="report to write")
    arguments = parser.parse_args()
    clips, copied, long, cut = SHORT if arguments.short else (CLIPS, COPIED, LONG, CUT)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        with console.status("drawing the videos"):
            write_dataset(folder, 0, clips, SEED)
            write_long_videos(folder, long, SEED)
        copy_all(sorted((folder / "eval").iterdir())[:copied], CHANGES, folder / "copies")
        copy_all(sorted((folder / "long").iterdir()), LONG_CHANGES, folder / "long_copies")
        times = cut_clips(sorted((folder / "long").iterdir()), cut, folder / "cut")
        with console.status("embedding the videos"):
            embedded = {name: embed(folder / name) for name in ("eval", "copies", "long", "long_copies", "cut")}
        titles = f"{clips} clips", f"{long} long videos"
        rows = [
            {"videos": titles[0], "change": "none", "threshold": threshold, **judge(embedded["eval"], set(), threshold)}
            for threshold in THRESHOLDS
        ]
        for row in rows:
            row.pop("duplicates")
        rows += measure(embedded["eval"], embedded["copies"], CHANGES, titles[0])
        rows += measure(embedded["long"], embedded["long_copies"], LONG_CHANGES, titles[1])
        rows += measure_cuts(embedded["long"], embedded["cut"], times, titles[1])
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", "utf-8")
    head, *body = table_lines(rows)
    table = Table(*head, title="copies that are found, by --threshold")
    for line in body:
        table.add_row(*line)
    Console(width=140, highlight=False).print(table)
    if arguments.markdown:
        print("\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body]))
    for row in rows:
        if row.get("error") is not None:
            print(f"threshold {row['threshold']}: the places of clips are {row['error']:.1f} s off, in the median")


if __name__ == "__main__":
    main()
