"""The local index among processes that read, write and are killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_rows import DIM, SPEC, Model, group_rows, make_rows, next_operation, vector_of
from processes import file_size_limit, in_a_fork, needs_fork

from clip4clip import IndexUnavailableError, InputTypeError, InputValueError, VideoIndexError
from clip4clip.index import code_store, database, local
from clip4clip.index.address import IndexAddress
from clip4clip.index.engine import Failure
from clip4clip.index.local import LocalCollection


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[LocalCollection]:
    """An empty collection in a new file."""
    opened = open_collection(tmp_path / "videos.db")
    opened.create(SPEC, DIM)
    yield opened
    opened.close()


def open_collection(path: Path) -> LocalCollection:
    return LocalCollection(IndexAddress(str(path), "videos"))


def code_files(collection: LocalCollection) -> list[Path]:
    return sorted(Path(collection.address.uri).parent.glob("*-codes-*"))


def assert_finds_all(collection: LocalCollection, rows: dict) -> None:
    """Each row is found by its vector, and nothing else is stored."""
    assert {row["id"] for row in collection.rows(["id"])} == rows.keys()
    for row in rows.values():
        hit = collection.search(row["vector"], 1)[0]
        assert (hit.id, hit.score) == (row["id"], pytest.approx(1, abs=1e-12))
    assert collection.count() == len(rows)


def test_new_rows_are_found_by_those_who_have_the_index_open(collection: LocalCollection) -> None:
    reader = open_collection(Path(collection.address.uri))
    rows = make_rows(range(20))
    for id_, row in rows.items():
        collection.upsert({id_: row})
        assert reader.search(row["vector"], 1)[0].id == id_
    collection.delete(["v3"])
    collection.finish()
    assert reader.search(rows["v3"]["vector"], 1)[0].id != "v3"
    assert reader.count() == 19
    reader.close()


@needs_fork
def test_a_forked_process_searches_and_adds(collection: LocalCollection) -> None:
    rows = make_rows(range(40))
    collection.upsert(make_rows(range(20)))

    def work() -> int:
        assert collection.search(rows["v7"]["vector"], 1)[0].id == "v7"
        collection.upsert(make_rows(range(20, 40)))
        return collection.count()

    assert in_a_fork(work) == 40
    assert_finds_all(collection, rows)


@pytest.mark.parametrize("damage", ["lost", "cut", "overwritten"])
def test_codes_that_are_lost_are_rebuilt(collection: LocalCollection, damage: str) -> None:
    rows = make_rows(range(50))
    collection.upsert(rows)
    [file] = code_files(collection)
    if damage == "lost":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-100] if damage == "cut" else bytes(len(content)))
    fresh = open_collection(Path(collection.address.uri))
    assert_finds_all(fresh, rows)
    fresh.finish()
    assert [path.name for path in code_files(collection)] != [file.name]
    collection.upsert(make_rows(range(50, 60)))
    assert_finds_all(fresh, make_rows(range(60)))
    fresh.close()


def test_a_database_restored_from_a_copy_does_not_use_the_codes_of_later_rows(
    collection: LocalCollection, tmp_path: Path
) -> None:
    path = Path(collection.address.uri)

    def copy(source: Path, target: Path) -> None:
        opened = open_collection(path)
        opened.finish()
        opened.close()
        shutil.copy(source, target)

    collection.upsert(make_rows(range(10)))
    copy(path, tmp_path / "ten")
    collection.upsert(make_rows(range(10, 20)))
    copy(path, tmp_path / "twenty")
    collection.close()
    (tmp_path / "ten").replace(path)
    restored = open_collection(path)
    restored.upsert(make_rows(range(20, 30)))
    assert_finds_all(restored, make_rows([*range(10), *range(20, 30)]))
    restored.close()
    (tmp_path / "twenty").replace(path)
    restored = open_collection(path)
    assert_finds_all(restored, make_rows(range(20)))
    restored.close()


def test_codes_of_deleted_rows_are_removed_once_they_are_many(
    collection: LocalCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_store, "COMPACT_ROWS", 10)
    collection.upsert(make_rows(range(200)))
    reader = open_collection(Path(collection.address.uri))
    assert reader.search(vector_of(5), 1)[0].id == "v5"
    collection.delete([f"v{number}" for number in range(5)])
    collection.finish()
    size = code_files(collection)[0].stat().st_size
    collection.delete([f"v{number}" for number in range(5, 100)])
    collection.finish()
    assert [file.stat().st_size for file in code_files(collection)] == [size / 2]
    statement = "SELECT count(*) FROM dead"
    assert collection._database.read(lambda connection: connection.execute(statement).fetchone()) == (0,)
    for opened in (collection, reader):
        assert_finds_all(opened, make_rows(range(100, 200)))
    reader.close()


def test_two_collections_share_a_file_and_nothing_else(collection: LocalCollection) -> None:
    path = Path(collection.address.uri)
    other = LocalCollection(IndexAddress(str(path), "others"))
    other.create(SPEC, DIM)
    collection.upsert(make_rows(range(10)))
    other.upsert(make_rows(range(5, 15)))
    collection.delete(["v7"])
    assert other.get("v7") is not None
    assert_finds_all(other, make_rows(range(5, 15)))
    assert [hit.id for hit in other.search(vector_of(1), 20, filter="duration < 8")] == [
        hit.id for hit in other.search(vector_of(1), 20) if hit.fields["duration"] < 8
    ]
    assert len(code_files(collection)) == 2
    other.close()


def test_an_index_that_is_too_large_is_refused(collection: LocalCollection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_ROWS", 20)
    collection.upsert(make_rows(range(15)))
    with pytest.raises(VideoIndexError, match="has 15 rows, and a local index can have 20: use a Milvus server"):
        collection.upsert(make_rows(range(15, 25)))
    collection.upsert(make_rows(range(5, 20)))
    assert collection.count() == 20


def test_options_of_a_server_that_would_change_the_result_are_refused(collection: LocalCollection) -> None:
    collection.upsert(make_rows(range(3)))
    collection.search(vector_of(1), search_params={"metric_type": "COSINE"}, consistency_level="Strong", timeout=1)
    for options in ({"search_params": {"metric_type": "L2"}}, {"anns_field": "other"}, {"offset": 3}):
        with pytest.raises(InputValueError, match="a local index"):
            collection.search(vector_of(1), **options)
    with pytest.raises(InputTypeError, match="search_params must be a dictionary, not 'ef=64'"):
        collection.search(vector_of(1), search_params="ef=64")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
def test_a_full_disk_loses_nothing(collection: LocalCollection) -> None:
    rows = make_rows(range(100))
    collection.upsert(rows)
    for limit in (60_000, 300_000):  # less than the codes need, and less than the database needs
        with file_size_limit(limit), pytest.raises(VideoIndexError, match="What was stored before is kept"):
            collection.upsert(make_rows(range(100, 5000)))
        assert_finds_all(collection, rows)
    collection.upsert(make_rows(range(100, 120)))
    assert_finds_all(open_collection(Path(collection.address.uri)), make_rows(range(120)))


def test_threads_add_and_search_at_once(collection: LocalCollection) -> None:
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for number in range(10):
                rows = make_rows(range(1000 * thread + 10 * number, 1000 * thread + 10 * number + 10))
                collection.upsert(rows)
                for row in rows.values():
                    assert collection.search(row["vector"], 1)[0].id == row["id"]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert collection.count() == 600


def test_a_restored_copy_never_mixes_codes_of_two_histories(
    collection: LocalCollection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(collection.address.uri)

    def replace_by(copy: Path) -> LocalCollection:
        shutil.copy(copy, tmp_path / "new")
        (tmp_path / "new").replace(path)
        return open_collection(path)

    for name, numbers in (("ten", range(10)), ("thirty", range(10, 30))):
        collection.upsert(make_rows(numbers))
        collection.finish()
        collection.close()
        shutil.copy(path, tmp_path / name)
        collection = open_collection(path)
    collection.close()
    collection = replace_by(tmp_path / "ten")
    collection.upsert(make_rows(range(100, 105)))  # fewer than the thirty had, whose codes still are in the file
    assert_finds_all(collection, make_rows([*range(10), *range(100, 105)]))
    collection.close()
    collection = replace_by(tmp_path / "thirty")
    assert_finds_all(collection, make_rows(range(30)))
    collection.close()
    assert caplog.messages == []  # both have codes of their own, and none are rebuilt


HOSTILE = {
    "a name of codes that leaves the folder": "UPDATE collections SET codes_name = '/../../../etc/passwd'",
    "a name of codes that is a BLOB": "UPDATE collections SET codes_name = x'00ff'",
    "a name of codes that is odd": "UPDATE collections SET codes_name = '1234567:'",
    "more codes than any file has": "UPDATE collections SET codes_count = 9223372036854775807",
    "a negative number of codes": "UPDATE collections SET codes_count = -5",
    "a number of codes that is text": "UPDATE collections SET codes_count = 'many'",
    "a version that is text": "UPDATE collections SET version = 'x'",
    "a dimension that is text": "UPDATE collections SET dim = 'x'",
    "a huge dimension": "UPDATE collections SET dim = 1000000000000",
    "a negative dimension": "UPDATE collections SET dim = -24",
    "no dimension": "UPDATE collections SET dim = 0, rotation = x''",
    "a short rotation": "UPDATE collections SET rotation = x'00'",
    "a rotation that is text": "UPDATE collections SET rotation = 'x'",
    "a rotation that is not finite": "UPDATE collections SET rotation = replace(hex(rotation), 'a', 'f')",
    "a spec that is a BLOB": "UPDATE collections SET spec = x'ff'",
    "short vectors": "UPDATE vectors SET vector = x'0000'",
    "vectors that are text": "UPDATE vectors SET vector = 'x'",
    "no vectors": "DELETE FROM vectors",
    "no rows": "DELETE FROM rows",
    "fields that are not JSON": "UPDATE rows SET fields = '{'",
    "fields that are a list": "UPDATE rows SET fields = '[1]'",
    "deep fields": "UPDATE rows SET fields = replace(hex(zeroblob(50000)), '0', '[')",
    "ids that are BLOBs": "UPDATE rows SET id = CAST(id AS BLOB)",
    "ids that are not Unicode": "UPDATE rows SET id = CAST(x'ff' || number AS TEXT)",
    "a path that is a BLOB": "UPDATE rows SET path = x'00'",
    "a start that is text": "UPDATE rows SET start = 'x'",
    "times that are text": "UPDATE rows SET start = 'x', \"end\" = x'00'",
    "times without an end": 'UPDATE rows SET start = 9e999, "end" = 9e999',
    "a size that is a BLOB": "UPDATE rows SET size = x'00'",
    "no videos": "DELETE FROM videos",
    "a video that is text": "UPDATE rows SET video = 'x'",
    "kinds that are numbers": "INSERT INTO field_kinds SELECT number, x'00', 5 FROM collections",
    "a dead row that is text": "INSERT INTO dead (collection, row) SELECT number, 'x' FROM collections",
    "a failure without a size": "INSERT INTO failures SELECT number, 'a', 'x', 'x', x'00' FROM collections",
    "a trigger": "CREATE TRIGGER t AFTER DELETE ON rows BEGIN DELETE FROM rows; END",
    "a view": "CREATE VIEW v AS SELECT 1",
    "no table of rows": "DROP TABLE rows",
    "no table of collections": "DROP TABLE collections",
    "a table with other columns": "ALTER TABLE vectors RENAME COLUMN vector TO other",
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("lost_codes", [False, True])
@pytest.mark.parametrize("damage", HOSTILE)
def test_a_file_of_an_enemy_is_damaged_at_worst(damage: str, lost_codes: bool, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    collection = open_collection(folder / "videos.db")
    collection.create(SPEC, DIM)
    collection.upsert(make_rows(range(20)))
    collection.finish()
    collection.close()
    with contextlib.closing(sqlite3.connect(folder / "videos.db")) as connection:
        connection.execute(HOSTILE[damage])
        connection.commit()
    if lost_codes:
        for file in folder.glob("*-codes-*"):
            file.unlink()
    for work in (
        lambda opened: opened.search(vector_of(1), 3),
        lambda opened: opened.search(vector_of(1), 3, filter='duration > 3 and camera == "x"', per_video=1),
        lambda opened: opened.get("v3"),
        lambda opened: [*opened.rows(["*", "vector"])],
        lambda opened: opened.failures(["a"]),
        lambda opened: opened.upsert(make_rows(range(15, 30))),
        lambda opened: opened.update_paths({"v1": ("w1", "/w1")}, {"v1": "w1"}),
        lambda opened: opened.delete(["v2"], filter="duration < 2"),
        lambda opened: opened.finish(),
    ):
        with contextlib.suppress(VideoIndexError):
            opened = open_collection(folder / "videos.db")
            try:
                work(opened)
            finally:
                opened.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != folder] == []
    assert {path.name.split("-")[0] for path in folder.iterdir()} == {"videos.db"}


@pytest.mark.parametrize("lost_codes", [False, True])
def test_a_vector_that_is_missing_is_no_result(collection: LocalCollection, lost_codes: bool) -> None:
    collection.upsert(make_rows(range(5)))
    collection._database.write(lambda connection: connection.execute("DELETE FROM vectors WHERE row = 3"))
    if lost_codes:
        code_files(collection)[0].unlink()
    with pytest.raises(VideoIndexError, match=r"the index is damaged, a vector is (missing|invalid): restore it from"):
        open_collection(Path(collection.address.uri)).search(vector_of(1), 5)


def test_an_iteration_over_a_file_that_changed_meanwhile_is_an_error(
    collection: LocalCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.upsert(make_rows(range(5)))
    collection.close()
    path = Path(collection.address.uri)
    with monkeypatch.context() as context:
        context.setattr(database, "is_writable", lambda path: False)
        reader = open_collection(path)
        rows = reader.rows(["id"])
        next(rows)
    writer = open_collection(path)
    writer.upsert(make_rows(range(9)))
    with pytest.raises(IndexUnavailableError, match=r"was changed while it was read, .* permission to write: try"):
        list(rows)
    writer.close()


@pytest.mark.parametrize("compactions", [1, 2, 5])
def test_a_reader_whose_codes_others_compact_again_and_again_repairs_nothing(
    collection: LocalCollection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, compactions: int
) -> None:
    """To repair, it would have to wait until nobody writes."""
    monkeypatch.setattr(code_store, "COMPACT_ROWS", 0)
    collection.upsert(make_rows(range(40)))
    reader = open_collection(Path(collection.address.uri))
    read_state, done, is_busy = code_store.read_state, 0, False

    def compact_meanwhile(*args: Any) -> Any:
        nonlocal done, is_busy
        state = read_state(*args)
        if done < compactions and not is_busy:
            done, is_busy = done + 1, True
            collection.upsert(make_rows(range(20)))
            collection.finish()  # removes the file of this state
            is_busy = False
        return state

    monkeypatch.setattr(code_store, "read_state", compact_meanwhile)
    assert reader.search(vector_of(20), 1)[0].id == "v20"
    assert done == compactions
    assert caplog.messages == []
    reader.close()


def test_a_search_that_began_before_another_thread_saw_later_rows_finds_them_too(
    collection: LocalCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.upsert(make_rows(range(20)))
    read_state, done = code_store.read_state, []

    def add_meanwhile(*args: Any) -> Any:
        state = read_state(*args)
        if not done:
            done.append(True)
            collection.upsert(make_rows([20]))
            assert collection.search(vector_of(20), 1)[0].id == "v20"
        return state

    monkeypatch.setattr(code_store, "read_state", add_meanwhile)
    assert collection.search(vector_of(20), 1)[0].id == "v20"


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be replaced")
def test_an_index_that_was_replaced_by_another_one_is_found(collection: LocalCollection, tmp_path: Path) -> None:
    collection.upsert(make_rows(range(300)))
    assert collection.search(vector_of(3), 1)[0].id == "v3"
    other = LocalCollection(IndexAddress(str(tmp_path / "other.db"), "videos"))
    other.create(SPEC, DIM)
    other.upsert(make_rows(range(300), version=1))  # as many rows, with another rotation
    other.finish()
    other.close()
    for ending in ("-wal", "-shm"):
        Path(f"{collection.address.uri}{ending}").unlink(missing_ok=True)
    (tmp_path / "other.db").replace(collection.address.uri)
    assert_finds_all(collection, make_rows(range(300), version=1))
    collection.upsert(make_rows(range(300, 600), version=1))
    fresh = open_collection(Path(collection.address.uri))
    for opened in (collection, fresh):
        assert_finds_all(opened, make_rows(range(600), version=1))
    fresh.close()


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be replaced")
def test_rows_are_not_added_to_an_index_that_takes_its_place_in_that_moment(
    collection: LocalCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = LocalCollection(IndexAddress(str(tmp_path / "other.db"), "videos"))
    other.create(SPEC, DIM)
    other.finish()
    other.close()
    identity = collection._database.identity()
    collection.finish()
    (tmp_path / "other.db").replace(collection.address.uri)
    with monkeypatch.context() as context:
        context.setattr(collection._database, "identity", lambda: identity)  # as it was just before
        for use in (lambda: collection.upsert(make_rows(range(5))), lambda: collection.search(vector_of(1))):
            with pytest.raises(VideoIndexError, match="the index was replaced by another one: open it again"):
                use()
    collection.upsert(make_rows(range(5)))
    assert_finds_all(collection, make_rows(range(5)))


def test_codes_of_replaced_rows_are_removed_without_finish(
    collection: LocalCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_store, "COMPACT_ROWS", 30)
    for version in range(40):
        collection.upsert(make_rows(range(10), version))
    [file] = code_files(collection)
    assert file.stat().st_size < 60 * 64
    assert_finds_all(collection, make_rows(range(10), 39))
    collection.upsert(make_rows(range(200)))
    for number in range(195):
        collection.delete([f"v{number}"])
    [file] = code_files(collection)
    assert file.stat().st_size < 60 * 64
    assert_finds_all(collection, make_rows(range(195, 200)))


def test_rows_can_exchange_their_ids_whatever_these_are(collection: LocalCollection) -> None:
    ids = ["\0001", "\0002", "\0003", "CAST(number AS BLOB)", "x'00'"]
    rows = {id_: {**row, "id": id_} for id_, row in zip(ids, make_rows(range(5)).values(), strict=True)}
    collection.upsert(rows)
    new_ids = dict(zip(ids, [*ids[1:], ids[0]], strict=True))
    collection.update_paths({old: (new, f"/{new}") for old, new in new_ids.items()}, new_ids)
    for old, new in zip(ids, [*ids[1:], ids[0]], strict=True):
        hit = collection.get(new)
        assert hit is not None
        assert (hit.path, hit.video, hit.fields) == (f"/{new}", new, {"duration": rows[old]["duration"]})


def test_failures_of_files_whose_names_are_not_unicode_are_not_remembered(collection: LocalCollection) -> None:
    odd, plain = Failure("/\udcff.mp4", 1, 2, "/\udcff.mp4 is bad"), Failure("/a.mp4", 1, 2, "/\udcff.mp4 is bad")
    collection.record_failures([odd, plain])
    assert collection.failures([odd.path, plain.path]) == {"/a.mp4": Failure("/a.mp4", 1, 2, "/?.mp4 is bad")}
    collection.forget_failures([odd.path, plain.path])
    assert collection.failures([plain.path]) == {}


@needs_fork
def test_a_process_forked_while_other_threads_read_and_write_can_search(
    collection: LocalCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.upsert(make_rows(range(20)))
    searcher = open_collection(Path(collection.address.uri))
    waiting, done = threading.Barrier(3), threading.Event()
    open_codes, parent = code_store.open_codes, os.getpid()

    def wait(*args: Any) -> Any:
        if os.getpid() == parent:
            waiting.wait(60)
            done.wait(60)
        return open_codes(*args)

    monkeypatch.setattr(code_store, "open_codes", wait)
    threads = [
        threading.Thread(target=searcher.search, args=(vector_of(1),)),
        threading.Thread(target=collection.upsert, args=(make_rows([20]),)),
    ]
    for thread in threads:
        thread.start()
    waiting.wait(60)

    def work() -> list[str]:
        return [opened.search(vector_of(3))[0].id for opened in (searcher, collection)]

    try:
        assert in_a_fork(work) == ["v3", "v3"]
    finally:
        done.set()
        for thread in threads:
            thread.join()
        searcher.close()


def test_an_index_makes_filters_on_a_field_read_only_the_rows_that_match(collection: LocalCollection) -> None:
    names = ["camera", "Camera", "_9", "duration", "end", "path"]
    rows = make_rows(range(2000))
    for number, row in enumerate(rows.values()):
        row |= {"camera": f"c{number}", "Camera": number, "_9": number % 2 == 0 or "x", "end": float(number)}
    collection.upsert(rows)
    filters = ['camera == "c5"', "Camera == 5", "duration < 3", "end == 7", 'path == "/videos/v9.mp4"']
    before = {text: [row["id"] for row in collection.rows(["id"], text)] for text in filters}
    assert all(before.values())
    assert all(count_steps(collection, text) > 5000 for text in filters)
    for name in names * 2:
        collection.index_field(name)
    collection.upsert(make_rows(range(2000, 2010)))
    for text in filters:
        assert count_steps(collection, text) < 500, text
        assert [row["id"] for row in collection.rows(["id"], text)] == before[text]


@pytest.mark.parametrize("text", ['video == "a"', 'video in ["a", "none"]', 'id == "v7"', 'id in ["v7", "v8"]'])
def test_filters_on_ids_and_videos_read_only_the_rows_that_match(collection: LocalCollection, text: str) -> None:
    rows = make_rows(range(2000))
    for row in [*rows.values()][7:9]:
        row["video"] = "a"
    collection.upsert(rows)
    other = LocalCollection(IndexAddress(collection.address.uri, "others"))
    other.create(SPEC, DIM)
    other.upsert(rows)
    expected = ["v7"] if text == 'id == "v7"' else ["v7", "v8"]
    assert [row["id"] for row in collection.rows(["id"], text)] == expected
    assert len([*collection.rows(["id"], f"not ({text})")]) == 2000 - len(expected)
    assert count_steps(collection, text) < 500
    other.close()


def count_steps(collection: LocalCollection, text: str) -> int:
    """Return how many steps SQLite takes for a filter."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    with collection._database.reading() as connection:
        opened = collection._require().collection
        sql, parameters = local._to_condition(connection, opened, text) or ("", [])
        connection.set_progress_handler(count, 1)
        local.select_rows(connection, opened.number, sql, parameters)
        connection.set_progress_handler(None, 0)
    return steps


