"""Finding videos by a sentence, and measuring how well that works.

>>> from clip4clip.retrieval import VideoIndex, embed_library
>>> embed_library("videos", "vectors.parquet")
>>> index = VideoIndex("./videos.db")
>>> index.add("vectors.parquet")
>>> index.search("kids feeding a horse")[0].path
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .index import Hit as Hit
    from .index import SyncReport as SyncReport
    from .index import VideoIndex as VideoIndex
    from .library import Report as Report
    from .library import embed_library as embed_library

_HOMES = {"Hit": "index", "SyncReport": "index", "VideoIndex": "index", "Report": "library", "embed_library": "library"}

__all__ = ["Hit", "Report", "SyncReport", "VideoIndex", "embed_library"]


def __getattr__(name: str) -> object:
    # They bring along Milvus and Arrow, which evaluation does without.
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
