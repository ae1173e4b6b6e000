"""Towers and heads computed by torch: in half precision, compiled, pickled and in forked processes."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from constants import DEMO_MODEL
from graphs import CAPTIONS, RUNTIMES, State, head_state
from processes import in_a_fork, needs_fork
from safetensors.torch import save_file

from clip4clip import CheckpointError, DeviceError, TextEncoder, VideoEncoder
from clip4clip.preprocess import pixel_values
from clip4clip.runtime.torch_backend import TorchTower, build_head, build_tower
from clip4clip.weights.identity import find_checkpoint


@pytest.mark.parametrize(("precision", "least"), [("bfloat16", 0.999), ("float16", 0.9999)])
def test_half_precision_is_close_to_float32(precision: str, least: float, frames: list[np.ndarray]) -> None:
    for kind, data in ((TextEncoder, CAPTIONS), (VideoEncoder, [frames, frames[:2]])):
        exact = kind.load(DEMO_MODEL, None, "cpu", "torch")(data)
        half = kind.load(DEMO_MODEL, None, "cpu", "torch", precision)(data)
        assert half.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(half, axis=-1), 1, atol=1e-5)
        assert least <= (exact * half).sum(-1).min()
        assert not np.array_equal(half, exact)


def test_a_compiled_tower_gets_few_shapes_and_gives_the_same_vectors(
    tiny_checkpoint: Path, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: set[tuple[int, ...]] = set()

    def compile_(module: torch.nn.Module, **_: object) -> Callable[[torch.Tensor], torch.Tensor]:
        """Replace the compiler, which takes a minute."""
        return lambda inputs: (shapes.add(tuple(inputs.shape)), module(inputs))[1]

    plain = [kind.load("tiny", tiny_checkpoint, "cpu", "torch") for kind in (TextEncoder, VideoEncoder)]
    monkeypatch.setattr(torch, "compile", compile_)
    compiled = [kind.load("tiny", tiny_checkpoint, "cpu", compiled=True) for kind in (TextEncoder, VideoEncoder)]
    captions = [" ".join(["dog"] * count) for count in range(1, 80, 3)]
    np.testing.assert_allclose(compiled[0](captions), plain[0](captions), atol=1e-5)
    for compiled_encoder, encoder in zip(compiled, plain, strict=True):
        for count in (1, 3, 5):
            data = captions[:count] if compiled_encoder is compiled[0] else frames[:count]
            np.testing.assert_allclose(compiled_encoder(data), encoder(data), atol=1e-5)
    texts, videos = ({shape for shape in shapes if len(shape) == rank} for rank in (2, 4))
    assert {rows for rows, _ in texts} <= {1, 2, 4, 8, 16, 32, 64}
    assert {length for _, length in texts} <= {16, 32, 48, 64, 77}
    assert {shape[0] for shape in videos} == {1, 4, 8}


def test_a_tower_that_the_file_does_not_have_is_not_built(
    tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "text.safetensors"
    save_file({name: tensor for name, tensor in tiny_state.items() if not name.startswith("visual.")}, path)
    monkeypatch.setattr("clip4clip.runtime.torch_backend.VisionTower", None)  # its configuration may have any size
    with pytest.raises(CheckpointError, match=r"text\.safetensors lacks the video tower"):
        build_tower(find_checkpoint(path, "tiny"), "video")


def test_a_compiled_tower_runs_in_one_thread(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    # As with CUDA graphs, each run overwrites the output of the previous one. Here .float() copies it, there .cpu().
    buffer = torch.empty(8, 64, dtype=torch.float64)

    def compile_(module: torch.nn.Module, **_: object) -> Callable[[torch.Tensor], torch.Tensor]:
        def replay(inputs: torch.Tensor) -> torch.Tensor:
            runs.append(threading.get_ident())
            return buffer[: len(inputs)].copy_(module(inputs))

        return replay

    monkeypatch.setattr(torch, "compile", compile_)
    module = build_tower(find_checkpoint(tiny_checkpoint, "tiny"), "text")
    tower = TorchTower(module, compiled=True)
    random = np.random.default_rng(0)
    batches = [random.integers(1, 500, (1 + count % 8, 16)) for count in range(64)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(tower, batches))
    assert len(runs) == 64
    assert len(set(runs)) == 1
    assert threading.get_ident() not in runs
    for vectors, batch in zip(results, batches, strict=True):
        np.testing.assert_allclose(vectors, TorchTower(module)(batch), atol=1e-5)


def test_an_unpickled_compiled_tower_is_compiled_again(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: lambda inputs: module(inputs))
    tower = TorchTower(build_tower(find_checkpoint(tiny_checkpoint, "tiny"), "text"), compiled=True)
    unpickled = pickle.loads(pickle.dumps(tower))
    ids = np.array([[1, 2, 3, 49407]])
    assert unpickled.compiled
    np.testing.assert_allclose(unpickled(ids), tower(ids), atol=1e-5)


@needs_fork
def test_a_forked_process_cannot_use_the_gpu_of_its_parent(tiny_checkpoint: Path) -> None:
    tower = TorchTower(build_tower(find_checkpoint(tiny_checkpoint, "tiny"), "text"), "cuda:0")
    error = in_a_fork(lambda: tower(np.array([[1, 49407]])))
    assert isinstance(error, DeviceError)
    assert "cannot compute on its parent's device 'cuda:0'; start the process with spawn" in str(error)


@needs_fork
def test_a_forked_process_can_load_another_checkpoint(
    cache: Path, tiny_state: State, tmp_path: Path, torch_threads: None
) -> None:
    """In half precision and with a head, because threads of torch convert the tensors."""
    state = {name: tensor.half() for name, tensor in (tiny_state | head_state("seqLSTM")).items()}
    save_file(state, tmp_path / "model.safetensors")
    TextEncoder.load(DEMO_MODEL, None, "cpu", "torch")(CAPTIONS * 20)  # starts threads of torch
    frames = np.random.default_rng(0).integers(0, 256, (8, 70, 90, 3), np.uint8)
    for runtime in RUNTIMES:
        forked_vectors = in_a_fork(
            lambda runtime=runtime: VideoEncoder.load("tiny", tmp_path, "cpu", runtime)(frames)  # type: ignore[misc]
        )
        assert isinstance(forked_vectors, np.ndarray), forked_vectors
        np.testing.assert_allclose(
            forked_vectors, VideoEncoder.load("tiny", tmp_path, "cpu", "torch")(frames), atol=1e-5
        )


def test_the_head_is_that_of_the_checkpoint_in_any_runtime(
    tiny_state: State, tmp_path: Path, frames: list[np.ndarray]
) -> None:
    save_file(tiny_state | head_state("seqLSTM"), tmp_path / "model.safetensors")
    vectors = [VideoEncoder.load("tiny", tmp_path, "cpu", runtime)(frames) for runtime in ("torch", "onnxruntime")]
    np.testing.assert_allclose(*vectors, atol=1e-5)
    tower = build_tower(find_checkpoint(tmp_path / "model.safetensors", "tiny"), "video")
    head = build_head(find_checkpoint(tmp_path / "model.safetensors", "tiny"))
    with torch.inference_mode():
        expected = F.normalize(head.pool(head(tower(torch.from_numpy(pixel_values(frames, 32))))), dim=-1)
    np.testing.assert_allclose(vectors[0], expected.numpy(), atol=1e-5)
