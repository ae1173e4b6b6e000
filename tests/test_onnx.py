"""Graphs: what they give, how they are kept, and what ONNX Runtime makes of them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
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
    ExportError,
    InputValueError,
    TextEncoder,
    UnknownNameError,
    VideoEncoder,
    onnx_cache,
    onnx_export,
)
from clip4clip.config import MODELS
from clip4clip.device import resolve_placement
from clip4clip.frames import pixel_values
from clip4clip.onnx_cache import kept_graph
from clip4clip.onnx_export import save_tower
from clip4clip.onnx_runtime import OnnxTower
from clip4clip.operators import Clip4clip
from clip4clip.tokenizer import default_tokenizer
from clip4clip.torch_runtime import build_head, build_tower

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


@pytest.mark.parametrize("kind", ["meanP", "seqLSTM", "seqTransf"])
def test_a_pooled_graph_of_half_precision_is_near(
    kind: str, tiny_state: State, tmp_path: Path, frames: list[np.ndarray]
) -> None:
    save_file(tiny_state | head_state(kind), tmp_path / "model.safetensors")
    operator = Clip4clip("tiny", "video", tmp_path / "model.safetensors", "cpu")
    operator.save_model("onnx", tmp_path / "pooled.onnx", pooled=True, precision="float16")
    assert operator(frames) @ run(tmp_path / "pooled.onnx", pixel_values(frames, 32)) > 0.9999


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
        monkeypatch.setattr("clip4clip.onnx_runtime.cores", lambda cores=cores: cores)
        ours = OnnxTower(tmp_path / "graph.onnx")
        for rows in range(1, 10):
            np.testing.assert_allclose(ours(inputs[:rows]), expected[:rows], atol=1e-5)


def test_a_graph_holds_standard_operators_alone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for modality, given, free in (("text", "ids", ["batch", "length"]), ("video", "pixel_values", ["frames"])):
        Clip4clip("tiny", modality, tiny_checkpoint, "cpu").save_model("onnx", tmp_path / "a.onnx")
        model = onnx.load(tmp_path / "a.onnx")
        assert {node.domain for node in model.graph.node} == {""}
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
    def wrong(config: object, tensors: dict[str, np.ndarray]) -> onnx.ModelProto:
        return right(config, tensors | {"ln_final.bias": tensors["ln_final.bias"] + 0.01})  # type: ignore[arg-type]

    right = onnx_export.text_graph
    monkeypatch.setattr(onnx_export, "text_graph", wrong)
    with pytest.raises(ExportError, match=r"gives other vectors than its model: cosine 0\."):
        Clip4clip("tiny", "text", tiny_checkpoint, "cpu").save_model("onnx", tmp_path / "a.onnx")


@pytest.mark.parametrize(("precision", "least"), [("float16", 0.9999), ("int8", 0.99)])
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
    graphs = [kept_graph("tiny", "text", tmp_path / name) for name in ("a.safetensors", "b.bin", "c.safetensors")]
    assert graphs[0] == graphs[1] != graphs[2]  # the same numbers in another kind of file are the same


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
        threading.Thread(target=lambda: found.append(kept_graph("tiny", "video", tiny_checkpoint))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(set(found)) == 1
    assert len(found) == 4


def test_one_that_was_killed_while_it_made_a_graph_leaves_none_behind(
    cache: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Path, target: Path) -> Path:
        raise SystemError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(SystemError):
            kept_graph("tiny", "video", tiny_checkpoint)
    assert list(cache.glob("graphs-*/*/*.onnx")) == []
    assert kept_graph("tiny", "video", tiny_checkpoint).is_file()


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


# What computes


def test_without_a_wish_a_cpu_computes_by_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolve_placement("cpu")
    assert (found.runtime, found.device, found.precision) == ("onnxruntime", "cpu", "float32")
    assert resolve_placement("cpu", precision="bfloat16").runtime == "torch"
    assert resolve_placement("cpu", precision="int8").runtime == "onnxruntime"
    monkeypatch.setattr("clip4clip.device._has_onnxruntime", lambda: False)
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
