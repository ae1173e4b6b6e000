"""The models by name: the shape of each network, and where its weights come from by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from .errors import UnknownNameError

HEAD_WIDTH = 64  # channels of an attention head, the same in every CLIP


@dataclass(frozen=True)
class CLIPConfig:
    """The shape of a CLIP with a vision transformer. The defaults are those of ViT-B/32.

    Attributes:
        embed_dim: size of the vectors that both towers return.
        resolution: width and height of the images that the vision tower takes, in pixels.
        patch_size: width and height of a patch, in pixels.
        vision_width: size of the hidden states of the vision tower.
        vision_layers: number of transformer blocks of the vision tower.
        context_length: the most token ids that the text tower takes, start and end token included.
        vocab_size: number of distinct token ids.
        text_width: size of the hidden states of the text tower.
        text_layers: number of transformer blocks of the text tower.
    """

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
    """The shape of a model, and where its weights come from by default.

    An empty string means that the model has no such source.

    Attributes:
        config: shape of the network.
        hub: reference to a file on the Hugging Face hub, ``hf://owner/repo@revision/file``.
        local_file: name of the checkpoint in the operator's folder; it takes precedence over the hub.
        packaged_file: name of the checkpoint in the folder of this package; it takes precedence over the other two.
    """

    config: CLIPConfig
    hub: str = ""
    local_file: str = ""
    packaged_file: str = ""


MODELS: Mapping[str, Model] = {
    "clip_vit_b32": Model(
        CLIPConfig(patch_size=32),
        hub="hf://timm/vit_base_patch32_clip_224.openai@ab5b8ef490e86faa07d3523926b842c765de1de5/open_clip_model.safetensors",
        local_file="pytorch_model.bin.1",
    ),
    "clip_vit_b16": Model(
        CLIPConfig(patch_size=16),
        hub="hf://timm/vit_base_patch16_clip_224.openai@977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d/open_clip_model.safetensors",
    ),
    # For trials and tests, not for real footage: it was trained on drawings (docs/demo_model.md).
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
        packaged_file="clip_vit_tiny_demo.safetensors",
    ),
}
DEFAULT_MODEL = "clip_vit_b32"


def get_model(name: str) -> Model:
    """Return the entry of :data:`MODELS` with this name.

    Raises:
        UnknownNameError: there is no such model; the message lists the names.
    """
    if name not in MODELS:
        raise UnknownNameError(f"unknown model {name!r}; the models are {', '.join(MODELS)}")
    return MODELS[name]


def find_mismatches(sizes: Mapping[str, int], model_name: str) -> tuple[list[str], str]:
    """Compare the sizes of a network with those of a model.

    Args:
        sizes: values of some fields of :class:`CLIPConfig`.
        model_name: key of :data:`MODELS`.

    Returns:
        One phrase for each size that differs; and a sentence that names the model that the sizes fit, or "".

    Raises:
        UnknownNameError: there is no such model.
    """
    expected = asdict(get_model(model_name).config)
    mismatches = [f"{name} is {size}, not {expected[name]}" for name, size in sizes.items() if size != expected[name]]
    if not mismatches:
        return [], ""
    fitting = [name for name, model in MODELS.items() if sizes.items() <= asdict(model.config).items()]
    return mismatches, f" It fits model_name={fitting[0]!r}." if fitting else ""
