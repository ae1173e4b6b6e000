"""Towers and heads computed by torch, on any device."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import CLIPConfig, get_model
from ..errors import CheckpointError, DeviceError, InputValueError
from ..model import MeanPooling, SequenceLSTM, SequenceTransformer, TextTower, VisionTower
from ..threads import fork_safe, thread_pool
from ..weights.checkpoint import read_state_dict
from ..weights.state_dict import assign, check_shape, head_state, logger, report_unknown, sim_header, tower_state
from .placement import Placement
from .tower import Tower


class TorchTower(Tower):
    """A tower of :mod:`clip4clip.model` on a device: arrays in, arrays out.

    Args:
        module: the tower.
        device: where it is.
        compiled: by ``torch.compile``, which on CUDA also records graphs. Both are for one shape: batches are filled up
            to the next power of two, and captions to the next multiple of 16 ids, so that there are few. One thread
            runs all of them, one after the other, whoever calls.

    It can be pickled, and be called in a forked process if it is on the CPU.
    """

    def __init__(
        self, module: TextTower | VisionTower, device: str | torch.device = "cpu", compiled: bool = False
    ) -> None:
        self.module, self.device, self.compiled = module, torch.device(device), compiled
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
                f"a forked process cannot compute on {str(self.device)!r} of its parent; start it by spawn "
                "(multiprocessing.get_context('spawn')), or choose the device 'cpu'"
            )
        if not self.compiled:
            return self._compute(inputs)
        # CUDA graphs run in the thread that recorded them, and each run writes over what the one before it gave.
        return thread_pool("compiled", 1).submit(self._compute, inputs).result()

    @fork_safe
    @torch.inference_mode()
    def _compute(self, inputs: np.ndarray) -> np.ndarray:
        tensor = torch.as_tensor(inputs)
        count = len(tensor)
        if self.compiled:
            tensor = _filled_up(tensor, self.module.config.context_length)
        tensor = self._to_device(tensor)
        if tensor.is_floating_point():
            tensor = tensor.to(next(self.module.parameters()).dtype)
        return self._run(tensor)[:count].float().cpu().numpy()

    def _to_device(self, tensor: Tensor) -> Tensor:
        """Copied without waiting for it: what is computed next on the device waits by itself."""
        if self.device.type == "cpu":
            return tensor
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def _filled_up(inputs: Tensor, longest: int) -> Tensor:
    """Zeros behind the ids of captions, and behind all rows: neither changes what comes of the others."""
    rows = (1 << (len(inputs) - 1).bit_length()) - len(inputs)
    if inputs.ndim == 2:
        length = min(-(-inputs.shape[1] // 16) * 16, longest)
        return F.pad(inputs, (0, length - inputs.shape[1], 0, rows))
    return F.pad(inputs, (0, 0, 0, 0, 0, 0, 0, rows))


class TorchHead:
    """A head of :mod:`clip4clip.model` as a :class:`clip4clip.runtime.tower.Head`.

    Args:
        module: the head.
        device: where it is.
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
                f"a video has more than {self.module.max_frames} frames, which is how many positions this checkpoint's "
                "seqTransf head knows; sample fewer"
            )
        return state

    @fork_safe
    @torch.inference_mode()
    def pool(self, state: Any) -> np.ndarray:
        return self.module.pool(state).float().cpu().numpy()


@fork_safe
def load_tower(model_name: str, modality: str, path: Path, where: Placement) -> TorchTower:
    """The tower of a checkpoint; what the other one needs is not read. As :func:`clip4clip.runtime.load.load_tower`."""
    module: Any = build_tower(model_name, modality, path).to(where.device, getattr(torch, where.precision))
    if where.kind == "cuda" and modality == "video":
        module = module.to(memory_format=torch.channels_last)
    return TorchTower(module, where.device, where.compiled)


@fork_safe
def build_tower(model_name: str, modality: str, path: Path) -> TextTower | VisionTower:
    """The tower of a checkpoint in evaluation mode, float32 on the CPU; its tensors stay mapped where they can."""
    tensors = read_state_dict(path)
    check_shape(tensors, model_name, path)
    sim_header(tensors, path)  # refuses a checkpoint that has no vectors
    report_unknown(tensors, path)
    config = get_model(model_name).config
    with torch.device("meta"):  # no memory and no initialisation for what is about to be replaced
        tower = VisionTower(config) if modality == "video" else TextTower(config)
    assign(tower, tower_state(tensors, modality), path)
    return tower.requires_grad_(False).eval()


@fork_safe
def load_head(config: CLIPConfig, path: Path, device: str = "cpu") -> TorchHead:
    """The head of a checkpoint, on a device."""
    return TorchHead(build_head(config.embed_dim, path).to(device), device)


@fork_safe
def build_head(width: int, path: Path) -> MeanPooling | SequenceLSTM | SequenceTransformer:
    """The head of a checkpoint in evaluation mode, on the CPU."""
    tensors = read_state_dict(path)
    kind = sim_header(tensors, path)
    state = head_state(tensors)
    head: MeanPooling | SequenceLSTM | SequenceTransformer
    with torch.device("meta"):
        if kind == "meanP":
            head = MeanPooling()
        elif kind == "seqLSTM":
            head = SequenceLSTM(width)
            if others := {name for name in state if name.startswith("lstm_visual.")} - head.state_dict().keys():
                raise CheckpointError(f"{path} has another LSTM head than CLIP4Clip's: {', '.join(sorted(others))}")
        else:
            layers = {name.split(".")[2] for name in state if name.startswith("transformerClip.resblocks.")}
            if not layers:
                raise CheckpointError(f"{path} has a seqTransf head without any transformerClip.resblocks")
            positions = state.get("frame_position_embeddings.weight", torch.empty(1, 0)).shape[0]
            head = SequenceTransformer(width, len(layers), positions)
    assign(head, state, path)
    logger.info("%s: %s head", path, kind)
    return head.requires_grad_(False).eval()
