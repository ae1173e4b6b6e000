"""Graphs of towers and heads give the numbers of torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from graphs import NETWORKS, State, compute, normalised, random_inputs, run_graph, tower_of

from clip4clip.model import MeanPooling, VisionTower
from clip4clip.operators import Clip4clip
from clip4clip.runtime.onnx_export import save_tower
from clip4clip.runtime.torch_backend import build_tower
from clip4clip.weights.identity import find_checkpoint


@pytest.mark.parametrize("shape", [(1, 1), (1, 77), (3, 12), (40, 5)])
def test_a_text_graph_equals_torch_for_any_batch_size_and_length(
    shape: tuple[int, int], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    assert Clip4clip("tiny", "text", tiny_checkpoint, "cpu").save_model("onnx", tmp_path / "text.onnx")
    ids = np.random.default_rng(0).integers(0, 49406, shape)
    for row, eot in zip(ids, np.random.default_rng(1).integers(0, shape[1], shape[0]), strict=True):
        row[eot] = 49407  # random ids behind the EOT token change nothing
    with torch.inference_mode():
        expected = build_tower(find_checkpoint(tiny_checkpoint, "tiny"), "text")(torch.from_numpy(ids)).numpy()
    np.testing.assert_allclose(run_graph(tmp_path / "text.onnx", ids), expected, atol=1e-5)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_a_video_graph_equals_torch_for_any_number_of_frames(count: int, tiny_checkpoint: Path, tmp_path: Path) -> None:
    Clip4clip("tiny", "video", tiny_checkpoint, "cpu").save_model("onnx", str(tmp_path / "video.onnx"))
    pixels = np.random.default_rng(0).normal(size=(count, 3, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        expected = build_tower(find_checkpoint(tiny_checkpoint, "tiny"), "video")(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(run_graph(tmp_path / "video.onnx", pixels), expected, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_graph_has_standard_operators_and_free_dimensions(
    precision: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for modality, input_name, free in (("text", "ids", ["batch", "length"]), ("video", "pixel_values", ["frames"])):
        operator = Clip4clip("tiny", modality, tiny_checkpoint, "cpu")
        operator.save_model("onnx", tmp_path / "a.onnx", precision=precision)
        model = onnx.load(tmp_path / "a.onnx")
        assert {node.domain for node in model.graph.node} == {""}
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
        assert [value.name for value in model.graph.input] == [input_name]
        assert [value.name for value in model.graph.output] == ["embeddings"]
        assert [size.dim_param for size in model.graph.input[0].type.tensor_type.shape.dim if size.dim_param] == free


@pytest.mark.parametrize("modality", ["text", "video"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_graph_of_any_network_equals_torch(
    network: str, modality: str, random_state: Callable[..., State], tmp_path: Path
) -> None:
    tower = tower_of(NETWORKS[network], modality, random_state(NETWORKS[network]))
    inputs = random_inputs(NETWORKS[network], modality, 5)
    expected = compute(tower, inputs)
    for precision in ("float32", "float16", "int8"):
        save_tower(tower, tmp_path / f"{precision}.onnx", precision=precision)
    assert {node.domain for node in onnx.load(tmp_path / "int8.onnx").graph.node} == {""}
    np.testing.assert_allclose(run_graph(tmp_path / "float32.onnx", inputs), expected, atol=1e-5)
    np.testing.assert_allclose(run_graph(tmp_path / "float32.onnx", inputs[:1]), expected[:1], atol=1e-5)
    for precision, least in (("float16", 0.9999), ("int8", 0.999)):
        vectors = normalised(run_graph(tmp_path / f"{precision}.onnx", inputs))
        assert (vectors * normalised(expected)).sum(-1).min() > least
    if isinstance(tower, VisionTower):
        save_tower(tower, tmp_path / "pooled.onnx", MeanPooling())
        vector = normalised(normalised(expected).sum(0))
        np.testing.assert_allclose(run_graph(tmp_path / "pooled.onnx", inputs), vector, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(("network", "fused"), [("heads", {"QuickGelu"}), ("gelu", {"Gelu", "BiasGelu"})])
def test_onnx_runtime_computes_an_activation_in_one_node(
    network: str, fused: set[str], precision: str, random_state: Callable[..., State], tmp_path: Path
) -> None:
    config = NETWORKS[network]
    save_tower(tower_of(config, "text", random_state(config)), tmp_path / "text.onnx", precision=precision)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that such a file is only for this machine
    onnxruntime.InferenceSession(tmp_path / "text.onnx", options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert sum(kinds[kind] for kind in fused) == config.text_layers
    assert not kinds["Sigmoid"] + kinds["Erf"]
