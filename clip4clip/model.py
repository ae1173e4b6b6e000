"""The two towers of CLIP and the pooling heads of CLIP4Clip, in the order data flows.

Sources: CLIP, arXiv 2103.00020 (section 2.4; names of parameters as in OpenAI's checkpoints) and
CLIP4Clip, arXiv 2104.08860 (section 3.3, similarity calculators: meanP, seqLSTM, seqTransf).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import HEAD_WIDTH, CLIPConfig


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, L, 3C)
        q, k, v = qkv.unflatten(-1, (3, -1, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)  # 3 x (B, heads, L, 64)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # (B, L, C)

    def at(self, one: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        """What one token of each row, (B, 1, C), sees of those that ``mask``, (B, 1, 1, L), lets it see."""
        width = x.shape[-1]
        q = F.linear(one, self.in_proj_weight[:width], self.in_proj_bias[:width])
        kv = F.linear(x, self.in_proj_weight[width:], self.in_proj_bias[width:])
        q = q.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2)  # (B, heads, 1, 64)
        k, v = kv.unflatten(-1, (2, -1, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)  # 2 x (B, heads, L, 64)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # (B, 1, C)


class Block(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.attn = Attention(width)
        self.ln_1 = nn.LayerNorm(width, eps)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=QuickGELU(), c_proj=nn.Linear(4 * width, width))
        )
        self.ln_2 = nn.LayerNorm(width, eps)

    def forward(self, x: Tensor, causal: bool, only: Tensor | None = None) -> Tensor:
        """(B, L, C) to (B, L, C); with ``only``, (B,) positions, to (B, C): what is not asked for is not computed."""
        if only is None:
            x = x + self.attn(self.ln_1(x), causal)
            return x + self.mlp(self.ln_2(x))
        rows = torch.arange(x.shape[0], device=x.device)
        y = self.ln_1(x)
        mask = (torch.arange(x.shape[1], device=x.device) <= only[:, None])[:, None, None] if causal else None
        x = x[rows, only] + self.attn.at(y[rows, only][:, None], y, mask)[:, 0]  # (B, C)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, eps) for _ in range(layers))
        self.recompute = False  # in training: keep no activations of the blocks, compute them again on the way back

    def forward(self, x: Tensor, causal: bool = False, only: Tensor | None = None) -> Tensor:
        """(B, L, C) to (B, L, C); with ``only``, the positions of one token in each row, to these, (B, C)."""
        last = len(self.resblocks) - 1
        for number, block in enumerate(self.resblocks):
            arguments = (x, causal, only if number == last else None)
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x = block(*arguments)
        return x


class TextTower(nn.Module):
    """Token ids to text embeddings."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = _embedding(config.vocab_size, config.text_width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, config.text_width))
        self.transformer = Transformer(config.text_width, config.text_layers)
        self.ln_final = nn.LayerNorm(config.text_width)
        self.text_projection = nn.Parameter(torch.empty(config.text_width, config.embed_dim))

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) int64 token ids, L <= context_length, to (B, embed_dim), not normalised.

        Attention is causal, so what follows the end mark of a shorter row changes nothing.
        """
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]  # (B, L, C)
        end = ids.argmax(-1)  # the end mark has the highest id
        x = self.transformer(x, causal=True, only=end)  # (B, C)
        return self.ln_final(x) @ self.text_projection


class VisionTower(nn.Module):
    """Frames to frame embeddings."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        width, patches = config.vision_width, (config.resolution // config.patch_size) ** 2
        self.conv1 = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(patches + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.vision_layers)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, config.embed_dim))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(N, 3, resolution, resolution) normalised pixels to (N, embed_dim), not normalised."""
        x = self.conv1(pixel_values).flatten(2).transpose(1, 2)  # (N, patches, C)
        x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], dim=1)  # (N, 1 + patches, C)
        first = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)  # the class token
        x = self.transformer(self.ln_pre(x + self.positional_embedding), only=first)  # (N, C)
        return self.ln_post(x) @ self.proj


class MeanPooling(nn.Module):
    """``meanP``: the mean of the normalised frame embeddings. No parameters.

    Like the other heads it takes the frames of a video, or of several with equally many, in pieces of any length, in
    order: ``state = None``, then ``state = head(frames, state)`` for each piece, then ``head.pool(state)``.
    """

    def forward(self, frames: Tensor, total: Tensor | None = None) -> Tensor:
        """(…, T, D) frame embeddings and the sum so far to the new sum, (…, D)."""
        added = F.normalize(frames, dim=-1).sum(-2)
        return added if total is None else total + added

    def pool(self, total: Tensor) -> Tensor:
        """The video's embedding, (…, D), not normalised: a sum points where the mean does."""
        return total


