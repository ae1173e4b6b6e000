"""The names of tensors in the checkpoints of each family, and the names that OpenAI gave to the same tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# Modules that wrap a model in training frameworks. Their names come before those of the model, in any order.
_WRAPPERS = re.compile(r"((module|model|base_model|clip)\.)+")
# Modules that such a framework may also put around a part of the model.
_INNER_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

# A part of Hugging Face's names -> the part of OpenAI's, in the order of their replacement. Projections are not among
# them: neither the two of the towers nor those of queries, keys and values.
HUGGING_FACE_NAMES = {
    "text_model.embeddings.token_embedding.": "token_embedding.",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.": "ln_final.",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.": "visual.conv1.",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",
    "vision_model.post_layernorm.": "visual.ln_post.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    ".self_attn.": ".attn.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}
# The projections, which are also transposed: Hugging Face's name -> OpenAI's.
_HUGGING_FACE_PROJECTIONS = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
# The same as HUGGING_FACE_NAMES for a Perception Encoder whose vision tower is timm's, as in open_clip.
TIMM_NAMES = {
    "visual.trunk.cls_token": "visual.class_embedding",
    "visual.trunk.pos_embed": "visual.positional_embedding",
    "visual.trunk.patch_embed.proj.": "visual.conv1.",
    "visual.trunk.norm_pre.": "visual.ln_pre.",
    "visual.trunk.norm.": "visual.ln_post.",
    "visual.trunk.blocks.": "visual.transformer.resblocks.",
    "visual.trunk.attn_pool.latent": "visual.attn_pool.probe",
    "visual.trunk.attn_pool.norm.": "visual.attn_pool.layernorm.",
    "visual.trunk.attn_pool.q.": "visual.attn_pool.attn.q_proj.",
    "visual.trunk.attn_pool.kv.": "visual.attn_pool.attn.kv_proj.",
    "visual.trunk.attn_pool.proj.": "visual.attn_pool.attn.out_proj.",
    "visual.trunk.attn_pool.mlp.": "visual.attn_pool.mlp.",
    "visual.trunk.head.weight": "visual.proj",
    ".attn.qkv.": ".attn.in_proj_",
    ".attn.proj.": ".attn.out_proj.",
    ".norm1.": ".ln_1.",
    ".norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}
_IN_PROJECTION = re.compile(r"(.*\.attn\.)in_proj_(weight|bias)")

# Names that only other networks have -> what these are.
_OTHER_NETWORKS = {
    r"visual\.(layer1|attnpool)\.": "a ResNet",
    r"visual\.(blocks|patch_embed)\.|.*\.attn\.q_bias$": "an EVA-CLIP",
    r"visual\.trunk\.(stem|stages|downsample)": "a ConvNeXt or another network of timm with convolutions",
    r"text_decoder\.|visual\.attn_pool\.query$|(text\.)?cls_emb$": "a CoCa",
    r"(text|vision)_model\.head\.|text\.text_projection\.": "a SigLIP or another CLIP whose projections have a bias",
    r"(text|visual)_projection\.bias$": "a CLIP whose projections have a bias",
    r"text\.(transformer\.(embeddings|encoder|shared|embed_tokens)|proj)\.": "a CLIP with a text tower of transformers",
    r"text_model\.(encoder\.layer|embeddings\.word_embeddings|roberta)\.|bert\.": "a CLIP with a text tower like BERT",
    r".*\.(ls_?[12]\.gamma|gamma_[12])$": "a transformer with layer scale",
}
_ADAPTER = re.compile(r"(^|\.)(lora_\w+|base_layer|modules_to_save|ia3_\w+|hada_\w+|oft_\w+|vera_\w+)(\.|$)")
_QUANTISED = re.compile(r".*\.(SCB|absmax|quant_map|quant_state\.\S+|weight_scale|scale_weight|qweight|qzeros)$")
_INTEGERS = (torch.int8, torch.uint8)
# Buffers that only repeat what the network computes: positions from 0 on, the causal mask, and timm's rotations.
_BUFFERS = re.compile(r".*\b(position_ids|attn_mask)$|visual\.trunk\.rope\..*")


def to_openai_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a CLIP of any supported family under OpenAI's names.

    Separate projections of queries, keys and values keep names of their own (``….attn.q_proj.weight``):
    :func:`clip4clip.weights.state_dict.tower_state` stacks those that are needed.

    Raises:
        ValueError: two tensors have the same name without the names of wrappers; or the tensors are those of a network
            that is not supported, of adapters, or quantised. The message says which.
    """
    tensors = {name: tensor for name, tensor in _unwrap(tensors).items() if not _BUFFERS.fullmatch(name)}
    _check_kind(tensors)
    if any(name.startswith(("text_model.", "vision_model.")) for name in tensors):
        tensors = _from_hugging_face(tensors)
    elif any(name.startswith("visual.trunk.") for name in tensors):
        tensors = _from_timm(tensors)
    tensors = _add_names(tensors, {name: name.removeprefix("text.") for name in tensors})
    if unknown := [name for name in tensors if name.startswith(("text_model.", "vision_model.", "visual.trunk."))]:
        raise ValueError(f"it holds tensors of an unknown network: {shorten(unknown)}")
    return tensors


