"""The tables of a local index, and the statements that read and write them."""
# ruff: noqa: S608  statements are put together from constants, never from what a user typed

from __future__ import annotations

import itertools
import json
import math
import re
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import VideoIndexError, brief, first_line
from .codes import CodesState, part_size, random_rotation
from .collection import CollectionInfo, VectorSpec
from .engine import Failure
from .info import Content
from .values import NUMBER_FIELDS, TEXT_FIELDS, kind_of

APPLICATION_ID = 0x43344331  # "C4C1"
FORMAT = 1  # of the tables; another one cannot be read
PARAMETERS = 500  # values in one statement; old versions of SQLite take 999
READ_BATCH = 2000  # rows
MAX_DIM = 32_768  # Milvus's limit

SCHEMA = """
CREATE TABLE collections (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    dim INTEGER NOT NULL,
    spec TEXT NOT NULL,
    rotation BLOB NOT NULL,                   -- of the codes: float32 of shape (part, part)
    version INTEGER NOT NULL DEFAULT 0,       -- increases with every change
    row_count INTEGER NOT NULL DEFAULT 0,
    codes_name TEXT NOT NULL DEFAULT '',      -- these three: CodesState
    codes_count INTEGER NOT NULL DEFAULT 0,
    codes_stamp INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE videos (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    collection INTEGER NOT NULL,
    name TEXT NOT NULL,
    UNIQUE (name, collection)
);
CREATE TABLE rows (
    number INTEGER PRIMARY KEY AUTOINCREMENT, -- a replaced row gets a new number
    collection INTEGER NOT NULL,
    id TEXT NOT NULL,
    video INTEGER NOT NULL,
    path TEXT NOT NULL,
    start REAL,
    "end" REAL,
    duration REAL,
    frame_count INTEGER,
    size INTEGER,
    mtime INTEGER,
    fields TEXT,                              -- all others, as a JSON object
    UNIQUE (id, collection)
);
CREATE INDEX rows_of_video ON rows (video);
CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE dead (                           -- rows that were deleted, but whose codes are still in the file
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    collection INTEGER NOT NULL,
    row INTEGER NOT NULL
);
CREATE TABLE field_kinds (                    -- of every field that a row ever had
    collection INTEGER NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    PRIMARY KEY (collection, name, kind)
) WITHOUT ROWID;
CREATE TABLE failures (                       -- videos that cannot be decoded
    collection INTEGER NOT NULL,
    path TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime INTEGER NOT NULL,
    error TEXT NOT NULL,
    PRIMARY KEY (collection, path)
) WITHOUT ROWID;
"""

# Columns of numbers. Other fields of a row are in its JSON object.
KINDS: Mapping[str, str | None] = {
    **dict.fromkeys(TEXT_FIELDS, "string"),
    **dict.fromkeys(NUMBER_FIELDS, "number"),
    "vector": None,
}

_SELECT_ROWS = """
    SELECT rows.number, id, path, (SELECT name FROM videos WHERE videos.number = rows.video),
        start, "end", duration, frame_count, size, mtime, fields
    FROM rows
"""

_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Row = dict[str, Any]


@dataclass(frozen=True)
class Collection:
    """What never changes about a collection.

    Attributes:
        number: its number in the tables.
        rotation: rotation of the codes, float32 of shape (part, part).
        info: its metadata.
    """

    number: int
    rotation: np.ndarray
    info: CollectionInfo

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.info.dims["vector"]


class CollectionState(NamedTuple):
    """What a transaction sees of a collection.

    Attributes:
        version: a number that increases with every change.
        row_count: number of rows.
        codes: where the codes of the rows are.
    """

    version: int
    row_count: int
    codes: CodesState


