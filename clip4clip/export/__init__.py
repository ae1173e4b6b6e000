"""Write a checkpoint in the format of another library: transformers or open_clip.

>>> from clip4clip.export import export_checkpoint
>>> exported = export_checkpoint("run/best.safetensors", "transformers", "my_clip")
>>> print(exported.code)  # loads it there
"""

from enum import Enum
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoint import Exported as Exported
    from .checkpoint import export_checkpoint as export_checkpoint


class Library(str, Enum):
    """A library that loads an exported folder."""

    transformers = "transformers"
    open_clip = "open_clip"


class Dtype(str, Enum):
    """The number format of exported weights."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


LIBRARIES = tuple(library.value for library in Library)
DTYPES = tuple(dtype.value for dtype in Dtype)

__all__ = ["DTYPES", "LIBRARIES", "Dtype", "Exported", "Library", "export_checkpoint"]


def __getattr__(name: str) -> object:
    # Imported on use, because it imports torch.
    if name in ("Exported", "export_checkpoint"):
        return getattr(import_module(".checkpoint", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
