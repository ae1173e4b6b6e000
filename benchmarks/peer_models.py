"""The networks of other libraries, in the shape of a configuration and with this project's tensors.

Needs torch only, beside the library that a function names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from clip4clip.config import CLIPConfig

State = dict[str, Tensor]  # under OpenAI's names

PE_NAME = "vit_pe_core_base_patch16_224"  # timm's vision tower of the Perception Encoder; arguments change its sizes


# towhee.models


def towhee_model(config: CLIPConfig) -> Any:
    """Return the model of the published code, untrained, in the shape of a configuration."""
    from towhee.models import clip4clip

    return clip4clip.CLIP4Clip(
        embed_dim=config.embed_dim,
        image_resolution=config.resolution,
        vision_layers=config.vision_layers,
        vision_width=config.vision_width,
        vision_patch_size=config.patch_size,
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        transformer_width=config.text_width,
        transformer_heads=config.text_width // config.text_head_width,
        transformer_layers=config.text_layers,
    ).eval()


def has_towhee_network(config: CLIPConfig) -> bool:
    """Return whether towhee.models has the network: OpenAI's with 64 channels for each head."""
    return (
        has_transformers_network(config)
        and config.activation == "quick_gelu"
        and config.vision_head_width == config.text_head_width == 64
        and config.vision_mlp_width == 4 * config.vision_width
        and config.text_mlp_width == 4 * config.text_width
        and config.norm_eps == 1e-5
    )


# open_clip


def open_clip_model(config: CLIPConfig) -> Any:
    """Return open_clip's own model, untrained, in the shape of a configuration."""
    import open_clip
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    norm = {"eps": config.norm_eps}
    text = CLIPTextCfg(
        width=config.text_width,
        heads=config.text_width // config.text_head_width,
        layers=config.text_layers,
        mlp_ratio=config.text_mlp_width / config.text_width,
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        norm_kwargs=norm,
    )
    if config.pooling == "attention":
        vision = CLIPVisionCfg(image_size=224, timm_model_name=PE_NAME, timm_pool="map", timm_proj="")
        model = open_clip.CustomTextCLIP(config.embed_dim, vision, text)
        model.visual.trunk = timm_tower(config)
        return model.eval()
    vision = CLIPVisionCfg(
        layers=config.vision_layers,
        width=config.vision_width,
        head_width=config.vision_head_width,
        mlp_ratio=config.vision_mlp_width / config.vision_width,
        patch_size=config.patch_size,
        image_size=config.resolution,
        pool_type="tok" if config.pooling == "token" else "avg",
        norm_kwargs=norm,
    )
    return open_clip.CLIP(config.embed_dim, vision, text, quick_gelu=config.activation == "quick_gelu").eval()


def timm_tower(config: CLIPConfig) -> Any:
    """Return timm's vision tower of the Perception Encoder, untrained, in the shape of a configuration."""
    import timm
    from timm.layers import LayerNorm

    side = config.resolution // config.patch_size
    ratio = config.vision_mlp_width / config.vision_width
    return timm.create_model(
        PE_NAME,
        img_size=config.resolution,
        patch_size=config.patch_size,
        embed_dim=config.vision_width,
        depth=config.vision_layers,
        num_heads=config.vision_width // config.vision_head_width,
        mlp_ratio=ratio,
        ref_feat_shape=(side, side),
        attn_pool_num_heads=config.pooling_heads,
        attn_pool_mlp_ratio=4.0,
        norm_layer=partial(LayerNorm, eps=config.norm_eps),
        num_classes=config.embed_dim,
    )


def open_clip_state(config: CLIPConfig, state: State) -> State:
    """Return the tensors of a state dict under the names of :func:`open_clip_model`."""
    if config.pooling != "attention":
        return state
    tensors: State = {"logit_scale": state["logit_scale"], "visual.trunk.head.bias": torch.zeros(config.embed_dim)}
    for name, tensor in state.items():
        if name.startswith("visual."):
            tensors |= {f"visual.trunk.{key}": value for key, value in _timm_tensors(name[7:], tensor).items()}
        elif name != "logit_scale":
            tensors[f"text.{name}"] = tensor
    return tensors


