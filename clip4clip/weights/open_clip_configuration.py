"""Read an ``open_clip_config.json``: what open_clip computes with it, as fields of CLIPConfig."""

from __future__ import annotations

from typing import Any

from ..config import ImageConfig
from .json_section import Section, UnsupportedNetworkError

# Keys without effect on a vector: for training, for the loss, or for what is returned beside the vector.
_HARMLESS_MODEL = (
    "custom_text",
    "init_logit_scale",
    "init_logit_bias",
    "nonscalar_logit_scale",
    "output_dict",
    "cast_dtype",
)
_HARMLESS_VISION = (
    "patch_dropout",
    "output_tokens",
    "pos_embed_type",
    "attn_pooler_queries",
    "attn_pooler_heads",
    "n_queries",
    "timm_model_pretrained",
    "timm_drop",
    "timm_drop_path",
)
_HARMLESS_TEXT = (
    "output_tokens",
    "pad_id",
    "hf_model_pretrained",
    "hf_proj_type",
    "hf_pooler_type",
    "final_ln_after_pool",
)
_NORMS = "its blocks have further normalisations or scales, which are not supported"
# For other keys, the values that change nothing, and what others would mean.
_NEUTRAL_BLOCKS: dict[str, tuple[tuple, str]] = {
    "ls_init_value": ((), "layer scale is not supported"),
    "block_type": (("default",), "blocks of other types are not supported"),
    **dict.fromkeys(("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner"), ((False,), _NORMS)),
    **dict.fromkeys(("scale_attn", "scale_fc"), ((False,), _NORMS)),
}
_NEUTRAL_VISION: dict[str, tuple[tuple, str]] = {
    **_NEUTRAL_BLOCKS,
    "attentional_pool": ((False,), "the attentional pooling of CoCa is not supported"),
    "no_ln_pre": ((False,), "a vision transformer without its first LayerNorm (CLIPA) is not supported"),
    "input_patchnorm": ((False,), "LayerNorm of the patches is not supported"),
    "global_average_pool": ((False,), "this key of old versions of open_clip is not supported"),
    "timm_pool": (("avg",), "it has no meaning without timm_model_name"),
    "timm_proj": (("linear",), "it has no meaning without timm_model_name"),
    "timm_proj_bias": ((False,), "a projection with a bias is not supported"),
}
_NEUTRAL_TEXT: dict[str, tuple[tuple, str]] = {
    **_NEUTRAL_BLOCKS,
    "hf_model_name": ((), "text towers of transformers are not supported in open_clip's checkpoints"),
    "hf_tokenizer_name": ((), "tokenizers other than CLIP's own are not supported"),
    "tokenizer_mode": ((), "tokenizers other than CLIP's own are not supported"),
    "embed_cls": ((False,), "a class token in the text tower (CoCa) is not supported"),
    "no_causal_mask": ((False,), "text towers without a causal mask are not supported"),
    "proj_bias": ((False,), "a text projection with a bias is not supported"),
    "proj_type": (("linear",), "text projections of other kinds are not supported"),
}
# The networks of timm that open_clip uses for the Perception Encoder (arXiv 2504.13181): resolution, patch, width,
# layers and heads of each, as timm defines them.
PERCEPTION_ENCODERS = {
    "vit_pe_core_tiny_patch16_384": (384, 16, 192, 12, 3),
    "vit_pe_core_small_patch16_384": (384, 16, 384, 12, 6),
    "vit_pe_core_base_patch16_224": (224, 16, 768, 12, 12),
    "vit_pe_core_large_patch14_336": (336, 14, 1024, 24, 16),
}
_RESIZES = {"shortest": "crop", "squash": "squash"}


