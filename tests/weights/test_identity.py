"""The identity of checkpoints, and when a file is read again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import FAMILIES, State
from constants import TINY
from safetensors.torch import save_file

from clip4clip import CheckpointError
from clip4clip.config import ImageConfig, Model
from clip4clip.weights.identity import Identity, identify
from clip4clip.weights.inspection import file_state, inspect_file, tower_digest


@pytest.mark.parametrize("family", ["zip", "CLIP4Clip run"])
def test_the_same_weights_in_another_file_have_the_same_identity(
    family: str, tiny_state: State, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    FAMILIES[family](tiny_state, tmp_path / "other")
    assert identify(tmp_path / "other", "tiny") == identify(tiny_checkpoint, "tiny")
    for modality in ("text", "video"):
        assert tower_digest(tmp_path / "other", modality) == tower_digest(tiny_checkpoint, modality)


def test_different_weights_have_different_identities(tiny_state: State, tiny_checkpoint: Path, tmp_path: Path) -> None:
    save_file(tiny_state | {"ln_final.bias": tiny_state["ln_final.bias"] + 1}, tmp_path / "other")
    assert identify(tmp_path / "other", "tiny") != identify(tiny_checkpoint, "tiny")
    assert tower_digest(tmp_path / "other", "text") != tower_digest(tiny_checkpoint, "text")
    assert tower_digest(tmp_path / "other", "video") == tower_digest(tiny_checkpoint, "video")


def test_settings_that_change_no_vector_change_no_identity(
    tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(tiny_state, tmp_path / "weights")
    config = replace(TINY, image=ImageConfig((0, 0, 0), (1, 1, 1)))  # type: ignore[arg-type]
    equal = replace(TINY, image=ImageConfig((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), pooling_heads=4)
    monkeypatch.setattr("clip4clip.config.MODELS", {"a": Model(config), "b": Model(equal), "tiny": Model(TINY)})
    first, second, other = (identify(tmp_path / "weights", name) for name in ("a", "b", "tiny"))
    assert first == second != other


def test_an_identity_names_the_model_and_the_fingerprint() -> None:
    assert str(Identity("tiny", "0123456789abcdef")) == "tiny with the weights 0123456789abcdef"


def test_a_checkpoint_is_read_once_until_it_changes(
    tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIP4CLIP_CACHE", str(tmp_path / "cache"))
    path, other = tmp_path / "a", tmp_path / "b"
    save_file(tiny_state, path)
    first = inspect_file(path)
    with monkeypatch.context() as unreadable:
        unreadable.setattr("clip4clip.weights.checkpoint.read_state_dict", None)
        assert inspect_file(path) == first
    save_file({name: tensor + 1 for name, tensor in tiny_state.items()}, other)
    other.replace(path)
    assert inspect_file(path).fingerprint != first.fingerprint


def test_a_damaged_cache_entry_is_ignored(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIP4CLIP_CACHE", str(tmp_path))
    first = inspect_file(tiny_checkpoint)
    (entry,) = (tmp_path / "inspections").iterdir()
    entry.write_bytes(b"\xff damaged")
    assert inspect_file(tiny_checkpoint) == first


def test_the_state_of_a_file_changes_with_its_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000))
    before, status = file_state(path), path.stat()
    assert file_state(path) == before
    path.write_bytes(bytes(9_999) + b"1")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_state(path) != before


def test_a_checkpoint_of_another_model_has_no_info(tiny_state: State, tmp_path: Path) -> None:
    save_file(tiny_state | {"visual.conv1.weight": torch.zeros(128, 3, 8, 8)}, tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"describes a different network than tiny: .*patch_size is 8, not 16"):
        identify(tmp_path / "a", "tiny")


def test_a_file_that_cannot_be_opened_is_an_error_of_the_checkpoint(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors cannot be read as a checkpoint: .*Permission denied"
    ):
        inspect_file(tiny_checkpoint)
