"""The interface of every runtime: a tower embeds, and a head pools frame embeddings. Arrays in, arrays out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np


class Tower(ABC):
    """One tower of a model. Several threads may call it at once."""

    @abstractmethod
    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Embed token ids or frames.

        Args:
            inputs: token ids, (B, L) int64, or pixel values, (B, 3, R, R) float32.

        Returns:
            Embeddings, (B, D) float32, not normalised.
        """


class Head(Protocol):
    """Pools the frame embeddings of a video, which it takes in chunks of any length, in order.

    Start with ``state = None``, call ``state = head(frames, state)`` for each chunk, then ``head.pool(state)``.
    """

    def __call__(self, frames: np.ndarray, state: Any, /) -> Any:
        """Return the state after one more chunk.

        Args:
            frames: frame embeddings, (T, D) float32, not normalised.
            state: the state so far, or None.

        Raises:
            InputValueError: the video has more frames than a ``seqTransf`` head has positions for.
        """

    def pool(self, state: Any, /) -> np.ndarray:
        """Return the video's embedding, (D,) float32, not normalised."""


class MeanPooling:
    """``meanP``: the mean of the normalised frame embeddings.

    It is kept as a sum, which has the same direction.
    """

    def __call__(self, frames: np.ndarray, total: np.ndarray | None) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):  # l2_normalize reports a zero or NaN embedding
            chunk = (frames / np.linalg.norm(frames, axis=-1, keepdims=True)).sum(0)
        return chunk if total is None else total + chunk

    def pool(self, total: np.ndarray) -> np.ndarray:
        return total
