"""The client of Milvus: on a local folder and on a server, with several threads, processes and failures."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from constants import DEMO_MODEL, REPOSITORY
from index_rows import ids, random_rows
from pymilvus import DataType, MilvusClient
from servers import MilvusServer, free_port

from clip4clip import IndexUnavailableError, InputTypeError, InputValueError, ModelMismatchError, VideoIndexError
from clip4clip.encoder import EncoderSpec
from clip4clip.index import milvus as milvus_module
from clip4clip.index.address import IndexAddress
from clip4clip.index.milvus import MilvusCollection
from clip4clip.retrieval import VideoIndex


@pytest.fixture
def rows(uri: str, collection: str) -> Iterator[MilvusCollection]:
    """The collection of ``index``, or of another program that creates it."""
    opened = MilvusCollection(IndexAddress(uri, collection))
    yield opened
    opened.close()


ODD_IDS = [
    "it's",
    'say "hi"',
    "back\\slash\\",
    "x' or id != '",
    'x"] or id not in ["',
    "a\nb\tc",
    "你好 🎬",
    "%_{id}",
    "<b>&amp;",
    "\x01\b\f\x7f\u2028",
]


def test_ids_with_quotes_and_control_characters_are_found_and_deleted_exactly(index: VideoIndex) -> None:
    rows = [
        row | {"id": name, "path": f"/v/{name}"} for row, name in zip(random_rows(len(ODD_IDS)), ODD_IDS, strict=True)
    ]
    index.add(rows[1:])
    for row in rows[1:]:
        hit = index.get(row["id"])
        assert hit is not None
        assert (hit.id, hit.path) == (row["id"], row["path"])
        assert index.search(vector=row["vector"], limit=1)[0].id == row["id"]
    assert index.get(rows[0]["id"]) is None
    assert index.delete([rows[0]["id"]]) == 0
    for deleted, name in enumerate(ODD_IDS[:0:-1], 1):
        assert index.delete([name]) == 1
        assert index.count() == len(ODD_IDS) - 1 - deleted


def test_delete_returns_the_number_of_deleted_rows(index: VideoIndex) -> None:
    index.add(random_rows(20))
    assert index.delete(["v3", "v4", "none"]) == 2
    assert index.delete(["v3"]) == 0
    assert index.delete(filter="duration >= 15") == 5
    assert index.count() == 13
    assert "v3" not in ids(index.search(vector=random_rows(20)[3]["vector"], limit=20))
    with pytest.raises(InputTypeError, match="must be a list of ids"):
        index.delete("v3")


def test_several_threads_search_at_once(index: VideoIndex) -> None:
    rows = random_rows(50)
    index.add(rows)
    found: dict[int, str] = {}

    def search(number: int) -> None:
        found[number] = index.search(vector=rows[number]["vector"], limit=1)[0].id

    threads = [threading.Thread(target=search, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: f"v{number}" for number in range(16)}


def test_no_thread_uses_a_collection_before_it_is_loaded(index: VideoIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    index.add(random_rows(5))
    load, loaded = MilvusClient.load_collection, threading.Event()

    def load_slowly(*arguments: Any, **options: Any) -> None:
        time.sleep(0.3)
        load(*arguments, **options)
        loaded.set()

    monkeypatch.setattr(MilvusClient, "load_collection", load_slowly)
    ready: list[bool] = []
    with VideoIndex(index.address.uri, index.address.collection) as other:

        def count() -> None:
            ready.append(other.count() == 5 and loaded.is_set())

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
        for thread in threads:
            thread.join()
    assert ready == [True] * 4


def test_a_row_is_inserted_by_its_values_in_the_order_of_the_schema(index: VideoIndex, rows: MilvusCollection) -> None:
    index.create()
    vector = random_rows(1)[0]["vector"]
    assert rows.insert("a", "/videos/a.mp4", vector) == "a"
    assert rows.insert("b", vector) == "b"
    assert [hit.path for hit in map(index.get, "ab") if hit] == ["/videos/a.mp4", "b"]
    with pytest.raises(InputValueError, match="got 1 values for the fields id, path, vector of"):
        rows.insert("a")
    with pytest.raises(InputTypeError, match="the vector of 'a' must be numbers"):
        rows.insert("a", "a red square")
    with pytest.raises(InputValueError, match="an id must be valid Unicode"):
        rows.insert("\udcff", vector)


def test_an_inserted_row_replaces_all_fields_of_the_row_with_its_id(index: VideoIndex, rows: MilvusCollection) -> None:
    row = random_rows(1)[0]
    index.add([row | {"camera": "front"}])
    rows.insert("v0", "/elsewhere/v0.mp4", row["vector"])
    hit = index.get("v0")
    assert hit is not None
    assert (hit.path, hit.fields) == ("/elsewhere/v0.mp4", {})


def test_a_collection_of_another_program_can_be_searched_by_vectors_only(
    uri: str, collection: str, rows: MilvusCollection
) -> None:
    client = MilvusClient(uri)
    client.create_collection(collection, dimension=128, metric_type="COSINE", auto_id=False)
    row = random_rows(2)[1]
    rows.insert(7, row["vector"])
    with VideoIndex(uri, collection) as index:
        assert index.search(vector=row["vector"], limit=1)[0].id == 7
        with pytest.raises(ModelMismatchError, match="was not created by clip4clip: it can be searched by a vector"):
            index.search("a red square")
        with pytest.raises(ModelMismatchError, match="was not created by clip4clip"):
            index.add([row])
        assert index.delete([7]) == 1
        with pytest.raises(InputValueError, match="'seven' is not a key of this collection, whose keys are whole"):
            index.delete(["seven"])
        for key in (7.5, None, 2**63):
            with pytest.raises(InputValueError, match="is not a key of this collection"):
                index.delete([key])  # type: ignore[list-item]
        with pytest.raises(InputValueError, match=r"'picture' is not a field of float vectors in .* are: vector"):
            index.search(vector=row["vector"], anns_field="picture")
    with pytest.raises(InputValueError, match="got 3 values for the fields id, vector"):
        rows.insert(1, 2, 3)
    client.close()


def test_a_collection_without_float_vectors_cannot_be_searched(milvus: MilvusServer, collection: str) -> None:
    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("bits", DataType.BINARY_VECTOR, dim=128)
    kind = MilvusClient.prepare_index_params("bits", index_type="BIN_FLAT", metric_type="HAMMING")
    client = MilvusClient(milvus.uri)
    client.create_collection(collection, schema=schema, index_params=kind)
    client.close()
    rows = MilvusCollection(IndexAddress(milvus.uri, collection))
    assert rows.insert(1, bytes(16)) == 1
    assert rows.count() == 1
    with pytest.raises(InputValueError, match=r"not a field of float vectors in .* are: none"):
        rows.search(random_rows(1)[0]["vector"])
    rows.close()


def test_the_reason_why_a_local_folder_cannot_be_opened_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file.db").write_text("not a folder")
    with pytest.raises(VideoIndexError, match=r"file.db is a file, but a local index is a folder") as caught:
        VideoIndex(tmp_path / "file.db")
    assert not isinstance(caught.value, IndexUnavailableError)
    with VideoIndex(tmp_path / "videos.db") as index:
        index.add(random_rows(3))

    def read_only(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if str(path).endswith("LOCK") and flags & os.O_RDWR:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return open_file(path, flags, *rest, **options)

    open_file = os.open  # the tests may run as root, for whom no permission makes a folder read-only
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        with pytest.raises(VideoIndexError, match=r"cannot be opened: .*Read-only.*It must be on a disk") as caught:
            VideoIndex(tmp_path / "videos.db")
        assert not isinstance(caught.value, IndexUnavailableError)
    with VideoIndex(tmp_path / "videos.db") as index:
        assert index.count() == 3
    with pytest.raises(VideoIndexError, match="has been closed: open another one"):
        index.count()


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from index_rows import random_rows
from clip4clip import IndexUnavailableError, VideoIndexError
from clip4clip.retrieval import VideoIndex
with VideoIndex(sys.argv[1]) as index:
    index.add(random_rows(3))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    try:
        index.add(random_rows(500))
    except VideoIndexError as error:
        assert not isinstance(error, IndexUnavailableError), error
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
def test_a_full_disk_is_reported_with_the_systems_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, tmp_path / "videos.db", REPOSITORY / "tests"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "says: [Errno 27]" in done.stdout  # the system's own words, as for a full disk


def test_a_server_needs_no_pyarrow_and_a_local_folder_names_the_missing_milvus_lite(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["pyarrow"] = sys.modules["milvus_lite"] = None
from clip4clip.errors import IndexUnavailableError, MissingExtraError
from clip4clip.retrieval import VideoIndex
for uri in ("http://127.0.0.1:1", sys.argv[1]):
    try:
        VideoIndex(uri, timeout=1)
    except (IndexUnavailableError, MissingExtraError) as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "videos.db"], capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("IndexUnavailableError the index at http://127.0.0.1:1 does not answer")
    assert second == "MissingExtraError a local index needs milvus-lite: pip install 'towhee-clip4clip[retrieval]'"


# Opens a local folder in Python and by a command, and again after a line on standard input.
OPENING = """
import sys
from clip4clip import IndexUnavailableError
from clip4clip.cli import main
from clip4clip.retrieval import VideoIndex
try:
    VideoIndex(sys.argv[1])