_TIMM_NAMES = (
    ("transformer.resblocks.", "blocks."),
    ("conv1.", "patch_embed.proj."),
    ("ln_pre.", "norm_pre."),
    ("ln_post.", "norm."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm2."),
    (".in_proj_", ".qkv."),
    (".out_proj.", ".proj."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    ("attn_pool.attn.", "attn_pool."),
    ("attn_pool.probe", "attn_pool.latent"),
    ("attn_pool.layernorm.", "attn_pool.norm."),
)


def _timm_tensors(name: str, tensor: Tensor) -> State:
    """Return one tensor of a vision tower under timm's name, or two if timm splits it."""
    match name:
        case "class_embedding":
            return {"cls_token": tensor[None, None]}
        case "positional_embedding":
            return {"pos_embed": tensor[None]}
        case "proj":
            return {"head.weight": tensor.T.contiguous()}
    for ours, theirs in _TIMM_NAMES:
        name = name.replace(ours, theirs)
    if not name.startswith("attn_pool.qkv."):
        return {name: tensor}
    width = len(tensor) // 3
    return {name.replace("qkv", "q"): tensor[:width], name.replace("qkv", "kv"): tensor[width:]}


# transformers


def has_transformers_network(config: CLIPConfig) -> bool:
    """Return whether transformers' CLIPModel has the network."""
    return config.pooling == "token" and not config.rotary


def hugging_face_config(config: CLIPConfig) -> Any:
    """Return transformers' configuration for the shape of a configuration."""
    from transformers import CLIPConfig as HuggingFaceConfig

    def tower(name: str) -> dict[str, Any]:
        width, layers, head_width, mlp_width = (
            getattr(config, f"{name}_{key}") for key in ("width", "layers", "head_width", "mlp_width")
        )
        return {
            "hidden_size": width,
            "intermediate_size": mlp_width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // head_width,
            "projection_dim": config.embed_dim,
            "hidden_act": config.activation,
            "layer_norm_eps": config.norm_eps,
        }

    text = {
        "max_position_embeddings": config.context_length,
        "vocab_size": config.vocab_size,
        "bos_token_id": config.vocab_size - 2,
        "eos_token_id": config.vocab_size - 1,
    }
    return HuggingFaceConfig(
        text_config=tower("text") | text,
        vision_config=tower("vision") | {"image_size": config.resolution, "patch_size": config.patch_size},
        projection_dim=config.embed_dim,
    )


def hugging_face_model(config: CLIPConfig, state: State) -> Any:
    """Return transformers' CLIP with the tensors of a state dict; only the two projections are copies."""
    from transformers import CLIPModel

    with torch.device("meta"):
        model = CLIPModel(hugging_face_config(config))
    tensors = {
        "logit_scale": state["logit_scale"],
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.embeddings.position_ids": torch.arange(config.context_length)[None],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(len(state["visual.positional_embedding"]))[None],
    }
    parts = {
        "ln_final": "text_model.final_layer_norm",
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
    }
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    names |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for prefix, tower, layers in (("", "text", config.text_layers), ("visual.", "vision", config.vision_layers)):
        for number in range(layers):
            block, layer = f"{prefix}transformer.resblocks.{number}", f"{tower}_model.encoder.layers.{number}"
            parts |= {f"{block}.{source}": f"{layer}.{target}" for source, target in names.items()}
            for kind in ("weight", "bias"):
                for letter, third in zip("qkv", state[f"{block}.attn.in_proj_{kind}"].chunk(3), strict=True):
                    tensors[f"{layer}.self_attn.{letter}_proj.{kind}"] = third
    for source, target in parts.items():
        tensors |= {f"{target}.{kind}": state[f"{source}.{kind}"] for kind in ("weight", "bias")}
    for name in ("text_model", "vision_model"):  # buffers that are not part of a state dict
        getattr(model, name).embeddings.position_ids = tensors.pop(f"{name}.embeddings.position_ids")
    model.load_state_dict(tensors, assign=True)
    return model.eval()


class FunctionModule(nn.Module):
    """A module that calls a function with a model and the inputs, for torch's exporter."""

    def __init__(self, model: nn.Module, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.model, inputs)


def hugging_face_towers(model: Any) -> tuple[FunctionModule, FunctionModule]:
    """Return modules for token ids to embeddings, and for pixel values to embeddings."""
    return (
        FunctionModule(model, lambda m, ids: m.text_projection(m.text_model(input_ids=ids).pooler_output)),
        FunctionModule(model, lambda m, pixels: m.visual_projection(m.vision_model(pixel_values=pixels).pooler_output)),
    )
