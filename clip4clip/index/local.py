"""Store and search rows in a file on this machine, exactly, by many processes at once.

The SQLite file is the only truth. Beside it lies a file of codes that searches scan, see :mod:`clip4clip.index.codes`. It
only grows: records are written behind those that the database counts, and count once the transaction is committed. So a
torn write is never seen. A file that is lost is written again from the vectors in the database.
"""

from __future__ import annotations

import contextlib
import glob
import json
import logging
import secrets
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..errors import InputValueError, VideoIndexError, brief
from .address import IndexAddress
from .codes import Codes, CodesLostError, CodesState, encode, open_codes, random_rotation, record_type, write_codes
from .collection import CollectionInfo, VectorSpec
from .database import APPLICATION_ID, ChangedError, Database
from .engine import Failure
from .hit import Hit
from .nearest import find_nearest
from .values import check_limit, check_output_fields, check_text, to_vector

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MAX_ROWS = 2_000_000
PARAMETERS = 500  # values in one statement; old versions of SQLite take 999
READ_BATCH = 2000  # rows
REBUILD_BATCH = 8192  # vectors
COMPACT_SHARE, COMPACT_ROWS = 0.2, 1000  # deleted rows from which their codes are removed from the file

# Columns that hold fields of a row, with the kind of their values.
FIELD_COLUMNS = {
    "start": "number",
    "end": "number",
    "duration": "number",
    "frame_count": "number",
    "size": "number",
    "mtime": "number",
}
KINDS: dict[str, str | None] = {"id": "string", "path": "string", "video": "string", **FIELD_COLUMNS, "vector": None}
SELECT_ROWS = (
    'SELECT rows.number, id, path, (SELECT name FROM videos WHERE videos.number = rows.video), start, "end", duration, '
    "frame_count, size, mtime, fields FROM rows"
)


