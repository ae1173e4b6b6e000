"""Towers computed by ONNX Runtime: on any number of cores, in forked processes, and on devices that do not work."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from constants import DEMO_MODEL
from graphs import CAPTIONS, damage
from processes import needs_fork

from clip4clip import DeviceError, TextEncoder
from clip4clip.config import MODELS
from clip4clip.runtime.onnx_backend import OnnxTower, create_session
from clip4clip.runtime.onnx_export import save_tower
from clip4clip.runtime.torch_backend import build_tower
from clip4clip.weights.identity import find_checkpoint


@pytest.mark.parametrize("modality", ["text", "video"])
def test_a_batch_gives_the_same_rows_on_any_number_of_cores(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modality: str
) -> None:
    tower = build_tower(find_checkpoint(tiny_checkpoint, "tiny"), modality)
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
        onnx_tower = OnnxTower(functools.partial(create_session, tmp_path / "graph.onnx", "cpu"))
        for rows in range(1, 10):
            np.testing.assert_allclose(onnx_tower(inputs[:rows]), expected[:rows], atol=1e-5)


_processes_with_sessions: set[int] = set()
_encoders: list[TextEncoder] = []


def _create_session_and_record(graph: Path, threads: int) -> onnxruntime.InferenceSession:
    _processes_with_sessions.add(os.getpid())
    return create_session(graph, "cpu", threads)


def _keep(encoder: TextEncoder) -> None:
    _encoders.append(encoder)


def _embed(data: str | list[str]) -> tuple[np.ndarray, bool]:
    return _encoders[0](data), os.getpid() in _processes_with_sessions


@needs_fork
def test_a_used_tower_works_in_a_forked_process(demo_graph: Callable[[], Path], two_cores: None) -> None:
    """Such as a DataLoader's worker, which does not have the threads of its parent."""
    text = TextEncoder(
        OnnxTower(functools.partial(_create_session_and_record, demo_graph())), MODELS[DEMO_MODEL].config
    )
    inputs = ["dog " * 100, CAPTIONS * 10]
    expected = [text(data) for data in inputs]
    for data, vectors in zip(inputs, expected, strict=True):
        with multiprocessing.get_context("fork").Pool(1, _keep, (text,)) as pool:
            forked_vectors, has_own_session = pool.apply_async(_embed, (data,)).get(timeout=300)
        np.testing.assert_array_equal(forked_vectors, vectors)
        assert has_own_session  # the parent's session fails only if it was running at the moment of the fork


@needs_fork
def test_a_forked_process_can_delete_a_tower(demo_graph: Callable[[], Path], two_cores: None) -> None:
    for _ in range(5):
        tower = OnnxTower(functools.partial(create_session, demo_graph(), "cpu"))
        for captions in ("a dog", CAPTIONS * 8):
            TextEncoder(tower, MODELS[DEMO_MODEL].config)(captions)
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


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("device", ["cuda:0", "openvino"])
def test_a_device_that_onnxruntime_would_leave_for_the_cpu_is_an_error(
    device: str, demo_graph: Callable[[], Path], capfd: pytest.CaptureFixture
) -> None:
    if len(onnxruntime.get_available_providers()) > 2:
        pytest.skip("this onnxruntime has the device")
    with pytest.raises(DeviceError, match=rf"on '{device}' with (CUDA|OpenVINO)Ex.*computed with CPUEx.*the driver"):
        create_session(demo_graph(), device)
    assert capfd.readouterr().out == ""


def test_errors_of_a_device_are_distinguished_from_a_damaged_file(
    demo_graph: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def create(session: object, providers: list, *rest: object) -> None:
        if providers[0][0] == "CUDAExecutionProvider":
            raise RuntimeError("CUDA failure 101: invalid device ordinal")
        original(session, providers, *rest)

    original = onnxruntime.InferenceSession._create_inference_session
    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", create)
    with pytest.raises(DeviceError, match="CUDA failure 101"):
        create_session(demo_graph(), "cuda:7")
    damage(demo_graph(), "no tensors")
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail, match="External data"):
        create_session(demo_graph(), "cuda:7")
    assert capfd.readouterr().out == ""
