"""The metadata of a collection: its fields, and how its vectors were computed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..video.sampling import FrameSampling
from ..weights.identity import Identity


@dataclass(frozen=True)
class VectorSpec:
    """How all vectors of a collection are computed. The collection records it.

    Attributes:
        model: model and weights.
        sampling: which frames of each video are embedded.
    """

    model: Identity
    sampling: FrameSampling

    def to_json(self) -> str:
        """Return the record that is stored with the collection."""
        return json.dumps({**asdict(self.model), **asdict(self.sampling)})

    @classmethod
    def from_json(cls, text: str) -> VectorSpec | None:
        """Return the specification of a stored record, or None for any other text."""
        try:
            record = json.loads(text)
            return cls(Identity(record["model"], record["fingerprint"]), FrameSampling.from_record(record))
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True)
class CollectionInfo:
    """The metadata of an existing collection.

    Attributes:
        spec: as recorded by :meth:`clip4clip.index.video_index.VideoIndex.create`; None for a collection that was not
            created by this package.
        dims: length of the vectors in each field of float vectors.
        id_field: name of the primary key.
        id_is_text: whether keys are strings; otherwise they are integers.
        fields: names of the fields that a new row needs, in order.
        kinds: kind of the values in each field; None for a kind that filters do not check.
        is_dynamic: whether a row may have fields that are not in ``fields``.
    """

    spec: VectorSpec | None
    dims: Mapping[str, int]
    id_field: str
    id_is_text: bool
    fields: list[str]
    kinds: Mapping[str, str | None]
    is_dynamic: bool
