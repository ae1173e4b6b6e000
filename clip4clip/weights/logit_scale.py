"""The number that a model multiplies cosine similarities by before a softmax."""

from __future__ import annotations

import math

from .checkpoint import read_state_dict
from .identity import Checkpoint


def read_logit_scale(checkpoint: Checkpoint) -> float | None:
    """Return the factor that a checkpoint was trained with, 100 for OpenAI's; None if it does not record one.

    Raises:
        CheckpointError: the file cannot be read.
    """
    tensor = read_state_dict(checkpoint.path).get("logit_scale")
    if tensor is None or tensor.numel() != 1 or not tensor.is_floating_point():
        return None
    logarithm = float(tensor)
    return math.exp(logarithm) if abs(logarithm) < 10 else None  # NaN is not below either
