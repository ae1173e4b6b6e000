"""The models by name: the network of each, and where its weights come from by default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import InputValueError, UnknownNameError

ACTIVATIONS = ("quick_gelu", "gelu")
POOLINGS = ("token", "mean", "attention")
INTERPOLATIONS = ("bicubic", "bilinear")
RESIZES = ("crop", "squash")


@dataclass(frozen=True)
class ImageConfig:
    """How a frame becomes the pixel values that a vision tower takes. The defaults are those of OpenAI's CLIP.

    Attributes:
        mean: subtracted from the red, green and blue values, which lie in 0 to 1.
        std: by which the differences are then divided.
        interpolation: ``'bicubic'`` or ``'bilinear'``, both with antialiasing.
        resize: ``'crop'`` resizes the short side to the resolution of the tower, and crops the square in the centre;
            ``'squash'`` resizes the whole frame to a square.
    """

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    resize: str = "crop"

    def __post_init__(self) -> None:
        _check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        _check_choice("resize", self.resize, RESIZES)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(-10 < value < 10 for value in values):
                raise InputValueError(f"{name} must be three numbers, one for each colour, not {values}")
        if not all(value > 0 for value in self.std):
            raise InputValueError(f"std must be positive, not {self.std}")


@dataclass(frozen=True)
class CLIPConfig:
    """A CLIP with a vision transformer. The defaults are those of OpenAI's ViT-B/32.

    Attributes:
        embed_dim: size of the vectors that both towers return.
        resolution: width and height of the images that the vision tower takes, in pixels.
        patch_size: width and height of a patch, in pixels.
        vision_width: size of the hidden states of the vision tower.
        vision_layers: number of transformer blocks of the vision tower.
        vision_head_width: channels of an attention head of the vision tower.
        vision_mlp_width: size of the hidden layer of each MLP of the vision tower; None for four times its width.
        context_length: the most token ids that the text tower takes, start and end token included.
        vocab_size: number of distinct token ids.
        text_width: size of the hidden states of the text tower.
        text_layers: number of transformer blocks of the text tower.
        text_head_width: channels of an attention head of the text tower.
        text_mlp_width: size of the hidden layer of each MLP of the text tower; None for four times its width.
        activation: of the MLPs: ``'quick_gelu'``, which is ``x * sigmoid(1.702 x)``, or ``'gelu'``, the exact one.
        norm_eps: epsilon of every LayerNorm of both towers.
        pooling: how the vision tower makes one embedding of its tokens: ``'token'`` takes the class token, ``'mean'``
            the mean of the patches, ``'attention'`` lets a trained query attend to all tokens (Perception Encoder,
            arXiv 2504.13181).
        pooling_heads: attention heads of the query of ``'attention'``.
        rotary: whether queries and keys of the vision tower are also rotated by the row and the column of their patch
            (arXiv 2504.13181).
        image: how frames become pixel values.

    Raises:
        InputValueError: a value is invalid, or two do not fit together.
    """

    embed_dim: int = 512
    resolution: int = 224
    patch_size: int = 32
    vision_width: int = 768
    vision_layers: int = 12
    vision_head_width: int = 64
    vision_mlp_width: int | None = None
    context_length: int = 77
    vocab_size: int = 49408
    text_width: int = 512
    text_layers: int = 12
    text_head_width: int = 64
    text_mlp_width: int | None = None
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5
    pooling: str = "token"
    pooling_heads: int = 8
    rotary: bool = False
    image: ImageConfig = field(default_factory=ImageConfig)

    def __post_init__(self) -> None:
        for tower in ("vision", "text"):
            if getattr(self, f"{tower}_mlp_width") is None:
                object.__setattr__(self, f"{tower}_mlp_width", 4 * getattr(self, f"{tower}_width"))
        for name, value in vars(self).items():
            if isinstance(value, int) and not isinstance(value, bool) and not 1 <= value <= MAX_SIZE:
                raise InputValueError(f"{name} must be a number from 1 to {MAX_SIZE:,}, not {value}")
        _check_choice("activation", self.activation, ACTIVATIONS)
        _check_choice("pooling", self.pooling, POOLINGS)
        if not 0 < self.norm_eps < 1:
            raise InputValueError(f"norm_eps must be a small positive number, not {self.norm_eps}")
        for tower in ("vision", "text"):
            width, head_width = getattr(self, f"{tower}_width"), getattr(self, f"{tower}_head_width")
            if width % head_width:
                raise InputValueError(f"{tower}_width {width} is not a multiple of {tower}_head_width {head_width}")
        if self.resolution % self.patch_size:
            raise InputValueError(f"resolution {self.resolution} is not a multiple of patch_size {self.patch_size}")
        if self.pooling == "attention" and self.vision_width % self.pooling_heads:
            raise InputValueError(
                f"vision_width {self.vision_width} is not a multiple of pooling_heads {self.pooling_heads}"
            )
        if self.rotary and self.vision_head_width % 4:
            raise InputValueError(
                f"vision_head_width must be a multiple of 4 for rotary positions, not {self.vision_head_width}"
            )


HEAD_WIDTH = 64  # until model.py and onnx_towers.py read it from the configuration
MAX_SIZE = 1_000_000  # of any size of a network


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputValueError(f"unknown {name} {value!r}; it must be one of {', '.join(choices)}")


def network_name(config: CLIPConfig) -> str:
    """Return a name for the network of a checkpoint that was loaded without the name of a model."""
    network = f"vit_{config.vision_width}x{config.vision_layers}_patch{config.patch_size}_{config.resolution}"
    return f"{network}_{config.activation}"


@dataclass(frozen=True)
class Model:
    """The network of a model, and where its weights come from by default.

    An empty string means that the model has no such source.

    Attributes:
        config: the network.
        hub: reference to a file on the Hugging Face hub, ``hf://owner/repo@revision/file``.
        local_file: name of the checkpoint in the operator's folder; it takes precedence over the hub.
        packaged_file: name of the checkpoint in the folder of this package; it takes precedence over the other two.
        aligned_with: name of the model whose vision tower this model has. Its own weights are those of another text
            tower, which was trained to return vectors of the same space.
    """

    config: CLIPConfig
    hub: str = ""
    local_file: str = ""
    packaged_file: str = ""
    aligned_with: str = ""

    @property
    def is_pinned(self) -> bool:
        """Whether the hub reference names a commit, so that its content is known."""
        return re.search(r"@[0-9a-f]{40}(/|$)", self.hub) is not None


_B32 = CLIPConfig()
_B16 = CLIPConfig(patch_size=16)
_L14 = CLIPConfig(embed_dim=768, patch_size=14, vision_width=1024, vision_layers=24, text_width=768)

MODELS: Mapping[str, Model] = {
    "clip_vit_b32": Model(
        _B32,
        hub="hf://timm/vit_base_patch32_clip_224.openai@ab5b8ef490e86faa07d3523926b842c765de1de5/open_clip_model.safetensors",
        local_file="pytorch_model.bin.1",
    ),
    "clip_vit_b16": Model(
        _B16,
        hub="hf://timm/vit_base_patch16_clip_224.openai@977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d/open_clip_model.safetensors",
    ),
    "clip_vit_l14": Model(_L14, hub="hf://timm/vit_large_patch14_clip_224.openai"),
    "clip_vit_l14_336": Model(replace(_L14, resolution=336), hub="hf://timm/vit_large_patch14_clip_336.openai"),
    "clip_vit_b32_laion2b": Model(replace(_B32, activation="gelu"), hub="hf://laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
    "clip_vit_b32_datacomp": Model(
        replace(_B32, activation="gelu"), hub="hf://laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K"
    ),
    "clip_vit_b16_datacomp": Model(
        replace(_B16, activation="gelu"), hub="hf://laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K"
    ),
    "clip_vit_l14_datacomp": Model(
        replace(_L14, activation="gelu"), hub="hf://laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K"
    ),
    "clip4clip_webvid150k": Model(
        _B32, hub="hf://Searchium-ai/clip4clip-webvid150k@3a366649eef93eaee3aec6ec322c080a83bddfcb"
    ),
    "pe_core_b16": Model(
        CLIPConfig(
            embed_dim=1024,
            patch_size=16,
            context_length=32,
            text_width=1024,
            text_layers=24,
            activation="gelu",
            pooling="attention",
            rotary=True,
            image=ImageConfig((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", "squash"),
        ),
        hub="hf://timm/PE-Core-B-16",
    ),
    "clip_vit_b32_multilingual": Model(
        _B32, hub="hf://sentence-transformers/clip-ViT-B-32-multilingual-v1", aligned_with="clip_vit_b32"
    ),
    "clip_vit_b32_mclip": Model(_B32, hub="hf://M-CLIP/XLM-Roberta-Large-Vit-B-32", aligned_with="clip_vit_b32"),
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


def image_model(name: str) -> str:
    """Return the name of the model whose vision tower a model has: its own name, for most.

    Raises:
        UnknownNameError: there is no such model.
    """
    return get_model(name).aligned_with or name


def is_text_tower(name: str | None) -> bool:
    """Return whether a model is only a text tower, made for the vectors of another model.

    Raises:
        UnknownNameError: there is no such model.
    """
    return name is not None and image_model(name) != name


def find_mismatches(facts: Mapping[str, Any], config: CLIPConfig) -> tuple[list[str], str]:
    """Compare what is known about a network with a configuration.

    Args:
        facts: values of some fields of :class:`CLIPConfig`.
        config: the configuration.

    Returns:
        One phrase for each value that differs; and a sentence that names a model that the values fit, or "".
    """
    expected = vars(config)
    mismatches = [
        f"{name} is {value}, not {expected[name]}" for name, value in facts.items() if value != expected[name]
    ]
    if not mismatches:
        return [], ""
    fitting = [name for name, model in MODELS.items() if facts.items() <= vars(model.config).items()]
    return mismatches, f" It fits model_name={fitting[0]!r}." if fitting else ""