@pytest.mark.parametrize("name", ["", "odd name", 'quote"', "vector", "é", "a.b", "a'b", "x\n", "0a]"])
def test_a_field_that_cannot_have_an_index_is_refused(collection: LocalCollection, name: str) -> None:
    with pytest.raises(InputValueError, match="cannot have an index: expected a name of ASCII letters, digits and _"):
        collection.index_field(name)
    assert collection.index_field("id") is collection.index_field("video") is None
    with pytest.raises(InputTypeError, match="the name of a field must be a string"):
        collection.index_field([])  # type: ignore[arg-type]


WRITER = """
import os, random, signal, sys
from pathlib import Path
from clip4clip.index import code_store
from local_rows import apply, next_operation, open_for_tests
code_store.COMPACT_ROWS = 5
path, first, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
kill_at = rng.randrange(1, 60)
calls = 0
fsync = os.fsync
def counting_fsync(descriptor):
    global calls
    calls += 1
    if calls == kill_at and rng.random() < 0.5:
        os.kill(os.getpid(), signal.SIGKILL)  # codes are written, the transaction is not committed
    fsync(descriptor)
os.fsync = counting_fsync
collection = open_for_tests(path)
for number in range(first, 100_000):
    print(number, flush=True)  # begins operation `number`: all before are acknowledged
    apply(collection, path, *next_operation(number))
"""


