"""The models by name: the shape of each, and where its weights come from when none are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from .errors import UnknownNameError

HEAD_WIDTH = 64  # of every attention head in every CLIP


@dataclass(frozen=True)
class CLIPConfig:
    """Shape of a CLIP with a vision transformer. The defaults are ViT-B/32."""

    embed_dim: int = 512
    resolution: int = 224
    patch_size: int = 32
    vision_width: int = 768
    vision_layers: int = 12
    context_length: int = 77
    vocab_size: int = 49408
    text_width: int = 512
    text_layers: int = 12


@dataclass(frozen=True)
class Model:
    """What belongs to a model name: its shape, and where its weights come from when none are given."""

    config: CLIPConfig
    hub: str = ""
    beside: str = ""  # in the operator's folder
    packaged: str = ""  # in this package


MODELS: Mapping[str, Model] = {
    "clip_vit_b32": Model(
        CLIPConfig(patch_size=32),
        hub="hf://timm/vit_base_patch32_clip_224.openai@ab5b8ef490e86faa07d3523926b842c765de1de5/open_clip_model.safetensors",
        beside="pytorch_model.bin.1",
    ),
    "clip_vit_b16": Model(
        CLIPConfig(patch_size=16),
        hub="hf://timm/vit_base_patch16_clip_224.openai@977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d/open_clip_model.safetensors",
    ),
    # Trained on drawings, by docs/demo_model.md: to try things out and for tests, not for real footage.
    "clip_vit_tiny_demo": Model(
        CLIPConfig(
            embed_dim=128,
            resolution=64,
            patch_size=16,
            vision_width=192,
            vision_layers=4,
            context_length=48,
            vocab_size=8192,
            text_width=128,
            text_layers=3,
        ),
        packaged="clip_vit_tiny_demo.safetensors",
    ),
}


def get_model(name: str) -> Model:
    """The entry of :data:`MODELS`; UnknownNameError lists the names when there is none."""
    if name not in MODELS:
        raise UnknownNameError(f"unknown model {name!r}; the models are {', '.join(MODELS)}")
    return MODELS[name]


def find_mismatches(found: Mapping[str, int], model_name: str) -> tuple[list[str], str]:
    """Return what contradicts a model in the sizes found, and a hint to the model that they fit.

    Args:
        found: fields of :class:`CLIPConfig`, as many as are known.
        model_name: key of :data:`MODELS`.
    """
    expected = asdict(get_model(model_name).config)
    wrong = [f"{name} is {value}, not {expected[name]}" for name, value in found.items() if value != expected[name]]
    fits = [name for name, model in MODELS.items() if wrong and found.items() <= asdict(model.config).items()]
    return wrong, f" It fits model_name={fits[0]!r}." if fits else ""
