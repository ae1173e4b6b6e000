"""The two towers of CLIP and the pooling heads of CLIP4Clip, in the order data flows.

Sources: CLIP, arXiv 2103.00020 (section 2.4), with the parameter names of OpenAI's checkpoints; Perception Encoder,
arXiv 2504.13181, for rotary positions and pooling by attention, with the parameter names of its own checkpoints; and
CLIP4Clip, arXiv 2104.08860 (section 3.3, similarity calculators: meanP, seqLSTM, seqTransf).

Shapes: B rows of L tokens, or N frames; C channels inside a tower, W in an attention head; D numbers in an embedding;
T frames of a video.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import CLIPConfig
from .errors import InputValueError

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # of CLIP (arXiv 2103.00020, section 2.5)


class QuickGELU(nn.Module):
    """CLIP's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class MLP(nn.Sequential):
    """Two linear layers with an activation between them: ``'quick_gelu'``, or ``'gelu'``, the exact one."""

    def __init__(self, width: int, hidden_width: int, activation: str) -> None:
        gelu = {"quick_gelu": QuickGELU, "gelu": nn.GELU}[activation]
        c_fc, c_proj = nn.Linear(width, hidden_width), nn.Linear(hidden_width, width)
        super().__init__(OrderedDict(c_fc=c_fc, gelu=gelu(), c_proj=c_proj))


def grid_rotations(grid: int, head_width: int, device: torch.device) -> Tensor:
    """Return the cosines and sines of the angles by which tokens are rotated: (2, 1 + patches, W / 2), float32.

    Each pair of channels has an angle. Those in the first half of a head grow with the column of the patch, those in
    the second half with its row, both counted from 1. The class token, the first of all, is not rotated. The numbers
    are computed whenever they are needed: a buffer would lose precision in a half-precision network.
    """
    steps = torch.arange(head_width // 4, dtype=torch.float32, device=device) / (head_width // 4)
    angles = torch.arange(1, grid + 1, device=device)[:, None] * 10000**-steps  # (grid, W / 4)
    columns, rows = angles.repeat(grid, 1), angles.repeat_interleave(grid, 0)  # 2 x (patches, W / 4)
    angles = F.pad(torch.cat([columns, rows], -1), (0, 0, 1, 0))  # (1 + patches, W / 2)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Rotate each pair of channels, (2i, 2i + 1), of queries or keys, (B, heads, L, W), in float32 or better."""
    cos, sin = rotations
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).type_as(x)


class Attention(nn.Module):
    """Multi-head attention."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool, rotations: Tensor | None = None) -> Tensor:
        """Let each token attend to all tokens or, with ``causal``, to itself and those before it."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, L, 3C)
        q, k, v = qkv.unflatten(-1, (3, -1, self.head_width)).permute(2, 0, 3, 1, 4)  # 3 x (B, heads, L, W)
        if rotations is not None:
            q, k = rotate(q, rotations), rotate(k, rotations)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # (B, L, C)

    def attend_from(
        self, token: Tensor, x: Tensor, mask: Tensor | None = None, rotations: Tensor | None = None
    ) -> Tensor:
        """Let one token of each row, (B, 1, C), attend to the tokens of the row that the mask, (B, 1, 1, L), allows.

        With ``rotations``, the token must be the class token, which is not rotated.
        """
        width = x.shape[-1]
        q = F.linear(token, self.in_proj_weight[:width], self.in_proj_bias[:width])  # (B, 1, C)
        kv = F.linear(x, self.in_proj_weight[width:], self.in_proj_bias[width:])  # (B, L, 2C)
        q = q.unflatten(-1, (-1, self.head_width)).transpose(1, 2)  # (B, heads, 1, W)
        k, v = kv.unflatten(-1, (2, -1, self.head_width)).permute(2, 0, 3, 1, 4)  # 2 x (B, heads, L, W)
        if rotations is not None:
            k = rotate(k, rotations)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # (B, 1, C)


