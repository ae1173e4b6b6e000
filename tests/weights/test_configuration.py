"""The activation of a checkpoint, by its configuration and by the file itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import State, embed
from constants import QUICK_GELU
from safetensors.torch import save_file

from clip4clip import CheckpointError, TextEncoder
from clip4clip.training.checkpoint import save_checkpoint
from clip4clip.training.model import VideoTextModel
from clip4clip.weights.identity import find_checkpoint


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"model_type": "clip", "text_config": {"hidden_act": "gelu"}}),
        ("config.json", {"model_type": "clip_text_model", "hidden_act": "gelu"}),
        ("open_clip_config.json", {"model_cfg": {"embed_dim": 512}}),
    ],
)
def test_a_folder_whose_configuration_names_another_activation_is_refused(
    name: str, content: dict, tmp_path: Path, tiny_state: State
) -> None:
    save_file(tiny_state, tmp_path / "model.safetensors")
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="QuickGELU"):
        TextEncoder.load("tiny", tmp_path, "cpu")


GELU = {
    "config.json": {"model_type": "clip", "text_config": {"hidden_act": "gelu"}, "vision_config": {}},
    "open_clip_config.json": {"model_cfg": {"embed_dim": 64}},
}


def snapshot_in_the_hub_cache(folder: Path, state: State, config: str = "") -> Path:
    """Write a checkpoint as huggingface_hub caches it: a symbolic link in a snapshot that points to a blob."""
    root = folder / "models--owner--model"
    (root / "blobs").mkdir(parents=True)
    save_file(state, root / "blobs" / "0123")
    file = root / "snapshots" / ("a" * 40) / "sub" / "weights.bin"
    file.parent.mkdir(parents=True)
    file.symlink_to(root / "blobs" / "0123")
    if config:
        (file.parent.parent / config).write_text(json.dumps(GELU[config]))
    return file


@pytest.mark.parametrize("config", GELU)
@pytest.mark.parametrize("location", ["file", "link to it", "snapshot", "link into a snapshot"])
def test_the_configuration_of_a_file_is_found_through_links_and_snapshots(
    location: str, config: str, tmp_path: Path, tiny_state: State
) -> None:
    if "snapshot" in location:
        path = snapshot_in_the_hub_cache(tmp_path / "cache", tiny_state, config)
    else:
        path = tmp_path / "model" / "open_clip_pytorch_model.bin"
        path.parent.mkdir()
        torch.save(tiny_state, path)
        path.with_name(config).write_text(json.dumps(GELU[config]))
    if "link" in location:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    with pytest.raises(
        CheckpointError,
        match=f"{config} describes a different network than tiny: the activation is gelu, not QuickGELU",
    ):
        TextEncoder.load("tiny", path, "cpu")


@pytest.mark.parametrize(
    "content",
    ['{"model_type": "bert", "hidden_act": "gelu"}', '{"name": "my app"}', "[1, 2]", "// not JSON", '{"model_cfg": 1}'],
)
def test_a_configuration_of_anything_but_a_clip_is_ignored(
    content: str, tmp_path: Path, tiny_state: State, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(tiny_state, tmp_path / "weights")
    (tmp_path / "config.json").write_text(content)
    assert find_checkpoint(tmp_path / "weights", "tiny").path == tmp_path / "weights"
    assert f"{tmp_path / 'weights'} does not state the activation" in caplog.text
    assert "QuickGELU is assumed" in caplog.text


def test_an_assumed_activation_is_warned_about_once(
    tmp_path: Path, tiny_state: State, hugging_face_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [tmp_path / "openai.bin", tmp_path / "blob", tmp_path / "hugging_face"]
    torch.save(tiny_state, paths[0])
    save_file(tiny_state, paths[1])
    paths[2].write_bytes((hugging_face_folder / "model.safetensors").read_bytes())
    for path in paths * 2:
        find_checkpoint(path, "tiny")
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [message.split(" does not")[0] for message in messages] == list(map(str, paths))


def test_a_known_activation_is_not_warned_about(
    tmp_path: Path, tiny_state: State, hugging_face_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip4clip = {f"clip.{name}": tensor for name, tensor in tiny_state.items()}
    torch.save(clip4clip, tmp_path / "pytorch_model.bin.3")
    torch.save(clip4clip, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in clip4clip.items()}}, tmp_path / "parallel")
    save_checkpoint(VideoTextModel.load(find_checkpoint(tmp_path / "legacy", "tiny")), tmp_path / "trained.safetensors")
    (tmp_path / "openai").mkdir()
    save_file(tiny_state, tmp_path / "openai" / "weights")
    (tmp_path / "openai" / "open_clip_config.json").write_text(QUICK_GELU)
    for path in ("pytorch_model.bin.3", "legacy", "parallel", "trained.safetensors", "openai/weights"):
        find_checkpoint(tmp_path / path, "tiny")
    find_checkpoint(hugging_face_folder / "model.safetensors", "tiny")
    find_checkpoint(hugging_face_folder, "tiny")
    find_checkpoint(None, "clip_vit_tiny_demo")
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_with_gelu_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for activation, refused in ((torch.nn.GELU(), True), (torch.nn.Sigmoid(), False)):
        module = torch.nn.Sequential(torch.nn.Linear(3, 3), activation).eval()
        for number in range(2):  # from the second module on, torch mangles the names of the classes
            torch.jit.script(module).save(tmp_path / f"{number}.pt")
            if refused:
                with pytest.raises(CheckpointError, match=rf"{number}\.pt describes .* the activation is gelu"):
                    find_checkpoint(tmp_path / f"{number}.pt", "tiny")
            else:
                assert find_checkpoint(tmp_path / f"{number}.pt", "tiny").path == tmp_path / f"{number}.pt"
    assert caplog.text == ""


def test_a_wrong_size_and_a_wrong_activation_are_both_named(tmp_path: Path, tiny_state: State) -> None:
    save_file(tiny_state | {"visual.conv1.weight": torch.zeros(128, 3, 8, 8)}, tmp_path / "model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(GELU["open_clip_config.json"]))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(CheckpointError, match=r"activation is gelu, not QuickGELU; .*patch_size is 8, not 16"):
            TextEncoder.load("tiny", path, "cpu")


def test_a_folder_with_quick_gelu_in_its_configuration_is_accepted(
    tmp_path: Path, tiny_state: State, expected_vectors: Callable
) -> None:
    save_file(tiny_state, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_base_patch32_clip_224", "num_classes": 0}))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))
    np.testing.assert_array_equal(embed(tmp_path, "text"), expected_vectors("text"))


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b'"model_type"', b"[" * 200_000, b'{"model_type": 1, "text_config": 2}']
)
def test_an_unreadable_configuration_in_a_folder_is_refused(content: bytes, tmp_path: Path, tiny_state: State) -> None:
    save_file(tiny_state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json is not a model's configuration"):
        TextEncoder.load("tiny", tmp_path, "cpu")