def parse_open_clip(content: Any) -> dict[str, Any]:
    """Return the fields of :class:`~clip4clip.config.CLIPConfig` that an ``open_clip_config.json`` determines.

    What it leaves out has open_clip's defaults. A file that is one of open_clip's own model configurations, without
    ``model_cfg``, does not determine the images: open_clip keeps these with its list of weights.

    Raises:
        UnsupportedNetworkError: it describes a network or images that are not supported.
        ValueError: it is not such a configuration.
    """
    root = Section(content)
    model = root.section("model_cfg")
    if model is None:
        if not {"vision_cfg", "text_cfg"} <= root.values.keys():
            raise ValueError("it has no model_cfg")
        return _parse_model(root)
    image = root.section("preprocess_cfg") or Section({}, "preprocess_cfg")
    root.check_others((), {})
    return _parse_model(model) | {"image": _parse_image(image)}


def _parse_model(model: Section) -> dict[str, Any]:
    if model.get("multimodal_cfg") is not None:
        raise UnsupportedNetworkError(f"{model.path('multimodal_cfg')} is set: CoCa is not supported")
    facts: dict[str, Any] = {"activation": "quick_gelu" if model.flag("quick_gelu", False) else "gelu"}
    if model.get("embed_dim") is not None:
        facts["embed_dim"] = model.integer("embed_dim", 512)
    eps = []
    if (vision := model.section("vision_cfg")) is not None:
        eps.append(_parse_vision(vision, facts))
    if (text := model.section("text_cfg")) is not None:
        eps.append(_parse_text(text, facts))
    model.check_others(_HARMLESS_MODEL, {})
    if len(set(eps)) > 1:
        raise UnsupportedNetworkError(f"its towers have a different LayerNorm epsilon, {eps[0]} and {eps[1]}")
    return facts | ({"norm_eps": eps[0]} if eps else {})


