"""The towers and heads against transformers and against formulas written out."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from constants import TINY
from peer_models import hugging_face_model
from safetensors.torch import load_file, save_file

from clip4clip import InputValueError, TextEncoder, VideoEncoder
from clip4clip.config import MODELS, CLIPConfig
from clip4clip.model import (
    AttentionPool,
    MeanPooling,
    SequenceLSTM,
    SequenceTransformer,
    TextTower,
    VisionTower,
    grid_rotations,
    random_state_dict,
    rotate,
)
from clip4clip.preprocess import pixel_values
from clip4clip.tokenizer import default_tokenizer
from clip4clip.weights.state_dict import tower_state

# A small Perception Encoder, with a head width that no default has.
ROTARY = replace(
    TINY, patch_size=8, vision_head_width=16, vocab_size=64, activation="gelu", pooling="attention", rotary=True
)
CAPTIONS = ["a dog", "kids feeding and playing with the horse", "", "dog " * 100, "ein Hund läuft 😀 über 12 Straßen"]


def assert_same_vectors(ours: np.ndarray, theirs: torch.Tensor) -> None:
    reference = F.normalize(theirs, dim=-1).numpy()
    assert (ours * reference).sum(-1).min() >= 0.99999
    assert np.abs(ours - reference).max() <= 1e-4


def vision_tower(config: CLIPConfig, state: dict[str, torch.Tensor]) -> VisionTower:
    """Build a tower as the package does: without memory of its own until the tensors of a checkpoint replace it."""
    with torch.device("meta"):
        tower = VisionTower(config)
    tower.load_state_dict({name: state[f"visual.{name}"] for name in tower.state_dict()}, assign=True)
    return tower


@pytest.mark.parametrize(
    "rule",
    [
        {"activation": "gelu"},
        {"vision_head_width": 16, "text_head_width": 32},
        {"vision_mlp_width": 200, "text_mlp_width": 72},
        {"norm_eps": 0.1},
        {"embed_dim": 40},
    ],
    ids=lambda rule: " and ".join(rule),
)
@torch.inference_mode()
def test_each_rule_of_a_network_is_that_of_transformers(rule: dict[str, Any], random_state: Callable) -> None:
    config = replace(TINY, vocab_size=64, **rule)
    state = random_state(config)
    reference = hugging_face_model(config, state)
    ids = torch.randint(0, 63, (4, 12))
    ids[range(4), [3, 11, 7, 5]] = 63  # the EOT token
    text = TextTower(config)
    text.load_state_dict(tower_state(state, "text"))
    theirs = reference.text_projection(reference.text_model(input_ids=ids).pooler_output)
    assert_same_vectors(F.normalize(text(ids), dim=-1).numpy(), theirs)
    pixels = torch.randn(3, 3, 32, 32)
    theirs = reference.visual_projection(reference.vision_model(pixel_values=pixels).pooler_output)
    assert_same_vectors(F.normalize(vision_tower(config, state)(pixels), dim=-1).numpy(), theirs)


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


def test_pairs_of_channels_are_rotated_by_the_column_and_the_row_of_their_patch() -> None:
    x = torch.randn(2, 5, 1 + 9, 16)
    ours = torch.view_as_complex(rotate(x, grid_rotations(3, 16, x.device)).unflatten(-1, (-1, 2)))
    expected = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # (2, 5, 10, 8); the class token stays as it is
    for row, column, pair in itertools.product(range(3), range(3), range(8)):
        position = column + 1 if pair < 4 else row + 1
        angle = torch.tensor(1j * position * 10000 ** -((pair % 4) / 4))
        expected[:, :, 1 + 3 * row + column, pair] *= angle.exp()
    torch.testing.assert_close(ours, expected)


@torch.inference_mode()
def test_pooling_by_attention_is_multi_head_attention_and_an_mlp() -> None:
    pool, x = AttentionPool(32, 4, "gelu", 1e-5), torch.randn(3, 10, 32)
    for parameter in pool.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape))
    attention = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    attention.load_state_dict(pool.attn.state_dict())
    attended = attention(pool.probe.expand(3, -1, -1), x, x)[0][:, 0]
    hidden = F.gelu(pool.mlp.c_fc(pool.layernorm(attended)))
    assert hidden.shape == (3, 128)
    torch.testing.assert_close(pool(x), attended + pool.mlp.c_proj(hidden), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rotary", [False, True])
@torch.inference_mode()
def test_each_pooling_takes_its_part_of_the_normalised_tokens(rotary: bool, random_state: Callable) -> None:
    config, pixels, recorded = replace(ROTARY, rotary=rotary), torch.randn(3, 3, 32, 32), []
    state = random_state(config)
    towers = {pooling: vision_tower(replace(config, pooling=pooling), state) for pooling in ("token", "mean")}
    towers["attention"] = vision_tower(replace(config, pooling_heads=4), state)
    assert towers["attention"].attn_pool.attn.head_width == 32
    towers["mean"].ln_post.register_forward_hook(lambda module, inputs, output: recorded.append(output))
    embeddings = {pooling: tower(pixels) for pooling, tower in towers.items()}
    (tokens,) = recorded  # (3, 1 + 16, C)
    pooled = {"token": tokens[:, 0], "mean": tokens[:, 1:].mean(1), "attention": towers["attention"].attn_pool(tokens)}
    for pooling, x in pooled.items():
        torch.testing.assert_close(embeddings[pooling], x @ state["visual.proj"], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_rotations_keep_their_precision_and_are_no_part_of_a_tower(random_state: Callable) -> None:
    tower, pixels = vision_tower(ROTARY, random_state(ROTARY)), torch.randn(3, 3, 32, 32)
    expected = tower(pixels)
    for twin in (copy.deepcopy(tower), pickle.loads(pickle.dumps(tower))):
        torch.testing.assert_close(twin(pixels), expected)
    x = torch.randn(1, 1, 1 + 24**2, 16, dtype=torch.bfloat16)
    rotations = grid_rotations(24, 16, x.device)
    torch.testing.assert_close(rotate(x, rotations), rotate(x.double(), rotations.double()).bfloat16())
    half = F.normalize(tower.bfloat16()(pixels.bfloat16()).float(), dim=-1)
    assert (half * F.normalize(expected, dim=-1)).sum(-1).min() > 0.999
    assert not [name for name, _ in tower.named_buffers()]


def test_gradients_reach_every_parameter_also_with_recomputed_activations(random_state: Callable) -> None:
    tower, pixels = vision_tower(ROTARY, random_state(ROTARY)), torch.randn(3, 3, 32, 32)
    gradients = []
    for tower.transformer.recompute in (False, True):
        tower.zero_grad()
        tower(pixels).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in tower.named_parameters()})
    assert [name for name, gradient in gradients[0].items() if not gradient.any()] == []
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


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


def test_a_transformer_head_has_heads_of_64_channels() -> None:
    assert {block.attn.head_width for block in SequenceTransformer(128, 3, 77).transformerClip.resblocks} == {64}
    with pytest.raises(InputValueError, match="multiple of 64 numbers, not 96"):
        SequenceTransformer(96, 3, 77)


@pytest.mark.parametrize("config", [TINY, ROTARY, replace(ROTARY, pooling="mean")], ids=lambda config: config.pooling)
def test_random_weights_depend_only_on_the_seed_and_distinguish_frames(config: CLIPConfig) -> None:
    first, again, other = random_state_dict(config), random_state_dict(config), random_state_dict(config, seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["visual.proj"], other["visual.proj"])
    norms = [tensor for name, tensor in first.items() if name.endswith((".layernorm.weight", "ln_1.weight"))]
    assert all((tensor == 1).all() for tensor in norms)
    tower = VisionTower(config)
    tower.load_state_dict(tower_state(first, "video"))
    with torch.inference_mode():
        embeddings = F.normalize(tower(torch.randn(4, 3, 32, 32)), dim=-1)
    assert (embeddings @ embeddings.T).fill_diagonal_(0).max() < 0.999  # different frames, different vectors
