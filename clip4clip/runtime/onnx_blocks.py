"""Transformers as nodes of an ONNX graph: blocks of attention and an MLP, those of :mod:`clip4clip.model`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .onnx_layers import GraphBuilder


@dataclass(frozen=True)
class Blocks:
    """The blocks of a transformer.

    Attributes:
        prefix: prefix of the names of their tensors.
        layers: number of blocks.
        width: C.
        head_width: channels of an attention head, W.
        activation: of the MLPs, one of :data:`clip4clip.config.ACTIVATIONS`.
        eps: epsilon of the LayerNorms.
        exact: number of blocks, from the first on, that are never quantised.
    """

    prefix: str
    layers: int
    width: int
    head_width: int
    activation: str
    eps: float
    exact: int


@dataclass(frozen=True)
class Tokens:
    """The tokens of a transformer's input, (B·L, C), by the names of tensors in the graph.

    Attributes:
        batch: B, (1,).
        length: L, (1,).
        mask: added to the scores, (L, L), or None.
        rotation: cosines and sines by which queries and keys are rotated, each (L, C/2), or None. An angle is that of
            two neighbouring channels. The pooled rows are not rotated: their angles must be 0.
        pooled_rows: the rows, (B,), of the tokens that the output keeps, one of each sequence; None keeps all.
        pooled_mask: added to the scores of these tokens, (B, 1, 1, L), or None.
    """

    batch: str
    length: str
    mask: str | None = None
    rotation: tuple[str, str] | None = None
    pooled_rows: str | None = None
    pooled_mask: str | None = None


def transformer(graph: GraphBuilder, x: str, blocks: Blocks, tokens: Tokens) -> str:
    """Map (B·L, C) to (B·L, C), or to (B, C) if ``tokens`` names the rows to keep."""
    for index in range(blocks.layers):
        block, exact = f"{blocks.prefix}resblocks.{index}", index < blocks.exact
        y = graph.layer_norm(x, f"{block}.ln_1", blocks.eps)
        if tokens.pooled_rows is None or index < blocks.layers - 1:
            y = _attend(graph, y, block, blocks, tokens, exact)
        else:  # the last block computes only the rows that are kept
            x, pooled = (graph.add("Gather", all_rows, tokens.pooled_rows) for all_rows in (x, y))  # 2 x (B, C)
            y = _attend_from_pooled_rows(graph, pooled, y, block, blocks, tokens, exact)
        x = graph.add("Add", x, graph.linear(y, f"{block}.attn.out_proj", exact))
        y = graph.layer_norm(x, f"{block}.ln_2", blocks.eps)
        x = graph.add("Add", x, mlp(graph, y, f"{block}.mlp", blocks.activation, exact))
    return x


def mlp(graph: GraphBuilder, x: str, name: str, activation: str, exact: bool) -> str:
    """Add an MLP, (rows, C) to (rows, C).

    Args:
        graph: the graph.
        x: the input.
        name: prefix of the names of its tensors, without the dot.
        activation: one of :data:`clip4clip.config.ACTIVATIONS`.
        exact: see :meth:`GraphBuilder.product`.
    """
    x = _activation(graph, graph.linear(x, f"{name}.c_fc", exact), activation)  # (rows, MLP width)
    if (divisor := graph.tensors.get(f"{name}.gelu.divisor")) is not None:
        x = graph.add("Mul", x, graph.constant(1 / divisor))
    return graph.linear(x, f"{name}.c_proj", exact, activation)


def _activation(graph: GraphBuilder, x: str, activation: str) -> str:
    """Add an activation. ONNX Runtime fuses each of these groups of nodes into one node."""
    if activation == "gelu":  # written as a product by 1 / √2, it would not be fused, and takes longer
        erf = graph.add("Erf", graph.add("Div", x, graph.number(2**0.5)))
        return graph.add("Mul", graph.add("Mul", x, graph.number(0.5)), graph.add("Add", erf, graph.number(1)))
    return graph.add("Mul", x, graph.add("Sigmoid", graph.add("Mul", x, graph.number(1.702))))


def _attend(graph: GraphBuilder, y: str, block: str, blocks: Blocks, tokens: Tokens, exact: bool) -> str:
    """Let each token attend to all tokens that the mask allows: (B·L, C) to (B·L, C)."""
    weight, bias = _in_projection(graph, block, blocks, tokens)
    qkv = graph.product(y, weight, bias, exact)  # (B·L, 3C)
    heads, half = blocks.width // blocks.head_width, blocks.width // 2
    shape = graph.add("Concat", tokens.batch, tokens.length, graph.ints(heads, blocks.head_width), axis=0)
    if tokens.rotation is None:
        q, k, v = graph.split(qkv, 3, axis=1)
    else:
        q_even, q_odd, k_even, k_odd, v = graph.split(qkv, (half, half, half, half, blocks.width), axis=1)
        q = _rotate(graph, [q_even, q_odd], tokens.rotation, blocks, tokens)
        k = _rotate(graph, [k_even, k_odd], tokens.rotation, blocks, tokens)
    return _attention(graph, (q, shape), (k, v, shape), blocks.width, tokens.mask)


def _attend_from_pooled_rows(
    graph: GraphBuilder, pooled: str, y: str, block: str, blocks: Blocks, tokens: Tokens, exact: bool
) -> str:
    """Let the pooled rows, (B, C), attend to all tokens, (B·L, C), that their mask allows."""
    weight, bias = _in_projection(graph, block, blocks, tokens)
    width, head_width = blocks.width, blocks.head_width
    heads, half = width // head_width, width // 2
    shape = graph.add("Concat", tokens.batch, tokens.length, graph.ints(heads, head_width), axis=0)
    pooled_shape = graph.add("Concat", tokens.batch, graph.ints(1, heads, head_width), axis=0)
    q = graph.product(pooled, weight[:, :width], bias[:width], exact)  # (B, C)
    kv = graph.product(y, weight[:, width:], bias[width:], exact)  # (B·L, 2C)
    if tokens.rotation is None:
        k, v = graph.split(kv, 2, axis=1)
    else:
        k_even, k_odd, v = graph.split(kv, (half, half, width), axis=1)
        k = _rotate(graph, [k_even, k_odd], tokens.rotation, blocks, tokens)
        q = _join(graph, graph.split(q, 2, axis=1), (tokens.batch, graph.ints(1)), blocks)
    return _attention(graph, (q, pooled_shape), (k, v, shape), width, tokens.pooled_mask)


def _in_projection(graph: GraphBuilder, block: str, blocks: Blocks, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Return weight, (C, 3C), and bias, (3C,), of queries, keys and values, with attention's scale in the queries.

    If queries and keys are rotated, their even channels are first and their odd channels behind them, each in the order
    of the heads. Rotating needs both as a whole, and attention does not depend on the order within a head.
    """
    width = blocks.width
    weight = graph.tensors[f"{block}.attn.in_proj_weight"].T.copy()
    bias = graph.tensors[f"{block}.attn.in_proj_bias"].copy()
    weight[:, :width] *= blocks.head_width**-0.5
    bias[:width] *= blocks.head_width**-0.5
    if tokens.rotation is None:
        return weight, bias
    channels = np.arange(width)
    halves = np.concatenate([channels[::2], channels[1::2]])
    columns = np.concatenate([halves, width + halves, 2 * width + channels])
    return weight[:, columns], bias[columns]


