from __future__ import annotations

import json
import logging
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from constants import QUICK_GELU
from embed_contenders import hugging_face_config
from safetensors.torch import save_file
from transformers import (
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
)

from clip4clip import CacheError, CheckpointError, TextEncoder, UnknownNameError, VideoEncoder, WeightsNotFoundError
from clip4clip.cache import cache_folder, is_cache_writable
from clip4clip.config import MODELS, Model
from clip4clip.config import CLIPConfig as OurConfig
from clip4clip.model import SequenceLSTM, SequenceTransformer, TextTower, VisionTower, random_state_dict
from clip4clip.preprocess import pixel_values
from clip4clip.runtime.torch_backend import TorchTower
from clip4clip.training.model import VideoTextModel, save_checkpoint
from clip4clip.weights.checkpoint import check_shape, read_state_dict
from clip4clip.weights.identity import inspect
from clip4clip.weights.locate import locate

State = dict[str, torch.Tensor]
REPOSITORY = Path(__file__).parents[2]
CAPTIONS = ["a dog", "kids feeding and playing with the horse"]


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path) -> Callable[[str], np.ndarray]:
    clip = list(np.random.default_rng(3).integers(0, 256, (5, 45, 60, 3), dtype=np.uint8))
    vectors = {
        "text": TextEncoder.load("tiny", tiny_checkpoint, "cpu")(CAPTIONS),
        "video": VideoEncoder.load("tiny", tiny_checkpoint, "cpu")(clip),
    }
    return vectors.__getitem__


def vectors_of(path: Path, modality: str) -> np.ndarray:
    if modality == "text":
        return TextEncoder.load("tiny", path, "cpu")(CAPTIONS)
    clip = list(np.random.default_rng(3).integers(0, 256, (5, 45, 60, 3), dtype=np.uint8))
    return VideoEncoder.load("tiny", path, "cpu")(clip)


# How the families of checkpoints are written, from a state dict under OpenAI's names.
def _half(state: State) -> State:
    return {name: tensor.half() for name, tensor in state.items()}


FAMILIES: dict[str, Callable[[State, Path], object]] = {
    "safetensors": lambda state, path: save_file(state, path),
    "zip": lambda state, path: torch.save(state, path),
    "legacy pickle": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "under state_dict": lambda state, path: torch.save({"epoch": 7, "state_dict": state, "args": {"lr": 0.1}}, path),
    "prefixed module.": lambda state, path: torch.save(
        {f"module.{name}": value for name, value in state.items()}, path
    ),
    "CLIP4Clip run": lambda state, path: torch.save({f"clip.{name}": value for name, value in state.items()}, path),
    "CLIP4Clip run, DataParallel": lambda state, path: torch.save(
        {f"module.clip.{name}": value for name, value in state.items()}, path
    ),
    "parameters": lambda state, path: torch.save(
        {name: torch.nn.Parameter(value) for name, value in state.items()}, path
    ),
}


