"""An offline demo: draw clips, and search them by sentences with the Towhee pipelines of the README."""

from __future__ import annotations

import csv
import os
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .errors import PairsError
from .evaluation.metrics import RetrievalMetrics, ranks
from .files import atomic_write
from .progress import Track, no_progress
from .runtime.placement import resolve_placement
from .training.scenes import MAX_HELD_OUT
from .training.synthetic import tables, write_dataset
from .video.reader import read_frames

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)  # Towhee imports it
    from towhee import ops, pipe

MODEL = "clip_vit_tiny_demo"
CLIPS = 36
PICTURE = "results.png"
PICTURE_ROWS = 4  # sentences in the picture
BEST = 3  # clips listed for each sentence


@dataclass(frozen=True)
class Demo:
    """The results of :func:`run_demo`.

    Attributes:
        clips: the video files.
        captions: the caption of each clip.
        sentences: all queries: the caller's sentences, then the captions of all clips.
        similarity: (sentences, clips) float32, -1 to 1.
        matches: index of the clip that each sentence describes; None for the caller's sentences.
        metrics: metrics of the search for each clip by its caption.
    """

    clips: list[Path]
    captions: list[str]
    sentences: list[str]
    similarity: np.ndarray
    matches: list[int | None]
    metrics: RetrievalMetrics

    def best(self, sentence: int, count: int) -> list[int]:
        """Return the indices of the clips most similar to a sentence, the most similar first."""
        return np.argsort(-self.similarity[sentence], kind="stable")[:count].tolist()

    def sentences_to_show(self, count: int = PICTURE_ROWS) -> list[int]:
        """Return the indices of the caller's sentences and at least one caption, ``count`` in total if possible."""
        own = self.matches.count(None)
        captions = min(max(count - own, 1), len(self.captions))
        return [*range(own), *(own + np.arange(captions) * len(self.captions) // captions).tolist()]


def run_demo(
    folder: Path,
    sentences: Sequence[str] = (),
    clips: int = CLIPS,
    device: str | None = None,
    track: Track = no_progress,
) -> Demo:
    """Draw clips, embed clips and sentences through Towhee, and compare every sentence with every clip.

    Several processes draw, and each imports the calling script again: call this under ``if __name__ == "__main__":``.

    Args:
        folder: folder for the clips, ``eval/*.mp4``, and their captions, ``eval.csv``. It may have clips of an earlier
            demo, which are not drawn again.
        sentences: more queries, besides the captions.
        clips: number of clips. All show combinations that ``clip_vit_tiny_demo`` was not trained on.
        device: as for the operator.
        track: progress callback; see :data:`clip4clip.progress.Track`.

    Raises:
        InputValueError: ``clips`` is larger than the number of different scenes.
        DeviceError: the device is not available.
        PairsError: ``folder`` has the table of another data set.
        TrainingError: a process that draws clips failed, as it does without the guard above.
    """
    resolve_placement(device)  # raises DeviceError; Towhee would hide the error in a pipeline
    drawn = max(clips, _count_drawn_clips(folder))
    write_dataset(folder, 0, drawn, track=track)
    rows = tables(0, clips)["eval"]
    paths, captions = [folder / name for name, _ in rows], [caption for _, caption in rows]
    queries = [*sentences, *captions]
    embed_video, embed_text = _video_pipeline(device), _text_pipeline(device)
    videos = np.stack([embed_video(os.fspath(path)).get()[0] for path in track(paths, len(paths), "embedding clips")])
    texts = np.stack([embed_text(query).get()[0] for query in track(queries, len(queries), "embedding sentences")])
    similarity = texts @ videos.T
    caption_ranks = ranks(similarity[len(sentences) :], np.arange(len(paths)))
    return Demo(
        clips=paths,
        captions=captions,
        sentences=queries,
        similarity=similarity,
        matches=[*[None] * len(sentences), *range(len(paths))],
        metrics=RetrievalMetrics.of(caption_ranks, len(paths)),
    )


def _text_pipeline(device: str | None) -> Any:
    return (
        pipe.input("text")
        .map("text", "vec", ops.video_text_embedding.clip4clip(model_name=MODEL, modality="text", device=device))
        .output("vec")
    )


def _video_pipeline(device: str | None) -> Any:
    sampling = {"sample_type": "uniform_temporal_subsample", "args": {"num_samples": 12}}
    return (
        pipe.input("path")
        .map("path", "frame_gen", ops.video_decode.ffmpeg(**sampling))
        .map("frame_gen", "frames", lambda frames: list(frames))
        .map("frames", "vec", ops.video_text_embedding.clip4clip(model_name=MODEL, modality="video", device=device))
        .output("vec")
    )


def _count_drawn_clips(folder: Path) -> int:
    """Return how many clips of an earlier demo a folder has.

    Raises:
        PairsError: the folder has another table of the same name, which would be overwritten.
    """
    count = 0
    for path in (folder / "eval.csv", folder / "eval_paraphrased.csv"):
        if not path.exists():
            continue
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            try:
                rows = [tuple(row) for row in islice(csv.reader(file), 1, MAX_HELD_OUT + 2)]
            except csv.Error:
                rows = [()]
        if rows != tables(0, min(len(rows), MAX_HELD_OUT))[path.stem]:
            raise PairsError(f"{path} is the table of another data set: choose another folder, or move it away")
        count = max(count, len(rows))
    return count


# Sizes in the picture, in pixels.
_WIDTH, _MARGIN, _HEADER_HEIGHT = 1180, 28, 92
_TEXT_WIDTH, _TEXT_CHARACTERS = 270, 28
_FRAMES, _FRAME_SIZE, _FRAME_GAP = 7, 92, 2  # a film strip
_STRIP_WIDTH, _STRIP_GAP = _FRAMES * (_FRAME_SIZE + _FRAME_GAP), 10
_ROW_HEIGHT = BEST * (_FRAME_SIZE + _STRIP_GAP) + 26

_TEXT_COLOUR, _FAINT_COLOUR, _RULE_COLOUR = "#1d2733", "#7a8694", "#e3e7eb"
_MATCH_COLOUR, _BAR_COLOUR, _STRIP_COLOUR = "#1f9d55", "#c9d3dd", "#20262d"


def save_picture(demo: Demo, path: Path) -> None:
    """Write a PNG with a row for each sentence: its best clips as film strips, with their scores."""
    sentences = demo.sentences_to_show()
    picture = Image.new("RGB", (_WIDTH, _HEADER_HEIGHT + len(sentences) * _ROW_HEIGHT + _MARGIN), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((_MARGIN, 22), "Which clip is it?", _TEXT_COLOUR, ImageFont.load_default(25))
    pen.text(
        (_MARGIN, 56),
        f"The best {BEST} of {len(demo.clips)} clips for a sentence. The clip that it describes has a green frame.",
        _FAINT_COLOUR,
        ImageFont.load_default(14),
    )
    for row, sentence in enumerate(sentences):
        _draw_sentence(picture, demo, sentence, _HEADER_HEIGHT + row * _ROW_HEIGHT)
    with atomic_write(path) as temporary:
        picture.save(temporary, "PNG", optimize=True)


def _draw_sentence(picture: Image.Image, demo: Demo, sentence: int, top: int) -> None:
    """Draw a sentence and its best clips below the y coordinate ``top``."""
    pen = ImageDraw.Draw(picture)
    pen.line((_MARGIN, top - 10, _WIDTH - _MARGIN, top - 10), _RULE_COLOUR, 2)
    lines = textwrap.wrap(f"“{demo.sentences[sentence]}”", _TEXT_CHARACTERS)
    pen.multiline_text((_MARGIN, top + 8), "\n".join(lines), _TEXT_COLOUR, ImageFont.load_default(17), spacing=7)
    for rank, clip in enumerate(demo.best(sentence, BEST), 1):
        y = top + (rank - 1) * (_FRAME_SIZE + _STRIP_GAP)
        is_match = clip == demo.matches[sentence]
        _draw_film_strip(picture, demo.clips[clip], _MARGIN + _TEXT_WIDTH, y, is_match)
        _draw_score(pen, rank, float(demo.similarity[sentence, clip]), demo.clips[clip].stem, y, is_match)


def _draw_film_strip(picture: Image.Image, clip: Path, x: int, y: int, is_match: bool) -> None:
    """Draw frames of a clip side by side, with a green frame around them if the clip is the match."""
    width = _STRIP_WIDTH + _FRAME_GAP
    pen = ImageDraw.Draw(picture)
    if is_match:
        pen.rounded_rectangle((x - 4, y - 4, x + width + 3, y + _FRAME_SIZE + 5), 5, _MATCH_COLOUR)
    pen.rectangle((x, y, x + width - 1, y + _FRAME_SIZE + 1), _STRIP_COLOUR)
    for index, frame in enumerate(read_frames(clip, _FRAMES)):
        thumbnail = Image.fromarray(frame.rgb).resize((_FRAME_SIZE, _FRAME_SIZE), Image.Resampling.LANCZOS)
        picture.paste(thumbnail, (x + _FRAME_GAP + index * (_FRAME_SIZE + _FRAME_GAP), y + 1))


def _draw_score(pen: ImageDraw.ImageDraw, rank: int, score: float, name: str, y: int, is_match: bool) -> None:
    """Draw the rank, the score as a number and as a bar, and the name of a clip, to the right of its film strip."""
    x = _MARGIN + _TEXT_WIDTH + _STRIP_WIDTH + 22
    font, small_font = ImageFont.load_default(17), ImageFont.load_default(14)
    length = round(100 * max(0.0, score))
    pen.text((x, y + 12), f"{rank}.", _TEXT_COLOUR, font)
    pen.text((x + 28, y + 12), f"{score:.3f}", _MATCH_COLOUR if is_match else _TEXT_COLOUR, font)
    pen.rectangle((x, y + 46, x + 100, y + 54), _RULE_COLOUR)
    pen.rectangle((x, y + 46, x + length, y + 54), _MATCH_COLOUR if is_match else _BAR_COLOUR)
    pen.text((x, y + 64), name, _FAINT_COLOUR, small_font)
