"""Every network against open_clip's and timm's own, with random weights that they have written.

These need torchvision, so these tests run with the extra ``peers``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peer_models import open_clip_model
from torch import Tensor

from clip4clip.config import MODELS, CLIPConfig
from clip4clip.model import TextTower, VisionTower
from clip4clip.weights.state_dict import tower_state

open_clip = pytest.importorskip("open_clip")
pytest.importorskip("torchvision")

SMALL = CLIPConfig(
    embed_dim=48,
    resolution=48,
    patch_size=16,
    vision_width=128,
    vision_layers=3,
    context_length=16,
    vocab_size=64,
    text_width=64,
    text_layers=2,
    activation="gelu",
)
SMALL_VISION = {"image_size": 48, "patch_size": 16, "width": 128, "layers": 3}
SMALL_TEXT = {"context_length": 16, "vocab_size": 64, "width": 64, "heads": 1, "layers": 2}
# What differs from these in a configuration of open_clip, and what that is in ours.
RULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "GELU": ({}, {}),
    "QuickGELU": ({"quick_gelu": True}, {"activation": "quick_gelu"}),
    "heads of the text tower": ({"text_cfg": {"heads": 4}}, {"text_head_width": 16}),
    "MLP of the text tower": ({"text_cfg": {"mlp_ratio": 2.5}}, {"text_mlp_width": 160}),
    # The ratios of ViT-g and ViT-bigG: an MLP is as wide as their product with the width, rounded down.
    "ViT-g": (
        {"vision_cfg": {"width": 176, "head_width": 88, "mlp_ratio": 4.3637}},
        {"vision_width": 176, "vision_head_width": 88, "vision_mlp_width": 768},
    ),
    "ViT-bigG": (
        {"vision_cfg": {"width": 208, "head_width": 104, "mlp_ratio": 4.9231}},
        {"vision_width": 208, "vision_head_width": 104, "vision_mlp_width": 1024},
    ),
    "mean pooling": ({"vision_cfg": {"pool_type": "avg"}}, {"pooling": "mean"}),
    "epsilon": (
        {"vision_cfg": {"norm_kwargs": {"eps": 0.1}}, "text_cfg": {"norm_kwargs": {"eps": 0.1}}},
        {"norm_eps": 0.1},
    ),
}
# Names of models, and of the same networks in open_clip.
REAL_SIZE = {
    "clip_vit_b32_laion2b": "ViT-B-32",
    "clip_vit_b16_datacomp": "ViT-B-16",
    "clip_vit_l14_datacomp": "ViT-L-14",
    "clip_vit_l14_336": "ViT-L-14-336-quickgelu",
    "pe_core_b16": "PE-Core-B-16",
}


def randomise(model: torch.nn.Module) -> None:
    """Change all parameters, so that none is 0 or 1 and no mix-up of tensors goes unnoticed."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in ("logit_scale", "visual.trunk.head.bias"):
                parameter.add_(0.1 * torch.randn(parameter.shape))


def assert_same_network(config: CLIPConfig, model: Any, count: int) -> None:
    """Compare the embeddings of as many captions and frames."""
    state = openai_names(model.state_dict())
    with torch.device("meta"):
        text, vision = TextTower(config), VisionTower(config)
    text.load_state_dict(tower_state(state, "text"), assign=True)
    vision.load_state_dict(tower_state(state, "video"), assign=True)
    ids = torch.randint(0, config.vocab_size - 1, (count, config.context_length))
    ids[range(count), torch.randint(3, config.context_length, (count,))] = config.vocab_size - 1  # the EOT token
    assert_same_vectors(text(ids), model.encode_text(ids))
    pixels = torch.randn(count, 3, config.resolution, config.resolution)
    assert_same_vectors(vision(pixels), model.encode_image(pixels))


def assert_same_vectors(ours: Tensor, theirs: Tensor) -> None:
    ours, theirs = F.normalize(ours, dim=-1), F.normalize(theirs, dim=-1)
    print(f"cosine {(ours * theirs).sum(-1).min():.8f}, difference {(ours - theirs).abs().max():.1e}")
    assert (ours * theirs).sum(-1).min() >= 0.99999
    assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("rule", RULES)
@torch.inference_mode()
def test_each_rule_of_a_network_is_that_of_open_clip(rule: str) -> None:
    theirs, ours = RULES[rule]
    model = open_clip.CLIP(
        SMALL.embed_dim,
        SMALL_VISION | theirs.get("vision_cfg", {}),
        SMALL_TEXT | theirs.get("text_cfg", {}),
        quick_gelu=theirs.get("quick_gelu", False),
    ).eval()
    randomise(model)
    assert_same_network(replace(SMALL, **ours), model, 4)


@torch.inference_mode()
def test_a_perception_encoder_is_that_of_timm() -> None:
    pe = {"vision_head_width": 32, "pooling": "attention", "pooling_heads": 4, "rotary": True, "patch_size": 8}
    config = replace(SMALL, **pe)
    model = open_clip_model(config)
    randomise(model)
    assert_same_network(config, model, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL_SIZE)
@torch.inference_mode()
def test_a_network_of_real_size_is_that_of_open_clip(name: str) -> None:
    model = open_clip.create_model(REAL_SIZE[name], pretrained=None).eval()
    assert_same_network(MODELS[name].config, model, 1)


def openai_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under OpenAI's names."""
    names = (
        ("visual.trunk.", "visual."), ("text.", ""), ("blocks.", "transformer.resblocks."), ("transformer.restransformer.resblocks.", "transformer.resblocks."),
        ("patch_embed.proj", "conv1"), ("norm_pre", "ln_pre"), ("attn_pool.latent", "attn_pool.probe"),
        ("attn_pool.norm", "attn_pool.layernorm"), (".norm1.", ".ln_1."), (".norm2.", ".ln_2."), ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"), ("attn_pool.proj", "attn_pool.attn.out_proj"), ("attn.proj", "attn.out_proj"),
        ("attn.qkv.", "attn.in_proj_"), ("visual.norm.", "visual.ln_post."),
    )
    if "visual.trunk.cls_token" not in state:
        return state
    renamed = {}
    for name, tensor in state.items():
        for theirs, ours in names:
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    renamed["visual.class_embedding"] = renamed.pop("visual.cls_token")[0, 0]
    renamed["visual.positional_embedding"] = renamed.pop("visual.pos_embed")[0]
    renamed["visual.proj"] = renamed.pop("visual.head.weight").T
    assert not renamed.pop("visual.head.bias").any()
    for kind in ("weight", "bias"):
        parts = [renamed.pop(f"visual.attn_pool.{part}.{kind}") for part in ("q", "kv")]
        renamed[f"visual.attn_pool.attn.in_proj_{kind}"] = torch.cat(parts)
    return renamed
