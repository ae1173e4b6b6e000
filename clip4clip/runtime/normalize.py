"""Scale embeddings to length 1."""

from __future__ import annotations

import numpy as np

from ..errors import CheckpointError


def l2_normalize(embeddings: np.ndarray) -> np.ndarray:
    """Scale each of the (B, D) embeddings to length 1.

    Raises:
        CheckpointError: an embedding is zero or not finite.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        vectors = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    is_unit = np.abs(np.linalg.norm(vectors, axis=-1) - 1) <= 1e-4  # False for NaN, too
    if not is_unit.all():
        raise CheckpointError("the model returned an embedding that is zero or not finite; its checkpoint is damaged")
    return vectors