except IndexUnavailableError as error:
    print(error, flush=True)
uri = sys.argv[1]
sys.argv[1:] = ["search", "a", "--uri", uri]
try:
    main()
except SystemExit as error:
    print("exit code", error.code, flush=True)
sys.stdin.readline()
with VideoIndex(uri):
    print("opened")
"""


def test_a_second_process_cannot_open_a_local_folder_and_reports_it(tmp_path: Path) -> None:
    uri = tmp_path / "videos.db"
    with VideoIndex(uri), VideoIndex(uri):  # the same process may open it twice
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", OPENING, uri], text=True, **pipes)
        assert process.stdout is not None
        refused = f"the index {uri} cannot be opened: another process is using it\n"
        assert [process.stdout.readline() for _ in range(2)] == [refused, "exit code 2\n"]
    output, errors = process.communicate("closed\n")
    assert (process.returncode, output) == (0, "opened\n")
    assert errors.startswith("error the index")


def test_threads_may_open_write_and_close_one_local_folder(tmp_path: Path) -> None:
    def work(number: int) -> None:
        for start in range(number * 200, (number + 1) * 200, 50):
            with VideoIndex(tmp_path / "videos.db") as opened:
                opened.add(random_rows(50, start=start))

    with VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        index.create()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    with VideoIndex(tmp_path / "videos.db") as index:
        assert index.count() == 800
        assert sorted(stored_ids(index)) == sorted(f"v{number}" for number in range(800))


def test_all_threads_that_open_a_local_folder_get_the_same_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus_module, "MilvusClient", lambda *_, **__: None)
    monkeypatch.setattr(milvus_module, "_local_clients", Counter())
    start = threading.Barrier(6)

    def open_collection(address: IndexAddress) -> int:
        start.wait()
        return id(MilvusCollection(address)._write_lock)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            for number in range(300):
                address = IndexAddress(str(tmp_path / f"{number}.db"), "videos")
                assert len(set(pool.map(open_collection, [address] * 6))) == 1
    finally:
        sys.setswitchinterval(interval)


def test_threads_write_to_one_local_folder_in_turn(tmp_path: Path) -> None:
    rows = random_rows(800)
    with VideoIndex(tmp_path / "videos.db") as index:

        def work(number: int) -> None:
            for start in range(number * 100, (number + 1) * 100, 10):
                index.add(rows[start : start + 10])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert_complete(index, 800)


def test_a_local_folder_closed_by_one_index_stays_open_for_another(tmp_path: Path) -> None:
    first, second = VideoIndex(tmp_path / "videos.db"), VideoIndex(tmp_path / "videos.db")
    first.add(random_rows(3))
    first.close()
    first.close()
    assert second.count() == 3
    second.close()


ADDING = """
import sys
sys.path.insert(0, sys.argv[3])
from index_rows import random_rows
from clip4clip.retrieval import VideoIndex
with VideoIndex(sys.argv[1], sys.argv[2]) as index:
    def track(rows, total, what):
        for number, row in enumerate(rows):
            yield row
            if number == 1600:
                print("half", flush=True)
    while True:
        index.add(random_rows(int(sys.argv[4])), track)
