"""Text or video in, one unit vector out, in the same space: CLIP4Clip (arXiv 2104.08860) with CLIP's ViT-B.

>>> from clip4clip import TextEncoder, VideoEncoder
>>> text = TextEncoder.load()("kids feeding and playing with the horse")  # float32, (512,)

``clip4clip.clip4clip`` is the factory of the Towhee operator, and imports Towhee when it is used.

Once this package is imported, Towhee finds its operators: ``ops.video_text_embedding.clip4clip`` and the companions
``ops.video_decode.ffmpeg``, ``ops.ann_insert.milvus_client`` and ``ops.ann_search.milvus_client``.
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
    from .encoder import EncoderSpec as EncoderSpec
    from .encoder import TextEncoder as TextEncoder
    from .encoder import VideoEncoder as VideoEncoder
    from .operators import clip4clip as clip4clip

__version__ = "0.1.0"  # and in pyproject.toml, whose build backend would take clip4clip.py for the package

__all__ = [
    "CacheError",
    "CheckpointError",
    "Clip4clipError",
    "DeviceError",
    "EncoderSpec",
    "ExportError",
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
]


# Imported when they are used: the encoders bring numpy and Pillow along, and the factory of the operator Towhee. It is
# not in __all__, for `from clip4clip import *` would import Towhee then.
_LAZY = {"EncoderSpec": ".encoder", "TextEncoder": ".encoder", "VideoEncoder": ".encoder", "clip4clip": ".operators"}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


if __name__ == "clip4clip":  # not when Towhee itself loads the package from an operator's folder
    # As soon as Towhee is imported, or now if it is already. The operators put themselves into its registry.
    register_post_import_hook(lambda _: import_module(".operators", __name__), "towhee")
