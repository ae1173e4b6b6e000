"""The towers of :mod:`clip4clip.model` as ONNX graphs: the same computation, tensor for tensor, in standard operators.

Written operator by operator rather than by torch's exporter: that takes a second and not ten, needs no package but
onnx, and gives what every runtime understands (opset 17, batch and length free). Linear layers see all tokens as one
matrix, so that ONNX Runtime adds the bias within the product: for one caption that is 2 to 3 % faster. Whatever is
written is compared with torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..config import HEAD_WIDTH, CLIPConfig

OPSET, IR_VERSION = 17, 8
EPS, HEAD_EPS = 1e-5, 1e-12  # of the LayerNorms of CLIP, and of CLIP4Clip's seqTransf
MASKED = -1e30  # what no token may see; minus infinity would be no number where it meets another one
# Levels of 8-bit numbers: an input has 0 to 180, and a weight -91 to 91. Processors without VNNI add two products of an
# unsigned and a signed byte in 16 bits, and saturate: 2 * 180 * 91 is less than 2**15.
INPUT_TOP, WEIGHT_TOP = 180, 91
ZERO, ZERO_AFTER_GELU = 90, 20  # levels of the input that stand for 0
GELU_LOWEST = 0.1637  # QuickGELU gives nothing below minus this
SMALLEST = 1e-30  # a row of zeros is divided by this
MAX_FILE_BYTES = 2**31 - 2**20  # protobuf's limit, less what is not tensors

Tensors = Mapping[str, np.ndarray]


def text_graph(config: CLIPConfig, tensors: Tensors, quantised: bool = False) -> onnx.ModelProto:
    """``ids``, int64 (batch, length), to ``embeddings``, float32 (batch, D), not normalised.

    Args:
        config: shape of the model.
        tensors: of the tower, float32, under the names of :class:`clip4clip.model.TextTower`; of a block perhaps also
            ``mlp.gelu.divisor``, by which its ``c_fc`` is divided.
        quantised: computes the linear layers in 8 bits, except those of the first block and the last projection, where
            most of the error would come from.
    """
    graph = _Graph(tensors, quantised)
    batch, length = graph.split(graph.add("Shape", "ids"), 2)
    zero, one = graph.ints(0), graph.ints(1)
    position = graph.add("Slice", graph.tensor("positional_embedding"), zero, length, zero)
    x = graph.add("Add", graph.add("Gather", graph.tensor("token_embedding.weight"), "ids"), position)
    end = graph.add("ArgMax", "ids", axis=1, keepdims=0)  # the end mark has the highest id
    causal = np.triu(np.full((config.context_length,) * 2, MASKED, np.float32), 1)
    mask = graph.add("Slice", graph.constant(causal), zero, length, zero)
    mask = graph.add("Slice", mask, zero, length, one)  # (L, L)
    end_mask = graph.add("Unsqueeze", graph.add("Gather", mask, end), graph.ints(1, 2))  # (B, 1, 1, L)
    x, batch_rows = graph.rows(x, config.text_width), graph.add("Mul", graph.range(batch), length)
    only = graph.add("Add", batch_rows, end)
    x = _transformer(
        graph, x, "transformer.", config.text_layers, config.text_width, batch, length, mask, only, end_mask
    )
    graph.add("MatMul", graph.norm(x, "ln_final", EPS), graph.tensor("text_projection"), output="embeddings")
    return graph.model([("ids", TensorProto.INT64, ["batch", "length"])], ("embeddings", ["batch", config.embed_dim]))


def vision_graph(
    config: CLIPConfig, tensors: Tensors, head: str | None = None, quantised: bool = False
) -> onnx.ModelProto:
    """``pixel_values``, float32 (frames, 3, R, R), to ``embeddings``, float32 (frames, D), not normalised.

    Args:
        config: shape of the model.
        tensors: as for :func:`text_graph`, of :class:`clip4clip.model.VisionTower`, and of the head.
        head: with ``'meanP'``, ``'seqLSTM'`` or ``'seqTransf'`` the frames are those of one video, and the graph gives
            its ``vector``, (D,), of norm 1.
        quantised: as for :func:`text_graph`; the head stays as it is.
    """
    graph = _Graph(tensors, quantised)
    width, patch = config.vision_width, config.patch_size
    tokens = (config.resolution // patch) ** 2 + 1
    batch = graph.add("Slice", graph.add("Shape", "pixel_values"), graph.ints(0), graph.ints(1), graph.ints(0))
    x = graph.add("Conv", "pixel_values", graph.tensor("conv1.weight"), kernel_shape=[patch] * 2, strides=[patch] * 2)
    x = graph.add("Transpose", graph.add("Reshape", x, graph.ints(0, width, -1)), perm=[0, 2, 1])  # (N, patches, C)
    first = graph.add("Reshape", graph.tensor("class_embedding"), graph.ints(1, 1, width))
    first = graph.add("Expand", first, graph.add("Concat", batch, graph.ints(1, width), axis=0))
    x = graph.add("Add", graph.add("Concat", first, x, axis=1), graph.tensor("positional_embedding"))
    x = graph.norm(graph.rows(x, width), "ln_pre", EPS)
    only = graph.add("Mul", graph.range(batch), graph.ints(tokens))  # the class tokens
    x = _transformer(graph, x, "transformer.", config.vision_layers, width, batch, graph.ints(tokens), None, only)
    output = None if head else "embeddings"
    frames = graph.add("MatMul", graph.norm(x, "ln_post", EPS), graph.tensor("proj"), output=output)
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

    def __init__(self, tensors: Tensors, quantised: bool) -> None:
        self._tensors, self._quantised = tensors, quantised
        # Filled in place: to put it together at the end would hold all tensors in memory three times.
        self._model = helper.make_model(
            helper.make_graph([], "clip4clip", [], []),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="clip4clip",
        )
        self._nodes, self._kept = self._model.graph.node, self._model.graph.initializer
        self._names: set[str] = set()

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node; gives the name of what it gives."""
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output or name], name, **attributes))
        return output or name

    def split(self, x: str, parts: int, axis: int = 0) -> list[str]:
        """Equal parts along an axis."""
        names = [f"Split_{len(self._nodes)}_{part}" for part in range(parts)]
        self._nodes.append(helper.make_node("Split", [x], names, names[0], axis=axis))
        return names

    def tensor(self, name: str) -> str:
        """A tensor of the checkpoint, as it is."""
        return self._keep(name, self._tensors[name])

    def constant(self, array: np.ndarray) -> str:
        return self._keep(f"constant_{len(self._kept)}", array)

    def ints(self, *values: int) -> str:
        return self._keep("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def _keep(self, name: str, array: np.ndarray) -> str:
        if name not in self._names:
            self._names.add(name)
            self._kept.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def array(self, name: str) -> np.ndarray:
        return self._tensors[name]

    def divisor(self, block: str) -> np.ndarray:
        """By which what comes of a block's ``c_fc`` is divided in these tensors; QuickGELU needs it as it was."""
        return self._tensors.get(f"{block}.mlp.gelu.divisor", np.ones((), np.float32))

    def names(self) -> list[str]:
        return list(self._tensors)

    def range(self, count: str) -> str:
        """0, 1, … below a count, (1,) int64."""
        zero, one = (self.constant(np.array(value, np.int64)) for value in (0, 1))
        return self.add("Range", zero, self.add("Squeeze", count), one)

    def rows(self, x: str, width: int) -> str:
        """All tokens, one below the other."""
        return self.add("Reshape", x, self.ints(-1, width))

    def norm(self, x: str, name: str, eps: float) -> str:
        weight, bias = self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")
        return self.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=eps)

    def linear(
        self, x: str, weight: np.ndarray, bias: np.ndarray, exact: bool = False, after_gelu: bool = False
    ) -> str:
        """x (M, K), perhaps of QuickGELU, times weight (K, N) plus bias (N,); never in 8 bits where it is ``exact``."""
        if exact or not self._quantised:
            return self.add("Gemm", x, self.constant(weight), self.constant(bias))
        return self.add("Add", self._quantised_product(x, weight, after_gelu), self.constant(bias))

    def _quantised_product(self, x: str, weight: np.ndarray, after_gelu: bool) -> str:
        """x (M, K) times weight (K, N) in 8 bits, with one scale for each row of x and each column of the weight.

        A row is divided by its largest magnitude beforehand and multiplied by it afterwards, so the scale of what is
        quantised is a constant: runtimes make one integer product of the nodes from quantising to the product. After
        QuickGELU, with hardly anything below zero, most levels stand for positive numbers.
        """
        scale = np.maximum(np.abs(weight).max(0), SMALLEST) / WEIGHT_TOP
        with np.errstate(invalid="ignore"):  # a damaged checkpoint: the scale stays NaN, and so do the vectors
            levels = np.rint(weight / scale).astype(np.int8)
        zeros = np.zeros(len(scale), np.int8)
        zero = ZERO_AFTER_GELU if after_gelu else ZERO
        above = INPUT_TOP - zero  # levels of positive numbers
        smallest = GELU_LOWEST * above / zero if after_gelu else SMALLEST
        largest = self.add("ReduceMax", x if after_gelu else self.add("Abs", x), axes=[1], keepdims=1)
        largest = self.add("Max", largest, self.constant(np.array(smallest, np.float32)))  # (M, 1)
        step = self.constant(np.array(1 / above, np.float32)), self.constant(np.array(zero, np.uint8))
        rows = self.add("QuantizeLinear", self.add("Div", x, largest), *step)
        columns = self.constant(levels), self.constant(scale.astype(np.float32)), self.constant(zeros)
        product = self.add(
            "MatMul",
            self.add("DequantizeLinear", rows, *step),
            self.add("DequantizeLinear", *columns, axis=1),
        )
        return self.add("Mul", product, largest)

    def module(self, x: str, name: str, exact: bool = False, after_gelu: bool = False) -> str:
        """An ``nn.Linear`` of the checkpoint."""
        return self.linear(x, self.array(f"{name}.weight").T, self.array(f"{name}.bias"), exact, after_gelu)

    def model(self, inputs: Sequence[tuple[str, int, list[Any]]], output: tuple[str, list[Any]]) -> onnx.ModelProto:
        name, shape = output
        self._model.graph.input.extend(helper.make_tensor_value_info(*one) for one in inputs)
        self._model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return self._model


