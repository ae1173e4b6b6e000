"""Where a checkpoint is searched for, and the errors if it is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clip4clip import TextEncoder, UnknownNameError, WeightsNotFoundError
from clip4clip.config import MODELS
from clip4clip.weights.locate import locate


def test_the_default_is_the_file_in_the_operators_folder(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin.1").touch()
    assert locate(None, "clip_vit_b32", tmp_path).path == tmp_path / "pytorch_model.bin.1"


def test_a_missing_default_is_an_error_that_lists_what_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsNotFoundError) as error:
        locate(None, "clip_vit_b32", tmp_path)
    message = str(error.value)
    assert f"{tmp_path / 'pytorch_model.bin.1'} (no such file)" in message
    assert "hf://timm/vit_base_patch32_clip_224.openai@ab5b8ef490e86faa07d3523926b842c765de1de5/" in message
    assert "Pass weight_path" in message


def test_the_defaults_on_the_hub_are_pinned_to_a_commit() -> None:
    for name in ("clip_vit_b32", "clip_vit_b16"):
        assert re.search(r"@[0-9a-f]{40}/open_clip_model\.safetensors$", MODELS[name].hub)


def test_a_missing_file_is_an_error_that_says_how_to_supply_one(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"nowhere\.pt: there is no such file or folder\. Pass weight_path"):
        TextEncoder.load("tiny", tmp_path / "nowhere.pt", "cpu")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in the folder .*model\.safetensors"):
        TextEncoder.load("tiny", tmp_path, "cpu")
    with pytest.raises(UnknownNameError, match="unknown model 'vit'"):
        TextEncoder.load("vit", tmp_path, "cpu")


@pytest.mark.parametrize("path", ["", "a\0b", "a" * 5000, "~nobody-of-that-name/model.pt", "/dev/null", "/dev/null/x"])
def test_an_impossible_path_is_an_error(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsNotFoundError, match="no checkpoint") as raised:
        locate(path, "tiny")
    assert "\0" not in str(raised.value)
    assert ".." not in str(raised.value).replace("...", "")


def test_a_broken_link_in_a_folder_is_not_replaced_by_other_weights(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_model.safetensors").symlink_to(tmp_path / "nothing")
    (tmp_path / "model.safetensors").write_bytes(tiny_checkpoint.read_bytes())
    with pytest.raises(WeightsNotFoundError, match=r"open_clip_model\.safetensors is not a file that can be read"):
        locate(tmp_path)


def test_a_revision_cannot_leave_its_repository() -> None:
    with pytest.raises(WeightsNotFoundError, match="is not a hub reference"):
        locate("hf://owner/model@../other.bin")
