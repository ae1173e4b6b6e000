"""Find out what a checkpoint file says about its network by the names in it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import ImageConfig

HEAD_BYTES = 2**22  # read from the start of a checkpoint; they hold the names of its tensors

# The name of torch's GELU in the pickle of a TorchScript archive.
_GELU_MODULE = re.compile(rb"torch\.nn\.modules\.activation(\.___torch_mangle_\d+)?\nGELU\n")
# A buffer of OpenAI's archives.
_OPENAI_NAME = re.compile(rb"input_resolution")
# A tensor's name in a checkpoint of CLIP4Clip's training.
_CLIP4CLIP_NAME = re.compile(rb"\bclip\.(visual|transformer|token_embedding)\.")
# Other programs may have the same names by chance, so a network that only they state is warned about.
_ABOUT_PREFIX = "(clip.…, as CLIP4Clip's training writes them; saved without this prefix, they say nothing)"

# What the code of OpenAI and of CLIP4Clip computes, whatever the sizes.
OPENAI: dict[str, Any] = {
    "activation": "quick_gelu",
    "norm_eps": 1e-5,
    "vision_head_width": 64,
    "text_head_width": 64,
    "pooling": "token",
    "rotary": False,
    "image": ImageConfig(),
}
# What the Perception Encoder's code computes with attention pooling, which no other family of this package has.
_PERCEPTION_ENCODER: dict[str, Any] = {
    **OPENAI,
    "activation": "gelu",
    "pooling": "attention",
    "pooling_heads": 8,
    "rotary": True,
    "image": ImageConfig((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", "squash"),
}


@dataclass(frozen=True)
class Hints:
    """What the names in a file say.

    Attributes:
        source: what says it, for messages.
        facts: values of some fields of :class:`clip4clip.config.CLIPConfig`.
        is_certain: whether only one program gives these names.
    """

    source: str
    facts: Mapping[str, Any]
    is_certain: bool = True


def read_hints(file: Path, shape: Mapping[str, Any]) -> Hints:
    """Return what a checkpoint file says by the names in it.

    Checkpoints of CLIP4Clip's training, OpenAI's archive and the Perception Encoder were written by code that computes
    one network only. Other TorchScript archives with GELU refer to torch's class of that name.
    """
    name = f"the naming of the tensors in {file}"
    if shape.get("pooling") == "attention":
        return Hints(name, _PERCEPTION_ENCODER)
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                with archive.open(next(name for name in names if name.endswith("/data.pkl"))) as content:
                    head = content.read(HEAD_BYTES)
            if any(name.endswith("/constants.pkl") for name in names) and _GELU_MODULE.search(head):
                return Hints(name, {"activation": "gelu"})
        else:
            with file.open("rb") as content:
                head = content.read(HEAD_BYTES)
    except Exception:  # a damaged file is reported when its tensors are read
        return Hints(name, {})
    if _OPENAI_NAME.search(head):
        return Hints(name, OPENAI)
    if _CLIP4CLIP_NAME.search(head):
        return Hints(f"{name} {_ABOUT_PREFIX}", OPENAI, is_certain=False)
    return Hints(name, {})