class LocalCollection:
    """A collection in a local file, which need not exist yet. Safe to use from several threads and forked processes.

    Args:
        address: where the collection is.
        timeout: seconds to wait for other writers.

    Raises:
        IndexUnavailableError: another process has been writing for longer than ``timeout``. All methods that write
            raise it.
        VideoIndexError: the file is damaged or no index, or cannot be read or written. All methods raise it.
    """

    def __init__(self, address: IndexAddress, timeout: float = 10.0) -> None:
        self.address = address
        self._database = Database(Path(address.uri), timeout)
        self._collection: _Collection | None = None
        self._identity: tuple[int, ...] | None = None
        self._codes: Codes | None = None
        self._codes_lock = threading.Lock()
        self._can_repair = True
        self.find()

    def close(self) -> None:
        """Close the file. Other objects and processes that have it open are not affected."""
        self._database.close()
        self._codes = None

    def find(self) -> CollectionInfo | None:
        """Return the metadata of the collection; None if it does not exist."""
        collection = self._find()
        return collection.info if collection else None

    def require(self) -> CollectionInfo:
        """Return the metadata of the collection; raise VideoIndexError if it does not exist."""
        return self._require().info

    def create(self, spec: VectorSpec, dim: int) -> None:
        """Create the collection and, if it is missing, the file. Does nothing if the collection exists.

        Args:
            spec: how the vectors are computed.
            dim: length of a vector.
        """
        if self._find() is not None:
            return

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR IGNORE INTO collections (name, dim, spec, rotation) VALUES (?, ?, ?, ?)",
                (self.address.collection, dim, spec.to_json(), random_rotation(dim).tobytes()),
            )

        self._database.write(insert)

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
                f"got {len(values)} values for the fields id, path, vector of the collection {self.address.collection!r}"
            )
        row_id = check_text(str(values[0]), "an id")
        vector = to_vector(values[-1], dim, f"the vector of {brief(values[0])}")
        path = check_text(str(values[1]), "a path") if len(values) == 3 else row_id
        self.upsert({row_id: {"id": row_id, "path": path, "vector": vector}})
        return row_id

    def upsert(self, rows: Mapping[str, dict[str, Any]]) -> None:
        """Add rows, or replace those with the same ids. They are on the disk when this returns.

        Args:
            rows: rows from :func:`clip4clip.index.values.to_stored_row`, by id.

        Raises:
            VideoIndexError: the collection would have more than ``MAX_ROWS`` rows.
        """
        if not rows:
            return
        collection = self._require()
        vectors = np.stack([row["vector"] for row in rows.values()])
        codes = encode(vectors, collection.rotation)
        values = [_to_columns(row) for row in rows.values()]
        kinds = {(name, _kind_of(value)) for row in rows.values() for name, value in row.items() if name not in KINDS}
        kinds |= {(name, "number") for name in FIELD_COLUMNS for row in rows.values() if row.get(name) is not None}

        def write(connection: sqlite3.Connection) -> None:
            _delete(connection, collection.number, _numbers_of(connection, collection.number, rows))
            count = self._read_state(connection, collection).rows
            if count + len(rows) > MAX_ROWS:
                raise VideoIndexError(
                    f"the index {self.address.uri} has {count:,} rows, and a local index can have {MAX_ROWS:,}: use a "
                    "Milvus server for more"
                )
            numbers = _next_numbers(connection, len(rows))
            videos = _video_numbers(connection, collection.number, [row[1] for row in values])
            codes["row"], codes["video"] = numbers, videos
            connection.executemany(
                "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (number, collection.number, row[0], video, *row[2:])
                    for number, video, row in zip(numbers, videos, values, strict=True)
                ),
            )
            connection.executemany(
                "INSERT INTO vectors VALUES (?, ?)",
                ((number, vector.tobytes()) for number, vector in zip(numbers, vectors, strict=True)),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO field_kinds VALUES (?, ?, ?)",
                ((collection.number, name, kind) for name, kind in kinds),
            )
            self._publish(connection, collection, codes)
            _change_count(connection, collection.number, len(rows))

        self._database.write(write)

    def check_filter(self, text: str, strict: bool = False) -> None:
        """Raise VideoIndexError for an invalid filter, and log a warning about fields that no row has.

        Args:
            text: the filter.
            strict: raise VideoIndexError instead of the warning.
        """
        collection = self._require()
        self._database.read(lambda connection: self._parse(connection, collection, text, strict))

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

        Args:
            vector: float32, with the length of the stored vectors.
            limit: largest number of rows, up to 16,384.
            filter: condition on the fields of a row; empty for none.
            per_video: largest number of rows of one video; None for any.
            output_fields: fields to return; ``*`` for all.
            **options: options of a search on a server. They change nothing here.

        Raises:
            InputTypeError, InputValueError: an argument is invalid.
            VideoIndexError: the collection does not exist, or the filter is invalid.
        """
        limit = check_limit(limit)
        check_output_fields(output_fields)
        _check_options(options)
        collection = self._require()
        query = to_vector(vector, collection.dim, "the vector to search for")

        def search(connection: sqlite3.Connection) -> list[Hit]:
            condition = self._parse(connection, collection, filter)
            codes = self._load_codes(connection, collection)
            selected = None
            if condition:
                sql, parameters = condition
                statement = f"SELECT number FROM rows WHERE collection = ? AND {sql} ORDER BY number"  # noqa: S608
                found = connection.execute(statement, (collection.number, *parameters)).fetchall()
                selected = np.fromiter((number for (number,) in found), np.int64, len(found))

            def read_vectors(numbers: list[int]) -> np.ndarray:
                return _read_vectors(connection, numbers, collection.dim)

            nearest = find_nearest(codes, query, collection.rotation, read_vectors, limit, per_video, selected)
            rows = _read_rows(connection, [number for number, _ in nearest])
            if "vector" in output_fields:
                for number, row in rows.items():
                    row["vector"] = read_vectors([number])[0].tolist()
            return [_to_hit(rows[number], score, output_fields) for number, score in nearest]

        return self._search(search, collection)

    def get(self, id: Any) -> Hit | None:  # noqa: A002
        """Return the row with an id, with the score 1; None if there is no such row."""
        collection = self._require()
        text = check_text(str(id), "an id")

        def get(connection: sqlite3.Connection) -> Hit | None:
            numbers = _numbers_of(connection, collection.number, [text])
            return _to_hit(_read_rows(connection, numbers)[numbers[0]], 1.0, ("*",)) if numbers else None

        return self._database.read(get)

    def rows(self, fields: Sequence[str], filter: str = "") -> Iterator[dict[str, Any]]:  # noqa: A002
        """Yield all rows, in the state of the first one.

        Args:
            fields: names of the fields that each row gets, if it has them; ``*`` for all but the vector. ``id`` is
                always among them.
            filter: condition on the fields of a row; empty for none.
        """
        collection = self._require()
        with self._database.reading() as connection:
            condition, parameters = self._parse(connection, collection, filter) or ("1", [])
            cursor = connection.execute(
                f"{SELECT_ROWS} WHERE collection = ? AND {condition} ORDER BY rows.number",
                (collection.number, *parameters),
            )
            while batch := cursor.fetchmany(READ_BATCH):
                rows = {values[0]: _to_row(values) for values in batch}
                if "vector" in fields:
                    vectors = _read_vectors(connection, [*rows], collection.dim)
                    for row, vector in zip(rows.values(), vectors, strict=True):
                        row["vector"] = vector
                names = ("id", *fields)
                for row in rows.values():
                    yield row if "*" in fields else {name: row[name] for name in names if name in row}

    def delete(self, ids: Sequence[Any] = (), *, filter: str = "") -> int:  # noqa: A002
        """Delete rows by their ids, and those that match a filter.

        Args:
            ids: ids of rows; those that do not exist are ignored.
            filter: condition on the fields of a row; empty for none. A field that no row has is an error.

        Returns:
            The number of deleted rows.
        """
        collection = self._require()
        texts = [check_text(str(id_), "an id") for id_ in ids]

        def delete(connection: sqlite3.Connection) -> int:
            numbers = set(_numbers_of(connection, collection.number, texts))
            if condition := self._parse(connection, collection, filter, strict=True):
                sql, parameters = condition
                statement = f"SELECT number FROM rows WHERE collection = ? AND {sql}"  # noqa: S608
                numbers |= {number for (number,) in connection.execute(statement, (collection.number, *parameters))}
            if numbers:
                _delete(connection, collection.number, sorted(numbers))
            return len(numbers)

        return self._database.write(delete)

    def update_paths(self, changes: Mapping[str, tuple[str, str]]) -> None:
        """Give rows other ids and paths. Their vectors and fields stay.

        Args:
            changes: new id and new path of each row, by its id. A ``video`` that equals the old id follows.

        Raises:
            VideoIndexError: another row has one of the new ids. Nothing is changed.
        """
        collection = self._require()

        def update(connection: sqlite3.Connection) -> None:
            numbers = {id_: _numbers_of(connection, collection.number, [id_]) for id_ in changes}
            pairs = [(changes[id_], number) for id_, found in numbers.items() for number in found]
            # First out of each other's way: an id may be the new one of one row and the old one of another.
            for place in ("temporary", "final"):
                for (new_id, path), number in pairs:
                    name = new_id if place == "final" else f"\0{number}"
                    try:
                        connection.execute("UPDATE rows SET id = ?, path = ? WHERE number = ?", (name, path, number))
                    except sqlite3.IntegrityError:
                        raise VideoIndexError(
                            f"the index {self.address.uri} already has a row with the id {brief(new_id)}: delete one of "
                            "the two first"
                        ) from None
            _rename_videos(connection, collection.number, {id_: changes[id_][0] for id_ in changes if numbers[id_]})
            _change_count(connection, collection.number, 0)

        self._database.write(update)

    def count(self) -> int:
        """Return the number of rows."""
        collection = self._require()
        return self._database.read(lambda connection: self._read_state(connection, collection).rows)

    def failures(self, paths: Sequence[str]) -> dict[str, Failure]:
        """Return what :meth:`record_failures` has stored about these paths, by path."""
        number = self._require().number

        def read(connection: sqlite3.Connection) -> dict[str, Failure]:
            found: dict[str, Failure] = {}
            for part in _parts(paths):
                statement = (
                    f"SELECT path, size, mtime, error FROM failures WHERE path IN {_marks(part)} AND collection = ?"  # noqa: S608
                )
                found.update({row[0]: Failure(*row) for row in connection.execute(statement, (*part, number))})
            return found

        return self._database.read(read)

    def record_failures(self, failures: Iterable[Failure]) -> None:
        """Remember videos that cannot be decoded, so that they are not tried again."""
        number = self._require().number
        rows = [(number, failure.path, failure.size, failure.mtime, failure.error) for failure in failures]
        self._database.write(
            lambda connection: connection.executemany("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?)", rows)
        )

    def forget_failures(self, paths: Sequence[str]) -> None:
        """Forget videos that could not be decoded, by their paths."""
        number = self._require().number
        rows = [(number, path) for path in paths]
        statement = "DELETE FROM failures WHERE collection = ? AND path = ?"
        self._database.write(lambda connection: connection.executemany(statement, rows))

    def finish(self) -> None:
        """Tidy up after a series of writes: remove the codes of deleted rows, and empty the write-ahead log."""
        collection = self._find()
        if collection is None:
            return

        def compact(connection: sqlite3.Connection) -> None:
            state = self._read_state(connection, collection)
            dead = state.codes.count - state.rows
            if dead > COMPACT_ROWS and dead > COMPACT_SHARE * state.codes.count:
                self._replace_codes(connection, collection, _live_batches(self._load_codes(connection, collection)))

        with contextlib.suppress(CodesLostError):  # the next search writes them again
            self._database.write(compact)
        self._database.write(self._remove_old_codes)
        self._database.checkpoint()

    def _find(self) -> _Collection | None:
        identity = self._database.identity()
        if self._collection is None or identity != self._identity:  # the file may have been replaced
            self._codes, self._identity = None, identity
            self._collection = None if identity is None else self._database.read(self._read_collection)
        return self._collection

    def _require(self) -> _Collection:
        collection = self._find()
        if collection is None:
            raise VideoIndexError(
                f"there is no collection {self.address.collection!r} in {self.address.uri}: create it with "
                "`clip4clip index` or VideoIndex.create"
            )
        return collection

    def _read_collection(self, connection: sqlite3.Connection) -> _Collection | None:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            return None  # an empty file
        row = connection.execute(
            "SELECT number, dim, spec, rotation FROM collections WHERE name = ?", (self.address.collection,)
        ).fetchone()
        if row is None:
            return None
        number, dim, spec, rotation = row
        try:
            matrix = np.frombuffer(rotation, np.float32).reshape(dim, dim)
        except (TypeError, ValueError) as error:
            raise VideoIndexError(f"the index {self.address.uri} is damaged: {error}") from error
        info = CollectionInfo(
            spec=VectorSpec.from_json(spec),
            dims={"vector": dim},
            id_field="id",
            id_is_text=True,
            fields=["id", "path", "vector"],
            kinds=KINDS,
            is_dynamic=True,
        )
        return _Collection(number, dim, matrix, info)

    def _parse(
        self, connection: sqlite3.Connection, collection: _Collection, text: str, strict: bool = False
    ) -> tuple[str, list[Any]] | None:
        """Return a filter as a condition in SQL, with its parameters; None for an empty filter."""
        check_text(text, "a filter")
        if not text.strip():
            return None
        from .filter_sql import to_sql  # imports a parser
        from .filters import parse_filter

        rows = connection.execute("SELECT name, kind FROM field_kinds WHERE collection = ?", (collection.number,))
        kinds: dict[str, set[str]] = {}
        for name, kind in rows:
            kinds.setdefault(name, set()).add(kind)
        has_rows = bool(kinds) or self._read_state(connection, collection).rows > 0

        def lookup(name: str, _: str | None) -> set[str] | None:
            if name in kinds:
                return kinds[name]
            declared = KINDS.get(name)
            return {declared} if declared else None if name in KINDS else set()

        def names() -> set[str]:
            return {"id", "path", *kinds} if has_rows else set()

        condition = parse_filter(text, lookup, names, collection.info.spec is not None, strict)
        return None if condition is None else to_sql(condition)

    def _read_state(self, connection: sqlite3.Connection, collection: _Collection) -> _State:
        row = connection.execute(
            "SELECT version, rows, codes, code_count, stamp FROM collections WHERE number = ?", (collection.number,)
        ).fetchone()
        if row is None:
            raise VideoIndexError(f"the collection {self.address.collection!r} is not in {self.address.uri} any more")
        return _State(row[0], row[1], CodesState(*row[2:]))

    def _search(self, search: Callable[[sqlite3.Connection], Result], collection: _Collection) -> Result:
        """Return what a function reads in one transaction. Codes that are lost are written again."""
        try:
            return self._database.read(search)
        except CodesLostError as error:
            logger.warning("the codes of the index %s are rebuilt: %s", self.address.uri, error)
        self._repair(collection)
        return self._database.read(search)

    def _repair(self, collection: _Collection) -> None:
        """Write a lost file of codes again. Without permission to write, codes are kept in memory only."""

        def repair(connection: sqlite3.Connection) -> None:
            state = self._read_state(connection, collection).codes
            try:
                open_codes(self._path_of(state.name), collection.dim, state)
            except CodesLostError:  # else another process has written it
                self._replace_codes(connection, collection, _encode_rows(connection, collection))

        try:
            self._database.write(repair)
        except VideoIndexError as error:
            logger.warning("%s", error)
            self._can_repair = False

    def _load_codes(self, connection: sqlite3.Connection, collection: _Collection) -> Codes:
        """Return the codes in the state that a transaction sees."""
        state = self._read_state(connection, collection)
        with self._codes_lock:
            previous = self._codes
            if previous is not None and previous.version == state.version:
                return previous
            if previous is not None and previous.version > state.version:
                raise ChangedError  # another thread has seen a later state: begin a new transaction
            try:
                records = open_codes(self._path_of(state.codes.name), collection.dim, state.codes)
            except CodesLostError:
                if self._can_repair:
                    raise
                records = np.concatenate(
                    [*_encode_rows(connection, collection), np.empty(0, record_type(collection.dim))]
                )
                previous = None
            if previous is not None and not previous.is_before(state.codes):
                previous = None
            dead = connection.execute(
                "SELECT number, row FROM dead WHERE collection = ? AND number > ?",
                (collection.number, previous.last_dead if previous else 0),
            ).fetchall()
            self._codes = Codes.of(records, state.codes, state.version, dead, previous)
            return self._codes

    def _publish(self, connection: sqlite3.Connection, collection: _Collection, records: np.ndarray) -> None:
        """Append the codes of new rows to the file, and count them as part of the transaction."""
        state = self._read_state(connection, collection).codes
        path = self._path_of(state.name)
        try:
            open_codes(path, collection.dim, state)
        except CodesLostError:
            self._replace_codes(connection, collection, _encode_rows(connection, collection))
            return
        if not state.name:
            self._replace_codes(connection, collection, [records])
            return
        stamp = secrets.randbits(32)
        records["stamp"] = stamp
        write_codes(path, state.count, [records], self._mode())
        connection.execute(
            "UPDATE collections SET code_count = ?, stamp = ? WHERE number = ?",
            (state.count + len(records), stamp, collection.number),
        )

    def _replace_codes(
        self, connection: sqlite3.Connection, collection: _Collection, batches: Iterable[np.ndarray]
    ) -> None:
        """Write all codes to a new file, and make it the file of the collection as part of the transaction."""
        name, stamp = secrets.token_hex(4), secrets.randbits(32)
        count = 0

        def stamped() -> Iterator[np.ndarray]:
            nonlocal count
            for records in batches:
                records["stamp"] = stamp
                count += len(records)
                yield records

        write_codes(self._path_of(name), 0, stamped(), self._mode())
        connection.execute("DELETE FROM dead WHERE collection = ?", (collection.number,))
        connection.execute(
            "UPDATE collections SET codes = ?, code_count = ?, stamp = ?, version = version + 1 WHERE number = ?",
            (name, count, stamp, collection.number),
        )

    def _remove_old_codes(self, connection: sqlite3.Connection) -> None:
        """Remove files of codes that no collection uses. Called by a writer, so that none is just being written."""
        used = {self._path_of(name) for (name,) in connection.execute("SELECT codes FROM collections")}
        for path in self._path_of("*").parent.glob(glob.escape(self._path_of("").name) + "*"):
            if path not in used:
                with contextlib.suppress(OSError):  # Windows keeps a file that a process has mapped
                    path.unlink()

    def _path_of(self, name: str) -> Path:
        """Return the path of a file of codes."""
        return self._database.beside(f"codes-{name}")

    def _mode(self) -> int:
        """Return the access mode of a file of codes: that of the database."""
        return stat.S_IMODE(self._database.path.stat().st_mode)


@dataclass(frozen=True)
class _Collection:
    """What never changes about a collection."""

    number: int
    dim: int
    rotation: np.ndarray
    info: CollectionInfo


class _State(NamedTuple):
    """What a transaction sees of a collection."""

    version: int
    rows: int
    codes: CodesState


def _change_count(connection: sqlite3.Connection, collection: int, rows: int) -> None:
    """Add to the number of rows, and tell readers that something changed."""
    connection.execute(
        "UPDATE collections SET rows = rows + ?, version = version + 1 WHERE number = ?", (rows, collection)
    )


def _delete(connection: sqlite3.Connection, collection: int, numbers: Sequence[int]) -> None:
    """Delete rows by their numbers, and videos without rows."""
    videos: set[int] = set()
    for part in _parts(numbers):
        marks = _marks(part)
        videos |= {video for (video,) in connection.execute(f"SELECT video FROM rows WHERE number IN {marks}", part)}
        connection.execute(f"DELETE FROM rows WHERE number IN {marks}", part)
        connection.execute(f"DELETE FROM vectors WHERE row IN {marks}", part)
    dead = ((collection, number) for number in numbers)
    connection.executemany("INSERT INTO dead (collection, row) VALUES (?, ?)", dead)
    unused = "DELETE FROM videos WHERE number = ? AND NOT EXISTS (SELECT 1 FROM rows WHERE video = videos.number)"
    connection.executemany(unused, ((video,) for video in videos))
    _change_count(connection, collection, -len(numbers))


def _numbers_of(connection: sqlite3.Connection, collection: int, ids: Iterable[str]) -> list[int]:
    """Return the numbers of the rows with these ids; ids that do not exist are left out."""
    numbers: list[int] = []
    for part in _parts([*ids]):
        statement = f"SELECT number FROM rows WHERE id IN {_marks(part)} AND collection = ?"
        numbers += [number for (number,) in connection.execute(statement, (*part, collection))]
    return numbers


def _next_numbers(connection: sqlite3.Connection, count: int) -> range:
    """Return the numbers of new rows."""
    last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'rows'").fetchone()
    start = last[0] + 1 if last else 1
    return range(start, start + count)


def _video_numbers(connection: sqlite3.Connection, collection: int, names: Sequence[str]) -> list[int]:
    """Return the number of each video, and add those that are new."""
    distinct = [*dict.fromkeys(names)]
    connection.executemany(
        "INSERT OR IGNORE INTO videos (collection, name) VALUES (?, ?)", ((collection, name) for name in distinct)
    )
    numbers: dict[str, int] = {}
    for part in _parts(distinct):
        statement = f"SELECT name, number FROM videos WHERE name IN {_marks(part)} AND collection = ?"
        numbers.update(connection.execute(statement, (*part, collection)).fetchall())
    return [numbers[name] for name in names]


def _rename_videos(connection: sqlite3.Connection, collection: int, names: Mapping[str, str]) -> None:
    """Give videos other names."""
    # First out of each other's way, as for ids.
    find = "SELECT number FROM videos WHERE name = ? AND collection = ?"
    rename = "UPDATE videos SET name = ? WHERE number = ?"
    found = [
        (row[0], new_name) for name, new_name in names.items() for row in connection.execute(find, (name, collection))
    ]
    connection.executemany(rename, ((f"\0{number}", number) for number, _ in found))
    connection.executemany(rename, ((new_name, number) for number, new_name in found))


def _read_vectors(connection: sqlite3.Connection, numbers: Sequence[int], dim: int) -> np.ndarray:
    """Return the vectors of rows, float32 of shape (n, dim), in the order of their numbers."""
    vectors = np.empty((len(numbers), dim), np.float32)
    place = {number: index for index, number in enumerate(numbers)}
    for part in _parts(numbers):
        for number, vector in connection.execute(f"SELECT row, vector FROM vectors WHERE row IN {_marks(part)}", part):
            vectors[place[number]] = np.frombuffer(vector, np.float32)
    return vectors


def _encode_rows(connection: sqlite3.Connection, collection: _Collection) -> Iterator[np.ndarray]:
    """Yield the codes of all rows, in batches, in the order of their numbers."""
    cursor = connection.execute(
        "SELECT number, video, vector FROM rows JOIN vectors ON vectors.row = number WHERE collection = ? ORDER BY number",
        (collection.number,),
    )
    while batch := cursor.fetchmany(REBUILD_BATCH):
        numbers, videos, vectors = zip(*batch, strict=True)
        records = encode(
            np.frombuffer(b"".join(vectors), np.float32).reshape(len(batch), collection.dim), collection.rotation
        )
        records["row"], records["video"] = numbers, videos
        yield records


def _live_batches(codes: Codes) -> Iterator[np.ndarray]:
    """Yield the records of rows that were not deleted."""
    live = codes.live_positions()
    for start in range(0, len(live), REBUILD_BATCH):
        yield codes.records[live[start : start + REBUILD_BATCH]]


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield values in parts that fit into one statement."""
    for start in range(0, len(values), PARAMETERS):
        yield values[start : start + PARAMETERS]


