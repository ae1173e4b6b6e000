"""Fixtures for the tests of the runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from constants import DEMO_MODEL, QUICK_GELU

from clip4clip.runtime.onnx_cache import cached_graph
from clip4clip.weights.identity import find_checkpoint


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("CLIP4CLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def demo_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the text graph of the demo model."""
    folder = tmp_path_factory.mktemp("demo") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIP4CLIP_CACHE", str(folder))
        cached_graph(find_checkpoint(None, DEMO_MODEL), "text")
    return folder


@pytest.fixture
def demo_graph(cache: Path, demo_cache: Path) -> Callable[[], Path]:
    """Return the path of the demo model's text graph in ``cache``, which is rebuilt if it is missing."""
    shutil.copytree(demo_cache, cache)
    return lambda: cached_graph(find_checkpoint(None, DEMO_MODEL), "text").path


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores for OnnxTower. With one it computes one row and many rows in the same mode."""
    monkeypatch.setattr("clip4clip.runtime.onnx_backend.available_cores", lambda: 2)


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """Two threads of torch. With one, a forked process would lack none."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def demo_checkpoint(tmp_path: Path) -> Path:
    """A copy of the demo model's checkpoint. Encoders that other tests have left loaded do not share its towers."""
    path = tmp_path / "demo.safetensors"
    shutil.copy(find_checkpoint(None, DEMO_MODEL).path, path)
    path.with_name("open_clip_config.json").write_text(QUICK_GELU)
    return path
