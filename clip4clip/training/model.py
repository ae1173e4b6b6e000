"""Both towers and a head as one module to train, its loss, and its checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config import CLIPConfig, get_model
from ..encoder import TextEncoder, VideoEncoder
from ..errors import TrainingError, UnknownNameError, first_line
from ..files import atomic_write
from ..model import (
    MeanPooling,
    SequenceLSTM,
    SequenceTransformer,
    TextTower,
    Transformer,
    VisionTower,
    random_state_dict,
)
from ..runtime.torch_backend import TorchHead, TorchTower, build_head
from ..weights.checkpoint import read_state_dict
from ..weights.locate import Reference, locate
from ..weights.state_dict import assign, check_shape, sim_header, tower_state

HEADS = ("meanP", "seqLSTM", "seqTransf")
HEAD_LAYERS = 4  # of seqTransf, as in the paper
MAX_LOGIT_SCALE = torch.tensor(100.0).log().item()


class VideoTextModel(nn.Module):
    """Captions and videos of a batch to unit vectors.

    Args:
        config: shape of the towers.
        head: ``'meanP'``, ``'seqLSTM'`` or ``'seqTransf'``.
        head_layers: of ``'seqTransf'``.
    """

    def __init__(self, config: CLIPConfig, head: str = "meanP", head_layers: int = HEAD_LAYERS) -> None:
        super().__init__()
        self.config = config
        self.text = TextTower(config)
        self.vision = VisionTower(config)
        self.head: MeanPooling | SequenceLSTM | SequenceTransformer
        match head:
            case "meanP":
                self.head = MeanPooling()
            case "seqLSTM":
                self.head = SequenceLSTM(config.embed_dim)
            case "seqTransf":
                self.head = SequenceTransformer(config.embed_dim, head_layers, config.context_length)
            case _:
                raise UnknownNameError(f"unknown head {head!r}; it must be one of {', '.join(HEADS)}")
        self.logit_scale = nn.Parameter(torch.empty(()))

    @classmethod
    def load(cls, model_name: str, init: Reference | None = None, head: str | None = None) -> VideoTextModel:
        """The model of a checkpoint, ready to be trained further.

        A head that the checkpoint does not have begins as CLIP4Clip begins it (arXiv 2104.08860, section 3.3 and its
        published code): ``seqTransf`` takes the positions and the first layers of the text transformer.

        Args:
            model_name: key of :data:`clip4clip.config.MODELS`.
            init: a checkpoint, as in :meth:`clip4clip.TextEncoder.load`; or ``'random'`` for an untrained CLIP.
            head: one of :data:`HEADS`; None for the one that the checkpoint has.

        Raises:
            UnknownNameError, WeightsNotFoundError, CheckpointError: see :mod:`clip4clip.errors`.
            TrainingError: where a head cannot begin as it should.
        """
        config = get_model(model_name).config
        if init == "random":
            state, path, found = random_state_dict(config, torch.initial_seed()), Path("random"), "meanP"
        else:
            path = locate(init, model_name)
            state = read_state_dict(path)
            check_shape(state, model_name, path)
            found = sim_header(state, path)
        model = cls(config, head or found, min(HEAD_LAYERS, config.text_layers))
        assign(model.text, tower_state(state, "text"), path)
        assign(model.vision, tower_state(state, "video"), path)
        model.logit_scale.data = state.get("logit_scale", torch.tensor(1 / 0.07).log()).float().reshape(())
        if found == (head or found) and found != "meanP":
            model.head = build_head(config.embed_dim, path)
        elif isinstance(model.head, SequenceTransformer):
            model._start_sequence_transformer(model.head)
        for tensor in model.parameters():  # neither mapped from a file nor shared with an encoder
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
        return model.requires_grad_(True).train()

    def _start_sequence_transformer(self, head: SequenceTransformer) -> None:
        if self.config.text_width != self.config.embed_dim:
            raise TrainingError(
                f"a seqTransf head begins as layers of the text transformer, whose width {self.config.text_width} is "
                f"not that of the vectors, {self.config.embed_dim}"
            )
        head.frame_position_embeddings.weight.data.copy_(self.text.positional_embedding)
        for ours, theirs in zip(head.transformerClip.resblocks, self.text.transformer.resblocks, strict=False):
            ours.load_state_dict(theirs.state_dict())

    def forward(self, ids: Tensor, pixels: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors of the captions (B, D) and of the videos (B, D), and the scale of their logits.

        Args:
            ids: (B, L) token ids.
            pixels: (N, 3, H, W) frames of all videos, one video after the other.
            counts: (B,) how many of them belong to each; their sum is N.
        """
        text = F.normalize(self.text(ids).float(), dim=-1)
        frames = self.vision(pixels).float()
        lengths = counts.tolist()
        if len(set(lengths)) == 1:
            video = self._pool(frames.unflatten(0, (len(lengths), -1)))
        else:
            video = torch.stack([self._pool(part) for part in frames.split(lengths)])
        return text, F.normalize(video, dim=-1), self.logit_scale.exp()

    def _pool(self, frames: Tensor) -> Tensor:
        head: Any = self.head
        return head.pool(head(frames))

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keeps the scale of the logits at 100 or below (arXiv 2103.00020, section 2.5)."""
        self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    def recompute_activations(self) -> None:
        """Gradient checkpointing: memory of one block instead of all, for a third more computation."""
        for module in self.modules():
            if isinstance(module, Transformer):
                module.recompute = True

    def freeze_below(self, layer: int) -> None:
        """Leaves as they are the embeddings of both towers and their first ``layer`` layers; -1 trains everything.

        CLIP4Clip's ``--freeze_layer_num``, which its published commands set to 0.
        """
        if layer < 0:
            return
        for tower in (self.text, self.vision):
            kept = ["ln_final.", "text_projection", "ln_post.", "proj"]
            kept += [f"transformer.resblocks.{n}." for n in range(layer, len(tower.transformer.resblocks))]
            for name, parameter in tower.named_parameters():
                parameter.requires_grad_(name.startswith(tuple(kept)))

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter under CLIP4Clip's name: ``clip.…`` and, beside it, the head's."""
        yield "clip.logit_scale", self.logit_scale
        for prefix, module in (("clip.", self.text), ("clip.visual.", self.vision), ("", self.head)):
            for name, tensor in module.state_dict(keep_vars=True).items():
                yield prefix + name, tensor


