"""Read the ``config.json`` and ``preprocessor_config.json`` of a Hugging Face CLIP as fields of CLIPConfig."""

from __future__ import annotations

import math
from typing import Any

from ..config import ImageConfig
from .json_section import Section, UnsupportedNetworkError

MODEL_TYPES = ("clip", "clip_text_model", "clip_vision_model")
IMAGE_PROCESSORS = ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor")

# transformers' defaults of the keys that are read below.
_TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "projection_dim": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
_VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
# Keys without effect on a vector: those of CLIP for training, and those that transformers gives to every model. Old
# versions wrote all of them, in each of the two towers again.
_HARMLESS: tuple[str, ...] = (
    *("attention_dropout", "dropout", "initializer_factor", "initializer_range", "logit_scale_init_value"),
    *("gradient_checkpointing", "_name_or_path", "_commit_hash", "_attn_implementation"),
    *("_attn_implementation_autoset", "attn_implementation", "architectures", "transformers_version"),
    *("model_type", "torch_dtype", "dtype", "torchscript", "use_bfloat16", "tf_legacy_loss", "return_dict"),
    *("use_return_dict", "use_cache", "output_attentions", "output_hidden_states", "output_scores"),
    *("return_dict_in_generate", "is_composition", "bos_token_id", "pad_token_id", "sep_token_id"),
    *("decoder_start_token_id", "tokenizer_class", "prefix", "transformers.js_config", "finetuning_task"),
    *("task_specific_params", "problem_type", "id2label", "label2id", "num_labels", "is_encoder_decoder"),
    *("is_decoder", "tie_word_embeddings", "tie_encoder_decoder", "cross_attention_hidden_size"),
    *("chunk_size_feed_forward", "max_length", "min_length", "do_sample", "early_stopping", "num_beams"),
    *("num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p"),
    *("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "num_return_sequences", "forced_bos_token_id", "forced_eos_token_id"),
    *("remove_invalid_values", "suppress_tokens", "begin_suppress_tokens", "exponential_decay_length_penalty"),
)
_NEUTRAL: dict[str, tuple[tuple, str]] = {
    "pruned_heads": (({},), "pruned attention heads are not supported"),
    "add_cross_attention": ((False,), "cross-attention is not supported"),
    "quantization_config": ((), "quantised weights are not supported; dequantise the model and save it again"),
    "auto_map": ((), "models with code of their own are not supported"),
}
_ACTIVATIONS = ("quick_gelu", "gelu")


def parse_hugging_face(content: Any) -> dict[str, Any] | None:
    """Return the fields of :class:`~clip4clip.config.CLIPConfig` that a ``config.json`` determines.

    Returns:
        The fields; None if it does not say that it belongs to a CLIP, as timm's ``config.json``.

    Raises:
        UnsupportedNetworkError: it describes a network that is not supported.
        ValueError: it is not such a configuration.
    """
    root = Section(content)
    model_type = root.text("model_type", "")
    if model_type not in MODEL_TYPES:
        if "clip" in model_type.lower():
            raise UnsupportedNetworkError(f"its model_type is {model_type[:60]!r}; supported: {', '.join(MODEL_TYPES)}")
        return None
    if model_type == "clip":
        return _parse_both(root)
    is_text = model_type == "clip_text_model"
    tower = Section({**(_TEXT_DEFAULTS if is_text else _VISION_DEFAULTS), **_without_nulls(root.values)})
    facts = _parse_text(tower) if is_text else _parse_vision(tower)
    return facts | {"embed_dim": tower.integer("projection_dim", 512)}


def _parse_both(root: Section) -> dict[str, Any]:
    text = _tower(root, "text_config", _TEXT_DEFAULTS)
    vision = _tower(root, "vision_config", _VISION_DEFAULTS)
    facts, vision_facts = _parse_text(text), _parse_vision(vision)
    for name, meaning in (("activation", "activation"), ("norm_eps", "LayerNorm epsilon")):
        if facts[name] != vision_facts[name]:
            raise UnsupportedNetworkError(
                f"its towers have a different {meaning}, {facts[name]} and {vision_facts[name]}"
            )
    facts |= vision_facts | {"embed_dim": root.integer("projection_dim", 512)}
    root.get("model_type")
    root.get("eos_token_id")  # that of the text tower counts
    root.check_others(_HARMLESS, _NEUTRAL)
    return facts


def _tower(root: Section, key: str, defaults: dict[str, Any]) -> Section:
    """Return the configuration of a tower with transformers' defaults.

    Old files have it twice. transformers completes ``text_config_dict`` by its defaults, and then prefers it.
    """
    values = defaults | (Section(root.get(key, {}), key).values)
    if (override := root.section(f"{key}_dict")) is not None:
        values |= defaults | override.values
    tower = Section({**defaults, **_without_nulls(values)}, key)
    expected = {"text_config": "clip_text_model", "vision_config": "clip_vision_model"}[key]
    if tower.text("model_type", expected) != expected:
        raise UnsupportedNetworkError(f"{tower.path('model_type')} is {tower.get('model_type')!r}, not {expected!r}")
    tower.get("projection_dim")  # that of the whole model counts
    return tower


def _without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _parse_layers(tower: Section, kind: str) -> dict[str, Any]:
    """Return the facts of a tower that both kinds have, ``'text'`` and ``'vision'``."""
    width, heads = tower.integer("hidden_size", 512), tower.integer("num_attention_heads", 8)
    activation = tower.text("hidden_act", "quick_gelu")
    if activation not in _ACTIVATIONS:
        raise UnsupportedNetworkError(
            f"{tower.path('hidden_act')} is {activation!r}; supported: {', '.join(_ACTIVATIONS)}"
        )
    if width % heads:
        raise ValueError(f"{tower.path('num_attention_heads')} does not divide the width {width}")
    facts = {
        f"{kind}_width": width,
        f"{kind}_layers": tower.integer("num_hidden_layers", 12),
        f"{kind}_head_width": width // heads,
        f"{kind}_mlp_width": tower.integer("intermediate_size", 4 * width),
        "activation": activation,
        "norm_eps": tower.number("layer_norm_eps", 1e-5),
    }
    tower.get("projection_dim")
    tower.check_others(_HARMLESS, _NEUTRAL)
    return facts


def _parse_text(tower: Section) -> dict[str, Any]:
    vocab_size, eos = tower.integer("vocab_size", 49408), tower.get("eos_token_id")
    # With 2, transformers takes the token with the highest id, otherwise the first one with this id.
    if isinstance(eos, bool) or eos not in (2, vocab_size - 1):
        raise UnsupportedNetworkError(
            f"{tower.path('eos_token_id')} is {eos!r}; supported: 2 and the highest id, {vocab_size - 1}"
        )
    facts = {"vocab_size": vocab_size, "context_length": tower.integer("max_position_embeddings", 77)}
    return facts | _parse_layers(tower, "text")


def _parse_vision(tower: Section) -> dict[str, Any]:
    tower.get("eos_token_id")  # some versions of transformers gave it to every configuration
    if tower.integer("num_channels", 3) != 3:
        raise UnsupportedNetworkError(f"{tower.path('num_channels')} is not 3")
    facts = {
        "resolution": tower.side("image_size", 224),
        "patch_size": tower.side("patch_size", 32),
        "pooling": "token",
        "rotary": False,
    }
    return facts | _parse_layers(tower, "vision")


_RESAMPLES = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_HARMLESS_IMAGE = (
    *("processor_class", "_processor_class", "_valid_processor_keys", "do_convert_rgb"),
    *("data_format", "input_data_format", "return_tensors", "device", "disable_grouping", "_name_or_path"),
)
_ALWAYS = "this step of CLIP's preprocessing cannot be left out"
_NEUTRAL_IMAGE: dict[str, tuple[tuple, str]] = {
    **dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), ((True,), _ALWAYS)),
    "do_pad": ((False,), "padded images are not supported"),
    **dict.fromkeys(("use_square_size", "default_to_square"), ((False,), "this old key is not supported")),
    "auto_map": ((), "image processors with code of their own are not supported"),
}


