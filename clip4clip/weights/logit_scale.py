"""The number that a model multiplies cosine similarities by before a softmax."""

from __future__ import annotations

import math

from .checkpoint import read_state_dict
from .locate import Reference, locate


def read_logit_scale(weights: Reference | None, model_name: str) -> float | None:
    """Return the factor that a checkpoint was trained with, 100 for OpenAI's; None if it does not record one.

    Args:
        weights: as for :func:`clip4clip.weights.locate.locate`.
        model_name: key of :data:`clip4clip.config.MODELS`.

    Raises:
        UnknownNameError, WeightsNotFoundError, CheckpointError: see :mod:`clip4clip.errors`.
    """
    tensor = read_state_dict(locate(weights, model_name)).get("logit_scale")
    if tensor is None or tensor.numel() != 1 or not tensor.is_floating_point():
        return None
    logarithm = float(tensor)
    return math.exp(logarithm) if abs(logarithm) < 10 else None  # NaN is not below either
