"""A folder that open_clip loads: its files, the names of the tensors, the code that loads it."""

from __future__ import annotations

from typing import Any

from ..config import CLIPConfig
from ..tokenizer import VOCAB_SIZE
from ..weights.families import to_timm_names
from ..weights.open_clip_configuration import PERCEPTION_ENCODERS
from .hugging_face import to_json, tokenizer_files
from .target import Target

WEIGHTS = "open_clip_model.safetensors"
CONFIGURATION = "open_clip_config.json"


def is_perception_encoder(config: CLIPConfig) -> bool:
    """Return whether open_clip takes the vision tower of a network from timm."""
    return config.rotary or config.pooling == "attention"


def find_obstacles(config: CLIPConfig) -> list[str]:
    """Return what a network has that open_clip has not, each as a phrase."""
    if not is_perception_encoder(config) or _timm_network(config):
        return []
    parts = ["rotary positions"] if config.rotary else []
    parts += ["attention pooling"] if config.pooling == "attention" else []
    sizes = f"{config.vision_width}x{config.vision_layers}, patch {config.patch_size}, {config.resolution} pixels"
    return [f"{' and '.join(parts)} in a network that is none of timm's vit_pe_core ({sizes})"]


def _timm_network(config: CLIPConfig) -> str | None:
    """Return timm's name of the vision tower of a Perception Encoder, or None if it has none like this."""
    hidden = (config.rotary, config.pooling, config.pooling_heads, config.activation, config.norm_eps)
    if hidden != (True, "attention", 8, "gelu", 1e-5) or config.vision_mlp_width != 4 * config.vision_width:
        return None
    heads = config.vision_width // config.vision_head_width
    sizes = (config.resolution, config.patch_size, config.vision_width, config.vision_layers, heads)
    return next((name for name, known in PERCEPTION_ENCODERS.items() if known == sizes), None)


def describe_model(config: CLIPConfig) -> dict[str, Any]:
    """Return the content of ``open_clip_config.json``."""
    text: dict[str, Any] = {
        "context_length": config.context_length,
        "vocab_size": config.vocab_size,
        "width": config.text_width,
        "heads": config.text_width // config.text_head_width,
        "layers": config.text_layers,
        **_mlp_and_norm(config.text_width, config.text_mlp_width, config.norm_eps),
    }
    if config.vocab_size != VOCAB_SIZE:  # open_clip's own tokenizer has CLIP's whole vocabulary
        text["hf_tokenizer_name"] = "."
    model: dict[str, Any] = {"embed_dim": config.embed_dim}
    if is_perception_encoder(config):
        model["vision_cfg"] = {
            "image_size": config.resolution,
            "timm_model_name": _timm_network(config),
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": None,
        }
        model |= {"text_cfg": text, "custom_text": True}
    else:
        model |= {"quick_gelu": config.activation == "quick_gelu", "vision_cfg": _vision(config), "text_cfg": text}
    image = config.image
    images = {
        "mean": list(image.mean),
        "std": list(image.std),
        "interpolation": image.interpolation,
        "resize_mode": "shortest" if image.resize == "crop" else "squash",
    }
    return {"model_cfg": model, "preprocess_cfg": images}


def _vision(config: CLIPConfig) -> dict[str, Any]:
    vision = {
        "image_size": config.resolution,
        "layers": config.vision_layers,
        "width": config.vision_width,
        "head_width": config.vision_head_width,
        "patch_size": config.patch_size,
        **_mlp_and_norm(config.vision_width, config.vision_mlp_width, config.norm_eps),
    }
    return vision | ({"pool_type": "avg"} if config.pooling == "mean" else {})


def _mlp_and_norm(width: int, mlp_width: int | None, norm_eps: float) -> dict[str, Any]:
    """Return the settings of a tower that differ from open_clip's defaults."""
    assert mlp_width is not None  # noqa: S101  CLIPConfig sets it
    settings: dict[str, Any] = {}
    if mlp_width != 4 * width:
        ratio = mlp_width / width
        settings["mlp_ratio"] = ratio if int(width * ratio) == mlp_width else (mlp_width + 0.5) / width
    if norm_eps != 1e-5:
        settings["norm_kwargs"] = {"eps": norm_eps}
    return settings


def configuration_files(config: CLIPConfig) -> dict[str, str]:
    """Return the name and the content of each file of the folder, but for the weights.

    Args:
        config: the network, one without obstacles.

    Raises:
        WeightsNotFoundError: the merges table of the tokenizer is missing.
    """
    files = {CONFIGURATION: to_json(describe_model(config))}
    return files | (tokenizer_files(config) if config.vocab_size != VOCAB_SIZE else {})


def loading_code(folder: str) -> str:
    """Return the Python code that loads the folder."""
    reference = f"local-dir:{folder}"
    return (
        "import open_clip\n"
        f"model, _, preprocess = open_clip.create_model_and_transforms({reference!r})\n"
        f"tokenizer = open_clip.get_tokenizer({reference!r})\n"
    )


TARGET = Target(
    WEIGHTS,
    find_obstacles,
    files=lambda config, _: configuration_files(config),
    rename=lambda config, tensors: to_timm_names(tensors) if is_perception_encoder(config) else tensors,
    code=loading_code,
)
