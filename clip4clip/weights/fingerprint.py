"""Hashes of weights: the same for the same numbers, whatever the format of their file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..threads import fork_safe
from .state_dict import HEAD_PREFIXES, TEXT_PREFIXES, VISION_PREFIX

SAMPLED_VALUES = 64  # of each tensor


def compute_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return 16 hexadecimal digits that identify the weights of both towers and of the head.

    It is a hash of the name, the shape and 64 values of each tensor, so most of a mapped file need not be read.
    Training changes all values. But a checkpoint can be forged to have the fingerprint of another one.

    Args:
        tensors: the tensors of a checkpoint under OpenAI's names.
    """
    digest = hashlib.sha256()
    for name, tensor in _list_weights(tensors):
        flat_indices = np.linspace(0, tensor.numel() - 1, SAMPLED_VALUES).astype(np.int64)
        indices = tuple(map(torch.from_numpy, np.unravel_index(flat_indices, tensor.shape))) if tensor.ndim else ...
        values = tensor.detach()[indices].float().numpy()
        digest.update(f"{name} {tuple(tensor.shape)} ".encode() + values.astype("<f4").tobytes())
    return digest.hexdigest()[:16]


@fork_safe
def compute_tower_digest(tensors: Mapping[str, Tensor], modality: str) -> str:
    """Return a hash, 32 hexadecimal digits, of all numbers of a tower in float32.

    Args:
        tensors: the tensors of a checkpoint under OpenAI's names.
        modality: ``'text'`` or ``'video'``.
    """
    prefixes = TEXT_PREFIXES if modality == "text" else (VISION_PREFIX,)
    digest = hashlib.sha256()
    for name, tensor in _list_weights(tensors):
        if name.startswith(prefixes):
            digest.update(f"{name} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.detach().float().contiguous().numpy().reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:32]


def _list_weights(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Return the floating-point tensors of towers and head, sorted by name.

    Query, key and value projections are separate, as in Hugging Face's files: a stacked tensor can be split without a
    copy, but separate ones cannot be stacked without one.
    """
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith((VISION_PREFIX, *TEXT_PREFIXES, *HEAD_PREFIXES)):
            continue
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        if ".attn.in_proj_" in name and tensor.ndim:
            for part, projection in zip("qkv", tensor.chunk(3), strict=False):
                weights[name.replace("in_proj_", f"{part}_proj.")] = projection
        else:
            weights[name] = tensor
    return sorted(weights.items())
