"""Products in 8 bits: exact on any processor, independent of the batch, and close to float32."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from constants import DEMO_MODEL
from graphs import CAPTIONS, State, run_graph
from safetensors.torch import save_file

from clip4clip import TextEncoder, VideoEncoder
from clip4clip.config import ACTIVATIONS, MODELS
from clip4clip.model import MLP, random_state_dict
from clip4clip.operators import Clip4clip
from clip4clip.runtime.onnx_layers import GraphBuilder, write_model
from clip4clip.tokenizer import default_tokenizer


@dataclasses.dataclass
class Product:
    """An 8-bit product of a graph."""

    rows: str  # the quantised input
    zero: int  # zero point of the input
    step: np.ndarray  # the input's scale
    levels: np.ndarray  # of the weight
    scales: np.ndarray  # of its columns
    result: str


def products_of(model: onnx.ModelProto) -> list[Product]:
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    products = []
    for node in model.graph.node:
        inputs = [makers.get(name) for name in node.input]
        if node.op_type != "MatMul" or "DequantizeLinear" not in {maker.op_type for maker in inputs if maker}:
            continue
        left, right = inputs
        assert left is not None
        assert right is not None
        quantise = makers[left.input[0]]
        assert quantise.op_type == "QuantizeLinear"
        assert quantise.input[1:] == left.input[1:]
        divide = makers[quantise.input[0]]  # by the largest magnitude of its row
        largest = makers[makers[divide.input[1]].input[0]]
        assert [divide.op_type, makers[divide.input[1]].op_type, largest.op_type] == ["Div", "Max", "ReduceMax"]
        assert divide.input[0] in (largest.input[0], makers[largest.input[0]].input[0])
        step, zero = (tensors[name] for name in left.input[1:])
        levels, scales, zeros = (tensors[name] for name in right.input)
        assert (zero.dtype, levels.dtype) == (np.uint8, np.int8)
        assert not zeros.any()
        products.append(Product(left.input[0], int(zero), step, levels, scales, node.output[0]))
    return products


@pytest.fixture(scope="module", params=["text", "video"])
def quantised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """The int8 graph of a tower of the demo model, and inputs for it."""
    path = tmp_path_factory.mktemp("int8") / "int8.onnx"
    Clip4clip(DEMO_MODEL, request.param, None, "cpu").save_model("onnx", path, precision="int8")
    if request.param == "text":
        return path, default_tokenizer(MODELS[DEMO_MODEL].config.vocab_size)(CAPTIONS, 48)
    return path, np.random.default_rng(0).normal(size=(5, 3, 64, 64)).astype(np.float32)


def test_no_product_can_saturate_on_any_processor(quantised: tuple[Path, np.ndarray]) -> None:
    """Without VNNI, two products are added in 16 bits and saturate. With it, and on arm64, all are added in 32 bits."""
    model = onnx.load(quantised[0])
    products, config = products_of(model), MODELS[DEMO_MODEL].config
    blocks = (
        config.vision_layers if quantised[1].ndim == 4 else config.text_layers
    ) - 1  # the first block is not quantised
    assert len(products) == 4 * blocks + 1  # the last block computes the query on its own
    assert not {"MatMulInteger", "DynamicQuantizeLinear", "QLinearMatMul"} & {node.op_type for node in model.graph.node}
    for product in products:
        highest, largest = product.zero + round(1 / float(product.step)), int(np.abs(product.levels.astype(int)).max())
        assert 2 * highest * largest < 2**15
        assert len(product.levels) * highest * largest < 2**31


def test_a_product_equals_the_product_of_integers(quantised: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """A processor with VNNI computes it like this; the test needs none."""
    path, inputs = quantised
    model = onnx.load(path)
    products = products_of(model)
    for product in products:
        for name, kind in ((product.rows, onnx.TensorProto.UINT8), (product.result, onnx.TensorProto.FLOAT)):
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that such a file is only for this machine
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert len([kind for kind in kinds if kind.startswith("MatMulInteger")]) == len(products)
    names = [output.name for output in session.get_outputs()]
    values = dict(zip(names, session.run(None, {session.get_inputs()[0].name: inputs}), strict=True))
    for product in products:
        integers = (values[product.rows].astype(np.int64) - product.zero) @ product.levels.astype(np.int64)
        expected = integers * (product.step.astype(np.float64) * product.scales)
        np.testing.assert_allclose(values[product.result], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weights", ["trained", "random"])
def test_an_int8_vector_is_close_to_float32_and_independent_of_its_batch(
    weights: str, tmp_path: Path, frames: list[np.ndarray]
) -> None:
    checkpoint = None
    if weights == "random":
        checkpoint = tmp_path / "model.safetensors"
        save_file(random_state_dict(MODELS[DEMO_MODEL].config), checkpoint)
    captions = [*CAPTIONS, *(" ".join(CAPTIONS[1].split()[:count]) for count in range(1, 8))]
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    videos = [frames, [np.zeros((64, 64, 3), np.uint8)], list(noise), [np.full((64, 64, 3), 255, np.uint8)]]
    for kind, data in ((TextEncoder, captions), (VideoEncoder, videos)):
        exact = kind.load(DEMO_MODEL, checkpoint, "cpu", "torch")(data)
        int8 = kind.load(DEMO_MODEL, checkpoint, "cpu", precision="int8")
        together, single = int8(data), np.stack([int8(item) for item in data])
        assert (exact * together).sum(-1).min() > 0.999
        assert (exact * single).sum(-1).min() > 0.999
        np.testing.assert_allclose(together, single, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_least_value_of_an_activation_can_be_quantised(activation: str, tmp_path: Path) -> None:
    """A row may have no larger one: its 8-bit levels would all be cut off."""
    least = MLP(1, 1, activation).gelu(torch.linspace(-5, 0, 10_000)).min()
    graph = GraphBuilder({}, quantised=True)
    product = graph.product("x", np.ones((8, 8), np.float32), np.zeros(8, np.float32), activation=activation)
    graph.add("Identity", product, output="y")
    write_model(graph.finish([("x", onnx.TensorProto.FLOAT, ["n", 8])], ("y", ["n", 8])), tmp_path / "a.onnx")
    x = np.array([[least] * 8, [least] + [5] * 7], np.float32)
    np.testing.assert_allclose(run_graph(tmp_path / "a.onnx", x), x.sum(-1, keepdims=True).repeat(8, 1), rtol=5e-3)


def test_a_model_that_is_too_large_for_one_file_gets_a_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # onnx may take a file of the current folder for the second file
    for limit, files in ((40_000, ["a.onnx"]), (32_000, ["a.onnx", "a.onnx.data"]), (0, ["a.onnx", "a.onnx.data"])):
        graph = GraphBuilder({}, quantised=False)
        weights = (graph.constant(np.full((64, 64), value, np.float32)) for value in (1 / 64, 1))
        graph.add("Gemm", graph.add("Gemm", "x", next(weights)), next(weights), output="y")
        model = graph.finish([("x", onnx.TensorProto.FLOAT, ["n", 64])], ("y", ["n", 64]))
        monkeypatch.setattr("clip4clip.runtime.onnx_layers.MAX_FILE_BYTES", limit)
        write_model(model, tmp_path / "a.onnx")
        assert sorted(path.name for path in tmp_path.iterdir()) == files
        assert run_graph(tmp_path / "a.onnx", np.ones((2, 64), np.float32)).sum() == 2 * 64 * 64


def test_a_row_of_zeros_can_be_quantised(tiny_state: State, tmp_path: Path) -> None:
    """A trained model has such rows behind a LayerNorm whose weights and biases are zero."""
    zeroed = {name: torch.zeros_like(tensor) if ".1.ln_" in name else tensor for name, tensor in tiny_state.items()}
    save_file(zeroed, tmp_path / "model.safetensors")
    operator = Clip4clip("tiny", "text", tmp_path / "model.safetensors", "cpu", runtime="torch")
    operator.save_model("onnx", tmp_path / "int8.onnx", precision="int8")  # compares it with torch
