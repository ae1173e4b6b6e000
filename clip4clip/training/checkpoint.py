"""Write the checkpoints of a run atomically: a crash leaves either the old file or the new one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import TrainingError, first_line
from ..files import atomic_write
from ..weights.metadata import Metadata, Setting, to_metadata
from .model import VideoTextModel


def save_checkpoint(
    model: VideoTextModel,
    path: Path,
    dtype: torch.dtype = torch.float32,
    settings: Mapping[str, Setting] | None = None,
    **progress: Any,
) -> None:
    """Write the model as safetensors, which every part of this package loads without the name of the model.

    Args:
        model: the model.
        path: the file.
        dtype: number format of the tensors.
        settings: how it was trained; they must hold no paths, as people publish checkpoints.
        **progress: ``step``, ``epoch`` and ``recall_at_1`` of :class:`clip4clip.weights.metadata.Metadata`.

    Raises:
        TrainingError: the file cannot be written, for example because the disk is full.
    """
    metadata = Metadata(model.model_name, model.config, model.head_name, settings or {}, **progress)
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.named_tensors()}
    save_tensors(tensors, path, to_metadata(metadata))


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
