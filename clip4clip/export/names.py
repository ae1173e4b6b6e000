"""The names that other libraries give to the tensors of a CLIP: the inverse of what reading a checkpoint does."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..weights.state_dict import VISION_PREFIX

# Beginnings of OpenAI's names, and then parts of them, with Hugging Face's. The longer of two beginnings comes first.
_HUGGING_FACE_BEGINNINGS = {
    "token_embedding.": "text_model.embeddings.token_embedding.",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.": "text_model.final_layer_norm.",
    "transformer.resblocks.": "text_model.encoder.layers.",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.": "vision_model.embeddings.patch_embedding.",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",  # spelled so
    "visual.ln_post.": "vision_model.post_layernorm.",
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
}
_HUGGING_FACE_PARTS = {
    ".attn.": ".self_attn.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}
_TIMM_PARTS = {
    "conv1.": "patch_embed.proj.",
    "ln_pre.": "norm_pre.",
    "ln_post.": "norm.",
    "transformer.resblocks.": "blocks.",
    ".ln_1.": ".norm1.",
    ".ln_2.": ".norm2.",
    ".attn.in_proj_": ".attn.qkv.",
    ".attn.out_proj.": ".attn.proj.",
    "attn_pool.attn.proj.": "attn_pool.proj.",
    "attn_pool.probe": "attn_pool.latent",
    "attn_pool.layernorm.": "attn_pool.norm.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}
_IN_PROJECTION = re.compile(r"(.*\.)in_proj_(weight|bias)")


def to_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a CLIP, under OpenAI's names, under those of Hugging Face's ``CLIPModel``."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "text_projection":
            renamed["text_projection.weight"] = tensor.T
        elif name == "visual.proj":
            renamed["visual_projection.weight"] = tensor.T
        elif match := _IN_PROJECTION.fullmatch(name):
            prefix, kind = match.groups()
            for part, projection in zip("qkv", tensor.chunk(3), strict=True):
                renamed[_hugging_face_name(f"{prefix}{part}_proj.{kind}")] = projection
        else:
            renamed[_hugging_face_name(name)] = tensor
    return renamed


def _hugging_face_name(name: str) -> str:
    for ours, theirs in _HUGGING_FACE_BEGINNINGS.items():
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    return _replace(name, _HUGGING_FACE_PARTS)


def to_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a Perception Encoder, under OpenAI's names, under those of open_clip with timm."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "logit_scale":
            renamed[name] = tensor
        elif name.startswith(VISION_PREFIX):
            vision = _timm_tensors(name.removeprefix(VISION_PREFIX), tensor)
            renamed |= {f"visual.trunk.{theirs}": value for theirs, value in vision.items()}
        else:
            renamed[f"text.{name}"] = tensor
    return renamed


def _timm_tensors(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return what a tensor of the vision tower is in timm's network: one tensor, or two."""
    match name:
        case "class_embedding":
            return {"cls_token": tensor[None, None]}
        case "positional_embedding":
            return {"pos_embed": tensor[None]}
        case "proj":  # timm's projection has a bias
            return {"head.weight": tensor.T, "head.bias": torch.zeros(tensor.shape[1])}
        case "attn_pool.attn.in_proj_weight" | "attn_pool.attn.in_proj_bias":
            kind, width = name.rpartition("_")[2], len(tensor) // 3
            return {f"attn_pool.q.{kind}": tensor[:width], f"attn_pool.kv.{kind}": tensor[width:]}
    return {_replace(name, _TIMM_PARTS): tensor}


def _replace(name: str, parts: Mapping[str, str]) -> str:
    for ours, theirs in parts.items():
        name = name.replace(ours, theirs)
    return name