def _parse_vision(vision: Section, facts: dict[str, Any]) -> float:
    """Add the facts of the vision tower, and return its LayerNorm epsilon."""
    if isinstance(vision.get("layers"), list):
        raise UnsupportedNetworkError(f"{vision.path('layers')} is a list: ResNets are not supported")
    if vision.get("timm_model_name") is not None:
        return _parse_perception_encoder(vision, facts)
    width, head_width = vision.integer("width", 768), vision.integer("head_width", 64)
    pool = vision.text("pool_type", "tok")
    if pool not in ("tok", "avg"):
        raise UnsupportedNetworkError(f"{vision.path('pool_type')} is {pool!r}: only 'tok' and 'avg' are supported")
    if vision.flag("final_ln_after_pool", False) and pool == "avg":
        raise UnsupportedNetworkError(f"{vision.path('final_ln_after_pool')} is true: with 'avg' it is not supported")
    facts |= {
        "resolution": vision.side("image_size", 224),
        "patch_size": vision.side("patch_size", 16),
        "vision_width": width,
        "vision_layers": vision.integer("layers", 12),
        "vision_head_width": _divide(vision, "head_width", width, max(width // head_width, 1)),
        "vision_mlp_width": int(width * vision.number("mlp_ratio", 4.0)),
        "pooling": "token" if pool == "tok" else "mean",
        "rotary": False,
    }
    eps = _parse_layers(vision)
    vision.check_others(_HARMLESS_VISION, _NEUTRAL_VISION)
    return eps


def _parse_perception_encoder(vision: Section, facts: dict[str, Any]) -> float:
    """Add the facts of a vision tower of timm, if it is one of the Perception Encoder."""
    name = vision.text("timm_model_name", "")
    if name not in PERCEPTION_ENCODERS:
        raise UnsupportedNetworkError(
            f"{vision.path('timm_model_name')} is {name!r}: of timm's networks, only {', '.join(PERCEPTION_ENCODERS)} "
            "are supported"
        )
    if vision.text("timm_pool", "avg") != "map" or vision.text("timm_proj", "none") != "none":
        raise UnsupportedNetworkError("a Perception Encoder must have the timm_pool 'map' and no timm_proj")
    if facts["activation"] != "gelu":
        raise UnsupportedNetworkError(
            "quick_gelu is true: timm's vision towers have GELU all the same, so the two differ"
        )
    resolution, patch_size, width, layers, heads = PERCEPTION_ENCODERS[name]
    facts |= {
        "resolution": vision.side("image_size", resolution),
        "patch_size": patch_size,
        "vision_width": width,
        "vision_layers": layers,
        "vision_head_width": width // heads,
        "vision_mlp_width": 4 * width,
        "pooling": "attention",
        "pooling_heads": 8,
        "rotary": True,
    }
    if facts["resolution"] != resolution:
        raise UnsupportedNetworkError(
            f"{vision.path('image_size')} is {facts['resolution']}, but {name} has {resolution}"
        )
    # open_clip ignores the sizes that may stand here.
    vision.check_others(
        (*_HARMLESS_VISION, "patch_size", "width", "layers", "head_width", "mlp_ratio"),
        {"timm_proj_bias": ((False,), "")},
    )
    return 1e-5


def _parse_text(text: Section, facts: dict[str, Any]) -> float:
    """Add the facts of the text tower, and return its LayerNorm epsilon."""
    width, vocab_size = text.integer("width", 512), text.integer("vocab_size", 49408)
    pool = text.text("pool_type", "argmax")
    # 'eos' takes the first token with the given id. That of CLIP's tokenizer is the highest, so it is the same token.
    if pool != "argmax" and (pool != "eos" or text.get("eos_id", 2) != vocab_size - 1):
        raise UnsupportedNetworkError(f"{text.path('pool_type')} is {pool!r}: only 'argmax' is supported")
    text.get("eos_id")
    facts |= {
        "context_length": text.integer("context_length", 77),
        "vocab_size": vocab_size,
        "text_width": width,
        "text_layers": text.integer("layers", 12),
        "text_head_width": _divide(text, "heads", width, text.integer("heads", 8)),
        "text_mlp_width": int(width * text.number("mlp_ratio", 4.0)),
    }
    # What `clip4clip export` writes for a part of CLIP's vocabulary. Only with our metadata is such a part accepted.
    if vocab_size != 49408 and text.values.get("hf_tokenizer_name") == ".":
        text.get("hf_tokenizer_name")
    tokenizer = text.section("tokenizer_kwargs") or Section({})
    tokenizer.check_others(
        (), {"clean": (("lower",), "only 'lower' is supported"), "reduction_mask": (("",), "only '' is supported")}
    )
    eps = _parse_layers(text)
    text.check_others(_HARMLESS_TEXT, _NEUTRAL_TEXT)
    return eps


def _parse_layers(tower: Section) -> float:
    """Check the arguments of activations and LayerNorms, and return the epsilon of the latter."""
    activation = tower.section("act_kwargs") or Section({}, tower.path("act_kwargs"))
    activation.check_others((), {"approximate": (("none",), "approximations of GELU are not supported")})
    norm = tower.section("norm_kwargs") or Section({}, tower.path("norm_kwargs"))
    eps = norm.number("eps", 1e-5)
    norm.check_others((), {"elementwise_affine": ((True,), "LayerNorm without weights is not supported")})
    return eps


def _divide(tower: Section, key: str, width: int, heads: int) -> int:
    """Return the channels of an attention head."""
    if width % heads:
        raise ValueError(f"{tower.path(key)} does not divide the width {width} into heads of the same size")
    return width // heads


def _parse_image(preprocess: Section) -> ImageConfig:
    default = ImageConfig()
    resize = preprocess.text("resize_mode", "shortest")
    if resize not in _RESIZES:
        raise UnsupportedNetworkError(
            f"{preprocess.path('resize_mode')} is {resize!r}; supported: {', '.join(_RESIZES)}"
        )
    interpolation = preprocess.text("interpolation", "bicubic")
    if interpolation == "random":  # while training; otherwise open_clip takes bicubic
        interpolation = "bicubic"
    if interpolation not in ("bicubic", "bilinear"):
        raise UnsupportedNetworkError(
            f"{preprocess.path('interpolation')} is {interpolation!r}; supported: bicubic, bilinear"
        )
    mean, std = preprocess.colours("mean", default.mean), preprocess.colours("std", default.std)
    # open_clip takes the size from the network.
    preprocess.check_others(("size", "fill_color"), {"mode": (("RGB",), "only RGB is supported")})
    return ImageConfig(mean, std, interpolation, _RESIZES[resize])
