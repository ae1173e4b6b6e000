"""Evaluate the retrieval of moments: find, for each sentence, when it happens, in its video and in all videos."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..encoder import TextEncoder
from ..errors import InputValueError
from ..progress import Track, no_progress
from .evaluate import DECIMALS, embed_sentences
from .moment_metrics import MAP_PREDICTIONS, MomentMetrics, best_moments, moment_ious
from .moment_tables import MomentQuery

IOU_THRESHOLDS = (0.5, 0.7)
SCORE_BATCH_SIZE = 256  # sentences compared with all segments at once


@dataclass(frozen=True)
class Prediction:
    """A segment that a query has found.

    Attributes:
        video: name of its video.
        start: in seconds.
        end: in seconds.
        score: cosine similarity to the sentence.
        ious: (M,) float64, IoU with each true moment of the query; 0 in another video.
    """

    video: str
    start: float
    end: float
    score: float
    ious: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes by their names, ready for JSON; as ``iou`` only the highest IoU."""
        window = {"video": self.video, "start": self.start, "end": self.end}
        return {**window, "score": self.score, "iou": float(self.ious.max())}


@dataclass(frozen=True)
class QueryResult:
    """What a query has found.

    Attributes:
        query: the query.
        best_iou: highest IoU of any segment of the video with a true moment: what a perfect ranking would reach.
        within_video: its best segments in its video, at most 10, the best first; none overlaps a better one.
        all_videos: the same, from all videos.
    """

    query: MomentQuery
    best_iou: float
    within_video: list[Prediction]
    all_videos: list[Prediction]

    def to_dict(self) -> dict[str, Any]:
        """Return the result with the ranks of the first right predictions, ready for JSON."""
        found = {"within_video": self.within_video, "all_videos": self.all_videos}
        return {
            "video": self.query.video,
            "sentence": self.query.sentence,
            "windows": self.query.windows,
            "best_iou": self.best_iou,
            **{
                name: {
                    "rank": {f"iou_{threshold}": _rank(predictions, threshold) for threshold in IOU_THRESHOLDS},
                    "predictions": [prediction.to_dict() for prediction in predictions],
                }
                for name, predictions in found.items()
            },
        }


@dataclass(frozen=True)
class MomentEvaluation:
    """The result of :func:`evaluate_moments`.

    Attributes:
        within_video: metrics where a query is searched for in its own video only.
        all_videos: metrics where it is searched for in all videos; a prediction in another video is wrong.
        reachable: by the IoU, 0.5 and 0.7: percentage of the queries for which some segment of the video reaches it. No
            ranking of these segments can have a higher recall.
        videos: number of different videos, failed ones included.
        segments: number of segments that were compared with the sentences.
        uncut: number of videos that were not cut into segments.
        failed: error of each video without a vector, by the name of the video.
        results: what each query has found.
    """

    within_video: MomentMetrics
    all_videos: MomentMetrics
    reachable: dict[float, float]
    videos: int
    segments: int
    uncut: int
    failed: dict[str, str]
    results: list[QueryResult]

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "sentences": len(self.results),
            "videos": self.videos,
            "segments": self.segments,
            "uncut": self.uncut,
            "within_video": self.within_video.to_dict(),
            "all_videos": self.all_videos.to_dict(),
            "reachable": {f"iou_{threshold}": value for threshold, value in self.reachable.items()},
            "failed": self.failed,
            "results": [result.to_dict() for result in self.results],
        }


def evaluate_moments(
    queries: Sequence[MomentQuery],
    rows: Iterable[Mapping[str, Any]],
    text_encoder: TextEncoder,
    track: Track = no_progress,
) -> MomentEvaluation:
    """Rank the segments of videos for each sentence, and compare the best ones with the true moments.

    A video without a vector is a miss for each of its sentences; it is never left out. True windows that go beyond the
    end of a video end with it. Segments with equal similarity are ranked in a random order, which is always the same:
    a model that gives the same vector to everything is as good as chance.

    Args:
        queries: from :func:`clip4clip.evaluation.moment_tables.read_moments`.
        rows: rows of the table that :func:`clip4clip.library.embed.embed_library` writes from the videos of the
            queries: ``path``, ``start`` and ``end`` in seconds (None for the whole video), ``duration``, ``vector`` and
            ``error``. Rows of other videos are ignored.
        text_encoder: text encoder of the model that computed the vectors.
        track: progress callback; see :data:`clip4clip.progress.Track`.

    Raises:
        InputValueError: ``queries`` is empty.
    """
    if not queries:
        raise InputValueError("there are no moments to evaluate: queries must not be empty")
    names: dict[str, str] = {}
    for query in queries:
        names.setdefault(_path_key(query), query.video)
    segments = _Segments.of(rows, names)
    results = list(_search(queries, segments, text_encoder, track))
    return MomentEvaluation(
        within_video=MomentMetrics.of([_ious(result.within_video) for result in results]),
        all_videos=MomentMetrics.of([_ious(result.all_videos) for result in results]),
        reachable={
            threshold: 100 * float(np.mean([result.best_iou >= threshold for result in results]))
            for threshold in IOU_THRESHOLDS
        },
        videos=len(names),
        segments=len(segments.videos),
        uncut=segments.uncut,
        failed=segments.failed,
        results=results,
    )


