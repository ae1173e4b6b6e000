"""The Milvus operators; tests/index covers what they do with a server."""

from __future__ import annotations

import sys

import pytest
from towhee import ops

import clip4clip  # noqa: F401  registers the operators with Towhee
from clip4clip import InputValueError
from clip4clip.operators import MilvusInsert, MilvusSearch


@pytest.mark.parametrize("name", ["ann_insert", "ann_search"])
def test_an_operator_without_its_extra_names_itself_and_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith(("clip4clip.retrieval", "clip4clip.index"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(RuntimeError, match=rf"ops\.{name}\.milvus_client.*pymilvus.*\[retrieval\]"):
        getattr(ops, name).milvus_client(collection_name="a").get_op()


@pytest.mark.parametrize("operator", [MilvusInsert, MilvusSearch])
def test_the_name_of_the_collection_is_required(operator: type) -> None:
    pytest.importorskip("pymilvus")
    with pytest.raises(InputValueError, match="collection_name is missing"):
        operator(uri="./none.db")
