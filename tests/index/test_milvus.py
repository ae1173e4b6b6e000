"""The engine on a Milvus server: its client, several threads and processes, and failures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from constants import REPOSITORY
from index_rows import random_rows
from pymilvus import DataType, MilvusClient
from servers import MilvusServer, free_port

from clip4clip import IndexUnavailableError, InputValueError, ModelMismatchError, VideoIndexError
from clip4clip.index import milvus as milvus_module
from clip4clip.index.address import IndexAddress
from clip4clip.index.milvus import MilvusCollection
from clip4clip.index.video_index import ADD_BATCH
from clip4clip.retrieval import VideoIndex


def test_no_thread_uses_a_collection_before_it_is_loaded(
    milvus: MilvusServer, cleared_collection: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with VideoIndex(milvus.uri, cleared_collection()) as index:
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


def test_a_collection_of_another_program_can_be_searched_by_vectors_only(milvus: MilvusServer, collection: str) -> None:
    client = MilvusClient(milvus.uri)
    rows = MilvusCollection(IndexAddress(milvus.uri, collection))
    client.create_collection(collection, dimension=128, metric_type="COSINE", auto_id=False)
    row = random_rows(2)[1]
    rows.insert(7, row["vector"])
    client.upsert(collection, [{"id": id_, "vector": row["vector"], "video": "a", "start": "now"} for id_ in (8, 9)])
    with VideoIndex(milvus.uri, collection) as index:
        listed = [(hit.id, hit.video, hit.start, hit.fields) for hit in index.videos("id > 7")]
        assert listed == [(id_, id_, None, {"video": "a", "start": "now"}) for id_ in (8, 9)]
        assert (index.count(), index.delete([8, 9]), index.get("8")) == (3, 2, None)
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
    with pytest.raises(
        InputValueError, match=f"per_video needs a collection that clip4clip created, which '{collection}'"
    ):
        rows.search(row["vector"], per_video=1)
    rows.close()
    client.close()


def test_a_filter_of_another_programs_collection_is_in_milvuss_own_language(
    milvus: MilvusServer, collection: str
) -> None:
    client = MilvusClient(milvus.uri)
    client.create_collection(collection, dimension=128, metric_type="COSINE", auto_id=False)
    made = random_rows(4)
    stored = [{"id": n, "vector": row["vector"], "modified": str(n), "k": n} for n, row in enumerate(made)]
    client.upsert(collection, stored)
    client.close()
    rows = MilvusCollection(IndexAddress(milvus.uri, collection))
    for text, expected in (
        ("k > 2 ** 0", [2, 3]),
        ('modified == "1"', [1]),
        ("id in [1] or k * 2 == 4", [1, 2]),
        ("", [0, 1, 2, 3]),
    ):
        rows.check_filter(text)
        assert sorted(hit.id for hit in rows.search(made[0]["vector"], filter=text)) == expected
        assert [row["id"] for row in rows.rows(["k"], text)] == expected
    with pytest.raises(VideoIndexError, match="says: "):
        rows.search(made[0]["vector"], filter="k <")
    assert rows.delete(filter="k > 2 ** 0") == 2
    rows.close()


def test_where_the_nearest_rows_are_of_few_videos_a_server_with_grouping_finds_more(
    milvus: MilvusServer, cleared_collection: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(130)
    query = rows[0]["vector"]
    for number, row in enumerate(rows):
        row["video"] = "near" if number < 100 else f"far{number % 10}"
        row["vector"] = row["vector"] * (0.1 if number < 100 else 1) + query
    monkeypatch.setattr(milvus_module, "MAX_LIMIT", 64)  # as if there were more rows than a server returns
    search = MilvusClient.search
    with VideoIndex(milvus.uri, cleared_collection()) as index:
        index.add(rows)
        assert [hit.video for hit in index.search(vector=query, limit=5, per_video=2)] == ["near"] * 2

        # No server with grouping can be run here. This does what its documentation says.
        def search_groups(client: MilvusClient, name: str, *, limit: int, **options: Any) -> Any:
            if "group_by_field" not in options:
                return search(client, name, limit=limit, **options)
            grouping = [options.pop(key) for key in ("group_by_field", "group_size", "strict_group_size")]
            assert grouping == ["video", 2, True]
            groups: defaultdict[str, list[dict]] = defaultdict(list)
            for row in search(client, name, limit=130, **options)[0]:
                groups[row["entity"]["video"]].append(row)
            return [[row for group in [*groups.values()][:limit] for row in group[:2]]]

        monkeypatch.setattr(MilvusClient, "search", search_groups)
        monkeypatch.setattr(MilvusClient, "get_server_version", lambda *_, **__: "v2.5.4")
        hits = index.search(vector=query, limit=5, per_video=2)
    assert [hit.video for hit in hits[:2]] == ["near"] * 2
    videos = Counter(hit.video for hit in hits)
    assert len(hits) == 5
    assert max(videos.values()) <= 2
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    norms = {row["id"]: float(row["vector"] @ query / np.linalg.norm(row["vector"])) for row in rows[100:]}
    assert hits[2].id == max(norms, key=norms.__getitem__)


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


def test_a_server_needs_no_pyarrow_and_names_the_missing_pymilvus() -> None:
    code = """
import sys
from clip4clip.errors import IndexUnavailableError, MissingExtraError
from clip4clip.retrieval import VideoIndex
for missing in ("pymilvus", "pyarrow"):
    sys.modules[missing] = None
    try:
        VideoIndex("http://127.0.0.1:1", timeout=1)
    except (IndexUnavailableError, MissingExtraError) as error:
        print(type(error).__name__, error)
    del sys.modules[missing]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert first == ("MissingExtraError an index on a server needs pymilvus: pip install 'towhee-clip4clip[milvus]'")
    assert second.startswith("IndexUnavailableError the index at http://127.0.0.1:1 does not answer")


ADDING = """
import sys
sys.path.insert(0, sys.argv[3])
from index_rows import random_rows
from clip4clip.index.video_index import ADD_BATCH
from clip4clip.retrieval import VideoIndex
with VideoIndex(sys.argv[1], sys.argv[2]) as index:
    def track(rows, total, what):
        for number, row in enumerate(rows):
            yield row
            if number == ADD_BATCH:  # the first batch has been stored
                print("half", flush=True)
    while True:
        index.add(random_rows(int(sys.argv[4])), track)
"""


def start_adding(uri: str, collection: str, count: int) -> subprocess.Popen[str]:
    """Start a process that adds random rows again and again, and wait until the index has a batch of them."""
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


def test_a_server_killed_during_an_upsert_loses_and_duplicates_nothing(milvus: MilvusServer, collection: str) -> None:
    process = start_adding(milvus.uri, collection, 5000)
    rows = random_rows(5000)
    with VideoIndex(milvus.uri, collection, timeout=20) as index:
        assert index.count() >= ADD_BATCH  # unlike a search it waits for what other processes have written
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
        assert ADD_BATCH <= index.count() <= 5000
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
