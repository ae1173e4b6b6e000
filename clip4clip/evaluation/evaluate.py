"""Pairs of videos and sentences to retrieval metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..encoder import TextEncoder, VideoEncoder
from ..errors import Clip4clipError, InputValueError, MissingExtraError, PairsError, brief
from ..files import atomic_write
from ..video.reader import Frame, read_frames
from ..video.sampling import DEFAULT_SAMPLING, FrameSampling
from .metrics import RetrievalMetrics, best_of_each, ranks
from .pairs import Pair

logger = logging.getLogger(__name__)

DECIMALS = 6  # to which similarities are compared: vectors that should be equal may differ in the next one
VIDEOS_AT_ONCE = 8
SENTENCES_AT_ONCE = 256

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]


@dataclass(frozen=True)
class Evaluation:
    """What came out of :func:`evaluate`.

    Attributes:
        text_to_video: a query is a sentence, its candidates are all videos.
        video_to_text: a query is a video, its candidates are the videos' sets of sentences, each by its best one.
        pairs: number of sentences.
        videos: number of different videos, failed ones included.
        failed: why a video could not be decoded, by its name.
        text_ranks: rank of the right video for each pair, float64; NaN where it failed.
        video_ranks: rank of the right sentences for each video.
        similarity: (pairs, videos), float32; NaN where a video failed.
        video_names: the videos, in the order of the columns of ``similarity``.
    """

    text_to_video: RetrievalMetrics
    video_to_text: RetrievalMetrics
    pairs: int
    videos: int
    failed: dict[str, str]
    text_ranks: np.ndarray
    video_ranks: np.ndarray
    similarity: np.ndarray
    video_names: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Numbers of pairs, of videos, both metrics and the failures, ready for JSON."""
        return {
            "pairs": self.pairs,
            "videos": self.videos,
            "text_to_video": self.text_to_video.to_dict(),
            "video_to_text": self.video_to_text.to_dict(),
            "failed": self.failed,
        }


def evaluate(
    pairs: Sequence[Pair],
    text_encoder: TextEncoder,
    video_encoder: VideoEncoder,
    sampling: FrameSampling = DEFAULT_SAMPLING,
    track: Track = lambda items, total, what: items,  # noqa: ARG005
    max_words: int | None = None,
) -> Evaluation:
    """Embeds every sentence and every video once and ranks all against all.

    A video that cannot be decoded is a miss of all its sentences and of itself; it is never left out.

    Args:
        pairs: from :func:`clip4clip.evaluation.pairs.read_pairs`.
        text_encoder: of the model to measure.
        video_encoder: of the same model.
        sampling: which frames of each video are embedded.
        track: wraps an iteration, given its length and what it does; for a progress bar.
        max_words: token ids of a sentence at most, start and end marks included, the rest is cut; None for as many as
            the model allows.

    Raises:
        InputValueError: for no pairs, or ``max_words`` below 3.
        PairsError: for an empty sentence.
    """
    if max_words is not None:
        if max_words < 3:
            raise InputValueError(f"max_words must be at least 3, for a token and its two marks, not {max_words}")
        config = text_encoder.config
        shorter = replace(config, context_length=min(max_words, config.context_length))
        text_encoder = TextEncoder(text_encoder.model, shorter)
    if not pairs:
        raise InputValueError("there are no pairs to evaluate")
    if empty := [pair.video for pair in pairs if not pair.sentence.strip()]:
        raise PairsError(f"{len(empty)} of {len(pairs)} sentences are empty, the first of the video {brief(empty[0])}")
    columns: dict[Path, int] = {}
    names: list[str] = []
    for pair in pairs:
        if pair.path not in columns:
            columns[pair.path] = len(columns)
            names.append(pair.video)
    owners = np.array([columns[pair.path] for pair in pairs])
    rows: dict[str, int] = {}
    for pair in pairs:
        rows.setdefault(pair.sentence, len(rows))
    sentences = list(rows)
    chunks = [sentences[start : start + SENTENCES_AT_ONCE] for start in range(0, len(sentences), SENTENCES_AT_ONCE)]
    texts = np.concatenate([text_encoder(chunk) for chunk in track(chunks, len(chunks), "embedding sentences")])
    videos, failed = _embed_videos(columns, names, video_encoder, sampling, track)
    distinct = np.round(texts.astype(np.float64) @ videos.T.astype(np.float64), DECIMALS)
    similarity = distinct[[rows[pair.sentence] for pair in pairs]]
    text_ranks = ranks(similarity, owners)
    video_ranks = ranks(best_of_each(similarity.T, owners, len(columns)), np.arange(len(columns)))
    return Evaluation(
        text_to_video=RetrievalMetrics.of(text_ranks, len(columns)),
        video_to_text=RetrievalMetrics.of(video_ranks, len(columns)),
        pairs=len(pairs),
        videos=len(columns),
        failed=failed,
        text_ranks=text_ranks,
        video_ranks=video_ranks,
        similarity=similarity.astype(np.float32),
        video_names=names,
    )


def _embed_videos(
    paths: Iterable[Path], names: Sequence[str], encoder: VideoEncoder, sampling: FrameSampling, track: Track
) -> tuple[np.ndarray, dict[str, str]]:
    """One row for each video, NaN for those that failed, and why they did."""
    vectors = np.full((len(names), encoder.config.embed_dim), np.nan, np.float32)
    failed: dict[str, str] = {}
    waiting: list[tuple[int, list[Frame]]] = []

    def embed_waiting() -> None:
        if waiting:
            vectors[[index for index, _ in waiting]] = encoder([video for _, video in waiting])
            waiting.clear()

    for index, path in enumerate(track(paths, len(names), "embedding videos")):
        try:
            waiting.append((index, list(read_frames(path, sampling.frames, seek=sampling.seek))))
        except Clip4clipError as error:
            failed[names[index]] = str(error)
        if len(waiting) == VIDEOS_AT_ONCE:
            embed_waiting()
    embed_waiting()
    return vectors, failed


def check_histogram(path: Path) -> None:
    """What :func:`save_histogram` would raise for this file; to be known before hours of work."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("a histogram needs matplotlib: pip install 'towhee-clip4clip[plot]'") from error
    formats = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise InputValueError(f"a histogram cannot be written as {path}; its name must end in .{', .'.join(formats)}")


def save_histogram(evaluation: Evaluation, path: Path) -> None:
    """How many queries have which rank, in both directions, as a picture; needs matplotlib.

    Raises:
        MissingExtraError: without matplotlib.
        InputValueError: for a name with the ending of no picture that it can write.
    """
    check_histogram(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    edges = np.unique(np.round(np.geomspace(1, max(evaluation.videos, 2) + 1, 24)))
    panels = (
        ("text → video", evaluation.text_ranks, evaluation.text_to_video, "#3568a8"),
        ("video → text", evaluation.video_ranks, evaluation.video_to_text, "#c46a2b"),
    )
    for axes, (title, found, metrics, colour) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.hist(np.nan_to_num(found, nan=evaluation.videos), edges, color=colour, edgecolor="white", linewidth=0.5)
        axes.set_xscale("log")
        axes.set_xlabel(f"rank of the match among {evaluation.videos}")
        axes.set_ylabel("queries")
        recalls = f"R@1 {metrics.recall_at_1:.1f}   R@5 {metrics.recall_at_5:.1f}   R@10 {metrics.recall_at_10:.1f}"
        axes.set_title(f"{title}:  {recalls}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as fresh:
        figure.savefig(fresh, dpi=130, format=path.suffix[1:].lower())
