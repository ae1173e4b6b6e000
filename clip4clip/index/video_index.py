"""An index of videos, filled from a table or a folder, and searched by a sentence, a video or a vector."""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import DEFAULT_MODEL, get_model
from ..encoder import DEFAULT_ENCODER, EncoderSpec, TextEncoder, VideoEncoder
from ..errors import InputTypeError, InputValueError, LibraryError, ModelMismatchError, brief
from ..library.local_engine import embed_videos
from ..library.sources import Video, absolute_path, list_videos
from ..progress import Track, no_progress
from ..video.limits import DEFAULT_LIMITS, Limits
from ..video.reader import read_frames
from ..video.sampling import DEFAULT_SAMPLING, FrameSampling
from ..weights.identity import Identity
from .address import IndexAddress
from .collection import CollectionInfo, VectorSpec
from .engine import open_engine
from .hit import Hit
from .values import check_limit, check_output_fields, to_stored_row, to_vector, to_vectors

if TYPE_CHECKING:  # at run time it needs pyarrow, which an index on a server does not need
    from ..library.table import TableSpec

UPSERT_BATCH = 500  # rows: 1 MB of vectors


@dataclass
class SyncReport:
    """What :meth:`VideoIndex.sync` did.

    Attributes:
        added: number of new videos.
        changed: number of videos that were re-embedded because their files had changed.
        removed: number of videos that were removed because their files were deleted or can no longer be read.
        unchanged: number of videos whose files have not changed.
        failed: error of each video that could not be embedded, by its path.
        unlisted: error of each folder that could not be listed, by its path. The index keeps the videos in it.
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    unlisted: dict[str, str] = field(default_factory=dict)


class VideoIndex:
    """An index of videos. Safe to use from several threads at once.

    The index is a collection in Milvus, on a server or in a local folder. Only one process at a time can use a local
    folder. Opening an index does not create the collection; :meth:`create`, :meth:`add` and :meth:`sync` do.

    Args:
        uri: a local folder whose name ends in ``.db``, created if it is missing; or a server, ``http(s)://HOST:PORT``,
            such as Zilliz Cloud.
        collection: name of the collection.
        token: ``USER:PASSWORD`` or a key, if the server needs one.
        encoder: which model embeds queries and new videos. If ``model_name`` is None, it is the model of the vectors in
            the index, or ``clip_vit_b32`` for a new index.
        timeout: seconds to wait for an answer from the server.

    Raises:
        IndexUnavailableError: the server does not answer, or another process uses the local folder. All methods raise
            it as well.
        VideoIndexError: ``uri`` or ``collection`` is invalid, or the local folder cannot be opened.
        InputTypeError, InputValueError: ``uri``, ``collection`` or ``token`` has the wrong type, or ``token`` has
            control characters.
        MissingExtraError: ``uri`` is a local folder, and milvus-lite is not installed.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str] = "./videos.db",
        collection: str = "videos",
        *,
        token: str | None = None,
        encoder: EncoderSpec = DEFAULT_ENCODER,
        timeout: float = 10.0,
    ) -> None:
        self.address = IndexAddress(os.fspath(uri) if isinstance(uri, os.PathLike) else uri, collection, token)
        self._encoder = encoder
        self._engine = open_engine(self.address, timeout)

    def __enter__(self) -> VideoIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Once all indexes in a local folder are closed, other processes can use it."""
        self._engine.close()

    @property
    def model(self) -> Identity | None:
        """Model and weights that computed the vectors; None for a collection that this package did not create."""
        spec = self._engine.require().spec
        return spec.model if spec else None

    @property
    def sampling(self) -> FrameSampling | None:
        """Which frames of each video are embedded; None if the collection does not exist or does not record it."""
        info = self._engine.find()
        return info.spec.sampling if info and info.spec else None

    def create(
        self,
        sampling: FrameSampling | None = None,
        *,
        table: str | os.PathLike[str] | None = None,
    ) -> None:
        """Create the collection, without videos. Does nothing if it exists.

        Args:
            sampling: which frames of each video are embedded; None for the sampling of the table or of an existing
                collection, or else for ``FrameSampling()``.
            table: table written by ``clip4clip embed``. The collection is created for its model, weights and sampling.
                None for the model of this index.

        Raises:
            ModelMismatchError: the model, weights or sampling of the encoder, the table and an existing collection
                differ.
            LibraryError: the table cannot be read.
        """
        if table is None:
            self._require_collection(self._identity, self._dim, sampling)
            return
        spec = _read_table_spec(table)
        if sampling not in (None, spec.sampling):
            raise ModelMismatchError(f"{os.fspath(table)} has vectors of {spec.sampling}, not of {sampling}")
        self._require_collection(spec.model, spec.dim, spec.sampling)

    def add(
        self,
        videos: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
        track: Track = no_progress,
    ) -> int:
        """Add videos, or replace those with the same ids. Creates the collection if it does not exist.

        A new collection records the sampling of the table. For rows it records ``FrameSampling()``: if they come from a
        table with another sampling, call :meth:`create` with that table first.

        If the call is interrupted, repeat it: rows that were already added are replaced by the same rows.

        Args:
            videos: a table written by ``clip4clip embed``, whose failed videos are left out; or rows with ``id``,
                ``path``, ``vector`` (float32, norm 1), ``model`` and ``fingerprint``. Other values of a row that are
                not None become fields to filter by. If several rows have the same id, the last one is used.
            track: progress callback; see :data:`clip4clip.progress.Track`. The number of rows is 0 if it is unknown.

        Returns:
            The number of videos that were added or replaced.

        Raises:
            ModelMismatchError: the vectors are from a different model than those in the index, or than the encoder.
            LibraryError: the table cannot be read.
            InputTypeError: ``videos`` is neither a table nor rows, or a vector is not numbers.
            InputValueError: a row lacks a required field, or has a field that cannot be stored; or its vector has the
                wrong length, is all zeros or is not finite.
        """
        rows, total = self._open_rows(videos)
        added = 0
        batch: list[Mapping[str, Any]] = []
        for row in track(rows, total, "indexing"):
            if not isinstance(row, Mapping):
                raise InputTypeError(f"a row must be a dictionary, not {brief(row)}")
            has_failed = "vector" in row and row["vector"] is None  # a missing vector is an error instead
            if not has_failed:
                batch.append(row)
            if len(batch) == UPSERT_BATCH:
                added += self._upsert(batch)
                batch = []
        added += self._upsert(batch)
        self._engine.finish()
        return added

    def search(
        self,
        text: str | None = None,
        *,
        video: str | os.PathLike[str] | bytes | None = None,
        vector: np.ndarray | None = None,
        limit: int = 10,
        filter: str = "",  # noqa: A002  Milvus's word
        output_fields: Sequence[str] = ("*",),
        limits: Limits = DEFAULT_LIMITS,
        **options: Any,
    ) -> list[Hit]:
        """Return the videos nearest to a text, a video or a vector, the nearest first. Pass exactly one of the three.

        Args:
            text: a sentence.
            video: a local path, an http(s) URL, or the bytes of a video file.
            vector: float32, with the length of the vectors in the index. It must come from the same model, which is not
                checked.
            limit: largest number of videos, up to 16,384.
            filter: Milvus's boolean expression over the fields, such as ``'duration < 60 and path like "/srv/%"'``,
                with dates such as ``'modified > "2025-06-01"'``. A field that no video has is logged as a warning.
            output_fields: names of the fields that ``Hit.fields`` gets; ``*`` for all.
            limits: how much work decoding ``video`` may take.
            **options: passed to ``MilvusClient.search``.

        Raises:
            ModelMismatchError: the vectors in the index are from a different model, or different weights, than the
                encoder.
            VideoIndexError: the collection does not exist, or the filter is invalid, for example because it compares a
                field with a value of another kind.
            InputTypeError, InputValueError: an argument is invalid.
            VideoNotFoundError, VideoError: ``video`` cannot be read.
            UnknownNameError, WeightsNotFoundError, CheckpointError, DeviceError: the encoder cannot be loaded.
        """
        if sum(query is not None for query in (text, video, vector)) != 1:
            raise InputTypeError("pass exactly one of text, video and vector")
        if isinstance(text, str) and not text.strip():
            raise InputValueError(f"the text to search for is empty: {brief(text)}")
        limit = check_limit(limit)
        check_output_fields(output_fields)
        self._engine.check_filter(filter)  # an error here costs no decoding
        if vector is None:
            vector = self._embed_query(text, video, limits)
        return self._engine.search(vector, limit, filter=filter, output_fields=output_fields, **options)

    def get(self, id: str) -> Hit | None:  # noqa: A002
        """Return the video with an id, with the score 1; None if the index does not have it."""
        return self._engine.get(id)

    def delete(self, ids: Sequence[str] = (), *, filter: str = "") -> int:  # noqa: A002
        """Remove videos from the index by their ids, and those that match a filter. Their files stay.

        Returns:
            The number of removed videos.

        Raises:
            VideoIndexError: the collection does not exist, or the filter is invalid or has a field that no video has.
                Some servers would then delete all videos.
            InputTypeError, InputValueError: ``ids`` is invalid.
        """
        if isinstance(ids, str):
            raise InputTypeError(f"ids must be a list of ids, not the string {brief(ids)}")
        return self._engine.delete(ids, filter=filter)

    def count(self) -> int:
        """Return the number of videos."""
        return self._engine.count()

    def sync(
        self,
        folder: str | os.PathLike[str],
        sampling: FrameSampling | None = None,
        *,
        workers: int | None = None,
        track: Track = no_progress,
    ) -> SyncReport:
        """Synchronise the index with a folder: add new videos, re-embed changed ones, remove deleted ones.

        If nothing has changed, a repeated call only tries failed videos again. Videos of other folders are left alone.
        Videos are compared by path: a video that was added under an id of its own keeps this id and its fields. If the
        call is interrupted, the finished part of the work is kept.

        A folder without any video is an error, and nothing is removed, because its disk may not be mounted. A video is
        not removed either while its folder cannot be listed.

        Args:
            folder: folder to search for videos, with all folders below it.
            sampling: which frames of each video are embedded; None for the sampling of the index, or
                ``FrameSampling()`` for a new one.
            workers: number of videos decoded at once; None for one per core.
            track: progress callback; see :data:`clip4clip.progress.Track`.

        Raises:
            LibraryError: the folder does not exist, or has no videos.
            ModelMismatchError: the vectors in the index are from a different model, or have a different ``sampling``.
        """
        root = Path(absolute_path(folder))
        if not root.is_dir():
            raise LibraryError(f"no folder at {root}")
        report = SyncReport()
        videos = list_videos(root, unlisted=report.unlisted)
        sampling = self._require_collection(self._identity, self._dim, sampling).sampling
        stored = self._stored_videos(root)
        to_embed = [video for video in videos if not _is_stored(video, stored)]
        report.unchanged = len(videos) - len(to_embed)
        rows = embed_videos(to_embed, self._video_encoder, sampling, workers)
        self._store_embedded(track(rows, len(to_embed), "embedding"), stored, report)
        to_remove = _videos_to_remove(videos, stored, report)
        if to_remove:
            report.removed = self.delete(to_remove)
        if to_embed or to_remove:
            self._engine.finish()
        return report

    @functools.cached_property
    def _identity(self) -> Identity:
        """Model and weights of the encoder."""
        info = self._engine.find()
        stored = info.spec.model.model if info and info.spec else None
        name = self._encoder.model_name or stored or DEFAULT_MODEL
        get_model(name)
        if info is not None and name != stored:  # an error here costs no download
            raise self._mismatch(info, name)
        return replace(self._encoder, model_name=name).identify()

    @property
    def _dim(self) -> int:
        return get_model(self._identity.model).config.embed_dim

    @functools.cached_property
    def _text_encoder(self) -> TextEncoder:
        return replace(self._encoder, model_name=self._identity.model).text_encoder()

    @functools.cached_property
    def _video_encoder(self) -> VideoEncoder:
        return replace(self._encoder, model_name=self._identity.model).video_encoder()

    def _embed_query(
        self, text: str | None, video: str | os.PathLike[str] | bytes | None, limits: Limits
    ) -> np.ndarray:
        info = self._engine.require()
        if info.spec is None:
            raise ModelMismatchError(
                f"the collection {self.address.collection!r} was not created by clip4clip: it can be searched by a "
                "vector, but not by a text or a video"
            )
        self._check_model(info, self._identity)
        if text is not None:
            return self._text_encoder(text)
        sampling = info.spec.sampling
        return self._video_encoder(read_frames(video, sampling.frames, seek=sampling.seek, limits=limits))  # type: ignore[arg-type]

    def _require_collection(self, model: Identity, dim: int, sampling: FrameSampling | None) -> VectorSpec:
        """Return how the vectors of the collection are computed; create the collection if it does not exist.

        Raises:
            ModelMismatchError: the collection has a different model, or a different sampling and ``sampling`` is not
                None.
        """
        if self._encoder.model_name not in (None, model.model):
            raise ModelMismatchError(
                f"the vectors are of {model}, and this index was opened for the model {self._encoder.model_name}"
            )
        if self._engine.find() is None:
            self._engine.create(VectorSpec(model, sampling or DEFAULT_SAMPLING), dim)
        info = self._engine.require()
        spec = self._check_model(info, model)
        if sampling not in (None, spec.sampling):
            raise ModelMismatchError(
                f"the collection {self.address.collection!r} has vectors of {spec.sampling}, not of {sampling}"
            )
        return spec

    def _check_model(self, info: CollectionInfo, model: Identity) -> VectorSpec:
        if info.spec is None or info.spec.model != model:
            raise self._mismatch(info, model)
        return info.spec

    def _mismatch(self, info: CollectionInfo, model: Identity | str) -> ModelMismatchError:
        name = repr(self.address.collection)
        if info.spec is None:
            return ModelMismatchError(
                f"the collection {name} was not created by clip4clip: its vectors cannot be compared with vectors of "
                f"{model}"
            )
        return ModelMismatchError(
            f"the collection {name} has vectors of {info.spec.model}, which cannot be compared with vectors of {model}"
        )

    def _open_rows(
        self, videos: str | os.PathLike[str] | Iterable[Mapping[str, Any]]
    ) -> tuple[Iterable[Mapping[str, Any]], int]:
        """Return rows and their number, 0 if unknown. For a table, also create the collection."""
        if isinstance(videos, str | os.PathLike):
            spec = _read_table_spec(videos)
            from ..library.table import count_rows, read_rows

            self._require_collection(spec.model, spec.dim, spec.sampling)
            return read_rows(videos), count_rows(videos)
        if isinstance(videos, Iterable) and not isinstance(videos, Mapping):
            return videos, len(videos) if isinstance(videos, Sequence) else 0
        raise InputTypeError(f"expected the path of a table or rows as dictionaries, not {brief(videos)}")

    def _upsert(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Check all rows, then add them or replace those with the same ids. Return their number."""
        if not rows:
            return 0
        stored = [to_stored_row(row) for row in rows]
        names = [row["id"] for row in stored]
        dim = len(to_vector(rows[0]["vector"], None, f"the vector of {brief(names[0])}"))
        for model, fingerprint in dict.fromkeys((row["model"], row["fingerprint"]) for row in rows):
            self._require_collection(Identity(model, fingerprint), dim, None)
        vectors = to_vectors([row["vector"] for row in rows], self._engine.require().dims["vector"], names)
        batch = {row["id"]: row | {"vector": vector} for row, vector in zip(stored, vectors, strict=True)}
        self._engine.upsert(batch)
        return len(batch)

    def _stored_videos(self, root: Path) -> dict[str, list[Video]]:
        """Return the videos in the index whose paths are below a folder, by path. Several ids may share a path."""
        videos: defaultdict[str, list[Video]] = defaultdict(list)
        for row in self._engine.rows(["id", "path", "size", "mtime"]):
            if Path(row["path"]).is_relative_to(root):
                videos[row["path"]].append(Video(row["id"], row["path"], row.get("size"), row.get("mtime")))
        return dict(videos)

    def _store_embedded(
        self, embedded: Iterable[dict[str, Any]], stored: Mapping[str, list[Video]], report: SyncReport
    ) -> None:
        """Store rows of embedded videos, and count them in the report. The last rows are stored even after an error."""
        rows: list[dict[str, Any]] = []
        try:
            for row in embedded:
                path = row["path"]
                if row["error"] is not None:
                    report.failed[path] = row["error"]
                    continue
                report.changed += path in stored
                report.added += path not in stored
                row |= {"model": self._identity.model, "fingerprint": self._identity.fingerprint}
                rows += self._with_stored_fields(row, stored.get(path, ()))
                if len(rows) >= UPSERT_BATCH:
                    self._upsert(rows)
                    rows = []
        finally:
            self._upsert(rows)

    def _with_stored_fields(self, row: dict[str, Any], stored: Iterable[Video]) -> Iterator[dict[str, Any]]:
        """Yield a row for each id that the video has in the index, with the other fields stored for that id."""
        is_new = True
        for video in stored:
            is_new = False
            hit = self.get(video.id)
            yield (hit.fields if hit else {}) | row | {"id": video.id}
        if is_new:
            yield row


