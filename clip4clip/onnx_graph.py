"""The towers of :mod:`clip4clip.model` as ONNX graphs: the same computation, tensor for tensor, in standard operators.

Written operator by operator rather than by torch's exporter: that takes a second and not ten, needs no package but
onnx, and gives what every runtime understands (opset 17, batch and length free). Whatever is written is compared with
torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .config import HEAD_WIDTH, CLIPConfig

OPSET, IR_VERSION = 17, 8
EPS, HEAD_EPS = 1e-5, 1e-12  # of the LayerNorms of CLIP, and of CLIP4Clip's seqTransf
MASKED = -1e30  # what no token may see; minus infinity would be no number where it meets another one
# Begins the names of the linear layers that are not to be quantised, as most of the error comes from them: those of the
# first block, and the last of all.
EXACT = "exact_"
MAX_FILE_BYTES = 2**31 - 2**20  # protobuf's limit, less what is not tensors

Tensors = Mapping[str, np.ndarray]


def text_graph(config: CLIPConfig, tensors: Tensors) -> onnx.ModelProto:
    """``ids``, int64 (batch, length), to ``embeddings``, float32 (batch, D), not normalised.

    Args:
        config: shape of the model.
        tensors: of the tower, float32, under the names of :class:`clip4clip.model.TextTower`.
    """
    graph = _Graph(tensors)
    length = graph.add("Slice", graph.add("Shape", "ids"), graph.ints(1), graph.ints(2), graph.ints(0))
    zero, one = graph.ints(0), graph.ints(1)
    position = graph.add("Slice", graph.tensor("positional_embedding"), zero, length, zero)
    x = graph.add("Add", graph.add("Gather", graph.tensor("token_embedding.weight"), "ids"), position)
    end = graph.add("ArgMax", "ids", axis=1)  # (B, 1): the end mark has the highest id
    causal = np.triu(np.full((config.context_length,) * 2, MASKED, np.float32), 1)
    mask = graph.add("Slice", graph.constant(causal), zero, length, zero)
    mask = graph.add("Slice", mask, zero, length, one)  # (L, L)
    end_mask = graph.add("Unsqueeze", graph.add("Gather", mask, end), one)  # (B, 1, 1, L)
    x = _transformer(graph, x, "transformer.", config.text_layers, config.text_width, mask, end, end_mask)
    x = graph.norm(x, "ln_final", EPS)
    graph.add("MatMul", x, graph.tensor("text_projection"), exact=True, output="embeddings")
    return graph.model([("ids", TensorProto.INT64, ["batch", "length"])], ("embeddings", ["batch", config.embed_dim]))


def vision_graph(config: CLIPConfig, tensors: Tensors, head: str | None = None) -> onnx.ModelProto:
    """``pixel_values``, float32 (frames, 3, R, R), to ``embeddings``, float32 (frames, D), not normalised.

    Args:
        config: shape of the model.
        tensors: of the tower, float32, under the names of :class:`clip4clip.model.VisionTower`, and of the head.
        head: with ``'meanP'``, ``'seqLSTM'`` or ``'seqTransf'`` the frames are those of one video, and the graph gives
            its ``vector``, (D,), of norm 1.
    """
    graph = _Graph(tensors)
    width, patch = config.vision_width, config.patch_size
    batch = graph.add("Slice", graph.add("Shape", "pixel_values"), graph.ints(0), graph.ints(1), graph.ints(0))
    x = graph.add("Conv", "pixel_values", graph.tensor("conv1.weight"), kernel_shape=[patch] * 2, strides=[patch] * 2)
    x = graph.add("Transpose", graph.add("Reshape", x, graph.ints(0, width, -1)), perm=[0, 2, 1])  # (N, patches, C)
    first = graph.add("Reshape", graph.tensor("class_embedding"), graph.ints(1, 1, width))
    first = graph.add("Expand", first, graph.add("Concat", batch, graph.ints(1, width), axis=0))
    x = graph.add("Add", graph.add("Concat", first, x, axis=1), graph.tensor("positional_embedding"))
    x = graph.norm(x, "ln_pre", EPS)
    class_token = graph.add("Expand", graph.ints(0), graph.add("Concat", batch, graph.ints(1), axis=0))  # (N, 1)
    x = _transformer(graph, x, "transformer.", config.vision_layers, width, only=class_token)
    x, output = graph.norm(x, "ln_post", EPS), None if head else "embeddings"
    frames = graph.add("MatMul", x, graph.tensor("proj"), exact=True, output=output)
    inputs = [("pixel_values", TensorProto.FLOAT, ["frames", 3, config.resolution, config.resolution])]
    if head is None:
        return graph.model(inputs, ("embeddings", ["frames", config.embed_dim]))
    if head == "seqLSTM":
        frames = graph.add("Add", frames, _lstm(graph, frames, config.embed_dim))
    elif head == "seqTransf":
        frames = graph.add("Add", frames, _sequence_transformer(graph, frames, batch, config.embed_dim))
    unit = graph.add("Div", frames, graph.add("ReduceL2", frames, axes=[1]))
    total = graph.add("ReduceSum", unit, graph.ints(0), keepdims=0)
    graph.add("Div", total, graph.add("ReduceL2", total, axes=[0]), output="vector")
    return graph.model(inputs, ("vector", [config.embed_dim]))


def save(model: onnx.ModelProto, path: Path, tensors_beside: bool = False) -> None:
    """Writes a graph and checks it.

    Args:
        model: the graph.
        path: of the file.
        tensors_beside: puts the tensors into ``<path>.data``, whence a runtime can map them.
    """
    beside = tensors_beside or model.ByteSize() > MAX_FILE_BYTES
    onnx.save_model(
        model, path, save_as_external_data=beside, location=f"{path.name}.data" if beside else None, size_threshold=4096
    )
    onnx.checker.check_model(str(path))


class _Graph:
    """Nodes and tensors, as they are added."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._nodes: list[onnx.NodeProto] = []
        self._kept: dict[str, onnx.TensorProto] = {}

    def add(self, kind: str, *inputs: str, output: str | None = None, exact: bool = False, **attributes: Any) -> str:
        """A node; gives the name of what it gives. Of one that is ``exact`` the name says so."""
        name = f"{EXACT if exact else ''}{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output or name], name, **attributes))
        return output or name

    def split(self, x: str, parts: int) -> list[str]:
        """Equal parts along the last axis."""
        names = [f"Split_{len(self._nodes)}_{part}" for part in range(parts)]
        self._nodes.append(helper.make_node("Split", [x], names, names[0], axis=-1))
        return names

    def tensor(self, name: str) -> str:
        """A tensor of the checkpoint, as it is."""
        if name not in self._kept:
            self._kept[name] = numpy_helper.from_array(np.ascontiguousarray(self._tensors[name]), name)
        return name

    def constant(self, array: np.ndarray) -> str:
        name = f"constant_{len(self._kept)}"
        self._kept[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def ints(self, *values: int) -> str:
        name = "ints_" + "_".join(map(str, values))
        if name not in self._kept:
            self._kept[name] = numpy_helper.from_array(np.array(values, np.int64), name)
        return name

    def array(self, name: str) -> np.ndarray:
        return self._tensors[name]

    def names(self) -> list[str]:
        return list(self._tensors)

    def norm(self, x: str, name: str, eps: float) -> str:
        weight, bias = self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")
        return self.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=eps)

    def linear(self, x: str, weight: np.ndarray, bias: np.ndarray, exact: bool) -> str:
        """x (…, K) times weight (K, N)."""
        return self.add("Add", self.add("MatMul", x, self.constant(weight), exact=exact), self.constant(bias))

    def module(self, x: str, name: str, exact: bool) -> str:
        """An ``nn.Linear`` of the checkpoint."""
        return self.linear(x, self.array(f"{name}.weight").T, self.array(f"{name}.bias"), exact)

    def model(self, inputs: Sequence[tuple[str, int, list[Any]]], output: tuple[str, list[Any]]) -> onnx.ModelProto:
        given = [helper.make_tensor_value_info(*one) for one in inputs]
        name, shape = output
        result = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self._nodes, "clip4clip", given, result, list(self._kept.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="clip4clip")