def environment() -> dict[str, str]:
    """Environment of a process that imports ``local_rows``."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}


def kill_while_writing(path: Path, first: int, seed: int) -> int:
    """Run operations from ``first`` on in a process that is killed. Return the number of the one that was running."""
    command = [sys.executable, "-c", WRITER, path, str(first), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        rng = random.Random(seed)  # decides after how many operations the process is killed, and when during the next
        lines = [line for _ in range(rng.randrange(1, 60)) if (line := process.stdout.readline())]
        timer = threading.Timer(rng.uniform(0, 0.05), process.send_signal, [signal.SIGKILL])
        timer.start()
        lines += process.stdout.read().splitlines()
        process.wait()
        timer.cancel()
    assert process.returncode == -signal.SIGKILL, lines
    return int(lines[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_process_killed_at_any_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "videos.db"
    model, first = Model(), 0
    for seed in range(12):
        running = kill_while_writing(path, first, seed)
        for number in range(first, running):
            model.apply(*next_operation(number))
        collection = open_collection(path)
        if collection.find() is None:
            assert running == 0
            continue
        stored = {row["id"]: row["duration"] for row in collection.rows(["id", "duration"])}
        if stored != model.durations():  # then the one that was running is complete
            model.apply(*next_operation(running))
        assert stored == model.durations(), (seed, running)
        assert_finds_all(collection, model.rows)
        collection.close()
        first = running + 1
    assert first > 100


# Six processes that never wait would take the cores from other tests for the minute.
AT_LOW_PRIORITY = """
import os
if hasattr(os, "nice"):
    os.nice(10)
