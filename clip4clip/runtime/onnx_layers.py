"""Build an ONNX graph node by node, with the layers that transformers are made of, in float32 or in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

OPSET, IR_VERSION = 17, 8
MAX_FILE_BYTES = 2**31 - 2**20  # protobuf's limit, less a megabyte for what is not tensors
EXTERNAL_TENSOR_BYTES = 4096  # smaller tensors stay in the graph file
EXTERNAL_TENSOR_ALIGNMENT = 4096  # a page: tensors are mapped into memory

# The range of 8-bit levels: inputs have 0 to 180, weights -91 to 91. Processors without VNNI add two products of an
# unsigned and a signed byte in 16 bits, and saturate: 2 * 180 * 91 is less than 2**15.
MAX_INPUT_LEVEL, MAX_WEIGHT_LEVEL = 180, 91
ZERO_POINT, ZERO_POINT_AFTER_ACTIVATION = 90, 20  # the levels of an input that stand for 0
LARGEST_NEGATIVES = {"quick_gelu": 0.1637, "gelu": 0.17}  # an activation never returns less than minus this
MIN_SCALE = 1e-30  # instead of 0, for a row or column of zeros

Tensors = Mapping[str, np.ndarray]


class GraphBuilder:
    """The nodes and tensors of a graph. Methods add nodes and return the name of their output.

    Args:
        tensors: the tensors of the checkpoint by name, float32.
        quantised: compute linear layers in 8 bits, except those that are added as ``exact``.
    """

    def __init__(self, tensors: Tensors, quantised: bool) -> None:
        self.tensors, self._quantised = tensors, quantised
        # Tensors are copied into the model as they are added. Assembling it at the end would hold them three times.
        self._model = helper.make_model(
            helper.make_graph([], "clip4clip", [], []),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="clip4clip",
        )
        self._nodes, self._initializers = self._model.graph.node, self._model.graph.initializer
        self._names: set[str] = set()  # names of initializers
        self._outputs: dict[str, str] = {}  # of nodes, by their operator, inputs and attributes

    def finish(self, inputs: Sequence[tuple[str, int, list[Any]]], output: tuple[str, list[Any]]) -> onnx.ModelProto:
        """Declare the inputs, as (name, type, shape), and the float32 output, as (name, shape). Return the model."""
        name, shape = output
        self._model.graph.input.extend(helper.make_tensor_value_info(*declared) for declared in inputs)
        self._model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return self._model

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output. If the graph has the same node already, return the output of that one."""
        name, key = f"{operator}_{len(self._nodes)}", f"{operator} {inputs} {attributes}"
        if output is None and key in self._outputs:
            return self._outputs[key]
        self._nodes.append(helper.make_node(operator, inputs, [output or name], name, **attributes))
        return self._outputs.setdefault(key, output or name)

    def split(self, x: str, parts: int | Sequence[int], axis: int = 0) -> list[str]:
        """Split a tensor along an axis into a number of equal parts, or into parts of these sizes."""
        sizes = [] if isinstance(parts, int) else [self.ints(*parts)]
        names = [f"Split_{len(self._nodes)}_{part}" for part in range(parts if isinstance(parts, int) else len(parts))]
        self._nodes.append(helper.make_node("Split", [x, *sizes], names, names[0], axis=axis))
        return names

    def tensor(self, name: str) -> str:
        """Add a tensor of the checkpoint."""
        return self._add_initializer(name, self.tensors[name])

    def constant(self, array: np.ndarray) -> str:
        """Add a tensor."""
        return self._add_initializer(f"constant_{len(self._initializers)}", array)

    def number(self, value: float) -> str:
        """Add a float32 number."""
        return self._add_initializer(f"number_{value}", np.array(value, np.float32))

    def ints(self, *values: int) -> str:
        """Add an int64 tensor of one dimension."""
        return self._add_initializer("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def _add_initializer(self, name: str, array: np.ndarray) -> str:
        if name not in self._names:
            self._names.add(name)
            self._initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def range(self, count: str) -> str:
        """Add the numbers from 0 to a count, (1,) int64, without the count itself."""
        zero, one = (self._add_initializer(f"int_{value}", np.array(value, np.int64)) for value in (0, 1))
        return self.add("Range", zero, self.add("Squeeze", count), one)

    def flatten_rows(self, x: str, width: int) -> str:
        """Reshape (…, width) to (rows, width)."""
        return self.add("Reshape", x, self.ints(-1, width))

    def layer_norm(self, x: str, name: str, eps: float) -> str:
        """Add an ``nn.LayerNorm`` of the checkpoint."""
        weight, bias = self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")
        return self.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=eps)

    def linear(self, x: str, name: str, exact: bool = False, activation: str | None = None) -> str:
        """Add an ``nn.Linear`` of the checkpoint; see :meth:`product`."""
        return self.product(x, self.tensors[f"{name}.weight"].T, self.tensors[f"{name}.bias"], exact, activation)

    def product(
        self, x: str, weight: np.ndarray, bias: np.ndarray, exact: bool = False, activation: str | None = None
    ) -> str:
        """Multiply x, (M, K), by a weight, (K, N), and add a bias, (N,).

        Args:
            x: the input.
            weight: the weight.
            bias: the bias.
            exact: compute in float32 even if the graph is quantised.
            activation: x is an output of this activation, one of :data:`clip4clip.config.ACTIVATIONS`, or is one whose
                channels were divided by numbers from 1 on. None: x is anything else.
        """
        if exact or not self._quantised:
            return self.add("Gemm", x, self.constant(weight), self.constant(bias))
        return self.add("Add", self._quantised_product(x, weight, activation), self.constant(bias))

    def _quantised_product(self, x: str, weight: np.ndarray, activation: str | None) -> str:
        """Multiply x, (M, K), by a weight, (K, N), in 8 bits, with a scale for each row of x and each column.

        Each row of x is divided by its largest magnitude first and multiplied by it afterwards. The scale of the
        quantised input is therefore a constant, so runtimes can fuse quantisation and product into one integer product.
        Activations return hardly anything below zero, so after one most levels stand for positive numbers.
        """
        zero_point = ZERO_POINT_AFTER_ACTIVATION if activation else ZERO_POINT
        positive_levels = MAX_INPUT_LEVEL - zero_point
        min_divisor = LARGEST_NEGATIVES[activation] * positive_levels / zero_point if activation else MIN_SCALE
        largest = self.add("ReduceMax", x if activation else self.add("Abs", x), axes=[1], keepdims=1)
        largest = self.add("Max", largest, self.number(min_divisor))  # (M, 1)
        scale = self.number(1 / positive_levels)
        zero = self._add_initializer(f"zero_point_{zero_point}", np.array(zero_point, np.uint8))
        rows = self.add("QuantizeLinear", self.add("Div", x, largest), scale, zero)
        columns = self._quantised_weight(weight)
        dequantised = self.add("DequantizeLinear", rows, scale, zero)
        product = self.add("MatMul", dequantised, self.add("DequantizeLinear", *columns, axis=1))
        return self.add("Mul", product, largest)

    def _quantised_weight(self, weight: np.ndarray) -> tuple[str, str, str]:
        """Add the levels of a weight, (K, N) int8, the scales of its columns, (N,), and their zero points."""
        scale = np.maximum(np.abs(weight).max(0), MIN_SCALE) / MAX_WEIGHT_LEVEL
        with np.errstate(invalid="ignore"):  # a damaged checkpoint: the scale stays NaN, and so do the vectors
            levels = np.rint(weight / scale).astype(np.int8)
        zeros = np.zeros(len(scale), np.int8)
        return self.constant(levels), self.constant(scale.astype(np.float32)), self.constant(zeros)


def write_model(model: onnx.ModelProto, path: Path, external_data: bool = False) -> None:
    """Write a model to a file and check the file.

    Args:
        model: the model.
        path: the file.
        external_data: write the tensors to ``<path>.data``, which a runtime can map into memory. A model that is too
            large for one file always gets one.
    """
    size = sum(tensor.ByteSize() for tensor in model.graph.initializer)  # ByteSize() of a model fails from 2 GB on
    if external_data or size > MAX_FILE_BYTES:
        _move_tensors(model, path.with_name(f"{path.name}.data"))
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))


def _move_tensors(model: onnx.ModelProto, path: Path) -> None:
    """Move the tensors of a model to a file.

    onnx's own function refuses to if the current folder, whichever that is, has a file of this name.
    """
    with path.open("wb") as file:
        for tensor in model.graph.initializer:
            if tensor.ByteSize() >= EXTERNAL_TENSOR_BYTES:
                file.write(bytes(-file.tell() % EXTERNAL_TENSOR_ALIGNMENT))
                set_external_data(tensor, path.name, file.tell(), file.write(tensor.raw_data))
                tensor.ClearField("raw_data")
