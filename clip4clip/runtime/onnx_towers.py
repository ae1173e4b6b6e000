"""The towers and heads of :mod:`clip4clip.model` as ONNX graphs: the same computation in standard operators.

The graphs are built node by node, not by torch's exporter. This takes one second instead of ten, needs no package but
onnx, and every runtime supports the result: opset 17, with free batch size and length. Linear layers treat all tokens
as the rows of one matrix, so ONNX Runtime adds the bias within the product: one caption takes 2 to 3 % less time.
:mod:`clip4clip.runtime.onnx_export` compares every graph with torch.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto

from ..config import CLIPConfig
from ..model import SequenceTransformer, grid_rotations
from .onnx_blocks import Blocks, Tokens, mlp, transformer
from .onnx_layers import GraphBuilder, Tensors

MASKED = -1e30  # added to a score to hide a token; minus infinity could become NaN
UNQUANTISED_BLOCKS = 1  # the first ones of a tower: they would cause most of the error


def text_graph(config: CLIPConfig, tensors: Tensors, quantised: bool = False) -> onnx.ModelProto:
    """Build the graph of a text tower.

    It maps ``ids``, (batch, length) int64, to ``embeddings``, (batch, D) float32, not normalised.

    Args:
        config: shape of the model.
        tensors: float32 tensors under the names of :class:`clip4clip.model.TextTower`. A block may also have
            ``mlp.gelu.divisor``: numbers by which the input of its ``c_proj`` is to be divided.
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
    tokens = Tokens(batch, length, mask, pooled_rows=eot_rows, pooled_mask=eot_mask)
    x = transformer(graph, x, _blocks(config, "text"), tokens)  # (B, C)
    x = graph.layer_norm(x, "ln_final", config.norm_eps)
    graph.add("MatMul", x, graph.tensor("text_projection"), output="embeddings")
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
        quantised: as for :func:`text_graph`; pooling and the head are never quantised.
    """
    graph = GraphBuilder(tensors, quantised)
    width, grid = config.vision_width, config.resolution // config.patch_size
    frames = graph.add("Slice", graph.add("Shape", "pixel_values"), graph.ints(0), graph.ints(1), graph.ints(0))
    length = graph.ints(grid**2 + 1)
    x = graph.layer_norm(_embed_patches(graph, config, frames), "ln_pre", config.norm_eps)
    tokens = Tokens(
        frames,
        length,
        rotation=_rotation(graph, config, grid) if config.rotary else None,
        pooled_rows=graph.add("Mul", graph.range(frames), length) if config.pooling == "token" else None,
    )
    x = transformer(graph, graph.flatten_rows(x, width), _blocks(config, "vision"), tokens)  # (N, C), or (N·L, C)
    x = graph.layer_norm(x, "ln_post", config.norm_eps)
    if config.pooling != "token":
        x = graph.add("Reshape", x, graph.add("Concat", frames, length, graph.ints(width), axis=0))  # (N, L, C)
        x = (_mean_of_patches if config.pooling == "mean" else _attention_pool)(graph, x, config)  # (N, C)
    x = graph.add("MatMul", x, graph.tensor("proj"), output=None if head else "embeddings")  # (N, D)
    inputs = [("pixel_values", TensorProto.FLOAT, ["frames", 3, config.resolution, config.resolution])]
    if head is None:
        return graph.finish(inputs, ("embeddings", ["frames", config.embed_dim]))
    _pool_frames(graph, x, head, frames, config.embed_dim)
    return graph.finish(inputs, ("vector", [config.embed_dim]))


def _blocks(config: CLIPConfig, tower: str) -> Blocks:
    """Return the blocks of a tower, ``'text'`` or ``'vision'``."""
    layers, width, head_width = (getattr(config, f"{tower}_{name}") for name in ("layers", "width", "head_width"))
    return Blocks(
        "transformer.", layers, width, head_width, config.activation, config.norm_eps, exact=UNQUANTISED_BLOCKS
    )


def _embed_patches(graph: GraphBuilder, config: CLIPConfig, frames: str) -> str:
    """Map pixel values to the class token and the patches of each frame, with their positions: (N, L, C)."""
    width, patch = config.vision_width, config.patch_size
    x = graph.add("Conv", "pixel_values", graph.tensor("conv1.weight"), kernel_shape=[patch] * 2, strides=[patch] * 2)
    x = graph.add("Transpose", graph.add("Reshape", x, graph.ints(0, width, -1)), perm=[0, 2, 1])  # (N, patches, C)
    class_token = graph.add("Reshape", graph.tensor("class_embedding"), graph.ints(1, 1, width))
    class_token = graph.add("Expand", class_token, graph.add("Concat", frames, graph.ints(1, width), axis=0))
    return graph.add("Add", graph.add("Concat", class_token, x, axis=1), graph.tensor("positional_embedding"))


def _rotation(graph: GraphBuilder, config: CLIPConfig, grid: int) -> tuple[str, str]:
    """Add the cosines and the sines by which the pairs of channels of all heads are rotated, each (L, C/2)."""
    rotations = grid_rotations(grid, config.vision_head_width, torch.device("cpu"))  # (2, L, W/2)
    cosine, sine = rotations.tile(config.vision_width // config.vision_head_width).numpy()
    return graph.constant(cosine), graph.constant(sine)


def _mean_of_patches(graph: GraphBuilder, tokens: str, config: CLIPConfig) -> str:
    """Add the pooling by mean, (N, L, C) to (N, C)."""
    length = (config.resolution // config.patch_size) ** 2 + 1
    patches = graph.add("Slice", tokens, graph.ints(1), graph.ints(length), graph.ints(1))  # without the class token
    return graph.add("ReduceMean", patches, axes=[1], keepdims=0)


def _attention_pool(graph: GraphBuilder, tokens: str, config: CLIPConfig) -> str:
    """Add the pooling by attention, (N, L, C) to (N, C).

    The query is the same for all frames, so its product with the weight of the keys is computed here: only one number
    for each token and head remains of them. (Their bias adds the same to all scores of a head, and changes nothing.)
    As the weights of the tokens add up to 1, the values are computed after their sum instead of before it.
    """
    width, heads, name = config.vision_width, config.pooling_heads, "attn_pool.attn"
    w_q, w_k, w_v = np.split(graph.tensors[f"{name}.in_proj_weight"].reshape(3 * heads, -1, width), 3)  # (heads, W, C)
    b_q, _, b_v = np.split(graph.tensors[f"{name}.in_proj_bias"].reshape(3 * heads, -1, 1), 3)  # (heads, W, 1)
    probe = graph.tensors["attn_pool.probe"].reshape(width, 1)
    q = (w_q @ probe + b_q) * (width // heads) ** -0.5  # (heads, W, 1)
    scores = graph.add("MatMul", tokens, graph.constant((w_k.transpose(0, 2, 1) @ q)[..., 0].T))  # (N, L, heads)
    weights = graph.add("Softmax", graph.add("Transpose", scores, perm=[0, 2, 1]), axis=-1)  # (N, heads, L)
    x = graph.add("Transpose", graph.add("MatMul", weights, tokens), perm=[1, 0, 2])  # (heads, N, C)
    x = graph.add("MatMul", x, graph.constant(w_v.transpose(0, 2, 1)))  # (heads, N, W)
    x = graph.add("Add", x, graph.constant(b_v.transpose(0, 2, 1)))
    x = graph.flatten_rows(graph.add("Transpose", x, perm=[1, 0, 2]), width)  # (N, C)
    x = graph.linear(x, f"{name}.out_proj", exact=True)
    y = graph.layer_norm(x, "attn_pool.layernorm", config.norm_eps)
    return graph.add("Add", x, mlp(graph, y, "attn_pool.mlp", config.activation, exact=True))


def _pool_frames(graph: GraphBuilder, frames: str, head: str, count: str, width: int) -> None:
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
    head = SequenceTransformer
    blocks = Blocks(
        "transformerClip.", layers, width, head.HEAD_WIDTH, head.ACTIVATION, eps=head.NORM_EPS, exact=layers
    )
    return transformer(graph, x, blocks, Tokens(batch=graph.ints(1), length=count))
