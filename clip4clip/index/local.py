"""Store and search rows in a file on this machine: exactly, and by many processes at once."""

from __future__ import annotations

import contextlib
import functools
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..errors import IndexUnavailableError, InputTypeError, InputValueError, VideoIndexError, brief
from .address import IndexAddress
from .code_store import CodeStore
from .codes import CodesLostError, encode, rotate_query
from .collection import CollectionInfo, VectorSpec
from .database import ChangedError, Database
from .engine import Failure
from .hit import Hit, to_hit
from .info import Content
from .nearest import find_nearest
from .tables import (
    KINDS,
    Collection,
    Row,
    count_videos,
    create_collection,
    create_field_index,
    delete_rows,
    find_collection,
    find_rows,
    find_rows_of_videos,
    insert_rows,
    iterate_rows,
    move_rows,
    read_content,
    read_failures,
    read_field_kinds,
    read_rows,
    read_state,
    read_times,
    read_vectors,
    select_rows,
    update_fields,
)
from .values import check_limit, check_output_fields, check_per_video, check_text, is_unicode, to_vector, to_vectors

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MAX_ROWS = 2_000_000  # of a collection
ATTEMPTS = 100  # to read codes that others remove or lose meanwhile


class LocalCollection:
    """A collection in a local file, which need not exist yet.

    Safe to use from several threads at once, and in forked processes. Any number of processes may read the file while
    one of them writes; writers take turns.

    Args:
        address: where the collection is.
        timeout: seconds to wait for other writers.

    Raises:
        IndexUnavailableError: others have been writing for longer than ``timeout``. All methods that write raise it.
        VideoIndexError: the file is damaged or is no index, or it cannot be read or written. All methods raise it.
    """

    def __init__(self, address: IndexAddress, timeout: float = 10.0) -> None:
        self.address = address
        self._database = Database(Path(address.uri), timeout)
        self._opened: _Opened | None = None
        try:
            self.find()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file. Other objects that have it open are not affected."""
        self._database.close()
        self._opened = None

    def find(self) -> CollectionInfo | None:
        """Return the metadata of the collection; None if it does not exist."""
        opened = self._find()
        return opened.collection.info if opened else None

    def require(self) -> CollectionInfo:
        """Return the metadata of the collection; raise VideoIndexError if it does not exist."""
        return self._require().collection.info

    def create(self, spec: VectorSpec, dim: int) -> None:
        """Create the collection, and the file if it is missing. Does nothing if the collection exists.

        Args:
            spec: how the vectors are computed.
            dim: length of a vector.
        """
        if self._find() is None:
            name = self.address.collection
            self._database.write(lambda connection: create_collection(connection, name, spec, dim))

    def insert(self, *values: Any) -> str:
        """Add one row, or replace the row with the same id.

        Args:
            *values: id and vector, or id, path and vector.

        Returns:
            The id of the row.

        Raises:
            InputTypeError, InputValueError: the number of values is wrong, or a value cannot be stored.
            VideoIndexError: the collection does not exist.
        """
        dim = self.require().dims["vector"]
        if len(values) not in (2, 3):
            raise InputValueError(
                f"got {len(values)} values for the fields id, path, vector of {self.address.collection!r}"
            )
        row_id = check_text(str(values[0]), "an id")
        path = check_text(str(values[1]), "a path") if len(values) == 3 else row_id
        vector = to_vector(values[-1], dim, f"the vector of {brief(values[0])}")
        self.upsert({row_id: {"id": row_id, "path": path, "vector": vector}})
        return row_id

    def upsert(self, rows: Mapping[str, Row], videos: Iterable[str] = ()) -> None:
        """Add rows, or replace those with the same ids. They are on the disk when this returns.

        Args:
            rows: rows from :func:`clip4clip.index.values.to_stored_row`, by id.
            videos: ids of videos whose other rows are deleted.

        Raises:
            InputTypeError, InputValueError: a vector has the wrong length or cannot be stored.
            VideoIndexError: the collection would have more than ``MAX_ROWS`` rows.
        """
        if not rows:
            return
        _, collection, store = self._require()
        vectors = to_vectors([row["vector"] for row in rows.values()], collection.dim, [*rows])
        records = encode(vectors, collection.rotation)
        replaced_videos = [*videos]

        def write(connection: sqlite3.Connection) -> None:
            replaced = {*find_rows(connection, collection.number, rows)}
            replaced.update(find_rows_of_videos(connection, collection.number, replaced_videos))
            if replaced:
                delete_rows(connection, collection.number, sorted(replaced))
            count = read_state(connection, collection.number).row_count
            if count + len(rows) > MAX_ROWS:
                raise VideoIndexError(
                    f"the index has {count:,} rows, and a local index can have {MAX_ROWS:,}: use a Milvus server for "
                    "more"
                )
            records["row"], records["video"] = insert_rows(connection, collection.number, [*rows.values()], vectors)
            store.publish(connection, records)

        self._database.write(write)
        self._compact_if_wasteful(store)

    def check_filter(self, text: str, strict: bool = False) -> None:
        """Raise VideoIndexError for an invalid filter, and log a warning about fields that no row has.

        Args:
            text: the filter.
            strict: raise VideoIndexError instead of the warning.
        """
        collection = self._require().collection
        if check_text(text, "a filter").strip():  # most searches have none, and need no transaction to find out
            self._database.read(lambda connection: _to_condition(connection, collection, text, strict, warn=True))

    def search(
        self,
        vector: Any,
        limit: int = 10,
        *,
        filter: str = "",  # noqa: A002  the word of the command line
        per_video: int | None = None,
        output_fields: Sequence[str] = ("*",),
        **options: Any,
    ) -> list[Hit]:
        """Return the rows nearest to a vector, the nearest first. The result is exact.

        Rows whose time ranges overlap that of a nearer row of the same video are left out.

        Args:
            vector: float32, with the length of the stored vectors.
            limit: largest number of rows, up to 16,384.
            filter: condition on the fields of a row; empty for none.
            per_video: largest number of rows of one video; None for any.
            output_fields: fields to return; ``*`` for all except the vector, which is float32 of shape (dim,).
            **options: options of a search on a server. They change nothing here.

        Raises:
            InputTypeError, InputValueError: an argument is invalid.
            VideoIndexError: the collection does not exist, or the filter is invalid.
        """
        limit = check_limit(limit)
        check_per_video(per_video)
        check_output_fields(output_fields)
        _check_options(options)
        _, collection, store = self._require()
        query = to_vector(vector, collection.dim, "the vector to search for")

        def search(connection: sqlite3.Connection) -> list[Hit]:
            condition = _to_condition(connection, collection, filter)
            selected = select_rows(connection, collection.number, *condition) if condition else None

            def read(numbers: Sequence[int]) -> np.ndarray:
                return read_vectors(connection, numbers, collection.dim)

            codes, times = store.load(connection), functools.partial(read_times, connection)
            nearest = find_nearest(codes, query, collection.rotation, read, times, limit, per_video, selected)
            rows = read_rows(connection, [number for number, _ in nearest])
            if "vector" in output_fields:
                for number, row in rows.items():
                    row["vector"] = read([number])[0]
            return [to_hit(rows[number], score, output_fields) for number, score in nearest]

        return self._read_codes(store, search)

    def best_scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return the similarity of the nearest row to each vector, float32 of shape (m,); of shape (0,) without rows.

        The codes of all rows are compared, so it is wrong by some thousandths.

        Args:
            vectors: float32 of shape (m, dim), norm 1.
        """
        _, collection, store = self._require()

        codes = self._read_codes(store, store.load)
        best = codes.best_similarities(rotate_query(vectors, collection.rotation))
        return best if np.isfinite(best).all() else np.empty(0, np.float32)

    def get(self, id: Any) -> Hit | None:  # noqa: A002
        """Return the row with an id, with the score 1; None if there is no such row."""
        collection = self._require().collection
        text = check_text(str(id), "an id")

        def get(connection: sqlite3.Connection) -> Hit | None:
            rows = read_rows(connection, find_rows(connection, collection.number, [text]))
            return next((to_hit(row) for row in rows.values()), None)

        return self._database.read(get)

    def rows_of_video(self, video: str) -> list[Hit]:
        """Return all rows of a video by its id, with the score 1; none if there is no such video."""
        collection = self._require().collection
        text = check_text(str(video), "an id")

        def get(connection: sqlite3.Connection) -> list[Hit]:
            rows = read_rows(connection, find_rows_of_videos(connection, collection.number, [text]))
            return [to_hit(row) for row in rows.values()]

        return self._database.read(get)

    def rows(self, fields: Sequence[str], filter: str = "", by_video: bool = False) -> Iterator[Row]:  # noqa: A002
        """Yield all rows in one state of the index, in the order in which they were added.

        Args:
            fields: names of the fields that each row gets, if it has them, besides its ``id``; ``*`` for all except the
                vector. ``vector`` is float32 of shape (dim,).
            filter: condition on the fields of a row; empty for none.
            by_video: yield the rows of a video one after another, in the order in which the videos were added.
        """
        collection = self._require().collection
        with self._explain_change(), self._database.reading() as connection:
            condition = _to_condition(connection, collection, filter) or ("1", [])
            for rows in iterate_rows(connection, collection.number, *condition, by_video):
                if "vector" in fields:
                    vectors = read_vectors(connection, [*rows], collection.dim)
                    for row, vector in zip(rows.values(), vectors, strict=True):
                        row["vector"] = vector
                for row in rows.values():
                    yield row if "*" in fields else {name: row[name] for name in ("id", *fields) if name in row}

    def delete(self, ids: Sequence[Any] = (), *, filter: str = "") -> int:  # noqa: A002
        """Delete rows by their ids or those of their videos, and those that match a filter.

        Args:
            ids: ids of rows, or of videos, all of whose rows are deleted; those that do not exist are ignored.
            filter: condition on the fields of a row; empty for none. A field that no row has is an error.

        Returns:
            The number of deleted rows.
        """
        _, collection, store = self._require()
        texts = [check_text(str(id_), "an id") for id_ in ids]

        def delete(connection: sqlite3.Connection) -> int:
            numbers = {*find_rows(connection, collection.number, texts)}
            numbers.update(find_rows_of_videos(connection, collection.number, texts))
            if condition := _to_condition(connection, collection, filter, strict=True):
                numbers.update(select_rows(connection, collection.number, *condition).tolist())
            if numbers:
                delete_rows(connection, collection.number, sorted(numbers))
            return len(numbers)

        deleted = self._database.write(delete)
        self._compact_if_wasteful(store)
        return deleted

    def update_paths(self, changes: Mapping[str, tuple[str, str]], videos: Mapping[str, str]) -> None:
        """Give rows other ids and paths, and videos other ids. Vectors and other fields stay.

        Args:
            changes: new id and new path of each row, by its id.
            videos: new id of each video, by its id.

        Raises:
            VideoIndexError: another row or video has one of the new ids. Nothing is changed.
        """
        collection = self._require().collection
        self._database.write(lambda connection: move_rows(connection, collection.number, changes, videos))

    def update_fields(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Set fields of rows by their ids, in one transaction. Vectors and other fields stay.

        Args:
            changes: new values of fields that have no column, by the id of the row; None removes a field. Ids that do
                not exist are ignored.
        """
        number = self._require().collection.number
        self._database.write(lambda connection: update_fields(connection, number, changes))

    def count(self) -> int:
        """Return the number of rows."""
        collection = self._require().collection
        return self._database.read(lambda connection: read_state(connection, collection.number).row_count)

    def version(self) -> str:
        """Return a text that changes with every change of the collection, or if another one takes its place."""
        number = self._require().collection.number
        return self._database.read(lambda connection: f"{number} {read_state(connection, number).version}")

    def count_videos(self) -> int:
        """Return the number of videos."""
        collection = self._require().collection
        return self._database.read(lambda connection: count_videos(connection, collection.number))

    def content(self) -> Content:
        """Return how many rows and videos there are, and which fields they have or had."""
        collection = self._require().collection
        return self._database.read(lambda connection: read_content(connection, collection.number))

    def failures(self, paths: Sequence[str]) -> dict[str, Failure]:
        """Return what :meth:`record_failures` has stored about these paths, by path."""
        number = self._require().collection.number
        storable = [path for path in paths if is_unicode(path)]
        return self._database.read(lambda connection: read_failures(connection, number, storable))

    def record_failures(self, failures: Iterable[Failure]) -> None:
        """Remember videos that cannot be decoded, so that they are not tried again.

        Those whose paths are not valid Unicode are left out, because SQLite cannot store them.
        """
        number = self._require().collection.number
        rows = [
            (number, failure.path, failure.size, failure.mtime, failure.error.encode(errors="replace").decode())
            for failure in failures
            if is_unicode(failure.path)
        ]
        statement = "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?)"
        self._database.write(lambda connection: connection.executemany(statement, rows))

    def forget_failures(self, paths: Sequence[str]) -> None:
        """Forget what :meth:`record_failures` has stored about these paths."""
        number = self._require().collection.number
        rows = [(number, path) for path in paths if is_unicode(path)]
        statement = "DELETE FROM failures WHERE collection = ? AND path = ?"
        self._database.write(lambda connection: connection.executemany(statement, rows))

    def index_field(self, name: str) -> None:
        """Make filters on a field faster. Does nothing if they are fast already. Adding rows becomes a little slower.

        Args:
            name: name of the field; of ASCII letters, digits and ``_``.

        Raises:
            InputTypeError, InputValueError: ``name`` is invalid, or the field cannot have an index.
        """
        from .filters.sql import index_expression

        check_text(name, "the name of a field")
        self._require()
        if name in ("id", "video"):  # they have one
            return
        is_column = name in KINDS and name != "vector"
        expression = f'"{name}"' if is_column else index_expression(name)
        if expression is None or name == "vector":
            raise InputValueError(
                f"the field {brief(name)} cannot have an index: expected a name of ASCII letters, digits and _"
            )
        self._database.write(lambda connection: create_field_index(connection, name, expression))

    def finish(self) -> None:
        """Tidy up after a series of writes: remove the codes of deleted rows, and empty the write-ahead log."""
        if opened := self._find():
            opened.store.compact()
            self._database.checkpoint()

    def _compact_if_wasteful(self, store: CodeStore) -> None:
        """Remove the codes of deleted rows if most codes are, so that searches stay fast without :meth:`finish`."""
        with contextlib.suppress(VideoIndexError):  # what was written is stored, and the next writer tries again
            if self._database.read(store.is_wasteful):
                store.compact()

    def _read_codes(self, store: CodeStore, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Return what a function reads with the help of the codes, which are rebuilt if they are lost."""
        lost = None
        for _ in range(ATTEMPTS):
            try:
                return self._database.read(work)
            except CodesLostError as error:
                # A compaction by another process may have removed the codes of this state: a new one has others. To
                # rebuild codes that are not lost would make this reader wait for all who write.
                if error.state == lost:
                    logger.warning("rebuilding the codes of %s: %s", self.address.uri, error)
                    store.repair()
                lost = error.state
        raise IndexUnavailableError(f"the codes of the index {self.address.uri} are lost all the time: try again")

    @contextlib.contextmanager
    def _explain_change(self) -> Iterator[None]:
        try:
            yield
        except ChangedError:
            raise IndexUnavailableError(
                f"the index {self.address.uri} was changed while it was read, and this process cannot lock it without "
                "permission to write: try again"
            ) from None

    def _find(self) -> _Opened | None:
        identity = self._database.identity()
        opened = self._opened
        if opened is None or identity != opened.identity:  # the file may have been replaced
            name = self.address.collection
            found = self._database.read(lambda connection: find_collection(connection, name)) if identity else None
            self._opened = opened = _Opened(identity, found, CodeStore(self._database, found)) if found else None
        return opened

    def _require(self) -> _Opened:
        opened = self._find()
        if opened is None:
            raise VideoIndexError(
                f"there is no collection {self.address.collection!r} in {self.address.uri}: create it with "
                "`clip4clip index` or VideoIndex.create"
            )
        return opened


class _Opened(NamedTuple):
    """A collection, and the file that it was found in."""

    identity: tuple[int, ...] | None
    collection: Collection
    store: CodeStore


def _to_condition(
    connection: sqlite3.Connection, collection: Collection, text: str, strict: bool = False, warn: bool = False
) -> tuple[str, list[Any]] | None:
    """Return a filter as a condition in SQL, with its parameters; None for an empty filter.

    Args:
        connection: open transaction.
        collection: collection that the filter is for.
        text: the filter.
        strict: raise VideoIndexError for a field that no row has.
        warn: log a warning for such a field.
    """
    check_text(text, "a filter")
    if not text.strip():
        return None
    from .filters.parse import parse_filter  # imported here, because the parser takes a tenth of a second
    from .filters.sql import to_sql

    kinds = read_field_kinds(connection, collection.number)
    has_fields = (strict or warn) and read_state(connection, collection.number).row_count > 0

    def lookup(name: str, _: str | None) -> set[str] | None:
        if name in kinds or name not in KINDS:
            return kinds.get(name, set())
        kind = KINDS[name]
        return set() if kind is None else {kind}

    def names() -> set[str]:
        return {"id", "path", *kinds} if has_fields else set()

    condition = parse_filter(text, lookup, names, collection.info.spec is not None, strict)
    return None if condition is None else to_sql(condition)


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise InputTypeError or InputValueError for an option that a local index does not have, or could not obey."""
    if unknown := options.keys() - {"search_params", "anns_field", "timeout", "consistency_level"}:
        raise InputValueError(f"a search in a local index has no option {', '.join(sorted(unknown))}")
    parameters = options.get("search_params") or {}
    if not isinstance(parameters, Mapping):
        raise InputTypeError(f"search_params must be a dictionary, not {brief(parameters)}")
    metric = parameters.get("metric_type", "COSINE")
    if metric != "COSINE" or options.get("anns_field", "vector") != "vector":
        raise InputValueError("a local index compares its field 'vector' by the metric COSINE only")