def _marks(values: Sequence[Any]) -> str:
    """Return the parameter marks for a list of values in SQL."""
    return f"({', '.join('?' * len(values))})"


def _to_columns(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the values of a row for the table: id, video, path, the columns of fields, and the other fields as JSON."""
    others = {name: value for name, value in row.items() if name not in KINDS}
    columns = (row.get(name) for name in FIELD_COLUMNS)
    text = json.dumps(others, ensure_ascii=False, separators=(",", ":")) if others else None
    return row["id"], row.get("video") or row["id"], row["path"], *columns, text


def _read_rows(connection: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return rows by their numbers."""
    rows: dict[int, dict[str, Any]] = {}
    for part in _parts(numbers):
        for values in connection.execute(f"{SELECT_ROWS} WHERE rows.number IN {_marks(part)}", part):
            rows[values[0]] = _to_row(values)
    return rows


def _to_row(values: Sequence[Any]) -> dict[str, Any]:
    """Return what :data:`SELECT_ROWS` gives as a dictionary, without fields that are missing."""
    _, row_id, path, video, *columns, others = values
    fields = {name: value for name, value in zip(FIELD_COLUMNS, columns, strict=True) if value is not None}
    return {"id": row_id, "path": path, "video": video, **fields, **(json.loads(others) if others else {})}


def _to_hit(row: dict[str, Any], score: float, output_fields: Sequence[str]) -> Hit:
    """Return a row as a hit. Id and vector become fields only if ``output_fields`` names them."""
    fields = row if "*" in output_fields else {name: row[name] for name in output_fields if name in row}
    hidden = {"path", *({"id", "vector"} - {*output_fields})}
    if row["video"] == row["id"] and "video" not in output_fields:
        hidden.add("video")
    return Hit(row["id"], row["path"], score, {name: value for name, value in fields.items() if name not in hidden})


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise InputValueError for an option that a local index does not have, or would have to obey."""
    if unknown := options.keys() - {"search_params", "anns_field", "timeout", "consistency_level"}:
        raise InputValueError(f"a local index has no option {', '.join(sorted(unknown))}; a Milvus server may")
    metric = (options.get("search_params") or {}).get("metric_type", "COSINE")
    if metric != "COSINE" or options.get("anns_field", "vector") != "vector":
        raise InputValueError("a local index compares its field 'vector' by the metric COSINE, and nothing else")


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "list" if isinstance(value, list) else "object"