"""

READER = """
import json, sys, time
from pathlib import Path
import numpy as np
from local_rows import GROUP, open_for_tests, vector_of_generation
collection = open_for_tests(Path(sys.argv[1]))
end, latest, reads = time.monotonic() + float(sys.argv[2]), [0, 0], 0
while time.monotonic() < end:
    for writer in range(2):
        rows = [*collection.rows(["id", "generation"], f'writer == {writer}')]
        generations = {row["generation"] for row in rows}
        assert len(rows) == GROUP and len(generations) == 1, rows  # a batch is seen whole
        [generation] = generations
        assert generation >= latest[writer], (generation, latest)  # and never an older one again
        latest[writer] = generation
    for hit in collection.search(vector_of_generation(reads % GROUP, 0, latest[0]), 5, output_fields=["*", "vector"]):
        fields = hit.fields
        expected = vector_of_generation(fields["number"], fields["writer"], fields["generation"])
        np.testing.assert_array_equal(np.float32(fields["vector"]), expected)  # the vector belongs to the row
    reads += 1
print(json.dumps([reads, latest]))
"""

BUSY_WRITER = """
import json, sys, time
from pathlib import Path
from clip4clip.index import code_store
from local_rows import GROUP, group_rows, open_for_tests
code_store.COMPACT_ROWS = 100
collection, writer = open_for_tests(Path(sys.argv[1])), int(sys.argv[3])
end, generation = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < end:
    generation += 1
    collection.upsert(group_rows(writer, generation))
    if generation % 20 == 0:
        collection.finish()
print(json.dumps([generation]))
"""


@pytest.mark.slow
def test_four_readers_and_two_writers_for_a_minute(tmp_path: Path) -> None:
    path = tmp_path / "videos.db"
    collection = open_collection(path)
    collection.create(SPEC, DIM)
    for writer in range(2):
        collection.upsert(group_rows(writer, 0))
    start = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", AT_LOW_PRIORITY + program, path, "60", str(number)],
            stdout=subprocess.PIPE,
            env=environment(),
        )
        for program, count in ((READER, 4), (BUSY_WRITER, 2))
        for number in range(count)
    ]
    results = [json.loads(process.communicate(timeout=300)[0] or "null") for process in processes]
    assert [process.returncode for process in processes] == [0] * 6
    assert time.monotonic() - start > 60
    generations = [result[0] for result in results[4:]]
    assert min(generations) > 0  # both writers had their turns
    for reads, latest in results[:4]:
        assert reads > 0
        assert min(latest) > 0  # each reader saw what both have written
    assert collection.count() == 2 * len(group_rows(0, 0))
    collection.close()
