"""Networks, and the models by name: the network of each, where its weights come from, and how to register others."""

from __future__ import annotations

import difflib
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from .errors import InputTypeError, InputValueError, UnknownNameError, brief

ACTIVATIONS = ("quick_gelu", "gelu")
POOLINGS = ("token", "mean", "attention")
INTERPOLATIONS = ("bicubic", "bilinear")
RESIZES = ("crop", "squash")
HEADS = ("meanP", "seqLSTM", "seqTransf")


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
            try:
                numbers = tuple(map(float, values))
            except (TypeError, ValueError):
                numbers = ()
            if len(numbers) != 3 or not all(-10 < number < 10 for number in numbers):
                raise InputValueError(f"{name} must be three numbers, one for each colour, not {brief(values)}")
            object.__setattr__(self, name, numbers)  # equal ones must have the same fingerprint, and a hash
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
        InputTypeError: ``image`` has another type.
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
            kind = _KINDS.get(name, int)
            has_kind = type(value) is kind or (kind is float and type(value) is int)
            if not has_kind:
                raise InputTypeError(
                    f"{name} must be of the type {kind.__name__}, not {type(value).__name__}: {value!r}"
                )
            if kind is int and isinstance(value, int) and not 1 <= value <= MAX_SIZE:
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


MAX_SIZE = 1_000_000  # of any size of a network
# The fields of a configuration that are not whole numbers.
_KINDS = {"activation": str, "norm_eps": float, "pooling": str, "rotary": bool, "image": ImageConfig}


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

    An empty string means that the model has no such source. What is published about the models of this package is in
    :data:`clip4clip.model_facts.FACTS`.

    Attributes:
        config: the network; None to read it from the weights.
        hub: reference to a file on the Hugging Face hub, ``hf://owner/repo@revision/file``.
        local_file: name of the checkpoint in the operator's folder; it takes precedence over the hub.
        packaged_file: name of the checkpoint in the folder of this package; it takes precedence over the other two.
        is_trusted: whether the file on the hub is known to hold this network, so that nothing there need say so.
        weights: of a registered model: absolute path of a file or folder, or a reference to the hub.
        aligned_with: name of the model whose vision tower this model has. Its own weights are those of another text
            tower, which was trained to return vectors of the same space.
    """

    config: CLIPConfig | None
    hub: str = ""
    local_file: str = ""
    packaged_file: str = ""
    is_trusted: bool = False
    weights: str = ""
    aligned_with: str = ""

    @property
    def default_weights(self) -> str:
        """The weights of a registered model, the reference to the hub of others, or ""."""
        return self.weights or self.hub


_B32 = CLIPConfig()
_B16 = CLIPConfig(patch_size=16)
_L14 = CLIPConfig(embed_dim=768, patch_size=14, vision_width=1024, vision_layers=24, text_width=768)

# The models that come with this package. :func:`register_model` adds others.
MODELS: Mapping[str, Model] = {
    "clip_vit_b32": Model(
        _B32,
        hub="hf://timm/vit_base_patch32_clip_224.openai@ab5b8ef490e86faa07d3523926b842c765de1de5/open_clip_model.safetensors",
        local_file="pytorch_model.bin.1",
        is_trusted=True,
    ),
    "clip_vit_b16": Model(
        _B16,
        hub="hf://timm/vit_base_patch16_clip_224.openai@977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d/open_clip_model.safetensors",
        is_trusted=True,
    ),
    "clip_vit_l14": Model(
        _L14,
        hub="hf://timm/vit_large_patch14_clip_224.openai@18d0535469bb561bf468d76c1d73aa35156c922b/open_clip_model.safetensors",
    ),
    "clip_vit_l14_336": Model(
        replace(_L14, resolution=336),
        hub="hf://timm/vit_large_patch14_clip_336.openai@81e38efc4637de5023b10e75a7f9bd1c6fa6b010/open_clip_model.safetensors",
    ),
    "clip_vit_b32_laion2b": Model(
        replace(_B32, activation="gelu"),
        hub="hf://laion/CLIP-ViT-B-32-laion2B-s34B-b79K@1a25a446712ba5ee05982a381eed697ef9b435cf/open_clip_model.safetensors",
    ),
    "clip_vit_b32_datacomp": Model(
        replace(_B32, activation="gelu"),
        hub="hf://laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K@f0e2ffa09cbadab3db6a261ec1ec56407ce42912/open_clip_model.safetensors",
    ),
    "clip_vit_b16_datacomp": Model(
        replace(_B16, activation="gelu"),
        hub="hf://laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K@d110532e8d4ff91c574ee60a342323f28468b287/open_clip_pytorch_model.bin",
    ),
    "clip_vit_l14_datacomp": Model(
        replace(_L14, activation="gelu"),
        hub="hf://laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K@84c9828e63dc9a9351d1fe637c346d4c1c4db341/open_clip_pytorch_model.bin",
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
        hub="hf://timm/PE-Core-B-16@0038414f37721c5eafc1a5e0da802d291c909de3/open_clip_model.safetensors",
    ),
    # Sentences in other languages, for vectors of the videos that clip_vit_b32 returned.
    "clip_vit_b32_multilingual": Model(
        _B32,
        hub="hf://sentence-transformers/clip-ViT-B-32-multilingual-v1@58edf8cada9e398793dca955574a48cbb7f18be2",
        aligned_with="clip_vit_b32",
    ),
    "clip_vit_b32_mclip": Model(
        _B32,
        hub="hf://M-CLIP/XLM-Roberta-Large-Vit-B-32@85949a3ac1415027bdf7a5d0994bba8d992fe494",
        aligned_with="clip_vit_b32",
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

_BUILT_IN = frozenset(MODELS)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_registration = threading.Lock()


def get_model(name: str) -> Model:
    """Return the entry of :data:`MODELS` with this name.

    Raises:
        UnknownNameError: there is no such model; the message suggests similar names, and lists all.
    """
    if name not in MODELS:
        names = difflib.get_close_matches(re.sub(r"\W", "_", name.lower()), MODELS, n=2)
        question = f"did you mean {' or '.join(names)}? The" if names else "the"
        separator = ", " if names else "; "
        raise UnknownNameError(f"unknown model {name!r}{separator}{question} models are {', '.join(MODELS)}")
    return MODELS[name]


def get_config(name: str) -> CLIPConfig:
    """Return the network of a model.

    Raises:
        UnknownNameError: there is no such model, or it was registered without a network.
    """
    config = get_model(name).config
    if config is None:
        raise UnknownNameError(
            f"the network of {name!r} is known only from its weights: pass a config to clip4clip.register_model"
        )
    return config


def is_registered(name: str) -> bool:
    """Return whether a name was given by :func:`register_model`, so that another process may not know it."""
    return name in MODELS and name not in _BUILT_IN


def register_model(
    name: str,
    config: CLIPConfig | None = None,
    weights: str | os.PathLike[str] | None = None,
    *,
    aligned_with: str = "",
) -> None:
    """Give a model of your own a name, which then works wherever the name of a model does, in this process.

    An :class:`clip4clip.EncoderSpec` with this name takes the registration along into another process.

    Args:
        name: 1 to 64 letters, digits, ``_``, ``.`` and ``-``, which begin with a letter or digit.
        config: the network; None to read it from the weights, see docs/checkpoints.md.
        weights: the default checkpoint: a file, a folder, or ``hf://owner/repo[@revision][/file]``. It is looked for
            when the model is loaded. None if every use of the name passes weights.
        aligned_with: name of the model whose vectors of videos the sentences are compared with, if the weights are
            those of a text tower that was trained for the images of that model.

    Raises:
        InputTypeError: an argument has another type.
        InputValueError: the name is invalid, belongs to a model of this package, or was registered for something else;
            there is neither a network nor weights; or the model cannot be aligned with the other one.
        UnknownNameError: there is no model ``aligned_with``.
    """
    if not isinstance(name, str):
        raise InputTypeError(f"name must be a str, not {type(name).__name__}")
    if config is not None and not isinstance(config, CLIPConfig):
        raise InputTypeError(f"config must be a CLIPConfig or None, not {type(config).__name__}")
    if weights is not None and not isinstance(weights, str | os.PathLike):
        raise InputTypeError(f"weights must be a path, a hub reference or None, not {type(weights).__name__}")
    if config is None and weights is None:
        raise InputValueError(f"model {name!r} needs a config, or weights to read it from")
    if aligned_with:
        config = _aligned_config(config, aligned_with)
    add_model(name, Model(config, weights=_absolute(weights), aligned_with=aligned_with))


def _aligned_config(config: CLIPConfig | None, aligned_with: str) -> CLIPConfig | None:
    """Return the network of a text tower that is aligned with a model: by default, that of the model."""
    other = get_model(aligned_with)
    if other.aligned_with:
        raise InputValueError(
            f"aligned_with must name a model with a vision tower: {aligned_with!r} has that of {other.aligned_with!r}"
        )
    if config is None or other.config is None:
        return config or other.config
    if config.embed_dim != other.config.embed_dim:
        raise InputValueError(
            f"the vectors of {aligned_with!r} have {other.config.embed_dim} numbers, those of config "
            f"{config.embed_dim}: they cannot be compared"
        )
    return config


def _absolute(weights: str | os.PathLike[str] | None) -> str:
    """Return a reference to weights that means the same in another folder."""
    if weights is None:
        return ""
    reference = os.fspath(weights)
    if not reference:
        raise InputValueError("weights must not be an empty path")
    return reference if reference.startswith("hf://") else str(Path(os.path.expanduser(reference)).absolute())


def add_model(name: str, model: Model) -> None:
    """Add a registered model. The same model under the same name may be added again.

    Raises:
        InputValueError: the name is invalid or taken.
    """
    if _NAME.fullmatch(name) is None:
        raise InputValueError(
            f"invalid name of a model: {brief(name)}; expected 1 to 64 letters, digits, '_', '.' and '-'"
        )
    with _registration:
        if name in _BUILT_IN:
            raise InputValueError(f"{name!r} is a model of this package: register yours under another name")
        known = MODELS.get(name)
        if known is None:
            cast("dict[str, Model]", MODELS)[name] = model
        elif known != model:
            raise InputValueError(
                f"{name!r} is already registered for something else in this process: {known}. Use another name"
            )


def registered_models(name: str | None) -> dict[str, Model]:
    """Return what another process must add to know a model: nothing, unless the model is a registered one."""
    models: dict[str, Model] = {}
    while name and is_registered(name):
        models[name] = MODELS[name]
        name = MODELS[name].aligned_with
    return models


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
