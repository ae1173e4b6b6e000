"""What the best score of a text query means: whether an index probably has what was asked for.

How high a good match scores depends on the model and on the videos. So the best scores of captions of everyday videos,
most of which an index does not have, are the measure: a sentence is probably in the index if it scores clearly higher
than they do. A bank of captions is the idea of QB-Norm (arXiv 2112.12777). Its other half, the normalisation of each
score by those of the captions, was tried and tells less (docs/search.md).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..cache import cache_folder
from ..errors import Clip4clipError
from ..files import atomic_write
from ..threads import ForkSafeLock
from .engine import Engine

if TYPE_CHECKING:
    from .hit import Hit
    from .video_index import VideoIndex

logger = logging.getLogger(__name__)

ONE_SIGMA_BELOW = 0.16  # share of a normal distribution below its mean minus one standard deviation
SPREADS = 2.0  # distance of the threshold from the median
CLOSE_TIMEOUT = 5.0  # seconds that closing the index waits for the background
CHECK_INTERVAL = 10.0  # seconds between two looks at an index that other processes may change

EmbedTexts = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Calibration:
    """What scores mean in one state of an index.

    Attributes:
        threshold: cosine similarity that the best result of a text query has if the index probably has what was asked
            for.
    """

    threshold: float

    @classmethod
    def of(cls, best_scores: np.ndarray) -> Calibration:
        """Return the calibration of an index.

        Args:
            best_scores: score of the nearest row to each caption of the bank, of shape (n,).
        """
        # The upper half is left out of the spread: the index may have what some of the captions describe.
        below, median = np.quantile(best_scores, (ONE_SIGMA_BELOW, 0.5))
        return cls(float(median + SPREADS * (median - below)))

    def probably_here(self, score: float) -> bool:
        """Return whether the index probably has what a text query describes.

        Args:
            score: score of the best result of the query.
        """
        return score >= self.threshold


def is_probably_here(index: VideoIndex, hits: Sequence[Hit], filter: str) -> bool | None:  # noqa: A002
    """Return whether an index probably has what a text query describes, for a server: without waiting.

    Args:
        index: index that was searched.
        hits: what the query has found, best first, of any score.
        filter: filter of the search.

    Returns:
        None if it is unknown: without hits, before the index is calibrated, and with a filter, which may leave out
        where it is.
    """
    if not hits or filter.strip():
        return None
    calibration = index.calibration(wait=False)
    return calibration.probably_here(hits[0].score) if calibration else None


class Calibrator:
    """Computes the calibration of an index once for each of its states. Safe to use from several threads.

    Args:
        engine: an index of this package.
        identify_text: function that returns text that changes whenever ``embed`` does; it may take seconds.
        embed: function from n texts to their vectors, float32 of shape (n, dim).
    """

    def __init__(self, engine: Engine, identify_text: Callable[[], str], embed: EmbedTexts) -> None:
        self._engine, self._identify_text, self._embed = engine, identify_text, embed
        self._lock, self._start_lock = ForkSafeLock(), ForkSafeLock()
        self._version: str | None = None  # of the index that was calibrated
        self._calibration: Calibration | None = None
        self._thread: threading.Thread | None = None
        self._next_check = 0.0

    def compute(self) -> Calibration | None:
        """Return the calibration of the present state of the index; None for an empty index.

        Raises:
            VideoIndexError: the index cannot be read.
            Other errors of ``identify_text`` and ``embed``.
        """
        with self._lock:
            version = self._engine.version()
            if version != self._version:
                scores = self._engine.best_scores(caption_vectors(self._identify_text(), self._embed))
                self._calibration = Calibration.of(scores) if len(scores) else None
                self._version = version
            return self._calibration

    def peek(self) -> Calibration | None:
        """Return the last calibration at once; None if there is none yet. The background brings it up to date."""
        with self._start_lock:
            if time.monotonic() >= self._next_check and not (self._thread and self._thread.is_alive()):
                self._next_check = time.monotonic() + CHECK_INTERVAL
                self._thread = threading.Thread(target=self._refresh, name="clip4clip-calibration", daemon=True)
                self._thread.start()
        return self._calibration

    def close(self) -> None:
        """Wait for the work in the background, but not for ever: an index that hangs must not keep the process."""
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT)

    def _refresh(self) -> None:
        try:
            self.compute()
        except Clip4clipError as error:  # a server that is away, for example: searches report it
            logger.debug("the index could not be calibrated: %s", error)
        except Exception:  # a thread has no caller that would get it
            logger.exception("the index could not be calibrated")
        self._next_check = time.monotonic() + CHECK_INTERVAL


@functools.cache
def read_captions() -> list[str]:
    """Return the captions of the bank."""
    return Path(__file__).with_name("captions.txt").read_text("utf-8").splitlines()


def caption_vectors(text_tower: str, embed: EmbedTexts) -> np.ndarray:
    """Return the vectors of the captions, float32 of shape (n, dim), from the cache if it has them.

    Args:
        text_tower: text that changes whenever ``embed`` does.
        embed: function from n texts to their vectors.
    """
    captions = read_captions()
    name = hashlib.sha256("\n".join([text_tower, *captions]).encode()).hexdigest()[:32]
    with contextlib.suppress(OSError, ValueError, EOFError):  # CacheError is an OSError
        vectors = np.load(cache_folder() / "captions" / f"{name}.npy", allow_pickle=False)
        if vectors.dtype == np.float32 and vectors.ndim == 2 and len(vectors) == len(captions):
            return np.asarray(vectors)
    vectors = embed(captions)
    with contextlib.suppress(OSError):  # if the cache cannot be written, they are computed again the next time
        path = cache_folder() / "captions" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.save(file, vectors)
    return vectors