def is_image_processor_of_clip(content: Any) -> bool | None:
    """Return whether a ``preprocessor_config.json`` is that of a CLIP; None if it does not say whose it is."""
    section = Section(content)
    kind = section.get("image_processor_type") or section.get("feature_extractor_type")
    return None if kind is None else kind in IMAGE_PROCESSORS


def parse_image_processor(content: Any) -> dict[str, Any]:
    """Return the fields of :class:`~clip4clip.config.CLIPConfig` that a ``preprocessor_config.json`` determines.

    Raises:
        UnsupportedNetworkError: it describes images that are not supported.
        ValueError: it is not such a configuration.
    """
    root, default = Section(content), ImageConfig()
    kinds = [root.get("image_processor_type"), root.get("feature_extractor_type")]
    if foreign := [kind for kind in kinds if kind is not None and kind not in IMAGE_PROCESSORS]:
        raise UnsupportedNetworkError(
            f"it is of the kind {str(foreign[0])[:60]!r}; supported: {', '.join(IMAGE_PROCESSORS)}"
        )
    resample = root.integer("resample", 3)
    if resample not in _RESAMPLES:
        raise UnsupportedNetworkError(
            f"resample is {resample}; supported: 2, which is bilinear, and 3, which is bicubic"
        )
    if not math.isclose(root.number("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise UnsupportedNetworkError("rescale_factor is not 1/255")
    mean, std = root.colours("image_mean", default.mean), root.colours("image_std", default.std)
    resolution, resize = _parse_resize(root)
    root.check_others(_HARMLESS_IMAGE, _NEUTRAL_IMAGE)
    return {"resolution": resolution, "image": ImageConfig(mean, std, _RESAMPLES[resample], resize)}


def _parse_resize(root: Section) -> tuple[int, str]:
    """Return the resolution, and ``'crop'`` or ``'squash'``."""
    size, crop = _parse_size(root, "size"), _parse_size(root, "crop_size")
    cropped = root.flag("do_center_crop", True)
    if cropped and len(set(crop)) == 1 and set(size) in ({crop[0]}, {crop[0], None}):
        return int(crop[0]), "crop" if None in size else "squash"
    if not cropped and None not in size and len(set(size)) == 1:
        return int(size[0]), "squash"
    raise UnsupportedNetworkError("size and crop_size do not give a square that contains the whole short side")


def _parse_size(root: Section, key: str) -> tuple[Any, Any]:
    """Return height and width; the second is None for the length of the short side."""
    value = root.get(key, 224)
    if not isinstance(value, dict):
        side = root.side(key, 224)
        return (side, None) if key == "size" and not isinstance(value, list) else (side, side)
    sizes = Section(value, key)
    if "shortest_edge" in value:
        result: tuple[Any, Any] = sizes.integer("shortest_edge", 224), None
    else:
        result = sizes.integer("height", 0), sizes.integer("width", 0)
    sizes.check_others((), {})
    return result