def to_hugging_face_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a CLIP, under OpenAI's names, under those of Hugging Face's ``CLIPModel``."""
    parts, projections = _invert(HUGGING_FACE_NAMES), _invert(_HUGGING_FACE_PROJECTIONS)
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in projections:
            renamed[projections[name]] = tensor.T
        elif match := _IN_PROJECTION.fullmatch(name):
            prefix, kind = match.groups()
            for part, projection in zip("qkv", tensor.chunk(3), strict=True):
                renamed[_replace_parts(f"{prefix}{part}_proj.{kind}", parts)] = projection
        else:
            renamed[_replace_parts(name, parts)] = tensor
    return renamed


def to_timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a Perception Encoder, under OpenAI's names, under those of open_clip with timm."""
    parts = _invert(TIMM_NAMES)
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith("visual."):
            renamed[name if name == "logit_scale" else f"text.{name}"] = tensor
            continue
        if name.startswith("visual.attn_pool.attn.in_proj_"):
            kind, width = name.removeprefix("visual.attn_pool.attn.in_proj_"), len(tensor) // 3
            renamed[f"visual.trunk.attn_pool.q.{kind}"] = tensor[:width]
            renamed[f"visual.trunk.attn_pool.kv.{kind}"] = tensor[width:]
            continue
        if name == "visual.class_embedding":
            tensor = tensor[None, None]
        elif name == "visual.positional_embedding":
            tensor = tensor[None]
        elif name == "visual.proj":  # to which timm adds a bias
            tensor = tensor.T
            renamed["visual.trunk.head.bias"] = torch.zeros(len(tensor))
        renamed[_replace_parts(name, parts)] = tensor
    return renamed


def _invert(names: Mapping[str, str]) -> dict[str, str]:
    """Return OpenAI's parts of names with those that replace them; of two that overlap, the longer one is first."""
    return {ours: theirs for theirs, ours in sorted(names.items(), key=lambda pair: -len(pair[1]))}


def _unwrap(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the names of modules that wrap the model or a part of it."""
    names = {}
    for name in tensors:
        inner = _INNER_WRAPPERS.sub("", name)
        wrappers = _WRAPPERS.match(inner)
        names[name] = inner[wrappers.end() :] if wrappers else inner
    return _add_names(tensors, names)


def _add_names(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors under other names, of which no two may be the same."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if names[name] in renamed:
            raise ValueError(f"it holds several models: two of its tensors are {names[name]}, one of them as {name}")
        renamed[names[name]] = tensor
    return renamed


def _check_kind(tensors: Mapping[str, Tensor]) -> None:
    """Reject adapters, quantised weights, and networks that are not supported."""
    if adapters := [name for name in tensors if _ADAPTER.search(name)]:
        raise ValueError(
            f"it holds adapters (LoRA) beside the weights, or without them: {shorten(adapters)}. Merge them into the "
            "model with merge_and_unload() of peft, and save that model"
        )
    quantised = [
        f"{name} ({str(tensor.dtype).removeprefix('torch.')})"
        for name, tensor in tensors.items()
        if "float8" in str(tensor.dtype)
        or _QUANTISED.fullmatch(name)
        or (tensor.dtype in _INTEGERS and name.endswith(("weight", "bias")))
    ]
    if quantised:
        raise ValueError(
            f"its weights are quantised: {shorten(quantised)}. Save them in float32, float16 or bfloat16; "
            "for fast vectors on a CPU, this package has --precision int8"
        )
    for pattern, kind in _OTHER_NETWORKS.items():
        if found := next((name for name in tensors if re.match(pattern, name)), None):
            raise ValueError(f"it is {kind}, which is not supported; one of its tensors is {found}")


def _from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of Hugging Face's ``CLIPModel`` under OpenAI's names."""
    names, renamed = {}, dict(tensors)
    for name, tensor in tensors.items():
        if name in _HUGGING_FACE_PROJECTIONS:
            names[name] = _HUGGING_FACE_PROJECTIONS[name]
            renamed[name] = tensor.T
        else:
            names[name] = _replace_parts(name, HUGGING_FACE_NAMES)
    return _add_names(renamed, names)


def _replace_parts(name: str, parts: Mapping[str, str]) -> str:
    for part, replacement in parts.items():
        name = name.replace(part, replacement)
    return name


def _from_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of open_clip's Perception Encoder, whose vision tower is timm's, under OpenAI's names."""
    if (
        not {"visual.trunk.norm_pre.weight", "visual.trunk.attn_pool.latent", "visual.trunk.cls_token"}
        <= tensors.keys()
    ):
        raise ValueError(
            "its vision tower is one of timm's that is not supported, such as a SigLIP's. Of timm's networks, only the "
            "Perception Encoder with a class token is"
        )
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "visual.trunk.head.bias":
            if torch.count_nonzero(tensor):
                raise ValueError(f"{name} is not zero, and projections with a bias are not supported")
            continue
        ours = _replace_parts(name, TIMM_NAMES) if name.startswith("visual.trunk.") else name
        if name == "visual.trunk.cls_token" and tensor.ndim == 3:
            tensor = tensor[0, 0]
        elif name == "visual.trunk.pos_embed" and tensor.ndim == 3:
            tensor = tensor[0]
        elif name == "visual.trunk.head.weight":
            tensor = tensor.T
        elif ".attn_pool.kv." in name and tensor.ndim:
            for part, half in zip("kv", tensor.chunk(2), strict=False):
                renamed[ours.replace("kv_proj", f"{part}_proj")] = half
            continue
        renamed[ours] = tensor
    return renamed


def shorten(items: Iterable[str], count: int = 5) -> str:
    """Return the first items as text, and how many more there are."""
    listed = list(items)
    return ", ".join(listed[:count]) + (f" and {len(listed) - count} more" if len(listed) > count else "")
