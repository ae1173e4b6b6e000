"""The towers and heads against transformers and against formulas written out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peer_models import hugging_face_model
from safetensors.torch import load_file, save_file

from clip4clip import TextEncoder, VideoEncoder
from clip4clip.config import MODELS
from clip4clip.model import MeanPooling, SequenceLSTM, SequenceTransformer, TextTower, VisionTower, random_state_dict
from clip4clip.preprocess import pixel_values
from clip4clip.tokenizer import default_tokenizer
from clip4clip.weights.state_dict import tower_state

CAPTIONS = ["a dog", "kids feeding and playing with the horse", "", "dog " * 100, "ein Hund läuft 😀 über 12 Straßen"]


def assert_same_vectors(ours: np.ndarray, theirs: torch.Tensor) -> None:
    reference = F.normalize(theirs, dim=-1).numpy()
    assert (ours * reference).sum(-1).min() >= 0.99999
    assert np.abs(ours - reference).max() <= 1e-4


@pytest.mark.parametrize(
    "model_name",
    [
        "tiny",
        pytest.param("clip_vit_b32", marks=pytest.mark.slow),
        pytest.param("clip_vit_b16", marks=pytest.mark.slow),
    ],
)
@torch.inference_mode()
def test_vectors_equal_those_of_transformers(
    model_name: str, random_state: Callable, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config, checkpoint = MODELS[model_name].config, tmp_path / "model.safetensors"
    if model_name == "clip_vit_b32":
        checkpoint = request.getfixturevalue("b32_checkpoint")
    else:
        save_file(random_state(config), checkpoint)
    state = load_file(checkpoint)
    reference = hugging_face_model(config, state)
    ids = torch.from_numpy(default_tokenizer()(CAPTIONS))
    texts = reference.text_projection(reference.text_model(input_ids=ids).pooler_output)
    assert_same_vectors(TextEncoder.load(model_name, checkpoint, "cpu")(CAPTIONS), texts)

    frames = np.random.default_rng(0).integers(0, 256, (5, 90, 120, 3), dtype=np.uint8)
    pixels = torch.from_numpy(pixel_values(frames, config.resolution))
    embeddings = reference.visual_projection(reference.vision_model(pixel_values=pixels).pooler_output)
    encoder = VideoEncoder.load(model_name, checkpoint, "cpu")
    assert_same_vectors(encoder([[frame] for frame in frames]), embeddings)
    assert_same_vectors(encoder(frames), F.normalize(embeddings, dim=-1).mean(0))


@torch.inference_mode()
def test_padding_does_not_change_an_embedding(tiny_state: dict[str, torch.Tensor]) -> None:
    tower = TextTower(MODELS["tiny"].config)
    tower.load_state_dict(tower_state(tiny_state, "text"))
    ids = torch.tensor([[49406, 320, 1929, 49407]])
    padded = F.pad(ids, (0, 73))
    torch.testing.assert_close(tower(padded), tower(ids), atol=1e-5, rtol=1e-5)
    random_padding = torch.cat([ids, torch.randint(0, 49407, (1, 73))], dim=1)
    torch.testing.assert_close(tower(random_padding), tower(ids), atol=1e-5, rtol=1e-5)


def test_mean_pooling_is_the_mean_of_unit_vectors() -> None:
    frames = torch.randn(7, 8)
    unit = frames.numpy() / np.linalg.norm(frames.numpy(), axis=1, keepdims=True)
    head = MeanPooling()
    np.testing.assert_allclose(head.pool(head(frames)).numpy() / 7, unit.mean(0), atol=1e-6)


@pytest.mark.parametrize(
    "head", [MeanPooling(), SequenceLSTM(64), SequenceTransformer(64, 2, 77)], ids=lambda h: type(h).__name__
)
@torch.inference_mode()
def test_pooling_frames_in_chunks_equals_pooling_them_at_once(
    head: MeanPooling | SequenceLSTM | SequenceTransformer,
) -> None:
    if isinstance(head, SequenceTransformer):
        for parameter in head.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape))
    frames = torch.randn(20, 64)
    state = None
    for chunk in frames.split([1, 7, 12]):
        state = head(chunk, state)
    torch.testing.assert_close(head.pool(state), head.pool(head(frames, None)), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_lstm_head_is_an_lstm_added_to_its_input() -> None:
    head, frames = SequenceLSTM(8), torch.randn(5, 8)
    # The recurrence written out. torch has the gates in the order input, forget, cell, output.
    parameters = {name.removeprefix("lstm_visual."): value for name, value in head.state_dict().items()}
    hidden, cell, outputs = torch.zeros(8), torch.zeros(8), []
    for frame in frames:
        gates = parameters["weight_ih_l0"] @ frame + parameters["bias_ih_l0"]
        gates = gates + parameters["weight_hh_l0"] @ hidden + parameters["bias_hh_l0"]
        i, f, g, o = gates.chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        outputs.append(hidden)
    expected = F.normalize(torch.stack(outputs) + frames, dim=-1).sum(0)
    torch.testing.assert_close(head.pool(head(frames)), expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_transformer_head_is_a_transformer_added_to_its_input() -> None:
    head, frames = SequenceTransformer(128, 3, 77), 1e-3 * torch.randn(6, 128)
    for parameter in head.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape))
    head.frame_position_embeddings.weight.mul_(1e-2)  # so small that the epsilon of the norms matters
    x = frames + head.frame_position_embeddings.weight[:6]
    for block in head.transformerClip.resblocks:
        reference = torch.nn.TransformerEncoderLayer(
            128,
            2,
            512,
            dropout=0,
            activation=lambda y: y * torch.sigmoid(1.702 * y),
            layer_norm_eps=1e-12,
            norm_first=True,
        )
        ours = block.state_dict()
        names = {
            "self_attn.": "attn.",
            "linear1.": "mlp.c_fc.",
            "linear2.": "mlp.c_proj.",
            "norm1.": "ln_1.",
            "norm2.": "ln_2.",
        }
        for theirs, parameter in reference.state_dict().items():
            prefix = next(prefix for prefix in names if theirs.startswith(prefix))
            parameter.copy_(ours[theirs.replace(prefix, names[prefix])])
        x = reference(x)
    torch.testing.assert_close(head.pool(head(frames)), F.normalize(x + frames, dim=-1).sum(0), atol=1e-4, rtol=1e-4)


def test_random_weights_depend_only_on_the_seed_and_distinguish_frames() -> None:
    config = MODELS["tiny"].config
    first, again, other = random_state_dict(config), random_state_dict(config), random_state_dict(config, seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["visual.proj"], other["visual.proj"])
    tower = VisionTower(config)
    tower.load_state_dict(tower_state(first, "video"))
    with torch.inference_mode():
        embeddings = F.normalize(tower(torch.randn(4, 3, 32, 32)), dim=-1)
    assert (embeddings @ embeddings.T).fill_diagonal_(0).max() < 0.999  # different frames, different vectors