def has_tables(connection: sqlite3.Connection) -> bool:
    """Return whether the file is an index; False if it is empty.

    Raises:
        VideoIndexError: the file is a database of another program, or an index of another format, or it has SQL that
            would run whenever it is read or written.
    """
    application, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    if application == APPLICATION_ID:
        if version != FORMAT:
            raise VideoIndexError(
                f"the index has the format {version}, and this version of clip4clip reads {FORMAT}: use the version "
                "that wrote it"
            )
        # "PRAGMA trusted_schema = OFF" is no alternative: SQLite 3.40 then refuses an index on a JSON key.
        if connection.execute("SELECT count(*) FROM sqlite_master WHERE type IN ('trigger', 'view')").fetchone()[0]:
            raise _damaged("it has a trigger or a view")
        return True
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise VideoIndexError("it is a database of another program, not an index: choose another name")
    return False


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables in an empty file."""
    for statement in SCHEMA.split(";\n"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")


def create_collection(connection: sqlite3.Connection, name: str, spec: VectorSpec, dim: int) -> None:
    """Create a collection. Does nothing if it exists.

    Its number is random, so that the collection of another file that took the place of this one has another number.
    """
    connection.execute(
        "INSERT OR IGNORE INTO collections (number, name, dim, spec, rotation) VALUES (?, ?, ?, ?, ?)",
        (secrets.randbits(31), name, dim, spec.to_json(), random_rotation(dim).tobytes()),
    )


def find_collection(connection: sqlite3.Connection, name: str) -> Collection | None:
    """Return a collection by its name; None if it does not exist."""
    if not has_tables(connection):
        return None
    statement = "SELECT number, dim, spec, rotation FROM collections WHERE name = ?"
    row = connection.execute(statement, (name,)).fetchone()
    if row is None:
        return None
    number, dim, spec, rotation = row
    if type(dim) is not int or not 0 < dim <= MAX_DIM:
        raise _damaged(f"the collection {brief(name)} has no valid length of a vector")
    part = part_size(dim)
    if type(rotation) is not bytes or len(rotation) != 4 * part * part:
        raise _damaged(f"the collection {brief(name)} has no valid rotation")
    matrix = np.frombuffer(rotation, np.float32).reshape(part, part)
    if not np.isfinite(matrix).all():
        raise _damaged(f"the collection {brief(name)} has no valid rotation")
    info = CollectionInfo(
        spec=VectorSpec.from_json(spec),
        dims={"vector": dim},
        id_field="id",
        id_is_text=True,
        fields=["id", "path", "vector"],
        kinds=KINDS,
        is_dynamic=True,
    )
    return Collection(number, matrix, info)


def read_state(connection: sqlite3.Connection, collection: int) -> CollectionState:
    """Return the state of a collection.

    Raises:
        VideoIndexError: there is no such collection, or its state is damaged.
    """
    statement = "SELECT version, row_count, codes_name, codes_count, codes_stamp FROM collections WHERE number = ?"
    row = connection.execute(statement, (collection,)).fetchone()
    if row is None:
        raise VideoIndexError("the index was replaced by another one: open it again")
    version, row_count, codes_name, codes_count, stamp = row
    numbers = (version, row_count, codes_count, stamp)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise _damaged("a number of its collection is invalid")
    if type(codes_name) is not str or not _CODES_NAME.fullmatch(codes_name):  # it becomes part of a path
        raise _damaged(f"its codes have the name {brief(codes_name)}")
    return CollectionState(version, row_count, CodesState(codes_name, codes_count, stamp))


def change_count(connection: sqlite3.Connection, collection: int, added: int) -> None:
    """Add to the number of rows, and increase the version."""
    statement = "UPDATE collections SET row_count = row_count + ?, version = version + 1 WHERE number = ?"
    connection.execute(statement, (added, collection))


def set_codes(connection: sqlite3.Connection, collection: int, state: CodesState) -> None:
    """Publish the codes of a collection, as part of the transaction."""
    statement = """
        UPDATE collections SET codes_name = ?, codes_count = ?, codes_stamp = ?, version = version + 1 WHERE number = ?
    """
    connection.execute(statement, (state.name, state.count, state.stamp, collection))


def find_rows(connection: sqlite3.Connection, collection: int, ids: Iterable[str]) -> list[int]:
    """Return the numbers of the rows with these ids; ids that do not exist are left out."""
    numbers: list[int] = []
    for part in _parts([*ids]):
        statement = f"SELECT number FROM rows WHERE id IN {_marks(part)} AND collection = ?"
        numbers += [number for (number,) in connection.execute(statement, (*part, collection))]
    return numbers


def find_rows_of_videos(connection: sqlite3.Connection, collection: int, videos: Iterable[str]) -> list[int]:
    """Return the numbers of all rows of the videos with these ids; ids that do not exist are left out."""
    numbers: list[int] = []
    for part in _parts([*videos]):
        names = f"SELECT number FROM videos WHERE name IN {_marks(part)} AND collection = ?"
        statement = f"SELECT number FROM rows WHERE video IN ({names})"
        numbers += [number for (number,) in connection.execute(statement, (*part, collection))]
    return numbers


def select_rows(connection: sqlite3.Connection, collection: int, sql: str, parameters: Sequence[Any]) -> np.ndarray:
    """Return the numbers of the rows that match a condition, int64 of shape (n,).

    Args:
        connection: open transaction.
        collection: number of the collection.
        sql: condition from :func:`clip4clip.index.filters.sql.to_sql`.
        parameters: its parameters.
    """
    statement = f"SELECT number FROM rows WHERE collection = ? AND {sql}"
    numbers = connection.execute(statement, (collection, *parameters)).fetchall()
    return np.fromiter(itertools.chain.from_iterable(numbers), np.int64, len(numbers))


def insert_rows(
    connection: sqlite3.Connection, collection: int, rows: Sequence[Row], vectors: np.ndarray
) -> tuple[Sequence[int], Sequence[int]]:
    """Insert rows whose ids are new, without their codes.

    Args:
        connection: open transaction of a writer.
        collection: number of the collection.
        rows: rows from :func:`clip4clip.index.values.to_stored_row`, whose ``vector`` is not used.
        vectors: their vectors, float32 of shape (n, dim).

    Returns:
        The numbers of the rows and of their videos.
    """
    numbers = _next_numbers(connection, "rows", len(rows))
    videos = _video_numbers(connection, collection, [row.get("video") or row["id"] for row in rows])
    ids, paths = [row["id"] for row in rows], [row["path"] for row in rows]
    columns = ([row.get(name) for row in rows] for name in NUMBER_FIELDS)
    others = [_encode_others(row) for row in rows]
    collections = [collection] * len(rows)
    connection.executemany(
        f"INSERT INTO rows VALUES {_marks(range(12))}",
        zip(numbers, collections, ids, videos, paths, *columns, others, strict=True),
    )
    connection.executemany("INSERT INTO vectors VALUES (?, ?)", zip(numbers, vectors, strict=True))
    _add_kinds(connection, collection, rows)
    change_count(connection, collection, len(rows))
    return numbers, videos


def delete_rows(connection: sqlite3.Connection, collection: int, numbers: Sequence[int]) -> None:
    """Delete rows by their numbers, and videos that have no rows then."""
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
    change_count(connection, collection, -len(numbers))


def move_rows(
    connection: sqlite3.Connection, collection: int, changes: Mapping[str, tuple[str, str]], videos: Mapping[str, str]
) -> None:
    """Give rows other ids and paths, and videos other ids.

    Args:
        connection: open transaction.
        collection: number of the collection.
        changes: new id and path of each row, by its id; ids that do not exist are ignored.
        videos: new id of each video, by its id; likewise.

    Raises:
        VideoIndexError: another row or video has one of the new ids.
    """
    moves = [(number, id_) for id_ in changes for number in find_rows(connection, collection, [id_])]
    statement = "SELECT number FROM videos WHERE name = ? AND collection = ?"
    names = [(number, id_) for id_ in videos for (number,) in connection.execute(statement, (id_, collection))]
    # First to BLOBs, which no id is: a new id may be the old one of another row.
    free = "CAST(number AS BLOB)"
    connection.executemany(f"UPDATE rows SET id = {free} WHERE number = ?", ((number,) for number, _ in moves))
    connection.executemany(f"UPDATE videos SET name = {free} WHERE number = ?", ((number,) for number, _ in names))
    for number, id_ in moves:
        _update_unique(connection, "UPDATE rows SET id = ?, path = ? WHERE number = ?", (*changes[id_], number))
    for number, id_ in names:
        _update_unique(connection, "UPDATE videos SET name = ? WHERE number = ?", (videos[id_], number))
    change_count(connection, collection, 0)


def update_fields(connection: sqlite3.Connection, collection: int, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Set fields of rows that have no column.

    Args:
        connection: open transaction.
        collection: number of the collection.
        changes: new values by the id of the row; None removes a field. Ids that do not exist are ignored.
    """
    numbers = find_rows(connection, collection, changes)
    rows = [{**row, **changes[row["id"]]} for row in read_rows(connection, numbers).values()]
    updated = [{name: value for name, value in row.items() if value is not None} for row in rows]
    connection.executemany(
        "UPDATE rows SET fields = ? WHERE id = ? AND collection = ?",
        ((_encode_others(row), row["id"], collection) for row in updated),
    )
    _add_kinds(connection, collection, updated)
    change_count(connection, collection, 0)


