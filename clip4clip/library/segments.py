"""Cut a video into segments, each with a vector: shots, or windows of a fixed length.

Frame times and frame embeddings in, segments out. Frames are embedded once, whatever the cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import InputValueError
from ..runtime.normalize import l2_normalize
from ..runtime.tower import Head
from ..video.sampling import FrameSampling
from .shots import CutDetector

LONGEST = 30.0  # seconds of a segment of a shot, at most; a longer shot is divided evenly
MAX_OPEN = 120.0  # seconds of a shot that are kept; a longer shot is divided before its end is known
COLOUR_TOLERANCE = 16  # of a frame of one colour: largest difference of a channel from its mean, in levels
TIME_TOLERANCE = 0.0005  # seconds
MAX_OTHER_PIXELS = 1 / 1000  # share of the pixels of a frame of one colour that may differ more
MAX_OTHER_PIXELS_OF_FEW = 1 / 20  # the same, of one in 64 pixels


@dataclass(frozen=True, eq=False)
class Segment:
    """A segment of a video.

    Attributes:
        start: seconds, rounded to milliseconds.
        end: likewise.
        vector: (D,) float32, norm 1: the frame embeddings, pooled by the head.
        is_uniform: whether all of its frames have one colour.
    """

    start: float
    end: float
    vector: np.ndarray
    is_uniform: bool


def segment_id(video_id: str, start: float, end: float) -> str:
    """Return the id of a segment: that of its video with its time range in seconds, a W3C media fragment."""
    return f"{video_id}#t={_format_seconds(start)},{_format_seconds(end)}"


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def is_uniform(crop: np.ndarray) -> bool:
    """Return whether a frame has one colour, up to coding noise.

    Args:
        crop: uint8 RGB of shape (height, width, 3).
    """
    # A few pixels already show that most frames have several colours.
    return _has_one_colour(crop[::8, ::8], MAX_OTHER_PIXELS_OF_FEW) and _has_one_colour(crop, MAX_OTHER_PIXELS)


def _has_one_colour(pixels: np.ndarray, max_others: float) -> bool:
    difference = np.abs(pixels - pixels.mean((0, 1), dtype=np.float32))  # (height, width, 3)
    others = np.count_nonzero((difference > COLOUR_TOLERANCE).any(-1))
    return bool(others <= max_others * pixels.shape[0] * pixels.shape[1])


@dataclass(frozen=True, eq=False)
class _Frame:
    time: float
    embedding: np.ndarray  # (D,) float32
    is_uniform: bool


class Segmenter:
    """Cuts a video into segments, chunk by chunk. Its memory does not grow with the length of the video.

    Shots cover the video without gaps. Windows overlap by half; a window without any frame is left out.

    Args:
        sampling: how the video is cut, anything but ``'whole'``, and how far its frames are apart.
        head: pools the frame embeddings of a segment.

    Raises:
        InputValueError: ``sampling`` cuts nothing.
    """

    def __init__(self, sampling: FrameSampling, head: Head) -> None:
        if sampling.segments == "whole":
            raise InputValueError("segments='whole' cuts nothing: a segmenter needs 'shots', 'auto' or seconds")
        self._every = sampling.every
        self._head = head
        self._window = None if isinstance(sampling.segments, str) else float(sampling.segments)
        self._frames: list[_Frame] = []  # of the segments that are not complete
        self._detector: CutDetector | None = None  # from the first frame on
        self._first = self._last = -math.inf  # times of the first and of the last frame
        self._start = 0.0  # of the shot that is not complete, or of the first window
        self._window_count = 0  # windows that are complete or left out

    def add(self, times: np.ndarray, embeddings: np.ndarray, uniform: np.ndarray) -> list[Segment]:
        """Add the next frames.

        Args:
            times: display times in seconds, (T,), rising.
            embeddings: frame embeddings, (T, D) float32, not normalised.
            uniform: whether each frame has one colour, (T,) bool; see :func:`is_uniform`.

        Returns:
            The segments that are complete, in order.

        Raises:
            InputValueError: the arrays have different lengths or the times do not rise; or a segment has more frames
                than the head has positions for.
            CheckpointError: an embedding is zero or not finite.
        """
        if not len(times) == len(embeddings) == len(uniform):
            raise InputValueError(
                f"each frame needs a time, an embedding and whether it is uniform, but got {len(times)} times, "
                f"{len(embeddings)} embeddings and {len(uniform)} values of uniform"
            )
        segments: list[Segment] = []
        units, times = l2_normalize(embeddings), np.asarray(times, float)
        for time, embedding, unit, is_blank in zip(times.tolist(), embeddings, units, uniform.tolist(), strict=True):
            if not time > self._last:
                raise InputValueError(f"the times of frames must rise, but {time:g} s follows {self._last:g} s")
            if self._detector is None:
                self._first = self._start = time
                self._detector = CutDetector(time, self._every)
            self._last = time
            if self._window is not None:
                segments += self._close_windows(self._window, time)
            self._frames.append(_Frame(time, embedding, is_blank))
            if self._window is None:
                segments += self._close_shots(self._detector.add(time, unit, is_blank), self._detector.settled)
        return segments

    def finish(self, duration: float | None) -> list[Segment]:
        """Return the remaining segments.

        Args:
            duration: length of the video in seconds; None if it is unknown.

        Raises:
            InputValueError, CheckpointError: as for :meth:`add`.
        """
        if self._detector is None:
            return []
        end = self._first + (duration or 0.0)
        if end <= self._last:
            end = self._last + self._every
        if self._window is not None:
            return self._close_windows(self._window, end, is_end=True)
        return self._close_shots([*self._detector.finish(end), end], end)

    def _close_shots(self, cuts: list[float], settled: float) -> list[Segment]:
        """Return the segments of the shots that end at the cuts, and the first ones of a very long shot.

        Args:
            cuts: ends of shots in seconds.
            settled: time up to which all cuts are known.
        """
        segments = [segment for cut in cuts for segment in self._close_shot(cut)]
        while settled - self._start > MAX_OPEN and self._frames[0].time < settled:
            end = max(self._start + LONGEST, min(self._frames[0].time + self._every / 2, settled))
            segments += self._close_shot(end)
        return segments

    def _close_shot(self, end: float) -> list[Segment]:
        """End the open shot, and return its segments."""
        segments = []
        start, count = self._start, math.ceil(round((end - self._start) / LONGEST, 6))
        for number in range(1, count + 1):
            limit = start + (end - start) * number / count
            if number == count or not any(limit <= frame.time < end for frame in self._frames):
                limit = end  # even if the end is far away, because the file states a wrong duration
            frames = [frame for frame in self._frames if frame.time < limit]
            # Where frames are far apart, a part without any is joined to another.
            if frames:
                segments.append(self._segment(self._start, limit, frames))
                self._start, self._frames = limit, self._frames[len(frames) :]
            if limit == end:
                break
        return segments

    def _close_windows(self, length: float, time: float, is_end: bool = False) -> list[Segment]:
        """Return the segments of the windows that end at or before a time; at the end, also of the last one.

        Args:
            length: of a window, in seconds.
            time: in seconds. All frames before it are known.
            is_end: whether the video ends at this time.
        """
        segments = []
        while self._frames:
            # Windows without a frame are left out.
            first_with_frame = math.floor((self._frames[0].time - self._start - length) / (length / 2)) + 1
            self._window_count = max(self._window_count, first_with_frame)
            start = self._start + self._window_count * length / 2
            end = start + length
            is_last = is_end and end > time - TIME_TOLERANCE
            if end > time and not is_last:
                break
            end = min(end, time)
            segments.append(self._segment(start, end, [frame for frame in self._frames if frame.time < end]))
            self._window_count += 1
            self._frames = [frame for frame in self._frames if frame.time >= start + length / 2 and not is_last]
        return segments

    def _segment(self, start: float, end: float, frames: list[_Frame]) -> Segment:
        """Pool the frames of a segment. Frames of one colour count only if there are no others."""
        pooled = [frame for frame in frames if not frame.is_uniform] or frames
        state = self._head(np.stack([frame.embedding for frame in pooled]), None)
        vector = l2_normalize(self._head.pool(state)[None])[0].astype(np.float32)
        return Segment(round(start, 3), round(end, 3), vector, all(frame.is_uniform for frame in frames))
