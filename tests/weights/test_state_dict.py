"""The network and the head that a state dict describes, the tensors that an encoder takes from it, and its errors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkpoints import FRAMES, State, embed
from PIL import Image
from safetensors.torch import save_file

from clip4clip import CheckpointError, TextEncoder, VideoEncoder
from clip4clip.config import MODELS, CLIPConfig, Model, get_config
from clip4clip.model import SequenceLSTM, SequenceTransformer, TextTower, VisionTower
from clip4clip.preprocess import pixel_values
from clip4clip.weights.identity import check_shape
from clip4clip.weights.state_dict import infer_config


def test_a_hugging_face_folder_gives_the_text_vectors_of_transformers(
    hugging_face_model: Any, hugging_face_folder: Path
) -> None:
    ids = torch.tensor([[49406, 320, 1929, 49407]])
    with torch.inference_mode():
        theirs = hugging_face_model.text_projection(hugging_face_model.text_model(input_ids=ids).pooler_output)
    ours = TextEncoder.load("tiny", hugging_face_folder, "cpu")("a dog")
    np.testing.assert_allclose(ours, F.normalize(theirs, dim=-1)[0], atol=1e-5)
    assert np.isfinite(embed(hugging_face_folder, "video")).all()


@torch.inference_mode()
def test_a_hugging_face_folder_gives_the_video_vectors_of_transformers(
    hugging_face_model: Any, hugging_face_folder: Path
) -> None:
    frames = np.random.default_rng(3).integers(0, 256, (4, 45, 60, 3), dtype=np.uint8)
    hidden = hugging_face_model.vision_model(
        pixel_values=torch.from_numpy(pixel_values(list(frames), 32))
    ).pooler_output
    theirs = F.normalize(hugging_face_model.visual_projection(hidden), dim=-1)
    ours = VideoEncoder.load("tiny", hugging_face_folder, "cpu")([frame[None] for frame in frames])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


# Settings of a CLIPModel beside its sizes -> how its images are processed.
HUGGING_FACE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "GELU": ({"hidden_act": "gelu", "layer_norm_eps": 1e-3}, {"size": {"height": 32, "width": 32}, "resample": 2}),
    "QuickGELU": ({"hidden_act": "quick_gelu"}, {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.2, 0.1]}),
}


@pytest.mark.parametrize("kind", HUGGING_FACE)
@torch.inference_mode()
def test_a_folder_of_transformers_loads_by_its_path_alone(kind: str, tmp_path: Path) -> None:
    import transformers

    settings, images = HUGGING_FACE[kind]
    text = {"hidden_size": 64, "intermediate_size": 100, "num_attention_heads": 4, "num_hidden_layers": 2}
    vision = {"hidden_size": 96, "intermediate_size": 150, "num_attention_heads": 3, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=text | settings,
        vision_config=vision | settings | {"image_size": 32, "patch_size": 8},
        projection_dim=48,
    )
    model = transformers.CLIPModel(config).eval()
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path)
    processor = transformers.CLIPImageProcessorPil(**{"size": {"shortest_edge": 32}, "crop_size": 32} | images)
    processor.save_pretrained(tmp_path)
    ids = torch.tensor([[49406, 320, 1929, 49407]])
    texts = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    np.testing.assert_allclose(TextEncoder.load(None, tmp_path, "cpu")(["a dog"]), F.normalize(texts), atol=1e-5)
    frames = list(np.random.default_rng(3).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8))
    pixels = processor([Image.fromarray(frame) for frame in frames], return_tensors="pt")["pixel_values"]
    embeddings = F.normalize(model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output))
    ours = VideoEncoder.load(None, tmp_path / "model.safetensors", "cpu")([frame[None] for frame in frames])
    np.testing.assert_allclose(ours, embeddings, atol=1e-5)


@pytest.mark.parametrize(
    ("modality", "part"), [("text", "CLIPTextModelWithProjection"), ("video", "CLIPVisionModelWithProjection")]
)
def test_a_hugging_face_checkpoint_of_one_tower_is_enough_for_that_tower(
    modality: str, part: str, hugging_face_folder: Path, tmp_path: Path
) -> None:
    import transformers

    getattr(transformers, part).from_pretrained(hugging_face_folder).save_pretrained(tmp_path)
    np.testing.assert_array_equal(embed(tmp_path, modality), embed(hugging_face_folder, modality))
    other = {"text": "video", "video": "text"}[modality]
    with pytest.raises(CheckpointError, match="lacks"):
        embed(tmp_path, other)


def test_position_ids_in_a_hugging_face_pickle_are_ignored(
    hugging_face_model: Any, hugging_face_folder: Path, tmp_path: Path
) -> None:
    state = dict(hugging_face_model.state_dict())
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    torch.save(state, tmp_path / "pytorch_model.bin")
    for modality in ("text", "video"):
        np.testing.assert_array_equal(embed(tmp_path, modality), embed(hugging_face_folder, modality))


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
def test_hugging_face_projections_that_cannot_be_stacked_are_refused(
    damage: State, hugging_face_model: Any, tmp_path: Path
) -> None:
    torch.save(dict(hugging_face_model.state_dict()) | damage, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"\.0\.(self_)?attn\.(in|q|k)_proj"):
        TextEncoder.load("tiny", tmp_path, "cpu")


def test_a_missing_hugging_face_projection_is_named(hugging_face_model: Any, tmp_path: Path) -> None:
    state = dict(hugging_face_model.state_dict())
    del state[KEY]
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match=r"lacks 1 of \d+ tensors: transformer\.resblocks\.0\.attn\.in_proj_weight"
    ):
        TextEncoder.load("tiny", tmp_path, "cpu")


def meta_state(config: CLIPConfig) -> State:
    """Return a state dict of a model whose tensors take no memory."""
    with torch.device("meta"):
        vision = {f"visual.{name}": value for name, value in VisionTower(config).state_dict().items()}
        return vision | TextTower(config).state_dict()


@pytest.mark.parametrize(("name", "other"), [("clip_vit_b32", "clip_vit_b16"), ("clip_vit_b16", "clip_vit_b32")])
def test_a_checkpoint_of_another_model_is_refused_and_that_model_is_named(name: str, other: str) -> None:
    config = get_config(name)
    check_shape(infer_config(meta_state(config)), config, name, Path("x.pt"))
    message = rf"x\.pt describes a different network than {name}: patch_size is .* It fits model_name='{other}'"
    with pytest.raises(CheckpointError, match=message):
        check_shape(infer_config(meta_state(get_config(other))), config, name, Path("x.pt"))


def test_the_text_encoder_refuses_a_checkpoint_with_a_different_vision_tower(tiny_state: State, tmp_path: Path) -> None:
    save_file(tiny_state | {"visual.conv1.weight": torch.zeros(128, 3, 8, 8)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="patch_size is 8, not 16"):
        TextEncoder.load("tiny", tmp_path, "cpu")


def test_missing_tensors_are_named(tiny_state: State, tmp_path: Path) -> None:
    missing = ("ln_final.bias", "transformer.resblocks.1.mlp.c_fc.weight")
    incomplete = {name: tensor for name, tensor in tiny_state.items() if name not in missing}
    save_file(incomplete, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks 2 of \d+ tensors: .*c_fc\.weight.*ln_final\.bias"):
        TextEncoder.load("tiny", tmp_path, "cpu")
    VideoEncoder.load("tiny", tmp_path, "cpu")  # lacks nothing


def test_tensors_of_the_wrong_shape_or_type_are_named(tiny_state: State, tmp_path: Path) -> None:
    wrong = {"ln_final.bias": torch.zeros(63), "ln_final.weight": torch.ones(64, dtype=torch.int32)}
    save_file(tiny_state | wrong, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"ln_final\.weight is \(64,\) torch\.int32.*ln_final\.bias is \(63,\)"):
        TextEncoder.load("tiny", tmp_path, "cpu")


@pytest.mark.parametrize("shape", [(), (0,), (0, 128), (1, 128), (6, 128)])
def test_positions_of_an_impossible_shape_are_refused(
    shape: tuple[int, ...], tiny_state: State, tmp_path: Path
) -> None:
    torch.save(tiny_state | {"visual.positional_embedding": torch.zeros(shape)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError):
        VideoEncoder.load("tiny", tmp_path / "a.pt", "cpu")


@pytest.mark.parametrize(
    ("modality", "name"), [("text", "transformer.resblocks.0.attn.bias_k"), ("video", "visual.ln_extra.weight")]
)
def test_tensors_that_the_network_of_a_tower_does_not_have_are_refused(
    modality: str, name: str, tiny_state: State, tmp_path: Path
) -> None:
    save_file(tiny_state | {name: torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"of another network: it has 1 tensors that this one does not: .*(bias_k|ln_e)"
    ):
        embed(tmp_path, modality)
    embed(tmp_path, {"text": "video", "video": "text"}[modality])


def test_tensors_of_no_tower_or_head_are_logged(
    tiny_state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    buffers = {"visual.position_ids": torch.arange(5), "attn_mask": torch.zeros(2, 2)}
    others = {"optimizer.step": torch.zeros(1), "logit_bias": torch.zeros(1)}
    torch.save(tiny_state | others | buffers, tmp_path / "a.pt")
    with caplog.at_level(logging.INFO, logger="clip4clip"):
        VideoEncoder.load("tiny", tmp_path / "a.pt", "cpu", "torch")
    assert "not used: logit_bias, optimizer.step" in caplog.text
    assert "token_embedding" not in caplog.text  # the other tower has a use for it
    assert [record for record in caplog.records if record.levelno > logging.INFO and "not used" in record.message] == []


def test_tensors_that_vectors_may_depend_on_are_warned_about(
    tiny_state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(tiny_state | {"prompt_learner.ctx": torch.zeros(4, 64)}, tmp_path / "a.pt")
    TextEncoder.load("tiny", tmp_path / "a.pt", "cpu", "torch")
    assert "tensors that no CLIP has, and that are not used: prompt_learner.ctx" in caplog.text


def random_head(kind: str) -> State:
    torch.manual_seed(1)
    if kind == "seqLSTM":
        return dict(SequenceLSTM(64).state_dict()) | {"frame_position_embeddings.weight": torch.randn(77, 64)}
    head = SequenceTransformer(64, 2, 77)
    return {name: 0.2 * torch.randn(tensor.shape) for name, tensor in head.state_dict().items()}


@pytest.mark.parametrize("kind", ["seqLSTM", "seqTransf"])
def test_a_sequential_head_is_recognised_and_applied(
    kind: str, tiny_state: State, expected_vectors: Callable, tmp_path: Path
) -> None:
    extra = random_head(kind)
    torch.save({f"clip.{name}": value for name, value in tiny_state.items()} | extra, tmp_path / "pytorch_model.bin.1")
    encoder = VideoEncoder.load("tiny", tmp_path, "cpu")
    head = SequenceLSTM(64) if kind == "seqLSTM" else SequenceTransformer(64, 2, 77)
    head.load_state_dict({name: extra[name] for name in head.state_dict()})
    with torch.inference_mode():
        frames = torch.from_numpy(encoder.model(pixel_values(FRAMES, 32)))
        pooled = F.normalize(head.pool(head(frames, None)), dim=-1).numpy()
    np.testing.assert_allclose(encoder(FRAMES), pooled, atol=1e-5)
    assert np.abs(encoder(FRAMES) - expected_vectors("video")).max() > 1e-3
    np.testing.assert_allclose(embed(tmp_path, "text"), expected_vectors("text"), atol=1e-6)


def test_more_frames_than_the_positions_of_a_transformer_head_are_refused(tiny_state: State, tmp_path: Path) -> None:
    torch.save(tiny_state | random_head("seqTransf"), tmp_path / "pytorch_model.bin")
    encoder = VideoEncoder.load("tiny", tmp_path, "cpu")
    frame = np.zeros((8, 8, 3), np.uint8)
    assert encoder([frame] * 77).shape == (64,)
    with pytest.raises(ValueError, match="more than 77 frames"):
        encoder(frame for _ in range(78))


@pytest.mark.parametrize("modality", ["text", "video"])
def test_a_tight_transformer_head_is_refused_with_the_reason(modality: str, tiny_state: State, tmp_path: Path) -> None:
    cross = {"cross.embeddings.word_embeddings.weight": torch.zeros(2, 2), "similarity_dense.weight": torch.zeros(1, 2)}
    torch.save({f"clip.{name}": value for name, value in tiny_state.items()} | cross, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"tightTransf.*a video has no vector of its own"):
        embed(tmp_path, modality)


def published_head(kind: str, width: int) -> State:
    """Return random tensors with the names and shapes that CLIP4Clip's training gives to a head."""
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


