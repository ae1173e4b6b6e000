"""An empty index, in a local file and on a real Milvus server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from constants import DEMO_MODEL

from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex

numbers = itertools.count()


@pytest.fixture(params=["local", pytest.param("server", marks=pytest.mark.slow)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A local file that does not exist yet, or the address of the Milvus server."""
    if request.param == "local":
        return str(tmp_path / "videos.db")
    return str(request.getfixturevalue("milvus_server").uri)


@pytest.fixture
def collection(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a new collection."""
    name = f"videos{next(numbers)}"
    yield name
    if "server" in request.node.callspec.params.values():
        from pymilvus import MilvusClient

        client = MilvusClient(request.getfixturevalue("milvus_server").uri)
        client.drop_collection(name)  # a server with less data restarts faster
        client.close()


@pytest.fixture
def index(uri: str, collection: str) -> Iterator[VideoIndex]:
    with VideoIndex(uri, collection, encoder=EncoderSpec(DEMO_MODEL), timeout=60) as opened:
        yield opened
