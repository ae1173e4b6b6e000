"""A folder that transformers loads as a ``CLIPModel``: its files, the names of the tensors, the code that loads it."""

from __future__ import annotations

import json
from typing import Any

from ..config import CLIPConfig
from ..model import INITIAL_LOGIT_SCALE
from ..tokenizer import END_TOKEN, START_TOKEN, read_vocabulary
from ..weights.families import to_hugging_face_names
from .target import Target

WEIGHTS = "model.safetensors"
_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers


def find_obstacles(config: CLIPConfig) -> list[str]:
    """Return what a network has that ``CLIPModel`` has not, each as a phrase."""
    obstacles = []
    if config.pooling != "token":
        obstacles.append(f"{config.pooling} pooling")
    if config.rotary:
        obstacles.append("rotary positions")
    return obstacles


def describe_model(config: CLIPConfig, dtype: str) -> dict[str, Any]:
    """Return the content of ``config.json``."""
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "logit_scale_init_value": INITIAL_LOGIT_SCALE,
        "dtype": dtype,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.context_length,
            "bos_token_id": config.vocab_size - 2,
            "eos_token_id": config.vocab_size - 1,
            "pad_token_id": config.vocab_size - 1,
            **_describe_tower(config, "text"),
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": config.resolution,
            "patch_size": config.patch_size,
            **_describe_tower(config, "vision"),
        },
    }


def _describe_tower(config: CLIPConfig, tower: str) -> dict[str, Any]:
    width = getattr(config, f"{tower}_width")
    return {
        "hidden_size": width,
        "intermediate_size": getattr(config, f"{tower}_mlp_width"),
        "num_hidden_layers": getattr(config, f"{tower}_layers"),
        "num_attention_heads": width // getattr(config, f"{tower}_head_width"),
        "projection_dim": config.embed_dim,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_eps,
    }


def describe_images(config: CLIPConfig) -> dict[str, Any]:
    """Return the content of ``preprocessor_config.json``."""
    side, image = config.resolution, config.image
    square = {"height": side, "width": side}
    is_cropped = image.resize == "crop"
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side} if is_cropped else square,
        "resample": _RESAMPLE[image.interpolation],
        "do_center_crop": is_cropped,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }


def tokenizer_files(config: CLIPConfig) -> dict[str, str]:
    """Return the name and the content of each file of CLIP's tokenizer.

    Raises:
        WeightsNotFoundError: the merges table is missing.
    """
    symbols, merges = read_vocabulary(config.vocab_size)
    special = {"bos_token": START_TOKEN, "eos_token": END_TOKEN, "unk_token": END_TOKEN, "pad_token": END_TOKEN}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "processor_class": "CLIPProcessor",
        "model_max_length": config.context_length,
        "do_lower_case": True,
        "errors": "replace",
    }
    return {
        "vocab.json": json.dumps({symbol: index for index, symbol in enumerate(symbols)}, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges),
        "tokenizer_config.json": to_json(settings | special),
        "special_tokens_map.json": to_json(special),
    }


def to_json(content: dict[str, Any]) -> str:
    """Return the content of a configuration file."""
    return json.dumps(content, indent=2) + "\n"


def configuration_files(config: CLIPConfig, dtype: str) -> dict[str, str]:
    """Return the name and the content of each file of the folder, but for the weights.

    Args:
        config: the network, one without obstacles.
        dtype: number format of the weights, such as ``'float32'``.

    Raises:
        WeightsNotFoundError: the merges table of the tokenizer is missing.
    """
    return {
        "config.json": to_json(describe_model(config, dtype)),
        "preprocessor_config.json": to_json(describe_images(config)),
        **tokenizer_files(config),
    }


def loading_code(folder: str) -> str:
    """Return the Python code that loads the folder."""
    return (
        "from transformers import CLIPModel, CLIPProcessor\n"
        f"model = CLIPModel.from_pretrained({folder!r})\n"
        f"processor = CLIPProcessor.from_pretrained({folder!r})\n"
    )


TARGET = Target(
    WEIGHTS,
    find_obstacles,
    configuration_files,
    rename=lambda _, tensors: to_hugging_face_names(tensors),
    code=loading_code,
)
