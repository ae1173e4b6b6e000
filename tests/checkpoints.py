"""Checkpoint files of every family, and the vectors that an encoder computes with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from clip4clip import TextEncoder, VideoEncoder

State = dict[str, torch.Tensor]

CAPTIONS = ["a dog", "kids feeding and playing with the horse"]
FRAMES = list(np.random.default_rng(3).integers(0, 256, (5, 45, 60, 3), dtype=np.uint8))


def embed(weights: Path, modality: str, model_name: str = "tiny") -> np.ndarray:
    """Return the vectors of :data:`CAPTIONS`, or the vector of :data:`FRAMES`, on the CPU."""
    if modality == "text":
        return TextEncoder.load(model_name, weights, "cpu")(CAPTIONS)
    return VideoEncoder.load(model_name, weights, "cpu")(FRAMES)


def flip_bytes(content: bytes, random: np.random.Generator) -> bytes:
    """Return the content with one to three bytes replaced at random."""
    damaged = bytearray(content)
    for position in random.integers(0, len(content), random.integers(1, 4)):
        damaged[position] = random.integers(256)
    return bytes(damaged)


def mapped_addresses(path: Path) -> list[range]:
    """Return where a file is mapped in the memory of this process. Only on Linux."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    bounds = [line.split()[0].split("-") for line in lines if line.endswith(str(path))]
    return [range(int(start, 16), int(end, 16)) for start, end in bounds]


def _save_legacy(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def _save_with_prefix(prefix: str) -> Callable[[State, Path], None]:
    return lambda state, path: torch.save({f"{prefix}{name}": tensor for name, tensor in state.items()}, path)


# The family of a checkpoint -> how it is written from a state dict with OpenAI's names.
FAMILIES: dict[str, Callable[[State, Path], object]] = {
    "safetensors": lambda state, path: save_file(state, path),
    "zip": lambda state, path: torch.save(state, path),
    "legacy pickle": _save_legacy,
    "under state_dict": lambda state, path: torch.save({"epoch": 7, "state_dict": state, "args": {"lr": 0.1}}, path),
    "prefixed module.": _save_with_prefix("module."),
    "CLIP4Clip run": _save_with_prefix("clip."),
    "CLIP4Clip run, DataParallel": _save_with_prefix("module.clip."),
    "parameters": lambda state, path: torch.save(
        {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}, path
    ),
}