def _rotate(graph: GraphBuilder, halves: list[str], rotation: tuple[str, str], blocks: Blocks, tokens: Tokens) -> str:
    """Rotate each even channel with the odd one that follows it: two (B·L, C/2) to (B, L, heads, W)."""
    cosine, sine = rotation
    shape = graph.add("Concat", tokens.batch, tokens.length, graph.ints(blocks.width // 2), axis=0)
    even, odd = (graph.add("Reshape", half, shape) for half in halves)  # (B, L, C/2)
    rotated_even = graph.add("Sub", graph.add("Mul", even, cosine), graph.add("Mul", odd, sine))
    rotated_odd = graph.add("Add", graph.add("Mul", odd, cosine), graph.add("Mul", even, sine))
    return _join(graph, [rotated_even, rotated_odd], (tokens.batch, tokens.length), blocks)


def _join(graph: GraphBuilder, halves: list[str], rows: tuple[str, str], blocks: Blocks) -> str:
    """Put the even and the odd channels of each head side by side: two (…, C/2) to (rows, heads, W)."""
    heads, half = blocks.width // blocks.head_width, blocks.head_width // 2
    shape = graph.add("Concat", *rows, graph.ints(heads, half), axis=0)
    return graph.add("Concat", *(graph.add("Reshape", x, shape) for x in halves), axis=-1)


def _attention(
    graph: GraphBuilder, queries: tuple[str, str], keys_values: tuple[str, str, str], width: int, mask: str | None
) -> str:
    """Return what the queries attend to, (rows, C).

    Args:
        graph: the graph.
        queries: q and its shape (B, L or 1, heads, W).
        keys_values: k, v and their shape (B, L, heads, W).
        width: C.
        mask: added to the scores, or None.
    """
    (q, q_shape), (k, v, shape) = queries, keys_values
    q = graph.add("Transpose", graph.add("Reshape", q, q_shape), perm=[0, 2, 1, 3])  # (B, heads, L or 1, W)
    k = graph.add("Transpose", graph.add("Reshape", k, shape), perm=[0, 2, 3, 1])  # (B, heads, W, L)
    v = graph.add("Transpose", graph.add("Reshape", v, shape), perm=[0, 2, 1, 3])  # (B, heads, L, W)
    scores = graph.add("MatMul", q, k)  # (B, heads, L or 1, L)
    if mask is not None:
        scores = graph.add("Add", scores, mask)
    attended = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), v)  # (B, heads, L or 1, W)
    return graph.flatten_rows(graph.add("Transpose", attended, perm=[0, 2, 1, 3]), width)
