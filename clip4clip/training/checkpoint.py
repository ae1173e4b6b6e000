"""Write the checkpoints of a run atomically: a crash leaves either the old file or the new one."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import TrainingError, first_line
from ..files import atomic_write
from .model import VideoTextModel


def save_checkpoint(model: VideoTextModel, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the model as safetensors, with the tensor names of CLIP4Clip, which every part of this package loads.

    Raises:
        TrainingError: the file cannot be written, for example because the disk is full.
    """
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.named_tensors()}
    save_tensors(tensors, path)


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically: even a power failure leaves a complete file or none.

    Raises:
        TrainingError: the file cannot be written, for example because the disk is full.
    """
    try:
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} cannot be written: {first_line(error)}") from error
