"""Evaluate a model: rank all videos for each sentence, and all sentences for each video."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..encoder import TextEncoder, VideoEncoder
from ..errors import Clip4clipError, InputValueError, PairsError, brief
from ..progress import Track, no_progress
from ..video.reader import Frame, read_sampled
from ..video.sampling import DEFAULT_SAMPLING, FrameSampling
from .metrics import RetrievalMetrics, max_per_video, ranks
from .pairs import Pair

DECIMALS = 6  # similarities are rounded, because equal inputs may give vectors that differ slightly
VIDEO_BATCH_SIZE = 8
SENTENCE_BATCH_SIZE = 256


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`evaluate`.

    Attributes:
        text_to_video: metrics of the sentences as queries; the candidates are all videos.
        video_to_text: metrics of the videos as queries; the candidates are the sentence sets of all videos. The best
            sentence of a set counts.
        pairs: number of sentences.
        videos: number of different videos, failed ones included.
        failed: error of each video that could not be decoded, by the name of the video.
        text_ranks: (pairs,) float64, rank of the right video for each sentence; NaN where the video failed.
        video_ranks: (videos,) float64, rank of the right sentences for each video; NaN where the video failed.
        similarity: (pairs, videos) float32; NaN where a video failed.
        video_names: names of the videos, in the order of the columns of ``similarity``.
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
        """Return the numbers of pairs and videos, both metrics and the failures, ready for JSON."""
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
    track: Track = no_progress,
    max_words: int | None = None,
) -> Evaluation:
    """Embed every sentence and every video once, and rank all against all.

    A video that cannot be decoded is a miss, for each of its sentences and for itself; it is never left out.

    Args:
        pairs: from :func:`clip4clip.evaluation.pairs.read_pairs`.
        text_encoder: text encoder of the model to evaluate.
        video_encoder: video encoder of the same model.
        sampling: which frames of each video are embedded. Videos are not cut, whatever it says about segments.
        track: progress callback; see :data:`clip4clip.progress.Track`.
        max_words: largest number of token ids of a sentence, start and end marks included; the rest is cut. None for
            as many as the model allows.

    Raises:
        InputValueError: ``pairs`` is empty, or ``max_words`` is below 3.
        PairsError: a sentence is empty.
    """
    if max_words is not None:
        text_encoder = _limit_words(text_encoder, max_words)
    _check_pairs(pairs)
    names: dict[Path, str] = {}
    for pair in pairs:
        names.setdefault(pair.path, pair.video)
    paths, video_names = list(names), list(names.values())
    column_of = {path: column for column, path in enumerate(paths)}
    video_of_pair = np.array([column_of[pair.path] for pair in pairs])

    sentences = list(dict.fromkeys(pair.sentence for pair in pairs))
    row_of = {sentence: row for row, sentence in enumerate(sentences)}
    text_vectors = embed_sentences(sentences, text_encoder, track)
    video_vectors, failed = _embed_videos(paths, video_names, video_encoder, sampling, track)
    distinct = np.round(text_vectors.astype(np.float64) @ video_vectors.T.astype(np.float64), DECIMALS)
    similarity = distinct[[row_of[pair.sentence] for pair in pairs]]  # (pairs, videos)

    text_ranks = ranks(similarity, video_of_pair)
    video_ranks = ranks(max_per_video(similarity.T, video_of_pair, len(paths)), np.arange(len(paths)))
    return Evaluation(
        text_to_video=RetrievalMetrics.of(text_ranks, len(paths)),
        video_to_text=RetrievalMetrics.of(video_ranks, len(paths)),
        pairs=len(pairs),
        videos=len(paths),
        failed=failed,
        text_ranks=text_ranks,
        video_ranks=video_ranks,
        similarity=similarity.astype(np.float32),
        video_names=video_names,
    )


def _check_pairs(pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise InputValueError("there are no pairs to evaluate")
    if empty := [pair.video for pair in pairs if not pair.sentence.strip()]:
        raise PairsError(f"{len(empty)} of {len(pairs)} sentences are empty, the first of the video {brief(empty[0])}")


def _limit_words(encoder: TextEncoder, max_words: int) -> TextEncoder:
    """Return an encoder that cuts sentences to a number of token ids."""
    if max_words < 3:
        raise InputValueError(f"max_words must be at least 3 (a start mark, a token, an end mark), not {max_words}")
    config = encoder.config
    config = replace(config, context_length=min(max_words, config.context_length))
    return TextEncoder(encoder.model, config, encoder.tokenizer)


def embed_sentences(sentences: Sequence[str], encoder: TextEncoder, track: Track) -> np.ndarray:
    """Return one vector for each sentence."""
    starts = range(0, len(sentences), SENTENCE_BATCH_SIZE)
    batches = [sentences[start : start + SENTENCE_BATCH_SIZE] for start in starts]
    return np.concatenate([encoder(batch) for batch in track(batches, len(batches), "embedding sentences")])


def _embed_videos(
    paths: Iterable[Path], names: Sequence[str], encoder: VideoEncoder, sampling: FrameSampling, track: Track
) -> tuple[np.ndarray, dict[str, str]]:
    """Return one vector for each video, NaN for a failed one; and the error of each failed video by its name."""
    vectors = np.full((len(names), encoder.config.embed_dim), np.nan, np.float32)
    failed: dict[str, str] = {}
    batch: dict[int, list[Frame]] = {}  # by the index of the video

    def embed_batch() -> None:
        if batch:
            vectors[list(batch)] = encoder(list(batch.values()))
            batch.clear()

    for index, path in enumerate(track(paths, len(names), "embedding videos")):
        try:
            batch[index] = list(read_sampled(path, replace(sampling, segments="whole")))
        except Clip4clipError as error:
            failed[names[index]] = str(error)
        if len(batch) == VIDEO_BATCH_SIZE:
            embed_batch()
    embed_batch()
    return vectors, failed