class Block(nn.Module):
    """Attention and an MLP, each behind a LayerNorm and added to its input."""

    def __init__(self, width: int, head_width: int, mlp_width: int, activation: str, eps: float) -> None:
        super().__init__()
        self.attn = Attention(width, head_width)
        self.ln_1 = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, mlp_width, activation)
        self.ln_2 = nn.LayerNorm(width, eps)

    def forward(
        self, x: Tensor, causal: bool, rotations: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Map (B, L, C) to (B, L, C), or to (B, C) with ``positions``, (B,): one token of each row."""
        if positions is None:
            x = x + self.attn(self.ln_1(x), causal, rotations)
            return x + self.mlp(self.ln_2(x))
        rows = torch.arange(x.shape[0], device=x.device)
        y = self.ln_1(x)  # (B, L, C)
        mask = (torch.arange(x.shape[1], device=x.device) <= positions[:, None])[:, None, None] if causal else None
        x = x[rows, positions] + self.attn.attend_from(y[rows, positions][:, None], y, mask, rotations)[:, 0]  # (B, C)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, layers: int, width: int, head_width: int, mlp_width: int, activation: str, eps: float) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, head_width, mlp_width, activation, eps) for _ in range(layers))
        self.recompute = False  # gradient checkpointing: in training, keep no activations of the blocks

    def forward(
        self, x: Tensor, causal: bool = False, rotations: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Map (B, L, C) to (B, L, C), or to (B, C) with ``positions``, (B,): one token of each row.

        The last block then computes only these tokens, as nothing else of its output is used. With ``rotations``,
        (2, L, W / 2), each block rotates its queries and keys.
        """
        last = len(self.resblocks) - 1
        for index, block in enumerate(self.resblocks):
            arguments = (x, causal, rotations, positions if index == last else None)
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x = block(*arguments)
        return x


def _embedding(count: int, width: int) -> nn.Embedding:
    """Return an uninitialised ``nn.Embedding``.

    Its own initialisation imports torch's compiler on the meta device, which takes seconds.
    """
    return nn.Embedding.from_pretrained(torch.empty(count, width), freeze=False)


class TextTower(nn.Module):
    """Token ids to text embeddings."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        width = config.text_width
        self.token_embedding = _embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        self.transformer = Transformer(
            config.text_layers,
            width,
            config.text_head_width,
            config.text_mlp_width,  # type: ignore[arg-type]  # a configuration replaces None
            config.activation,
            config.norm_eps,
        )
        self.ln_final = nn.LayerNorm(width, config.norm_eps)
        self.text_projection = nn.Parameter(torch.empty(width, config.embed_dim))

    def forward(self, ids: Tensor) -> Tensor:
        """Map token ids, (B, L) int64, L <= context_length, to embeddings, (B, D), not normalised.

        Attention is causal, so padding behind the EOT token of a row changes nothing.
        """
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]  # (B, L, C)
        eot = ids.argmax(-1)  # (B,): the EOT token has the highest id
        x = self.transformer(x, causal=True, positions=eot)  # (B, C)
        return self.ln_final(x) @ self.text_projection  # (B, D)


class AttentionPool(nn.Module):
    """A trained query, the probe, that attends to all tokens of a frame, and an MLP."""

    def __init__(self, width: int, heads: int, activation: str, eps: float) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, width))
        self.attn = Attention(width, width // heads)
        self.layernorm = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, 4 * width, activation)  # in the Perception Encoder, whatever the MLPs of the blocks are

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L, C) to (N, C)."""
        x = self.attn.attend_from(self.probe.expand(x.shape[0], 1, -1), x)[:, 0]  # (N, C)
        return x + self.mlp(self.layernorm(x))


class VisionTower(nn.Module):
    """Frames to frame embeddings."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = config.resolution // config.patch_size  # patches in a row, and in a column
        width = config.vision_width
        self.conv1 = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(self.grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width, config.norm_eps)
        self.transformer = Transformer(
            config.vision_layers,
            width,
            config.vision_head_width,
            config.vision_mlp_width,  # type: ignore[arg-type]  # a configuration replaces None
            config.activation,
            config.norm_eps,
        )
        self.ln_post = nn.LayerNorm(width, config.norm_eps)
        if config.pooling == "attention":
            self.attn_pool = AttentionPool(width, config.pooling_heads, config.activation, config.norm_eps)
        self.proj = nn.Parameter(torch.empty(width, config.embed_dim))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map normalised pixels, (N, 3, R, R), to embeddings, (N, D), not normalised."""
        x = self.conv1(pixel_values).flatten(2).transpose(1, 2)  # (N, patches, C)
        x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], dim=1)  # (N, 1 + patches, C)
        x = self.ln_pre(x + self.positional_embedding)
        rotations = None
        if self.config.rotary:
            rotations = grid_rotations(self.grid, self.config.vision_head_width, x.device)  # (2, 1 + patches, W / 2)
        class_token = None
        if self.config.pooling == "token":
            class_token = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)  # (N,): the first of each row
        x = self.ln_post(self.transformer(x, rotations=rotations, positions=class_token))  # (N, C), or all tokens
        if self.config.pooling == "mean":
            x = x[:, 1:].mean(1)  # (N, C): of the patches
        elif self.config.pooling == "attention":
            x = self.attn_pool(x)  # (N, C)
        return x @ self.proj  # (N, D)