def pool_by_hand(kind: str, head: State, frames: torch.Tensor) -> torch.Tensor:
    """Compute the vector of a video from the embeddings of its frames, step by step as in section 3.3 of the paper."""
    if kind == "seqLSTM":
        hidden = cell = torch.zeros_like(frames[0])
        states = []
        for frame in frames:
            gates = head["lstm_visual.weight_ih_l0"] @ frame + head["lstm_visual.bias_ih_l0"]
            gates = gates + head["lstm_visual.weight_hh_l0"] @ hidden + head["lstm_visual.bias_hh_l0"]
            input_gate, forget_gate, candidate, output_gate = gates.chunk(4)
            cell = forget_gate.sigmoid() * cell + input_gate.sigmoid() * candidate.tanh()
            hidden = output_gate.sigmoid() * cell.tanh()
            states.append(hidden)
        x = torch.stack(states)
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
def test_a_head_computes_what_the_paper_describes(
    kind: str, random_state: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An embed_dim of 128 gives the transformer two attention heads.
    config = CLIPConfig(128, 32, 16, vision_width=64, vision_layers=1, vocab_size=49408, text_width=64, text_layers=1)
    monkeypatch.setitem(MODELS, "two heads", Model(config, hub="hf://owner/model"))
    head = published_head(kind, 128)
    path = tmp_path / "pytorch_model.bin.4"
    torch.save({f"clip.{name}": value for name, value in random_state(config).items()} | head, path)
    encoder = VideoEncoder.load("two heads", path, "cpu")
    embeddings = torch.from_numpy(encoder.model(pixel_values(FRAMES, 32)))
    np.testing.assert_allclose(encoder(FRAMES), pool_by_hand(kind, head, embeddings), atol=1e-5)


@pytest.mark.parametrize("shape", [{"num_layers": 2}, {"bidirectional": True}, {"proj_size": 32}])
def test_an_lstm_head_of_another_kind_is_refused(shape: dict, tiny_state: State, tmp_path: Path) -> None:
    lstm = torch.nn.LSTM(64, 64, **shape)
    torch.save(tiny_state | {f"lstm_visual.{name}": value for name, value in lstm.state_dict().items()}, tmp_path / "a")
    with pytest.raises(CheckpointError, match="lstm_visual"):
        VideoEncoder.load("tiny", tmp_path / "a", "cpu")


def test_a_transformer_head_without_layers_is_refused(tiny_state: State, tmp_path: Path) -> None:
    head = {"frame_position_embeddings.weight": torch.zeros(77, 64), "transformerClip.ln.weight": torch.zeros(64)}
    torch.save(tiny_state | head, tmp_path / "a")
    with pytest.raises(CheckpointError, match="transformerClip"):
        VideoEncoder.load("tiny", tmp_path / "a", "cpu")


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
def test_a_damaged_head_is_refused(kind: str, damage: dict, tiny_state: State, tmp_path: Path) -> None:
    state = tiny_state | random_head(kind) | damage
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "a.pt")
    if "transformerClip.strange" in damage:  # an unknown tensor does no harm
        VideoEncoder.load("tiny", tmp_path / "a.pt", "cpu")
    else:
        with pytest.raises(CheckpointError, match=next(iter(damage)).replace(".", r"\.")):
            VideoEncoder.load("tiny", tmp_path / "a.pt", "cpu")
