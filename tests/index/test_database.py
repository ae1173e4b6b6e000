"""The SQLite file of a local index: its lock, its readers, and what is said about files that are none."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from processes import in_a_fork, needs_fork

from clip4clip import IndexUnavailableError, VideoIndexError
from clip4clip.index import database as database_module
from clip4clip.index.database import Database
from clip4clip.index.tables import has_tables


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """An index without collections."""
    opened = Database(tmp_path / "videos.db", timeout=10)
    opened.write(lambda connection: None)
    return opened


def add(connection: sqlite3.Connection, path: str = "a") -> None:
    connection.execute("INSERT INTO failures VALUES (1, ?, 0, 0, '')", (path,))


def paths(connection: sqlite3.Connection) -> list[str]:
    return [path for (path,) in connection.execute("SELECT path FROM failures ORDER BY path")]


def test_a_failed_transaction_changes_nothing(database: Database) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        add(connection)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.write(fail)
    assert database.read(paths) == []
    database.write(add)
    assert database.read(paths) == ["a"]


def test_a_reader_keeps_its_state_while_others_write(database: Database) -> None:
    other = Database(database.path, timeout=10)
    with database.reading() as connection:
        assert paths(connection) == []
        other.write(add)
        assert paths(connection) == []
        other.checkpoint()
        assert paths(connection) == []
    assert database.read(paths) == ["a"]
    other.close()


def test_a_writer_waits_for_its_turn_and_then_gives_up(database: Database) -> None:
    writing, done = threading.Event(), threading.Event()

    def hold(connection: sqlite3.Connection) -> None:
        add(connection)
        writing.set()
        done.wait(60)

    thread = threading.Thread(target=database.write, args=(hold,))
    thread.start()
    assert writing.wait(60)
    impatient = Database(database.path, timeout=0.05)
    with pytest.raises(
        IndexUnavailableError, match=r"been writing to the index .*videos.db for more than 0.05 seconds"
    ):
        impatient.write(add)
    assert impatient.read(paths) == []
    done.set()
    thread.join()
    impatient.write(lambda connection: add(connection, "b"))
    assert impatient.read(paths) == ["a", "b"]
    impatient.close()


@needs_fork
def test_a_forked_process_reads_and_writes(database: Database) -> None:
    database.write(add)

    def work() -> list[str]:
        database.write(lambda connection: add(connection, "b"))
        return database.read(paths)

    assert in_a_fork(work) == ["a", "b"]
    assert database.read(paths) == ["a", "b"]
    database.write(lambda connection: add(connection, "c"))
    assert database.read(paths) == ["a", "b", "c"]


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be replaced")
def test_a_file_that_was_replaced_is_read_again(database: Database, tmp_path: Path) -> None:
    database.write(add)
    assert database.read(paths) == ["a"]
    other = Database(tmp_path / "other.db", timeout=10)
    other.write(lambda connection: add(connection, "other"))
    other.close()
    database.checkpoint()
    for ending in ("wal", "shm"):
        database.beside(ending).unlink(missing_ok=True)
    (tmp_path / "other.db").replace(database.path)
    assert database.read(paths) == ["other"]


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be replaced")
def test_a_file_that_was_replaced_while_it_was_opened_is_read_again(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Database(tmp_path / "other.db", timeout=10)
    other.write(lambda connection: add(connection, "other"))
    for opened in (other, database):
        opened.checkpoint()
        opened.close()
    connect = sqlite3.connect

    def replace_meanwhile(*args: Any, **options: Any) -> sqlite3.Connection:
        monkeypatch.undo()
        connection = connect(*args, **options)
        (tmp_path / "other.db").replace(database.path)
        return connection

    monkeypatch.setattr(sqlite3, "connect", replace_meanwhile)
    reader = Database(database.path, timeout=10)
    reader.read(paths)
    assert reader.read(paths) == ["other"]
    reader.close()


def test_a_file_that_is_no_index_is_reported_as_such(tmp_path: Path) -> None:
    path = tmp_path / "videos.db"
    path.write_bytes(b"not a database at all" * 1000)
    with pytest.raises(VideoIndexError, match=r"videos.db is damaged or no index: file is not a database. Restore it"):
        Database(path, 1).read(paths)
    with pytest.raises(VideoIndexError, match="is damaged or no index"):
        Database(path, 1).write(add)
    path.unlink()
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE mine (number)")
    foreign.commit()
    foreign.close()
    before = path.read_bytes()
    for use in (Database(path, 1).read, Database(path, 1).write):
        with pytest.raises(VideoIndexError, match=r"a database of another program, not an index: choose another name"):
            use(paths)
    assert path.read_bytes() == before


def test_an_index_of_another_format_is_refused(database: Database) -> None:
    database.write(lambda connection: connection.execute("PRAGMA user_version = 99"))
    with pytest.raises(VideoIndexError, match=r"has the format 99, and this version of clip4clip reads 1"):
        Database(database.path, 1).read(paths)


def test_a_damaged_index_is_reported_as_such(database: Database) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        for number in range(3000):
            add(connection, f"{number:0100}")

    database.write(fill)
    database.close()
    with database.path.open("r+b") as file:
        file.seek(20_000)
        file.write(os.urandom(200_000))
    with pytest.raises(VideoIndexError, match=r"is damaged or no index: .*malformed. Restore it from a copy"):
        Database(database.path, 1).read(paths)


def test_a_closed_database_cannot_be_used(database: Database) -> None:
    database.close()
    for use in (database.read, database.write):
        with pytest.raises(VideoIndexError, match="has been closed: open another one"):
            use(paths)


def test_a_full_database_keeps_what_it_has(database: Database) -> None:
    database.write(add)

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA max_page_count = 20")  # what SQLite reports for a full disk, too
        for number in range(10_000):
            add(connection, f"{number:0100}")

    with pytest.raises(VideoIndexError, match=r"the disk is full. What was stored before is kept"):
        database.write(fill)
    assert database.read(paths) == ["a"]


def test_reading_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "videos.db"
    path.touch()  # as a process leaves it that is killed when it has just begun
    opened = Database(path, 10)
    assert opened.read(has_tables) is False
    assert path.read_bytes() == b""
    opened.write(add)
    assert opened.read(paths) == ["a"]
    opened.close()


def test_a_file_without_tables_becomes_an_index(tmp_path: Path) -> None:
    path = tmp_path / "videos.db"
    with contextlib.closing(sqlite3.connect(path)) as killed:
        killed.execute("PRAGMA journal_mode = WAL")
    assert path.stat().st_size > 0
    opened = Database(path, 10)
    assert opened.read(has_tables) is False
    opened.write(add)
    assert opened.read(paths) == ["a"]
    opened.close()


def test_threads_that_create_the_same_file_at_once_lose_nothing(tmp_path: Path) -> None:
    databases = [Database(tmp_path / "videos.db", 60) for _ in range(8)]
    start = threading.Barrier(len(databases))

    def create(number: int) -> None:
        start.wait()
        databases[number].write(lambda connection: add(connection, str(number)))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(len(databases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert databases[0].read(paths) == [str(number) for number in range(8)]
    for opened in databases:
        opened.close()


def test_readers_of_a_copy_without_a_write_ahead_log_keep_nobody_from_writing(
    database: Database, tmp_path: Path
) -> None:
    database.write(add)
    with database.reading() as connection:
        connection.execute("ROLLBACK")
        connection.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
    copy, other = Database(tmp_path / "copy.db", 10), Database(tmp_path / "copy.db", 10)
    copy.write(lambda connection: add(connection, "b"))
    with other.reading() as connection:
        assert paths(connection) == ["a", "b"]
        copy.write(lambda connection: add(connection, "c"))
        assert paths(connection) == ["a", "b"]
    copy.close()
    other.close()


def test_a_write_is_acknowledged_although_the_log_cannot_be_emptied(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(database_module, "CHECKPOINT_BYTES", 0)
    monkeypatch.setattr(database_module, "_checkpoint", fail)
    database.write(add)
    assert database.read(paths) == ["a"]
    assert "cannot be emptied: database or disk is full" in caplog.text


@pytest.mark.parametrize("sql", ["CREATE VIEW v AS SELECT 1", "CREATE TRIGGER t DELETE ON rows BEGIN SELECT 1; END"])
def test_sql_in_a_file_does_not_run(database: Database, sql: str) -> None:
    database.write(lambda connection: connection.execute(sql))
    with pytest.raises(VideoIndexError, match="the index is damaged, it has a trigger or a view"):
        Database(database.path, 10).read(paths)


def test_few_connections_stay_open(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = []
    connect = sqlite3.connect

    def remember(*args: Any, **options: Any) -> sqlite3.Connection:
        connections.append(connect(*args, **options))
        return connections[-1]

    monkeypatch.setattr(sqlite3, "connect", remember)
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(database.reading())

    def is_open(connection: sqlite3.Connection) -> bool:
        try:
            connection.execute("SELECT 1")
        except sqlite3.ProgrammingError:
            return False
        return True

    assert len(connections) >= 29
    assert sum(map(is_open, connections)) <= 8
    database.close()
    assert not any(map(is_open, connections))


def test_what_was_read_of_a_file_that_changed_meanwhile_is_read_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.write(add)
    database.close()
    writer = Database(database.path, 10)
    results = []

    def read(connection: sqlite3.Connection) -> list[str]:
        results.append(paths(connection))
        if len(results) == 1:
            monkeypatch.undo()  # the writer has the permission that the reader lacks
            writer.write(lambda connection: add(connection, "b"))
            monkeypatch.setattr(database_module, "is_writable", lambda path: False)
        return results[-1]

    monkeypatch.setattr(database_module, "is_writable", lambda path: False)
    assert Database(database.path, 10).read(read) == ["a", "b"]
    assert results == [["a"], ["a", "b"]]
    writer.close()


READER = """
import os, shutil, sys
from pathlib import Path
from clip4clip.errors import VideoIndexError
from clip4clip.index.database import Database
path = Path(sys.argv[1])
def paths(connection):
    return [path for (path,) in connection.execute("SELECT path FROM failures ORDER BY path")]