def _update_unique(connection: sqlite3.Connection, statement: str, values: Sequence[Any]) -> None:
    try:
        connection.execute(statement, values)
    except sqlite3.IntegrityError:
        raise VideoIndexError(
            f"the index already has a video with the id {brief(values[0])}: delete one of the two first"
        ) from None


def read_rows(connection: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, Row]:
    """Return rows by their numbers, without their vectors."""
    rows: dict[int, Row] = {}
    for part in _parts(numbers):
        for values in connection.execute(f"{_SELECT_ROWS} WHERE rows.number IN {_marks(part)}", part):
            rows[values[0]] = _to_row(values)
    if len(rows) < len(numbers):
        raise _damaged("a row is missing")
    return rows


def iterate_rows(
    connection: sqlite3.Connection, collection: int, sql: str, parameters: Sequence[Any], by_video: bool
) -> Iterator[dict[int, Row]]:
    """Yield the rows that match a condition in batches, by their numbers, without their vectors.

    Args:
        connection: open transaction.
        collection: number of the collection.
        sql: condition, as for :func:`select_rows`.
        parameters: its parameters.
        by_video: yield the rows of a video one after another.
    """
    order = "rows.video, rows.number" if by_video else "rows.number"
    statement = f"{_SELECT_ROWS} WHERE collection = ? AND {sql} ORDER BY {order}"
    cursor = connection.execute(statement, (collection, *parameters))
    while batch := cursor.fetchmany(READ_BATCH):
        yield {values[0]: _to_row(values) for values in batch}


