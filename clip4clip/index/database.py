"""An SQLite file that many processes read while one writes.

Readers never wait: SQLite's write-ahead log gives each transaction the state of its beginning. Writers take turns by a
lock file. All commits and checkpoints happen under this lock, which also avoids SQLite's WAL-reset bug
(https://sqlite.org/wal.html#walresetbug, versions before 3.51.3): it needs a commit during a checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import filelock

from ..errors import Clip4clipError, IndexUnavailableError, VideoIndexError, first_line
from ..files import is_writable
from ..threads import ForkSafeLock
from .tables import create_tables, has_tables

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

PAGE_SIZE = 16_384  # seven vectors of 512 numbers; a page of 4 kB holds one and is half empty
CACHE_KB = 65_536  # of each connection
MAX_IDLE = 8  # connections that are kept for later
CHECKPOINT_BYTES = 64 << 20  # size of the write-ahead log from which it is moved into the database
LOCK_POLL = 0.005  # seconds
KEPT = "What was stored before is kept"
BUSY_TIMEOUT = 10_000  # milliseconds, for programs that do not know our lock


class ChangedError(Exception):
    """Raised when a file changed under a reader that cannot lock it."""


class Database:
    """An SQLite file with the tables of an index, which need not exist yet. Safe to use from several threads at once.

    Args:
        path: the file.
        timeout: seconds to wait for other writers.

    Raises:
        IndexUnavailableError: another process has been writing for longer than ``timeout``.
        VideoIndexError: the file is damaged, was written by another program, or cannot be read or written. All methods
            raise both.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self.path = path
        self._timeout = min(max(timeout, 0.0), threading.TIMEOUT_MAX)
        self._pool = _Pool(path)
        self._turn = ForkSafeLock()
        self._closed = False

    def close(self) -> None:
        """Close all connections. Those in use are closed when they are given back."""
        self._closed = True
        self._pool.close()

    def identity(self) -> tuple[int, ...] | None:
        """Return numbers that change when the file is replaced by another one; None as long as there is no file."""
        return _file_state(self.path)[:2] or None

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection in a transaction that sees the state of its beginning.

        Raises:
            ChangedError: this process cannot lock the file, and another one changed it. What was read is worthless.
        """
        self._check_open()
        with self._translate_errors(), self._pool.connection() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")

    def read(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Return what a function reads in one transaction. It is called again if the file changed under it."""
        for _ in range(100):
            try:
                with self.reading() as connection:
                    return work(connection)
            except ChangedError:
                continue
        raise IndexUnavailableError(
            f"the index {self.path} is being changed all the time, and this process cannot lock it without permission "
            "to write: try again"
        )

    def write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Return the result of a function that writes. Its changes are on the disk when this returns, or undone."""
        self._check_open()
        with self._lock(), self._translate_errors(), self._pool.connection(create=True) as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # recorded in the file, but not in all copies of it
            connection.execute("BEGIN IMMEDIATE")
            try:
                if not has_tables(connection):
                    create_tables(connection)
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            if self._log_size() > CHECKPOINT_BYTES:
                try:
                    _checkpoint(connection)
                except sqlite3.Error as error:  # the changes are on the disk already
                    logger.warning("the write-ahead log of %s cannot be emptied: %s", self.path, error)
            return result

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database file."""
        with self._lock(), self._translate_errors(), self._pool.connection() as connection:
            _checkpoint(connection)

    def beside(self, ending: str) -> Path:
        """Return the path of a file beside the database."""
        return self.path.with_name(f"{self.path.name}-{ending}")

    def _log_size(self) -> int:
        try:
            return self.beside("wal").stat().st_size
        except FileNotFoundError:
            return 0

    def _check_open(self) -> None:
        if self._closed:
            raise VideoIndexError(f"the index at {self.path} has been closed: open another one")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the lock of writers, among the threads of this process and among processes."""
        busy = IndexUnavailableError(
            f"another process or thread has been writing to the index {self.path} for more than {self._timeout:g} "
            "seconds: wait until it has ended, or set a longer timeout"
        )
        deadline = time.monotonic() + self._timeout
        if not self._turn.acquire(timeout=self._timeout):
            raise busy
        try:
            remaining = max(0.0, deadline - time.monotonic())
            lock = filelock.FileLock(self.beside("lock"), timeout=remaining, mode=0o666, thread_local=False)
            try:
                lock.acquire(poll_interval=LOCK_POLL)
            except filelock.Timeout:
                raise busy from None
            except OSError as error:
                raise VideoIndexError(
                    f"the index {self.path} cannot be written: {error.strerror or error}. It needs permission to write "
                    f"in {self.path.parent}"
                ) from error
            try:
                yield
            finally:
                lock.release()
        finally:
            self._turn.release()

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Translate SQLite's errors, and those of the operating system, into this package's."""
        try:
            yield
        except sqlite3.Error as error:
            raise _translate(error, self.path) from error
        except Clip4clipError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise VideoIndexError(f"the index {self.path} cannot be read or written: {reason}. {KEPT}") from error