class SequenceLSTM(nn.Module):
    """``seqLSTM``: an LSTM over the frame embeddings, added back to them, then the mean of the normalised sums."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm_visual = nn.LSTM(width, width, batch_first=True)
        self.mean = MeanPooling()

    def forward(self, frames: Tensor, state: tuple | None = None) -> tuple:
        """(…, T, D) frame embeddings and (sum, LSTM state) so far to the new pair."""
        total, memory = state or (None, None)
        hidden, memory = self.lstm_visual(frames, memory)
        return self.mean(hidden + frames, total), memory

    def pool(self, state: tuple) -> Tensor:
        """The video's embedding, (…, D), not normalised."""
        return state[0]


class SequenceTransformer(nn.Module):
    """``seqTransf``: a transformer over the frame embeddings and their positions, added back to them, then the mean."""

    def __init__(self, width: int, layers: int, positions: int) -> None:
        super().__init__()
        self.frame_position_embeddings = _embedding(positions, width)
        self.transformerClip = Transformer(width, layers, eps=1e-12)
        self.mean = MeanPooling()

    @property
    def max_frames(self) -> int:
        """How many frames one video may have: one for each position that was trained."""
        return self.frame_position_embeddings.num_embeddings

    def forward(self, frames: Tensor, seen: Tensor | None = None) -> Tensor:
        """(…, T, D) frame embeddings and the (…, S, D) before them to all, (…, S + T, D): all attend to all."""
        return frames if seen is None else torch.cat([seen, frames], dim=-2)

    def pool(self, frames: Tensor) -> Tensor:
        """The video's embedding, (…, D), not normalised."""
        x = frames + self.frame_position_embeddings.weight[: frames.shape[-2]]
        x = self.transformerClip(x if x.ndim == 3 else x[None]).view_as(frames)
        return self.mean(x + frames)


def _embedding(count: int, width: int) -> nn.Embedding:
    """Without nn.Embedding's own initialisation, which on the meta device imports torch's compiler, for seconds."""
    return nn.Embedding.from_pretrained(torch.empty(count, width), freeze=False)


def random_state_dict(config: CLIPConfig, seed: int = 0) -> dict[str, Tensor]:
    """An untrained CLIP: random numbers at the scale of CLIP's own initialisation, float32, under OpenAI's names."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        text, vision = TextTower(config).state_dict(), VisionTower(config).state_dict()
    shapes = {name: tensor.shape for name, tensor in text.items()}
    shapes |= {f"visual.{name}": tensor.shape for name, tensor in vision.items()}
    state = {"logit_scale": torch.tensor(1 / 0.07).log()}
    for name, shape in shapes.items():
        width, layers = (
            (config.vision_width, config.vision_layers)
            if name.startswith("visual.")
            else (config.text_width, config.text_layers)
        )
        if ".ln_" in f".{name}" or name.endswith("bias"):
            state[name] = torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
            continue
        match name.split("."):
            case ["token_embedding", _]:
                std = 0.02
            case ["positional_embedding"]:
                std = 0.01
            case [*_, "conv1", "weight"]:
                std = (3 * config.patch_size**2) ** -0.5
            case [*_, "out_proj" | "c_proj", "weight"]:
                std = (2 * layers * width) ** -0.5
            case [*_, "c_fc", "weight"]:
                std = (2 * width) ** -0.5
            case _:
                std = width**-0.5
        state[name] = torch.randn(shape, generator=generator) * std
    return state
