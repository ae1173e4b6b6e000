"""Store and search rows in a collection of a Milvus server or of Zilliz Cloud.

pymilvus is imported here and nowhere else.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import IndexUnavailableError, InputValueError, MissingExtraError, VideoIndexError, brief
from ..video.moments import choose_moments
from .address import IndexAddress
from .collection import CollectionInfo, VectorSpec
from .engine import Failure
from .filters.kinds import FieldKinds
from .filters.milvus import to_milvus
from .filters.parse import quote
from .hit import Hit, to_hit
from .info import Content, summarise
from .values import (
    MAX_LIMIT,
    MAX_STRING_BYTES,
    check_limit,
    check_output_fields,
    check_per_video,
    check_text,
    to_vector,
    to_vectors,
)

try:
    import grpc
    from pymilvus import DataType, MilvusClient, MilvusException
    from pymilvus.exceptions import ParamError
except ImportError as error:  # pragma: no cover
    raise MissingExtraError("an index on a server needs pymilvus: pip install 'towhee-clip4clip[milvus]'") from error

HIT_FIELDS = ("path", "video", "start", "end")  # attributes of a hit, whatever other fields it gets
SEGMENTS = "id != video"  # filter for the rows that are a part of a video
SPEC_PROPERTY = "clip4clip"  # property of a collection that holds its VectorSpec
ID_BATCH = 500
READ_BATCH = 10_000
SLOW_TIMEOUT = 60.0  # minimum, in seconds, for operations that take a server longer than a search

# Parameters of a server's HNSW index. HNSW_EF, the number of candidates in a search, determines the recall.
HNSW_M, HNSW_EF_CONSTRUCTION, HNSW_EF = 16, 200, 256

OVERFETCH = 4  # factor between the numbers of rows that are searched for until there are enough of different videos
GROUPING_VERSION = (2, 5)  # of a server that can return several rows of each group; others ignore the option

CONSISTENCY = "Session"  # a search finds what this process has written
CONSISTENCY_AFTER_FAILURE = "Strong"  # waits until a restarted server has read its log, without which rows are missed

UNAVAILABLE_CODES = {1, 2}  # Milvus's codes for a server that is not ready, and for one that cannot be reached
UNAVAILABLE_STATUS = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
NOT_READY_WORDS = ("find no available", "not loaded", "not ready", "not healthy")  # in the errors of a starting server
CLIENT_SIDE_PREFIX = "Unexpected error, message=<"  # of errors that pymilvus raised before it sent anything

KIND_BY_TYPE = {
    DataType.VARCHAR: "string",
    DataType.BOOL: "boolean",
    **dict.fromkeys((DataType.INT8, DataType.INT16, DataType.INT32, DataType.INT64), "number"),
    **dict.fromkeys((DataType.FLOAT, DataType.DOUBLE), "number"),
}

logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it also logs the errors that it raises


class MilvusCollection:
    """A collection on a Milvus server, which need not exist yet: an :class:`clip4clip.index.engine.Engine`.

    Safe to use from several threads at once. A search is approximate: an HNSW index may miss a row.

    A collection of another program may have any schema. Its filters are in the server's own language, and are neither
    checked nor changed.

    Args:
        address: where the collection is.
        timeout: seconds to wait for an answer from the server.

    Raises:
        IndexUnavailableError: the server does not answer. All methods raise it as well.
        VideoIndexError: the server reports an error. All methods raise it as well.
    """

    def __init__(self, address: IndexAddress, timeout: float = 10.0) -> None:
        self.address = address
        self._timeout, self._slow_timeout = timeout, max(timeout, SLOW_TIMEOUT)
        self._info: CollectionInfo | None = None
        self._info_lock = threading.RLock()
        self._consistency = CONSISTENCY
        self._field_kinds = FieldKinds(self._query)
        self._closed = False
        options = {"grpc.max_reconnect_backoff_ms": 1000}  # by default a restarted server is noticed after minutes
        with self._translate_errors():
            self._client = MilvusClient(address.uri, token=address.token or "", timeout=timeout, grpc_options=options)

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._client.close()

    def find(self) -> CollectionInfo | None:
        """Return the metadata of the collection, and load it for searches; None if it does not exist."""
        if (info := self._info) is not None:
            return info
        name = self.address.collection
        with self._info_lock, self._translate_errors():
            if (info := self._info) is not None:
                return info
            if not self._client.has_collection(name, timeout=self._timeout):
                return None
            info = _parse_collection(self._client.describe_collection(name, timeout=self._timeout))
            self._client.load_collection(name, timeout=self._slow_timeout)
            self._info = info
            return info

    def require(self) -> CollectionInfo:
        """Return the metadata of the collection; raise VideoIndexError if it does not exist."""
        info = self.find()
        if info is None:
            raise VideoIndexError(
                f"there is no collection {self.address.collection!r} in {self.address.uri}: create it with "
                "`clip4clip index` or VideoIndex.create"
            )
        return info

    def create(self, spec: VectorSpec, dim: int) -> None:
        """Create the collection for rows of videos: ``id``, ``path``, ``video``, ``vector`` and any other fields.

        Do nothing if the collection exists, for example because another thread has just created it.

        Args:
            spec: how the vectors are computed.
            dim: length of a vector.
        """
        with self._info_lock:
            if self.find() is not None:
                return
            record = spec.to_json()  # some servers lose properties: the record is stored as the description, too
            schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True, description=record)
            schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=MAX_STRING_BYTES)
            schema.add_field("path", DataType.VARCHAR, max_length=MAX_STRING_BYTES)
            schema.add_field("video", DataType.VARCHAR, max_length=MAX_STRING_BYTES)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
            index = MilvusClient.prepare_index_params()
            parameters = {"M": HNSW_M, "efConstruction": HNSW_EF_CONSTRUCTION}
            index.add_index("vector", index_type="HNSW", metric_type="COSINE", params=parameters)
            with self._translate_errors():
                self._client.create_collection(
                    self.address.collection,
                    schema=schema,
                    index_params=index,
                    consistency_level=CONSISTENCY,
                    properties={SPEC_PROPERTY: record},
                    timeout=self._slow_timeout,
                )

    def insert(self, *values: Any) -> Any:
        """Add one row to a collection of any schema, or replace the row with the same key.

        Args:
            *values: one for each field, in the order of the schema. A collection of this package takes id, path and
                vector; the path may be left out.

        Returns:
            The primary key of the row.

        Raises:
            InputTypeError, InputValueError: the number of values is not the number of fields, or a vector or a key
                cannot be stored.
            VideoIndexError: the collection does not exist.
        """
        info = self.require()
        names = list(info.fields)
        if info.spec is not None:
            names = ["id", "path", "vector"] if len(values) > 2 else ["id", "vector"]
        if len(values) != len(names):
            fields = info.fields if info.spec is None else ("id", "path", "vector")
            raise InputValueError(
                f"got {len(values)} values for the fields {', '.join(fields)} of the collection "
                f"{self.address.collection!r}"
            )
        row = dict(zip(names, values, strict=True))
        if info.id_is_text and info.id_field in row:
            row[info.id_field] = check_text(str(row[info.id_field]), "an id")
        for name in row.keys() & info.dims.keys():
            row[name] = to_vector(row[name], info.dims[name], f"the {name} of {brief(values[0])}")
        if info.spec is not None:
            row |= {"path": check_text(str(row.get("path", row["id"])), "a path"), "video": row["id"]}
        with self._translate_errors():
            write = self._client.upsert if info.id_field in row else self._client.insert
            answer = write(self.address.collection, [row], timeout=self._timeout)
        return answer["ids"][0] if answer.get("ids") else row.get(info.id_field)

    def upsert(self, rows: Mapping[str, dict[str, Any]], videos: Iterable[str] = ()) -> None:
        """Add rows, or replace those with the same ids with all their fields. They are stored when this returns.

        Args:
            rows: rows from :func:`clip4clip.index.values.to_stored_row`, by id. Their ids must differ, because a server
                would store two rows with the same id.
            videos: ids of videos whose other rows are deleted, once the new ones are stored.

        Raises:
            InputTypeError, InputValueError: a vector has the wrong length or cannot be stored.
        """
        if not rows:
            return
        info = self.require()
        vectors = to_vectors([row["vector"] for row in rows.values()], info.dims["vector"], [*rows])
        stored = [row | {"vector": vector} for row, vector in zip(rows.values(), vectors, strict=True)]
        others = [id_ for id_ in self._find_rows_of_videos(videos) if id_ not in rows]
        with self._translate_errors():
            self._client.upsert(self.address.collection, stored, timeout=self._slow_timeout)
            self._delete_matching(_filters(info, "id", others))

    def _find_rows_of_videos(self, videos: Iterable[str]) -> list[str]:
        """Return the ids of all rows of these videos."""
        info = self.require()
        conditions = _filters(info, "video", [*videos])
        if not conditions or not self.count():  # which waits for what others have written
            return []
        return [row["id"] for condition in conditions for row in self._read_in_order(info, ["id"], condition)]

    def _delete_matching(self, conditions: Iterable[str]) -> None:
        for condition in conditions:
            self._client.delete(self.address.collection, filter=condition, timeout=self._timeout)

    def check_filter(self, text: str, strict: bool = False) -> None:
        """Check a filter without running it. Log a warning about fields that no row has.

        Args:
            text: filter; empty for none.
            strict: raise an error for a field that no row has, rather than log a warning.

        Raises:
            InputTypeError, InputValueError: ``text`` is not a string of valid Unicode.
            VideoIndexError: the filter is invalid. Only the server can check a filter of another program's collection.
        """
        self._translate_filter(text, strict)

    def _translate_filter(self, text: str, strict: bool = False, warn: bool = True) -> str:
        """Return a filter in Milvus's language, empty for none."""
        check_text(text, "a filter")
        info = self.require()
        if info.spec is None:
            return text.strip()
        condition = self._field_kinds.parse(text, info, strict=strict, warn=warn)
        return to_milvus(condition, info.kinds.keys() - info.dims.keys())

    def search(
        self,
        vector: Any,
        limit: int = 10,
        *,
        filter: str = "",  # noqa: A002  Milvus's word
        per_video: int | None = None,
        output_fields: Sequence[str] = ("*",),
        **options: Any,
    ) -> list[Hit]:
        """Return the rows nearest to a vector, the nearest first.

        In a collection that clip4clip created, rows whose time ranges overlap that of a nearer row of the same video
        are left out. There may then be fewer than ``limit`` hits, or with ``per_video``, if the nearest 16,384 rows, as
        many as a server returns, are of few videos.

        Args:
            vector: float32, with the length of the stored vectors.
            limit: largest number of rows, up to 16,384.
            filter: filter, as for :meth:`check_filter`; empty for none.
            per_video: largest number of rows of each video, its nearest ones; None for all.
            output_fields: fields to return; ``*`` for all except the vector, which is float32 of shape (dim,).
            **options: options of ``MilvusClient.search``, such as ``search_params`` and ``anns_field``.

        Raises:
            InputTypeError, InputValueError: an argument is invalid.
            VideoIndexError: the collection does not exist, or the filter is invalid.
        """
        limit = check_limit(limit)
        check_per_video(per_video)
        check_output_fields(output_fields)
        info = self.require()
        field = options.pop("anns_field", next(iter(info.dims), "vector"))
        if field not in info.dims:
            raise InputValueError(
                f"{field!r} is not a field of float vectors in {self.address.collection!r}; "
                f"its fields of float vectors are: {', '.join(info.dims) or 'none'}"
            )
        if per_video is not None and info.spec is None:
            raise InputValueError(
                f"per_video needs a collection that clip4clip created, which {self.address.collection!r} is not"
            )
        names = [*output_fields, *(HIT_FIELDS if info.spec is not None else ())]
        if "*" in names:  # beside the name of a dynamic field, a server would return no others for it
            names = [name for name in names if name == "*" or name in info.kinds]
        options |= {
            "data": [to_vector(vector, info.dims[field], "the vector to search for")],
            "anns_field": field,
            "filter": self._translate_filter(filter, warn=False),
            "output_fields": list(dict.fromkeys(names)),
        }
        if info.spec is None:
            rows = self._search(info, limit, options)
        else:
            rows = self._search_moments(info, limit, per_video, options)
        return [_to_hit(row, info, output_fields) for row in rows]

    def _search(self, info: CollectionInfo, limit: int, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        options = {"timeout": self._timeout, "consistency_level": self._consistency, **options}
        if info.spec is not None:
            options.setdefault("search_params", {"params": {"ef": max(HNSW_EF, limit)}})
        with self._translate_errors():
            answer = self._client.search(self.address.collection, limit=limit, **options)
        self._consistency = CONSISTENCY
        return list(answer[0])

    def _search_moments(
        self, info: CollectionInfo, limit: int, per_video: int | None, options: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Search for more and more rows, until enough of them are left when moments are chosen."""
        size = limit if per_video is None else min(limit * OVERFETCH, MAX_LIMIT)
        while True:
            rows = self._search(info, size, options)
            best = _choose(rows, per_video)
            if len(best) >= limit or len(rows) < size:
                break
            if size == MAX_LIMIT:
                if per_video is not None:
                    best = max(best, self._search_groups(info, limit, per_video, options), key=len)
                break
            size = min(size * OVERFETCH, MAX_LIMIT)
        return best[:limit]

    def _search_groups(
        self, info: CollectionInfo, limit: int, per_video: int, options: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Let the server look for the nearest videos and the best rows of each; no rows if it cannot.

        The best ``limit`` rows are of at most as many videos.
        """
        with self._translate_errors():
            version = re.search(r"(\d+)\.(\d+)", self._client.get_server_version(timeout=self._timeout))
        if version is None or (int(version[1]), int(version[2])) < GROUPING_VERSION:
            return []
        groups = {"group_by_field": "video", "group_size": int(per_video), "strict_group_size": True}
        rows = self._search(info, limit, {**options, **groups})
        rows.sort(key=lambda row: -row["distance"])
        return _choose(rows, per_video)

    def best_scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return the similarity of the nearest row to each vector, float64 of shape (m,); of shape (0,) without rows.

        Args:
            vectors: float32 of shape (m, dim), norm 1.
        """
        self.require()
        with self._translate_errors():
            answer = self._client.search(
                self.address.collection,
                data=[*vectors],
                anns_field="vector",
                limit=1,
                search_params={"params": {"ef": HNSW_EF}},
                consistency_level=self._consistency,
                timeout=self._slow_timeout,
            )
        return np.array([rows[0]["distance"] for rows in answer if rows], np.float64)

    def get(self, id: Any) -> Hit | None:  # noqa: A002
        """Return the row with an id, with the score 1; None if there is no such row."""
        info = self.require()
        [condition] = _filters(info, info.id_field, [id])
        rows = self._query(condition, ["*"])
        return _to_hit({"id": id, "distance": 1.0, "entity": rows[0]}, info) if rows else None

    def rows_of_video(self, video: str) -> list[Hit]:
        """Return all rows of a video by its id, with the score 1; none if there is no such video.

        A collection of another program has none.
        """
        info = self.require()
        if info.spec is None:
            return []
        [condition] = _filters(info, "video", [video])
        return [to_hit(row) for row in self._query(condition, ["*"])]

    def rows(
        self,
        fields: Sequence[str],
        filter: str = "",  # noqa: A002
        by_video: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Yield all rows in the order of their ids, each with these fields.

        A server of version 2.3 may or may not return rows that are written during the iteration; a newer one returns
        the rows as they were at its beginning.

        Args:
            fields: names of fields; ``*`` for all except the vector. A row lacks those that it does not have.
            filter: filter, as for :meth:`check_filter`; empty for none.
            by_video: yield the rows of a video one after another. If videos have several rows, all rows are then held
                in memory.

        Raises:
            VideoIndexError: the filter is invalid.
        """
        info = self.require()
        check_output_fields(fields)
        names = {*fields, info.id_field}
        if "*" in names:  # which a server takes to mean the vectors as well
            names = (names - {"*"}) | (info.kinds.keys() - info.dims.keys()) | ({"$meta"} if info.is_dynamic else set())
        condition = self._translate_filter(filter, warn=False)
        if not by_video or info.spec is None or not self._count(SEGMENTS):
            return self._iterate(info, sorted(names), condition)
        rows = self._iterate(info, sorted({*names, "video"}), condition)
        return iter(sorted(rows, key=lambda row: str(row["video"])))

    def _iterate(self, info: CollectionInfo, fields: list[str], condition: str) -> Iterator[dict[str, Any]]:
        """Yield all rows that match a condition, in the order of their ids."""
        self.count()  # waits for what others have written, which an iterator does not
        yield from self._read_in_order(info, fields, condition)

    def _read_in_order(self, info: CollectionInfo, fields: list[str], condition: str) -> Iterator[dict[str, Any]]:
        """Yield all rows that match a condition. pymilvus's iterator breaks at a quote or a backslash in an id."""
        options: dict[str, Any] = {}
        batch: Any = []
        while True:
            cursor = f"{info.id_field} > {_id_literal(info, batch[-1][info.id_field])}" if batch else ""
            both = f"{cursor} and ({condition})" if cursor and condition else cursor or condition
            with self._translate_errors():
                # Only an iterator gets the rows of all segments in the order of their ids.
                batch = self._client.query(
                    self.address.collection,
                    filter=both,
                    output_fields=fields,
                    limit=READ_BATCH,
                    iterator="True",
                    reduce_stop_for_best="True",
                    timeout=self._slow_timeout,
                    **options,
                )
            if not batch:
                return
            if moment := batch.extra.get("iterator_session_ts"):  # of the state that a newer server reads from
                options = {"guarantee_timestamp": moment}
            yield from ({name: value for name, value in row.items() if value is not None} for row in batch)

    def delete(self, ids: Sequence[Any] = (), *, filter: str = "") -> int:  # noqa: A002
        """Delete rows by their ids or those of their videos, and those that match a filter.

        Args:
            ids: ids of rows, or of videos, all of whose rows are deleted; those that do not exist are ignored.
            filter: filter, as for :meth:`check_filter`; empty for none.

        Returns:
            The number of deleted rows.

        Raises:
            VideoIndexError: the filter is invalid, or has a field that no row has: some servers would delete all rows.
        """
        info = self.require()
        condition = self._translate_filter(filter, strict=True)
        conditions = _filters(info, info.id_field, ids)
        if info.spec is not None:
            conditions += _filters(info, "video", ids)
        with self._translate_errors():
            count_before = self.count()
            self._delete_matching([*conditions, *([condition] if condition else [])])
            return count_before - self.count()

    def count(self) -> int:
        """Return the number of rows."""
        self.require()
        return self._count("")

    def version(self) -> str:
        """Return the number of rows as a text: a server keeps no version of a collection."""
        return str(self.count())

    def count_videos(self) -> int:
        """Return the number of videos. It reads the rows of those that have several."""
        info = self.require()
        if info.spec is None or not self._count(SEGMENTS):
            return self.count()
        names = {row["video"] for row in self._iterate(info, ["id", "video"], SEGMENTS)}
        both = sum(self._count(f"{text} and id == video") for text in _filters(info, "id", [*names]))
        return self._count("id == video") + len(names) - both

    def _count(self, condition: str) -> int:
        with self._translate_errors():
            answer = self._client.query(
                self.address.collection,
                filter=condition,
                output_fields=["count(*)"],
                consistency_level="Strong",
                timeout=self._timeout,
            )
        return int(answer[0]["count(*)"])

    def content(self) -> Content:
        """Return how many rows and videos there are, and which fields they have. It reads all rows."""
        return summarise(self.rows(["*"]))

    def update_paths(self, changes: Mapping[str, tuple[str, str]], videos: Mapping[str, str]) -> None:
        """Give rows new ids and paths, and videos new ids. Vectors and all other fields stay.

        If the call is interrupted, some videos exist under both ids: repeat it.

        Args:
            changes: new id and new path of each row, by its old id. Ids that do not exist are ignored.
            videos: new id of each video, by its old id, for all rows of the video.

        Raises:
            VideoIndexError: another row or video has one of the new ids. Nothing is changed then.
        """
        info = self.require()
        self.count()  # waits for what others have written
        self._check_unused(info, "id", {id_: new_id for id_, (new_id, _) in changes.items()})
        self._check_unused(info, "video", videos)
        rows: dict[str, dict[str, Any]] = {}
        for field, names in (("id", changes), ("video", videos)):
            for condition in _filters(info, field, [*names]):
                read = self._read_in_order(info, ["id", "path", "video"], condition)
                rows |= {row["id"]: row for row in read}
        places = {id_: changes.get(id_, (id_, row["path"])) for id_, row in rows.items()}
        video_of = {id_: row["video"] for id_, row in rows.items()}
        for batch in _in_order({id_: place[0] for id_, place in places.items()}, video_of):
            self._move(info, {id_: (*places[id_], videos.get(video_of[id_], video_of[id_])) for id_ in batch})

    def _move(self, info: CollectionInfo, places: Mapping[str, tuple[str, str, str]]) -> None:
        """Give rows new ids, paths and videos, by their old ids."""
        moved: list[dict[str, Any]] = []
        for condition in _filters(info, "id", [*places]):
            for row in self._query(condition, ["*", *info.dims], timeout=self._slow_timeout):
                new_id, path, video = places[row["id"]]
                moved.append(row | {"id": new_id, "path": path, "video": video})
        with self._translate_errors():
            self._client.upsert(self.address.collection, moved, timeout=self._slow_timeout)
            self._delete_matching(_filters(info, "id", list(places.keys() - {row["id"] for row in moved})))

    def update_fields(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Set fields of rows by their ids. Vectors and other fields stay.

        What others have written before is waited for. But a server cannot change a single field: rows are read and
        written as a whole. So a row that others replace or delete between the two gets its earlier state back.

        Args:
            changes: new values of fields that are not in the schema, by the id of the row; None removes a field. Ids
                that do not exist are ignored.
        """
        info = self.require()
        self.count()  # waits for what others have written
        for condition in _filters(info, "id", [*changes]):
            rows = self._query(condition, ["*", *info.dims], timeout=self._slow_timeout)
            updated = [
                {name: value for name, value in {**row, **changes[row["id"]]}.items() if value is not None}
                for row in rows
            ]
            with self._translate_errors():
                if updated:
                    self._client.upsert(self.address.collection, updated, timeout=self._slow_timeout)

    def _check_unused(self, info: CollectionInfo, field: str, new_ids: Mapping[str, str]) -> None:
        """Raise VideoIndexError if a row that keeps its id, or its video, has one of the new ids of others."""
        uses = Counter(new_ids.values())
        used = [id_ for id_, count in uses.items() if count > 1]
        for condition in _filters(info, field, [id_ for id_ in uses if id_ not in new_ids]):
            used += [row[field] for row in self._query(condition, [field], limit=1)]
        if used:
            raise VideoIndexError(
                f"the index already has a video with the id {brief(used[0])}: delete one of the two first"
            )

    def failures(self, paths: Sequence[str]) -> dict[str, Failure]:  # noqa: ARG002
        """Return nothing: a server has no place for the failures of videos."""
        return {}

    def record_failures(self, failures: Iterable[Failure]) -> None:
        """Do nothing: a server has no place for the failures of videos, which are tried again each time."""

    def forget_failures(self, paths: Sequence[str]) -> None:
        """Do nothing: a server has no place for the failures of videos."""

    def index_field(self, name: str) -> None:
        """Raise VideoIndexError: a server has indexes of its own.

        Args:
            name: name of the field.
        """
        raise VideoIndexError(
            f"the field {brief(name)} cannot have an index at {self.address.uri}: a server indexes fields by its own "
            "means, such as MilvusClient.create_index"
        )

    def finish(self) -> None:
        """Move new rows from the log into the index. Rows in the log are safe too, but slower to search."""
        if self.find() is not None:
            with self._translate_errors():
                self._client.flush(self.address.collection, timeout=self._slow_timeout)

    def _query(
        self,
        filter: str,  # noqa: A002
        fields: list[str],
        limit: int | None = None,
        timeout: float | None = None,
    ) -> list[dict[str, Any]]:
        with self._translate_errors():
            return list(
                self._client.query(
                    self.address.collection,
                    filter=filter,
                    output_fields=fields,
                    consistency_level=self._consistency,
                    timeout=timeout or self._timeout,
                    **({"limit": limit} if limit else {}),
                )
            )

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Translate Milvus errors into this package's."""
        try:
            yield
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
            uri = self.address.uri
            message = getattr(error, "message", None) or str(error)
            if self._closed:
                raise VideoIndexError(f"the index at {uri} has been closed: open another one") from error
            if self._is_unavailable(error) or any(words in message for words in NOT_READY_WORDS):
                self._info = None  # a restarted server may have to load the collection again
                self._consistency = CONSISTENCY_AFTER_FAILURE
                raise IndexUnavailableError(f"the index at {uri} does not answer: {message}") from error
            raise VideoIndexError(f"the index {self.address.collection!r} at {uri} says: {message}") from error

    def _is_unavailable(self, error: MilvusException | grpc.RpcError | grpc.FutureTimeoutError) -> bool:
        """Return whether the server did not answer, as opposed to answering with an error."""
        if isinstance(error, grpc.FutureTimeoutError):
            return True
        code = error.code() if isinstance(error, grpc.RpcError) else error.code
        if isinstance(code, grpc.StatusCode):
            return code in UNAVAILABLE_STATUS
        if code not in UNAVAILABLE_CODES:
            return False
        return not isinstance(error, ParamError) and not error.message.startswith(CLIENT_SIDE_PREFIX)


def _parse_collection(description: Mapping[str, Any]) -> CollectionInfo:
    record = description.get("properties", {}).get(SPEC_PROPERTY) or description.get("description") or "{}"
    fields = description["fields"]
    key = next(field for field in fields if field.get("is_primary"))
    return CollectionInfo(
        spec=VectorSpec.from_json(record),
        dims={field["name"]: int(field["params"]["dim"]) for field in fields if field["type"] == DataType.FLOAT_VECTOR},
        id_field=key["name"],
        id_is_text=key["type"] == DataType.VARCHAR,
        fields=[field["name"] for field in fields if not field.get("auto_id")],
        kinds={field["name"]: KIND_BY_TYPE.get(field["type"]) for field in fields},
        is_dynamic=bool(description.get("enable_dynamic_field")),
    )


def _to_hit(row: Mapping[str, Any], info: CollectionInfo, output_fields: Sequence[str] = ("*",)) -> Hit:
    """Return a row that a search of Milvus found as a hit.

    In a collection of another program, the key and the vectors become fields only if ``output_fields`` names them.
    """
    fields = dict(row["entity"])
    for name in info.dims:
        if fields.get(name) is not None:
            fields[name] = np.asarray(fields[name], np.float32)  # a list of Python numbers takes eight times the memory
    id_ = row.get(info.id_field, row.get("id"))
    score = float(row["distance"])
    if info.spec is not None:
        return to_hit(fields | {"id": id_}, score, output_fields)
    path = str(fields.pop("path", None) or "")
    for name in {*info.dims, info.id_field} - {*output_fields}:
        fields.pop(name, None)
    return Hit(id_, path, score, {name: value for name, value in fields.items() if value is not None})


def _choose(rows: Sequence[dict[str, Any]], per_video: int | None) -> list[dict[str, Any]]:
    """Return the rows that :func:`choose_moments` keeps, in the same order, the nearest first."""
    entities = (row["entity"] for row in rows)
    moments = ((entity["video"], entity.get("start"), entity.get("end")) for entity in entities)
    return [rows[position] for position in choose_moments(moments, per_video)]


def _in_order(new_ids: Mapping[str, str], videos: Mapping[str, str]) -> Iterator[list[str]]:
    """Yield the ids to change in batches, such that a row is changed before another one gets its id.

    The rows of a video are in one batch, and so are rows that exchange their ids.

    Args:
        new_ids: new id of each row, by its old id.
        videos: video of each row, by its old id.
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for id_ in new_ids:
        groups[videos[id_]].append(id_)
    batch: list[str] = []
    done: set[str] = set()
    for first in groups:
        waiting = [first]
        while waiting:
            video = waiting.pop()
            if video not in done:
                done.add(video)
                batch += groups[video]
                waiting += [videos[new_ids[id_]] for id_ in groups[video] if new_ids[id_] in videos]
        if len(batch) >= ID_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _filters(info: CollectionInfo, field: str, ids: Sequence[Any]) -> list[str]:
    """Return filters that match the rows with one of these ids in a field. A filter has a limited length."""
    parts = [ids[start : start + ID_BATCH] for start in range(0, len(ids), ID_BATCH)]
    # pymilvus's own filter breaks at a quote in an id.
    return [f"{field} in [{', '.join(_id_literal(info, id_) for id_ in part)}]" for part in parts]


def _id_literal(info: CollectionInfo, id_: Any) -> str:
    if info.id_is_text:
        return quote(check_text(str(id_), "an id"))
    try:
        key = int(id_) if isinstance(id_, str) else operator.index(id_)
    except (TypeError, ValueError):
        raise InputValueError(f"{brief(id_)} is not a key of this collection, whose keys are whole numbers") from None
    if not -(2**63) < key < 2**63:
        raise InputValueError(f"{brief(id_)} is not a key of this collection: it has more than 64 bits")
    return str(key)