def read_vectors(connection: sqlite3.Connection, numbers: Sequence[int], dim: int) -> np.ndarray:
    """Return the vectors of rows by their numbers, float32 of shape (n, dim), in this order."""
    vectors = np.empty((len(numbers), dim), np.float32)
    position = {number: index for index, number in enumerate(numbers)}
    missing = len(numbers)
    for part in _parts(numbers):
        for number, vector in connection.execute(f"SELECT row, vector FROM vectors WHERE row IN {_marks(part)}", part):
            vectors[position[number]] = np.frombuffer(_check_vector(vector, dim), np.float32)
            missing -= 1
    if missing:
        raise _damaged("a vector is missing")
    return vectors


def read_times(connection: sqlite3.Connection, numbers: Sequence[int]) -> list[tuple[float | None, float | None]]:
    """Return start and end in seconds of rows by their numbers, in this order; None for rows without times."""
    times: dict[int, tuple[float | None, float | None]] = {}
    for part in _parts(numbers):
        statement = f'SELECT number, start, "end" FROM rows WHERE number IN {_marks(part)}'
        times.update((number, (start, end)) for number, start, end in connection.execute(statement, part))
    for pair in times.values():
        _check_times(*pair)
    if len(times) < len(numbers):
        raise _damaged("a row is missing")
    return [times[number] for number in numbers]


