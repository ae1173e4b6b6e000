"""Compute towers and heads with torch, on any device."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError, DeviceError, InputValueError
from ..model import MeanPooling, PoolingHead, SequenceLSTM, SequenceTransformer, TextTower, VisionTower
from ..threads import fork_safe, thread_pool
from ..weights.checkpoint import read_state_dict
from ..weights.identity import Checkpoint, check_shape
from ..weights.state_dict import assign, head_state, infer_config, report_unknown, sim_header, tower_state
from .placement import Placement
from .tower import Tower

logger = logging.getLogger(__name__)

LENGTH_MULTIPLE = 16  # a compiled tower gets captions padded to a multiple of this many ids


class TorchTower(Tower):
    """A tower of :mod:`clip4clip.model` on a device: arrays in, arrays out.

    It can be pickled. On a CPU, a forked process can call it.

    Args:
        module: the tower.
        device: the device that the module is on.
        compiled: compile the module with ``torch.compile``, which on CUDA also records graphs. Each shape is compiled
            on its own. To have few shapes, batches are padded to the next power of two, and captions to the next
            multiple of 16 ids. All calls run in one thread, one after the other.
    """

    def __init__(self, module: nn.Module, device: str | torch.device = "cpu", compiled: bool = False) -> None:
        self.module: Any = module
        self.device, self.compiled = torch.device(device), compiled
        self._process = os.getpid()
        self._run: Callable[[Tensor], Tensor] = module
        if compiled:
            mode = "reduce-overhead" if self.device.type == "cuda" else None
            self._run = torch.compile(module, mode=mode, dynamic=False)

    def __reduce__(self) -> tuple[type[TorchTower], tuple[Any, ...]]:
        return type(self), (self.module, self.device, self.compiled)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        if self.device.type != "cpu" and os.getpid() != self._process:
            raise DeviceError(
                f"a forked process cannot compute on its parent's device {str(self.device)!r}; start the process with "
                "spawn (multiprocessing.get_context('spawn')), or choose the device 'cpu'"
            )
        if not self.compiled:
            return self._compute(inputs)
        # CUDA graphs run in the thread that recorded them, and each run overwrites the output of the previous one.
        return thread_pool("compiled", 1).submit(self._compute, inputs).result()

    @fork_safe
    @torch.inference_mode()
    def _compute(self, inputs: np.ndarray) -> np.ndarray:
        tensor = torch.as_tensor(inputs)
        count = len(tensor)
        if self.compiled:
            tensor = _pad(tensor, self.module.config.context_length)
        tensor = self._to_device(tensor)
        if tensor.is_floating_point():
            tensor = tensor.to(next(self.module.parameters()).dtype)
        return self._run(tensor)[:count].float().cpu().numpy()

    def _to_device(self, tensor: Tensor) -> Tensor:
        """Copy to the device without waiting: the next computation there waits for the copy."""
        if self.device.type == "cpu":
            return tensor
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def _pad(inputs: Tensor, max_length: int) -> Tensor:
    """Append rows of zeros, and zeros to the ids of captions. Neither changes the embeddings of the original rows."""
    rows = (1 << (len(inputs) - 1).bit_length()) - len(inputs)
    if inputs.ndim == 2:
        length = min(-(-inputs.shape[1] // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, max_length)
        return F.pad(inputs, (0, length - inputs.shape[1], 0, rows))
    return F.pad(inputs, (0, 0, 0, 0, 0, 0, 0, rows))


class TorchHead:
    """A head of :mod:`clip4clip.model` as a :class:`clip4clip.runtime.tower.Head`.

    Args:
        module: the head.
        device: the device that the module is on.
    """

    def __init__(self, module: nn.Module, device: str | torch.device = "cpu") -> None:
        self.module: Any = module
        self.device = torch.device(device)

    @fork_safe
    @torch.inference_mode()
    def __call__(self, frames: np.ndarray, state: Any) -> Any:
        state = self.module(torch.from_numpy(frames).to(self.device), state)
        if isinstance(self.module, SequenceTransformer) and len(state) > self.module.max_frames:
            raise InputValueError(
                f"a video has more than {self.module.max_frames} frames, the number of positions of this checkpoint's "
                "seqTransf head; sample fewer frames"
            )
        return state

    @fork_safe
    @torch.inference_mode()
    def pool(self, state: Any) -> np.ndarray:
        return self.module.pool(state).float().cpu().numpy()


@fork_safe
def load_tower(checkpoint: Checkpoint, modality: str, placement: Placement) -> TorchTower:
    """Load a tower onto a device; see :func:`clip4clip.runtime.load.load_tower`. The other tower is not read."""
    module: Any = build_tower(checkpoint, modality).to(placement.device, getattr(torch, placement.precision))
    if placement.device_kind == "cuda" and modality == "video":
        module = module.to(memory_format=torch.channels_last)
    return TorchTower(module, placement.device, placement.compiled)


@fork_safe
def build_tower(checkpoint: Checkpoint, modality: str) -> TextTower | VisionTower:
    """Build the tower of a checkpoint, for inference, in float32 on the CPU. Tensors stay mapped where possible.

    Raises:
        CheckpointError: the file has changed, and is not a checkpoint of this network any more.
    """
    path, config = checkpoint.path, checkpoint.config
    tensors = read_state_dict(path)
    check_shape(infer_config(tensors), config, checkpoint.model_name, path)
    sim_header(tensors, path)  # rejects a head that is not supported
    report_unknown(tensors, path)
    state = tower_state(tensors, modality)
    if not state:  # its configuration may describe one of any size
        raise CheckpointError(f"{path} lacks the {modality} tower: it holds only the other one")
    with torch.device("meta"):  # neither allocate nor initialise what is replaced anyway
        tower = VisionTower(config) if modality == "video" else TextTower(config)
    assign(tower, state, path)
    return tower.requires_grad_(False).eval()


@fork_safe
def load_head(checkpoint: Checkpoint, device: str = "cpu") -> TorchHead:
    """Load the head of a checkpoint onto a device."""
    return TorchHead(build_head(checkpoint).to(device), device)


@fork_safe
def build_head(checkpoint: Checkpoint) -> PoolingHead:
    """Build the head of a checkpoint, for inference, on the CPU.

    Raises:
        CheckpointError: the file cannot be read, or its head is not supported.
    """
    path, width = checkpoint.path, checkpoint.config.embed_dim
    tensors = read_state_dict(path)
    kind = sim_header(tensors, path)
    state = head_state(tensors)
    with torch.device("meta"):
        head = _empty_head(kind, width, state, path)
    assign(head, state, path)
    logger.info("%s: %s head", path, kind)
    return head.requires_grad_(False).eval()


def _empty_head(kind: str, width: int, state: dict[str, Tensor], path: Path) -> PoolingHead:
    """Return a head of the shape that its tensors have."""
    if kind == "meanP":
        return MeanPooling()
    if kind == "seqLSTM":
        lstm = SequenceLSTM(width)
        if unexpected := {name for name in state if name.startswith("lstm_visual.")} - lstm.state_dict().keys():
            raise CheckpointError(
                f"{path} has an LSTM head with more tensors than CLIP4Clip's: {', '.join(sorted(unexpected))}"
            )
        return lstm
    layers = {name.split(".")[2] for name in state if name.startswith("transformerClip.resblocks.")}
    if not layers:
        raise CheckpointError(f"{path} has a seqTransf head without any transformerClip.resblocks")
    positions = state.get("frame_position_embeddings.weight", torch.empty(1, 0)).shape[0]
    return SequenceTransformer(width, len(layers), positions)
