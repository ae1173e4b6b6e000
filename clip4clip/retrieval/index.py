"""Vectors of videos in Milvus: a local file, a server or Zilliz Cloud; nearest first."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config import get_model
from ..encoder import TextEncoder, VideoEncoder
from ..errors import (
    IndexUnavailableError,
    InputTypeError,
    InputValueError,
    MissingExtraError,
    ModelMismatchError,
    VideoIndexError,
    brief,
)
from ..video import read_frames
from ..weights import Identity, Reference, identify
from .library import Track
from .listing import absolute, list_videos
from .local_engine import embed_videos
from .table import Recipe, number_of_rows, read_rows

try:
    import grpc
    from pymilvus import DataType, MilvusClient, MilvusException
except ImportError as error:  # pragma: no cover
    raise MissingExtraError("an index needs pymilvus: pip install 'towhee-clip4clip[retrieval]'") from error

RECORD = "clip4clip"  # property of a collection that tells of which model its vectors are
ROWS_AT_ONCE = 500  # of an upsert: 1 MB of vectors
READ_AT_ONCE = 10_000
MAX_LIMIT = 16_384  # Milvus's own, of results
MAX_NAME_BYTES = 65_535  # Milvus's own, of a string
# Of a server's HNSW index; ef is how many candidates a search looks at, and what decides on its recall.
LINKS, CANDIDATES_BUILT, CANDIDATES = 16, 200, 256
CONSISTENCY = "Session"  # what this process has written is found at once
AFTER_A_FAILURE = "Strong"  # waits until a server that was started again has read its log: before, it finds little
UNREACHABLE = {1, 2}  # Milvus's codes for an RPC that failed and a server that is not there
NOT_READY = ("find no available", "not loaded", "not ready", "not healthy")  # what it says while it starts

# milvus-lite serves all indexes of a file that this process has open from one place, and takes one writer at a time.
_local: Counter[str] = Counter()
_local_lock = threading.Lock()
_local_writing: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)

# pymilvus raises what it logs; and milvus-lite's server lacks a call that pymilvus makes and can do without.
for name in ("pymilvus", "grpc._server", "milvus_lite"):
    logging.getLogger(name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Hit:
    """A video that was found.

    Attributes:
        id: its name.
        path: where it is, a local path or URL; empty in a collection that does not tell.
        score: cosine of the angle to what was searched for, -1 to 1; higher is nearer. In a collection of another
            metric, that metric's.
        fields: all else that the index has of it, such as ``duration`` in seconds.
    """

    id: Any
    path: str
    score: float
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> str:
        """How long the video is, as ``minutes:seconds`` or ``hours:minutes:seconds``; empty where that is not known."""
        seconds = self.fields.get("duration")
        if not isinstance(seconds, int | float) or not math.isfinite(seconds):
            return ""
        minutes, seconds = divmod(int(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@dataclass
class SyncReport:
    """What :meth:`VideoIndex.sync` did.

    Attributes:
        added: how many videos are new.
        changed: how many have been embedded anew.
        dropped: how many are not there any more, or cannot be read any more.
        unchanged: how many are as they were.
        failed: why a video has no vector, by its path.
        unlisted: why the videos of a folder are not known, by its path; those that the index has stay.
    """

    added: int = 0
    changed: int = 0
    dropped: int = 0
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    unlisted: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Collection:
    """A collection that there is: what it records, and its fields."""

    model: Identity | None
    frames: int
    seek: str
    dims: dict[str, int]  # of the fields of float vectors
    id_field: str
    id_is_text: bool
    fields: list[str]


@dataclass(frozen=True)
class _File:
    """What the index has of a video's file."""

    id: str
    path: str
    size: int | None
    mtime: int | None