def iterate_vectors(
    connection: sqlite3.Connection, collection: int, dim: int, batch_size: int
) -> Iterator[tuple[Sequence[int], Sequence[int], np.ndarray]]:
    """Yield all rows in batches: their numbers in rising order, the numbers of their videos, and their vectors."""
    cursor = connection.execute(
        "SELECT number, video, vector FROM rows LEFT JOIN vectors ON row = number WHERE collection = ? ORDER BY number",
        (collection,),
    )
    while batch := cursor.fetchmany(batch_size):
        numbers, videos, vectors = zip(*batch, strict=True)
        if {*map(type, videos)} != {int}:
            raise _damaged("the number of a video is invalid")
        joined = b"".join(_check_vector(vector, dim) for vector in vectors)
        yield numbers, videos, np.frombuffer(joined, np.float32).reshape(len(batch), dim)


def _check_vector(vector: Any, dim: int) -> bytes:
    if type(vector) is not bytes or len(vector) != 4 * dim:
        raise _damaged("a vector is invalid")
    return vector


def read_dead(connection: sqlite3.Connection, collection: int, last: int) -> list[tuple[int, int]]:
    """Return number and row of the entries of the list of dead rows that follow an entry, in their order."""
    statement = "SELECT number, row FROM dead WHERE number > ? AND collection = ? ORDER BY number"
    dead = connection.execute(statement, (last, collection)).fetchall()
    if any(type(row) is not int for _, row in dead):
        raise _damaged("the number of a deleted row is invalid")
    return dead


def read_field_kinds(connection: sqlite3.Connection, collection: int) -> dict[str, set[str]]:
    """Return the kinds of values that rows ever had in a field, by its name."""
    kinds: dict[str, set[str]] = {}
    for name, kind in connection.execute("SELECT name, kind FROM field_kinds WHERE collection = ?", (collection,)):
        kinds.setdefault(name, set()).add(kind)
    return kinds


def count_videos(connection: sqlite3.Connection, collection: int) -> int:
    """Return the number of videos."""
    statement = "SELECT count(*) FROM videos WHERE collection = ?"
    return int(connection.execute(statement, (collection,)).fetchone()[0])


def read_content(connection: sqlite3.Connection, collection: int) -> Content:
    """Return the number of videos and rows, and the kinds of values that rows ever had in a field."""
    kinds = read_field_kinds(connection, collection)
    return Content(count_videos(connection, collection), read_state(connection, collection).row_count, kinds)


def create_field_index(connection: sqlite3.Connection, name: str, expression: str) -> None:
    """Create an index on a field of all rows. Does nothing if there is one.

    Args:
        connection: open transaction.
        name: name of the field.
        expression: the field in SQL, a column or what :func:`clip4clip.index.filters.sql.index_expression` returns.
    """
    label = name.encode().hex()  # names in SQL are the same in upper and lower case
    # The field comes first: an index that begins with the collection would be used by every filter.
    connection.execute(f'CREATE INDEX IF NOT EXISTS "field_{label}" ON rows ({expression}, collection)')