def add(connection, path):
    connection.execute("INSERT INTO failures VALUES (1, ?, 0, 0, '')", (path,))
def as_another_user(use):
    os.seteuid(65534)  # root ignores permissions
    try:
        return use()
    finally:
        os.seteuid(0)
writer = Database(path, 10)
writer.write(lambda connection: add(connection, "a"))
for file in path.parent.iterdir():
    file.chmod(0o644)
path.parent.chmod(0o755)
reader = Database(path, 10)
print(as_another_user(lambda: reader.read(paths)))  # beside a writer
writer.close()
print(as_another_user(lambda: reader.read(paths)))  # after a clean close
writer = Database(path, 10)
writer.write(lambda connection: add(connection, "b"))
for file in path.parent.iterdir():
    file.chmod(0o644)
print(as_another_user(lambda: reader.read(paths)))  # a writer began, and the reader was not opened again
copy = path.parent / "copy"
copy.mkdir()
for ending in ("", "-wal"):  # what SQLite cannot read without making a -shm
    shutil.copy(f"{path}{ending}", copy)
writer.close()
print(as_another_user(lambda: reader.read(paths)))
reader.close()
print(as_another_user(lambda: Database(path, 10).read(paths)))  # opened after a clean close
(path.parent / "videos.db-wal").touch()  # such as a copy has
print(as_another_user(lambda: Database(path, 10).read(paths)))
reader = Database(path, 10)
try:
    as_another_user(lambda: Database(copy / "videos.db", 10).read(paths))
except VideoIndexError as error:
    print(error)
try:
    as_another_user(lambda: reader.write(lambda connection: add(connection, "c")))
except VideoIndexError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs another user")
def test_a_reader_needs_no_permission_to_write(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 0o11)
    done = subprocess.run([sys.executable, "-c", READER, folder / "videos.db"], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[:6] == ["['a']", "['a']", *["['a', 'b']"] * 4]
    assert "videos.db cannot be opened. It needs permission to write in" in done.stdout
    assert "cannot be written: Permission denied. It needs permission to write in" in done.stdout