class VideoIndex:
    """An index of videos, that is a Milvus collection. Safe to use from several threads at once.

    Args:
        uri: a local file ``*.db``, for one process at a time; or a server, ``http(s)://host:port``, Zilliz Cloud's too.
        collection: its name.
        token: ``user:password`` or a key, where the server asks for it.
        model_name: of the model that embeds what is searched for; None for the one whose vectors the index has, and
            ``clip_vit_b32`` for a new index.
        weights: for the model, as for :meth:`clip4clip.TextEncoder.load`.
        device: of the model, like ``runtime`` and ``precision``.
        runtime: as for :meth:`clip4clip.TextEncoder.load`.
        precision: likewise. Vectors of one precision are near enough to those of another to be compared.
        timeout: seconds that the server has for an answer.

    Raises:
        IndexUnavailableError: when the server does not answer or another process uses the file; also from all methods.
        VideoIndexError: for a ``uri`` that is none of these.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str] = "./videos.db",
        collection: str = "videos",
        *,
        token: str | None = None,
        model_name: str | None = None,
        weights: Reference | None = None,
        device: str | None = None,
        runtime: str | None = None,
        precision: str = "float32",
        timeout: float = 10.0,
    ) -> None:
        self.uri, self.collection = os.fspath(uri), collection
        self.is_local = is_local(self.uri)
        if self.is_local:
            self.uri = absolute(self.uri)
        self._model_name, self._weights, self._timeout = model_name, weights, timeout
        self._placement = device, runtime, precision
        self._lock = threading.RLock()
        self._known: _Collection | None = None
        self._consistency = CONSISTENCY
        if self.is_local and not self.uri.endswith(".db"):
            raise VideoIndexError(f"{self.uri!r} is no index: a file that ends in .db or http(s)://host:port is due")
        if self.is_local and not Path(self.uri).parent.is_dir():
            raise VideoIndexError(f"{self.uri!r} cannot be: there is no folder {Path(self.uri).parent}")
        options = {"grpc.max_reconnect_backoff_ms": 1000}  # else a server that is back is seen minutes later
        if self.is_local:
            options["grpc.keepalive_time_ms"] = 2**31 - 1  # it takes pymilvus's pings for an attack, and hangs up
        anyhow = contextlib.nullcontext()
        self._opening = _local_lock if self.is_local else anyhow
        with self._opening, self._speaking():
            self._writing = _local_writing[self.uri] if self.is_local else anyhow
            self._client = MilvusClient(self.uri, token=token or "", timeout=timeout, grpc_options=options)
            if self.is_local:
                _local[self.uri] += 1
        self._closed = False

    def __enter__(self) -> VideoIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. Once all of a local file are closed, other processes can use it."""
        if self._closed:
            return
        self._closed = True
        with self._opening:
            self._client.close()
            if self.is_local:
                _local[self.uri] -= 1
                if _local[self.uri] == 0:
                    from milvus_lite.server_manager import server_manager_instance

                    server_manager_instance.release_server(self.uri)

    def create(self, frames: int = 12, seek: str = "exact") -> None:
        """Makes the collection, without videos, for vectors of this index's model; does nothing when there is one.

        Args:
            frames: that are taken of each video, spread evenly.
            seek: ``'exact'`` or ``'keyframe'``.

        Raises:
            ModelMismatchError: when there is one with vectors of another model.
        """
        self._open(self._identity, get_model(self._identity.model).config.embed_dim, frames, seek)

    def add(
        self,
        videos: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
        track: Track = lambda items, total, what: items,  # noqa: ARG005
    ) -> int:
        """Adds videos, or replaces those with the same id. The collection is made when there is none.

        A new one is recorded as of the table's ``frames`` and ``seek``, or for rows as of 12 and ``'exact'``: rows that
        were made in another way want :meth:`create` first.

        Stopped at any moment it may be called again: what is there already is replaced by the same.

        Args:
            videos: a table that ``clip4clip embed`` wrote, whose failed videos are left out; or rows with ``id``,
                ``path``, ``vector`` (float32, norm 1), ``model`` and ``fingerprint``. Whatever else a row has becomes a
                field to filter by, where it is not None. Of several with an id the last counts.
            track: wraps the iteration over the rows, given how many they are if that is known; for a progress bar.

        Returns:
            How many were added or replaced.

        Raises:
            ModelMismatchError: for vectors of another model than those of the index.
            LibraryError: for a table that cannot be read.
            InputValueError: for a row without a field that it needs, or whose vector has another length, is all zeros
                or not finite.
        """
        rows: Iterable[Mapping[str, Any]]
        if isinstance(videos, str | os.PathLike):
            recipe = Recipe.of(Path(videos))
            self._open(recipe.model, recipe.dim, recipe.frames, recipe.seek)
            rows, total = read_rows(videos), number_of_rows(videos)
        else:
            rows, total = videos, len(videos) if isinstance(videos, Sequence) else 0
        added = 0
        batch: list[Mapping[str, Any]] = []
        for row in track(rows, total, "indexing"):
            if "vector" not in row or row["vector"] is not None:  # null is a video that failed; none at all is an error
                batch.append(row)
            if len(batch) == ROWS_AT_ONCE:
                added += self._upsert(batch)
                batch = []
        added += self._upsert(batch)
        self._settle()
        return added

    def insert(self, *values: Any) -> Any:
        """Adds one row to a collection of any kind, its values in the order of the collection's fields.

        Of an index's own collection these are the id, the path and the vector; the path may be left out.

        Returns:
            The primary key of the row.

        Raises:
            InputValueError: for another number of values than the collection has fields.
            VideoIndexError: when there is no such collection.
        """
        found = self._found()
        names = [name for name in found.fields if name != "path" or found.model is None or len(values) > 2]
        if len(values) != len(names):
            raise InputValueError(
                f"{len(values)} values were given for the fields {', '.join(found.fields)} of {self.collection!r}"
            )
        row = dict(zip(names, values, strict=True))
        if found.model is not None:
            row = {"path": str(values[0])} | row
        if found.id_is_text and found.id_field in row:
            row[found.id_field] = str(row[found.id_field])
        with self._writing, self._speaking():
            if found.model is not None:
                [row] = self._whole({row["id"]: row}, found)
            put = self._client.upsert if found.id_field in row else self._client.insert
            answer = put(self.collection, [row], timeout=self._timeout)
        return answer["ids"][0] if answer.get("ids") else row.get(found.id_field)

    def search(
        self,
        text: str | None = None,
        *,
        video: str | os.PathLike[str] | bytes | None = None,
        vector: np.ndarray | None = None,
        limit: int = 10,
        filter: str = "",  # noqa: A002  Milvus's word
        output_fields: Sequence[str] = ("*",),
        **options: Any,
    ) -> list[Hit]:
        """The videos nearest to a sentence, to a video or to a vector, the nearest first.

        Args:
            text: a sentence; or
            video: a local path, an http(s) URL or the bytes of a file; or
            vector: float32 of the length of those in the index; it must be of the same model, which only the caller
                can know.
            limit: how many at most, up to 16,384.
            filter: Milvus's boolean expression over the fields, such as ``'duration < 60 and path like "%.mp4"'``.
            output_fields: of those that ``Hit.fields`` is to have.
            **options: for ``MilvusClient.search``.

        Raises:
            ModelMismatchError: when the index has vectors of another model than this one, or of other weights.
            VideoIndexError: when there is no such collection, or the filter is wrong.
            InputTypeError, InputValueError: for anything but one thing to search for, or an impossible one.
            VideoNotFoundError, VideoError: for a video that cannot be read.
        """
        if sum(given is not None for given in (text, video, vector)) != 1:
            raise InputTypeError("one of text, video and vector is to be searched for")
        if not (isinstance(limit, int) and 0 < limit <= MAX_LIMIT):
            raise InputValueError(f"limit must be a whole number from 1 to {MAX_LIMIT:,}, not {limit!r}")
        found = self._found()
        if vector is None:
            if found.model is None:
                raise ModelMismatchError(
                    f"the collection {self.collection!r} has been made by something else than clip4clip: nothing but "
                    "vectors can be searched for in it"
                )
            self._check(self._identity)
            if text is not None:
                vector = self._text_encoder(text)
            else:
                vector = self._video_encoder(read_frames(video, found.frames, seek=found.seek))  # type: ignore[arg-type]
        where = options.pop("anns_field", next(iter(found.dims), "vector"))
        if where not in found.dims:
            raise InputValueError(
                f"{where!r} is no field of float vectors in {self.collection!r}, but {', '.join(found.dims) or 'none'}"
            )
        vector = _vector(vector, found.dims[where], "the vector to search for")
        if not self.is_local and found.model is not None:
            options.setdefault("search_params", {"params": {"ef": max(CANDIDATES, limit)}})
        with self._speaking():
            answer = self._client.search(
                self.collection,
                data=[vector],
                filter=filter,
                limit=limit,
                output_fields=[*output_fields],
                anns_field=where,
                timeout=options.pop("timeout", self._timeout),
                consistency_level=options.pop("consistency_level", self._consistency),
                **options,
            )
        self._consistency = CONSISTENCY
        return [_hit(hit, found, output_fields) for hit in answer[0]]

    def get(self, id: str) -> Hit | None:  # noqa: A002
        """The video of an id, with the score 1, or None."""
        found = self._found()
        with self._speaking():
            rows = self._client.query(
                self.collection,
                filter=_one_of(found, [id]),
                output_fields=["*"],
                consistency_level=self._consistency,
                timeout=self._timeout,
            )
        return _hit({"id": id, "distance": 1.0, "entity": rows[0]}, found) if rows else None

    def delete(self, ids: Sequence[str] = (), *, filter: str = "") -> int:  # noqa: A002
        """Takes videos out of the index, by their ids or by a filter; the files stay.

        Returns:
            How many were in it and are not any more.
        """
        if isinstance(ids, str):
            raise InputTypeError(f"ids must be a list of ids, not the string {brief(ids)}")
        found = self._found()
        with self._writing, self._speaking():
            before = self.count()
            for start in range(0, len(ids), ROWS_AT_ONCE):
                named = _one_of(found, ids[start : start + ROWS_AT_ONCE])
                self._client.delete(self.collection, filter=named, timeout=self._timeout)
            if filter:
                self._client.delete(self.collection, filter=filter, timeout=self._timeout)
            return before - self.count()

    def count(self) -> int:
        """How many videos there are."""
        self._found()
        with self._speaking():
            answer = self._client.query(
                self.collection,
                filter="",
                output_fields=["count(*)"],
                consistency_level="Strong",
                timeout=self._timeout,
            )
        return int(answer[0]["count(*)"])

    @property
    def model(self) -> Identity | None:
        """Whose vectors the index has; None for a collection that was not made here."""
        return self._found().model

    def sync(
        self,
        folder: str | os.PathLike[str],
        *,
        frames: int | None = None,
        seek: str | None = None,
        workers: int | None = None,
        track: Track = lambda items, total, what: items,  # noqa: ARG005
    ) -> SyncReport:
        """Makes the index tell what is in a folder now: adds new videos, embeds changed ones anew, drops vanished ones.

        Called again it does nothing, but to try again videos that failed. Videos of other folders are left alone. A
        video is known by its path: one that was added under a name of its own keeps it, and the fields that it has.
        What is done stays done when it is stopped. A folder without a video is an error, and nothing is dropped: it
        may be a disk that is not mounted. Nor is anything dropped that may be there and cannot be looked at.

        Args:
            folder: with all folders in it.
            frames: to take of each video; None for as many as the index has of the others, or 12.
            seek: ``'exact'`` or ``'keyframe'``; None likewise.
            workers: videos that are decoded at once; None for one per core.
            track: wraps the iteration over the videos to embed, given how many they are; for a progress bar.

        Raises:
            LibraryError: when there is no such folder, or no video in it.
            ModelMismatchError: for an index with vectors of another model, or of another ``frames`` or ``seek``.
        """
        root = Path(absolute(folder))
        if not root.is_dir():
            raise InputValueError(f"no folder at {root}")
        report = SyncReport()
        videos = list_videos(root, unlisted=report.unlisted)
        made = self._open(self._identity, get_model(self._identity.model).config.embed_dim, frames, seek)
        there: defaultdict[str, list[_File]] = defaultdict(list)  # by path: a row may have a name of its own
        for file in self._files():
            if Path(file.path).is_relative_to(root):
                there[file.path].append(file)
        todo = [
            video
            for video in videos
            if {(file.size, file.mtime) for file in there.get(video.id, ())} != {(video.size, video.mtime)}
        ]
        report.unchanged = len(videos) - len(todo)
        rows: list[dict[str, Any]] = []
        try:
            for row in track(
                embed_videos(todo, self._video_encoder, made.frames, made.seek, workers), len(todo), "embedding"
            ):
                path = row["path"]
                if row["error"] is not None:
                    report.failed[path] = row["error"]
                    continue
                report.changed += path in there
                report.added += path not in there
                row |= {"model": self._identity.model, "fingerprint": self._identity.fingerprint}
                rows += [self._fields(file.id) | row | {"id": file.id} for file in there.get(path, ())] or [row]
                if len(rows) >= ROWS_AT_ONCE:
                    self._upsert(rows)
                    rows = []
        finally:
            self._upsert(rows)
        gone = {path for path in there.keys() - {video.id for video in videos} if _is_gone(path, report.unlisted)}
        # What could be looked at and not be read, has no vector to be found by any more.
        bad = {video.id for video in videos if video.id in report.failed and video.size is not None}
        vanished = [file.id for path in gone | (bad & there.keys()) for file in there[path]]
        if vanished:
            report.dropped = self.delete(vanished)
        if todo or vanished:
            self._settle()
        return report

    @functools.cached_property
    def _identity(self) -> Identity:
        """Of the model that embeds what is searched for."""
        name = self._model_name
        if name is None:
            found = self._find()
            name = found.model.model if found is not None and found.model is not None else "clip_vit_b32"
        return identify(self._weights, name)

    @functools.cached_property
    def _text_encoder(self) -> TextEncoder:
        return TextEncoder.load(self._identity.model, self._weights, *self._placement)

    @functools.cached_property
    def _video_encoder(self) -> VideoEncoder:
        return VideoEncoder.load(self._identity.model, self._weights, *self._placement)

    def _find(self) -> _Collection | None:
        """The collection, if there is one; ready to be searched."""
        if (known := self._known) is not None:
            return known
        with self._lock, self._speaking():
            if (known := self._known) is not None:
                return known
            if not self._client.has_collection(self.collection, timeout=self._timeout):
                return None
            found = _understand(self._client.describe_collection(self.collection, timeout=self._timeout))
            self._client.load_collection(self.collection, timeout=max(self._timeout, 60))
            self._known = found
            return found

    def _found(self) -> _Collection:
        found = self._find()
        if found is None:
            raise VideoIndexError(
                f"there is no collection {self.collection!r} in {self.uri}: make it by `clip4clip index`, or see "
                "VideoIndex.create"
            )
        return found

    def _check(self, model: Identity) -> None:
        found = self._find()
        if found is not None and found.model != model:
            has = f"vectors of {found.model}" if found.model else "been made by something else than clip4clip"
            raise ModelMismatchError(
                f"the collection {self.collection!r} has {has}, which cannot be compared with vectors of {model}"
            )

    def _open(self, model: Identity, dim: int, frames: int | None, seek: str | None) -> _Collection:
        """The collection for vectors made so, new if there is none."""
        if self._find() is None:
            with self._writing, self._lock:  # whoever comes first makes it
                if self._find() is None:
                    self._create(model, dim, frames or 12, seek or "exact")
        self._check(model)
        found = self._found()
        if (frames or found.frames, seek or found.seek) != (found.frames, found.seek):
            raise ModelMismatchError(
                f"the collection {self.collection!r} has vectors of {found.frames} frames, seek {found.seek!r}, not of "
                f"{frames or found.frames}, seek {seek or found.seek!r}"
            )
        return found

    def _create(self, model: Identity, dim: int, frames: int, seek: str) -> None:
        record = {"model": model.model, "fingerprint": model.fingerprint, "frames": frames, "seek": seek}
        # milvus-lite does not keep a description, and not every server a property.
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True, description=json.dumps(record))
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=MAX_NAME_BYTES)
        schema.add_field("path", DataType.VARCHAR, max_length=MAX_NAME_BYTES)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        index = MilvusClient.prepare_index_params()
        # In milvus-lite an exact search is as fast as its HNSW.
        kind: dict[str, Any] = {"index_type": "FLAT"} if self.is_local else {"index_type": "HNSW"}
        if not self.is_local:
            kind["params"] = {"M": LINKS, "efConstruction": CANDIDATES_BUILT}
        index.add_index("vector", metric_type="COSINE", **kind)
        with self._speaking():
            self._client.create_collection(
                self.collection,
                schema=schema,
                index_params=index,
                consistency_level=CONSISTENCY,
                properties={RECORD: json.dumps(record)},
                timeout=max(self._timeout, 60),
            )

    def _upsert(self, rows: Sequence[Mapping[str, Any]]) -> int:
        if not rows:
            return 0
        for row in rows:
            if missing := {"id", "path", "vector", "model", "fingerprint"} - row.keys():
                raise InputValueError(f"a row has no {', '.join(sorted(missing))}: {brief(dict(row))}")
            found = self._open(Identity(row["model"], row["fingerprint"]), len(row["vector"]), None, None)
        told = ("model", "fingerprint", "error")  # of all
        batch: dict[str, dict[str, Any]] = {}  # by id: of two in one upsert a server keeps both
        for row in rows:
            for name in ("id", "path"):
                if not (isinstance(row[name], str) and 0 < len(row[name].encode()) <= MAX_NAME_BYTES):
                    raise InputValueError(
                        f"{name} must be a string of 1 to {MAX_NAME_BYTES} bytes, not {brief(row[name])}"
                    )
            fields = {name: value for name, value in row.items() if name not in told and value is not None}
            vector = _vector(row["vector"], found.dims["vector"], f"the vector of {brief(row['id'])}")
            batch[row["id"]] = fields | {"vector": vector}
        with self._writing, self._speaking():
            self._client.upsert(self.collection, self._whole(batch, found), timeout=max(self._timeout, 60))
        return len(batch)

    def _whole(self, rows: dict[str, dict[str, Any]], found: _Collection) -> list[dict[str, Any]]:
        """Rows by id that also name the fields that they do not have any more: milvus-lite would keep these."""
        there: list[dict[str, Any]] = []
        if self.is_local:
            there = self._client.query(
                self.collection, filter=_one_of(found, [*rows]), output_fields=["$meta"], timeout=max(self._timeout, 60)
            )
        gone = {old["id"]: dict.fromkeys(old) for old in there}
        return [gone.get(name, {}) | row for name, row in rows.items()]

    def _settle(self) -> None:
        """Out of the log and into the index. What is in the log is safe too, but slower to search."""
        if self._find() is not None:
            with self._writing, self._speaking():
                self._client.flush(self.collection, timeout=max(self._timeout, 60))

    def _fields(self, id: str) -> dict[str, Any]:  # noqa: A002
        """What the index has of a video beside its vector."""
        hit = self.get(id)
        return dict(hit.fields) if hit else {}

    def _files(self) -> Iterator[_File]:
        """The file of every video in the index."""
        with self._speaking():
            rows = self._client.query_iterator(
                self.collection,
                batch_size=READ_AT_ONCE,
                filter="",
                output_fields=["id", "path", "size", "mtime"],
                consistency_level="Strong",
                timeout=max(self._timeout, 60),
            )
            while batch := rows.next():
                for row in batch:
                    yield _File(row["id"], row["path"], row.get("size"), row.get("mtime"))
            rows.close()

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        """Milvus's errors as ours."""
        try:
            yield
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
            code, message = getattr(error, "code", None), getattr(error, "message", None) or str(error)
            if (self.is_local and "Failed to start" in message) or "open local milvus failed" in message.lower():
                raise IndexUnavailableError(
                    f"the index {self.uri} cannot be opened: another process is using it, or it is damaged"
                ) from error
            starting = any(words in message for words in NOT_READY)
            if not isinstance(error, MilvusException) or code in UNREACHABLE or starting:
                self._known = None  # a server that was started again may have to load the collection
                self._consistency = AFTER_A_FAILURE
                raise IndexUnavailableError(f"the index at {self.uri} does not answer: {message}") from error
            raise VideoIndexError(f"the index {self.collection!r} at {self.uri} says: {message}") from error