def _translate(error: sqlite3.Error, path: Path) -> VideoIndexError:
    reason = first_line(error)
    if "locked" in reason or "busy" in reason:
        return IndexUnavailableError(f"the index {path} is in use by another program that locks it: {reason}")
    if "unable to open" in reason:
        return VideoIndexError(
            f"the index {path} cannot be opened. It needs permission to write in {path.parent}, or {path.name}-wal and "
            f"{path.name}-shm beside it, or a copy that was made while no process had it open"
        )
    if "full" in reason:
        return VideoIndexError(f"the index {path} cannot be written: the disk is full. {KEPT}")
    if "malformed" in reason or "not a database" in reason or "no such table" in reason or "no such column" in reason:
        return VideoIndexError(
            f"the index {path} is damaged or no index: {reason}. Restore it from a copy, or move it away and create it "
            "again with `clip4clip index`"
        )
    return VideoIndexError(f"the index {path} cannot be read or written: {reason}. {KEPT}")


def _checkpoint(connection: sqlite3.Connection) -> None:
    """Move the write-ahead log into the database, and empty it unless a reader still needs it."""
    connection.execute("PRAGMA busy_timeout = 0")  # do not wait for readers
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")


class _Pool:
    """The connections of a process to a database. A forked process opens connections of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[_Connection] = []
        self._lock = ForkSafeLock()
        self._closed = False

    @contextlib.contextmanager
    def connection(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        """Lend a connection.

        Args:
            create: create the file if it is missing.
        """
        connection = self._take() or _Connection(self._path, create)
        try:
            yield connection.sqlite
        except sqlite3.Error:
            connection.close()
            connection.check_unchanged()  # which explains any error
            raise
        except BaseException:
            self._give_back(connection)
            raise
        self._give_back(connection)
        connection.check_unchanged()

    def _give_back(self, connection: _Connection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < MAX_IDLE and connection.is_usable():
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> _Connection | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_usable():
                return connection
            connection.close()


# SQLite's connections must not be used in a forked process, not even closed, which would free locks of the parent.
_inherited: list[sqlite3.Connection] = []


class _Connection:
    """A connection, and the state of the file when it was opened."""

    def __init__(self, path: Path, create: bool) -> None:
        self._path, self._process = path, os.getpid()
        can_write = create or (is_writable(path) and is_writable(path.parent))
        # Without permission to write, SQLite cannot create the files that it reads a database with. If no process has
        # created them, none is writing, and the database file has everything.
        self._is_immutable = not can_write and not _has_log(path)
        mode = "rwc" if create else "rw" if can_write else "ro"
        before = _file_state(path)  # if the file is replaced meanwhile, the connection is not used for long
        uri = f"{path.absolute().as_uri()}?mode={mode}{'&immutable=1' if self._is_immutable else ''}"
        self.sqlite = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT / 1000
        )
        try:
            self._file = before or _file_state(path)
            self._configure(can_write)
        except BaseException as error:
            self.sqlite.close()
            if isinstance(error, VideoIndexError):
                raise VideoIndexError(f"{path}: {error}") from error
            raise

    def _configure(self, can_write: bool) -> None:
        execute = self.sqlite.execute
        execute(f"PRAGMA cache_size = -{CACHE_KB}")
        has_tables(self.sqlite)  # before anything is changed
        if can_write:
            execute(f"PRAGMA page_size = {PAGE_SIZE}")  # of a new file
            execute("PRAGMA synchronous = FULL")
            execute("PRAGMA fullfsync = ON")  # macOS otherwise leaves what is synchronised in the cache of the disk
            execute("PRAGMA checkpoint_fullfsync = ON")
            execute("PRAGMA wal_autocheckpoint = 0")

    def close(self) -> None:
        if self._process == os.getpid():
            self.sqlite.close()
        else:
            _inherited.append(self.sqlite)

    def is_usable(self) -> bool:
        """Return whether the file is still the one that was opened, and this process the one that opened it."""
        if self._process != os.getpid():
            return False
        if self._is_immutable:
            return not self._has_changed()
        return self._file[:2] == _file_state(self._path)[:2]

    def check_unchanged(self) -> None:
        """Raise ChangedError if SQLite did not lock the file, and it has changed."""
        if self._is_immutable and self._has_changed():
            raise ChangedError

    def _has_changed(self) -> bool:
        return _has_log(self._path) or self._file != _file_state(self._path)


def _has_log(path: Path) -> bool:
    """Return whether a database has a write-ahead log, or a process may be writing one."""
    log = _file_state(path.with_name(f"{path.name}-wal"))
    return bool(log) and (log[2] > 0 or path.with_name(f"{path.name}-shm").exists())


def _file_state(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
