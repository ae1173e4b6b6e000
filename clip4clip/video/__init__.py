"""Read sampled frames from a video file or URL."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .limits import Limits as Limits
    from .reader import Frame as Frame
    from .reader import read_frames as read_frames
    from .reader import read_sampled as read_sampled
    from .sampling import FrameSampling as FrameSampling

# Imported on first use, as the reader imports PyAV.
_LAZY = {
    "Frame": ".reader",
    "FrameSampling": ".sampling",
    "Limits": ".limits",
    "read_frames": ".reader",
    "read_sampled": ".reader",
}

__all__ = ["Frame", "FrameSampling", "Limits", "read_frames", "read_sampled"]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __package__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
