"""Graphs are built once, cached by the content of the checkpoint, and rebuilt when they are damaged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from constants import DEMO_MODEL
from graphs import CAPTIONS, DAMAGES, State, damage
from safetensors.torch import save_file

from clip4clip import CacheError, TextEncoder, VideoEncoder
from clip4clip.config import MODELS
from clip4clip.runtime import onnx_cache
from clip4clip.runtime.onnx_cache import CachedGraph, cached_graph
from clip4clip.runtime.placement import resolve_placement
from clip4clip.runtime.torch_backend import TorchTower, build_tower
from clip4clip.weights.identity import Checkpoint, find_checkpoint

REBUILDING = "rebuilding a cached graph that cannot be loaded: "


def test_an_encoder_with_cached_graphs_does_not_import_torch(cache: Path) -> None:
    for modality in ("text", "video"):
        cached_graph(find_checkpoint(None, DEMO_MODEL), modality)
    code = (
        "import sys, numpy as np; from clip4clip import TextEncoder, VideoEncoder\n"
        f"text, video = (kind.load('{DEMO_MODEL}', None, 'cpu') for kind in (TextEncoder, VideoEncoder))\n"
        "vectors = text('a red square'), video(np.zeros((2, 30, 40, 3), np.uint8))\n"
        "print('torch' in sys.modules, 'onnx' in sys.modules, np.concatenate(vectors).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    has_torch, has_onnx, vectors = done.stdout.split(" ", 2)
    assert (has_torch, has_onnx) == ("False", "False")
    text, video = (kind.load(DEMO_MODEL, None, "cpu", "torch") for kind in (TextEncoder, VideoEncoder))
    expected = np.concatenate([text("a red square"), video(np.zeros((2, 30, 40, 3), np.uint8))])
    np.testing.assert_allclose(json.loads(vectors), expected, atol=1e-5)
    files = sorted(path.name for path in cache.glob("graphs-*/*/[!.]*"))
    assert files == [f"{modality}-float32.onnx{end}" for modality in ("text", "video") for end in ("", ".data")]


def test_the_cache_key_is_the_weights_not_the_file_format(
    cache: Path, tiny_state: State, random_state: Callable[..., State], tmp_path: Path
) -> None:
    save_file(tiny_state, tmp_path / "a.safetensors")
    torch.save({f"module.{name}": tensor for name, tensor in tiny_state.items()}, tmp_path / "b.bin")
    save_file(random_state(MODELS["tiny"].config, 1), tmp_path / "c.safetensors")
    graphs = [
        cached_graph(find_checkpoint(tmp_path / name, "tiny"), "text").path
        for name in ("a.safetensors", "b.bin", "c.safetensors")
    ]
    assert graphs[0] == graphs[1] != graphs[2]  # the first two have the same numbers


def test_a_checkpoint_that_differs_in_a_single_number_has_a_graph_of_its_own(
    cache: Path, tiny_state: State, tmp_path: Path
) -> None:
    vectors = []
    for value in (0.0, 5.0):
        weight = tiny_state["transformer.resblocks.0.mlp.c_fc.weight"].clone()
        weight[0, 1] = value  # the fingerprint does not depend on it
        save_file(tiny_state | {"transformer.resblocks.0.mlp.c_fc.weight": weight}, tmp_path / f"{value}.safetensors")
        for runtime in ("torch", "onnxruntime"):
            vectors.append(TextEncoder.load("tiny", tmp_path / f"{value}.safetensors", "cpu", runtime)("a dog"))
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)
    np.testing.assert_allclose(vectors[3], vectors[2], atol=1e-5)
    assert np.abs(vectors[3] - vectors[1]).max() > 1e-3


def test_replacing_a_checkpoint_while_its_graph_is_built_is_an_error(
    cache: Path, tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(found: Checkpoint, modality: str) -> object:
        new.replace(found.path)
        return build_tower(found, modality)

    checkpoint, new = tmp_path / "model.safetensors", tmp_path / "new"
    save_file(tiny_state, checkpoint)
    save_file({name: tensor.flip(0) for name, tensor in tiny_state.items()}, new)
    with monkeypatch.context() as patch:
        patch.setattr("clip4clip.runtime.torch_backend.build_tower", build)
        with pytest.raises(CacheError, match=r"model\.safetensors was replaced while it was read"):
            TextEncoder.load("tiny", checkpoint, "cpu", "onnxruntime")
    vectors = [TextEncoder.load("tiny", checkpoint, "cpu", runtime)("a dog") for runtime in ("torch", "onnxruntime")]
    np.testing.assert_allclose(*vectors, atol=1e-5)


def test_one_thread_builds_a_graph_and_the_others_wait(
    cache: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builders: list[int] = []
    build = onnx_cache._build

    def record(graph: CachedGraph) -> None:
        builders.append(threading.get_ident())
        build(graph)

    monkeypatch.setattr(onnx_cache, "_build", record)
    graphs: list[CachedGraph] = []
    threads = [
        threading.Thread(target=lambda: graphs.append(cached_graph(find_checkpoint(tiny_checkpoint, "tiny"), "video")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builders) == 1
    assert len(set(graphs)) == 1
    assert len(graphs) == 4


def test_files_of_a_process_that_was_killed_while_building_are_removed(cache: Path) -> None:
    code = (
        "import time; from clip4clip import TextEncoder; from clip4clip.runtime import onnx_export\n"
        "onnx_export._compare_with_torch = lambda *_: (print('building', flush=True), time.sleep(600))\n"
        f"TextEncoder.load('{DEMO_MODEL}', None, 'cpu', 'onnxruntime')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "building\n"
        process.kill()
    (unfinished,) = cache.glob("graphs-*/*/.*.making-*")
    assert sorted(path.name for path in unfinished.iterdir()) == ["text-float32.onnx", "text-float32.onnx.data"]
    assert list(cache.glob("graphs-*/*/*.onnx")) == []
    graph = cached_graph(find_checkpoint(None, DEMO_MODEL), "text").path
    names = [".text-float32.onnx.lock", "text-float32.onnx", "text-float32.onnx.data"]
    assert sorted(path.name for path in graph.parent.iterdir()) == names


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_or_missing_graph_is_rebuilt_at_the_next_start(
    kind: str, demo_graph: Callable[[], Path], demo_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(demo_graph(), kind)
    vectors = TextEncoder.load(DEMO_MODEL, demo_checkpoint, "cpu", "onnxruntime")(CAPTIONS)
    np.testing.assert_allclose(vectors, TextEncoder.load(DEMO_MODEL, None, "cpu", "torch")(CAPTIONS), atol=1e-5)
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (0 if kind in ("no file", "no cache") else 1)
    assert all(message.startswith(REBUILDING) for message in warnings)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_or_missing_graph_is_rebuilt_in_a_running_process(
    kind: str,
    demo_graph: Callable[[], Path],
    demo_checkpoint: Path,
    two_cores: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = TextEncoder.load(DEMO_MODEL, demo_checkpoint, "cpu", "onnxruntime")
    damage(demo_graph(), kind)
    vectors = text(CAPTIONS * 10)  # the session for many rows is created only now
    np.testing.assert_allclose(vectors, TextEncoder.load(DEMO_MODEL, None, "cpu", "torch")(CAPTIONS * 10), atol=1e-5)
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith(REBUILDING)


def test_a_graph_that_cannot_be_rebuilt_is_an_error(
    cache: Path, two_cores: None, tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "model.safetensors"
    save_file(tiny_state, checkpoint)
    text = TextEncoder.load("tiny", checkpoint, "cpu", "onnxruntime")
    shutil.rmtree(cache)
    with monkeypatch.context() as patch:
        patch.setattr(onnx_cache, "_build", lambda graph: graph.path.write_bytes(b"rubbish"))
        with pytest.raises(CacheError, match=r"float32\.onnx cannot be loaded and cannot be rebuilt from .*Protobuf"):
            text(CAPTIONS * 10)
    save_file({name: tensor.flip(0) for name, tensor in tiny_state.items()}, tmp_path / "new")
    (tmp_path / "new").replace(checkpoint)
    with pytest.raises(CacheError, match="the checkpoint now has other weights"):
        text(CAPTIONS * 10)
    checkpoint.unlink()
    with pytest.raises(CacheError, match="No such file"):
        text(CAPTIONS * 10)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_an_unwritable_cache_is_an_error_unless_torch_can_be_used(
    tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_checkpoint = tmp_path / "model.safetensors"  # of its own, so that the tower is not yet in memory
    save_file(tiny_state, tiny_checkpoint)
    monkeypatch.setenv("CLIP4CLIP_CACHE", "/proc/none")
    with pytest.raises(CacheError, match="Set CLIP4CLIP_CACHE to a"):
        TextEncoder.load("tiny", tiny_checkpoint, "cpu", "onnxruntime")
    assert resolve_placement("cpu").runtime == "torch"  # the default falls back to torch
    assert TextEncoder.load("tiny", tiny_checkpoint, "cpu")("a dog").shape == (64,)


@pytest.mark.parametrize("name", ["~nobody_such/x", "a file"])
def test_a_cache_name_that_cannot_be_a_folder_is_an_error_unless_torch_can_be_used(
    name: str, tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, cache = tmp_path / "model.safetensors", name.replace("a file", str(tmp_path / "file"))
    save_file(tiny_state, checkpoint)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CLIP4CLIP_CACHE", cache)
    with pytest.raises(CacheError, match=f"{cache}.*Set CLIP4CLIP_CACHE to a"):
        TextEncoder.load("tiny", checkpoint, "cpu", "onnxruntime")
    text = TextEncoder.load("tiny", checkpoint, "cpu")
    assert isinstance(text.model, TorchTower)
    assert text("a dog").shape == (64,)
    assert f"using torch instead of onnxruntime, because {cache} is not writable" in caplog.text
