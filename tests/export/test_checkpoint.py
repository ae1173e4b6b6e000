"""Checkpoints in the format of another library: what transformers makes of them, and what this package reads back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fine_tuned import (
    CAPTIONS,
    FRAMES,
    MEAN_POOLING,
    OPENAI,
    PART_OF_VOCABULARY,
    PERCEPTION_ENCODER,
    TIMM_NAME,
    TIMM_SIZES,
    UNUSUAL,
    fine_tune,
)
from PIL import Image
from safetensors.torch import load_file, save_file

from clip4clip import CheckpointError, ExportError, TextEncoder, UnknownNameError, VideoEncoder, WeightsNotFoundError
from clip4clip.config import CLIPConfig
from clip4clip.export import checkpoint as checkpoint_module
from clip4clip.export import export_checkpoint
from clip4clip.preprocess import pixel_values
from clip4clip.tokenizer import default_tokenizer
from clip4clip.weights.identity import find_checkpoint
from clip4clip.weights.metadata import read_metadata
from clip4clip.weights.open_clip_configuration import PERCEPTION_ENCODERS


@pytest.fixture(autouse=True)
def small_perception_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PERCEPTION_ENCODERS, TIMM_NAME, TIMM_SIZES)


@pytest.fixture
def tuned(tmp_path: Path, random_state: Callable) -> Callable[..., Path]:
    """``(config, head="meanP")`` to a fine-tuned checkpoint."""
    return lambda config, head="meanP": fine_tune(config, tmp_path / "tuned.safetensors", random_state, head)


def assert_same_vectors(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert (ours * theirs).sum(-1).min() >= 0.99999
    assert np.abs(ours - theirs).max() <= 1e-4


def vectors(weights: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return what this package computes without the name of a model: a vector for each text, and for each frame."""
    text = TextEncoder.load(weights=weights, device="cpu", runtime="torch")
    video = VideoEncoder.load(weights=weights, device="cpu", runtime="torch")
    return text(CAPTIONS), video([[frame] for frame in FRAMES])