def is_local(uri: str) -> bool:
    """Whether an index is a file of this machine, and not on a server."""
    return "://" not in uri


def _understand(description: Mapping[str, Any]) -> _Collection:
    record: dict[str, Any] = {}
    with contextlib.suppress(ValueError, TypeError):
        record = json.loads(description.get("properties", {}).get(RECORD) or description.get("description") or "{}")
    if not isinstance(record, dict):
        record = {}
    fields = description["fields"]
    dims = {each["name"]: int(each["params"]["dim"]) for each in fields if each["type"] == DataType.FLOAT_VECTOR}
    key = next(each for each in fields if each.get("is_primary"))
    ours = {"model", "fingerprint", "frames", "seek"} <= record.keys()
    return _Collection(
        model=Identity(record["model"], record["fingerprint"]) if ours else None,
        frames=record["frames"] if ours else 12,
        seek=record["seek"] if ours else "exact",
        dims=dims,
        id_field=key["name"],
        id_is_text=key["type"] == DataType.VARCHAR,
        fields=[each["name"] for each in fields if not each.get("auto_id")],
    )


def _hit(hit: Mapping[str, Any], found: _Collection, named: Sequence[str] = ()) -> Hit:
    """A row that Milvus gives; key and vector are among its fields where they are named."""
    fields = {name: value for name, value in hit["entity"].items() if value is not None}
    path = str(fields.pop("path", ""))
    for name in {*found.dims, found.id_field} - {*named}:
        fields.pop(name, None)
    return Hit(hit.get(found.id_field, hit.get("id")), path, float(hit["distance"]), fields)


