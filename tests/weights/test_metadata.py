"""What trained checkpoints say about themselves, and what forged ones may not say."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import State, flip_bytes
from constants import TINY
from safetensors import safe_open
from safetensors.torch import save_file

from clip4clip import CheckpointError
from clip4clip.config import MODELS, CLIPConfig, ImageConfig
from clip4clip.weights.identity import find_checkpoint
from clip4clip.weights.metadata import KEY, Metadata, read_metadata, to_metadata

UNUSUAL = CLIPConfig(
    embed_dim=48,
    resolution=32,
    patch_size=8,
    vision_width=96,
    vision_layers=3,
    vision_head_width=32,
    vision_mlp_width=100,
    context_length=20,
    vocab_size=1000,
    text_width=80,
    text_layers=2,
    text_head_width=16,
    activation="gelu",
    norm_eps=1e-6,
    pooling="attention",
    pooling_heads=6,
    rotary=True,
    image=ImageConfig((0.5, 0.5, 0.25), (1, 0.5, 0.5), "bilinear", "squash"),
)
EXAMPLE = Metadata(
    "owner/model", UNUSUAL, "seqLSTM", {"epochs": 5, "lr": 1e-7, "init": None, "skip": True, "pairs": "9"}, 70, 5, 43.5
)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[dict[str, str] | None], Path]:
    """``(metadata)`` to the path of a small safetensors file that has it."""

    def save_metadata(metadata: dict[str, str] | None) -> Path:
        path = tmp_path / "model.safetensors"
        save_file({"a": torch.zeros(3)}, path, metadata)
        return path

    return save_metadata


def test_what_is_written_is_read(save: Callable) -> None:
    assert read_metadata(save(to_metadata(EXAMPLE))) == read_metadata(str(save(to_metadata(EXAMPLE)))) == EXAMPLE
    bare = Metadata("clip_vit_b32", CLIPConfig(), "meanP")
    assert read_metadata(save(to_metadata(bare))) == bare
    for name, model in MODELS.items():
        metadata = replace(bare, model_name=name, config=model.config)
        assert read_metadata(save(to_metadata(metadata))) == metadata
    with safe_open(save(to_metadata(bare)), "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_files_without_our_metadata_have_none(save: Callable, tmp_path: Path) -> None:
    assert read_metadata(save(None)) is None
    assert read_metadata(save({"format": "pt", "other": "{}"})) is None
    assert read_metadata(save({KEY: '{"step": 3, "run": {}}'})) is None, "the state of a run"
    path = tmp_path / "other"
    torch.save({"a": torch.zeros(3)}, path)
    assert read_metadata(path) is None
    for content in (b"", b"{", b"\x02\0\0\0\0\0\0\0{}", b"\x04\0\0\0\0\0\0\0{[[[", b"\xff" * 8 + b"{}"):
        path.write_bytes(content)
        assert read_metadata(path) is None


def forge(**changes: Any) -> dict[str, Any]:
    """Return the content of the metadata of :data:`EXAMPLE` with other values; ``config__x`` is a field of it."""
    content = {"format": 1, **asdict(EXAMPLE)}
    for name, value in changes.items():
        *parents, key = name.split("__")
        target = content
        for parent in parents:
            target = target[parent]
        if value is ...:
            del target[key]
        else:
            target[key] = value
    return content


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "its format is 2, and this version of the package reads 1: upgrade"),
        ({"format": True}, "its format is True"),
        ({"format": [1]}, "its format is"),
        ({"head": "maxP"}, "head is 'maxP', not one of meanP, seqLSTM, seqTransf"),
        ({"head": ...}, "head is None"),
        ({"model_name": ""}, "model_name is ''"),
        ({"model_name": "\x1b[31m"}, "model_name is"),
        ({"model_name": "x" * 201}, "model_name is 'xxx"),
        ({"config": []}, r"config is \[\], not of the type dict"),
        ({"config__activation": "relu"}, "unknown activation 'relu'"),
        ({"config__activation": ...}, "activation is None"),
        ({"config__rotary": 1}, "rotary is 1, not of the type bool"),
        ({"config__vision_layers": True}, "vision_layers is True"),
        ({"config__vision_layers": 12.0}, "vision_layers is 12.0"),
        ({"config__vision_layers": 10**30}, "vision_layers must be a number from 1"),
        ({"config__text_mlp_width": None}, "text_mlp_width is None"),
        ({"config__norm_eps": 0}, "norm_eps must be a small positive number"),
        ({"config__norm_eps": 10**400}, "norm_eps is 1000"),
        ({"config__vision_head_width": 64}, "not a multiple of vision_head_width 64"),
        ({"config__image": None}, "image is None"),
        ({"config__image__mean": [0.5, 0.5]}, "mean must be three numbers"),
        ({"config__image__std": [0.5, "0.5", 0.5]}, "std is .* not a list of numbers"),
        ({"config__image__resize": "pad"}, "unknown resize 'pad'"),
        ({"step": -1}, "step is -1, not a count"),
        ({"epoch": 1.5}, "epoch is 1.5, not a count"),
        ({"recall_at_1": 101}, "recall_at_1 is 101, not a percentage"),
    ],
)
def test_invalid_metadata_is_refused_rather_than_ignored(save: Callable, changes: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"model.safetensors has metadata of clip4clip .*{message}"):
        read_metadata(save({KEY: json.dumps(forge(**changes))}))


@pytest.mark.parametrize("text", ["{", "[" * 60_000, '{"format": NaN}', " " * 70_000, '{"format": ' + "1" * 5000 + "}"])
def test_metadata_that_is_no_json_or_too_large_is_refused(save: Callable, text: str) -> None:
    with pytest.raises(CheckpointError, match="has metadata of clip4clip that cannot be read"):
        read_metadata(save({KEY: text}))


def test_a_large_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**22 + 1) + b"{" + b" " * 2**22)
    with pytest.raises(CheckpointError, match="its header has 4,194,305 bytes; 4,194,304 are read"):
        read_metadata(path)


def test_unknown_keys_and_settings_that_cannot_be_shown_are_ignored(save: Callable) -> None:
    settings = {"epochs": 5, "a": [1], "b": {}, "c": "x" * 201, "d": "\x1b[31m", "\n": 1, "e": 10**400, "f": "é"}
    content = forge(settings=settings, config__colour="red", author="me")
    metadata = read_metadata(save({KEY: json.dumps(content)}))
    assert metadata == replace(EXAMPLE, settings={"epochs": 5, "f": "é"})
    many = read_metadata(save({KEY: json.dumps(forge(settings={str(n): n for n in range(3000)}))}))
    assert many is not None
    assert len(many.settings) == 100


def test_damaged_files_are_refused_or_have_other_metadata_but_raise_nothing_else(save: Callable) -> None:
    path = save(to_metadata(EXAMPLE))
    content, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        path.write_bytes(flip_bytes(content, random))
        with contextlib.suppress(CheckpointError):
            read_metadata(path)


def test_a_head_that_the_tensors_do_not_have_is_refused(tiny_state: State, tmp_path: Path) -> None:
    save_file(tiny_state, tmp_path / "trained", to_metadata(Metadata("tiny", TINY, "seqTransf")))
    with pytest.raises(CheckpointError, match=r"contradicts its tensors: the head is seqTransf, .* those of meanP"):
        find_checkpoint(tmp_path / "trained")
