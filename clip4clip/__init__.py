"""Find videos by describing them: CLIP4Clip (arXiv 2104.08860) embeds text and video in one vector space.

>>> from clip4clip import TextEncoder
>>> vector = TextEncoder.load()("kids feeding and playing with the horse")  # float32, (512,), of length 1

After ``import clip4clip`` Towhee knows the operators ``ops.video_text_embedding.clip4clip``,
``ops.video_decode.ffmpeg``, ``ops.ann_insert.milvus_client`` and ``ops.ann_search.milvus_client``.
``clip4clip.clip4clip`` is the factory of the first.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from wrapt import register_post_import_hook

from .errors import (
    CacheError,
    CheckpointError,
    Clip4clipError,
    DeviceError,
    ExportError,
    FilterError,
    IndexUnavailableError,
    InputTypeError,
    InputValueError,
    InstallError,
    LibraryError,
    MissingExtraError,
    ModelMismatchError,
    PairsError,
    TrainingError,
    UnknownNameError,
    VideoError,
    VideoIndexError,
    VideoNotFoundError,
    WeightsNotFoundError,
)

if TYPE_CHECKING:
    from .config import register_model as register_model
    from .encoder import EncoderSpec as EncoderSpec
    from .encoder import TextEncoder as TextEncoder
    from .encoder import VideoEncoder as VideoEncoder
    from .operators import clip4clip as clip4clip

# The same as in pyproject.toml, which cannot read it from here: its build backend would import clip4clip.py instead.
__version__ = "0.1.0"

__all__ = [
    "CacheError",
    "CheckpointError",
    "Clip4clipError",
    "DeviceError",
    "EncoderSpec",
    "ExportError",
    "FilterError",
    "IndexUnavailableError",
    "InputTypeError",
    "InputValueError",
    "InstallError",
    "LibraryError",
    "MissingExtraError",
    "ModelMismatchError",
    "PairsError",
    "TextEncoder",
    "TrainingError",
    "UnknownNameError",
    "VideoEncoder",
    "VideoError",
    "VideoIndexError",
    "VideoNotFoundError",
    "WeightsNotFoundError",
    "register_model",
]


# Imported at first use: the encoders import numpy and Pillow, and the factory of the operator imports Towhee. The
# factory is not in __all__, or else `from clip4clip import *` would import Towhee.
_LAZY = {
    "EncoderSpec": ".encoder",
    "TextEncoder": ".encoder",
    "VideoEncoder": ".encoder",
    "clip4clip": ".operators",
    "register_model": ".config",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


if __name__ == "clip4clip":  # not if Towhee loads the package from an operator's folder, under another name
    # Import the operators as soon as Towhee is imported, or now if it already is: this registers them with Towhee.
    register_post_import_hook(lambda _: import_module(".operators", __name__), "towhee")