def _transformer(
    graph: _Graph,
    x: str,
    prefix: str,
    layers: int,
    width: int,
    mask: str | None = None,
    only: str | None = None,
    only_mask: str | None = None,
    eps: float = EPS,
) -> str:
    """(B, L, C) to the same, or with ``only``, (B, 1) with the place of one token in each row, to (B, C).

    Masks, (L, L) and (B, 1, 1, L), are added to the scores.
    """
    for number in range(layers):
        block, exact = f"{prefix}resblocks.{number}", number == 0
        y = graph.norm(x, f"{block}.ln_1", eps)
        weight = graph.array(f"{block}.attn.in_proj_weight").T.copy()
        bias = graph.array(f"{block}.attn.in_proj_bias").copy()
        weight[:, :width] /= 8  # the square root of 64: a power of two, so nothing is rounded
        bias[:width] /= 8
        if only is None or number < layers - 1:
            q, k, v = graph.split(graph.linear(y, weight, bias, exact), 3)
            seen = _attention(graph, q, k, v, width, mask)
        else:
            x, one = (graph.add("GatherND", each, only, batch_dims=1) for each in (x, y))
            q = graph.add("Unsqueeze", graph.linear(one, weight[:, :width], bias[:width], exact), graph.ints(1))
            k, v = graph.split(graph.linear(y, weight[:, width:], bias[width:], exact), 2)
            seen = graph.add("Squeeze", _attention(graph, q, k, v, width, only_mask), graph.ints(1))
        x = graph.add("Add", x, graph.module(seen, f"{block}.attn.out_proj", exact))
        y = graph.module(graph.norm(x, f"{block}.ln_2", eps), f"{block}.mlp.c_fc", exact)
        gate = graph.add("Sigmoid", graph.add("Mul", y, graph.constant(np.array(1.702, np.float32))))
        x = graph.add("Add", x, graph.module(graph.add("Mul", y, gate), f"{block}.mlp.c_proj", exact))
    return x