class MeanPooling(nn.Module):
    """``meanP``: the mean of the normalised frame embeddings. No parameters.

    Every head takes the frames of a video, or of several videos of the same length, in chunks of any length, in order:
    start with ``state = None``, call ``state = head(frames, state)`` for each chunk, then ``head.pool(state)``.
    """

    def forward(self, frames: Tensor, total: Tensor | None = None) -> Tensor:
        """Add frame embeddings, (…, T, D), to the sum so far, (…, D)."""
        chunk = F.normalize(frames, dim=-1).sum(-2)  # (…, D)
        return chunk if total is None else total + chunk

    def pool(self, total: Tensor) -> Tensor:
        """Return the video's embedding, (…, D), not normalised: the sum has the direction of the mean."""
        return total


class SequenceLSTM(nn.Module):
    """``seqLSTM``: an LSTM over the frame embeddings, added back to them, then the mean of the normalised sums."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm_visual = nn.LSTM(width, width, batch_first=True)
        self.mean = MeanPooling()

    def forward(self, frames: Tensor, state: tuple | None = None) -> tuple:
        """Add frame embeddings, (…, T, D), to the state so far: the sum, (…, D), and the LSTM's memory."""
        total, memory = state or (None, None)
        hidden, memory = self.lstm_visual(frames, memory)  # (…, T, D)
        return self.mean(hidden + frames, total), memory

    def pool(self, state: tuple) -> Tensor:
        """Return the video's embedding, (…, D), not normalised."""
        return state[0]


class SequenceTransformer(nn.Module):
    """``seqTransf``: a transformer over the frame embeddings and their positions, added back to them, then the mean."""

    HEAD_WIDTH: ClassVar[int] = 64
    ACTIVATION: ClassVar[str] = "quick_gelu"
    NORM_EPS: ClassVar[float] = 1e-12

    def __init__(self, width: int, layers: int, positions: int) -> None:
        super().__init__()
        if width % self.HEAD_WIDTH:
            raise InputValueError(
                f"a seqTransf head needs embeddings of a multiple of {self.HEAD_WIDTH} numbers, not {width}"
            )
        self.frame_position_embeddings = _embedding(positions, width)
        self.transformerClip = Transformer(layers, width, self.HEAD_WIDTH, 4 * width, self.ACTIVATION, self.NORM_EPS)
        self.mean = MeanPooling()

    @property
    def max_frames(self) -> int:
        """The most frames a video may have: one for each position that was trained."""
        return self.frame_position_embeddings.num_embeddings

    def forward(self, frames: Tensor, previous: Tensor | None = None) -> Tensor:
        """Append frame embeddings, (…, T, D), to the previous ones, (…, S, D): pooling needs all of them together."""
        return frames if previous is None else torch.cat([previous, frames], dim=-2)  # (…, S + T, D)

    def pool(self, frames: Tensor) -> Tensor:
        """Return the video's embedding, (…, D), not normalised."""
        x = frames + self.frame_position_embeddings.weight[: frames.shape[-2]]  # (…, T, D)
        x = self.transformerClip(x if x.ndim == 3 else x[None]).view_as(frames)
        return self.mean(x + frames)  # (…, D)


PoolingHead = MeanPooling | SequenceLSTM | SequenceTransformer


def random_state_dict(config: CLIPConfig, seed: int = 0) -> dict[str, Tensor]:
    """Return the float32 tensors of an untrained CLIP under OpenAI's names.

    They are random numbers at the scale of CLIP's own initialisation, the same for the same seed.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        text, vision = TextTower(config).state_dict(), VisionTower(config).state_dict()
    shapes = {name: tensor.shape for name, tensor in text.items()}
    shapes |= {f"visual.{name}": tensor.shape for name, tensor in vision.items()}
    state = {"logit_scale": torch.tensor(INITIAL_LOGIT_SCALE)}
    for name, shape in shapes.items():
        if ".ln_" in f".{name}" or ".layernorm." in name or name.endswith("bias"):
            state[name] = torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
        else:
            state[name] = torch.randn(shape, generator=generator) * _initial_std(config, name)
    return state


def _initial_std(config: CLIPConfig, name: str) -> float:
    """Return the standard deviation of CLIP's initialisation of a weight."""
    if name.startswith("visual."):
        width, layers = config.vision_width, config.vision_layers
    else:
        width, layers = config.text_width, config.text_layers
    match name.split("."):
        case ["token_embedding", _]:
            return 0.02
        case ["positional_embedding"]:
            return 0.01
        case [*_, "probe"]:
            return 1.0
        case [*_, "conv1", "weight"]:
            return (3 * config.patch_size**2) ** -0.5
        case [*_, "out_proj" | "c_proj", "weight"]:
            return (2 * layers * width) ** -0.5
        case [*_, "c_fc", "weight"]:
            return (2 * width) ** -0.5
    return width**-0.5
