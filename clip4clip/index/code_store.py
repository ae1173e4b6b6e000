"""The files of codes beside a local index: publish, load, rebuild and compact them.

The database says how many records of which file count. New records are written behind them and synchronised first, and
count once the transaction is committed. So nobody sees a torn write, and readers need no lock. If a file has more
records than count, because a process was killed or because the database was restored from a copy, new ones go to a new
file. The file is derived: one that is lost or belongs to another state is rebuilt from the vectors in the database.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import logging
import secrets
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..errors import VideoIndexError
from ..threads import ForkSafeLock
from .codes import Codes, CodesLostError, CodesState, can_append, encode, open_codes, record_type, write_codes
from .database import ChangedError, Database
from .tables import Collection, iterate_vectors, read_dead, read_state, set_codes

logger = logging.getLogger(__name__)

BATCH = 8192  # records written at once
COMPACT_SHARE, COMPACT_ROWS = 0.2, 1000  # deleted rows from which their codes are removed


class CodeStore:
    """The codes of a collection. Safe to use from several threads at once.

    Args:
        database: the index.
        collection: the collection.
    """

    def __init__(self, database: Database, collection: Collection) -> None:
        self._database, self._collection = database, collection
        self._codes: Codes | None = None
        self._lock = ForkSafeLock()
        self._is_repairable = True

    def load(self, connection: sqlite3.Connection) -> Codes:
        """Return the codes in the state that a transaction sees.

        Raises:
            CodesLostError: the file has to be rebuilt first, see :meth:`repair`.
            ChangedError: another thread has loaded a later state: a new transaction has to be begun.
        """
        state = read_state(connection, self._collection.number)
        with self._lock:
            previous = self._codes
            if previous is not None and (previous.version, previous.state) == (state.version, state.codes):
                return previous
            if previous is not None and previous.version > state.version:
                raise ChangedError
            if previous is not None and not previous.is_before(state.codes):
                previous = None
            records = self._open(connection, state.codes)
            dead = read_dead(connection, self._collection.number, previous.last_dead if previous else 0)
            self._codes = Codes.of(records, state.codes, state.version, dead, previous)
            return self._codes

    def publish(self, connection: sqlite3.Connection, records: np.ndarray) -> None:
        """Append the codes of rows that a transaction has inserted, and publish them with it.

        Args:
            connection: open transaction of a writer.
            records: codes of the rows, in the order of their numbers.
        """
        state = read_state(connection, self._collection.number).codes
        path, dim = self._path(state.name), self._collection.dim
        try:
            stored = open_codes(path, dim, state)
        except CodesLostError:
            self._replace(connection, self._encode_all(connection))
            return
        if not can_append(path, dim, state):
            self._replace(connection, itertools.chain(_in_batches(stored), [records]))
            return
        stamp = secrets.randbits(32)
        records["stamp"] = stamp
        write_codes(path, [records], self._mode())
        set_codes(connection, self._collection.number, CodesState(state.name, state.count + len(records), stamp))

    def repair(self) -> None:
        """Rebuild a lost file. Without permission to write, its content is kept in memory instead."""

        def rebuild(connection: sqlite3.Connection) -> None:
            state = read_state(connection, self._collection.number).codes
            try:
                open_codes(self._path(state.name), self._collection.dim, state)
            except CodesLostError:  # else another process has rebuilt it
                self._replace(connection, self._encode_all(connection))

        try:
            self._database.write(rebuild)
        except VideoIndexError as error:
            logger.warning("codes are kept in memory: %s", error)
            self._is_repairable = False

    def is_wasteful(self, connection: sqlite3.Connection) -> bool:
        """Return whether most codes are those of deleted rows."""
        state = read_state(connection, self._collection.number)
        return state.codes.count > 2 * state.row_count + COMPACT_ROWS

    def compact(self) -> None:
        """Remove the codes of deleted rows if they are many, and files that are not used any more."""

        def rewrite(connection: sqlite3.Connection) -> None:
            state = read_state(connection, self._collection.number)
            dead = state.codes.count - state.row_count
            if dead > COMPACT_ROWS and dead > COMPACT_SHARE * state.codes.count:
                self._replace(connection, _live_records(self.load(connection)))

        with contextlib.suppress(CodesLostError):  # the next search rebuilds them
            self._database.write(rewrite)
        self._database.write(self._remove_unused)

    def _open(self, connection: sqlite3.Connection, state: CodesState) -> np.ndarray:
        try:
            return open_codes(self._path(state.name), self._collection.dim, state)
        except CodesLostError:
            if self._is_repairable:
                raise
            return np.concatenate([np.empty(0, record_type(self._collection.dim)), *self._encode_all(connection)])

    def _replace(self, connection: sqlite3.Connection, batches: Iterable[np.ndarray]) -> None:
        """Write all codes to a new file, and publish it with the transaction."""
        name, stamp = secrets.token_hex(4), secrets.randbits(32)
        count = 0

        def stamped() -> Iterator[np.ndarray]:
            nonlocal count
            for records in batches:
                records["stamp"] = stamp
                count += len(records)
                yield records

        write_codes(self._path(name), stamped(), self._mode())
        connection.execute("DELETE FROM dead WHERE collection = ?", (self._collection.number,))
        set_codes(connection, self._collection.number, CodesState(name, count, stamp))

    def _encode_all(self, connection: sqlite3.Connection) -> Iterator[np.ndarray]:
        """Yield the codes of all rows, in batches, in the order of their numbers."""
        for rows, videos, vectors in iterate_vectors(connection, self._collection.number, self._collection.dim, BATCH):
            records = encode(vectors, self._collection.rotation)
            records["row"], records["video"] = rows, videos
            yield records

    def _remove_unused(self, connection: sqlite3.Connection) -> None:
        """Remove files that no collection uses. Called by a writer, as another one may just write a new file."""
        names = connection.execute("SELECT codes_name FROM collections")
        used = {f"{self._path('').name}{name}" for (name,) in names}
        for path in self._database.path.parent.glob(f"{glob.escape(self._path('').name)}*"):
            if path.name not in used:
                with contextlib.suppress(OSError):  # Windows keeps a file that a process has mapped
                    path.unlink()

    def _path(self, name: str) -> Path:
        return self._database.beside(f"codes-{name}")

    def _mode(self) -> int:
        """Return the access mode of a new file: that of the database."""
        return stat.S_IMODE(self._database.path.stat().st_mode)


def _in_batches(records: np.ndarray) -> Iterator[np.ndarray]:
    """Yield copies of records, in batches."""
    for start in range(0, len(records), BATCH):
        yield records[start : start + BATCH].copy()


def _live_records(codes: Codes) -> Iterator[np.ndarray]:
    """Yield the records of rows that were not deleted, in batches."""
    live = codes.live_positions()
    for start in range(0, len(live), BATCH):
        yield codes.records[live[start : start + BATCH]]
