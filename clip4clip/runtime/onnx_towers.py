"""The towers and heads of :mod:`clip4clip.model` as ONNX graphs: the same computation in standard operators.

The graphs are built node by node, not by torch's exporter. This takes one second instead of ten, needs no package but
onnx, and every runtime supports the result: opset 17, with free batch size and length. Linear layers treat all tokens
as the rows of one matrix, so ONNX Runtime adds the bias within the product: one caption takes 2 to 3 % less time.
:mod:`clip4clip.runtime.onnx_export` compares every graph with torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from ..config import HEAD_WIDTH, CLIPConfig
from .onnx_layers import GraphBuilder, Tensors

EPS, HEAD_EPS = 1e-5, 1e-12  # epsilon of LayerNorm in CLIP, and in CLIP4Clip's seqTransf
MASKED = -1e30  # added to a score to hide a token; minus infinity could become NaN
UNQUANTISED_BLOCKS = 1  # the first ones of a tower: they would cause most of the error


def text_graph(config: CLIPConfig, tensors: Tensors, quantised: bool = False) -> onnx.ModelProto:
    """Build the graph of a text tower.

    It maps ``ids``, (batch, length) int64, to ``embeddings``, (batch, D) float32, not normalised.

    Args:
        config: shape of the model.
        tensors: float32 tensors under the names of :class:`clip4clip.model.TextTower`. A block may also have
            ``mlp.gelu.divisor``: the numbers by which its ``c_fc`` was divided.
        quantised: compute the linear layers in 8 bits, except those of the first block and the final projection, which
            would cause most of the error.
    """
    graph = GraphBuilder(tensors, quantised)
    batch, length = graph.split(graph.add("Shape", "ids"), 2)
    zero, one = graph.ints(0), graph.ints(1)
    positions = graph.add("Slice", graph.tensor("positional_embedding"), zero, length, zero)  # (L, C)
    x = graph.add("Add", graph.add("Gather", graph.tensor("token_embedding.weight"), "ids"), positions)  # (B, L, C)
    eot = graph.add("ArgMax", "ids", axis=1, keepdims=0)  # (B,): the EOT token has the highest id
    causal = np.triu(np.full((config.context_length,) * 2, MASKED, np.float32), 1)
    mask = graph.add("Slice", graph.constant(causal), zero, length, zero)
    mask = graph.add("Slice", mask, zero, length, one)  # (L, L)
    eot_mask = graph.add("Unsqueeze", graph.add("Gather", mask, eot), graph.ints(1, 2))  # (B, 1, 1, L)
    x = graph.flatten_rows(x, config.text_width)  # (B·L, C)
    first_rows = graph.add("Mul", graph.range(batch), length)
    eot_rows = graph.add("Add", first_rows, eot)
    blocks = _Blocks("transformer.", config.text_layers, config.text_width)
    tokens = _Tokens(batch, length, mask, pooled_rows=eot_rows, pooled_mask=eot_mask)
    x = _transformer(graph, x, blocks, tokens)  # (B, C)
    graph.add("MatMul", graph.layer_norm(x, "ln_final", EPS), graph.tensor("text_projection"), output="embeddings")
    return graph.finish([("ids", TensorProto.INT64, ["batch", "length"])], ("embeddings", ["batch", config.embed_dim]))


def vision_graph(
    config: CLIPConfig, tensors: Tensors, head: str | None = None, quantised: bool = False
) -> onnx.ModelProto:
    """Build the graph of a vision tower.

    It maps ``pixel_values``, (frames, 3, R, R) float32, to ``embeddings``, (frames, D) float32, not normalised.

    Args:
        config: shape of the model.
        tensors: as for :func:`text_graph`, but of a :class:`clip4clip.model.VisionTower` and its head.
        head: ``'meanP'``, ``'seqLSTM'`` or ``'seqTransf'``. The frames are then those of one video, and the output is
            its ``vector``, (D,) float32, of length 1.
        quantised: as for :func:`text_graph`; the head is never quantised.
    """
    graph = GraphBuilder(tensors, quantised)
    width, patch = config.vision_width, config.patch_size
    tokens_per_frame = (config.resolution // patch) ** 2 + 1
    batch = graph.add("Slice", graph.add("Shape", "pixel_values"), graph.ints(0), graph.ints(1), graph.ints(0))
    x = graph.add("Conv", "pixel_values", graph.tensor("conv1.weight"), kernel_shape=[patch] * 2, strides=[patch] * 2)
    x = graph.add("Transpose", graph.add("Reshape", x, graph.ints(0, width, -1)), perm=[0, 2, 1])  # (N, patches, C)
    class_token = graph.add("Reshape", graph.tensor("class_embedding"), graph.ints(1, 1, width))
    class_token = graph.add("Expand", class_token, graph.add("Concat", batch, graph.ints(1, width), axis=0))
    x = graph.add("Concat", class_token, x, axis=1)  # (N, 1 + patches, C)
    x = graph.add("Add", x, graph.tensor("positional_embedding"))
    x = graph.layer_norm(graph.flatten_rows(x, width), "ln_pre", EPS)  # (N·L, C)
    class_rows = graph.add("Mul", graph.range(batch), graph.ints(tokens_per_frame))
    blocks = _Blocks("transformer.", config.vision_layers, width)
    x = _transformer(graph, x, blocks, _Tokens(batch, graph.ints(tokens_per_frame), pooled_rows=class_rows))  # (N, C)
    output = None if head else "embeddings"
    x = graph.add("MatMul", graph.layer_norm(x, "ln_post", EPS), graph.tensor("proj"), output=output)  # (N, D)
    inputs = [("pixel_values", TensorProto.FLOAT, ["frames", 3, config.resolution, config.resolution])]
    if head is None:
        return graph.finish(inputs, ("embeddings", ["frames", config.embed_dim]))
    _pool(graph, x, head, batch, config.embed_dim)
    return graph.finish(inputs, ("vector", [config.embed_dim]))


@dataclass(frozen=True)
class _Blocks:
    """The blocks of a transformer.

    Attributes:
        prefix: prefix of the names of their tensors.
        layers: number of blocks.
        width: C.
        eps: epsilon of the LayerNorms.
        exact: number of blocks, from the first on, that are never quantised.
    """

    prefix: str
    layers: int
    width: int
    eps: float = EPS
    exact: int = UNQUANTISED_BLOCKS


@dataclass(frozen=True)
class _Tokens:
    """The tokens of a transformer's input, (B·L, C), by the names of tensors in the graph.

    Attributes:
        batch: B, (1,).
        length: L, (1,).
        mask: added to the scores, (L, L), or None.
        pooled_rows: the rows, (B,), of the tokens that the output keeps, one of each sequence; None keeps all.
        pooled_mask: added to the scores of these tokens, (B, 1, 1, L), or None.
    """

    batch: str
    length: str
    mask: str | None = None
    pooled_rows: str | None = None
    pooled_mask: str | None = None


def _transformer(graph: GraphBuilder, x: str, blocks: _Blocks, tokens: _Tokens) -> str:
    """Map (B·L, C) to (B·L, C), or to (B, C) if ``tokens`` names the rows to keep."""
    heads = blocks.width // HEAD_WIDTH
    all_heads = graph.add("Concat", tokens.batch, tokens.length, graph.ints(heads, HEAD_WIDTH), axis=0)
    pooled_heads = graph.add("Concat", tokens.batch, graph.ints(1, heads, HEAD_WIDTH), axis=0)
    for index in range(blocks.layers):
        block, exact = f"{blocks.prefix}resblocks.{index}", index < blocks.exact
        y = graph.layer_norm(x, f"{block}.ln_1", blocks.eps)
        weight, bias = _scaled_in_projection(graph, block, blocks.width)
        if tokens.pooled_rows is None or index < blocks.layers - 1:
            q, k, v = graph.split(graph.product(y, weight, bias, exact), 3, axis=1)
            y = _attention(graph, (q, all_heads), (k, v, all_heads), blocks.width, tokens.mask)
        else:  # the last block computes only the rows that are kept
            width = blocks.width
            x = graph.add("Gather", x, tokens.pooled_rows)  # (B, C)
            pooled = graph.add("Gather", y, tokens.pooled_rows)
            q = graph.product(pooled, weight[:, :width], bias[:width], exact)
            k, v = graph.split(graph.product(y, weight[:, width:], bias[width:], exact), 2, axis=1)
            y = _attention(graph, (q, pooled_heads), (k, v, all_heads), width, tokens.pooled_mask)
        x = graph.add("Add", x, graph.linear(y, f"{block}.attn.out_proj", exact))
        x = graph.add("Add", x, _mlp(graph, graph.layer_norm(x, f"{block}.ln_2", blocks.eps), block, exact))
    return x


def _scaled_in_projection(graph: GraphBuilder, block: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weight, (C, 3C), and bias, (3C,), of queries, keys and values, with attention's scale in the queries."""
    weight = graph.tensors[f"{block}.attn.in_proj_weight"].T.copy()
    bias = graph.tensors[f"{block}.attn.in_proj_bias"].copy()
    weight[:, :width] /= 8  # the square root of 64: a power of two, so nothing is rounded
    bias[:width] /= 8
    return weight, bias