def read_failures(connection: sqlite3.Connection, collection: int, paths: Sequence[str]) -> dict[str, Failure]:
    """Return the failures of files by their paths."""
    failures: dict[str, Failure] = {}
    for part in _parts(paths):
        statement = f"SELECT path, size, mtime, error FROM failures WHERE path IN {_marks(part)} AND collection = ?"
        failures.update((row[0], Failure(*row)) for row in connection.execute(statement, (*part, collection)))
    return failures


def _video_numbers(connection: sqlite3.Connection, collection: int, names: Sequence[str]) -> list[int]:
    """Return the number of each video, and add those that are new."""
    distinct = [*dict.fromkeys(names)]
    numbers: dict[str, int] = {}
    for part in _parts(distinct):
        statement = f"SELECT name, number FROM videos WHERE name IN {_marks(part)} AND collection = ?"
        numbers.update(connection.execute(statement, (*part, collection)).fetchall())
    new = [name for name in distinct if name not in numbers]
    numbers.update(zip(new, _next_numbers(connection, "videos", len(new)), strict=True))
    connection.executemany("INSERT INTO videos VALUES (?, ?, ?)", ((numbers[name], collection, name) for name in new))
    return [numbers[name] for name in names]


def _next_numbers(connection: sqlite3.Connection, table: str, count: int) -> range:
    """Return numbers for new rows of a table, which no row ever had."""
    last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    start = last[0] + 1 if last else 1
    return range(start, start + count)


def _encode_others(row: Row) -> str | None:
    """Return the fields of a row that have no column, as a JSON object; None if there are none."""
    others = row.keys() - KINDS.keys()
    return _encode_json({name: row[name] for name in row if name in others}) if others else None


def _to_row(values: Sequence[Any]) -> Row:
    """Return what :data:`_SELECT_ROWS` gives as a dictionary, without fields that are missing."""
    _, row_id, path, video, *numbers, others = values
    fields = {name: value for name, value in zip(NUMBER_FIELDS, numbers, strict=True) if value is not None}
    if not (type(row_id) is type(path) is type(video) is str):
        raise _damaged(f"a row has the id {brief(row_id)}, the path {brief(path)} and the video {brief(video)}")
    _check_times(fields.get("start"), fields.get("end"))
    if others is None:
        return {"id": row_id, "path": path, "video": video, **fields}
    try:
        return {"id": row_id, "path": path, "video": video, **fields, **json.loads(others)}
    except (TypeError, ValueError, RecursionError) as error:
        raise _damaged(f"the fields of {brief(row_id)} are invalid, {first_line(error)}") from error


def _check_times(*times: Any) -> None:
    if not all(time is None or (type(time) is float and math.isfinite(time)) for time in times):
        raise _damaged(f"a row has the times {brief(times)}")


def _kinds_of(rows: Iterable[Row]) -> set[tuple[str, str]]:
    """Return name and kind of the values in the fields of rows, except those that every row has."""
    examples = {(name, type(value)): value for row in rows for name, value in row.items()}
    return {(name, kind_of(value)) for (name, _), value in examples.items() if name not in (*TEXT_FIELDS, "vector")}


def _add_kinds(connection: sqlite3.Connection, collection: int, rows: Iterable[Row]) -> None:
    """Remember which kinds of values the fields of rows have."""
    connection.executemany(
        "INSERT OR IGNORE INTO field_kinds VALUES (?, ?, ?)",
        ((collection, name, kind) for name, kind in _kinds_of(rows)),
    )


_CODES_NAME = re.compile(r"([0-9a-f]{8})?")


def _damaged(problem: str) -> VideoIndexError:
    return VideoIndexError(
        f"the index is damaged, {problem}: restore it from a copy, or move it away and create it again with `clip4clip "
        "index`"
    )


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield values in parts that fit into one statement."""
    for start in range(0, len(values), PARAMETERS):
        yield values[start : start + PARAMETERS]


def _marks(values: Sequence[Any]) -> str:
    """Return the parameter marks for a list of values in SQL."""
    return f"({', '.join('?' * len(values))})"