def encoders(model: VideoTextModel, device: str | torch.device) -> tuple[TextEncoder, VideoEncoder]:
    """What turns captions and videos to vectors by a model on a device, as it is at the time of each call."""
    return (
        TextEncoder(TorchTower(model.text, device), model.config),
        VideoEncoder(TorchTower(model.vision, device), TorchHead(model.head, device), model.config),
    )


def contrastive_loss(text: Tensor, video: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy over the similarities of a batch (arXiv 2104.08860, equations 8 to 10).

    Args:
        text: (B, D) unit vectors.
        video: (B, D) unit vectors, each right for the text of the same row.
        scale: of the logits.
    """
    logits = scale * text @ video.T
    targets = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


class _Gather(torch.autograd.Function):
    """(B, …) of this process to (processes × B, …) of all; a row has its gradients from the losses of all of them."""

    @staticmethod
    def forward(_: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(gradient)
        return gradient.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


def global_loss(text: Tensor, video: Tensor, scale: Tensor) -> Tensor:
    """:func:`contrastive_loss` over the batches of all processes together, the same number in each.

    Gathered vectors carry their gradients back to where they come from. Averaged over the processes, as
    DistributedDataParallel does it, the gradients are those of one process with the whole batch.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        gathered: Tensor = _Gather.apply(torch.stack([text, video], dim=1))
        text, video = gathered.unbind(dim=1)
    return contrastive_loss(text, video, scale)


def save_checkpoint(model: VideoTextModel, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes the model as safetensors under CLIP4Clip's names, which every part of this package loads. Atomic."""
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.named_tensors()}
    save_tensors(tensors, path)


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that is complete or not there at all, also after a loss of power.

    Raises:
        TrainingError: when it cannot be written, as on a full disk.
    """
    try:
        with atomic_write(path) as fresh:
            save_file(tensors, fresh, metadata)
            with fresh.open("rb+") as file:
                os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} cannot be written: {first_line(error)}") from error
