"""The whole job in small and offline: drawn clips, found by sentences through the README's Towhee pipelines."""

from __future__ import annotations

import csv
import os
import textwrap
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .errors import PairsError
from .evaluation.metrics import RetrievalMetrics, ranks
from .files import atomic_write
from .runtime.placement import resolve_placement
from .training.scenes import MOST_HELD_OUT
from .training.synthetic import tables, write_dataset
from .video.reader import read_frames

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)  # which Towhee uses
    from towhee import ops, pipe

MODEL = "clip_vit_tiny_demo"
CLIPS = 36
PICTURE = "results.png"
SHOWN, BEST = 4, 3  # sentences in the picture, and results of each

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]


@dataclass(frozen=True)
class Demo:
    """What came out of :func:`run_demo`.

    Attributes:
        clips: the files.
        captions: what each of them shows.
        sentences: what was searched for: the caller's sentences and then all captions.
        similarity: (sentences, clips), float32, -1 to 1.
        matches: for each sentence the number of the clip that it describes; None for the caller's.
        metrics: of the captions, from text to video.
    """

    clips: list[Path]
    captions: list[str]
    sentences: list[str]
    similarity: np.ndarray
    matches: list[int | None]
    metrics: RetrievalMetrics

    def best(self, sentence: int, count: int) -> list[int]:
        """Numbers of the clips most similar to a sentence, the most similar first."""
        return np.argsort(-self.similarity[sentence], kind="stable")[:count].tolist()

    def shown(self, count: int = SHOWN) -> list[int]:
        """Numbers of the sentences to show: the caller's, and captions up to ``count``."""
        own = self.matches.count(None)
        captions = min(max(count - own, 1), len(self.captions))
        return [*range(own), *(own + np.arange(captions) * len(self.captions) // captions).tolist()]


def run_demo(
    folder: Path,
    sentences: Sequence[str] = (),
    clips: int = CLIPS,
    device: str | None = None,
    track: Track = lambda items, total, what: items,  # noqa: ARG005
) -> Demo:
    """Draws clips, embeds them and sentences through Towhee, and ranks all against all.

    Processes draw, and each reads the calling script again: call this under ``if __name__ == "__main__":``.

    Args:
        folder: gets the clips, ``eval/*.mp4``, and their captions, ``eval.csv``; what an earlier demo has put there
            stays.
        sentences: to search for, beside the captions.
        clips: how many; all of combinations that ``clip_vit_tiny_demo`` has never seen.
        device: as for the operator.
        track: wraps an iteration, given its length and what it does; for a progress bar.

    Raises:
        InputValueError: for more clips than there are scenes.
        DeviceError: for a device that is not there.
        PairsError: when ``folder`` has the table of another data set.
        TrainingError: when a process that draws ends, as it does without the guard above.
    """
    resolve_placement(device)  # an error from within a pipeline would be Towhee's
    drawn = max(clips, _drawn_before(folder))
    write_dataset(folder, 0, drawn, track=track)
    rows = tables(0, clips)["eval"]
    paths, captions = [folder / name for name, _ in rows], [caption for _, caption in rows]
    text = (
        pipe.input("text")
        .map("text", "vec", ops.video_text_embedding.clip4clip(model_name=MODEL, modality="text", device=device))
        .output("vec")
    )
    twelve = {"sample_type": "uniform_temporal_subsample", "args": {"num_samples": 12}}
    video = (
        pipe.input("path")
        .map("path", "frame_gen", ops.video_decode.ffmpeg(**twelve))
        .map("frame_gen", "frames", lambda frames: list(frames))
        .map("frames", "vec", ops.video_text_embedding.clip4clip(model_name=MODEL, modality="video", device=device))
        .output("vec")
    )
    wanted = [*sentences, *captions]
    videos = np.stack([video(os.fspath(path)).get()[0] for path in track(paths, len(paths), "embedding clips")])
    texts = np.stack([text(sentence).get()[0] for sentence in track(wanted, len(wanted), "embedding sentences")])
    similarity = texts @ videos.T
    found = ranks(similarity[len(sentences) :], np.arange(len(paths)))
    return Demo(
        clips=paths,
        captions=captions,
        sentences=wanted,
        similarity=similarity,
        matches=[*[None] * len(sentences), *range(len(paths))],
        metrics=RetrievalMetrics.of(found, len(paths)),
    )


def _drawn_before(folder: Path) -> int:
    """How many clips the tables of an earlier demo have. PairsError for other tables, which would be replaced."""
    drawn = 0
    for path in (folder / "eval.csv", folder / "eval_paraphrased.csv"):
        if not path.exists():
            continue
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            try:
                rows = [tuple(row) for row in islice(csv.reader(file), 1, MOST_HELD_OUT + 2)]
            except csv.Error:
                rows = [()]
        if rows != tables(0, min(len(rows), MOST_HELD_OUT))[path.stem]:
            raise PairsError(f"{path} is the table of another data set: choose another folder, or move it away")
        drawn = max(drawn, len(rows))
    return drawn


# Of the picture, in pixels.
_WIDTH, _MARGIN, _TEXT, _SIDE, _FRAMES, _GAP = 1180, 28, 270, 92, 7, 10
_INK, _FAINT, _RULE, _RIGHT, _BAR = "#1d2733", "#7a8694", "#e3e7eb", "#1f9d55", "#c9d3dd"


def save_picture(demo: Demo, path: Path) -> None:
    """A row for each sentence shown: itself, and its best results as film strips with their scores."""
    shown = demo.shown()
    title, body, small = (ImageFont.load_default(size) for size in (25, 17, 14))
    row_height = BEST * (_SIDE + _GAP) + 26
    picture = Image.new("RGB", (_WIDTH, 92 + len(shown) * row_height + _MARGIN), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((_MARGIN, 22), "Which clip is it?", _INK, title)
    pen.text(
        (_MARGIN, 56),
        f"The best {BEST} of {len(demo.clips)} clips for a sentence. The clip that it describes has a green frame.",
        _FAINT,
        small,
    )
    for row, sentence in enumerate(shown):
        top = 92 + row * row_height
        pen.line((_MARGIN, top - 10, _WIDTH - _MARGIN, top - 10), _RULE, 2)
        lines = textwrap.wrap(f"“{demo.sentences[sentence]}”", 28)
        pen.multiline_text((_MARGIN, top + 8), "\n".join(lines), _INK, body, spacing=7)
        best = demo.best(sentence, BEST)
        for place, clip in enumerate(best):
            is_right = clip == demo.matches[sentence]
            y = top + place * (_SIDE + _GAP)
            _film_strip(picture, demo.clips[clip], _MARGIN + _TEXT, y, is_right)
            x = _MARGIN + _TEXT + _FRAMES * (_SIDE + 2) + 22
            score = float(demo.similarity[sentence, clip])
            length = round(100 * max(0.0, score))
            pen.text((x, y + 12), f"{place + 1}.", _INK, body)
            pen.text((x + 28, y + 12), f"{score:.3f}", _RIGHT if is_right else _INK, body)
            pen.rectangle((x, y + 46, x + 100, y + 54), _RULE)
            pen.rectangle((x, y + 46, x + length, y + 54), _RIGHT if is_right else _BAR)
            pen.text((x, y + 64), demo.clips[clip].stem, _FAINT, small)
    with atomic_write(path) as fresh:
        picture.save(fresh, "PNG", optimize=True)


def _film_strip(picture: Image.Image, clip: Path, x: int, y: int, is_right: bool) -> None:
    width = _FRAMES * (_SIDE + 2) + 2
    pen = ImageDraw.Draw(picture)
    if is_right:
        pen.rounded_rectangle((x - 4, y - 4, x + width + 3, y + _SIDE + 5), 5, _RIGHT)
    pen.rectangle((x, y, x + width - 1, y + _SIDE + 1), "#20262d")
    for number, frame in enumerate(read_frames(clip, _FRAMES)):
        small = Image.fromarray(frame.rgb).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        picture.paste(small, (x + 2 + number * (_SIDE + 2), y + 1))
