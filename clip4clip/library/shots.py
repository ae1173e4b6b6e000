"""Find the cuts of a video: the times at which its content changes.

The change at a point between two frames is the distance between the mean embeddings of several frames before and after
it. One of them is left out, the one without which the distance is the least: so one odd frame changes nothing. A cut is
where the change is the largest within the shortest shot, and large for this part of the video. Frames of one colour say
nothing about the content: a stretch of them is a shot of its own if it is long enough, and is ignored otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHORTEST = 2.0  # seconds of a shot, at least
MIN_FRAMES = 2  # of a shot: one odd frame is none
CONTEXT = 60.0  # seconds on either side of a point that a change is compared with
# The least change at a cut. All were chosen on drawn videos of training scenes.
MIN_CHANGE = 0.1  # cosine distance, 0 to 2
MIN_SHARE = 0.15  # of the largest change in the context
MIN_CONTRAST = 2.0  # times the median change in the context
# Where a cut lies between two frames, from 0 to 1: in the middle, as it can be anywhere. But a frame off the steps is a
# key frame, and encoders like to begin a scene with one.
MIDDLE, NEAR_KEY_FRAME = 0.5, 0.75
STEP_TOLERANCE = 0.1  # of a step


@dataclass(frozen=True, eq=False)
class _Frame:
    """A frame that is not of one colour.

    Attributes:
        time: seconds.
        cut: time of a cut, if there is one between this frame and the one before.
        embedding: (D,) float32, norm 1.
    """

    time: float
    cut: float
    embedding: np.ndarray


class CutDetector:
    """Finds the cuts of a video, frame by frame. Its memory does not grow with the length of the video.

    Args:
        start: time of the first frame in seconds.
        every: seconds between frames.

    Attributes:
        settled: time in seconds up to which all cuts are known.
    """

    def __init__(self, start: float, every: float) -> None:
        self.settled = start
        self._every = every
        self._side = max(MIN_FRAMES, round(SHORTEST / every))  # frames that are compared on either side of a point
        self._context = max(self._side, round(CONTEXT / every))  # points on either side of a point
        self._blank: list[float] = []  # times of the first and the last frame of a stretch of one colour
        self._blank_count = 0
        self._is_blank_shot = False  # whether the stretch is long enough
        self._pending: float | None = None  # end of a shot of one colour; a cut if a shot follows
        self._start_run(start)

    def _start_run(self, start: float) -> None:
        """Begin a run of frames that are compared with each other, but not with those before."""
        self._start = start
        self._frames: list[_Frame] = []  # the last ones
        self._count = 0
        self._times: list[float] = []  # of the points
        self._changes: list[float] = []  # at the points
        self._decided = 0  # points of which it is known whether they are cuts

    def add(self, time: float, embedding: np.ndarray, is_blank: bool) -> list[float]:
        """Add the next frame.

        Args:
            time: in seconds, above that of the frame before.
            embedding: (D,) float32, norm 1.
            is_blank: whether the frame has one colour.

        Returns:
            The cuts that have become known, in seconds, rising.
        """
        if is_blank:
            return self._add_blank(time)
        if self._is_blank_shot:
            self._pending = (self._blank[1] + time) / 2
            self._start_run(self._pending)
        frame = _Frame(time, self._cut_before(time), embedding)
        self._frames = [*self._frames[1 - 2 * self._side :], frame]
        self._blank, self._blank_count, self._is_blank_shot = [], 0, False
        self._count += 1
        if len(self._frames) >= MIN_FRAMES + self._side:
            self._add_point(self._side)
        cuts = self._confirm_pending(time + self._every / 2) + self._decide()
        self._settle()
        return cuts

    def finish(self, end: float) -> list[float]:
        """Return the remaining cuts of a video that ends at a time in seconds."""
        return [] if self._is_blank_shot else self._end_run(end)

    def _add_blank(self, time: float) -> list[float]:
        self._blank = [self._blank[0] if self._blank else time, time]
        self._blank_count += 1
        cuts: list[float] = []
        length = time - self._blank[0] + self._every
        if not self._is_blank_shot and self._blank_count >= MIN_FRAMES and length >= SHORTEST:
            self._is_blank_shot = True
            if self._count:
                start = (self._frames[-1].time + self._blank[0]) / 2
                cuts = self._end_run(start)
                if self._is_long_enough(start):
                    cuts.append(start)
        if self._is_blank_shot:
            self.settled = time
        return cuts

    def _is_long_enough(self, end: float) -> bool:
        """Return whether the run up to a time is a shot or several."""
        return self._count >= MIN_FRAMES and end - self._start >= SHORTEST

    def _confirm_pending(self, end: float) -> list[float]:
        """Return the end of the shot of one colour before the run, once the run is long enough."""
        if self._pending is None or not self._is_long_enough(end):
            return []
        pending, self._pending = self._pending, None
        return [pending]

    def _add_point(self, after: int) -> None:
        """Add the point that has this many frames after it."""
        frames = [frame.embedding for frame in self._frames[-after - self._side :]]
        self._times.append(self._frames[-after].cut)
        self._changes.append(_change(np.stack(frames[:-after]), np.stack(frames[-after:])))

    def _cut_before(self, time: float) -> float:
        """Return the time of a cut between the frame at a time and the one before."""
        if not self._frames:
            return self._start
        step = time - self._frames[-1].time
        is_off_step = not self._blank and abs(step - self._every) > STEP_TOLERANCE * self._every
        return time - step * (1 - (NEAR_KEY_FRAME if is_off_step else MIDDLE))

    def _end_run(self, end: float) -> list[float]:
        """Return the remaining cuts of the run, which ends at a time in seconds."""
        cuts = self._confirm_pending(end)
        for after in range(min(self._side - 1, len(self._frames) - MIN_FRAMES), MIN_FRAMES - 1, -1):
            self._add_point(after)
        return cuts + self._decide(end)

    def _decide(self, end: float | None = None) -> list[float]:
        """Return the cuts among the points whose surroundings are known: all of them at the end of the run."""
        cuts = []
        while self._decided + (self._context if end is None else 0) < len(self._times):
            time = self._times[self._decided]
            is_inside = time - self._start >= SHORTEST and (end is None or end - time >= SHORTEST)
            if is_inside and self._is_cut(self._decided):
                cuts.append(time)
            self._decided += 1
        forgotten = max(0, self._decided - self._context)
        del self._times[:forgotten], self._changes[:forgotten]
        self._decided -= forgotten
        return cuts

    def _is_cut(self, point: int) -> bool:
        change = self._changes[point]
        if change < MIN_CHANGE:
            return False
        context = self._changes[max(0, point - self._context) : point + self._context + 1]
        if change < max(MIN_SHARE * max(context), MIN_CONTRAST * float(np.median(context))):
            return False
        for step in (-1, 1):
            other = point + step
            while 0 <= other < len(self._times) and self._is_near(point, other):
                if self._changes[other] > change or (self._changes[other] == change and other < point):
                    return False
                other += step
        return True

    def _is_near(self, point: int, other: int) -> bool:
        """Return whether not both points can be cuts, because the shot between them would be too short."""
        return abs(point - other) < MIN_FRAMES or abs(self._times[point] - self._times[other]) < SHORTEST

    def _settle(self) -> None:
        if self._pending is not None:
            self.settled = self._start
        elif self._decided < len(self._times):
            self.settled = self._times[self._decided]


def _change(before: np.ndarray, after: np.ndarray) -> float:
    """Return the cosine distance between the means of some frames, without the one whose absence makes it least.

    Args:
        before: (S, D) unit vectors, at least two.
        after: (T, D), likewise.
    """
    means = before.sum(0), after.sum(0)  # of the same direction as the means
    cosines = [_cosines(means[0] - before, means[1]), _cosines(means[1] - after, means[0])]
    return 1 - float(np.concatenate(cosines).max())


def _cosines(rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return rows @ vector / np.maximum(np.linalg.norm(rows, axis=1) * np.linalg.norm(vector), np.finfo(np.float32).tiny)
