"""Find videos by describing them: the public names of :mod:`clip4clip.library` and :mod:`clip4clip.index`.

>>> from clip4clip.retrieval import VideoIndex, embed_library
>>> embed_library("videos", "vectors.parquet")
>>> index = VideoIndex("./videos.db")  # a file; a Milvus server with "http://HOST:PORT"
>>> index.add("vectors.parquet")
>>> index.search("kids feeding a horse", filter="duration < 60")[0].path
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .index.calibration import Calibration as Calibration
    from .index.clips import ClipReport as ClipReport
    from .index.clips import save_clips as save_clips
    from .index.duplicates import DuplicateReport as DuplicateReport
    from .index.duplicates import find_duplicates as find_duplicates
    from .index.edl import EditList as EditList
    from .index.edl import make_edit_list as make_edit_list
    from .index.hit import Hit as Hit
    from .index.info import IndexInfo as IndexInfo
    from .index.relocate import RelocateReport as RelocateReport
    from .index.sync import SyncReport as SyncReport
    from .index.tags import Tagged as Tagged
    from .index.tags import tag_table as tag_table
    from .index.video_index import VideoIndex as VideoIndex
    from .library.embed import EmbedReport as EmbedReport
    from .library.embed import embed_library as embed_library

# Imported on first use, as they import numpy and pyarrow.
_LAZY = {
    "Calibration": ".index.calibration",
    "ClipReport": ".index.clips",
    "DuplicateReport": ".index.duplicates",
    "EditList": ".index.edl",
    "EmbedReport": ".library.embed",
    "Hit": ".index.hit",
    "IndexInfo": ".index.info",
    "RelocateReport": ".index.relocate",
    "SyncReport": ".index.sync",
    "Tagged": ".index.tags",
    "VideoIndex": ".index.video_index",
    "embed_library": ".library.embed",
    "find_duplicates": ".index.duplicates",
    "make_edit_list": ".index.edl",
    "save_clips": ".index.clips",
    "tag_table": ".index.tags",
}

__all__ = [
    "Calibration",
    "ClipReport",
    "DuplicateReport",
    "EditList",
    "EmbedReport",
    "Hit",
    "IndexInfo",
    "RelocateReport",
    "SyncReport",
    "Tagged",
    "VideoIndex",
    "embed_library",
    "find_duplicates",
    "make_edit_list",
    "save_clips",
    "tag_table",
]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __package__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
