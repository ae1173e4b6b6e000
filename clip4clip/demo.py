"""An offline demo: draw videos, and search them by sentences.

Clips are found by the Towhee pipelines of the README; moments of a longer video by its segments, as an index finds
them.
"""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .encoder import VideoEncoder
from .errors import PairsError
from .evaluation.metrics import RetrievalMetrics, ranks
from .evaluation.moment_metrics import temporal_iou
from .library.local_engine import embed_videos
from .library.sources import list_videos
from .progress import Track, no_progress
from .runtime.placement import resolve_placement
from .training.scenes import MAX_HELD_OUT, MAX_LONG
from .training.synthetic import long_table, tables, write_dataset, write_long_videos

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)  # Towhee imports it
    from towhee import ops, pipe

MODEL = "clip_vit_tiny_demo"
CLIPS = 36
PICTURE = "results.png"
PICTURE_ROWS = 4  # sentences in the picture
BEST = 3  # clips listed for each sentence
LEAST_OVERLAP = 0.5  # intersection over union of a found moment and the right one


@dataclass(frozen=True)
class Moments:
    """The moments of a longer video, and how well sentences fit to them.

    Attributes:
        video: the video file.
        sentences: what its scenes show, in order.
        scenes: when they do: start and end in seconds, float64 of shape (sentences, 2).
        segments: start and end of each segment of the video in seconds, float64 of shape (segments, 2).
        similarity: (sentences, segments) float32, -1 to 1.
    """

    video: Path
    sentences: list[str]
    scenes: np.ndarray
    segments: np.ndarray
    similarity: np.ndarray

    def found(self, sentence: int) -> int:
        """Return the index of the segment that is most similar to a sentence."""
        return int(self.similarity[sentence].argmax())

    def is_right(self, sentence: int) -> bool:
        """Return whether the segment that was found for a sentence is the scene that it describes."""
        overlaps = temporal_iou(self.segments[None, self.found(sentence)], self.scenes[None, sentence])
        return bool(overlaps[0, 0] >= LEAST_OVERLAP)

    def sentences_to_show(self, count: int = PICTURE_ROWS) -> list[int]:
        """Return the indices of ``count`` sentences, spread evenly over the video."""
        count = min(count, len(self.sentences))
        return [(2 * number + 1) * len(self.sentences) // (2 * count) for number in range(count)]


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
        moments: a longer video, and its moments.
    """

    clips: list[Path]
    captions: list[str]
    sentences: list[str]
    similarity: np.ndarray
    matches: list[int | None]
    metrics: RetrievalMetrics
    moments: Moments

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
    """Draw clips and a longer video, and compare sentences with all clips, and with all moments of the video.

    Several processes draw, and each imports the calling script again: call this under ``if __name__ == "__main__":``.

    Args:
        folder: folder for the clips, ``eval/*.mp4``, and their captions, ``eval.csv``; and for the longer video,
            ``long/*.mp4``, and its moments, ``long.csv``. What an earlier demo has drawn there is not drawn again.
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
    drawn, long_videos = max(clips, _count_drawn_clips(folder)), max(1, _count_long_videos(folder))
    write_dataset(folder, 0, drawn, track=track)
    write_long_videos(folder, long_videos, track=track)
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
        moments=_find_moments(folder, embed_text, device, track),
    )


def _find_moments(folder: Path, embed_text: Any, device: str | None, track: Track) -> Moments:
    """Cut the longer video into segments, and compare them with a sentence for each of its scenes."""
    rows = long_table(1)
    video, sentences = folder / rows[0][0], [sentence for _, sentence, _, _ in rows]
    encoder = VideoEncoder.load(MODEL, device=device)
    embedded = embed_videos(list_videos([video]), encoder)
    segments = [row for segments in track(embedded, 1, "embedding a longer video") for row in segments]
    texts = np.stack([embed_text(sentence).get()[0] for sentence in sentences])
    return Moments(
        video=video,
        sentences=sentences,
        scenes=np.array([(start, end) for _, _, start, end in rows]),
        segments=np.array([(row["start"], row["end"]) for row in segments if row["vector"] is not None]),
        similarity=texts @ np.stack([row["vector"] for row in segments if row["vector"] is not None]).T,
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
    """Return how many clips of an earlier demo a folder has; see :func:`_check_table`."""
    count = 0
    for path in (folder / "eval.csv", folder / "eval_paraphrased.csv"):
        rows = _read_rows(path)
        _check_table(path, rows, tables(0, min(len(rows), MAX_HELD_OUT))[path.stem])
        count = max(count, len(rows))
    return count


def _count_long_videos(folder: Path) -> int:
    """Return how many longer videos a folder has; see :func:`_check_table`."""
    path = folder / "long.csv"
    rows = _read_rows(path)
    count = len({row[:1] for row in rows})
    _check_table(path, rows, [tuple(map(str, row)) for row in long_table(min(count, MAX_LONG))])
    return count


def _read_rows(path: Path) -> list[tuple[str, ...]]:
    """Return the first rows of a table, without its header; none if there is no table."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        try:
            return [tuple(row) for row in islice(csv.reader(file), 1, MAX_HELD_OUT + 2)]
        except csv.Error:
            return [()]


def _check_table(path: Path, rows: Sequence[tuple[str, ...]], drawn: Sequence[tuple[str, ...]]) -> None:
    """Raise PairsError if a table is not one of drawn videos: it would be overwritten."""
    if rows != drawn:
        raise PairsError(f"{path} is the table of another data set: choose another folder, or move it away")
