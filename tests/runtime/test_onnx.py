"""Graphs: what they give, how they are kept, and what ONNX Runtime makes of them."""

from __future__ import annotations

import dataclasses
import functools
import logging
import multiprocessing
import os
import pickle
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from clip4clip import (
    CacheError,
    DeviceError,
    ExportError,
    InputValueError,
    TextEncoder,
    UnknownNameError,
    VideoEncoder,
)
from clip4clip.config import MODELS
from clip4clip.model import random_state_dict
from clip4clip.operators import Clip4clip
from clip4clip.preprocess import pixel_values
from clip4clip.runtime import onnx_cache, onnx_export
from clip4clip.runtime.onnx_backend import OnnxTower, load
from clip4clip.runtime.onnx_cache import cached_graph
from clip4clip.runtime.onnx_export import save_tower
from clip4clip.runtime.onnx_graph import text_graph, vision_graph
from clip4clip.runtime.placement import resolve_placement
from clip4clip.runtime.torch_backend import TorchTower, build_head, build_tower
from clip4clip.tokenizer import default_tokenizer
from clip4clip.weights.locate import locate

DEMO = "clip_vit_tiny_demo"
CAPTIONS = ["a dog", "kids feeding and playing with the horse", "", "dog " * 100, "ein Hund läuft 😀 über 12 Straßen"]
State = dict[str, torch.Tensor]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIP4CLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(path: Path, inputs: np.ndarray) -> np.ndarray:
    """By a plain session, as somebody else would."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


# What a graph gives


@pytest.mark.parametrize("shape", [(1, 1), (1, 77), (3, 12), (40, 5)])
def test_a_text_graph_gives_torchs_numbers_for_any_batch_and_length(
    shape: tuple[int, int], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    assert Clip4clip("tiny", "text", tiny_checkpoint, "cpu").save_model("onnx", tmp_path / "text.onnx")
    ids = np.random.default_rng(0).integers(0, 49406, shape)
    for row, end in zip(ids, np.random.default_rng(1).integers(0, shape[1], shape[0]), strict=True):
        row[end] = 49407  # what stands behind it is rubbish, and changes nothing
    with torch.inference_mode():
        expected = build_tower("tiny", "text", tiny_checkpoint)(torch.from_numpy(ids)).numpy()
    np.testing.assert_allclose(run(tmp_path / "text.onnx", ids), expected, atol=1e-5)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_a_video_graph_gives_torchs_numbers_for_any_number_of_frames(
    count: int, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    Clip4clip("tiny", "video", tiny_checkpoint, "cpu").save_model("onnx", str(tmp_path / "video.onnx"))
    pixels = np.random.default_rng(0).normal(size=(count, 3, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        expected = build_tower("tiny", "video", tiny_checkpoint)(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(run(tmp_path / "video.onnx", pixels), expected, atol=1e-5)


def head_state(kind: str) -> State:
    random = torch.Generator().manual_seed(1)
    if kind == "seqLSTM":
        shapes = {name: tensor.shape for name, tensor in torch.nn.LSTM(64, 64).state_dict().items()}
        return {f"lstm_visual.{name}": 0.2 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
    if kind == "seqTransf":
        from clip4clip.model import SequenceTransformer

        shapes = {name: tensor.shape for name, tensor in SequenceTransformer(64, 2, 77).state_dict().items()}
        return {name: 0.2 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
    return {}


@pytest.mark.parametrize(("precision", "least"), [("float16", 0.9999), ("int8", 0.999)])
@pytest.mark.parametrize("kind", ["meanP", "seqLSTM", "seqTransf"])
def test_a_pooled_graph_of_lower_precision_is_near(
    kind: str, precision: str, least: float, tiny_state: State, tmp_path: Path, frames: list[np.ndarray]
) -> None:
    save_file(tiny_state | head_state(kind), tmp_path / "model.safetensors")
    operator = Clip4clip("tiny", "video", tmp_path / "model.safetensors", "cpu")
    operator.save_model("onnx", tmp_path / "pooled.onnx", pooled=True, precision=precision)
    assert operator(frames) @ run(tmp_path / "pooled.onnx", pixel_values(frames, 32)) > least


@pytest.mark.parametrize("kind", ["meanP", "seqLSTM", "seqTransf"])
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_pooled_graph_gives_the_vector_of_a_video(
    kind: str, runtime: str, tiny_state: State, tmp_path: Path, frames: list[np.ndarray]
) -> None:
    save_file(tiny_state | head_state(kind), tmp_path / "model.safetensors")
    operator = Clip4clip("tiny", "video", tmp_path / "model.safetensors", "cpu", runtime=runtime)
    operator.save_model("onnx", tmp_path / "pooled.onnx", pooled=True)
    for some in (frames, frames[:1]):
        vector = run(tmp_path / "pooled.onnx", pixel_values(some, 32))
        assert vector.shape == (64,)
        np.testing.assert_allclose(vector, operator(some), atol=1e-5)


@pytest.mark.parametrize("modality", ["text", "video"])
def test_rows_are_computed_alike_however_many_cores_share_them(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modality: str
) -> None:
    tower = build_tower("tiny", modality, tiny_checkpoint)
    save_tower(tower, tmp_path / "graph.onnx")
    random = np.random.default_rng(0)
    inputs = {
        "text": random.integers(1, 500, (9, 6)),
        "video": random.normal(size=(9, 3, 32, 32)).astype(np.float32),
    }[modality]
    with torch.inference_mode():
        expected = tower(torch.from_numpy(inputs)).numpy()
    for cores in (1, 2, 4, 7):
        monkeypatch.setattr("clip4clip.runtime.onnx_backend.available_cores", lambda cores=cores: cores)
        ours = OnnxTower(functools.partial(load, tmp_path / "graph.onnx", "cpu"))
        for rows in range(1, 10):
            np.testing.assert_allclose(ours(inputs[:rows]), expected[:rows], atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_graph_holds_standard_operators_alone(precision: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    for modality, given, free in (("text", "ids", ["batch", "length"]), ("video", "pixel_values", ["frames"])):
        operator = Clip4clip("tiny", modality, tiny_checkpoint, "cpu")
        operator.save_model("onnx", tmp_path / "a.onnx", precision=precision)
        model = onnx.load(tmp_path / "a.onnx")
        assert {node.domain for node in model.graph.node} == {""}
        assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
        assert [one.name for one in model.graph.input] == [given]
        assert [one.name for one in model.graph.output] == ["embeddings"]
        assert [size.dim_param for size in model.graph.input[0].type.tensor_type.shape.dim if size.dim_param] == free


def test_what_cannot_be_saved_is_said(tiny_checkpoint: Path, tmp_path: Path) -> None:
    text = Clip4clip("tiny", "text", tiny_checkpoint, "cpu")
    assert text.supported_formats == ["onnx"]
    with pytest.raises(UnknownNameError, match="unknown format 'tensorrt'; it must be 'onnx'"):
        text.save_model("tensorrt", tmp_path / "a")
    with pytest.raises(UnknownNameError, match="unknown precision 'bfloat16' of a graph"):
        text.save_model("onnx", tmp_path / "a.onnx", precision="bfloat16")
    with pytest.raises(InputValueError, match="pooled=True is for video"):
        text.save_model("onnx", tmp_path / "a.onnx", pooled=True)
    with pytest.raises(InputValueError, match="there is no folder"):
        text.save_model("onnx", tmp_path / "none" / "a.onnx")


def test_a_graph_that_gives_other_vectors_is_an_error(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(config: object, tensors: dict[str, np.ndarray], *rest: bool) -> onnx.ModelProto:
        changed = tensors | {"ln_final.bias": tensors["ln_final.bias"] + 0.01}
        return right(config, changed, *rest)  # type: ignore[arg-type]

    right = onnx_export.text_graph
    monkeypatch.setattr(onnx_export, "text_graph", wrong)
    (tmp_path / "a.onnx").write_bytes(b"what Triton serves")
    with pytest.raises(ExportError, match=r"a\.onnx gives other vectors than its model: cosine 0\."):
        Clip4clip("tiny", "text", tiny_checkpoint, "cpu", runtime="torch").save_model("onnx", tmp_path / "a.onnx")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"what Triton serves"]


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """As on a full disk, a larger one cannot be written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_file_that_cannot_be_written_is_an_error_that_says_why(
    precision: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    text = Clip4clip("tiny", "text", tiny_checkpoint, "cpu")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "a.onnx").write_bytes(b"what Triton serves")
    with pytest.raises(ExportError, match=r"folder\.onnx cannot be written: .*Is a directory"):
        text.save_model("onnx", tmp_path / "folder.onnx", precision=precision)
    with no_file_above(2**20), pytest.raises(ExportError, match=r"a\.onnx cannot be written: .*File too large"):
        text.save_model("onnx", tmp_path / "a.onnx", precision=precision)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "folder.onnx"]
    assert (tmp_path / "a.onnx").read_bytes() == b"what Triton serves"


