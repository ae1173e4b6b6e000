"""Fold copies: of the moments that a search found, tell which ones show the same."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import InputValueError
from .hit import Hit

# Cosine from which two vectors are taken for those of the same pictures. benchmarks/duplicates.py measures which copies
# of drawn clips have it, and how many pairs of different ones, with the demo model.
MIN_COSINE = 0.995
# The lengths of two copies may differ by so many seconds, or by this share of the longer one. A cut is found between
# two frames, which are a second apart.
LENGTH_TOLERANCE = 1.0
LENGTH_TOLERANCE_SHARE = 0.1


def fold_copies(hits: Sequence[Hit], vectors: np.ndarray) -> list[tuple[Hit, list[Hit]]]:
    """Return the hits to list, each with its copies: the hits after it that show the same.

    Two hits show the same if the cosine of their vectors is at least ``MIN_COSINE``, their lengths agree, and they are
    of different videos. Hits of unknown length agree with any. A hit is a copy of the first listed hit that it shows
    the same as, so no two of the listed hits show the same. A clip and the moment that it was cut out from are copies.

    Args:
        hits: the best first.
        vectors: vectors of the hits, of shape (n, D). A vector of zeros or NaN shows the same as no other.

    Raises:
        InputValueError: there is not one vector for each hit.
    """
    if len(vectors) != len(hits):
        raise InputValueError(f"each hit needs a vector, but got {len(hits)} hits and {len(vectors)} vectors")
    if not hits:
        return []
    array = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    units = np.divide(array, norms, out=np.zeros_like(array), where=norms > 0)
    is_same = units @ units.T >= MIN_COSINE  # (n, n); False for NaN
    lengths = [_length(hit) for hit in hits]
    listed: dict[int, list[Hit]] = {}
    for position, hit in enumerate(hits):
        for other in np.flatnonzero(is_same[position, :position]).tolist():
            if other in listed and hits[other].video != hit.video and lengths_agree(lengths[other], lengths[position]):
                listed[other].append(hit)
                break
        else:
            listed[position] = []
    return [(hits[position], copies) for position, copies in listed.items()]


def lengths_agree(length: float, other: float) -> bool:
    """Return whether two videos or moments may be copies by their lengths in seconds; NaN for an unknown length."""
    tolerance = max(LENGTH_TOLERANCE, LENGTH_TOLERANCE_SHARE * max(length, other))
    return not abs(length - other) > tolerance


def _length(hit: Hit) -> float:
    """Return the length of a moment or of a whole video in seconds; NaN if it is unknown."""
    if hit.start is not None and hit.end is not None:
        return hit.end - hit.start
    duration = hit.fields.get("duration")
    return float(duration) if isinstance(duration, int | float) else math.nan
