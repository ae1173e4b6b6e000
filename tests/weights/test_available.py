"""Which default checkpoints are on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

import clip4clip
from clip4clip import UnknownNameError
from clip4clip.config import MODELS, Model
from clip4clip.weights.available import find_available

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the cache of ``huggingface_hub``: the commit of ``owner/model`` that the branch main points to."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TOWHEE_HOME", str(tmp_path / "towhee"))
    repository = tmp_path / "models--owner--model"
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return repository / "snapshots" / COMMIT


def test_a_file_in_the_cache_is_available(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    references = ("hf://owner/model", f"hf://owner/model@{COMMIT}", "hf://owner/model@main/other/w.bin")
    for name, reference in zip("abc", references, strict=True):
        monkeypatch.setitem(MODELS, name, Model(None, hub=reference))
    assert [find_available(name) for name in "abc"] == [None, None, None]
    (snapshot / "other").mkdir()
    for name in ("pytorch_model.bin", "other/w.bin", "model.safetensors"):
        (snapshot / name).touch()
    best = snapshot / "model.safetensors"
    assert [find_available(name) for name in "abc"] == [best, best, snapshot / "other" / "w.bin"]
    best.unlink()
    best.symlink_to(snapshot / "gone")  # as after `huggingface-cli delete-cache` of a shared blob
    assert find_available("a") == snapshot / "pytorch_model.bin"


def test_what_needs_no_hub_is_available(snapshot: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_available("clip_vit_tiny_demo") == Path(clip4clip.__file__).with_name("clip_vit_tiny_demo.safetensors")
    assert find_available("clip_vit_b32") is None
    placed = tmp_path / "towhee/operators/video-text-embedding/clip4clip/versions/main/pytorch_model.bin.1"
    placed.parent.mkdir(parents=True)
    placed.touch()
    assert find_available("clip_vit_b32") == placed
    monkeypatch.setitem(MODELS, "own", Model(None, weights=str(tmp_path / "own.bin")))
    assert find_available("own") is None
    (tmp_path / "own.bin").touch()
    assert find_available("own") == tmp_path / "own.bin"
    with pytest.raises(UnknownNameError):
        find_available("vit")