def _transformer(
    graph: _Graph,
    x: str,
    prefix: str,
    layers: int,
    width: int,
    batch: str,
    length: str,
    mask: str | None = None,
    only: str | None = None,
    only_mask: str | None = None,
    eps: float = EPS,
    exact_blocks: int = 1,
) -> str:
    """(B·L, C) to the same, or with ``only``, the places of one token in each row, to (B, C).

    Masks, (L, L) and (B, 1, 1, L), are added to the scores. The first blocks are never in 8 bits.
    """
    by_head = graph.add("Concat", batch, length, graph.ints(width // HEAD_WIDTH, HEAD_WIDTH), axis=0)
    by_one = graph.add("Concat", batch, graph.ints(1, width // HEAD_WIDTH, HEAD_WIDTH), axis=0)
    for number in range(layers):
        block, exact = f"{prefix}resblocks.{number}", number < exact_blocks
        y = graph.norm(x, f"{block}.ln_1", eps)
        weight = graph.array(f"{block}.attn.in_proj_weight").T.copy()
        bias = graph.array(f"{block}.attn.in_proj_bias").copy()
        weight[:, :width] /= 8  # the square root of 64: a power of two, so nothing is rounded
        bias[:width] /= 8
        if only is None or number < layers - 1:
            q, k, v = graph.split(graph.linear(y, weight, bias, exact), 3, axis=1)
            seen = _attention(graph, q, k, v, by_head, by_head, width, mask)
        else:
            x = graph.add("Gather", x, only)
            one = graph.add("Gather", y, only)
            q = graph.linear(one, weight[:, :width], bias[:width], exact)
            k, v = graph.split(graph.linear(y, weight[:, width:], bias[width:], exact), 2, axis=1)
            seen = _attention(graph, q, k, v, by_one, by_head, width, only_mask)
        x = graph.add("Add", x, graph.module(seen, f"{block}.attn.out_proj", exact))
        y = graph.module(graph.norm(x, f"{block}.ln_2", eps), f"{block}.mlp.c_fc", exact)
        gate = graph.add("Sigmoid", graph.add("Mul", y, graph.constant(np.float32(1.702) * graph.divisor(block))))
        y = graph.module(graph.add("Mul", y, gate), f"{block}.mlp.c_proj", exact, after_gelu=True)
        x = graph.add("Add", x, y)
    return x


def _attention(graph: _Graph, q: str, k: str, v: str, q_shape: str, shape: str, width: int, mask: str | None) -> str:
    q = graph.add("Transpose", graph.add("Reshape", q, q_shape), perm=[0, 2, 1, 3])  # (B, heads, L or 1, 64)
    k = graph.add("Transpose", graph.add("Reshape", k, shape), perm=[0, 2, 3, 1])  # (B, heads, 64, L)
    v = graph.add("Transpose", graph.add("Reshape", v, shape), perm=[0, 2, 1, 3])
    scores = graph.add("MatMul", q, k)
    if mask is not None:
        scores = graph.add("Add", scores, mask)
    seen = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), v)
    return graph.rows(graph.add("Transpose", seen, perm=[0, 2, 1, 3]), width)


def _lstm(graph: _Graph, frames: str, width: int) -> str:
    """What CLIP4Clip's LSTM makes of (T, D) frames, (T, D)."""

    def gates(name: str) -> np.ndarray:
        i, f, g, o = np.split(graph.array(f"lstm_visual.{name}_l0"), 4)
        return np.concatenate([i, o, f, g])[None]  # in ONNX's order

    bias = np.concatenate([gates("bias_ih"), gates("bias_hh")], axis=1)
    weights = (graph.constant(array) for array in (gates("weight_ih"), gates("weight_hh"), bias))
    steps = graph.add("Unsqueeze", frames, graph.ints(1))  # (T, 1, D)
    return graph.rows(graph.add("LSTM", steps, *weights, hidden_size=width), width)


def _sequence_transformer(graph: _Graph, frames: str, count: str, width: int) -> str:
    """What CLIP4Clip's transformer makes of (T, D) frames, (T, D)."""
    zero = graph.ints(0)
    positions = graph.add("Slice", graph.tensor("frame_position_embeddings.weight"), zero, count, zero)
    blocks = [name for name in graph.names() if name.startswith("transformerClip.resblocks.")]
    layers = len({name.split(".")[2] for name in blocks})
    x = graph.add("Add", frames, positions)
    one = graph.ints(1)
    return _transformer(graph, x, "transformerClip.", layers, width, one, count, eps=HEAD_EPS, exact_blocks=layers)
