"""The tensors of every family get OpenAI's names; other networks, adapters and quantised weights are recognised."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import State
from constants import TINY
from safetensors.torch import save_file

from clip4clip import CheckpointError
from clip4clip.model import random_state_dict
from clip4clip.weights.checkpoint import read_state_dict
from clip4clip.weights.families import to_hugging_face_names, to_openai_names, to_timm_names
from clip4clip.weights.fingerprint import compute_fingerprint
from clip4clip.weights.state_dict import infer_config, tower_state

PERCEPTION_ENCODER = replace(TINY, activation="gelu", pooling="attention", rotary=True)


def assert_same_towers(ours: State, expected: State) -> None:
    for modality in ("text", "video"):
        state, reference = tower_state(ours, modality), tower_state(expected, modality)
        assert state.keys() == reference.keys()
        for name, tensor in reference.items():
            assert torch.equal(state[name], tensor), name
    assert compute_fingerprint(ours) == compute_fingerprint(expected)
    assert infer_config(ours) == infer_config(expected)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "base_model.model.", "clip.", "module.clip.", "model._orig_mod.module."],
)
def test_the_names_of_wrappers_are_removed_in_any_order(prefix: str, tiny_state: State) -> None:
    renamed = to_openai_names({f"{prefix}{name}": tensor for name, tensor in tiny_state.items()})
    assert list(renamed) == list(tiny_state)
    hugging_face = {f"{prefix}{name}": tensor for name, tensor in to_hugging_face_names(tiny_state).items()}
    assert_same_towers(to_openai_names(hugging_face), tiny_state)


def test_the_name_of_a_compiled_part_is_removed(tiny_state: State) -> None:
    compiled = {name.replace("visual.", "visual._orig_mod.", 1): tensor for name, tensor in tiny_state.items()}
    assert_same_towers(to_openai_names(compiled), tiny_state)


def test_only_wrapped_tensors_lose_the_name_of_the_wrapper(tiny_state: State) -> None:
    renamed = to_openai_names(
        {**{f"model.{name}": tensor for name, tensor in tiny_state.items()}, "loss.w": torch.ones(1)}
    )
    assert set(renamed) == {*tiny_state, "loss.w"}


@pytest.mark.parametrize("other", ["module.", "model."])
def test_two_models_in_one_file_are_refused(other: str, tiny_state: State) -> None:
    with pytest.raises(ValueError, match="it holds several models: two of its tensors are"):
        to_openai_names(tiny_state | {f"{other}{name}": tensor for name, tensor in tiny_state.items()})


def test_a_long_name_of_wrappers_is_removed_at_once() -> None:
    assert list(to_openai_names({"clip." * 2_000_000 + "x": torch.ones(1)})) == ["x"]


def test_open_clips_custom_text_tower_is_read(tiny_state: State) -> None:
    custom = {
        name if name.startswith(("visual.", "logit")) else f"text.{name}": tensor for name, tensor in tiny_state.items()
    }
    assert_same_towers(to_openai_names(custom), tiny_state)


def test_a_perception_encoder_with_timms_names_is_read() -> None:
    state = random_state_dict(PERCEPTION_ENCODER)
    for name, tensor in state.items():
        if name.endswith("bias"):
            tensor.normal_()
    theirs = to_timm_names(state)
    assert "visual.trunk.attn_pool.kv.weight" in theirs
    assert_same_towers(to_openai_names(theirs | {"visual.trunk.rope.pos_embed": torch.zeros(1)}), state)
    assert infer_config(to_openai_names(theirs))["pooling"] == "attention"
    with pytest.raises(ValueError, match=r"visual\.trunk\.head\.bias is not zero"):
        to_openai_names(theirs | {"visual.trunk.head.bias": torch.ones(64)})
    with pytest.raises(ValueError, match=r"tensors of an unknown network: visual\.trunk\.extra"):
        to_openai_names(theirs | {"visual.trunk.extra": torch.ones(64)})


OTHER_NETWORKS = {
    "visual.layer1.0.conv1.weight": "a ResNet",
    "visual.attnpool.positional_embedding": "a ResNet",
    "visual.blocks.0.attn.q_proj.weight": "an EVA-CLIP",
    "visual.trunk.blocks.0.attn.q_bias": "an EVA-CLIP",
    "visual.trunk.stem.0.weight": "a ConvNeXt",
    "visual.trunk.blocks.0.norm1.weight": "such as a SigLIP's",
    "vision_model.head.probe": "a SigLIP",
    "text.text_projection.bias": "a SigLIP",
    "visual_projection.bias": "whose projections have a bias",
    "text_decoder.cross_attn.0.ln_1.weight": "a CoCa",
    "visual.attn_pool.query": "a CoCa",
    "text.transformer.embeddings.word_embeddings.weight": "a text tower of transformers",
    "text_model.encoder.layer.0.attention.self.query.weight": "a text tower like BERT",
    "visual.transformer.resblocks.0.ls_1.gamma": "layer scale",
    "vision_model.prompts": "tensors of an unknown network",
}


@pytest.mark.parametrize("name", OTHER_NETWORKS)
def test_another_network_is_refused_by_its_kind(name: str, tiny_state: State, tmp_path: Path) -> None:
    save_file(tiny_state | {name: torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=rf"a\.safetensors cannot be loaded: .*{OTHER_NETWORKS[name]}"):
        read_state_dict(tmp_path / "a.safetensors")


LORA = "base_model.model.text_model.encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "names",
    [
        [f"{LORA}.lora_A.weight", f"{LORA}.lora_B.weight"],
        [f"{LORA}.base_layer.weight"],
        [f"{LORA}.lora_A.default.weight"],
        ["visual.transformer.resblocks.0.attn.lora_A"],
        ["base_model.model.visual_projection.modules_to_save.default.weight"],
    ],
)
def test_adapters_that_are_not_merged_are_refused_with_what_to_do(names: list[str], tmp_path: Path) -> None:
    save_file({name: torch.ones(1) for name in names}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"it holds adapters \(LoRA\).*merge_and_unload\(\) of peft"):
        read_state_dict(tmp_path / "adapter_model.safetensors")


@pytest.mark.parametrize(
    "tensors",
    [
        {"visual.proj": torch.ones(128, 64).to(torch.float8_e4m3fn)},
        {"ln_final.weight": torch.ones(64, dtype=torch.int8)},
        {"visual.conv1.weight": torch.ones(128, 3, 16, 16, dtype=torch.uint8)},
        {"transformer.resblocks.0.mlp.c_fc.SCB": torch.ones(256)},
        {"transformer.resblocks.0.mlp.c_fc.weight_scale": torch.ones(256)},
    ],
    ids=["float8", "int8", "uint8", "bitsandbytes", "scales"],
)
def test_quantised_weights_are_refused_with_what_to_do(tensors: State, tiny_state: State, tmp_path: Path) -> None:
    save_file(tiny_state | tensors, tmp_path / "a.safetensors")
    with pytest.raises(
        CheckpointError, match=r"its weights are quantised: .*Save them in float32, float16 or bfloat16"
    ):
        read_state_dict(tmp_path / "a.safetensors")


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
def test_a_state_dict_under_a_usual_key_is_read(key: str, tiny_state: State, tmp_path: Path) -> None:
    content = {"epoch": 3, key: {f"model.{name}": tensor for name, tensor in tiny_state.items()}, "optimizer": {"a": 1}}
    torch.save(content, tmp_path / "a.ckpt")
    assert_same_towers(read_state_dict(tmp_path / "a.ckpt"), tiny_state)