@pytest.mark.parametrize("modality", ["text", "video"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_same_vectors(
    family: str, modality: str, tiny_state: State, expected: Callable, tmp_path: Path
) -> None:
    FAMILIES[family](tiny_state, tmp_path / "checkpoint")
    np.testing.assert_allclose(vectors_of(tmp_path / "checkpoint", modality), expected(modality), atol=1e-6)


@pytest.mark.parametrize("modality", ["text", "video"])
def test_half_precision_is_computed_in_single(
    modality: str, tiny_state: State, expected: Callable, tmp_path: Path
) -> None:
    save_file(_half(tiny_state), tmp_path / "model.safetensors")
    save_file({name: value.float() for name, value in _half(tiny_state).items()}, tmp_path / "single.safetensors")
    half = vectors_of(tmp_path / "model.safetensors", modality)
    np.testing.assert_allclose(half, expected(modality), atol=1e-2)
    np.testing.assert_allclose(half, vectors_of(tmp_path / "single.safetensors", modality), atol=1e-6)


@pytest.fixture(scope="module")
def hugging_face_model() -> CLIPModel:
    torch.manual_seed(0)
    model = CLIPModel(hugging_face_config(MODELS["tiny"].config)).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return model


@pytest.fixture(scope="module")
def hugging_face_vectors(hugging_face_model: CLIPModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hugging_face")
    hugging_face_model.save_pretrained(path)
    return path


def test_hugging_face_snapshot_folder(hugging_face_model: CLIPModel, hugging_face_vectors: Path) -> None:
    # test_model.py compares whole vectors; here it is that what save_pretrained writes is understood.
    ids = torch.tensor([[49406, 320, 1929, 49407]])
    with torch.inference_mode():
        theirs = hugging_face_model.text_projection(hugging_face_model.text_model(input_ids=ids).pooler_output)
    ours = TextEncoder.load("tiny", hugging_face_vectors, "cpu")("a dog")
    np.testing.assert_allclose(ours, F.normalize(theirs, dim=-1)[0], atol=1e-5)
    assert np.isfinite(vectors_of(hugging_face_vectors, "video")).all()


@pytest.mark.parametrize(
    ("modality", "part"), [("text", CLIPTextModelWithProjection), ("video", CLIPVisionModelWithProjection)]
)
def test_hugging_face_tower_alone(modality: str, part: type, hugging_face_vectors: Path, tmp_path: Path) -> None:
    part.from_pretrained(hugging_face_vectors).save_pretrained(tmp_path)
    np.testing.assert_array_equal(vectors_of(tmp_path, modality), vectors_of(hugging_face_vectors, modality))
    other = {"text": "video", "video": "text"}[modality]
    with pytest.raises(CheckpointError, match="lacks"):
        vectors_of(tmp_path, other)


def test_hugging_face_pickle_with_position_ids(
    hugging_face_model: CLIPModel, hugging_face_vectors: Path, tmp_path: Path
) -> None:
    state = dict(hugging_face_model.state_dict())
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    torch.save(state, tmp_path / "pytorch_model.bin")
    for modality in ("text", "video"):
        np.testing.assert_array_equal(vectors_of(tmp_path, modality), vectors_of(hugging_face_vectors, modality))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"model_type": "clip", "text_config": {"hidden_act": "gelu"}}),
        ("config.json", {"model_type": "clip_text_model", "hidden_act": "gelu"}),
        ("open_clip_config.json", {"model_cfg": {"embed_dim": 512}}),
    ],
)
def test_a_folder_that_asks_for_another_activation_is_refused(
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
    """A checkpoint as huggingface_hub keeps it: a link in a snapshot, with its configurations, to a blob."""
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
@pytest.mark.parametrize("way", ["file", "link to it", "snapshot", "link into a snapshot"])
def test_a_configuration_counts_for_a_file_given_by_its_path(
    way: str, config: str, tmp_path: Path, tiny_state: State
) -> None:
    if "snapshot" in way:
        path = snapshot_in_the_hub_cache(tmp_path / "cache", tiny_state, config)
    else:
        path = tmp_path / "model" / "open_clip_pytorch_model.bin"
        path.parent.mkdir()
        torch.save(tiny_state, path)
        path.with_name(config).write_text(json.dumps(GELU[config]))
    if "link" in way:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    with pytest.raises(
        CheckpointError, match=f"{config} describes another network than tiny: the activation is gelu, not QuickGELU"
    ):
        TextEncoder.load("tiny", path, "cpu")


@pytest.mark.parametrize(
    "content",
    ['{"model_type": "bert", "hidden_act": "gelu"}', '{"name": "my app"}', "[1, 2]", "// not JSON", '{"model_cfg": 1}'],
)
def test_the_configuration_of_something_else_beside_a_file_does_not_count(
    content: str, tmp_path: Path, tiny_state: State, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(tiny_state, tmp_path / "weights")
    (tmp_path / "config.json").write_text(content)
    assert locate(tmp_path / "weights", "tiny") == tmp_path / "weights"
    assert f"{tmp_path / 'weights'} does not tell the activation" in caplog.text
    assert "QuickGELU is assumed" in caplog.text


def test_an_activation_that_is_assumed_is_said_once(
    tmp_path: Path, tiny_state: State, hugging_face_vectors: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [tmp_path / "openai.bin", tmp_path / "blob", tmp_path / "hugging_face"]
    torch.save(tiny_state, paths[0])
    save_file(tiny_state, paths[1])
    paths[2].write_bytes((hugging_face_vectors / "model.safetensors").read_bytes())
    for path in paths * 2:
        locate(path, "tiny")
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [message.split(" does not")[0] for message in messages] == list(map(str, paths))


def test_an_activation_that_is_known_is_not_assumed(
    tmp_path: Path, tiny_state: State, hugging_face_vectors: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = {f"clip.{name}": tensor for name, tensor in tiny_state.items()}
    torch.save(run, tmp_path / "pytorch_model.bin.3")
    torch.save(run, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in run.items()}}, tmp_path / "parallel")
    save_checkpoint(VideoTextModel.load("tiny", tmp_path / "legacy"), tmp_path / "trained.safetensors")
    (tmp_path / "openai").mkdir()
    save_file(tiny_state, tmp_path / "openai" / "weights")
    (tmp_path / "openai" / "open_clip_config.json").write_text(QUICK_GELU)
    for path in ("pytorch_model.bin.3", "legacy", "parallel", "trained.safetensors", "openai/weights"):
        locate(tmp_path / path, "tiny")
    locate(hugging_face_vectors / "model.safetensors", "tiny")
    locate(hugging_face_vectors, "tiny")
    locate(None, "clip_vit_tiny_demo")
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_archive_that_names_torchs_gelu_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for activation, refused in ((torch.nn.GELU(), True), (torch.nn.Sigmoid(), False)):
        module = torch.nn.Sequential(torch.nn.Linear(3, 3), activation).eval()
        for number in range(2):  # from the second time on, torch mangles the names of its modules
            torch.jit.script(module).save(tmp_path / f"{number}.pt")
            if refused:
                with pytest.raises(CheckpointError, match=rf"{number}\.pt describes .* the activation is gelu"):
                    locate(tmp_path / f"{number}.pt", "tiny")
            else:
                assert locate(tmp_path / f"{number}.pt", "tiny") == tmp_path / f"{number}.pt"
    assert caplog.text == ""


def test_a_refusal_names_the_size_and_the_activation(tmp_path: Path, tiny_state: State) -> None:
    save_file(tiny_state | {"visual.conv1.weight": torch.zeros(128, 3, 8, 8)}, tmp_path / "model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(GELU["open_clip_config.json"]))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(CheckpointError, match=r"activation is gelu, not QuickGELU; .*patch_size is 8, not 16"):
            TextEncoder.load("tiny", path, "cpu")


def test_a_folder_of_openai_weights_is_taken(tmp_path: Path, tiny_state: State, expected: Callable) -> None:
    save_file(tiny_state, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_base_patch32_clip_224", "num_classes": 0}))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))
    np.testing.assert_array_equal(vectors_of(tmp_path, "text"), expected("text"))


@torch.inference_mode()
def test_hugging_face_vision_is_understood(hugging_face_model: CLIPModel, hugging_face_vectors: Path) -> None:
    frames = np.random.default_rng(3).integers(0, 256, (4, 45, 60, 3), dtype=np.uint8)
    hidden = hugging_face_model.vision_model(
        pixel_values=torch.from_numpy(pixel_values(list(frames), 32))
    ).pooler_output
    theirs = F.normalize(hugging_face_model.visual_projection(hidden), dim=-1)
    ours = VideoEncoder.load("tiny", hugging_face_vectors, "cpu")([frame[None] for frame in frames])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


QUERY, KEY = (f"text_model.encoder.layers.0.self_attn.{part}_proj.weight" for part in "qk")


@pytest.mark.parametrize(
    "damage",
    [
        {KEY: torch.zeros(64, 32)},
        {KEY: torch.zeros(64)},
        {KEY: torch.tensor(0.0)},
        {KEY: torch.zeros(64, 64).to_sparse()},
        {QUERY: torch.zeros(64, 64, dtype=torch.int32)},
        {QUERY: torch.zeros(1).expand(2**40, 64)},  # a few bytes in the file, more than any memory once it is copied
    ],
    ids=["narrow", "flat", "scalar", "sparse", "integer", "boundless"],
)
def test_a_hugging_face_projection_that_cannot_be_stacked_is_an_error(
    damage: State, hugging_face_model: CLIPModel, tmp_path: Path
) -> None:
    torch.save(dict(hugging_face_model.state_dict()) | damage, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"\.0\.(self_)?attn\.(in|q|k)_proj"):
        TextEncoder.load("tiny", tmp_path, "cpu")


def test_a_missing_hugging_face_projection_is_reported(hugging_face_model: CLIPModel, tmp_path: Path) -> None:
    state = dict(hugging_face_model.state_dict())
    del state[KEY]
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match=r"lacks 1 of \d+ tensors: transformer\.resblocks\.0\.attn\.in_proj_weight"
    ):
        TextEncoder.load("tiny", tmp_path, "cpu")


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b'"model_type"', b"[" * 200_000, b'{"model_type": 1, "text_config": 2}']
)
def test_a_configuration_that_cannot_be_read_is_an_error(content: bytes, tmp_path: Path, tiny_state: State) -> None:
    save_file(tiny_state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json is not a model's configuration"):
        TextEncoder.load("tiny", tmp_path, "cpu")


# Heads


def head_state(kind: str) -> State:
    torch.manual_seed(1)
    if kind == "seqLSTM":
        return dict(SequenceLSTM(64).state_dict()) | {"frame_position_embeddings.weight": torch.randn(77, 64)}
    head = SequenceTransformer(64, 2, 77)
    return {name: 0.2 * torch.randn(tensor.shape) for name, tensor in head.state_dict().items()}


@pytest.mark.parametrize("kind", ["seqLSTM", "seqTransf"])
def test_a_sequential_head_is_recognised_and_applied(
    kind: str, tiny_state: State, expected: Callable, tmp_path: Path
) -> None:
    extra = head_state(kind)
    torch.save({f"clip.{name}": value for name, value in tiny_state.items()} | extra, tmp_path / "pytorch_model.bin.1")
    encoder = VideoEncoder.load("tiny", tmp_path, "cpu")
    clip = list(np.random.default_rng(3).integers(0, 256, (5, 45, 60, 3), dtype=np.uint8))
    head = SequenceLSTM(64) if kind == "seqLSTM" else SequenceTransformer(64, 2, 77)
    head.load_state_dict({name: extra[name] for name in head.state_dict()})
    with torch.inference_mode():
        frames = torch.from_numpy(encoder.model(pixel_values(clip, 32)))
        pooled = F.normalize(head.pool(head(frames, None)), dim=-1).numpy()
    np.testing.assert_allclose(encoder(clip), pooled, atol=1e-5)
    assert np.abs(encoder(clip) - expected("video")).max() > 1e-3
    np.testing.assert_allclose(vectors_of(tmp_path, "text"), expected("text"), atol=1e-6)


def test_more_frames_than_a_transformer_head_has_positions_are_an_error(tiny_state: State, tmp_path: Path) -> None:
    torch.save(tiny_state | head_state("seqTransf"), tmp_path / "pytorch_model.bin")
    encoder = VideoEncoder.load("tiny", tmp_path, "cpu")
    frame = np.zeros((8, 8, 3), np.uint8)
    assert encoder([frame] * 77).shape == (64,)
    with pytest.raises(ValueError, match="more than 77 frames"):
        encoder(frame for _ in range(78))


@pytest.mark.parametrize("modality", ["text", "video"])
def test_tight_transformer_is_refused_with_the_reason(modality: str, tiny_state: State, tmp_path: Path) -> None:
    cross = {"cross.embeddings.word_embeddings.weight": torch.zeros(2, 2), "similarity_dense.weight": torch.zeros(1, 2)}
    torch.save({f"clip.{name}": value for name, value in tiny_state.items()} | cross, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"tightTransf.*no vector of a video alone"):
        vectors_of(tmp_path, modality)


def published_head(kind: str, width: int) -> State:
    """A head's tensors under the names and in the shapes that CLIP4Clip's training writes."""
    shapes: dict[str, tuple[int, ...]] = {"frame_position_embeddings.weight": (77, width)}
    if kind == "seqLSTM":
        shapes |= {f"lstm_visual.weight_{part}_l0": (4 * width, width) for part in ("ih", "hh")}
        shapes |= {f"lstm_visual.bias_{part}_l0": (4 * width,) for part in ("ih", "hh")}
    else:
        for layer in ("transformerClip.resblocks.0.", "transformerClip.resblocks.1."):
            linears = {"attn.in_proj_": (3, 1), "attn.out_proj.": (1, 1), "mlp.c_fc.": (4, 1), "mlp.c_proj.": (1, 4)}
            for name, (outputs, inputs) in linears.items():
                shapes |= {f"{layer}{name}weight": (outputs * width, inputs * width)}
                shapes |= {f"{layer}{name}bias": (outputs * width,)}
            shapes |= {f"{layer}ln_{n}.{part}": (width,) for n in (1, 2) for part in ("weight", "bias")}
    generator = torch.Generator().manual_seed(2)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def by_hand(kind: str, head: State, frames: torch.Tensor) -> torch.Tensor:
    """The video's vector from its frames' embeddings, step by step as the paper's section 3.3 has it."""
    if kind == "seqLSTM":
        hidden = cell = torch.zeros_like(frames[0])
        seen = []
        for frame in frames:
            gates = head["lstm_visual.weight_ih_l0"] @ frame + head["lstm_visual.bias_ih_l0"]
            gates = gates + head["lstm_visual.weight_hh_l0"] @ hidden + head["lstm_visual.bias_hh_l0"]
            enter, forget, new, leave = gates.chunk(4)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            seen.append(hidden)
        x = torch.stack(seen)
    else:
        x = frames + head["frame_position_embeddings.weight"][: len(frames)]
        for number in range(2):
            tensors = {name.split(".", 3)[3]: value for name, value in head.items() if f"resblocks.{number}." in name}
            attention = torch.nn.MultiheadAttention(frames.shape[1], frames.shape[1] // 64, batch_first=True)
            attention.load_state_dict({name[5:]: value for name, value in tensors.items() if name.startswith("attn.")})
            y = F.layer_norm(x, x.shape[1:], tensors["ln_1.weight"], tensors["ln_1.bias"], 1e-12)[None]
            x = x + attention(y, y, y, need_weights=False)[0][0]
            y = F.layer_norm(x, x.shape[1:], tensors["ln_2.weight"], tensors["ln_2.bias"], 1e-12)
            y = F.linear(y, tensors["mlp.c_fc.weight"], tensors["mlp.c_fc.bias"])
            x = x + F.linear(y * (1.702 * y).sigmoid(), tensors["mlp.c_proj.weight"], tensors["mlp.c_proj.bias"])
    return F.normalize(F.normalize(x + frames, dim=-1).mean(0), dim=-1)


@pytest.mark.parametrize("kind", ["seqLSTM", "seqTransf"])
@torch.inference_mode()
def test_a_head_computes_what_the_paper_says(
    kind: str, random_state: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 128 wide, for a head of two attention heads.
    config = OurConfig(128, 32, 16, vision_width=64, vision_layers=1, vocab_size=49408, text_width=64, text_layers=1)
    monkeypatch.setitem(MODELS, "two heads", Model(config, hub="hf://owner/model"))
    head = published_head(kind, 128)
    path = tmp_path / "pytorch_model.bin.4"
    torch.save({f"clip.{name}": value for name, value in random_state(config).items()} | head, path)
    clip = list(np.random.default_rng(3).integers(0, 256, (5, 45, 60, 3), dtype=np.uint8))
    encoder = VideoEncoder.load("two heads", path, "cpu")
    embeddings = torch.from_numpy(encoder.model(pixel_values(clip, 32)))
    np.testing.assert_allclose(encoder(clip), by_hand(kind, head, embeddings), atol=1e-5)


@pytest.mark.parametrize("shape", [{"num_layers": 2}, {"bidirectional": True}, {"proj_size": 32}])
def test_an_lstm_of_another_kind_is_refused_rather_than_half_applied(
    shape: dict, tiny_state: State, tmp_path: Path
) -> None:
    lstm = torch.nn.LSTM(64, 64, **shape)
    torch.save(tiny_state | {f"lstm_visual.{name}": value for name, value in lstm.state_dict().items()}, tmp_path / "a")
    with pytest.raises(CheckpointError, match="lstm_visual"):
        VideoEncoder.load("tiny", tmp_path / "a", "cpu")


def test_a_transformer_head_without_layers_is_refused(tiny_state: State, tmp_path: Path) -> None:
    head = {"frame_position_embeddings.weight": torch.zeros(77, 64), "transformerClip.ln.weight": torch.zeros(64)}
    torch.save(tiny_state | head, tmp_path / "a")
    with pytest.raises(CheckpointError, match="transformerClip"):
        VideoEncoder.load("tiny", tmp_path / "a", "cpu")


# What is checked


def test_unused_tensors_are_reported_at_info(
    tiny_state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(tiny_state | {"transformer.resblocks.0.extra": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(QUICK_GELU)
    with caplog.at_level(logging.INFO, logger="clip4clip"):
        TextEncoder.load("tiny", tmp_path, "cpu")
    assert "not used: transformer.resblocks.0.extra" in caplog.text
    assert all(record.levelno == logging.INFO for record in caplog.records)


def test_tensors_that_belong_to_nothing_are_reported_too(
    tiny_state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(tiny_state | {"optimizer.step": torch.zeros(1), "visual.extra": torch.zeros(1)}, tmp_path / "a.pt")
    with caplog.at_level(logging.INFO, logger="clip4clip"):
        VideoEncoder.load("tiny", tmp_path / "a.pt", "cpu")
    assert "not used: optimizer.step" in caplog.text
    assert "not used: extra" in caplog.text
    assert "token_embedding" not in caplog.text  # the other tower's are not unused, but not needed here


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("seqLSTM", {"lstm_visual.weight_hh_l0": None}),
        ("seqLSTM", {"lstm_visual.weight_hh_l0": torch.zeros(4, 1)}),
        ("seqTransf", {"frame_position_embeddings.weight": None}),
        ("seqTransf", {"frame_position_embeddings.weight": torch.zeros(77, 3)}),
        ("seqTransf", {"transformerClip.resblocks.1.ln_1.bias": None}),
        ("seqTransf", {"transformerClip.strange": torch.zeros(1)}),
    ],
)
def test_a_damaged_head_is_an_error(kind: str, damage: dict, tiny_state: State, tmp_path: Path) -> None:
    state = tiny_state | head_state(kind) | damage
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "a.pt")
    if "transformerClip.strange" in damage:
        VideoEncoder.load("tiny", tmp_path / "a.pt", "cpu")
    else:
        with pytest.raises(CheckpointError, match=next(iter(damage)).replace(".", r"\.")):
            VideoEncoder.load("tiny", tmp_path / "a.pt", "cpu")


@pytest.mark.parametrize("shape", [(), (0,), (0, 128), (1, 128), (6, 128)])
def test_positions_of_an_impossible_shape_are_an_error(
    shape: tuple[int, ...], tiny_state: State, tmp_path: Path
) -> None:
    torch.save(tiny_state | {"visual.positional_embedding": torch.zeros(shape)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError):
        VideoEncoder.load("tiny", tmp_path / "a.pt", "cpu")


def test_missing_tensors_are_an_error_that_names_them(tiny_state: State, tmp_path: Path) -> None:
    gone = ("ln_final.bias", "transformer.resblocks.1.mlp.c_fc.weight")
    save_file({name: value for name, value in tiny_state.items() if name not in gone}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks 2 of \d+ tensors: .*c_fc\.weight.*ln_final\.bias"):
        TextEncoder.load("tiny", tmp_path, "cpu")
    VideoEncoder.load("tiny", tmp_path, "cpu")  # whose tensors are all there


def test_a_wrong_shape_or_type_is_an_error_that_names_it(tiny_state: State, tmp_path: Path) -> None:
    wrong = {"ln_final.bias": torch.zeros(63), "ln_final.weight": torch.ones(64, dtype=torch.int32)}
    save_file(tiny_state | wrong, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"ln_final\.weight is \(64,\) torch\.int32.*ln_final\.bias is \(63,\)"):
        TextEncoder.load("tiny", tmp_path, "cpu")


def meta_state(config: OurConfig) -> State:
    """Shapes without memory."""
    with torch.device("meta"):
        vision = {f"visual.{name}": value for name, value in VisionTower(config).state_dict().items()}
        return vision | TextTower(config).state_dict()


@pytest.mark.parametrize(("name", "other"), [("clip_vit_b32", "clip_vit_b16"), ("clip_vit_b16", "clip_vit_b32")])
def test_a_checkpoint_that_contradicts_its_name_is_refused_with_the_right_name(name: str, other: str) -> None:
    check_shape(meta_state(MODELS[name].config), name, Path("x.pt"))
    with pytest.raises(CheckpointError, match=rf"x\.pt is not a {name}: patch_size is .* It fits model_name='{other}'"):
        check_shape(meta_state(MODELS[other].config), name, Path("x.pt"))


def test_a_text_operator_refuses_a_checkpoint_whose_vision_tower_contradicts_the_name(
    tiny_state: State, tmp_path: Path
) -> None:
    save_file(tiny_state | {"visual.conv1.weight": torch.zeros(128, 3, 8, 8)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="patch_size is 8, not 16"):
        TextEncoder.load("tiny", tmp_path, "cpu")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(64).to_sparse(),
        torch.ones(64, device="meta"),
        torch.ones(64, dtype=torch.complex64),
        torch.ones(64, dtype=torch.bool),
    ],
    ids=["sparse", "without numbers", "complex", "bool"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_tensor_of_another_kind_is_an_error_that_names_it(
    tensor: torch.Tensor, tiny_state: State, tmp_path: Path
) -> None:
    torch.save(tiny_state | {"ln_final.weight": tensor}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"ln_final\.weight is"):
        TextEncoder.load("tiny", tmp_path / "a.pt", "cpu")


@pytest.mark.parametrize(
    "content", [{}, {"a": 1, "b": "x"}, {"state_dict": {"a": None}}, {"state_dict": None}, [], "x"]
)
def test_a_pickle_without_tensors_is_an_error(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"none at all|not a state dict"):
        TextEncoder.load("tiny", tmp_path / "a.pt", "cpu")


# What is read


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("family", ["safetensors", "zip"])
def test_parameters_are_the_mapped_file(family: str, tiny_state: State, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    FAMILIES[family](tiny_state, path)
    tower = TextEncoder.load("tiny", path, "cpu", "torch").model
    assert isinstance(tower, TorchTower)
    mapped = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            mapped.append([int(end, 16) for end in line.split()[0].split("-")])
    assert mapped
    for parameter in tower.module.parameters():
        assert any(start <= parameter.data_ptr() < end for start, end in mapped)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_the_other_tower_is_not_read(runtime: str, tiny_state: State, tmp_path: Path) -> None:
    # The vision tower is filled with NaN: whoever reads it, notices.
    path = tmp_path / "model.safetensors"
    save_file(tiny_state, path)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    offsets = json.loads(path.read_bytes()[8 : 8 + header])
    start, end = offsets["visual.transformer.resblocks.0.mlp.c_fc.weight"]["data_offsets"]
    damaged = bytearray(path.read_bytes())
    damaged[8 + header + start : 8 + header + end] = b"\xff" * (end - start)  # NaN, all of it
    path.write_bytes(damaged)
    assert np.isfinite(TextEncoder.load("tiny", path, "cpu", runtime)("a dog")).all()
    with pytest.raises(CheckpointError, match="not finite"):
        VideoEncoder.load("tiny", path, "cpu", runtime)(np.zeros((1, 32, 32, 3), np.uint8))


# Where what is made from it is kept


@pytest.mark.parametrize("name", ["~nobody_such/x", None])
def test_a_cache_in_a_home_that_is_not_there_keeps_nothing(
    name: str | None, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("CLIP4CLIP_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    if name is None:  # a user without an entry, as containers have them
        monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    else:
        monkeypatch.setenv("CLIP4CLIP_CACHE", name)
    with pytest.raises(CacheError, match=f"nothing can be kept in {name or '~/'}.*Set CLIP4CLIP_CACHE to a folder"):
        cache_folder()
    assert not is_cache_writable()
    assert inspect(tiny_checkpoint, "tiny").head == "meanP"


def test_a_file_is_no_folder_to_keep_anything_in(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIP4CLIP_CACHE", str(tmp_path / "cache"))
    assert is_cache_writable()
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_bytes(b"")
    assert not is_cache_writable()
    assert inspect(tiny_checkpoint, "tiny").head == "meanP"


def resident(path: Path) -> int:
    """How many bytes of a mapped file this process has touched."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = line.endswith(str(path))
        elif ours and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("modality", ["text", "video"])
@pytest.mark.parametrize("family", ["safetensors", "zip"])
def test_of_the_file_only_the_wanted_tower_is_touched(
    family: str, modality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = OurConfig(64, 32, 16, vision_width=512, vision_layers=4, text_width=64, text_layers=1)
    monkeypatch.setitem(MODELS, "large towers", Model(config, hub="hf://owner/model"))
    state, path = random_state_dict(config), tmp_path / "checkpoint"
    FAMILIES[family](state, path)
    sizes = {"text": 0, "video": 0}
    for name, tensor in state.items():
        sizes["video" if name.startswith("visual.") else "text"] += tensor.nbytes
    margin = 2**22  # the system maps some neighbours of each page
    assert min(sizes.values()) > 2 * margin
    if modality == "text":
        encoder = TextEncoder.load("large towers", path, "cpu", "torch")
        encoder("a dog")
    else:
        encoder = VideoEncoder.load("large towers", path, "cpu", "torch")
        encoder(np.zeros((1, 32, 32, 3), np.uint8))
        assert resident(path) > sizes["video"] / 2  # or else this would measure nothing
    assert resident(path) < sizes[modality] + margin


# What is no checkpoint


@pytest.mark.parametrize("family", ["safetensors", "zip", "legacy pickle"])
def test_a_file_cut_anywhere_is_an_error(family: str, tiny_state: State, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    FAMILIES[family]({name: value for name, value in tiny_state.items() if "token" not in name}, whole)
    content = whole.read_bytes()
    cuts = [0, 1, 7, 8, 9, 20, 100, 1000, *np.linspace(2000, len(content) - 1, 30).astype(int), len(content) - 1]
    for cut in cuts:
        (tmp_path / "cut").write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match="cut"):
            read_state_dict(tmp_path / "cut")


@pytest.mark.parametrize("family", ["safetensors", "zip", "legacy pickle"])
def test_flipped_bytes_are_an_error_or_other_numbers_but_nothing_else(family: str, tmp_path: Path) -> None:
    state = {"token_embedding.weight": torch.randn(3, 2), "visual.conv1.weight": torch.randn(2, 3, 2, 2)}
    FAMILIES[family](state, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for position in random.integers(0, len(content), random.integers(1, 4)):
            damaged[position] = random.integers(256)
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            read_state_dict(tmp_path / "damaged")
        except CheckpointError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello world, this is text", "neither safetensors nor a PyTorch file"),
        (b"<!DOCTYPE html><html>404</html>", "neither safetensors nor"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "neither safetensors nor"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 605143284\n", "git lfs pull"),
        (bytes([255] * 7) + b"\x7f{" + bytes(100), "cannot be read as a checkpoint"),
        (pickle.dumps([1, 2, 3]), "cannot be read as a checkpoint"),
    ],
)
def test_a_file_of_another_kind_is_an_error_that_says_so(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        TextEncoder.load("tiny", tmp_path / "file", "cpu")


@pytest.mark.parametrize("family", ["safetensors", "zip", "legacy pickle"])
def test_more_tensors_than_any_clip_has_are_refused_before_they_are_read(
    family: str, tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FAMILIES[family](tiny_state | {f"visual.extra{n}": torch.zeros(1) for n in range(12_000)}, tmp_path / "a")
    monkeypatch.setattr("torch.load", None)
    with pytest.raises(CheckpointError, match=r"cannot be read as a checkpoint: .*(at most|larger than 1,048,576)"):
        read_state_dict(tmp_path / "a")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_hundred_thousand_keys_are_refused_before_they_are_read(
    new: bool, tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tiny_state | {f"key {n}": n for n in range(100_000)}
    torch.save(content, tmp_path / "a", _use_new_zipfile_serialization=new)
    monkeypatch.setattr("torch.load", None)
    with pytest.raises(CheckpointError, match=r"larger than 1,048,576 bytes.*save its state dict without the rest"):
        read_state_dict(tmp_path / "a")


def test_an_optimizer_of_a_whole_model_beside_it_is_no_reason_to_refuse(
    tiny_state: State, tmp_path: Path, expected: Callable
) -> None:
    moments = {n: {part: torch.zeros(2) for part in ("step", "exp_avg", "exp_avg_sq")} for n in range(400)}
    torch.save({"state_dict": tiny_state, "optimizer": {"state": moments}}, tmp_path / "a")
    np.testing.assert_allclose(vectors_of(tmp_path / "a", "text"), expected("text"), atol=1e-6)


def test_another_zip_and_another_network_are_errors(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError):
        TextEncoder.load("tiny", tmp_path / "zip", "cpu")
    torch.save({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, tmp_path / "resnet.pt")
    with pytest.raises(
        CheckpointError, match=r"no CLIP with a vision transformer; its tensors are: conv1\.weight, fc\.bias"
    ):
        TextEncoder.load("tiny", tmp_path / "resnet.pt", "cpu")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(CheckpointError, match="it holds a Tensor, not a state dict"):
        TextEncoder.load("tiny", tmp_path / "tensor.pt", "cpu")


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not(new: bool, tiny_state: State, tmp_path: Path) -> None:
    marker = tmp_path / "it_ran"
    content = dict(tiny_state) | {"bomb": _Bomb(marker)}
    torch.save(content, tmp_path / "bomb.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError):
        TextEncoder.load("tiny", tmp_path / "bomb.pt", "cpu")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(_Bomb(marker)))
    with pytest.raises(CheckpointError):
        TextEncoder.load("tiny", tmp_path / "plain.pkl", "cpu")
    assert not marker.exists()


SMALL = {"token_embedding.weight": torch.arange(6.0).view(3, 2), "visual.conv1.weight": torch.ones(2, 3, 2, 2)}


@pytest.mark.parametrize("family", ["safetensors", "zip", "legacy pickle"])
def test_a_small_file_cut_at_any_byte_is_an_error(family: str, tmp_path: Path) -> None:
    FAMILIES[family](SMALL, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for cut in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match="cut"):
            read_state_dict(tmp_path / "cut")


def rezip(source: Path, target: Path, change: Callable[[str, bytes], tuple[bytes, int]]) -> None:
    """Writes a zip anew, with right checksums and each entry's bytes and compression from ``change``."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, *change(entry.filename, old.read(entry)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # by torch, on pickles of odd protocols
def test_a_damaged_pickle_with_a_right_checksum_is_an_error_or_other_numbers_but_nothing_else(tmp_path: Path) -> None:
    torch.save(SMALL, tmp_path / "whole")
    random = np.random.default_rng(0)
    refused = 0

    def damage(name: str, content: bytes) -> tuple[bytes, int]:
        if not name.endswith("data.pkl"):
            return content, zipfile.ZIP_STORED
        damaged = bytearray(content)
        for position in random.integers(0, len(content), random.integers(1, 4)):
            damaged[position] = random.integers(256)
        return bytes(damaged), zipfile.ZIP_STORED

    for _ in range(300):
        rezip(tmp_path / "whole", tmp_path / "damaged", damage)
        try:
            read_state_dict(tmp_path / "damaged")
        except CheckpointError:
            refused += 1
    assert refused > 200


def test_compressed_tensors_are_refused_or_read_but_never_taken_for_plain_ones(tmp_path: Path) -> None:
    torch.save(SMALL, tmp_path / "plain")
    kinds = {"0": zipfile.ZIP_DEFLATED}  # the first tensor: what follows it in the file fills the gap
    rezip(
        tmp_path / "plain",
        tmp_path / "packed",
        lambda name, content: (content, kinds.get(name.rsplit("/", 1)[1], zipfile.ZIP_STORED)),
    )
    try:
        tensors = read_state_dict(tmp_path / "packed")
    except CheckpointError as error:
        assert "compressed" in str(error)  # noqa: PT017  either is right
    else:
        assert torch.equal(tensors["token_embedding.weight"], SMALL["token_embedding.weight"])


@pytest.mark.parametrize("packed", ["data.pkl", "byteorder"])
def test_what_would_unpack_to_any_size_is_refused(packed: str, tmp_path: Path) -> None:
    torch.save(SMALL, tmp_path / "plain")
    rezip(
        tmp_path / "plain",
        tmp_path / "bomb",
        lambda name, content: (
            (content + bytes(10**7), zipfile.ZIP_DEFLATED) if name.endswith(packed) else (content, zipfile.ZIP_STORED)
        ),
    )
    with pytest.raises(CheckpointError, match="compressed"):
        read_state_dict(tmp_path / "bomb")


def entry(shape: list, offsets: list, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS: dict[str, object] = {
    "reaching past the end": {"visual.conv1.weight": entry([8], [0, 32])},
    "far past the end": {"visual.conv1.weight": entry([2**62], [0, 2**64 - 1])},
    "overflowing": {"visual.conv1.weight": entry([2**32, 2**32], [0, 16])},
    "overlapping": {"visual.conv1.weight": entry([2], [0, 8]), "token_embedding.weight": entry([2], [4, 12])},
    "with a hole": {"visual.conv1.weight": entry([1], [0, 4]), "token_embedding.weight": entry([1], [12, 16])},
    "backwards": {"visual.conv1.weight": entry([4], [16, 0])},
    "negative": {"visual.conv1.weight": entry([4], [-16, 0])},
    "of another size": {"visual.conv1.weight": entry([3], [0, 16])},
    "of no known type": {"visual.conv1.weight": entry([4], [0, 16], "F31")},
    "without a shape": {"visual.conv1.weight": {"dtype": "F32", "data_offsets": [0, 16]}},
    "of numbers": {"visual.conv1.weight": 1},
    "with strange metadata": {"__metadata__": {"a": 1}, "visual.conv1.weight": entry([4], [0, 16])},
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_forged_safetensors_header_is_refused(kind: str, tmp_path: Path) -> None:
    header = json.dumps(HEADERS[kind]).encode()
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_state_dict(tmp_path / "a")


@pytest.mark.parametrize("length", [0, 1, 2**27, 2**28 - 9, 2**28 - 8, 2**28, 2**63 - 1, 2**64 - 1])
def test_a_forged_safetensors_header_length_is_refused(length: int, tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.write(length.to_bytes(8, "little") + b"{" * 1000)
        file.truncate(2**28)  # a hole: nothing of it is on the disk
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_state_dict(tmp_path / "a")


def test_a_safetensors_header_nested_without_end_is_refused(tmp_path: Path) -> None:
    header = b'{"a":' * 200_000
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_state_dict(tmp_path / "a")


@pytest.mark.parametrize("entries", [["[Content_Types].xml"], ["a/data.pkl"], ["a/version"], ["a/constants.pkl"], []])
def test_another_kind_of_zip_is_refused_in_words(entries: list[str], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.docx", "w") as archive:
        for name in entries:
            archive.writestr(name, b"hello")
    with pytest.raises(CheckpointError, match=r"a\.docx cannot be read as a checkpoint: \w+ \w+") as error:
        read_state_dict(tmp_path / "a.docx")
    assert "\n" not in str(error.value)


def test_no_version_of_torch_is_allowed_whose_safe_unpickler_is_not() -> None:
    # CVE-2025-32434: up to 2.5.1 weights_only=True could be made to run code.
    for file in ("pyproject.toml", "requirements.txt"):
        floor = re.search(r"\btorch>=(\d+)\.(\d+)", (REPOSITORY / file).read_text("utf-8"))
        assert floor is not None
        assert (int(floor[1]), int(floor[2])) >= (2, 6)


# What is not there


def test_nothing_there_is_an_error_that_says_how_to_supply_a_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"nowhere\.pt: there is no such file or folder\. Pass weight_path"):
        TextEncoder.load("tiny", tmp_path / "nowhere.pt", "cpu")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in the folder .*model\.safetensors"):
        TextEncoder.load("tiny", tmp_path, "cpu")
    with pytest.raises(UnknownNameError, match="unknown model 'vit'"):
        TextEncoder.load("vit", tmp_path, "cpu")


def test_no_reference_takes_the_published_file_beside_the_operator(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin.1").touch()
    assert locate(None, "clip_vit_b32", tmp_path) == tmp_path / "pytorch_model.bin.1"


def test_no_reference_offline_is_an_error_that_says_what_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsNotFoundError) as error:
        locate(None, "clip_vit_b32", tmp_path)
    message = str(error.value)
    assert f"{tmp_path / 'pytorch_model.bin.1'} (no such file)" in message
    assert "hf://timm/vit_base_patch32_clip_224.openai@ab5b8ef490e86faa07d3523926b842c765de1de5/" in message
    assert "Pass weight_path" in message


def test_the_defaults_are_pinned() -> None:
    for name in ("clip_vit_b32", "clip_vit_b16"):
        assert re.search(r"@[0-9a-f]{40}/open_clip_model\.safetensors$", MODELS[name].hub)


@pytest.mark.parametrize(
    "reference", ["hf://", "hf://owner", "hf://owner/", "hf://a/b/../../etc/x", "hf://a/b@/x", "hf://a//b"]
)
def test_a_malformed_hub_reference_is_an_error_that_shows_the_form(reference: str) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"hf://owner/repo\[@revision\]\[/file\]"):
        locate(reference, "clip_vit_b32")


@pytest.mark.parametrize("path", ["", "a\0b", "a" * 5000, "~nobody-of-that-name/model.pt", "/dev/null", "/dev/null/x"])
def test_a_path_that_cannot_be_is_an_error_too(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsNotFoundError, match="no checkpoint"):
        locate(path, "tiny")


@pytest.mark.parametrize(
    "reference", ["hf://a/b/\0", "hf://a/b@\0/x", "hf://a/b//x", "hf://a/b/c\\..\\x", "hf://-/-/x"]
)
def test_a_hub_reference_that_no_file_can_have_is_an_error_too(reference: str) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"hf://owner/repo\[@revision\]\[/file\]"):
        locate(reference, "clip_vit_b32")
