"""Compare with open_clip and towhee.models. They need torchvision, so these tests run with the extra ``peers``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peer_models import open_clip_model, towhee_model
from safetensors.torch import save_file

from clip4clip import TextEncoder, VideoEncoder
from clip4clip.config import MODELS, CLIPConfig
from clip4clip.preprocess import pixel_values
from clip4clip.tokenizer import default_tokenizer

open_clip = pytest.importorskip("open_clip")
pytest.importorskip("torchvision")
from open_clip.tokenizer import SimpleTokenizer as OpenClipTokenizer  # noqa: E402
from towhee.models import clip4clip as towhee_clip4clip  # noqa: E402
from towhee.models.clip.simple_tokenizer import SimpleTokenizer as TowheeTokenizer  # noqa: E402

CAPTIONS = ["a dog", "kids feeding and playing with the horse", "ein Hund läuft 😀 über 12 Straßen", "dog " * 100]
OPEN_CLIP_NAMES = {"clip_vit_b32": "ViT-B-32-quickgelu", "clip_vit_b16": "ViT-B-16-quickgelu"}


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 90, 120, 3), dtype=np.uint8)


def assert_same_vectors(ours: np.ndarray, theirs: torch.Tensor) -> None:
    reference = F.normalize(theirs, dim=-1).numpy()
    assert (ours * reference).sum(-1).min() >= 0.99999
    assert np.abs(ours - reference).max() <= 1e-4


@pytest.fixture(scope="module", params=["clip_vit_b32", "clip_vit_b16"])
def real_size(
    request: pytest.FixtureRequest, random_state: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, dict[str, torch.Tensor], Path]]:
    """Model name, state dict and checkpoint of a random CLIP of real size."""
    state = random_state(MODELS[request.param].config)
    path = tmp_path_factory.mktemp("peers") / "model.safetensors"
    save_file(state, path)
    yield request.param, state, path
    path.unlink()


@pytest.fixture(scope="module")
def ours(real_size: tuple[str, dict[str, torch.Tensor], Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Our vectors of the captions, and that of the frames, by runtime."""
    name, _, path = real_size
    return {
        runtime: (
            TextEncoder.load(name, path, "cpu", runtime)(CAPTIONS),
            VideoEncoder.load(name, path, "cpu", runtime)(frames()),
        )
        for runtime in ("torch", "onnxruntime")
    }