@dataclass(frozen=True)
class _Segments:
    """All segments that queries are compared with, in a random order.

    Attributes:
        names: name of each video.
        number_of: number of each video by its path, as a row writes it.
        durations: (videos,) float64, seconds; infinity if unknown.
        videos: (S,) int64, number of the video of each segment.
        windows: (S, 2) float64, start and end in seconds.
        vectors: (S, D) float32; (0, 0) without segments.
        uncut: number of segments that are a whole video.
        failed: error of each video without a segment, by its name.
    """

    names: list[str]
    number_of: dict[str, int]
    durations: np.ndarray
    videos: np.ndarray
    windows: np.ndarray
    vectors: np.ndarray
    uncut: int
    failed: dict[str, str]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> _Segments:
        """Return the segments of rows.

        Args:
            rows: rows of the table of vectors.
            names: name of each video by its path.
        """
        number_of = {path: number for number, path in enumerate(names)}
        durations = np.full(len(names), np.inf)
        errors = dict.fromkeys(names.values(), "it is not in the table of vectors")
        videos: list[int] = []
        windows: list[tuple[float, float]] = []
        vectors: list[np.ndarray] = []
        uncut = 0
        for row in rows:
            number = number_of.get(row["path"])
            if number is None:
                continue
            durations[number] = row["duration"] or np.inf
            if row["vector"] is not None:
                videos.append(number)
                is_whole = row["start"] is None
                uncut += is_whole
                windows.append((0.0, row["duration"] or 0.0) if is_whole else (row["start"], row["end"]))
                vectors.append(row["vector"])
            elif row["error"]:
                errors[names[row["path"]]] = row["error"]
        order = np.random.default_rng(0).permutation(len(videos))
        embedded = set(videos)
        return cls(
            names=list(names.values()),
            number_of=number_of,
            durations=durations,
            videos=np.array(videos, np.int64)[order],
            windows=np.array(windows, np.float64).reshape(-1, 2)[order],
            vectors=np.array(vectors, np.float32)[order] if vectors else np.zeros((0, 0), np.float32),
            uncut=uncut,
            failed={name: errors[name] for number, name in enumerate(names.values()) if number not in embedded},
        )

    def true_windows(self, query: MomentQuery) -> np.ndarray:
        """Return the windows of a query, (W, 2), cut at the end of its video."""
        windows = np.array(query.windows, np.float64)
        duration = self.durations[self.number_of[_path_key(query)]]
        starts_in_video = windows[:, 0] < duration
        windows[starts_in_video, 1] = np.minimum(windows[starts_in_video, 1], duration)
        return windows


def _search(
    queries: Sequence[MomentQuery], segments: _Segments, text_encoder: TextEncoder, track: Track
) -> Iterator[QueryResult]:
    """Yield what each query finds."""
    sentences = list(dict.fromkeys(query.sentence for query in queries))
    row_of = {sentence: row for row, sentence in enumerate(sentences)}
    text_vectors = embed_sentences(sentences, text_encoder, track)
    by_video = np.argsort(segments.videos, kind="stable")
    starts = np.searchsorted(segments.videos[by_video], np.arange(len(segments.names) + 1))
    scores = np.zeros((0, 0))
    for position, query in enumerate(track(queries, len(queries), "searching")):
        if position % SCORE_BATCH_SIZE == 0:
            batch = queries[position : position + SCORE_BATCH_SIZE]
            scores = _similarity(text_vectors[[row_of[each.sentence] for each in batch]], segments.vectors)
        number = segments.number_of[_path_key(query)]
        own = by_video[starts[number] : starts[number + 1]]
        yield _result(query, segments, scores[position % SCORE_BATCH_SIZE], own)


def _similarity(texts: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    if not len(vectors):
        return np.zeros((len(texts), 0))
    return np.round(texts.astype(np.float64) @ vectors.T.astype(np.float64), DECIMALS)


def _result(query: MomentQuery, segments: _Segments, scores: np.ndarray, own: np.ndarray) -> QueryResult:
    """Return what a query finds.

    Args:
        query: the query.
        segments: all segments.
        scores: (S,), similarity of each segment to the sentence.
        own: indices of the segments of the video of the query.
    """
    videos, windows = segments.videos, segments.windows
    own_ious = moment_ious(windows[own], segments.true_windows(query), query.agreement)
    ious_of = dict(zip(own.tolist(), own_ious, strict=True))
    no_ious = np.zeros(own_ious.shape[1])

    def predict(moments: Iterable[int]) -> list[Prediction]:
        return [
            Prediction(
                video=segments.names[videos[moment]],
                start=float(windows[moment, 0]),
                end=float(windows[moment, 1]),
                score=float(scores[moment]),
                ious=ious_of.get(moment, no_ious),
            )
            for moment in moments
        ]

    within_video = own[best_moments(scores[own], videos[own], windows[own], MAP_PREDICTIONS)].tolist()
    all_videos = best_moments(scores, videos, windows, MAP_PREDICTIONS)
    return QueryResult(query, float(own_ious.max(initial=0)), predict(within_video), predict(all_videos))


def _ious(predictions: Sequence[Prediction]) -> np.ndarray:
    """Return the IoUs of predictions, (P, M); (0, 1) without predictions."""
    return np.array([prediction.ious for prediction in predictions]) if predictions else np.zeros((0, 1))


def _rank(predictions: Sequence[Prediction], threshold: float) -> int | None:
    """Return the rank of the first right prediction, 1 for the best; None if there is none."""
    ranks = (rank for rank, prediction in enumerate(predictions, 1) if prediction.ious.max() >= threshold)
    return next(ranks, None)


def _path_key(query: MomentQuery) -> str:
    """Return the path of a video as a row of a table writes it: bytes that are not UTF-8 are replaced."""
    return os.fspath(query.path).encode(errors="surrogateescape").decode(errors="replace")