def _is_stored(video: Video, stored: Mapping[str, list[Video]]) -> bool:
    """Return whether the index has the current state of a video's file, under every id that the file has there."""
    same_path = stored.get(video.id, [])  # the id of a video in a folder is its path
    return bool(same_path) and all(video.is_same_file(other) for other in same_path)


def _videos_to_remove(videos: Sequence[Video], stored: Mapping[str, list[Video]], report: SyncReport) -> list[str]:
    """Return the ids of stored videos whose files were deleted, or were opened and could not be decoded."""
    listed = {video.id for video in videos}
    gone = {path for path in stored if path not in listed and _is_gone(path, report.unlisted)}
    unreadable = {video.id for video in videos if video.id in report.failed and video.size is not None}
    return [video.id for path in gone | (unreadable & stored.keys()) for video in stored[path]]


def _is_gone(path: str, unlisted: Iterable[str]) -> bool:
    """Return whether a file no longer exists. A file that was not listed may be hidden or in an unreadable folder."""
    return not os.path.lexists(path) and not any(Path(path).is_relative_to(folder) for folder in unlisted)


def _read_table_spec(table: str | os.PathLike[str]) -> TableSpec:
    from ..library.table import TableSpec

    path = Path(table)
    if path.is_dir():
        raise LibraryError(
            f"{path} is a folder: expected a table written by `clip4clip embed`. To index a folder, use VideoIndex.sync"
        )
    if not path.is_file():
        raise LibraryError(f"there is no table at {path}: write one with `clip4clip embed SOURCE -o FILE.parquet`")
    return TableSpec.read(path)
