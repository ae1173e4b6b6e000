"""The model to train: both towers and a pooling head as one module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import HEADS, CLIPConfig, get_config, network_name
from ..encoder import TextEncoder, VideoEncoder
from ..errors import TrainingError, UnknownNameError
from ..model import (
    INITIAL_LOGIT_SCALE,
    MeanPooling,
    PoolingHead,
    SequenceLSTM,
    SequenceTransformer,
    TextTower,
    Transformer,
    VisionTower,
    random_state_dict,
)
from ..runtime.torch_backend import TorchHead, TorchTower, build_head
from ..weights.checkpoint import read_state_dict
from ..weights.identity import Checkpoint, network_digest
from ..weights.state_dict import assign, tower_state

HEAD_LAYERS = 4  # of a seqTransf head, as in the paper
MAX_LOGIT_SCALE = torch.tensor(100.0).log().item()


class VideoTextModel(nn.Module):
    """Embed the sentences and the videos of a batch as unit vectors.

    Args:
        config: shape of the towers.
        head: ``'meanP'``, ``'seqLSTM'`` or ``'seqTransf'``.
        head_layers: number of layers of a ``'seqTransf'`` head.

    Attributes:
        model_name: name of the model, which its checkpoints carry.
        head_name: one of :data:`clip4clip.config.HEADS`.
    """

    def __init__(self, config: CLIPConfig, head: str = "meanP", head_layers: int = HEAD_LAYERS) -> None:
        super().__init__()
        self.config = config
        self.model_name, self.head_name = network_name(config), head
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
    def load(cls, checkpoint: Checkpoint, head: str | None = None) -> VideoTextModel:
        """Load the model of a checkpoint, in training mode.

        A head that the checkpoint does not have is initialised as in CLIP4Clip (arXiv 2104.08860, section 3.3, and its
        published code): ``seqTransf`` copies the positions and the first layers of the text transformer.

        Args:
            checkpoint: the checkpoint, see :func:`clip4clip.weights.identity.find_checkpoint`.
            head: one of :data:`clip4clip.config.HEADS`; None for the head of the checkpoint.

        Raises:
            UnknownNameError: the head is unknown.
            CheckpointError: the file has changed, and is not a checkpoint of this network any more.
            TrainingError: a ``seqTransf`` head cannot copy layers of another shape.
        """
        head = head or checkpoint.head
        own_head = build_head(checkpoint) if head == checkpoint.head else None
        model = cls._of(checkpoint.config, read_state_dict(checkpoint.path), checkpoint.path, head, own_head)
        model.model_name = checkpoint.model_name
        return model

    @classmethod
    def untrained(cls, model_name: str, head: str | None = None) -> VideoTextModel:
        """Return a model with random weights, which depend on torch's seed, in training mode.

        Args:
            model_name: key of :data:`clip4clip.config.MODELS`.
            head: one of :data:`clip4clip.config.HEADS`; None for ``'meanP'``.

        Raises:
            UnknownNameError: there is no such model, or no such head.
            TrainingError: a ``seqTransf`` head cannot copy layers of another shape.
        """
        config = get_config(model_name)
        state = random_state_dict(config, torch.initial_seed())
        model = cls._of(config, state, Path("random"), head or "meanP", None)
        model.model_name = model_name
        return model

    @classmethod
    def _of(
        cls, config: CLIPConfig, state: dict[str, Tensor], path: Path, head: str, own_head: PoolingHead | None
    ) -> VideoTextModel:
        """Return the model of a state dict, with the head that it has or a new one."""
        model = cls(config, head, min(HEAD_LAYERS, config.text_layers))
        assign(model.text, tower_state(state, "text"), path)
        assign(model.vision, tower_state(state, "video"), path)
        model.logit_scale.data = state.get("logit_scale", torch.tensor(INITIAL_LOGIT_SCALE)).float().reshape(())
        if own_head is not None:
            model.head = own_head
        elif isinstance(model.head, SequenceTransformer):
            model._copy_text_layers(model.head)
        for tensor in model.parameters():  # memory of its own: not mapped from a file, not shared with an encoder
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
        return model.requires_grad_(True).train()

    def _copy_text_layers(self, head: SequenceTransformer) -> None:
        """Initialise a head with the positions and the first layers of the text transformer.

        The head computes with CLIP4Clip's QuickGELU and epsilon, whatever the text transformer has: the layers are
        only where the training starts. But layers of other sizes do not fit, and heads of another width would attend
        to other parts of the vectors.
        """
        config, width = self.config, self.config.embed_dim
        expected = {"text_width": width, "text_head_width": SequenceTransformer.HEAD_WIDTH, "text_mlp_width": 4 * width}
        if different := [name for name, value in expected.items() if getattr(config, name) != value]:
            values = ", ".join(f"{name} is {getattr(config, name)}, not {expected[name]}" for name in different)
            raise TrainingError(
                f"a new seqTransf head starts with layers of the text transformer, and those of this model do not fit "
                f"vectors of {width} numbers: {values}. Train with the head meanP or seqLSTM"
            )
        head.frame_position_embeddings.weight.data.copy_(self.text.positional_embedding)
        for block, text_block in zip(head.transformerClip.resblocks, self.text.transformer.resblocks, strict=False):
            block.load_state_dict(text_block.state_dict())

    def forward(self, ids: Tensor, pixels: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return unit vectors of the sentences (B, D) and of the videos (B, D), and the scale of their logits.

        Args:
            ids: (B, L) token ids.
            pixels: (N, 3, H, W) frames of all videos, one video after the other.
            counts: (B,) number of frames of each video; their sum is N.
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
        """Limit the scale of the logits to 100 (arXiv 2103.00020, section 2.5)."""
        self.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    def recompute_activations(self) -> None:
        """Use gradient checkpointing: memory for one block instead of all, for a third more computation."""
        for module in self.modules():
            if isinstance(module, Transformer):
                module.recompute = True

    def freeze_below(self, layer: int) -> None:
        """Freeze the embeddings of both towers and their first ``layer`` layers; -1 freezes nothing.

        This is CLIP4Clip's ``--freeze_layer_num``, which its published commands set to 0.
        """
        if layer < 0:
            return
        for tower in (self.text, self.vision):
            trained = ["ln_final.", "text_projection", "ln_post.", "attn_pool.", "proj"]
            trained += [f"transformer.resblocks.{n}." for n in range(layer, len(tower.transformer.resblocks))]
            for name, parameter in tower.named_parameters():
                parameter.requires_grad_(name.startswith(tuple(trained)))

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter under the name that it has in a checkpoint.

        The names are CLIP4Clip's, ``clip.…`` for the towers, if its code computes such a network. Otherwise they are
        OpenAI's, without the prefix: a file whose metadata was lost must not be taken for a checkpoint of CLIP4Clip.
        """
        prefix = "" if network_digest(self.config) else "clip."
        yield f"{prefix}logit_scale", self.logit_scale
        for start, module in ((prefix, self.text), (f"{prefix}visual.", self.vision), ("", self.head)):
            for name, tensor in module.state_dict(keep_vars=True).items():
                yield start + name, tensor


def encoders(model: VideoTextModel, device: str | torch.device) -> tuple[TextEncoder, VideoEncoder]:
    """Return encoders on a device. Each call uses the current weights of the model."""
    return (
        TextEncoder(TorchTower(model.text, device), model.config),
        VideoEncoder(TorchTower(model.vision, device), TorchHead(model.head, device), model.config),
    )