def _attention(
    graph: GraphBuilder, queries: tuple[str, str], keys_values: tuple[str, str, str], width: int, mask: str | None
) -> str:
    """Return what the queries attend to, (rows, C).

    Args:
        graph: the graph.
        queries: q and its shape (B, L or 1, heads, 64).
        keys_values: k, v and their shape (B, L, heads, 64).
        width: C.
        mask: added to the scores, or None.
    """
    (q, q_shape), (k, v, shape) = queries, keys_values
    q = graph.add("Transpose", graph.add("Reshape", q, q_shape), perm=[0, 2, 1, 3])  # (B, heads, L or 1, 64)
    k = graph.add("Transpose", graph.add("Reshape", k, shape), perm=[0, 2, 3, 1])  # (B, heads, 64, L)
    v = graph.add("Transpose", graph.add("Reshape", v, shape), perm=[0, 2, 1, 3])  # (B, heads, L, 64)
    scores = graph.add("MatMul", q, k)  # (B, heads, L or 1, L)
    if mask is not None:
        scores = graph.add("Add", scores, mask)
    attended = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), v)  # (B, heads, L or 1, 64)
    return graph.flatten_rows(graph.add("Transpose", attended, perm=[0, 2, 1, 3]), width)


def _mlp(graph: GraphBuilder, x: str, block: str, exact: bool) -> str:
    """Add the MLP of a block, (rows, C) to (rows, C)."""
    x = graph.linear(x, f"{block}.mlp.c_fc", exact)  # (rows, 4C)
    # QuickGELU's gate needs the numbers as they were before c_fc was divided.
    divisor = graph.tensors.get(f"{block}.mlp.gelu.divisor", np.ones((), np.float32))
    gate = graph.add("Sigmoid", graph.add("Mul", x, graph.constant(np.float32(1.702) * divisor)))
    return graph.linear(graph.add("Mul", x, gate), f"{block}.mlp.c_proj", exact, after_gelu=True)