@pytest.mark.parametrize("config", [OPENAI, UNUSUAL, PART_OF_VOCABULARY], ids=["openai", "unusual", "vocabulary"])
def test_transformers_computes_the_same_vectors(tuned: Callable, config: CLIPConfig, tmp_path: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    path = tuned(config)
    exported = export_checkpoint(path, "transformers", tmp_path / "out")
    model, report = CLIPModel.from_pretrained(exported.folder, output_loading_info=True)
    assert not any(report.values()), report
    processor: Any = CLIPProcessor.from_pretrained(exported.folder)
    inputs = processor(
        text=CAPTIONS, images=list(map(Image.fromarray, FRAMES)), padding=True, truncation=True, return_tensors="pt"
    )

    ids = default_tokenizer(config.vocab_size)(CAPTIONS, config.context_length)
    end = ids.argmax(-1)
    for ours, theirs, last in zip(ids.tolist(), inputs.input_ids.tolist(), end, strict=True):
        assert theirs[: last + 1] == ours[: last + 1]
    pixels = pixel_values(FRAMES, config.resolution, config.image)
    np.testing.assert_allclose(inputs.pixel_values.numpy(), pixels, atol=1e-5)

    with torch.inference_mode():
        texts = model.text_projection(model.text_model(inputs.input_ids, inputs.attention_mask).pooler_output)
        frames = model.visual_projection(model.vision_model(inputs.pixel_values).pooler_output)
    expected = vectors(path)
    for ours, theirs in zip(expected, (texts, frames), strict=True):
        assert_same_vectors(ours, F.normalize(theirs, dim=-1).numpy())
    assert torch.equal(model.logit_scale, load_file(path)["logit_scale" if config == UNUSUAL else "clip.logit_scale"])


@pytest.mark.parametrize(
    ("config", "library"),
    [
        (OPENAI, "transformers"),
        (UNUSUAL, "transformers"),
        (OPENAI, "open_clip"),
        (UNUSUAL, "open_clip"),
        (PART_OF_VOCABULARY, "open_clip"),
        (MEAN_POOLING, "open_clip"),
        (PERCEPTION_ENCODER, "open_clip"),
    ],
    ids=["openai", "unusual", "openai", "unusual", "vocabulary", "mean", "perception"],
)
def test_what_is_exported_is_read_back_as_the_same_checkpoint(
    tuned: Callable, config: CLIPConfig, library: str, tmp_path: Path
) -> None:
    path = tuned(config)
    folder = export_checkpoint(path, library, tmp_path / "out").folder
    original, back = find_checkpoint(path), find_checkpoint(folder)
    assert back.config == original.config == config
    assert back.fingerprint == original.fingerprint
    metadata = read_metadata(back.path)
    assert metadata is not None
    assert metadata == read_metadata(path)
    for ours, theirs in zip(vectors(folder), vectors(path), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # The configuration says all that the tensors do not show, but for the vocabulary.
    save_file(load_file(back.path), back.path)
    if config != PART_OF_VOCABULARY:
        assert find_checkpoint(folder).fingerprint == original.fingerprint
    else:
        with pytest.raises(CheckpointError, match=r"hf_tokenizer_name|1,024"):
            find_checkpoint(folder)


@pytest.mark.parametrize(
    ("config", "library", "message"),
    [
        (MEAN_POOLING, "transformers", r"transformers has no CLIP with mean pooling.*library='open_clip' \(--to open"),
        (PERCEPTION_ENCODER, "transformers", "no CLIP with attention pooling and rotary positions.*open_clip"),
        (
            replace(PERCEPTION_ENCODER, patch_size=16),
            "open_clip",
            r"open_clip has no CLIP with rotary positions and attention pooling.*none of timm's.*\(128x2, patch 16, 32 "
            r"pixels\), as .*tuned\.safetensors needs$",
        ),
        (replace(OPENAI, rotary=True), "transformers", "no CLIP with rotary positions, as"),
    ],
    ids=["mean", "perception", "other perception", "rotary"],
)
def test_what_a_library_does_not_have_is_refused_by_name(
    tuned: Callable, config: CLIPConfig, library: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export_checkpoint(tuned(config), library, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("head", ["seqLSTM", "seqTransf"])
def test_a_head_stays_behind_only_on_request(tuned: Callable, head: str, tmp_path: Path) -> None:
    path = tuned(OPENAI, head)
    with pytest.raises(ExportError, match=rf"has a {head} head, which open_clip does not.*drop_head \(--drop-head\)"):
        export_checkpoint(path, "open_clip", tmp_path / "out")
    exported = export_checkpoint(path, "open_clip", tmp_path / "out", drop_head=True)
    assert f"{head} head stays behind" in exported.notes[0]
    assert exported.notes[0] in (exported.folder / "README.md").read_text("utf-8")
    metadata = read_metadata(find_checkpoint(exported.folder).path)
    assert metadata is not None
    assert (metadata.head, metadata.recall_at_1, metadata.settings["recipe"]) == ("meanP", None, "a test")
    tensors = load_file(exported.folder / "open_clip_model.safetensors")
    assert not any(name.startswith(("lstm_visual", "transformerClip")) for name in tensors)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 3e-2)])
def test_half_precision_is_half_as_large(tuned: Callable, dtype: str, tolerance: float, tmp_path: Path) -> None:
    path = tuned(OPENAI)
    folder = export_checkpoint(path, "transformers", tmp_path / "out", dtype=dtype).folder
    assert 0.4 < (folder / "model.safetensors").stat().st_size / path.stat().st_size < 0.6
    assert json.loads((folder / "config.json").read_text("utf-8"))["dtype"] == dtype
    for ours, theirs in zip(vectors(folder), vectors(path), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance)


def test_a_checkpoint_without_the_scale_of_its_logits_gets_that_of_an_untrained_clip(
    tuned: Callable, tmp_path: Path
) -> None:
    path = tuned(OPENAI)
    save_file({name: tensor for name, tensor in load_file(path).items() if "logit_scale" not in name}, path)
    exported = export_checkpoint(path, "open_clip", tmp_path / "out")
    assert "no logit_scale" in exported.notes[0]
    scale = load_file(exported.folder / "open_clip_model.safetensors")["logit_scale"].exp().item()
    assert scale == pytest.approx(1 / 0.07)


def test_numbers_that_a_format_cannot_hold_are_refused(tuned: Callable, tmp_path: Path) -> None:
    path = tuned(OPENAI)
    tensors = load_file(path)
    tensors["clip.visual.proj"][3, 5] = 1e6
    save_file(tensors, path)
    with pytest.raises(ExportError, match=r"visual_projection\.weight of .* has numbers that float16 cannot hold"):
        export_checkpoint(path, "transformers", tmp_path / "out", dtype="float16")


def test_unknown_libraries_dtypes_and_text_towers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown library 'onnx'; it must be one of transformers, open_clip"):
        export_checkpoint(None, "onnx", tmp_path / "out", model_name="tiny")
    with pytest.raises(UnknownNameError, match="unknown dtype 'int8'"):
        export_checkpoint(None, "open_clip", tmp_path / "out", model_name="tiny", dtype="int8")
    with pytest.raises(ExportError, match=r"clip_vit_b32_multilingual is a text tower.*export .* clip_vit_b32$"):
        export_checkpoint(None, "open_clip", tmp_path / "out", model_name="clip_vit_b32_multilingual")


def test_a_missing_checkpoint_is_reported_with_what_an_export_takes(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsNotFoundError, match="Name the checkpoint to export: a checkpoint file, a folder"
    ) as error:
        export_checkpoint(tmp_path / "nowhere.safetensors", "open_clip", tmp_path / "out")
    assert "--weights" not in str(error.value)


def test_a_folder_is_complete_or_not_there(tuned: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = tuned(OPENAI), tmp_path / "deep" / "out"

    def fail(tensors: dict, file: Path, metadata: dict) -> None:
        file.write_bytes(b"half")
        raise OSError(28, os.strerror(28), str(file))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_module, "save_file", fail)
        with pytest.raises(ExportError, match=r"out cannot be written: .*No space left"):
            export_checkpoint(path, "open_clip", folder)
    assert list(folder.parent.iterdir()) == []
    export_checkpoint(path, "open_clip", folder)
    assert list(folder.parent.iterdir()) == [folder]
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_module, "save_file", fail)
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        with pytest.raises(ExportError, match="cannot be written"):
            export_checkpoint(path, "open_clip", folder, force=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_files_of_others_are_never_replaced(tuned: Callable, tmp_path: Path) -> None:
    path, folder = tuned(OPENAI), tmp_path / "out"
    (folder / ".git").mkdir(parents=True)
    with pytest.raises(ExportError, match=r"out is not empty, it holds \.git: .*force \(--force\), which keeps what"):
        export_checkpoint(path, "open_clip", folder)
    export_checkpoint(path, "open_clip", folder, force=True)
    with pytest.raises(ExportError, match=r"which would replace README\.md, open_clip_config\.json"):
        export_checkpoint(path, "transformers", folder)
    exported = export_checkpoint(path, "transformers", folder, force=True)
    assert {file.name for file in folder.iterdir()} == {".git", *exported.files}, "nothing of the first export is left"
    with pytest.raises(ExportError, match="out is the folder of the checkpoint, which would be replaced"):
        export_checkpoint(folder, "open_clip", folder, force=True)
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="file is not a folder"):
        export_checkpoint(path, "transformers", tmp_path / "file", force=True)
    link = tmp_path / "links" / "model.safetensors"
    link.parent.mkdir()
    link.symlink_to(path)
    with pytest.raises(ExportError, match="links is the folder of the checkpoint, which would be replaced"):
        export_checkpoint(link, "transformers", link.parent, force=True)


def test_the_model_card_has_the_training_and_no_path(tuned: Callable, tmp_path: Path) -> None:
    exported = export_checkpoint(tuned(OPENAI), "open_clip", tmp_path / "my_clip")
    card = (exported.folder / "README.md").read_text("utf-8")
    assert "library_name: open_clip" in card
    assert "| learning rate | 0.1 |" in card
    assert "| text→video R@1 (%) | 50.0 |" in card
    assert "create_model_and_transforms('local-dir:my_clip')" in card
    assert f"create_model_and_transforms({'local-dir:' + str(exported.folder)!r})" in exported.code
    for file in exported.folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file
