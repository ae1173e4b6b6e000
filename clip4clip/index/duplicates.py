"""Find videos of a library that are the same, or contain each other, from their vectors and times only.

Vectors and times in, groups out: nothing is decoded. Three kinds of pairs are compared:

- two videos that are not cut: by their vectors;
- a video that is not cut, and one that is: the vector of the first is compared with what it would be if it had been cut
  out of the second one, at each time (:class:`~clip4clip.index.timelines.Timeline`);
- two videos that are cut: segments that match and follow each other in the same order at the same distances give a
  straight line between the times of both, along which the other segments are compared.

One match of vectors says little, several in a row say much: a match of ``n`` different scenes may be ``n`` squared
times as far, up to ten times. Scenes that recur in their own video, or show the same for more than a minute, do not
count. So a still camera or a slide, of which many segments match many others, matches nothing by itself.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import InputValueError
from ..progress import Track, no_progress
from .copies import LENGTH_TOLERANCE, MIN_COSINE, lengths_agree
from .timelines import Library, Timeline, VideoFile

ROW_FIELDS = ("video", "path", "start", "end", "duration", "size", "uniform", "vector")  # of a row that are used
TILE = 2048  # vectors that are compared with as many others at once: 16 MB
MAX_COPIES = 20  # a vector that is like those of more videos shows a usual view, such as that of a fixed camera
MAX_ALIKE = 100  # a segment that is like more others than this tells nothing about where it is from
LONGEST_STILL = 60.0  # seconds; what shows the same for longer is a still view, which may be in many videos
MAX_EVIDENCE = 10.0  # largest factor between the distance allowed for several segments and that for one
MIN_COVERED = 0.5  # share of the shorter video that has to match
EQUAL = 1e-4  # largest difference of the cosine of equal vectors from 1
WINDOW_STEP = 1 / 8  # distance of the places that are tried for a clip, as a share of its length
MAX_PLACES = 64  # places of a clip in one video that are looked at closely
FINE_STEP = 0.25  # seconds between those that are tried near a good one
SEED_DISTANCE = 4.0  # largest distance of segments that lines are drawn through, as a multiple of that for one
TIME_TOLERANCE = 1.5  # seconds by which the times of matching segments may be off the line
MIN_RATE, MAX_RATE = 0.9, 1.1  # speed of a copy
MIN_SPAN = 10.0  # seconds between two matches that tell the speed
MAX_SEEDS = 48  # matches of two videos that lines are drawn through
MAX_LINES = 8  # parts that a video may be cut into
MAX_OUTSIDE = 0.2  # share of a segment that may be before the beginning or after the end of the other video


@dataclass(frozen=True)
class MatchedTimes:
    """Times at which two videos show the same, in seconds; None in a video that is not cut, where they are unknown.

    Attributes:
        start: start in the copy.
        end: its end.
        kept_start: start in the video to keep.
        kept_end: its end.
    """

    start: float | None
    end: float | None
    kept_start: float | None
    kept_end: float | None


@dataclass(frozen=True)
class Duplicate:
    """A video that shows the same as the video to keep, or a part of it.

    Attributes:
        video: the video.
        is_part: whether it is shorter than the video to keep, by more than a second and a tenth.
        score: mean cosine of the vectors that match.
        covered: share of its time that matches, of at most 1.
        times: what matches, in order; at least one.
    """

    video: VideoFile
    is_part: bool
    score: float
    covered: float
    times: tuple[MatchedTimes, ...]


@dataclass(frozen=True)
class DuplicateGroup:
    """A video to keep, and others that show the same or a part of it.

    Attributes:
        kept: the longest of them, in whole seconds; of these the largest file; of these the first by its path.
        duplicates: the others, in the same order; at least one.
    """

    kept: VideoFile
    duplicates: tuple[Duplicate, ...]


@dataclass(frozen=True)
class DuplicateReport:
    """What was found in a library.

    Attributes:
        groups: the groups, in the order of the videos to keep. No video is in two of them.
        videos: number of videos that were compared.
        usual_views: number of videos, each of one vector, that look like more than ``MAX_COPIES`` others, as those of a
            fixed camera do. Of these, only equal files are found.
        usual_cuts: number of videos that are cut, of which at least half of the segments look like more than
            ``MAX_ALIKE`` others each, such as those of over a hundred copies of one video. Copies of these are missed,
            except for equal files.
    """

    groups: tuple[DuplicateGroup, ...]
    videos: int
    usual_views: int
    usual_cuts: int


@dataclass(frozen=True)
class _Pair:
    """A match of two videos, by their numbers; ``short`` is the shorter one."""

    short: int
    long: int
    score: float
    covered: float
    times: tuple[tuple[float, float, float, float], ...]  # start and end in ``short`` and in ``long``; NaN if unknown


def find_duplicates(
    rows: Iterable[Mapping[str, Any]], threshold: float = MIN_COSINE, track: Track = no_progress
) -> DuplicateReport:
    """Find videos that are the same or contain each other.

    Memory is that of the vectors, and of a few arrays with ``TILE`` numbers for each segment of one video: more than
    1 GB for a video of 20,000 segments. Time grows with the square of the number of vectors.

    Args:
        rows: rows of a table, from :func:`clip4clip.library.table.read_rows`, or others with the same keys. Rows
            without a vector, and those of one colour, match nothing.
        threshold: smallest cosine of two vectors that show the same, above 0 and below 1. It holds for one pair of
            vectors. If several different segments match in a row, less is enough.
        track: progress callback; see :data:`clip4clip.progress.Track`.

    Raises:
        InputValueError: ``threshold`` is out of range.
    """
    if not 0 < threshold < 1:
        raise InputValueError(f"threshold must be above 0 and below 1, not {threshold}")
    return _Finder(Library.from_rows(rows), 1 - threshold, track).report()


class _Finder:
    """The search for duplicates in a library.

    Args:
        library: the videos.
        distance: largest distance of two vectors that show the same, 1 - cosine.
        track: progress callback.
    """

    def __init__(self, library: Library, distance: float, track: Track) -> None:
        self._library, self._distance, self._track = library, distance, track
        self._usual_views = self._usual_cuts = 0
        self._scenes: dict[int, np.ndarray] = {}  # of the segments of each video that is cut

    def report(self) -> DuplicateReport:
        library = self._library
        equal = [*_equal_files(library)]
        remaining = np.ones(len(library.videos), bool)
        remaining[[pair.short for pair in equal]] = False
        numbers = np.flatnonzero(remaining)
        whole, cut = numbers[~library.is_cut[numbers]], numbers[library.is_cut[numbers]]
        self._scenes = {number: self._find_scenes(number) for number in cut.tolist()}
        pairs = [*self._whole_pairs(whole), *self._clips_in_videos(whole, cut), *self._cut_pairs(cut)]
        groups = _group(library, _with_equal(pairs, equal))
        return DuplicateReport(groups, len(library.videos), self._usual_views, self._usual_cuts)

    def _find_scenes(self, video: int) -> np.ndarray:
        """Return the number of the scene of each segment of a video, int64 of shape (n,); -1 if it does not count.

        Successive segments that look alike are one scene. Those of a scene that recurs, or lasts long, do not count.
        """
        rows = self._library.rows(video)
        starts, ends, vectors = self._library.starts[rows], self._library.ends[rows], self._library.vectors[rows]
        is_next_alike = np.einsum("ij,ij->i", vectors[:-1], vectors[1:]) >= 1 - self._distance
        scenes = np.concatenate([[0], np.cumsum(~is_next_alike)])
        counts = np.empty(len(vectors), bool)
        for start in range(0, len(vectors), TILE):
            part = slice(start, start + TILE)
            is_alike = vectors[part] @ vectors.T >= 1 - self._distance
            is_apart = (starts[part, None] >= ends - 1e-3) | (starts >= ends[part, None] - 1e-3)
            counts[part] = ~(is_alike & is_apart & (scenes[part, None] != scenes)).any(1)
        first, last = np.searchsorted(scenes, scenes), np.searchsorted(scenes, scenes, side="right") - 1
        counts &= ends[last] - starts[first] <= LONGEST_STILL
        return np.where(counts, scenes, -1)

    def _allowed(self, shares: np.ndarray, scenes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the largest distances of matches, and how many seconds of each count.

        Args:
            shares: seconds of each segment in each match, (m, n).
            scenes: scenes of the segments, from :meth:`_find_scenes`.

        Returns:
            Distances and seconds, each of shape (m,).
        """
        is_counted = scenes >= 0
        firsts = np.flatnonzero(np.diff(scenes[is_counted], prepend=-1))  # the scenes are in order
        if not len(firsts):
            return np.zeros(len(shares)), np.zeros(len(shares))
        seconds = np.add.reduceat(shares[:, is_counted], firsts, axis=1)  # (m, number of scenes)
        total, squares = seconds.sum(1), (seconds**2).sum(1)
        different = np.divide(total**2, squares, out=np.zeros_like(total), where=squares > 0)
        return self._distance * np.minimum(different**2, MAX_EVIDENCE), total

    # Videos that are not cut

    def _whole_pairs(self, whole: np.ndarray) -> Iterator[_Pair]:
        library = self._library
        rows = library.first[whole]
        pairs, is_common = self._similar(rows, self._distance, MAX_COPIES, "comparing videos")
        self._usual_views = int(is_common.sum())
        for first, second, score in pairs:
            numbers = sorted((int(whole[first]), int(whole[second])), key=lambda number: library.durations[number])
            short, long = library.durations[numbers]
            if lengths_agree(short, long) or short >= MIN_COVERED * long:
                yield _Pair(numbers[0], numbers[1], score, 1.0, ((math.nan,) * 4,))

    def _similar(
        self, rows: np.ndarray, distance: float, limit: int, title: str
    ) -> tuple[list[tuple[int, int, float]], np.ndarray]:
        """Return the pairs of similar segments of different videos, without common ones, and which ones are common.

        Common are those that are similar to more than ``limit`` others.

        Args:
            rows: numbers of the segments, rising, int64 of shape (m,).
            distance: largest distance of a pair.
            limit: largest number of similar segments.
            title: description for the progress bar.

        Returns:
            Positions in ``rows`` and cosine of each pair; and bool of shape (m,).
        """
        library = self._library
        owners = library.owners[rows]
        counts = np.zeros(len(rows), np.int64)
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        starts = range(0, len(rows), TILE)
        tiles = [(top, left) for top in starts for left in starts if left >= top]
        block, block_top = np.empty((0, 0), np.float32), -1
        for top, left in self._track(tiles, len(tiles), title):
            if top != block_top:
                block, block_top = library.vectors[rows[top : top + TILE]], top
            cosines = block @ library.vectors[rows[left : left + TILE]].T
            first, second = np.nonzero(cosines >= 1 - distance)
            scores = cosines[first, second]
            first, second = first + top, second + left
            kept = (first < second) & (owners[first] != owners[second])
            first, second, scores = first[kept], second[kept], scores[kept]
            counts += np.bincount(first, minlength=len(rows)) + np.bincount(second, minlength=len(rows))
            kept = (counts[first] <= limit) & (counts[second] <= limit)  # so there are never many pairs
            found.append((first[kept], second[kept], scores[kept]))
        is_common = counts > limit
        every = (pair for arrays in found for pair in zip(*(array.tolist() for array in arrays), strict=True))
        return [pair for pair in every if not is_common[pair[0]] and not is_common[pair[1]]], is_common

    # Clips in videos that are cut

    def _clips_in_videos(self, whole: np.ndarray, cut: np.ndarray) -> Iterator[_Pair]:
        durations = self._library.durations[whole]
        clips, durations = whole[durations > 0], durations[durations > 0]
        buckets = np.round(np.log(np.maximum(durations, 1e-3)) / math.log(1.1)).astype(int)
        sizes = [(clips[buckets == bucket], 1.1 ** float(bucket)) for bucket in np.unique(buckets).tolist()]
        if not len(clips):
            return
        for number in self._track(cut.tolist(), len(cut), "looking for clips"):
            timeline, scenes = self._library.timeline(number), self._scenes[number]
            for members, length in sizes:
                for clip, times in self._candidate_times(timeline, scenes, members, length):
                    yield from self._clip_at(clip, number, timeline, scenes, times)

    def _candidate_times(
        self, timeline: Timeline, scenes: np.ndarray, clips: np.ndarray, length: float
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield clips of about one length that a video may contain, with the times in seconds where they may begin."""
        begin, end = timeline.range
        if length > end - begin + LENGTH_TOLERANCE:
            return
        step = max(WINDOW_STEP * length, FINE_STEP)
        starts = np.arange(begin, max(end - length, begin) + step, step)
        near: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)  # heaps of cosines and starts, by clip
        for top, left in itertools.product(range(0, len(starts), TILE), range(0, len(clips), TILE)):
            part, members = starts[top : top + TILE], clips[left : left + TILE]
            counted = timeline.shares(part, part + length)[:, scenes >= 0].sum(1) > MIN_COVERED * length
            windows = timeline.pool(part[counted], part[counted] + length)
            cosines = windows @ self._library.vectors[self._library.first[members]].T
            for window, clip in np.argwhere(cosines >= 1 - self._distance * MAX_EVIDENCE).tolist():
                places = near[int(members[clip])]
                push = heapq.heappush if len(places) < MAX_PLACES else heapq.heappushpop
                push(places, (float(cosines[window, clip]), float(part[counted][window])))
        for clip, places in near.items():
            best = np.array([start for _, start in places])
            fine = (best[:, None] + np.arange(-step, step, FINE_STEP)).clip(begin)
            yield clip, np.unique(np.round(fine / FINE_STEP)) * FINE_STEP

    def _clip_at(
        self, clip: int, video: int, timeline: Timeline, scenes: np.ndarray, starts: np.ndarray
    ) -> Iterator[_Pair]:
        """Yield the best place of a clip in a video, if it is good enough."""
        length = float(self._library.durations[clip])
        ends = starts + length
        cosines = timeline.pool(starts, ends) @ self._library.vectors[self._library.first[clip]]
        allowed, seconds = self._allowed(timeline.shares(starts, ends), scenes)
        counted = seconds > MIN_COVERED * length
        ratios = np.divide(1 - cosines, allowed, out=np.full(len(starts), np.inf), where=counted)
        best = int(ratios.argmin())
        if ratios[best] <= 1:
            begin, end = timeline.range
            times = (0.0, length, max(float(starts[best]), begin), min(float(ends[best]), end))
            yield _Pair(clip, video, float(cosines[best]), 1.0, (times,))

    # Videos that are cut

    def _cut_pairs(self, cut: np.ndarray) -> Iterator[_Pair]:
        library = self._library
        rows = [np.arange(library.first[n], library.first[n + 1])[self._scenes[n] >= 0] for n in cut.tolist()]
        segments = np.concatenate(rows) if rows else np.empty(0, np.int64)
        seeds: defaultdict[tuple[int, int], list[tuple[int, int, float]]] = defaultdict(list)
        similar, is_common = self._similar(segments, SEED_DISTANCE * self._distance, MAX_ALIKE, "comparing moments")
        counts = np.bincount(library.owners[segments])
        common = np.bincount(library.owners[segments[is_common]], minlength=len(counts))
        self._usual_cuts = int(((common > 0) & (common >= MIN_COVERED * counts)).sum())
        for first, second, score in similar:
            one, other = int(segments[first]), int(segments[second])
            if library.durations[library.owners[one]] > library.durations[library.owners[other]]:
                one, other = other, one
            seeds[int(library.owners[one]), int(library.owners[other])].append((one, other, score))
        for (short, long), matches in self._track(seeds.items(), len(seeds), "aligning videos"):
            pair = self._align(short, long, matches)
            if pair is not None:
                yield pair

    def _align(self, short: int, long: int, seeds: Sequence[tuple[int, int, float]]) -> _Pair | None:
        """Return how one video that is cut matches another one; None if it does not."""
        library = self._library
        timeline, other = library.timeline(short), library.timeline(long)
        lengths = timeline.ends - timeline.starts
        best = np.array(sorted(seeds, key=lambda seed: -seed[2])[:MAX_SEEDS])[:, :2].astype(np.int64)
        matched = np.zeros(len(lengths), bool)
        cosines = np.zeros(len(lengths))
        times: list[tuple[float, float, float, float]] = []
        for _ in range(MAX_LINES):
            best = best[~matched[best[:, 0] - library.first[short]]]
            if not len(best):
                break
            rate, offset = _line(library, best)
            along = self._along(timeline, other, rate, offset)
            is_new = (along >= 1 - self._distance * MAX_EVIDENCE) & ~matched
            if not is_new.any():
                break
            matched |= is_new
            cosines[is_new] = along[is_new]
            times += _ranges(timeline, is_new, rate, offset, other.range)
        covered = float((lengths * matched).sum() / lengths.sum())
        if covered < MIN_COVERED:
            return None
        score = float((cosines * lengths * matched).sum() / (lengths * matched).sum())
        if 1 - score > self._allowed((lengths * matched)[None], self._scenes[short])[0][0]:
            return None
        return _Pair(short, long, score, covered, tuple(sorted(times)))

    def _along(self, timeline: Timeline, other: Timeline, rate: float, offset: float) -> np.ndarray:
        """Return the cosine of each segment to the other video at the time that a line maps it to; -1 outside."""
        starts, ends = rate * timeline.starts + offset, rate * timeline.ends + offset
        cosines = np.einsum("ij,ij->i", timeline.vectors, other.pool(starts, ends))
        inside = np.minimum(ends, other.range[1]) - np.maximum(starts, other.range[0])
        return np.where(inside >= (1 - MAX_OUTSIDE) * (ends - starts), cosines, -1.0)


def _line(library: Library, seeds: np.ndarray) -> tuple[float, float]:
    """Return the rate and the offset of the line between the times of two videos that most matches are on.

    Args:
        library: the videos.
        seeds: numbers of the segments that match, int64 of shape (m, 2).

    Returns:
        Time in the second video = rate * time in the first one + offset, in seconds.
    """
    lengths = library.ends[seeds[:, 0]] - library.starts[seeds[:, 0]]
    points = np.concatenate([library.starts[seeds], library.ends[seeds]])  # (2 m, 2)
    one, other = np.triu_indices(len(points), 1)
    spans = points[other] - points[one]
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = spans[:, 1] / spans[:, 0]
    usable = (np.abs(spans[:, 0]) >= MIN_SPAN) & (rates >= MIN_RATE) & (rates <= MAX_RATE)
    slopes = np.concatenate([np.ones(len(points)), rates[usable]])
    through = np.concatenate([points, points[one[usable]]])
    offsets = through[:, 1] - slopes * through[:, 0]
    residuals = np.abs(slopes[:, None] * points[:, 0] + offsets[:, None] - points[:, 1])
    nearest = np.minimum(residuals[:, : len(seeds)], residuals[:, len(seeds) :])  # (lines, m)
    scores = ((nearest <= TIME_TOLERANCE) * (1 - nearest / (2 * TIME_TOLERANCE)) * lengths).sum(1)
    best = int(scores.argmax())  # of equal ones the first, at the same speed
    return float(slopes[best]), float(offsets[best])


def _ranges(
    timeline: Timeline, matched: np.ndarray, rate: float, offset: float, limits: tuple[float, float]
) -> Iterator[tuple[float, float, float, float]]:
    """Yield the ranges of successive segments that match along a line: start and end in both videos, in seconds."""
    for is_match, positions in itertools.groupby(range(len(matched)), key=lambda position: bool(matched[position])):
        if is_match:
            run = [*positions]
            start, end = float(timeline.starts[run[0]]), float(timeline.ends[run[-1]])
            yield start, end, max(rate * start + offset, limits[0]), min(rate * end + offset, limits[1])


def _equal_files(library: Library) -> Iterator[_Pair]:
    """Yield the videos with the same size, the same times and the same vectors as one that comes before them."""
    alike: defaultdict[tuple[int, int, float], list[int]] = defaultdict(list)
    for number in sorted(range(len(library.videos)), key=lambda number: _order(library.videos[number])):
        video, rows = library.videos[number], library.rows(number)
        if video.size is None:
            continue
        others = alike[video.size, rows.stop - rows.start, round(_seconds_or_zero(video.duration), 3)]
        equal = next((other for other in others if _has_equal_rows(library, rows, library.rows(other))), None)
        if equal is None:
            others.append(number)
        else:
            span = float(library.starts[rows][0]), float(library.ends[rows][-1])
            yield _Pair(number, equal, 1.0, 1.0, ((*span, *span),))


def _with_equal(pairs: Iterable[_Pair], equal: Iterable[_Pair]) -> Iterator[_Pair]:
    """Yield pairs, and those that equal files make of them."""
    copies: defaultdict[int, list[int]] = defaultdict(list)
    for pair in equal:
        copies[pair.long].append(pair.short)
        yield pair
    for pair in pairs:
        yield pair
        for copy in copies[pair.short]:
            yield replace(pair, short=copy)
        for copy in copies[pair.long]:
            yield replace(pair, long=copy)


def _has_equal_rows(library: Library, rows: slice, others: slice) -> bool:
    times = np.stack([library.starts, library.ends])
    return bool(
        np.allclose(times[:, rows], times[:, others], atol=2e-3, equal_nan=True)
        and (np.einsum("ij,ij->i", library.vectors[rows], library.vectors[others]) >= 1 - EQUAL).all()
    )


def _seconds_or_zero(seconds: float | None) -> float:
    return 0.0 if seconds is None else seconds


def _order(video: VideoFile) -> tuple[int, int, str, str]:
    """Return the key by which the video to keep comes first."""
    return -round(_seconds_or_zero(video.duration)), -(video.size or 0), video.path, str(video.id)


def _group(library: Library, pairs: Iterable[_Pair]) -> tuple[DuplicateGroup, ...]:
    """Put each video to the one that it matches best, of those to keep. A match is not passed on to a third video."""
    matches: defaultdict[int, dict[int, _Pair]] = defaultdict(dict)
    for pair in pairs:
        matches[pair.short][pair.long] = matches[pair.long][pair.short] = pair
    ranks = {number: rank for rank, number in enumerate(sorted(matches, key=lambda n: _order(library.videos[n])))}
    groups: dict[int, list[Duplicate]] = {}
    for number in ranks:
        found = [other for other in matches[number] if other in groups]
        kept = max(found, key=lambda other: (matches[number][other].score, -ranks[other]), default=None)
        if kept is None:
            groups[number] = []
        else:
            groups[kept].append(_to_duplicate(library, number, kept, matches[number][kept]))
    return tuple(
        DuplicateGroup(library.videos[kept], tuple(duplicates)) for kept, duplicates in groups.items() if duplicates
    )


def _to_duplicate(library: Library, number: int, kept: int, pair: _Pair) -> Duplicate:
    times = []
    for start, end, long_start, long_end in pair.times:
        ranges = (start, end, long_start, long_end) if pair.short == number else (long_start, long_end, start, end)
        times.append(MatchedTimes(*(None if math.isnan(seconds) else round(seconds, 3) for seconds in ranges)))
    is_part = not lengths_agree(library.durations[number], library.durations[kept])
    return Duplicate(library.videos[number], is_part, round(pair.score, 4), round(pair.covered, 4), tuple(times))
