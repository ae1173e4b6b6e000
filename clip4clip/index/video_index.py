"""Vectors of videos in Milvus: a local file, a server or Zilliz Cloud; nearest first."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import operator
import os
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from ..config import get_model
from ..encoder import TextEncoder, VideoEncoder
from ..errors import (
    IndexUnavailableError,
    InputTypeError,
    InputValueError,
    LibraryError,
    MissingExtraError,
    ModelMismatchError,
    VideoIndexError,
    brief,
    first_line,
)
from ..library.local_engine import embed_videos
from ..library.sources import absolute, list_videos
from ..video.limits import DEFAULT_LIMITS, Limits
from ..video.reader import read_frames
from ..weights.identity import Identity, identify
from ..weights.locate import Reference
from .filters import STORED_AS, translate_filter

if TYPE_CHECKING:  # at run time these need pyarrow, which a server's index does without
    from ..library.embed import Track
    from ..library.table import TableSpec

try:
    import grpc
    from pymilvus import DataType, MilvusClient, MilvusException
    from pymilvus.exceptions import ConnectionConfigException, ParamError
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
UNREACHABLE = {1, 2}  # Milvus's codes for a server that is not ready, and one that is not there
NO_ANSWER = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
UNEXPECTED = "Unexpected error, message=<"  # how pymilvus begins what was raised before anything was sent
NOT_READY = ("find no available", "not loaded", "not ready", "not healthy")  # what it says while it starts

# The kinds of values in the fields of a video, as filters know them.
KINDS = {
    DataType.VARCHAR: "string",
    DataType.BOOL: "boolean",
    **dict.fromkeys((DataType.INT8, DataType.INT16, DataType.INT32, DataType.INT64), "number"),
    **dict.fromkeys((DataType.FLOAT, DataType.DOUBLE), "number"),
}
TABLE_FIELDS = dict.fromkeys(("duration", "frame_count", "size", STORED_AS), "number")  # that a table's rows have
# Which videos have a value of that kind in a field, as far as Milvus can tell.
HAVING = {
    "string": '{0} >= ""',
    "number": "{0} > 0 or {0} <= 0",
    "boolean": "{0} == true or {0} == false",
}
SAMPLE = 100  # videos that are asked for the kinds of a field, and for the names of all

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
        """Duration as ``minutes:seconds``, from an hour on ``hours:minutes:seconds``; empty where it is not known."""
        duration = self.fields.get("duration")
        if not isinstance(duration, int | float) or not math.isfinite(duration) or duration < 0:
            return ""
        minutes, seconds = divmod(int(duration), 60)
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
    kinds: dict[str, str | None]  # of the values in fields; None for those that filters do not check
    is_dynamic: bool  # whether a row may have fields that the collection does not name


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
        VideoIndexError: for an invalid ``uri`` or ``collection``, and a local file that cannot be opened.
        MissingExtraError: for a local file without milvus-lite.
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
        if not isinstance(uri, str | os.PathLike):
            raise InputTypeError(f"uri must be a string or a path, not {brief(uri)}")
        self.uri, self.collection = os.fspath(uri), collection
        _check_collection(collection)
        if token is not None and not (isinstance(token, str) and token.isprintable()):  # and not shown
            raise InputValueError("the token is not a string of printable characters: expected USER:PASSWORD or a key")
        self.is_local = is_local(self.uri)
        if self.is_local:
            self.uri = absolute(self.uri)
        else:
            _check_server(self.uri)
        self._model_name, self._weights, self._timeout = model_name, weights, timeout
        self._placement = device, runtime, precision
        self._lock = threading.RLock()
        self._known: _Collection | None = None
        self._consistency = CONSISTENCY
        self._kinds_seen: dict[str, set[str]] = {}  # of fields that the collection does not name
        self._closed = False
        if self.is_local and not self.uri.endswith(".db"):
            raise VideoIndexError(
                f"{self.uri!r} is not an index: expected a name that ends in .db, or http(s)://HOST:PORT"
            )
        if self.is_local and not Path(self.uri).parent.is_dir():
            raise VideoIndexError(f"{self.uri!r} cannot be an index: there is no folder {Path(self.uri).parent}")
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

    def create(
        self,
        frames: int | None = None,
        seek: str | None = None,
        *,
        table: str | os.PathLike[str] | None = None,
    ) -> None:
        """Makes the collection, without videos; does nothing when there is one.

        Args:
            frames: that are taken of each video, spread evenly; None for as many as the index has, or 12.
            seek: ``'exact'`` or ``'keyframe'``; None for that of the index, or ``'exact'``.
            table: that ``clip4clip embed`` wrote, whose model, weights, frames and seek the collection is for. Without
                it the collection is for this index's model.

        Raises:
            ModelMismatchError: when there is a collection with other vectors, or the table has other vectors than
                ``model_name``, ``frames`` or ``seek`` say.
            LibraryError: for a table that cannot be read.
        """
        if table is None:
            self._open(self._identity, get_model(self._identity.model).config.embed_dim, frames, seek)
            return
        recipe = _read_recipe(table)
        if (frames or recipe.frames, seek or recipe.seek) != (recipe.frames, recipe.seek):
            raise ModelMismatchError(
                f"{os.fspath(table)} has vectors of {recipe.frames} frames, seek {recipe.seek!r}, not of "
                f"{frames or recipe.frames}, seek {seek or recipe.seek!r}"
            )
        self._open(recipe.model, recipe.dim, recipe.frames, recipe.seek)

    def add(
        self,
        videos: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
        track: Track = lambda items, total, what: items,  # noqa: ARG005
    ) -> int:
        """Adds videos, or replaces those with the same id. The collection is made when there is none.

        A new one is recorded as of the table's ``frames`` and ``seek``, or for rows as of 12 and ``'exact'``: for rows
        that were made in another way call :meth:`create` first, with the table that they come from.

        Stopped at any moment it may be called again: what is there already is replaced by the same.

        Args:
            videos: a table that ``clip4clip embed`` wrote, whose failed videos are left out; or rows with ``id``,
                ``path``, ``vector`` (float32, norm 1), ``model`` and ``fingerprint``. Whatever else a row has becomes a
                field to filter by, where it is not None. Of several with an id the last counts.
            track: wraps the iteration over the rows, given how many they are if that is known; for a progress bar.

        Returns:
            How many were added or replaced.

        Raises:
            ModelMismatchError: for vectors of another model than those of the index, or than ``model_name``.
            LibraryError: for a table that cannot be read.
            InputTypeError: for what is neither a table nor rows, and a vector that is not of numbers.
            InputValueError: for a row without a field that it needs, with a field that cannot be stored, or whose
                vector has another length, is all zeros or not finite.
        """
        rows: Iterable[Mapping[str, Any]]
        if isinstance(videos, str | os.PathLike):
            recipe = _read_recipe(videos)
            from ..library.table import count_rows, read_rows

            self._open(recipe.model, recipe.dim, recipe.frames, recipe.seek)
            rows, total = read_rows(videos), count_rows(videos)
        elif isinstance(videos, Iterable) and not isinstance(videos, Mapping):
            rows, total = videos, len(videos) if isinstance(videos, Sequence) else 0
        else:
            raise InputTypeError(f"expected the path of a table or rows as dictionaries, not {brief(videos)}")
        added = 0
        batch: list[Mapping[str, Any]] = []
        for row in track(rows, total, "indexing"):
            if not isinstance(row, Mapping):
                raise InputTypeError(f"a row must be a dictionary, not {brief(row)}")
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
            row[found.id_field] = _text(str(row[found.id_field]), "an id")
        for name in row.keys() & found.dims.keys():
            row[name] = _vector(row[name], found.dims[name], f"the {name} of {brief(values[0])}")
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
        limits: Limits = DEFAULT_LIMITS,
        **options: Any,
    ) -> list[Hit]:
        """The videos nearest to a sentence, to a video or to a vector, the nearest first.

        Args:
            text: a sentence; or
            video: a local path, an http(s) URL or the bytes of a file; or
            vector: float32 of the length of those in the index; it must be of the same model, which only the caller
                can know.
            limit: how many at most, up to 16,384.
            filter: Milvus's boolean expression over the fields, such as ``'duration < 60 and path like "/srv/%"'``;
                and dates, as in ``'modified > "2025-06-01"'``. A field that no video has is warned about.
            output_fields: of those that ``Hit.fields`` is to have.
            limits: how much work ``video`` may make, which may be a stranger's.
            **options: for ``MilvusClient.search``.

        Raises:
            ModelMismatchError: when the index has vectors of another model than this one, or of other weights.
            VideoIndexError: when there is no such collection, or the filter is wrong, such as one that compares a
                field with a value of another kind.
            InputTypeError, InputValueError: for anything but one thing to search for, or an impossible one.
            VideoNotFoundError, VideoError: for a video that cannot be read.
        """
        if sum(given is not None for given in (text, video, vector)) != 1:
            raise InputTypeError("pass exactly one of text, video and vector")
        if isinstance(text, str) and not text.strip():
            raise InputValueError(f"the text to search for is empty: {brief(text)}")
        if isinstance(limit, bool) or not (isinstance(limit, int | np.integer) and 0 < limit <= MAX_LIMIT):
            raise InputValueError(f"limit must be a whole number from 1 to {MAX_LIMIT:,}, not {brief(limit)}")
        limit = int(limit)
        if isinstance(output_fields, str):
            raise InputTypeError(f"output_fields must be a list of names, not the string {brief(output_fields)}")
        for name in output_fields:
            _text(name, "a name in output_fields")
        found = self._found()
        filter = self._translate(filter, found)  # noqa: A001
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
                frames = read_frames(video, found.frames, seek=found.seek, limits=limits)  # type: ignore[arg-type]
                vector = self._video_encoder(frames)
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
        rows = self._query(_one_of(found, [id]), ["*"])
        return _hit({"id": id, "distance": 1.0, "entity": rows[0]}, found) if rows else None

    def delete(self, ids: Sequence[str] = (), *, filter: str = "") -> int:  # noqa: A002
        """Takes videos out of the index, by their ids or by a filter; the files stay.

        Returns:
            How many were in it and are not any more.

        Raises:
            VideoIndexError: when there is no such collection, or the filter is wrong or names a field that no video
                has: some servers would delete all videos then.
            InputTypeError, InputValueError: for ids that are impossible.
        """
        if isinstance(ids, str):
            raise InputTypeError(f"ids must be a list of ids, not the string {brief(ids)}")
        found = self._found()
        filter = self._translate(filter, found, strict=True)  # noqa: A001
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
        found = self._find()
        recorded = None if found is None or found.model is None else found.model.model
        name = self._model_name or recorded or "clip_vit_b32"
        get_model(name)
        if found is not None and name != recorded:  # said before a checkpoint is fetched or read
            raise self._mismatch(found, name)
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
            raise self._mismatch(found, model)

    def _mismatch(self, found: _Collection, model: Identity | str) -> ModelMismatchError:
        has = f"vectors of {found.model}" if found.model else "been made by something else than clip4clip"
        return ModelMismatchError(
            f"the collection {self.collection!r} has {has}, which cannot be compared with vectors of {model}"
        )

    def _translate(self, filter: str, found: _Collection, strict: bool = False) -> str:  # noqa: A002
        """The filter as Milvus understands it; see :func:`clip4clip.index.filters.translate_filter`."""
        _text(filter, "a filter")

        def names() -> set[str]:
            rows = self._query("", ["$meta"], SAMPLE)
            there = {name for row in rows for name in row if row[name] is not None}
            return there | found.kinds.keys() - found.dims.keys() if rows else there

        def lookup(name: str, kind: str | None) -> set[str] | None:
            return self._kinds(found, name, kind)

        return translate_filter(filter, lookup, names, has_dates=found.model is not None, strict=strict)

    def _kinds(self, found: _Collection, name: str, kind: str | None) -> set[str] | None:
        """The kinds of values that videos have in a field, and for certain whether ``kind`` is one; None: not known."""
        if name in found.kinds:
            known = found.kinds[name]
            return None if known is None else {known}
        if not found.is_dynamic:
            return None
        seen = self._kinds_seen.get(name, set())
        if kind in seen or (kind is None and seen):
            return seen
        field = f"$meta[{_quoted(name)}]"
        has = self._kinds_among(name, f"exists {field}")
        if has and kind in HAVING and kind not in has:
            has |= self._kinds_among(name, HAVING[kind].format(field)) & {kind}
        self._kinds_seen[name] = seen | has
        if not has and found.model is not None and name in TABLE_FIELDS:
            return {TABLE_FIELDS[name]}
        return has

    def _kinds_among(self, name: str, filter: str) -> set[str]:  # noqa: A002
        """The kinds of values of a field in some of the videos that match."""
        rows = self._query(filter, [name], SAMPLE)
        return {_kind_of(row[name]) for row in rows if row.get(name) is not None}

    def _query(self, filter: str, fields: list[str], limit: int | None = None) -> list[dict[str, Any]]:  # noqa: A002
        with self._speaking():
            return list(
                self._client.query(
                    self.collection,
                    filter=filter,
                    output_fields=fields,
                    consistency_level=self._consistency,
                    timeout=self._timeout,
                    **({"limit": limit} if limit else {}),
                )
            )

    def _open(self, model: Identity, dim: int, frames: int | None, seek: str | None) -> _Collection:
        """The collection for vectors made so, new if there is none."""
        if self._model_name not in (None, model.model):
            raise ModelMismatchError(
                f"the vectors are of {model}, and this index was opened for the model {self._model_name}"
            )
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
        batch: dict[str, dict[str, Any]] = {}  # by id: of two in one upsert a server keeps both
        for row in rows:
            if missing := {"id", "path", "vector", "model", "fingerprint"} - row.keys():
                raise InputValueError(f"a row has no {', '.join(sorted(missing))}: {brief(dict(row))}")
            for name in ("id", "path", "model", "fingerprint"):
                if not isinstance(row[name], str) or not 0 < len(_text(row[name], name).encode()) <= MAX_NAME_BYTES:
                    raise InputValueError(
                        f"{name} must be a string of 1 to {MAX_NAME_BYTES} bytes, not {brief(row[name])}"
                    )
            what = f"the vector of {brief(row['id'])}"
            vector = _vector(row["vector"], None, what)
            found = self._open(Identity(row["model"], row["fingerprint"]), len(vector), None, None)
            told = ("model", "fingerprint", "error")  # of all
            fields = {_text(name, f"a field of {brief(row['id'])}"): row[name] for name in row.keys() - {*told}}
            fields = {name: _storable(value, name, row["id"]) for name, value in fields.items() if value is not None}
            batch[row["id"]] = fields | {"vector": _vector(vector, found.dims["vector"], what)}
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
            message = getattr(error, "message", None) or str(error)
            if self._closed:
                raise VideoIndexError(f"the index at {self.uri} has been closed: open another one") from error
            if self.is_local and isinstance(error, ConnectionConfigException):
                raise self._not_opened(error) from error
            if self._is_out_of_reach(error) or any(words in message for words in NOT_READY):
                self._known = None  # a server that was started again may have to load the collection
                self._consistency = AFTER_A_FAILURE
                raise IndexUnavailableError(f"the index at {self.uri} does not answer: {message}") from error
            if "recursion depth" in message:
                message = "the filter is nested too deeply, it has too many brackets"
            raise VideoIndexError(f"the index {self.collection!r} at {self.uri} says: {message}") from error

    def _is_out_of_reach(self, error: MilvusException | grpc.RpcError | grpc.FutureTimeoutError) -> bool:
        """Whether there was no answer, rather than one that tells of an error."""
        if isinstance(error, grpc.FutureTimeoutError):
            return True
        code = error.code() if isinstance(error, grpc.RpcError) else error.code
        if isinstance(code, grpc.StatusCode):
            return code in NO_ANSWER
        if self.is_local:  # for milvus-lite 1 is any error that it does not know
            return code in UNREACHABLE - {1}
        return code in UNREACHABLE and not isinstance(error, ParamError) and not error.message.startswith(UNEXPECTED)

    def _not_opened(self, error: ConnectionConfigException) -> VideoIndexError | MissingExtraError:
        """Why a local file cannot be opened, which pymilvus does not tell: found out by opening it once more."""
        try:
            from milvus_lite.db import MilvusLite
            from milvus_lite.exceptions import DataDirLockedError
        except ImportError:
            return MissingExtraError("a local index needs milvus-lite: pip install 'towhee-clip4clip[retrieval]'")
        if Path(self.uri).is_file():
            return VideoIndexError(f"{self.uri} is a file, and a local index is a folder: choose another name")
        try:
            MilvusLite(self.uri).close()
        except DataDirLockedError:
            return IndexUnavailableError(f"the index {self.uri} cannot be opened: another process is using it")
        except OSError as reason:
            return VideoIndexError(
                f"the index {self.uri} cannot be opened: {reason}. It must be on a disk that can be written to, even "
                "for searches"
            )
        except Exception as reason:  # whatever its files make of it
            return VideoIndexError(f"the index {self.uri} cannot be opened, it is damaged: {first_line(reason)}")
        return IndexUnavailableError(f"the index {self.uri} could not be opened, try again: {error.message}")


def is_local(uri: str) -> bool:
    """Whether an index is a file of this machine, and not on a server."""
    return "://" not in uri


def _check_server(uri: str) -> None:
    """VideoIndexError for what is not the address of a server: pymilvus would take localhost:19530 for some of it."""
    expected = "expected http(s)://HOST:PORT"
    if "@" in uri:
        raise VideoIndexError(f"the address of an index holds no user and password: {expected}, and a token")
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise VideoIndexError(f"{uri!r} is not the address of a server, {first_line(error)}: {expected}") from error
    if parts.scheme not in ("http", "https", "tcp"):
        wrong = f"{parts.scheme}:// is no protocol of Milvus"
    elif not parts.hostname:
        wrong = "it names no host"
    elif port == 0:
        wrong = "the port must be 1 to 65535"
    elif not uri.isprintable() or " " in uri:
        wrong = "it has characters that no address has"
    elif parts.query or parts.fragment or not re.fullmatch(r"(/\w*)?/?", parts.path):  # a path is a database's name
        wrong = "it has more than a host and a port"
    else:
        return
    raise VideoIndexError(f"{uri!r} is not the address of a server, {wrong}: {expected}")


def _check_collection(name: str) -> None:
    if not isinstance(name, str):
        raise InputTypeError(f"the name of a collection must be a string, not {brief(name)}")
    if not name.isprintable() or not name.strip() or name in (".", "..") or "/" in name or "\\" in name:
        raise VideoIndexError(
            f"{brief(name)} cannot be the name of a collection: use letters, digits and underscores, a letter first"
        )


def _read_recipe(table: str | os.PathLike[str]) -> TableSpec:
    """How the vectors of a table were made."""
    from ..library.table import TableSpec

    path = Path(table)
    if path.is_dir():
        raise LibraryError(f"{path} is a folder: expected a table that `clip4clip embed` wrote; or call sync with it")
    if not path.is_file():
        raise LibraryError(f"there is no table at {path}: write one by `clip4clip embed SOURCE -o FILE.parquet`")
    return TableSpec.of(path)


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
        kinds={each["name"]: KINDS.get(each["type"]) for each in fields},
        is_dynamic=bool(description.get("enable_dynamic_field")),
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
    """A key in a filter."""
    if found.id_is_text:
        return _quoted(_text(str(name), "an id"))
    try:
        key = int(name) if isinstance(name, str) else operator.index(name)
    except (TypeError, ValueError):
        raise InputValueError(f"{brief(name)} is no key of a collection whose keys are whole numbers") from None
    if not -(2**63) < key < 2**63:
        raise InputValueError(f"{brief(name)} is no key of a collection: more than 64 bits")
    return str(key)


def _quoted(text: str) -> str:
    """A string in a filter. Other characters stay as they are: milvus-lite knows no other escapes."""
    return '"' + text.translate(_ESCAPES) + '"'


_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


def _is_gone(path: str, unlisted: Iterable[str]) -> bool:
    """Whether a file is not there any more, and not just where nobody may look, behind a link, or of another kind."""
    return not os.path.lexists(path) and not any(Path(path).is_relative_to(folder) for folder in unlisted)


def _text(value: Any, what: str) -> str:
    """The string itself, if Milvus can take it."""
    if not isinstance(value, str):
        raise InputTypeError(f"{what} must be a string, not {brief(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputValueError(f"{what} must be valid Unicode, not {brief(value)}: {error.reason}") from None
    return value


def _storable(value: Any, name: str, id: str) -> Any:  # noqa: A002
    """A field's value as JSON, and so Milvus, holds it: numpy's numbers and arrays as Python's, dates as strings."""

    def plain(part: Any) -> Any:
        if isinstance(part, np.generic | np.ndarray):
            return part.tolist()
        if isinstance(part, date):
            return part.isoformat()
        raise TypeError(f"{type(part).__name__} is no kind of JSON")

    try:
        text = json.dumps(value, default=plain, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputValueError(
            f"the field {name} of {brief(id)} cannot be stored, {first_line(error)}: {brief(value)}"
        ) from error
    value = json.loads(text)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InputValueError(f"the field {name} of {brief(id)} cannot be stored, more than 64 bits: {brief(value)}")
    return value


def _kind_of(value: Any) -> str:
    """The kind of a field's value, as filters name it."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "list" if isinstance(value, list) else "object"


def _vector(vector: Any, dim: int | None, what: str) -> np.ndarray:
    """float32 of shape (dim,), finite and not all zeros; of any length where ``dim`` is None."""
    try:
        array = np.asarray(vector)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(f"{what} must be numbers, not {brief(vector)}: {first_line(error)}") from error
    if array.dtype.kind not in "fiu":
        raise InputTypeError(f"{what} must be numbers, not {brief(vector)}")
    if array.ndim != 1 or len(array) != (dim or len(array)):
        raise InputValueError(f"{what} has shape {array.shape}; this index has vectors of shape ({dim or 'n'},)")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all() or not array.any():
        raise InputValueError(f"{what} is not finite, or all zeros")
    return array