def _attention(graph: _Graph, q: str, k: str, v: str, width: int, mask: str | None) -> str:
    """(B, L or 1, C), (B, L, C), (B, L, C) to (B, L or 1, C)."""
    by_head = graph.ints(0, 0, width // HEAD_WIDTH, HEAD_WIDTH)
    q = graph.add("Transpose", graph.add("Reshape", q, by_head), perm=[0, 2, 1, 3])  # (B, heads, L or 1, 64)
    k = graph.add("Transpose", graph.add("Reshape", k, by_head), perm=[0, 2, 3, 1])  # (B, heads, 64, L)
    v = graph.add("Transpose", graph.add("Reshape", v, by_head), perm=[0, 2, 1, 3])
    scores = graph.add("MatMul", q, k)
    if mask is not None:
        scores = graph.add("Add", scores, mask)
    seen = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), v)
    return graph.add("Reshape", graph.add("Transpose", seen, perm=[0, 2, 1, 3]), graph.ints(0, 0, width))


def _lstm(graph: _Graph, frames: str, width: int) -> str:
    """What CLIP4Clip's LSTM makes of (T, D) frames, (T, D)."""

    def gates(name: str) -> np.ndarray:
        i, f, g, o = np.split(graph.array(f"lstm_visual.{name}_l0"), 4)
        return np.concatenate([i, o, f, g])[None]  # in ONNX's order

    bias = np.concatenate([gates("bias_ih"), gates("bias_hh")], axis=1)
    weights = (graph.constant(array) for array in (gates("weight_ih"), gates("weight_hh"), bias))
    steps = graph.add("Unsqueeze", frames, graph.ints(1))  # (T, 1, D)
    return graph.add("Reshape", graph.add("LSTM", steps, *weights, hidden_size=width), graph.ints(-1, width))


def _sequence_transformer(graph: _Graph, frames: str, count: str, width: int) -> str:
    """What CLIP4Clip's transformer makes of (T, D) frames, (T, D)."""
    zero = graph.ints(0)
    positions = graph.add("Slice", graph.tensor("frame_position_embeddings.weight"), zero, count, zero)
    blocks = [name for name in graph.names() if name.startswith("transformerClip.resblocks.")]
    layers = len({name.split(".")[2] for name in blocks})
    x = graph.add("Unsqueeze", graph.add("Add", frames, positions), graph.ints(0))
    return graph.add("Squeeze", _transformer(graph, x, "transformerClip.", layers, width, eps=HEAD_EPS), graph.ints(0))
