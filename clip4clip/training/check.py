"""Read the pairs of a run, and find unusable ones before the training starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from ..errors import PairsError
from ..evaluation.pairs import Pair, find_bad_pairs, read_pairs
from ..progress import Track
from .config import TrainingConfig

logger = logging.getLogger(__name__)

MAX_LISTED = 10  # bad pairs in a message


def read_training_pairs(config: TrainingConfig, track: Track, is_first: bool) -> list[Pair]:
    """Return the usable training pairs of a run.

    Args:
        config: settings of the run.
        track: progress callback; see :data:`clip4clip.progress.Track`.
        is_first: whether this is the first process, which logs a warning about the pairs left out.

    Raises:
        PairsError: the table is malformed, or pairs cannot be used and ``skip_bad`` is not set.
    """
    pairs = read_pairs(config.pairs, config.videos, config.captions)
    bad, message = _check(pairs, config.pairs, track)
    if bad and not config.skip_bad:
        raise PairsError(f"{message}\nCorrect them, or leave them out with skip_bad (--skip-bad)")
    if bad and is_first:
        logger.warning("%s\nThey are left out", message)
    return [pair for index, pair in enumerate(pairs) if index not in bad]


def read_evaluation_pairs(config: TrainingConfig, track: Track, is_first: bool) -> list[Pair]:
    """Return the pairs to evaluate on, none without ``eval_pairs``. A video that cannot be decoded counts as a miss.

    Args:
        config: settings of the run.
        track: progress callback; see :data:`clip4clip.progress.Track`.
        is_first: whether this is the first process, which evaluates and therefore checks the pairs.

    Raises:
        PairsError: the table is malformed, or none of its pairs can be used.
    """
    if not config.eval_pairs:
        return []
    pairs = read_pairs(config.eval_pairs, config.eval_videos or config.videos, config.captions)
    if not (pairs and is_first):
        return pairs
    bad, message = _check(pairs, config.eval_pairs, track)
    if len(bad) == len(pairs):
        raise PairsError(f"{message}\nName the folder of their videos with eval_videos (--eval-videos)")
    if bad:
        logger.warning("%s\nA video that cannot be decoded is a miss in every evaluation", message)
    return pairs


def _check(pairs: Sequence[Pair], table: str | os.PathLike[str], track: Track) -> tuple[dict[int, str], str]:
    """Return the problem of each bad pair by its index, and a message that lists the first of them."""
    bad = find_bad_pairs(pairs, track)
    listed = "\n".join(f"  {problem}" for problem in list(bad.values())[:MAX_LISTED])
    more = f"\n  and {len(bad) - MAX_LISTED} more" if len(bad) > MAX_LISTED else ""
    return bad, f"{len(bad)} of {len(pairs)} pairs of {table} cannot be used:\n{listed}{more}"
