"""Move outliers from the inputs of linear layers into their weights, before a tower is quantised to 8 bits.

In 8 bits a row of numbers shares one scale. In trained models a few channels are up to a hundred times larger than the
others, which are then left with hardly a level. Such a channel is divided where it is computed, and multiplied again in
the weight that takes it (SmoothQuant, arXiv 2211.10438). The divisors are powers of two, so nothing is rounded.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..model import TextTower, VisionTower

MIN_WEIGHT = 1e-30  # instead of 0, for a channel whose weights are all zero

# Weights of linear layers, and the prefix of the weight and the bias that compute their input.
_INPUT_LAYERS = {
    "attn.in_proj_weight": "ln_1.",
    "attn.out_proj.weight": "attn.in_proj_",
    "mlp.c_fc.weight": "ln_2.",
}


def tensors_of(module: nn.Module) -> dict[str, np.ndarray]:
    """Return the tensors of a module by name."""
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def smoothed_tensors(tower: TextTower | VisionTower, example: np.ndarray) -> dict[str, np.ndarray]:
    """Return tensors for the same tower whose linear layers get inputs without outliers. The vectors do not change.

    A block may also get ``mlp.gelu.divisor``: the numbers, (MLP width,), by which the input of ``c_proj`` is to be
    divided. It cannot be divided where it is computed, as the activation lies between.

    Args:
        tower: on the CPU, float32.
        example: inputs of the tower, which are searched for outliers.
    """
    tensors = tensors_of(tower)
    for (block, layer), largest in _largest_inputs(tower, example).items():
        divisor = _divisors(largest, tensors[block + layer])
        tensors[block + layer] = tensors[block + layer] * divisor
        if layer == "mlp.c_proj.weight":
            if (divisor > 1).any():
                tensors[f"{block}mlp.gelu.divisor"] = divisor
            continue
        for name in (f"{block}{_INPUT_LAYERS[layer]}{kind}" for kind in ("weight", "bias")):
            # in_proj computes queries, keys and values; only the values are the input of out_proj.
            unchanged_rows = len(tensors[name]) - len(divisor)
            tensors[name] = (tensors[name].T / np.pad(divisor, (unchanged_rows, 0), constant_values=1)).T
    return tensors


@torch.inference_mode()
def _largest_inputs(tower: TextTower | VisionTower, example: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Return the largest magnitude of each channel of the input of each linear layer, by block and weight."""
    largest: dict[tuple[str, str], np.ndarray] = {}

    def record(block: str, weight: str, x: Tensor) -> None:
        largest[block, weight] = x.abs().flatten(0, -2).amax(0).numpy()

    hooks = []
    block: Any  # mypy takes its modules for tensors
    for index, block in enumerate(tower.transformer.resblocks):
        record_in_block = functools.partial(record, f"transformer.resblocks.{index}.")
        # in_proj is not a module of its own, so its input is recorded as the output of ln_1.
        record_ln_1 = functools.partial(record_in_block, "attn.in_proj_weight")
        hooks.append(block.ln_1.register_forward_hook(lambda _, __, x, record=record_ln_1: record(x)))
        for layer in ("attn.out_proj", "mlp.c_fc", "mlp.c_proj"):
            record_input = functools.partial(record_in_block, f"{layer}.weight")
            module = block.get_submodule(layer)
            hooks.append(module.register_forward_pre_hook(lambda _, inputs, record=record_input: record(*inputs)))
    try:
        tower(torch.from_numpy(example))
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def _divisors(largest: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return a power of two for each channel of an input, (K,): above 1 only where it is large for its weights.

    Args:
        largest: largest magnitude of each channel, (K,).
        weight: the weight that takes them, (N, K).
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # a channel or a weight of zeros
        ratio = np.sqrt(largest / np.maximum(np.abs(weight).max(0), MIN_WEIGHT))
        power = np.exp2(np.floor(np.log2(ratio / np.median(ratio))))
    return np.maximum(np.nan_to_num(power, nan=1, posinf=1), 1)