def _one_of(found: _Collection, ids: Sequence[Any]) -> str:
    """The filter for these ids. Written here: pymilvus's own takes a quote in an id for the end of it."""
    return f"{found.id_field} in [{', '.join(_literal(name, found) for name in ids)}]"


def _literal(name: Any, found: _Collection) -> str:
    """A key in a filter. Other characters stay as they are: milvus-lite knows no other escapes."""
    if found.id_is_text:
        return '"' + str(name).translate(_ESCAPES) + '"'
    try:
        return str(int(name))
    except ValueError:
        raise InputValueError(f"{brief(name)} is no key of a collection whose keys are whole numbers") from None


_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


def _is_gone(path: str, unlisted: Iterable[str]) -> bool:
    """Whether a file is not there any more, and not just where nobody may look, behind a link, or of another kind."""
    return not os.path.lexists(path) and not any(Path(path).is_relative_to(folder) for folder in unlisted)


def _vector(vector: Any, dim: int, what: str) -> np.ndarray:
    array = np.asarray(vector, np.float32)
    if array.shape != (dim,):
        raise InputValueError(f"{what} has shape {array.shape}; this index has vectors of shape ({dim},)")
    if not np.isfinite(array).all() or not array.any():
        raise InputValueError(f"{what} is not finite, or all zeros")
    return array
