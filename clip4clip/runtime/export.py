"""Export the tower of an encoder, with its current weights, to an ONNX file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ExportError, first_line
from ..model import MeanPooling, PoolingHead, TextTower, VisionTower
from ..weights.identity import Checkpoint
from .onnx_export import save_tower
from .torch_backend import TorchHead, TorchTower, build_head, build_tower
from .tower import Head, Tower
from .triton import set_max_batch_size


@dataclass(frozen=True)
class ExportSource:
    """The tower and the head to export.

    Attributes:
        modality: ``'text'`` or ``'video'``.
        tower: the tower in use. A copy of a :class:`TorchTower` is exported, as it may have been trained since it was
            loaded; any other tower is built again from its checkpoint.
        head: the head in use, to pool the frames of a video in the graph; None to export only the tower.
        find_checkpoint: function that returns the checkpoint.
    """

    modality: str
    tower: Tower
    head: Head | None
    find_checkpoint: Callable[[], Checkpoint]

    def modules(self) -> tuple[TextTower | VisionTower, PoolingHead | None]:
        """Return tower and head as float32 modules on the CPU."""
        head: PoolingHead | None = None
        if isinstance(self.tower, TorchTower):
            tower = copy.deepcopy(self.tower.module).cpu().float()
            if self.head is not None:
                head = copy.deepcopy(self.head.module).cpu() if isinstance(self.head, TorchHead) else MeanPooling()
            return tower, head
        checkpoint = self.find_checkpoint()
        tower = build_tower(checkpoint, self.modality)
        if self.head is not None:
            head = build_head(checkpoint)
        return tower, head


def export(source: ExportSource, path: Path, precision: str, max_batch_size: int) -> None:
    """Write an ONNX file; see :func:`clip4clip.runtime.onnx_export.save_tower`.

    Args:
        source: the tower to export, with or without a head.
        path: the file. If it is in a Triton model repository, Triton's configuration is completed.
        precision: ``'float32'``, ``'float16'`` or ``'int8'``.
        max_batch_size: the most rows in one of Triton's batches. A graph with a head takes no batches.

    Raises:
        WeightsNotFoundError: the checkpoint no longer exists.
        CheckpointError: the checkpoint cannot be read, or the tower returns embeddings that are zero or not finite.
        ExportError: the graph and torch disagree, or the file cannot be written.
        UnknownNameError: the precision is unknown.
    """
    tower, head = source.modules()
    try:
        save_tower(tower, path, head, precision)
        if head is None:
            set_max_batch_size(path, max_batch_size)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {first_line(error)}") from error