@torch.inference_mode()
def test_vectors_equal_those_of_open_clip(
    real_size: tuple[str, dict[str, torch.Tensor], Path], ours: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    name, state, _ = real_size
    reference = open_clip.create_model(OPEN_CLIP_NAMES[name], pretrained=None).eval()
    reference.load_state_dict(state)
    ids = torch.from_numpy(default_tokenizer()(CAPTIONS))
    expected_texts = reference.encode_text(F.pad(ids, (0, 77 - ids.shape[1])))
    embeddings = reference.encode_image(torch.from_numpy(pixel_values(frames())))
    for texts, video in ours.values():
        assert_same_vectors(texts, expected_texts)
        assert_same_vectors(video, F.normalize(embeddings, dim=-1).mean(0))


@torch.inference_mode()
def test_vectors_equal_those_of_towhee_models(
    real_size: tuple[str, dict[str, torch.Tensor], Path], ours: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    name, state, _ = real_size
    reference = towhee_clip4clip.create_model(name, context_length=77, device="cpu").eval()
    unmatched = reference.load_state_dict({f"clip.{key}": value for key, value in state.items()}, strict=False)
    assert unmatched.unexpected_keys == []
    assert [key for key in unmatched.missing_keys if "attn_mask" not in key] == []
    # As in the published operator: ids are padded with zeros to the context length, and all frames are in the mask.
    tokenizer = TowheeTokenizer()
    ids = [towhee_clip4clip.convert_tokens_to_id(tokenizer, caption, max_words=77)[0] for caption in CAPTIONS]
    expected_texts = reference.get_sequence_output(torch.from_numpy(np.stack(ids)), shaped=True).squeeze(1)
    mask = torch.ones(1, 6)
    embeddings = F.normalize(
        reference.get_visual_output(torch.from_numpy(pixel_values(frames())), mask, shaped=True), dim=-1
    )
    [expected_video] = reference._mean_pooling_for_similarity_visual(embeddings, mask)
    for texts, video in ours.values():
        assert_same_vectors(texts, expected_texts)
        assert_same_vectors(video, expected_video)


def test_ids_equal_those_of_towhee_models(many_strings: list[str]) -> None:
    assert len(many_strings) >= 2000
    ours, theirs = default_tokenizer(), TowheeTokenizer()
    assert [text for text in many_strings if list(ours.iter_ids(text)) != theirs.encode(text)] == []


@pytest.fixture(scope="module")
def plain_strings(many_strings: list[str]) -> list[str]:
    """Strings without CLIP's special tokens, which only open_clip treats as plain letters."""
    return [text for text in many_strings if "<|" not in text]


def test_ids_equal_those_of_open_clip(plain_strings: list[str]) -> None:
    assert len(plain_strings) >= 2000
    ours, theirs = default_tokenizer(), OpenClipTokenizer()
    assert [text for text in plain_strings if list(ours.iter_ids(text)) != theirs.encode(text)] == []


def test_truncation_equals_that_of_open_clip(plain_strings: list[str]) -> None:
    long = [" ".join(plain_strings[start : start + 12]) for start in range(0, 240, 12)]
    theirs = open_clip.get_tokenizer("ViT-B-32-quickgelu")(long).numpy()
    np.testing.assert_array_equal(default_tokenizer()(long), theirs[:, : default_tokenizer()(long).shape[1]])


# The files that users of open_clip write its model to.
def as_scripted_archive(model: torch.nn.Module, path: Path, config: CLIPConfig) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(str(path))


def as_traced_archive(model: torch.nn.Module, path: Path, config: CLIPConfig) -> None:
    example = (torch.zeros(1, 3, config.resolution, config.resolution), torch.zeros(1, 77, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, example).save(str(path))


WRITERS: dict[str, Callable[[torch.nn.Module, Path, CLIPConfig], None]] = {
    "safetensors": lambda model, path, _: save_file(model.state_dict(), path),
    "zip": lambda model, path, _: torch.save(model.state_dict(), path),
    "legacy pickle": lambda model, path, _: torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False),
    "training checkpoint": lambda model, path, _: torch.save({"epoch": 3, "state_dict": model.state_dict()}, path),
    "DataParallel": lambda model, path, _: torch.save({"state_dict": torch.nn.DataParallel(model).state_dict()}, path),
    "TorchScript archive, traced": as_traced_archive,
    "TorchScript archive, scripted": as_scripted_archive,
}


@pytest.mark.parametrize("family", WRITERS)
@torch.inference_mode()
def test_files_of_open_clip_are_read(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MODELS["tiny"].config
    model = open_clip_model(config)
    path = tmp_path / "checkpoint"
    WRITERS[family](model, path, config)
    ids = torch.from_numpy(default_tokenizer()(CAPTIONS))
    assert_same_vectors(
        TextEncoder.load("tiny", path, "cpu")(CAPTIONS), model.encode_text(F.pad(ids, (0, 77 - ids.shape[1])))
    )
    embeddings = F.normalize(model.encode_image(torch.from_numpy(pixel_values(frames(), config.resolution))), dim=-1)
    assert_same_vectors(VideoEncoder.load("tiny", path, "cpu")(frames()), embeddings.mean(0))


@torch.inference_mode()
def test_a_half_precision_checkpoint_is_read_exactly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = open_clip_model(MODELS["tiny"].config).half()
    torch.save(model.state_dict(), tmp_path / "half.pt")
    ids = torch.from_numpy(default_tokenizer()(CAPTIONS))
    ids = F.pad(ids, (0, 77 - ids.shape[1]))
    assert_same_vectors(TextEncoder.load("tiny", tmp_path / "half.pt", "cpu")(CAPTIONS), model.float().encode_text(ids))


@torch.inference_mode()
def test_files_of_towhee_models_are_read(tmp_path: Path) -> None:
    config = MODELS["tiny"].config
    model = towhee_model(config)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin.1")
    ids = torch.from_numpy(default_tokenizer()(CAPTIONS))
    texts = model.get_sequence_output(F.pad(ids, (0, 77 - ids.shape[1])), shaped=True).squeeze(1)
    assert_same_vectors(TextEncoder.load("tiny", tmp_path, "cpu")(CAPTIONS), texts)
    mask = torch.ones(1, 6)
    embeddings = F.normalize(
        model.get_visual_output(torch.from_numpy(pixel_values(frames(), 32)), mask, shaped=True), dim=-1
    )
    videos = model._mean_pooling_for_similarity_visual(embeddings, mask)
    assert_same_vectors(VideoEncoder.load("tiny", tmp_path, "cpu")([frames()]), videos)
