"""``ops.ann_insert.milvus_client`` and ``ops.ann_search.milvus_client``, on a local index and on a server."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from index_rows import random_rows
from servers import MilvusServer
from towhee import ops

import clip4clip  # noqa: F401  registers the operators with Towhee
from clip4clip import InputValueError
from clip4clip.operators import MilvusInsert, MilvusSearch
from clip4clip.retrieval import VideoIndex


def test_rows_are_inserted_and_found_in_a_local_index(tmp_path: Path) -> None:
    check_operators(str(tmp_path / "videos.db"), "videos")


def test_rows_are_inserted_and_found_on_a_server(milvus: MilvusServer) -> None:
    check_operators(milvus.uri, "operators")


def check_operators(uri: str, collection: str) -> None:
    rows = random_rows(3)
    with VideoIndex(uri, collection) as index:
        index.add(rows[:2])
        insert = MilvusInsert(collection_name=collection, uri=uri)
        result = insert("v2", rows[2]["vector"])
        assert (result.insert_count, result.primary_keys) == (1, ["v2"])
        fields = ["id", "duration", "path", "vector"]
        search = MilvusSearch(collection_name=collection, uri=uri, limit=1, output_fields=fields)
        name, score, *values = search(rows[1]["vector"])[0]
        assert (name, values[:3]) == ("v1", ["v1", 1.0, "/videos/v1.mp4"])
        assert score == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(values[3], rows[1]["vector"], atol=1e-6)
        filtered = MilvusSearch(collection_name=collection, uri=uri, expr="duration < 1")
        assert [hit[0] for hit in filtered(rows[1]["vector"])] == ["v0"]
        per_video = MilvusSearch(collection_name=collection, uri=uri, per_video=1, output_fields=["video"])
        insert("v3", "/videos/v3.mp4", rows[0]["vector"])
        assert {video: name for name, _, video in per_video(rows[1]["vector"])} == {f"v{n}": f"v{n}" for n in range(4)}
        index.add([rows[0] | {"id": "v4#t=1,2.5", "video": "v4", "start": 1.0, "end": 2.5}])
        moments = MilvusSearch(
            collection_name=collection, uri=uri, expr="start > 0", output_fields=["video", "start", "end"]
        )
        assert [row[2:] for row in moments(rows[0]["vector"])] == [["v4", 1.0, 2.5]]
        moments._collection.close()
        for operator in (insert, search, filtered, per_video):
            operator._collection.close()


def test_a_path_and_user_and_password_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = []
    monkeypatch.setattr("clip4clip.index.engine.open_engine", addresses.append)
    MilvusSearch(collection_name="a", uri=tmp_path / "videos.db")  # type: ignore[arg-type]
    MilvusSearch("milvus", 443, collection_name="a", user="me", password="secret")
    MilvusInsert(collection_name="a")
    uris = [str(tmp_path / "videos.db"), "https://milvus:443", "http://localhost:19530"]
    assert [(address.uri, address.token) for address in addresses] == [
        *zip(uris, [None, "me:secret", None], strict=True)
    ]


@pytest.mark.parametrize("name", ["ann_insert", "ann_search"])
def test_an_operator_without_its_extra_names_itself_and_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith(("clip4clip.retrieval", "clip4clip.index"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(RuntimeError, match=rf"ops\.{name}\.milvus_client.*pymilvus.*\[milvus\]"):
        getattr(ops, name).milvus_client(collection_name="a").get_op()


@pytest.mark.parametrize("operator", [MilvusInsert, MilvusSearch])
def test_the_name_of_the_collection_is_required(operator: type) -> None:
    pytest.importorskip("pymilvus")
    with pytest.raises(InputValueError, match="collection_name is missing"):
        operator(uri="./none.db")
