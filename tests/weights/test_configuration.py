"""The network of a checkpoint: by its metadata, the configuration beside it, hints in the file, the model's name."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import State, embed
from constants import QUICK_GELU, TINY
from safetensors.torch import save_file

from clip4clip import CheckpointError, TextEncoder
from clip4clip.config import CLIPConfig, ImageConfig
from clip4clip.model import random_state_dict
from clip4clip.training.checkpoint import save_checkpoint
from clip4clip.training.model import VideoTextModel
from clip4clip.weights.comparison import HOW_TO_DESCRIBE
from clip4clip.weights.configuration_files import read_configurations
from clip4clip.weights.identity import find_checkpoint
from clip4clip.weights.locate import locate
from clip4clip.weights.metadata import Metadata, to_metadata

GELU_TINY = replace(TINY, activation="gelu")
# What open_clip and transformers write for a network like TINY with GELU.
OPEN_CLIP: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 128, "layers": 2},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
    },
    "preprocess_cfg": {"mean": list(ImageConfig().mean), "std": list(ImageConfig().std), "interpolation": "bicubic"},
}
TEXT = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1, "num_hidden_layers": 2}
VISION = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2, "num_hidden_layers": 2}
VISION |= {"image_size": 32, "patch_size": 16}
HUGGING_FACE: dict[str, Any] = {
    "model_type": "clip",
    "projection_dim": 64,
    "text_config": TEXT | {"hidden_act": "gelu", "model_type": "clip_text_model"},
    "vision_config": VISION | {"hidden_act": "gelu", "model_type": "clip_vision_model"},
}
IMAGES: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
    "do_normalize": True,
    "image_mean": list(ImageConfig().mean),
    "image_std": list(ImageConfig().std),
    "resample": 3,
}
GELU = {"config.json": HUGGING_FACE, "open_clip_config.json": OPEN_CLIP}


def changed(content: dict, key: str, value: Any) -> dict:
    """Return a copy of a configuration in which the value of a dotted key is another."""
    copy = json.loads(json.dumps(content))
    *sections, last = key.split(".")
    target = copy
    for section in sections:
        target = target.setdefault(section, {})
    target[last] = value
    return copy


def write(folder: Path, contents: dict[str, Any]) -> None:
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))


@pytest.fixture
def weights(tmp_path: Path, tiny_state: State) -> Path:
    """A checkpoint of the model ``tiny`` in a folder without a configuration."""
    path = tmp_path / "weights.safetensors"
    save_file(tiny_state, path)
    return path


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# Where a configuration is found


def snapshot_in_the_hub_cache(folder: Path, state: State) -> Path:
    """Write a checkpoint as huggingface_hub caches it: a symbolic link in a snapshot that points to a blob."""
    root = folder / "models--owner--model"
    (root / "blobs").mkdir(parents=True)
    save_file(state, root / "blobs" / "0123")
    file = root / "snapshots" / ("a" * 40) / "sub" / "weights.bin"
    file.parent.mkdir(parents=True)
    file.symlink_to(os.path.relpath(root / "blobs" / "0123", file.parent))
    return file


@pytest.mark.parametrize("config", GELU)
@pytest.mark.parametrize("location", ["file", "folder", "link to it", "snapshot", "link into a snapshot", "relative"])
def test_the_configuration_of_a_file_is_found_through_links_and_snapshots(
    location: str, config: str, tmp_path: Path, tiny_state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "snapshot" in location:
        path = snapshot_in_the_hub_cache(tmp_path / "cache", tiny_state)
        write(path.parent.parent, {config: GELU[config]})
    else:
        path = tmp_path / "model" / "open_clip_pytorch_model.bin"
        path.parent.mkdir()
        torch.save(tiny_state, path)
        write(path.parent, {config: GELU[config]})
    if "link" in location:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    elif location == "folder":
        path = path.parent
    elif location == "relative":
        monkeypatch.chdir(path.parent)
        path = Path(path.name)
    assert find_checkpoint(path).config == GELU_TINY
    with pytest.raises(
        CheckpointError, match=rf"{config} describes a different network than tiny: activation is gelu, not quick_gelu"
    ):
        find_checkpoint(path, "tiny")


def test_the_configuration_in_the_folder_of_a_file_takes_the_place_of_that_of_its_snapshot(
    tmp_path: Path, tiny_state: State
) -> None:
    file = snapshot_in_the_hub_cache(tmp_path, tiny_state)
    write(file.parent.parent, {"open_clip_config.json": changed(OPEN_CLIP, "model_cfg.quick_gelu", True)})
    assert find_checkpoint(file).config.activation == "quick_gelu"
    write(file.parent, {"open_clip_config.json": OPEN_CLIP})
    assert find_checkpoint(file).config.activation == "gelu"


def test_configurations_that_contradict_each_other_are_refused(weights: Path, tmp_path: Path) -> None:
    write(tmp_path, GELU)
    assert find_checkpoint(weights).config == GELU_TINY
    write(tmp_path, {"open_clip_config.json": changed(OPEN_CLIP, "model_cfg.quick_gelu", True)})
    both = r"config\.json contradicts .*open_clip_config\.json: activation is gelu, not quick_gelu"
    for path in (weights, tmp_path / "model.safetensors"):
        path.exists() or path.symlink_to(weights)
        with pytest.raises(CheckpointError, match=both):
            find_checkpoint(path)
    (tmp_path / "config.json").unlink()
    # The folder of a link, and the folder of its target.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "link").symlink_to(weights)
    assert find_checkpoint(tmp_path / "mine" / "link").config.activation == "quick_gelu"
    write(tmp_path / "mine", {"config.json": HUGGING_FACE})
    with pytest.raises(CheckpointError, match=r"contradicts .*mine.config\.json: activation is quick_gelu, not gelu"):
        find_checkpoint(tmp_path / "mine" / "link")


def test_the_images_of_open_clip_come_before_those_of_an_image_processor(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    squash = changed(OPEN_CLIP, "preprocess_cfg.resize_mode", "squash")
    write(tmp_path, {"open_clip_config.json": squash, "preprocessor_config.json": IMAGES})
    assert find_checkpoint(weights).config.image.resize == "squash"
    assert "preprocessor_config.json contradicts" in caplog.text
    (tmp_path / "open_clip_config.json").unlink()
    write(tmp_path, {"config.json": HUGGING_FACE})
    assert find_checkpoint(weights).config.image.resize == "crop"


def test_the_checkpoint_of_both_towers_comes_before_that_of_one(tiny_state: State, tmp_path: Path) -> None:
    torch.save(tiny_state, tmp_path / "open_clip_pytorch_model.bin")
    write(tmp_path, {"open_clip_config.json": OPEN_CLIP})
    save_file({"blocks.0.norm1.weight": torch.ones(3)}, tmp_path / "model.safetensors")  # that of timm
    assert find_checkpoint(tmp_path).path.name == "open_clip_pytorch_model.bin"


def test_a_configuration_that_contradicts_the_tensors_is_refused(weights: Path, tmp_path: Path) -> None:
    write(tmp_path, {"open_clip_config.json": changed(OPEN_CLIP, "model_cfg.vision_cfg.layers", 3)})
    with pytest.raises(
        CheckpointError, match=r"config\.json contradicts .*weights\.safetensors: vision_layers is 3, not 2"
    ):
        find_checkpoint(weights)


def test_a_wrong_size_and_a_wrong_activation_are_both_named(tmp_path: Path, tiny_state: State) -> None:
    save_file(tiny_state | {"visual.conv1.weight": torch.zeros(128, 3, 8, 8)}, tmp_path / "model.safetensors")
    write(tmp_path, {"open_clip_config.json": {"model_cfg": {"quick_gelu": False}}})
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(CheckpointError, match=r"patch_size is 8, not 16.*activation is gelu, not quick_gelu"):
            find_checkpoint(path, "tiny")


def test_a_model_that_fits_is_named(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clip4clip.config import MODELS, Model

    monkeypatch.setitem(MODELS, "tiny gelu", Model(GELU_TINY))
    write(tmp_path, GELU)
    with pytest.raises(CheckpointError, match="It fits model_name='tiny gelu'"):
        find_checkpoint(weights, "tiny")
    assert find_checkpoint(weights, "tiny gelu").config == GELU_TINY


# Which keys are understood

OPEN_CLIP_FACTS: list[tuple[str, Any, dict]] = [
    ("model_cfg.quick_gelu", True, {"activation": "quick_gelu"}),
    ("model_cfg.custom_text", True, {}),
    ("model_cfg.init_logit_bias", -10, {}),
    ("model_cfg.vision_cfg.head_width", 32, {"vision_head_width": 32}),
    ("model_cfg.vision_cfg.head_width", 96, {"vision_head_width": 128}),
    ("model_cfg.vision_cfg.pool_type", "avg", {"pooling": "mean"}),
    ("model_cfg.vision_cfg.final_ln_after_pool", True, {}),
    ("model_cfg.vision_cfg.image_size", [32, 32], {}),
    ("model_cfg.vision_cfg.mlp_ratio", 4, {}),
    ("model_cfg.vision_cfg.patch_dropout", 0.5, {}),
    ("model_cfg.vision_cfg.ls_init_value", None, {}),
    ("model_cfg.vision_cfg.timm_model_name", None, {}),
    ("model_cfg.text_cfg.heads", 4, {"text_head_width": 16}),
    ("model_cfg.text_cfg.tokenizer_kwargs", {"clean": "lower"}, {}),
    ("model_cfg.text_cfg.eos_id", 7, {}),
    ("preprocess_cfg.resize_mode", "squash", {"image": replace(ImageConfig(), resize="squash")}),
    ("preprocess_cfg.interpolation", "bilinear", {"image": replace(ImageConfig(), interpolation="bilinear")}),
    ("preprocess_cfg.interpolation", "random", {}),
    ("preprocess_cfg.mean", [0.5, 0.5, 0.5], {"image": replace(ImageConfig(), mean=(0.5, 0.5, 0.5))}),
    ("preprocess_cfg.size", 7, {}),  # as open_clip, which takes it from the network
]


@pytest.mark.parametrize(("key", "value", "facts"), OPEN_CLIP_FACTS)
def test_a_key_of_open_clip_is_understood(key: str, value: Any, facts: dict, weights: Path, tmp_path: Path) -> None:
    write(tmp_path, {"open_clip_config.json": changed(OPEN_CLIP, key, value)})
    assert find_checkpoint(weights).config == replace(GELU_TINY, **facts)


def test_the_epsilon_of_both_towers_is_read(weights: Path, tmp_path: Path) -> None:
    content = changed(OPEN_CLIP, "model_cfg.text_cfg.norm_kwargs", {"eps": 1e-6})
    write(tmp_path, {"open_clip_config.json": content})
    with pytest.raises(CheckpointError, match="a different LayerNorm epsilon, 1e-05 and 1e-06"):
        find_checkpoint(weights)
    write(tmp_path, {"open_clip_config.json": changed(content, "model_cfg.vision_cfg.norm_kwargs", {"eps": 1e-6})})
    assert find_checkpoint(weights).config == replace(GELU_TINY, norm_eps=1e-6)


OPEN_CLIP_REFUSED: list[tuple[str, Any, str]] = [
    ("model_cfg.multimodal_cfg", {}, "CoCa"),
    ("model_cfg.new_key", 1, "the meaning of this key is unknown"),
    ("new_key", 1, "the meaning of this key is unknown"),
    ("model_cfg.vision_cfg.layers", [3, 4, 6, 3], "ResNets"),
    ("model_cfg.vision_cfg.timm_model_name", "convnext_base", "only vit_pe_core"),
    ("model_cfg.vision_cfg.timm_model_name", "vit_pe_core_gigantic_patch14_448", "only vit_pe_core_tiny"),
    ("model_cfg.vision_cfg.ls_init_value", 1e-4, "layer scale"),
    ("model_cfg.vision_cfg.attentional_pool", True, "attentional pooling of CoCa"),
    ("model_cfg.vision_cfg.no_ln_pre", True, "without its first LayerNorm"),
    ("model_cfg.vision_cfg.qk_norm", True, "further normalisations"),
    ("model_cfg.vision_cfg.pool_type", "none", "only 'tok' and 'avg'"),
    ("model_cfg.vision_cfg.image_size", [32, 48], "only squares"),
    ("model_cfg.vision_cfg.act_kwargs", {"approximate": "tanh"}, "approximations of GELU"),
    ("model_cfg.vision_cfg.input_patchnorm", True, "LayerNorm of the patches"),
    ("model_cfg.vision_cfg.block_type", "custom", "blocks of other types"),
    ("model_cfg.text_cfg.hf_model_name", "roberta-base", "text towers of transformers"),
    ("model_cfg.text_cfg.hf_tokenizer_name", "bert-base-uncased", "tokenizers other than"),
    ("model_cfg.text_cfg.tokenizer_kwargs", {"clean": "canonicalize"}, "only 'lower'"),
    ("model_cfg.text_cfg.tokenizer_kwargs", {"reduction_mask": "syntax"}, "only ''"),
    ("model_cfg.text_cfg.no_causal_mask", True, "without a causal mask"),
    ("model_cfg.text_cfg.embed_cls", True, "class token in the text tower"),
    ("model_cfg.text_cfg.pool_type", "last", "only 'argmax'"),
    ("model_cfg.text_cfg.pool_type", "eos", "only 'argmax'"),
    ("model_cfg.text_cfg.proj_bias", True, "projection with a bias"),
    ("model_cfg.text_cfg.proj_type", "none", "projections of other kinds"),
    ("preprocess_cfg.resize_mode", "longest", "supported: shortest, squash"),
    ("preprocess_cfg.interpolation", "nearest", "supported: bicubic, bilinear"),
]
OPEN_CLIP_INVALID: list[tuple[str, Any]] = [
    *[("model_cfg.quick_gelu", value) for value in ("false", 1, [], 0)],
    *[("model_cfg.vision_cfg.width", value) for value in (-1, 0, 10**30, 1.5, True, "128", [128])],
    *[("model_cfg.text_cfg.heads", value) for value in (3, 0, 128)],
    *[("model_cfg.vision_cfg.norm_kwargs", value) for value in ({"eps": "1e-5"}, {"eps": 10**400}, [1e-5])],
    *[("preprocess_cfg.mean", value) for value in (0.5, [0.5], ["a", "b", "c"], [1e300] * 3, {})],
    *[("preprocess_cfg.std", [0, 0, 0])],
    *[(key, value) for key in ("model_cfg", "model_cfg.text_cfg", "preprocess_cfg") for value in (1, [1], "x")],
]


@pytest.mark.parametrize(("key", "value", "reason"), OPEN_CLIP_REFUSED)
def test_a_key_of_open_clip_that_changes_the_network_is_refused_with_the_reason(
    key: str, value: Any, reason: str, weights: Path, tmp_path: Path
) -> None:
    write(tmp_path, {"open_clip_config.json": changed(OPEN_CLIP, key, value)})
    with pytest.raises(
        CheckpointError, match=rf"open_clip_config\.json describes a network that is not supported.*{reason}"
    ):
        find_checkpoint(weights)


@pytest.mark.parametrize(("key", "value"), OPEN_CLIP_INVALID)
def test_a_value_of_the_wrong_type_is_refused(key: str, value: Any, weights: Path, tmp_path: Path) -> None:
    write(tmp_path, {"open_clip_config.json": changed(OPEN_CLIP, key, value)})
    for name in (None, "tiny"):
        with pytest.raises(CheckpointError, match=r"open_clip_config\.json is not a model's configuration"):
            find_checkpoint(weights, name)


def test_a_model_configuration_of_open_clip_does_not_say_which_images_it_takes(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, {"open_clip_config.json": OPEN_CLIP["model_cfg"]})
    assert find_checkpoint(weights).config == GELU_TINY
    assert any(
        "says which images its network takes: those of OpenAI's CLIP are assumed" in w for w in warnings_in(caplog)
    )


HUGGING_FACE_FACTS: list[tuple[str, Any, dict]] = [
    ("text_config.eos_token_id", 2, {}),
    ("text_config.projection_dim", 512, {}),  # that of the whole model counts
    ("text_config.num_attention_heads", 2, {"text_head_width": 32}),
    ("vision_config.num_attention_heads", 1, {"vision_head_width": 128}),
    ("vision_config.image_size", [32, 32], {}),
    ("vision_config.top_k", 50, {}),  # old versions of transformers wrote all settings of generation
    ("vision_config.eos_token_id", 2, {}),
    ("dtype", "float16", {}),
    ("text_config_dict", TEXT | {"hidden_act": "gelu"}, {}),
]
HUGGING_FACE_REFUSED: list[tuple[str, Any, str]] = [
    ("model_type", "chinese_clip", "its model_type is 'chinese_clip'"),
    ("model_type", "clipseg", "its model_type is 'clipseg'"),
    ("text_config.hidden_act", "quick_gelu", "a different activation, quick_gelu and gelu"),
    ("vision_config.hidden_act", "gelu_pytorch_tanh", "supported: quick_gelu, gelu"),
    ("vision_config.layer_norm_eps", 1e-6, "a different LayerNorm epsilon"),
    ("vision_config.num_channels", 4, "num_channels is not 3"),
    ("vision_config.new_key", 1, "the meaning of this key is unknown"),
    ("vision_config.model_type", "siglip_vision_model", "not 'clip_vision_model'"),
    ("text_config.eos_token_id", 7, "supported: 2 and the highest id, 49407"),
    ("text_config.pruned_heads", {"0": [1]}, "pruned"),
    ("quantization_config", {"load_in_8bit": True}, "quantised"),
    ("auto_map", {"AutoModel": "x"}, "code of their own"),
    # transformers prefers text_config_dict, and completes it by its defaults.
    ("text_config_dict", {"hidden_size": 64}, "a different activation, quick_gelu and gelu"),
]


@pytest.mark.parametrize(("key", "value", "facts"), HUGGING_FACE_FACTS)
def test_a_key_of_transformers_is_understood(key: str, value: Any, facts: dict, weights: Path, tmp_path: Path) -> None:
    write(tmp_path, {"config.json": changed(HUGGING_FACE, key, value), "preprocessor_config.json": IMAGES})
    assert find_checkpoint(weights).config == replace(GELU_TINY, **facts)


@pytest.mark.parametrize(("key", "value", "reason"), HUGGING_FACE_REFUSED)
def test_a_key_of_transformers_that_changes_the_network_is_refused_with_the_reason(
    key: str, value: Any, reason: str, weights: Path, tmp_path: Path
) -> None:
    write(tmp_path, {"config.json": changed(HUGGING_FACE, key, value)})
    with pytest.raises(CheckpointError, match=rf"config\.json describes a network that is not supported.*{reason}"):
        find_checkpoint(weights)


def test_an_unknown_key_is_shown_shortened_and_without_control_characters(weights: Path, tmp_path: Path) -> None:
    write(tmp_path, {"config.json": HUGGING_FACE | {"\x1b[2J" + "k" * 100_000: 1}})
    with pytest.raises(CheckpointError, match=r": \\x1b\[2Jk{96} is 1, and the meaning of this key is unknown"):
        find_checkpoint(weights)


def test_the_configuration_of_one_tower_is_enough_for_it(tiny_state: State, tmp_path: Path) -> None:
    for kind, content, part in (("text", TEXT, False), ("vision", VISION, True)):
        folder = tmp_path / kind
        folder.mkdir()
        tower = {name: value for name, value in tiny_state.items() if name.startswith("visual.") == part}
        save_file(tower, folder / "model.safetensors")
        content = content | {"model_type": f"clip_{kind}_model", "projection_dim": 64, "hidden_act": "gelu"}
        write(folder, {"config.json": content, "preprocessor_config.json": IMAGES})
        config = find_checkpoint(folder).config
        assert (config.activation, config.embed_dim, getattr(config, f"{kind}_layers")) == ("gelu", 64, 2)


SQUARE = {"height": 32, "width": 32}
IMAGE_FACTS: list[tuple[dict, dict]] = [
    ({}, {}),
    ({"size": 32, "crop_size": 32, "feature_extractor_type": "CLIPFeatureExtractor"}, {}),
    ({"resample": 2}, {"interpolation": "bilinear"}),
    ({"image_mean": [0.5, 0.5, 0.5]}, {"mean": (0.5, 0.5, 0.5)}),
    ({"image_std": [float(np.float32(value)) for value in ImageConfig().std]}, {}),  # equal but for rounding
    ({"size": SQUARE}, {"resize": "squash"}),
    ({"size": SQUARE, "do_center_crop": False}, {"resize": "squash"}),
]
IMAGE_REFUSED: list[tuple[dict, str]] = [
    ({"image_processor_type": "ViTImageProcessor"}, "of the kind 'ViTImageProcessor'"),
    ({"resample": 0}, "resample is 0|positive whole number"),
    ({"size": {"shortest_edge": 36}}, "a square that contains the whole short side"),
    ({"do_center_crop": False}, "a square that contains"),
    ({"do_normalize": False}, "cannot be left out"),
    ({"rescale_factor": 1.0}, "rescale_factor is not 1/255"),
    ({"do_pad": True}, "padded images"),
    ({"new_key": 1}, "the meaning of this key is unknown"),
    ({"size": SQUARE | {"longest_edge": 40}}, "the meaning of this key is unknown"),
    ({"crop_size": 64, "size": 64}, "resolution is 64, not 32"),
]


@pytest.mark.parametrize(("change", "image"), IMAGE_FACTS)
@pytest.mark.parametrize("is_processor", [False, True], ids=["preprocessor", "processor"])
def test_the_images_of_transformers_are_understood(
    is_processor: bool, change: dict, image: dict, weights: Path, tmp_path: Path
) -> None:
    content = {"processor_config.json": {"image_processor": IMAGES | change, "processor_class": "CLIPProcessor"}}
    if not is_processor:
        content = {"preprocessor_config.json": IMAGES | change}
    write(tmp_path, {"config.json": HUGGING_FACE, **content})
    assert find_checkpoint(weights).config.image == replace(ImageConfig(), **image)


@pytest.mark.parametrize(("change", "reason"), IMAGE_REFUSED)
def test_images_of_another_kind_are_refused_with_the_reason(
    change: dict, reason: str, weights: Path, tmp_path: Path
) -> None:
    write(tmp_path, {"config.json": HUGGING_FACE, "preprocessor_config.json": IMAGES | change})
    with pytest.raises(CheckpointError, match=rf"preprocessor_config\.json .*({reason})"):
        find_checkpoint(weights)


# Files that cannot be read, or belong to another program

DAMAGED: dict[str, bytes] = {
    "truncated": b'{"model_cfg": {"embed_dim": 64}',
    "not UTF-8": b"\xff",
    "deep": b"[" * 200_000,
    "NaN": b'{"model_cfg": {"vision_cfg": {"mlp_ratio": NaN}, "text_cfg": {}}}',
    "infinite": b'{"model_cfg": {"vision_cfg": {"mlp_ratio": 1e999}, "text_cfg": {}}}',
    "of many digits": b'{"model_cfg": {"embed_dim": ' + b"9" * 10_000 + b"}}",
    "large": b" " * 2**20 + b"{}",
    "a list": b"[1, 2]",
    "without a network": b"{}",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_configuration_of_open_clip_is_refused_beside_a_file_too(
    kind: str, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "open_clip_config.json").write_bytes(DAMAGED[kind])
    for name in (None, "tiny"):
        with pytest.raises(CheckpointError, match=r"open_clip_config\.json is not a model's configuration"):
            find_checkpoint(weights, name)


def test_a_byte_order_mark_is_accepted(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(OPEN_CLIP).encode())
    assert find_checkpoint(weights).config == GELU_TINY


@pytest.mark.parametrize("name", ["open_clip_config.json", "config.json"])
def test_a_link_to_a_configuration_that_does_not_exist_is_refused(name: str, weights: Path, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=rf"{name} is not a model's configuration: it is a link to a file that"):
        find_checkpoint(weights, "tiny")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_a_configuration_that_is_not_a_file_does_not_block(weights: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "open_clip_config.json")
    with pytest.raises(CheckpointError, match="it is not a file"):
        find_checkpoint(weights, "tiny")


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b'"model_type"', b"[" * 200_000, b'{"model_type": 1, "text_config": 2}']
)
def test_an_unreadable_configuration_in_a_folder_is_refused(content: bytes, tmp_path: Path, tiny_state: State) -> None:
    save_file(tiny_state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json is not a model's configuration"):
        TextEncoder.load("tiny", tmp_path, "cpu")


@pytest.mark.parametrize(
    "content", ['{"model_type": "bert", "hidden_act": "gelu"}', '{"name": "my app"}', "[1, 2]", "// not JSON"]
)
def test_a_config_of_another_program_beside_a_file_is_ignored(
    content: str, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.json").write_text(content)
    write(tmp_path, {"preprocessor_config.json": {"image_processor_type": "ViTImageProcessor"}})
    assert find_checkpoint(weights, "tiny").config == TINY
    assert f"{weights} does not state these properties of its network" in caplog.text
    assert "those of tiny are assumed: activation quick_gelu" in caplog.text


@pytest.mark.parametrize(
    "content", ['{"model_type": "clip", "text_config": ', '{"model_type": "clip", "text_config": 2}']
)
def test_a_damaged_config_that_seems_to_be_that_of_a_clip_is_refused(
    content: str, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json is not a model's configuration"):
        find_checkpoint(weights, "tiny")


def test_a_configuration_with_any_other_value_is_refused_or_read_and_never_crashes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = [None, True, -1, 0, 1, 64, 1e-5, 1e308, 10**18, "", "gelu", "tok", [], [1, 1], [64, 32], {}, {"eps": 2}]
    files = {**GELU, "preprocessor_config.json": IMAGES}
    paths = {name: list(_paths(content)) for name, content in files.items()}
    refused = 0
    write(tmp_path, files)
    for _ in range(300):
        name = list(files)[random.integers(len(files))]
        key = paths[name][random.integers(len(paths[name]))]
        write(tmp_path, {name: changed(files[name], key, values[random.integers(len(values))])})
        try:
            read_configurations([tmp_path], strict=bool(random.integers(2)))
        except CheckpointError:
            refused += 1
        write(tmp_path, {name: files[name]})
    assert 100 < refused < 290


def _paths(content: dict, prefix: str = "") -> list[str]:
    paths = []
    for key, value in content.items():
        paths += [f"{prefix}{key}", *(_paths(value, f"{prefix}{key}.") if isinstance(value, dict) else [])]
    return paths


# Without a configuration


def test_an_unknown_network_is_refused_with_what_to_pass(weights: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"weights\.safetensors does not state these properties of its network.*: activation, norm_eps, "
        r".*pass the name of the model that it is.*\(--model\): tiny \(quick_gelu\)\.$",
    ):
        find_checkpoint(weights)


@pytest.mark.parametrize("model_name", [None, "tiny"])
def test_a_network_of_no_model_is_refused_with_how_to_describe_it(
    model_name: str | None, tmp_path: Path, tiny_state: State
) -> None:
    save_file(tiny_state | {"visual.conv1.weight": torch.zeros(128, 3, 8, 8)}, tmp_path / "weights")
    with pytest.raises(CheckpointError) as raised:
        find_checkpoint(tmp_path / "weights", model_name)
    assert str(raised.value).endswith(HOW_TO_DESCRIBE)
    assert "name of the model" not in str(raised.value)
    assert "Leave out the name" not in str(raised.value)


def test_a_network_taken_from_the_name_is_warned_about_once(
    tmp_path: Path, tiny_state: State, hugging_face_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [tmp_path / "openai.bin", tmp_path / "blob", tmp_path / "hugging_face"]
    torch.save(tiny_state, paths[0])
    save_file(tiny_state, paths[1])
    paths[2].write_bytes((hugging_face_folder / "model.safetensors").read_bytes())
    for path in paths * 2:
        find_checkpoint(path, "tiny")
    assert [message.split(" does not")[0] for message in warnings_in(caplog)] == list(map(str, paths))


def test_a_known_network_is_not_warned_about(
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
        assert find_checkpoint(tmp_path / path, "tiny").config == TINY
    assert find_checkpoint(tmp_path / "trained.safetensors").config == TINY
    find_checkpoint(hugging_face_folder / "model.safetensors", "tiny")
    find_checkpoint(hugging_face_folder, "tiny")
    find_checkpoint(None, "clip_vit_tiny_demo")
    assert warnings_in(caplog) == []


def test_a_network_taken_from_clip4clips_names_is_warned_about(
    tmp_path: Path, tiny_state: State, caplog: pytest.LogCaptureFixture
) -> None:
    clip4clip = {f"clip.{name}": tensor for name, tensor in tiny_state.items()}
    paths = [tmp_path / "zip", tmp_path / "legacy", tmp_path / "parallel"]
    torch.save(clip4clip, paths[0])
    torch.save(clip4clip, paths[1], _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in clip4clip.items()}}, paths[2])
    for path in paths:
        assert find_checkpoint(path).config == TINY
    assert [message.split(" does not")[0] for message in warnings_in(caplog)] == list(map(str, paths))
    assert "so QuickGELU is assumed" in caplog.text


def test_the_names_of_clip4clip_contradict_a_configuration_with_gelu(tiny_state: State, tmp_path: Path) -> None:
    torch.save({f"clip.{name}": tensor for name, tensor in tiny_state.items()}, tmp_path / "pytorch_model.bin")
    write(tmp_path, {"open_clip_config.json": OPEN_CLIP})
    with pytest.raises(
        CheckpointError, match=r"the naming of the tensors in .* contradicts .*config\.json: activation"
    ):
        find_checkpoint(tmp_path)


def test_the_metadata_of_a_trained_checkpoint_comes_first(
    tiny_state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(GELU_TINY, norm_eps=1e-6, image=replace(ImageConfig(), resize="squash"))
    path = tmp_path / "trained.safetensors"
    save_file(tiny_state, path, to_metadata(Metadata("mine", config, "meanP")))
    assert find_checkpoint(path).config == config
    assert warnings_in(caplog) == []
    with pytest.raises(CheckpointError, match=r"the metadata of .* describes a .* than tiny: activation is gelu"):
        find_checkpoint(path, "tiny")
    write(tmp_path, {"open_clip_config.json": OPEN_CLIP})
    with pytest.raises(CheckpointError, match=r"config\.json contradicts the metadata of .*: .*norm_eps is 1e-05"):
        find_checkpoint(path)


def test_a_perception_encoder_of_meta_is_recognised_by_its_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = ImageConfig((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", "squash")
    config = replace(GELU_TINY, pooling="attention", rotary=True, image=image)
    torch.save(random_state_dict(config), tmp_path / "PE-Core.pt")
    assert find_checkpoint(tmp_path / "PE-Core.pt").config == config
    assert warnings_in(caplog) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_with_gelu_is_recognised(tmp_path: Path) -> None:
    for number in range(2):  # from the second module on, torch mangles the names of the classes
        module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.GELU()).eval()
        torch.jit.script(module).save(tmp_path / f"{number}.pt")
        with pytest.raises(
            CheckpointError, match=rf"the naming .*{number}\.pt describes a .* than tiny: activation is gelu"
        ):
            resolve(tmp_path / f"{number}.pt", "tiny")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_openais_archive_is_recognised_by_its_buffers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = torch.nn.Linear(3, 3).eval()
    torch.jit.script(module).save(tmp_path / "other.pt")
    resolve(tmp_path / "other.pt", "tiny")
    assert "does not state these properties" in caplog.text
    caplog.clear()
    module.register_buffer("input_resolution", torch.tensor(224))
    torch.jit.script(module).save(tmp_path / "openai.pt")
    assert resolve(tmp_path / "openai.pt", None).activation == "quick_gelu"
    assert caplog.text == ""


def resolve(path: Path, model_name: str | None) -> CLIPConfig:
    """Return the network of a file whose tensors show the sizes of TINY."""
    from clip4clip.weights.configuration import resolve_config

    sizes = ("embed_dim", "resolution", "patch_size", "vision_width", "vision_layers", "text_width", "text_layers")
    return resolve_config(path, {name: getattr(TINY, name) for name in sizes}, None, [], model_name)


def test_a_vocabulary_without_a_known_tokenizer_is_refused(tiny_state: State, tmp_path: Path) -> None:
    save_file(tiny_state | {"token_embedding.weight": torch.zeros(32_000, 64)}, tmp_path / "model.safetensors")
    write(tmp_path, {"open_clip_config.json": changed(OPEN_CLIP, "model_cfg.text_cfg.vocab_size", 32_000)})
    with pytest.raises(CheckpointError, match=r"a vocabulary of 32,000 tokens.*its own tokenizer is not known"):
        find_checkpoint(tmp_path)


def test_a_folder_with_quick_gelu_in_its_configuration_is_accepted(
    tmp_path: Path, tiny_state: State, expected_vectors: Callable
) -> None:
    save_file(tiny_state, tmp_path / "open_clip_model.safetensors")
    write(tmp_path, {"config.json": {"architecture": "vit_base_patch32_clip_224", "num_classes": 0}})
    (tmp_path / "open_clip_config.json").write_text(QUICK_GELU)
    np.testing.assert_array_equal(embed(tmp_path, "text"), expected_vectors("text"))


def test_the_configuration_changes_the_vectors(tmp_path: Path, weights: Path, expected_vectors: Callable) -> None:
    write(tmp_path, {"open_clip_config.json": OPEN_CLIP})
    vectors = TextEncoder.load(None, weights, "cpu", "torch")(["a dog", "kids feeding and playing with the horse"])
    assert np.abs(vectors - expected_vectors("text")).max() > 1e-3
    assert locate(weights).configurations != []
