"""Sharded checkpoints: an index and the shards that it names, all of them in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import State, embed
from safetensors.torch import save_file

from clip4clip import CheckpointError
from clip4clip.weights.checkpoint import read_state_dict
from clip4clip.weights.identity import find_checkpoint
from clip4clip.weights.inspection import file_state
from clip4clip.weights.shards import MAX_SHARDS, MAX_TENSORS, checkpoint_files


def write_shards(state: State, folder: Path, suffix: str = "safetensors", **changes: Any) -> Path:
    """Write two shards and their index, of which some values may be others; return the index."""
    folder.mkdir(exist_ok=True)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = list(state)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"{stem}-0000{number}-of-00002.{suffix}"
        tensors = {name: state[name] for name in part}
        save_file(tensors, folder / shard) if suffix == "safetensors" else torch.save(tensors, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map | changes}))
    return index


def test_the_shards_of_transformers_give_the_same_vectors_as_one_file(
    hugging_face_model: Any, hugging_face_folder: Path, tmp_path: Path
) -> None:
    hugging_face_model.save_pretrained(tmp_path, max_shard_size="5MB")
    assert not (tmp_path / "model.safetensors").exists()
    assert len(checkpoint_files(tmp_path / "model.safetensors.index.json")) > 2
    for modality in ("text", "video"):
        np.testing.assert_array_equal(embed(tmp_path, modality), embed(hugging_face_folder, modality))
    assert find_checkpoint(tmp_path).fingerprint == find_checkpoint(hugging_face_folder).fingerprint


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_all_tensors_of_all_shards_are_read(suffix: str, tiny_state: State, tmp_path: Path) -> None:
    index = write_shards(tiny_state, tmp_path, suffix)
    tensors = read_state_dict(index)
    assert tensors.keys() == tiny_state.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in tiny_state.items())
    assert [file.name for file in checkpoint_files(index)][1:] == sorted(
        file.name for file in tmp_path.iterdir() if file != index
    )


def test_the_state_of_a_checkpoint_depends_on_every_shard(tiny_state: State, tmp_path: Path) -> None:
    index = write_shards(tiny_state, tmp_path)
    states = {file_state(index)}
    for file in checkpoint_files(index):
        file.write_bytes(file.read_bytes() + b" ")
        states.add(file_state(index))
    assert len(states) == 4


def test_a_missing_shard_is_named(tiny_state: State, tmp_path: Path) -> None:
    index = write_shards(tiny_state, tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    for call in (read_state_dict, checkpoint_files, file_state):
        with pytest.raises(
            CheckpointError, match=r"its shard model-00002-of-00002\.safetensors is missing in the folder"
        ):
            call(index)


def test_a_damaged_shard_is_named(tiny_state: State, tmp_path: Path) -> None:
    index = write_shards(tiny_state, tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"hello world")
    with pytest.raises(CheckpointError, match=r"its shard model-00001-of-00002\.safetensors: it is neither"):
        read_state_dict(index)


def test_a_tensor_must_be_in_the_shard_that_the_index_names(tiny_state: State, tmp_path: Path) -> None:
    other = "model-00002-of-00002.safetensors"
    first = next(iter(tiny_state))
    index = write_shards(tiny_state, tmp_path, **{first: other})
    with pytest.raises(CheckpointError, match=rf"model-00001-of-00002.safetensors holds tensors .*: {first}"):
        read_state_dict(index)
    index = write_shards(tiny_state, tmp_path, gone=other)
    with pytest.raises(CheckpointError, match="its shards lack 1 tensors of the index: gone"):
        read_state_dict(index)


@pytest.mark.parametrize(
    "shard",
    [
        *["../model.safetensors", "/etc/passwd.bin", "a/b.safetensors", "a\\b.bin", "..bin", ".bin", "", "C:x.bin"],
        *["model.safetensors.index.json", "x.safetensors\n", "hf://a/b.bin", "x" * 300 + ".bin", 1, None, ["a.bin"]],
    ],
)
def test_a_shard_outside_of_the_folder_is_refused(shard: Any, tiny_state: State, tmp_path: Path) -> None:
    index = write_shards(tiny_state, tmp_path / "model", x=shard)
    for call in (read_state_dict, checkpoint_files):
        with pytest.raises(CheckpointError, match="is not the name of a shard: it must be a file in the same folder"):
            call(index)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read as a checkpoint"),
        (b"[" * 100_000, "cannot be read as a checkpoint"),
        (b"[]", "no weight_map"),
        (b'{"weight_map": {}}', "no weight_map"),
        (b'{"weight_map": ["a.bin"]}', "no weight_map"),
        (b" " * 2**22 + b"{}", "4,194,304 bytes, the limit"),
        (json.dumps({"weight_map": dict.fromkeys(map(str, range(MAX_TENSORS + 1)), "a.bin")}).encode(), "at most"),
        (json.dumps({"weight_map": {str(n): f"{n}.bin" for n in range(MAX_SHARDS + 1)}}).encode(), "100 shards"),
    ],
    ids=["truncated", "deep", "list", "empty", "map is a list", "large", "many tensors", "many shards"],
)
def test_an_invalid_index_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(content)
    for call in (read_state_dict, checkpoint_files):
        with pytest.raises(CheckpointError, match=message):
            call(index)