def _pool(graph: GraphBuilder, frames: str, head: str, count: str, width: int) -> None:
    """Pool the frame embeddings of a video, (T, D), into the output ``vector``, (D,)."""
    if head == "seqLSTM":
        frames = graph.add("Add", frames, _lstm(graph, frames, width))
    elif head == "seqTransf":
        frames = graph.add("Add", frames, _sequence_transformer(graph, frames, count, width))
    unit = graph.add("Div", frames, graph.add("ReduceL2", frames, axes=[1]))
    total = graph.add("ReduceSum", unit, graph.ints(0), keepdims=0)
    graph.add("Div", total, graph.add("ReduceL2", total, axes=[0]), output="vector")


def _lstm(graph: GraphBuilder, frames: str, width: int) -> str:
    """Add the LSTM of ``seqLSTM``, (T, D) to (T, D)."""

    def reordered_gates(name: str) -> np.ndarray:
        i, f, g, o = np.split(graph.tensors[f"lstm_visual.{name}_l0"], 4)  # torch's order
        return np.concatenate([i, o, f, g])[None]  # ONNX's order

    bias = np.concatenate([reordered_gates("bias_ih"), reordered_gates("bias_hh")], axis=1)
    arrays = reordered_gates("weight_ih"), reordered_gates("weight_hh"), bias
    steps = graph.add("Unsqueeze", frames, graph.ints(1))  # (T, 1, D)
    weights = [graph.constant(array) for array in arrays]
    return graph.flatten_rows(graph.add("LSTM", steps, *weights, hidden_size=width), width)


def _sequence_transformer(graph: GraphBuilder, frames: str, count: str, width: int) -> str:
    """Add the transformer of ``seqTransf``, (T, D) to (T, D)."""
    zero = graph.ints(0)
    positions = graph.add("Slice", graph.tensor("frame_position_embeddings.weight"), zero, count, zero)
    names = [name for name in graph.tensors if name.startswith("transformerClip.resblocks.")]
    layers = len({name.split(".")[2] for name in names})
    x = graph.add("Add", frames, positions)
    blocks = _Blocks("transformerClip.", layers, width, HEAD_EPS, exact=layers)
    return _transformer(graph, x, blocks, _Tokens(batch=graph.ints(1), length=count))