def test_a_link_is_written_through_and_the_rights_of_a_file_stay(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "model.onnx").touch(0o640)
    (tmp_path / "link.onnx").symlink_to(tmp_path / "served" / "model.onnx")
    Clip4clip("tiny", "text", tiny_checkpoint, "cpu").save_model("onnx", tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert (tmp_path / "served" / "model.onnx").stat().st_size > 10_000
    assert (tmp_path / "served" / "model.onnx").stat().st_mode & 0o777 == 0o640


def test_our_files_are_written_beside_the_target(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted(model: onnx.ModelProto, path: Path, *rest: bool) -> None:
        written.append(path)
        save(model, path, *rest)

    text = Clip4clip("tiny", "text", tiny_checkpoint, "cpu", runtime="torch")
    save, written = onnx_export.save, []
    monkeypatch.setattr(onnx_export, "save", noted)
    text.save_model("onnx", tmp_path / "int8.onnx", precision="int8")
    assert len(written) == 1
    assert all(tmp_path in path.parents for path in written)
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


@pytest.mark.parametrize(("precision", "least"), [("float16", 0.9999), ("int8", 0.9998)])
@pytest.mark.parametrize("modality", ["text", "video"])
def test_a_smaller_graph_gives_nearly_the_same(
    precision: str, least: float, modality: str, tmp_path: Path, frames: list[np.ndarray]
) -> None:
    operator = Clip4clip(DEMO, modality, None, "cpu")
    operator.save_model("onnx", tmp_path / "whole.onnx")
    operator.save_model("onnx", tmp_path / "small.onnx", precision=precision)
    sizes = [(tmp_path / name).stat().st_size for name in ("small.onnx", "whole.onnx")]
    assert sizes[0] < 0.9 * sizes[1]  # int8 leaves the embedding of tokens as it is, and one of three blocks
    if modality == "text":
        inputs = default_tokenizer(MODELS[DEMO].config.vocab_size)(CAPTIONS, 48)
    else:
        inputs = pixel_values(frames, 64)
    small, whole = run(tmp_path / "small.onnx", inputs), run(tmp_path / "whole.onnx", inputs)
    cosine = (unit(small) * unit(whole)).sum(-1)
    assert least <= cosine.min()
    assert not np.array_equal(small, whole)


# 8 bits


@dataclasses.dataclass
class Product:
    """A product of a graph in 8 bits."""

    rows: str  # the quantised input
    zero: int  # level of the input that stands for 0
    step: np.ndarray  # the input's scale
    levels: np.ndarray  # of the weight
    scales: np.ndarray  # of its columns
    result: str


def products_of(model: onnx.ModelProto) -> list[Product]:
    tensors = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    found = []
    for node in model.graph.node:
        inputs = [makers.get(name) for name in node.input]
        if node.op_type != "MatMul" or "DequantizeLinear" not in {one.op_type for one in inputs if one}:
            continue
        left, right = inputs
        assert left is not None
        assert right is not None
        quantise = makers[left.input[0]]
        assert quantise.op_type == "QuantizeLinear"
        assert quantise.input[1:] == left.input[1:]
        divide = makers[quantise.input[0]]  # by the largest number of its row, so none is above 1
        largest = makers[makers[divide.input[1]].input[0]]
        assert [divide.op_type, makers[divide.input[1]].op_type, largest.op_type] == ["Div", "Max", "ReduceMax"]
        assert divide.input[0] in (largest.input[0], makers[largest.input[0]].input[0])
        step, zero = (tensors[name] for name in left.input[1:])
        levels, scales, zeros = (tensors[name] for name in right.input)
        assert (zero.dtype, levels.dtype) == (np.uint8, np.int8)
        assert not zeros.any()
        found.append(Product(left.input[0], int(zero), step, levels, scales, node.output[0]))
    return found


@pytest.fixture(params=["text", "video"])
def quantised(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A graph of the demo model in 8 bits, and inputs for it."""
    path = tmp_path / "int8.onnx"
    Clip4clip(DEMO, request.param, None, "cpu").save_model("onnx", path, precision="int8")
    if request.param == "text":
        return path, default_tokenizer(MODELS[DEMO].config.vocab_size)(CAPTIONS, 48)
    return path, np.random.default_rng(0).normal(size=(5, 3, 64, 64)).astype(np.float32)


def test_no_product_in_8_bits_can_saturate_on_any_processor(quantised: tuple[Path, np.ndarray]) -> None:
    """Without VNNI two products are added in 16 bits that saturate; with it, and on arm64, all of them in 32 bits."""
    model = onnx.load(quantised[0])
    products, config = products_of(model), MODELS[DEMO].config
    blocks = (config.vision_layers if quantised[1].ndim == 4 else config.text_layers) - 1  # the first is left as it is
    assert len(products) == 4 * blocks + 1  # in the last one the query is a product of its own
    assert not {"MatMulInteger", "DynamicQuantizeLinear", "QLinearMatMul"} & {node.op_type for node in model.graph.node}
    for product in products:
        highest, largest = product.zero + round(1 / float(product.step)), int(np.abs(product.levels.astype(int)).max())
        assert 2 * highest * largest < 2**15
        assert len(product.levels) * highest * largest < 2**31


def test_a_product_in_8_bits_is_that_of_whole_numbers(quantised: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """As a processor with VNNI computes it, whatever this one has."""
    path, inputs = quantised
    model = onnx.load(path)
    products = products_of(model)
    for product in products:
        for name, kind in ((product.rows, onnx.TensorProto.UINT8), (product.result, onnx.TensorProto.FLOAT)):
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that such a file is for this machine
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert len([kind for kind in kinds if kind.startswith("MatMulInteger")]) == len(products)
    names = [one.name for one in session.get_outputs()]
    found = dict(zip(names, session.run(None, {session.get_inputs()[0].name: inputs}), strict=True))
    for product in products:
        whole = (found[product.rows].astype(np.int64) - product.zero) @ product.levels.astype(np.int64)
        expected = whole * (product.step.astype(np.float64) * product.scales)
        np.testing.assert_allclose(found[product.result], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weights", ["trained", "random"])
def test_a_vector_in_8_bits_is_near_and_the_same_whatever_else_is_embedded_with_it(
    weights: str, cache: Path, tmp_path: Path, frames: list[np.ndarray]
) -> None:
    checkpoint = None
    if weights == "random":
        checkpoint = tmp_path / "model.safetensors"
        save_file(random_state_dict(MODELS[DEMO].config), checkpoint)
    captions = [*CAPTIONS, *(" ".join(CAPTIONS[1].split()[:count]) for count in range(1, 8))]
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    videos = [frames, [np.zeros((64, 64, 3), np.uint8)], list(noise), [np.full((64, 64, 3), 255, np.uint8)]]
    for kind, data in ((TextEncoder, captions), (VideoEncoder, videos)):
        whole = kind.load(DEMO, checkpoint, "cpu", "torch")(data)
        small = kind.load(DEMO, checkpoint, "cpu", precision="int8")
        together, alone = small(data), np.stack([small(one) for one in data])
        assert (whole * together).sum(-1).min() > 0.999
        assert (whole * alone).sum(-1).min() > 0.999
        np.testing.assert_allclose(together, alone, atol=1e-5)


def with_outliers(state: State, factor: float) -> State:
    """Like those of trained models: a few channels that linear layers get are much larger than the others."""
    state = {name: tensor.clone() for name, tensor in state.items()}
    random = torch.Generator().manual_seed(0)
    for name in [name.removesuffix("ln_1.weight") for name in state if name.endswith("ln_1.weight")]:
        width = len(state[f"{name}ln_1.weight"])
        for taker, maker in (
            ("attn.in_proj_weight", "ln_1."),
            ("attn.out_proj.weight", "attn.in_proj_"),
            ("mlp.c_fc.weight", "ln_2."),
            ("mlp.c_proj.weight", "mlp.c_fc."),
        ):
            channels = torch.randperm(state[name + taker].shape[1], generator=random)[:3]
            state[name + taker][:, channels] /= factor
            for kind in ("weight", "bias"):
                state[name + maker + kind][channels + (2 * width if taker == "attn.out_proj.weight" else 0)] *= factor
    return state


@pytest.mark.parametrize("modality", ["text", "video"])
def test_channels_that_are_much_larger_than_others_do_no_harm_in_8_bits(
    modality: str, random_state: Callable[..., State], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And what keeps them from it does not change the network, not by rounding either."""
    state = with_outliers(random_state(MODELS[DEMO].config), 20)
    save_file(state, tmp_path / "model.safetensors")
    operator = Clip4clip(DEMO, modality, tmp_path / "model.safetensors", "cpu", runtime="torch")
    operator.save_model("onnx", tmp_path / "int8.onnx", precision="int8")
    tower = build_tower(DEMO, modality, tmp_path / "model.safetensors")
    random = np.random.default_rng(1)
    inputs = random.normal(size=(8, 3, 64, 64)).astype(np.float32)
    if modality == "text":
        inputs = default_tokenizer(MODELS[DEMO].config.vocab_size)(CAPTIONS, 48)
    with torch.inference_mode():
        expected = tower(torch.from_numpy(inputs)).numpy()
    assert (unit(run(tmp_path / "int8.onnx", inputs)) * unit(expected)).sum(-1).min() > 0.999
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and "cosine" in record.message]
    make = text_graph if modality == "text" else vision_graph
    graphs = [make(tower.config, tensors) for tensors in (onnx_export._tensors(tower), onnx_export._smoothed(tower))]
    for number, graph in enumerate(graphs):
        onnx.save(graph, tmp_path / f"{number}.onnx")
    whole, smoothed = (run(tmp_path / f"{number}.onnx", inputs) for number in range(2))
    np.testing.assert_allclose(smoothed, whole, rtol=1e-4, atol=1e-5)
    assert (unit(smoothed) * unit(expected)).sum(-1).min() > 0.999999


@pytest.mark.parametrize(("levels", "refused"), [(3, False), (1, True)])
def test_vectors_in_8_bits_that_are_not_near_are_said_and_those_far_off_are_refused(
    levels: int, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("clip4clip.runtime.onnx_graph.WEIGHT_TOP", levels)
    operator = Clip4clip(DEMO, "text", None, "cpu", runtime="torch")
    if refused:
        with pytest.raises(ExportError, match=r"int8\.onnx gives other vectors than its model: cosine 0\."):
            operator.save_model("onnx", tmp_path / "int8.onnx", precision="int8")
        return
    operator.save_model("onnx", tmp_path / "int8.onnx", precision="int8")
    assert re.search(r"int8\.onnx: vectors of this checkpoint in int8 have a cosine of 0\.99[0-8]", caplog.text)


def test_a_row_of_zeros_has_a_vector_in_8_bits(tiny_state: State, tmp_path: Path) -> None:
    """As a trained model could have one behind a norm whose weights and biases have become zero."""
    nothing = {name: torch.zeros_like(tensor) if ".1.ln_" in name else tensor for name, tensor in tiny_state.items()}
    save_file(nothing, tmp_path / "model.safetensors")
    operator = Clip4clip("tiny", "text", tmp_path / "model.safetensors", "cpu", runtime="torch")
    operator.save_model("onnx", tmp_path / "int8.onnx", precision="int8")  # compares the two


# How it is kept


def test_a_graph_is_made_once_and_then_torch_is_not_needed(tiny_checkpoint: Path, cache: Path) -> None:
    code = (
        "import sys, numpy as np; from clip4clip import TextEncoder, VideoEncoder\n"
        "text, video = (kind.load('clip_vit_tiny_demo', None, 'cpu') for kind in (TextEncoder, VideoEncoder))\n"
        "vectors = text('a red square'), video(np.zeros((2, 30, 40, 3), np.uint8))\n"
        "print('torch' in sys.modules, 'onnx' in sys.modules, np.concatenate(vectors).tolist())"
    )
    said = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split(" ", 2)
        for _ in range(2)
    ]
    assert [one[:2] for one in said] == [["True", "True"], ["False", "False"]]
    assert said[0][2] == said[1][2]
    kept = sorted(path.name for path in cache.glob("graphs-*/*/[!.]*"))
    assert kept == [f"{modality}-float32.onnx{end}" for modality in ("text", "video") for end in ("", ".data")]


def test_other_weights_have_a_graph_of_their_own(
    cache: Path, tiny_state: State, random_state: Callable[..., State], tmp_path: Path
) -> None:
    save_file(tiny_state, tmp_path / "a.safetensors")
    torch.save({f"module.{name}": tensor for name, tensor in tiny_state.items()}, tmp_path / "b.bin")
    save_file(random_state(MODELS["tiny"].config, 1), tmp_path / "c.safetensors")
    graphs = [cached_graph("tiny", "text", tmp_path / name) for name in ("a.safetensors", "b.bin", "c.safetensors")]
    assert graphs[0] == graphs[1] != graphs[2]  # the same numbers in another kind of file are the same


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
@pytest.mark.parametrize("how", ["renamed", "copied", "in an image"])
def test_a_checkpoint_of_the_same_size_and_time_is_another_one(
    how: str, runtime: str, cache: Path, tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, new = tmp_path / "model.safetensors", tmp_path / "new"
    save_file(tiny_state, checkpoint)
    save_file({name: tensor.flip(0) for name, tensor in tiny_state.items()}, new)
    status = checkpoint.stat()
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert new.stat().st_size == status.st_size
    before = TextEncoder.load("tiny", checkpoint, "cpu", runtime)(
        "a dog"
    )  # kept by nobody: a mapped file may not change
    if how == "copied":
        shutil.copy2(new, checkpoint)
    else:
        new.replace(checkpoint)
    if how == "in an image":  # of files at the same places, all of one time
        real, there = os.fstat, checkpoint.stat()
        monkeypatch.setattr(
            "clip4clip.weights.locate.os.fstat",
            lambda number: status if os.path.samestat(real(number), there) else real(number),
        )
    assert checkpoint.stat().st_mtime_ns == status.st_mtime_ns
    after = TextEncoder.load("tiny", checkpoint, "cpu", runtime)("a dog")
    expected = TextEncoder(TorchTower(build_tower("tiny", "text", checkpoint)), MODELS["tiny"].config)("a dog")
    np.testing.assert_allclose(after, expected, atol=1e-5)
    assert np.abs(after - before).max() > 1e-3


def test_a_checkpoint_that_differs_in_a_single_number_has_a_graph_of_its_own(
    cache: Path, tiny_state: State, tmp_path: Path
) -> None:
    vectors = []
    for value in (0.0, 5.0):
        weight = tiny_state["transformer.resblocks.0.mlp.c_fc.weight"].clone()
        weight[0, 1] = value  # which the fingerprint does not see
        save_file(tiny_state | {"transformer.resblocks.0.mlp.c_fc.weight": weight}, tmp_path / f"{value}.safetensors")
        for runtime in ("torch", "onnxruntime"):
            vectors.append(TextEncoder.load("tiny", tmp_path / f"{value}.safetensors", "cpu", runtime)("a dog"))
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)
    np.testing.assert_allclose(vectors[3], vectors[2], atol=1e-5)
    assert np.abs(vectors[3] - vectors[1]).max() > 1e-3


def test_a_checkpoint_that_is_replaced_while_its_graph_is_made_is_said(
    cache: Path, tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(model_name: str, modality: str, path: Path) -> object:
        new.replace(path)
        return build_tower(model_name, modality, path)

    checkpoint, new = tmp_path / "model.safetensors", tmp_path / "new"
    save_file(tiny_state, checkpoint)
    save_file({name: tensor.flip(0) for name, tensor in tiny_state.items()}, new)
    with monkeypatch.context() as patch:
        patch.setattr("clip4clip.runtime.torch_backend.build_tower", build)
        with pytest.raises(CacheError, match=r"model\.safetensors was replaced while it was read"):
            TextEncoder.load("tiny", checkpoint, "cpu", "onnxruntime")
    vectors = [TextEncoder.load("tiny", checkpoint, "cpu", runtime)("a dog") for runtime in ("torch", "onnxruntime")]
    np.testing.assert_allclose(*vectors, atol=1e-5)


def test_whoever_comes_first_makes_it_and_the_others_wait(
    cache: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    make = onnx_cache._make

    def noted(*arguments: object) -> None:
        made.append(threading.get_ident())
        make(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(onnx_cache, "_make", noted)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(cached_graph("tiny", "video", tiny_checkpoint))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(set(found)) == 1
    assert len(found) == 4


@pytest.fixture
def demo_graph(cache: Path) -> Callable[[], Path]:
    """Gives the graph of the demo model's text, and makes it if need be."""
    return lambda: cached_graph(DEMO, "text", locate(None, DEMO))


def test_what_one_has_left_that_was_killed_while_it_made_a_graph_is_removed(
    cache: Path, demo_graph: Callable[[], Path]
) -> None:
    code = (
        "import time; from clip4clip import onnx_export, TextEncoder\n"
        "onnx_export._check = lambda *_: (print('making', flush=True), time.sleep(600))\n"
        f"TextEncoder.load('{DEMO}', None, 'cpu', 'onnxruntime')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "making\n"
        process.send_signal(signal.SIGKILL)
    (left,) = cache.glob("graphs-*/*/.*.making-*")
    assert sorted(path.name for path in left.iterdir()) == ["text-float32.onnx", "text-float32.onnx.data"]
    assert list(cache.glob("graphs-*/*/*.onnx")) == []
    graph = demo_graph()
    names = [".text-float32.onnx.lock", "text-float32.onnx", "text-float32.onnx.data"]
    assert sorted(path.name for path in graph.parent.iterdir()) == names


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one, a tower computes one row as it does many."""
    monkeypatch.setattr("clip4clip.runtime.onnx_backend.available_cores", lambda: 2)


def damaged(graph: Path, kind: str) -> None:
    data = graph.with_name(f"{graph.name}.data")
    path, content = {
        "empty": (graph, b""),
        "cut off": (graph, graph.read_bytes()[:1000]),
        "not a graph": (graph, b"rubbish" * 1000),
        "no tensors": (data, None),
        "tensors cut off": (data, data.read_bytes()[:-1]),
        "no file": (graph, None),
        "no cache": (None, None),
    }[kind]
    if path is None:
        shutil.rmtree(graph.parents[2])
        return
    path.unlink()  # a running process may have it mapped
    if content is not None:
        path.write_bytes(content)


DAMAGES = ["empty", "cut off", "not a graph", "no tensors", "tensors cut off", "no file", "no cache"]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_graph_that_is_damaged_or_gone_is_made_anew_at_the_next_start(
    kind: str, demo_graph: Callable[[], Path], caplog: pytest.LogCaptureFixture
) -> None:
    damaged(demo_graph(), kind)
    vectors = TextEncoder.load(DEMO, None, "cpu", "onnxruntime")(CAPTIONS)
    np.testing.assert_allclose(vectors, TextEncoder.load(DEMO, None, "cpu", "torch")(CAPTIONS), atol=1e-5)
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == (0 if kind in ("no file", "no cache") else 1)  # one that is not there is nothing to wonder at
    assert all(message.startswith("a kept graph cannot be loaded and is made anew: ") for message in said)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_graph_that_is_damaged_or_gone_is_made_anew_while_a_process_runs(
    kind: str, demo_graph: Callable[[], Path], two_cores: None, caplog: pytest.LogCaptureFixture
) -> None:
    text = TextEncoder.load(DEMO, None, "cpu", "onnxruntime")
    damaged(demo_graph(), kind)
    vectors = text(CAPTIONS * 10)  # what computes many rows is loaded only now
    np.testing.assert_allclose(vectors, TextEncoder.load(DEMO, None, "cpu", "torch")(CAPTIONS * 10), atol=1e-5)
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1
    assert said[0].startswith("a kept graph cannot be loaded and is made anew: ")


def test_a_graph_that_cannot_be_made_anew_is_said(
    cache: Path, two_cores: None, tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "model.safetensors"
    save_file(tiny_state, checkpoint)
    text = TextEncoder.load("tiny", checkpoint, "cpu", "onnxruntime")
    shutil.rmtree(cache)
    with monkeypatch.context() as patch:
        patch.setattr(onnx_cache, "_make", lambda *_: _[-1].write_bytes(b"rubbish"))
        with pytest.raises(CacheError, match=r"float32\.onnx cannot be loaded, nor be made anew from .*Protobuf"):
            text(CAPTIONS * 10)
    save_file({name: tensor.flip(0) for name, tensor in tiny_state.items()}, tmp_path / "new")
    (tmp_path / "new").replace(checkpoint)
    with pytest.raises(CacheError, match="there are other weights in it now"):
        text(CAPTIONS * 10)
    checkpoint.unlink()
    with pytest.raises(CacheError, match="No such file"):
        text(CAPTIONS * 10)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_folder_that_cannot_be_written_to_is_said(
    tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_checkpoint = tmp_path / "model.safetensors"  # of its own: a tower that is loaded already would be shared
    save_file(tiny_state, tiny_checkpoint)
    monkeypatch.setenv("CLIP4CLIP_CACHE", "/proc/none")
    with pytest.raises(CacheError, match="Set CLIP4CLIP_CACHE to a folder"):
        TextEncoder.load("tiny", tiny_checkpoint, "cpu", "onnxruntime")
    assert resolve_placement("cpu").runtime == "torch"  # and without being asked for, the other one is taken
    assert TextEncoder.load("tiny", tiny_checkpoint, "cpu")("a dog").shape == (64,)


@pytest.mark.parametrize("name", ["~nobody_such/x", "a file"])
def test_a_name_that_can_be_no_folder_is_said(
    name: str, tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, cache = tmp_path / "model.safetensors", name.replace("a file", str(tmp_path / "file"))
    save_file(tiny_state, checkpoint)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CLIP4CLIP_CACHE", cache)
    with pytest.raises(CacheError, match=f"{cache}.*Set CLIP4CLIP_CACHE to a folder"):
        TextEncoder.load("tiny", checkpoint, "cpu", "onnxruntime")
    text = TextEncoder.load("tiny", checkpoint, "cpu")
    assert isinstance(text.model, TorchTower)
    assert text("a dog").shape == (64,)
    assert f"torch and not onnxruntime is used: nothing can be written to {cache}" in caplog.text


def test_a_graph_runs_in_a_forked_process_too(demo_graph: Callable[[], Path], two_cores: None) -> None:
    """Such as a DataLoader's worker, to which the threads of its parent do not come along."""
    text = TextEncoder(OnnxTower(functools.partial(_load_and_note, demo_graph())), MODELS[DEMO].config)
    given = ["dog " * 100, CAPTIONS * 10]
    expected = [text(data) for data in given]
    for data, vectors in zip(given, expected, strict=True):
        with multiprocessing.get_context("fork").Pool(1, _keep, (text,)) as pool:
            found, loaded = pool.apply_async(_embedded, (data,)).get(timeout=300)
        np.testing.assert_array_equal(found, vectors)
        assert loaded  # the parent's mostly runs there, too, but not if it was running in the moment of the fork


def test_a_forked_process_can_let_go_of_what_it_inherited(demo_graph: Callable[[], Path], two_cores: None) -> None:
    for _ in range(5):
        tower = OnnxTower(functools.partial(load, demo_graph(), "cpu"))
        for given in ("a dog", CAPTIONS * 8):
            TextEncoder(tower, MODELS[DEMO].config)(given)
        child = os.fork()
        if child == 0:
            del tower
            os._exit(0)
        end = time.monotonic() + 300
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
        assert time.monotonic() < end


# Other processes

RUNTIMES = ["torch", "onnxruntime"]
WORK: dict[str, Callable[[str], tuple[Callable, object]]] = {
    "texts": lambda runtime: (TextEncoder.load(DEMO, None, "cpu", runtime), CAPTIONS * 20),
    "videos": lambda runtime: (
        VideoEncoder.load(DEMO, None, "cpu", runtime),
        np.random.default_rng(0).integers(0, 256, (8, 70, 90, 3), np.uint8),
    ),
    "operator": lambda runtime: (Clip4clip(DEMO, "text", None, "cpu", runtime=runtime), "a dog " * 20),
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", WORK)
def test_what_is_pickled_gives_the_same_vectors_in_another_process(kind: str, runtime: str, cache: Path) -> None:
    embed, data = WORK[kind](runtime)
    expected = embed(data)
    code = (
        "import pickle, sys; embed, data = pickle.load(sys.stdin.buffer)\n"
        "again = pickle.loads(pickle.dumps(embed))\n"
        "pickle.dump([embed(data), again(data)], sys.stdout.buffer)"
    )
    given = pickle.dumps((embed, data))
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for found in pickle.loads(done.stdout):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_compiled_tower_is_compiled_anew_where_it_is_unpickled(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: lambda inputs: module(inputs))
    tower = TorchTower(build_tower("tiny", "text", tiny_checkpoint), compiled=True)
    again = pickle.loads(pickle.dumps(tower))
    ids = np.array([[1, 2, 3, 49407]])
    assert again.compiled
    np.testing.assert_allclose(again(ids), tower(ids), atol=1e-5)


def in_a_fork(function: Callable[[], object]) -> object:
    """What a function returns, or raises, in a forked process that is killed after a minute."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                result = function()
            except Exception as error:
                result = error
            with open(writer, "wb") as file:  # noqa: PTH123  a descriptor
                pickle.dump(result, file)
        finally:
            os._exit(0)
    os.close(writer)
    parts = []
    try:
        with open(reader, "rb", buffering=0) as file:  # noqa: PTH123
            while True:
                assert select.select([file], [], [], 60)[0], "the forked process does not answer"
                parts.append(file.read(2**16))
                if not parts[-1]:
                    break
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return pickle.loads(b"".join(parts))


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """With one there is none that a fork could lose."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", WORK)
def test_what_was_used_gives_the_same_vectors_in_a_forked_process(
    kind: str, runtime: str, cache: Path, torch_threads: None
) -> None:
    embed, data = WORK[kind](runtime)
    expected = embed(data)
    found = in_a_fork(lambda: embed(data))
    assert isinstance(found, np.ndarray), found
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_forked_process_loads_what_its_parent_did_not(
    cache: Path, tiny_state: State, tmp_path: Path, torch_threads: None
) -> None:
    """In half precision, with a head of its own: all of it is converted by threads of torch."""
    state = {name: tensor.half() for name, tensor in (tiny_state | head_state("seqLSTM")).items()}
    save_file(state, tmp_path / "model.safetensors")
    embed, data = WORK["texts"]("torch")
    embed(data)
    frames = np.random.default_rng(0).integers(0, 256, (8, 70, 90, 3), np.uint8)
    for runtime in RUNTIMES:
        found = in_a_fork(
            lambda runtime=runtime: VideoEncoder.load("tiny", tmp_path, "cpu", runtime)(frames)  # type: ignore[misc]
        )
        assert isinstance(found, np.ndarray), found
        np.testing.assert_allclose(found, VideoEncoder.load("tiny", tmp_path, "cpu", "torch")(frames), atol=1e-5)


def test_a_forked_process_is_refused_the_gpu_of_its_parent(tiny_checkpoint: Path) -> None:
    tower = TorchTower(build_tower("tiny", "text", tiny_checkpoint), "cuda:0")
    error = in_a_fork(lambda: tower(np.array([[1, 49407]])))
    assert isinstance(error, DeviceError)
    assert "cannot compute on 'cuda:0' of its parent; start it by spawn" in str(error)


_loaders: set[int] = set()
_kept: list[TextEncoder] = []


def _load_and_note(graph: Path, threads: int) -> onnxruntime.InferenceSession:
    _loaders.add(os.getpid())
    return load(graph, "cpu", threads)


def _keep(encoder: TextEncoder) -> None:
    _kept.append(encoder)


def _embedded(data: str | list[str]) -> tuple[np.ndarray, bool]:
    return _kept[0](data), os.getpid() in _loaders


# What computes


def test_without_a_wish_a_cpu_computes_by_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolve_placement("cpu")
    assert (found.runtime, found.device, found.precision) == ("onnxruntime", "cpu", "float32")
    assert resolve_placement("cpu", precision="bfloat16").runtime == "torch"
    assert resolve_placement("cpu", precision="int8").runtime == "onnxruntime"
    monkeypatch.setattr("clip4clip.runtime.placement._has_onnxruntime", lambda: False)
    assert resolve_placement("cpu").runtime == "torch"
    for asked in ({"precision": "int8"}, {"runtime": "onnxruntime"}):
        with pytest.raises(ImportError, match=r"pip install 'towhee-clip4clip\[onnx\]'"):
            resolve_placement("cpu", **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("cpu", "jax"), "unknown runtime 'jax'; it must be 'torch' or 'onnxruntime'"),
        (("cpu", None, "int4"), "unknown precision 'int4'; it must be one of float32, bfloat16, float16, int8"),
        (("cpu", "torch", "int8"), "torch on cpu cannot compute in 'int8', but in float32.*: .*int8 by onnxruntime"),
        (("cpu", "onnxruntime", "bfloat16"), "cannot compute in 'bfloat16', but in float32, int8"),
        (("openvino",), "the installed onnxruntime has no device 'openvino'; it has: cpu"),
        (("cuda:0", "onnxruntime"), "the installed onnxruntime has no device 'cuda:0'"),
        (("cpu:1", "onnxruntime"), "no device 'cpu:1'"),
    ],
)
def test_what_cannot_compute_is_refused_with_what_can(asked: tuple[str, ...], message: str) -> None:
    if asked[0] in ("openvino", "cuda:0") and len(onnxruntime.get_available_providers()) > 2:
        pytest.skip("this onnxruntime has it")
    with pytest.raises(ValueError, match=message):
        resolve_placement(*asked)


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("device", ["cuda:0", "openvino"])
def test_a_device_that_onnxruntime_would_leave_for_the_cpu_is_an_error(
    device: str, demo_graph: Callable[[], Path], capfd: pytest.CaptureFixture
) -> None:
    if len(onnxruntime.get_available_providers()) > 2:
        pytest.skip("this onnxruntime has it")
    with pytest.raises(DeviceError, match=rf"on '{device}' with (CUDA|OpenVINO)Ex.*computed with CPUEx.*the driver"):
        load(demo_graph(), device)
    assert capfd.readouterr().out == ""


def test_what_a_device_says_is_told_from_what_is_wrong_with_a_file(
    demo_graph: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def create(session: object, providers: list, *rest: object) -> None:
        if providers[0][0] == "CUDAExecutionProvider":
            raise RuntimeError("CUDA failure 101: invalid device ordinal")
        right(session, providers, *rest)

    right = onnxruntime.InferenceSession._create_inference_session
    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", create)
    with pytest.raises(DeviceError, match="CUDA failure 101"):
        load(demo_graph(), "cuda:7")
    damaged(demo_graph(), "no tensors")
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail, match="External data"):
        load(demo_graph(), "cuda:7")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("precision", "least"), [("bfloat16", 0.999), ("float16", 0.9999)])
def test_half_precision_on_torch_is_near(precision: str, least: float, frames: list[np.ndarray]) -> None:
    for kind, data in ((TextEncoder, CAPTIONS), (VideoEncoder, [frames, frames[:2]])):
        whole = kind.load(DEMO, None, "cpu", "torch")(data)
        half = kind.load(DEMO, None, "cpu", "torch", precision)(data)
        assert half.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(half, axis=-1), 1, atol=1e-5)
        assert least <= (whole * half).sum(-1).min()
        assert not np.array_equal(half, whole)


def test_what_is_compiled_sees_few_shapes_and_gives_the_same(
    tiny_checkpoint: Path, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[int, ...]] = set()

    def compile_(module: torch.nn.Module, **_: object) -> Callable[[torch.Tensor], torch.Tensor]:
        """In place of the compiler, which takes a minute."""
        return lambda inputs: (seen.add(tuple(inputs.shape)), module(inputs))[1]

    plain = [kind.load("tiny", tiny_checkpoint, "cpu", "torch") for kind in (TextEncoder, VideoEncoder)]
    monkeypatch.setattr(torch, "compile", compile_)
    compiled = [kind.load("tiny", tiny_checkpoint, "cpu", compiled=True) for kind in (TextEncoder, VideoEncoder)]
    captions = [" ".join(["dog"] * count) for count in range(1, 80, 3)]
    np.testing.assert_allclose(compiled[0](captions), plain[0](captions), atol=1e-5)
    for one, other in zip(compiled, plain, strict=True):
        for count in (1, 3, 5):
            data = captions[:count] if one is compiled[0] else frames[:count]
            np.testing.assert_allclose(one(data), other(data), atol=1e-5)
    texts, videos = ({shape for shape in seen if len(shape) == rank} for rank in (2, 4))
    assert {rows for rows, _ in texts} <= {1, 2, 4, 8, 16, 32, 64}
    assert {length for _, length in texts} <= {16, 32, 48, 64, 77}
    assert {shape[0] for shape in videos} == {1, 4, 8}
    with pytest.raises(UnknownNameError, match="compiled=True is for the runtime 'torch'"):
        resolve_placement("cpu", "onnxruntime", compiled=True)


def test_what_is_compiled_runs_in_one_thread_whoever_calls(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    # Each run writes over what the one before it gave, as a CUDA graph does; .float() copies it, as .cpu() does there.
    buffer = torch.empty(8, 64, dtype=torch.float64)

    def compile_(module: torch.nn.Module, **_: object) -> Callable[[torch.Tensor], torch.Tensor]:
        def replay(inputs: torch.Tensor) -> torch.Tensor:
            runs.append(threading.get_ident())
            return buffer[: len(inputs)].copy_(module(inputs))

        return replay

    monkeypatch.setattr(torch, "compile", compile_)
    module = build_tower("tiny", "text", tiny_checkpoint)
    tower = TorchTower(module, compiled=True)
    random = np.random.default_rng(0)
    batches = [random.integers(1, 500, (1 + count % 8, 16)) for count in range(64)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(tower, batches))
    assert len(runs) == 64
    assert len(set(runs)) == 1
    assert threading.get_ident() not in runs
    for vectors, batch in zip(found, batches, strict=True):
        np.testing.assert_allclose(vectors, TorchTower(module)(batch), atol=1e-5)


def test_a_head_is_that_of_the_checkpoint_whatever_computes_the_tower(
    tiny_state: State, tmp_path: Path, frames: list[np.ndarray]
) -> None:
    save_file(tiny_state | head_state("seqLSTM"), tmp_path / "model.safetensors")
    vectors = [VideoEncoder.load("tiny", tmp_path, "cpu", runtime)(frames) for runtime in ("torch", "onnxruntime")]
    np.testing.assert_allclose(*vectors, atol=1e-5)
    tower = build_tower("tiny", "video", tmp_path / "model.safetensors")
    head = build_head(64, tmp_path / "model.safetensors")
    with torch.inference_mode():
        by_hand = F.normalize(head.pool(head(tower(torch.from_numpy(pixel_values(frames, 32))))), dim=-1)
    np.testing.assert_allclose(vectors[0], by_hand.numpy(), atol=1e-5)
