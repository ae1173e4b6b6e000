"""A summary of an index: its model, its size and the fields of its videos."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..video.sampling import FrameSampling
from ..weights.identity import Identity
from .values import kind_of

COMPANIONS = ("", "-wal", "-shm", "-lock", "-journal", "-codes-*")  # endings of the files of a local index


@dataclass(frozen=True)
class IndexInfo:
    """A summary of an index.

    Attributes:
        uri: the local file or the server.
        collection: name of the collection.
        model: model and weights that computed the vectors; None for a collection that this package did not create.
        sampling: which frames of each video are embedded; None as for ``model``.
        videos: number of videos.
        rows: number of vectors; a video may have several.
        dim: length of a vector.
        fields: fields that filters can use, besides ``id`` and ``path``, each with the kinds of its values: string,
            number, boolean, list or object.
        bytes: size of the local files; None for a server.
    """

    uri: str
    collection: str
    model: Identity | None
    sampling: FrameSampling | None
    videos: int
    rows: int
    dim: int
    fields: Mapping[str, tuple[str, ...]]
    bytes: int | None


class Content(NamedTuple):
    """How much an index has.

    Attributes:
        videos: number of videos.
        rows: number of rows.
        kinds: kinds of the values in each field but ``id``, ``path``, ``video`` and ``vector``: string, number,
            boolean, list or object.
    """

    videos: int
    rows: int
    kinds: Mapping[str, set[str]]


def summarise(rows: Iterable[Mapping[str, Any]]) -> Content:
    """Return the content of an index that has these rows, whose vectors are left out."""
    videos: set[Any] = set()
    count = 0
    kinds: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        count += 1
        videos.add(row.get("video", row["id"]))
        for name, value in row.items():
            kinds[name].add(kind_of(value))
    for name in ("id", "path", "video"):
        kinds.pop(name, None)
    return Content(len(videos), count, kinds)


def bytes_on_disk(file: str) -> int:
    """Return the size of a local index, with the files beside it."""
    path = Path(file)
    pattern = glob.escape(path.name)
    sizes = []
    for ending in COMPANIONS:
        for companion in path.parent.glob(pattern + ending):
            try:
                sizes.append(companion.stat().st_size)
            except FileNotFoundError:  # another process has just removed it
                continue
    return sum(sizes)
