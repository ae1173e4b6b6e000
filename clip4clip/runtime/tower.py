"""What the encoders compute with, whichever the runtime: a tower, and a head that pools frames. Arrays in and out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np

from ..errors import CheckpointError


class Tower(ABC):
    """A tower of a model, in some runtime. It may be called from several threads at once."""

    @abstractmethod
    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Token ids (B, L), int64, or pixels (B, 3, R, R), float32, to embeddings (B, D), float32, not normalised."""


class Head(Protocol):
    """Takes the frames of a video in pieces of any length, in order.

    ``state = None``, then ``state = head(frames, state)`` for each piece, then ``head.pool(state)``.
    """

    def __call__(self, frames: np.ndarray, state: Any, /) -> Any:
        """(T, D) float32 frame embeddings, not normalised, and the state so far to the new state.

        Raises:
            InputValueError: when the head knows no more frames than it has seen (``seqTransf``, 77).
        """

    def pool(self, state: Any, /) -> np.ndarray:
        """The video's embedding, (D,) float32, not normalised."""


def l2_normalize(embeddings: np.ndarray) -> np.ndarray:
    """(B, D) embeddings to (B, D) unit vectors.

    Raises:
        CheckpointError: when one is not finite or has no direction.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        vectors = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    if not (np.abs(np.linalg.norm(vectors, axis=-1) - 1) <= 1e-4).all():  # so written that NaN fails too
        raise CheckpointError(
            "the model gave a vector that is not finite or has no direction: its checkpoint is damaged"
        )
    return vectors


class MeanPooling:
    """``meanP``: the mean of the normalised frame embeddings; as a sum, which points where the mean does."""

    def __call__(self, frames: np.ndarray, total: np.ndarray | None) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):  # what has no direction is refused in the end
            added = (frames / np.linalg.norm(frames, axis=-1, keepdims=True)).sum(0)
        return added if total is None else total + added

    def pool(self, total: np.ndarray) -> np.ndarray:
        return total