"""


def start_adding(uri: str, collection: str, count: int) -> subprocess.Popen[str]:
    """Start a process that adds random rows again and again, and wait until the index has 1,500 of them."""
    command = [sys.executable, "-c", ADDING, uri, collection, str(REPOSITORY / "tests"), str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    return process


def stored_ids(index: VideoIndex) -> list[str]:
    rows = MilvusCollection(index.address)
    stored = [row["id"] for row in rows.rows(["id"])]
    rows.close()
    return stored


def assert_complete(index: VideoIndex, count: int) -> None:
    """Check that an index has each of the random rows once, and finds them."""
    assert index.count() == count
    stored = stored_ids(index)
    assert len(stored) == len(set(stored)) == count
    rows = random_rows(count)
    for number in range(0, count, count // 50):
        assert index.search(vector=rows[number]["vector"], limit=1)[0].id == f"v{number}"


@pytest.mark.slow
def test_a_process_killed_while_adding_loses_and_duplicates_nothing(tmp_path: Path) -> None:
    uri = str(tmp_path / "videos.db")
    process = start_adding(uri, "videos", 3000)
    process.kill()
    process.communicate()
    with VideoIndex(uri) as index:
        assert 1500 <= index.count() <= 3000  # what was acknowledged is stored
        index.add(random_rows(3000))
        assert_complete(index, 3000)


def test_a_server_killed_during_an_upsert_loses_and_duplicates_nothing(milvus: MilvusServer, collection: str) -> None:
    process = start_adding(milvus.uri, collection, 5000)
    rows = random_rows(5000)
    with VideoIndex(milvus.uri, collection, timeout=20) as index:
        assert index.count() >= 1500  # unlike a search it waits for what other processes have written
        assert index.search(vector=rows[3]["vector"], limit=1)[0].id == "v3"
        milvus.kill()
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 1
        assert "IndexUnavailableError: the index at" in errors
        with pytest.raises(IndexUnavailableError, match="does not answer"):
            index.search(vector=rows[3]["vector"])
        milvus.start()
        end = time.monotonic() + 300
        while True:  # the open index reconnects by itself, once the server has loaded its collections
            try:
                assert index.search(vector=rows[3]["vector"], limit=1)[0].id == "v3"
                break
            except IndexUnavailableError:
                assert time.monotonic() < end
                time.sleep(0.5)
        assert 1500 <= index.count() <= 5000
        index.add(rows)
        assert_complete(index, 5000)
    client = MilvusClient(milvus.uri)
    kind = client.describe_index(collection, "vector")
    client.close()
    assert (kind["index_type"], kind["metric_type"]) == ("HNSW", "COSINE")


def test_a_server_that_does_not_answer_is_reported() -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(IndexUnavailableError, match=f"the index at {uri} does not answer"):
        VideoIndex(uri, timeout=1)


@pytest.mark.slow
def test_a_command_reports_in_one_sentence_that_its_server_does_not_answer() -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    result = subprocess.run(
        [sys.executable, "-m", "clip4clip", "search", "a red square", "--uri", uri],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert result.returncode == 2
    assert f"error the index at {uri} does not answer" in result.stderr
    assert "Traceback" not in result.stderr


def test_pymilvus_is_imported_in_one_file() -> None:
    files = [path.name for path in Path(milvus_module.__file__).parents[1].rglob("*.py") if imports(path, "pymilvus")]
    assert files == ["milvus.py"]


def imports(path: Path, package: str) -> bool:
    return bool(re.search(rf"^\s*(from|import) {package}\b", path.read_text("utf-8"), re.MULTILINE))
