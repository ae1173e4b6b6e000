"""Store and search rows in a Milvus collection: in a local folder (milvus-lite), on a server or in Zilliz Cloud.

pymilvus is imported here and nowhere else.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import IndexUnavailableError, InputValueError, MissingExtraError, VideoIndexError, brief, first_line
from .address import IndexAddress
from .collection import CollectionInfo, VectorSpec
from .field_kinds import FieldKinds
from .filter_milvus import to_milvus
from .filters import quote
from .hit import Hit
from .values import MAX_STRING_BYTES, check_limit, check_output_fields, check_text, to_vector

try:
    import grpc
    from pymilvus import DataType, MilvusClient, MilvusException
    from pymilvus.exceptions import ConnectionConfigException, ParamError
except ImportError as error:  # pragma: no cover
    raise MissingExtraError("an index needs pymilvus: pip install 'towhee-clip4clip[retrieval]'") from error

SPEC_PROPERTY = "clip4clip"  # property of a collection that holds its VectorSpec
DELETE_BATCH = 500
READ_BATCH = 10_000
SLOW_TIMEOUT = 60.0  # minimum, in seconds, for operations that take a server longer than a search

# Parameters of a server's HNSW index. HNSW_EF, the number of candidates in a search, determines the recall.
HNSW_M, HNSW_EF_CONSTRUCTION, HNSW_EF = 16, 200, 256

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

# All clients of a local folder in this process share one milvus-lite server, which takes one writer at a time.
_local_lock = threading.Lock()
_local_clients: Counter[str] = Counter()
_local_write_locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)

# pymilvus also logs the errors that it raises. milvus-lite's server logs an optional call that it does not support.
for name in ("pymilvus", "grpc._server", "milvus_lite"):
    logging.getLogger(name).setLevel(logging.CRITICAL)


class MilvusCollection:
    """A collection of Milvus, which need not exist yet. Safe to use from several threads at once.

    Args:
        address: where the collection is.
        timeout: seconds to wait for an answer from a server.

    Raises:
        IndexUnavailableError: the server does not answer, or another process uses the local folder. All methods raise
            it as well.
        VideoIndexError: the local folder cannot be opened. All methods raise it for errors that Milvus reports.
        MissingExtraError: the address is a local folder, and milvus-lite is not installed.
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
        if address.is_local:
            options["grpc.keepalive_time_ms"] = 2**31 - 1  # milvus-lite takes pymilvus's pings for an attack
        no_lock = contextlib.nullcontext()
        self._connection_lock = _local_lock if address.is_local else no_lock
        with self._connection_lock, self._translate_errors():
            self._write_lock = _local_write_locks[address.uri] if address.is_local else no_lock
            self._client = MilvusClient(address.uri, token=address.token or "", timeout=timeout, grpc_options=options)
            if address.is_local:
                _local_clients[address.uri] += 1

    def close(self) -> None:
        """Close the connection. The last one to close a local folder frees it for other processes."""
        if self._closed:
            return
        self._closed = True
        with self._connection_lock:
            self._client.close()
            if self.address.is_local:
                _local_clients[self.address.uri] -= 1
                if _local_clients[self.address.uri] == 0:
                    from milvus_lite.server_manager import server_manager_instance

                    server_manager_instance.release_server(self.address.uri)

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
        """Create the collection for rows of videos (``id``, ``path``, ``vector`` and any other fields).

        Does nothing if the collection exists, for example because another thread has just created it.

        Args:
            spec: how the vectors are computed.
            dim: length of a vector.
        """
        with self._write_lock, self._info_lock:
            if self.find() is not None:
                return
            # milvus-lite loses a description, and some servers lose properties: the record is stored as both.
            record = spec.to_json()
            schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True, description=record)
            schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=MAX_STRING_BYTES)
            schema.add_field("path", DataType.VARCHAR, max_length=MAX_STRING_BYTES)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
            index = MilvusClient.prepare_index_params()
            # An exact search by milvus-lite is as fast as its HNSW.
            kind: dict[str, Any] = {"index_type": "FLAT"} if self.address.is_local else {"index_type": "HNSW"}
            if not self.address.is_local:
                kind["params"] = {"M": HNSW_M, "efConstruction": HNSW_EF_CONSTRUCTION}
            index.add_index("vector", metric_type="COSINE", **kind)
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
        names = [name for name in info.fields if name != "path" or info.spec is None or len(values) > 2]
        if len(values) != len(names):
            raise InputValueError(
                f"got {len(values)} values for the fields {', '.join(info.fields)} of the collection "
                f"{self.address.collection!r}"
            )
        row = dict(zip(names, values, strict=True))
        if info.spec is not None:
            row = {"path": str(values[0])} | row
        if info.id_is_text and info.id_field in row:
            row[info.id_field] = check_text(str(row[info.id_field]), "an id")
        for name in row.keys() & info.dims.keys():
            row[name] = to_vector(row[name], info.dims[name], f"the {name} of {brief(values[0])}")
        with self._write_lock, self._translate_errors():
            if info.spec is not None:
                [row] = self._clear_stale_fields({row["id"]: row}, info)
            write = self._client.upsert if info.id_field in row else self._client.insert
            answer = write(self.address.collection, [row], timeout=self._timeout)
        return answer["ids"][0] if answer.get("ids") else row.get(info.id_field)

    def upsert(self, rows: Mapping[str, dict[str, Any]]) -> None:
        """Add rows of videos, or replace those with the same ids.

        Args:
            rows: rows from :func:`clip4clip.index.values.to_stored_row`, by id. Their ids must differ, because a server
                would store two rows with the same id.
        """
        info = self.require()
        with self._write_lock, self._translate_errors():
            self._client.upsert(
                self.address.collection, self._clear_stale_fields(rows, info), timeout=self._slow_timeout
            )

    def translate_filter(self, text: str, strict: bool = False) -> str:
        """Return a filter for :meth:`search` and :meth:`delete`, checked and in Milvus's syntax.

        Arguments and errors are those of :func:`clip4clip.index.filters.parse_filter`.
        """
        check_text(text, "a filter")
        info = self.require()
        condition = self._field_kinds.parse(text, info, strict)
        return to_milvus(condition, info.kinds.keys() - info.dims.keys())

    def search(
        self,
        vector: Any,
        limit: int = 10,
        *,
        filter: str = "",  # noqa: A002  Milvus's word
        output_fields: Sequence[str] = ("*",),
        **options: Any,
    ) -> list[Hit]:
        """Return the rows nearest to a vector, the nearest first.

        Args:
            vector: float32, with the length of the stored vectors.
            limit: largest number of rows, up to 16,384.
            filter: filter from :meth:`translate_filter`; empty for none.
            output_fields: fields to return; ``*`` for all.
            **options: options of ``MilvusClient.search``, such as ``search_params`` and ``anns_field``.

        Raises:
            InputTypeError, InputValueError: an argument is invalid.
            VideoIndexError: the collection does not exist, or the filter is invalid.
        """
        limit = check_limit(limit)
        check_output_fields(output_fields)
        info = self.require()
        field = options.pop("anns_field", next(iter(info.dims), "vector"))
        if field not in info.dims:
            raise InputValueError(
                f"{field!r} is not a field of float vectors in {self.address.collection!r}; "
                f"its fields of float vectors are: {', '.join(info.dims) or 'none'}"
            )
        vector = to_vector(vector, info.dims[field], "the vector to search for")
        if not self.address.is_local and info.spec is not None:
            options.setdefault("search_params", {"params": {"ef": max(HNSW_EF, limit)}})
        with self._translate_errors():
            answer = self._client.search(
                self.address.collection,
                data=[vector],
                filter=filter,
                limit=limit,
                output_fields=[*output_fields],
                anns_field=field,
                timeout=options.pop("timeout", self._timeout),
                consistency_level=options.pop("consistency_level", self._consistency),
                **options,
            )
        self._consistency = CONSISTENCY
        return [_to_hit(row, info, output_fields) for row in answer[0]]

    def get(self, id: Any) -> Hit | None:  # noqa: A002
        """Return the row with an id, with the score 1; None if there is no such row."""
        info = self.require()
        rows = self._query(_id_filter(info, [id]), ["*"])
        return _to_hit({"id": id, "distance": 1.0, "entity": rows[0]}, info) if rows else None

    def rows(self, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield all rows, each with these fields."""
        with self._translate_errors():
            iterator = self._client.query_iterator(
                self.address.collection,
                batch_size=READ_BATCH,
                filter="",
                output_fields=[*fields],
                consistency_level="Strong",
                timeout=self._slow_timeout,
            )
            while batch := iterator.next():
                yield from batch
            iterator.close()

    def delete(self, ids: Sequence[Any] = (), *, filter: str = "") -> int:  # noqa: A002
        """Delete rows by their ids, and those that match a filter.

        Args:
            ids: ids of rows; those that do not exist are ignored.
            filter: filter from :meth:`translate_filter`; empty for none.

        Returns:
            The number of deleted rows.
        """
        info = self.require()
        with self._write_lock, self._translate_errors():
            count_before = self.count()
            for start in range(0, len(ids), DELETE_BATCH):
                matching = _id_filter(info, ids[start : start + DELETE_BATCH])
                self._client.delete(self.address.collection, filter=matching, timeout=self._timeout)
            if filter:
                self._client.delete(self.address.collection, filter=filter, timeout=self._timeout)
            return count_before - self.count()

    def count(self) -> int:
        """Return the number of rows."""
        self.require()
        with self._translate_errors():
            answer = self._client.query(
                self.address.collection,
                filter="",
                output_fields=["count(*)"],
                consistency_level="Strong",
                timeout=self._timeout,
            )
        return int(answer[0]["count(*)"])

    def flush(self) -> None:
        """Move new rows from the log into the index. Rows in the log are safe too, but slower to search."""
        if self.find() is not None:
            with self._write_lock, self._translate_errors():
                self._client.flush(self.address.collection, timeout=self._slow_timeout)

    def _query(self, filter: str, fields: list[str], limit: int | None = None) -> list[dict[str, Any]]:  # noqa: A002
        with self._translate_errors():
            return list(
                self._client.query(
                    self.address.collection,
                    filter=filter,
                    output_fields=fields,
                    consistency_level=self._consistency,
                    timeout=self._timeout,
                    **({"limit": limit} if limit else {}),
                )
            )

    def _clear_stale_fields(self, rows: Mapping[str, dict[str, Any]], info: CollectionInfo) -> list[dict[str, Any]]:
        """Return the rows, with None in each field that only the replaced row has; milvus-lite would keep its value."""
        stored: list[dict[str, Any]] = []
        if self.address.is_local:
            stored = self._client.query(
                self.address.collection,
                filter=_id_filter(info, [*rows]),
                output_fields=["$meta"],
                timeout=self._slow_timeout,
            )
        cleared = {old["id"]: dict.fromkeys(old) for old in stored}
        return [cleared.get(name, {}) | row for name, row in rows.items()]

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
            if self.address.is_local and isinstance(error, ConnectionConfigException):
                raise _explain_open_failure(uri, error) from error
            if self._is_unavailable(error) or any(words in message for words in NOT_READY_WORDS):
                self._info = None  # a restarted server may have to load the collection again
                self._consistency = CONSISTENCY_AFTER_FAILURE
                raise IndexUnavailableError(f"the index at {uri} does not answer: {message}") from error
            if "recursion depth" in message:
                message = "the filter is nested too deeply, it has too many brackets"
            raise VideoIndexError(f"the index {self.address.collection!r} at {uri} says: {message}") from error

    def _is_unavailable(self, error: MilvusException | grpc.RpcError | grpc.FutureTimeoutError) -> bool:
        """Return whether the server did not answer, as opposed to answering with an error."""
        if isinstance(error, grpc.FutureTimeoutError):
            return True
        code = error.code() if isinstance(error, grpc.RpcError) else error.code
        if isinstance(code, grpc.StatusCode):
            return code in UNAVAILABLE_STATUS
        if self.address.is_local:  # milvus-lite uses 1 for all errors that it does not expect
            return code in UNAVAILABLE_CODES - {1}
        if code not in UNAVAILABLE_CODES:
            return False
        return not isinstance(error, ParamError) and not error.message.startswith(CLIENT_SIDE_PREFIX)


def _explain_open_failure(folder: str, error: ConnectionConfigException) -> VideoIndexError | MissingExtraError:
    """Return the error for a local folder that cannot be opened. pymilvus gives no reason, so open it without."""
    try:
        from milvus_lite.db import MilvusLite
        from milvus_lite.exceptions import DataDirLockedError
    except ImportError:
        return MissingExtraError("a local index needs milvus-lite: pip install 'towhee-clip4clip[retrieval]'")
    if Path(folder).is_file():
        return VideoIndexError(f"{folder} is a file, but a local index is a folder: choose another name")
    try:
        MilvusLite(folder).close()
    except DataDirLockedError:
        return IndexUnavailableError(f"the index {folder} cannot be opened: another process is using it")
    except OSError as reason:
        return VideoIndexError(
            f"the index {folder} cannot be opened: {reason}. It must be on a disk that can be written to, even for "
            "searches"
        )
    except Exception as reason:  # damaged files raise many types of errors
        return VideoIndexError(f"the index {folder} is damaged and cannot be opened: {first_line(reason)}")
    return IndexUnavailableError(f"the index {folder} could not be opened; try again: {error.message}")


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


def _to_hit(row: Mapping[str, Any], info: CollectionInfo, output_fields: Sequence[str] = ()) -> Hit:
    """Return a row from Milvus as a hit. The key and the vectors become fields only if ``output_fields`` names them."""
    fields = {name: value for name, value in row["entity"].items() if value is not None}
    path = str(fields.pop("path", ""))
    for name in {*info.dims, info.id_field} - {*output_fields}:
        fields.pop(name, None)
    return Hit(row.get(info.id_field, row.get("id")), path, float(row["distance"]), fields)


def _id_filter(info: CollectionInfo, ids: Sequence[Any]) -> str:
    """Return a filter that matches these ids. pymilvus's own filter breaks at a quote in an id."""
    return f"{info.id_field} in [{', '.join(_id_literal(info, id_) for id_ in ids)}]"


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
