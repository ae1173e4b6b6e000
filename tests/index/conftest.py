"""An empty index, in a local file and on a real Milvus server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from constants import DEMO_MODEL
from servers import MilvusServer

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


@pytest.fixture(scope="session")
def cleared_collection(milvus_server: MilvusServer) -> Iterator[Callable[[], str]]:
    """``()`` to the name of a collection on the server, without its rows. To create another one takes seconds."""
    with VideoIndex(milvus_server.uri, "shared", encoder=EncoderSpec(DEMO_MODEL), timeout=60) as shared:
        shared.create()

        def clear() -> str:
            shared.delete(filter="exists id")
            return shared.address.collection

        yield clear


@pytest.fixture
def empty(request: pytest.FixtureRequest, uri: str) -> tuple[str, str]:
    """Address and collection of an empty index: a local file that does not exist yet, or the shared collection."""
    return uri, request.getfixturevalue("cleared_collection")() if "://" in uri else "videos"


@pytest.fixture
def index(empty: tuple[str, str]) -> Iterator[VideoIndex]:
    """An empty index. On the server its collection exists."""
    with VideoIndex(*empty, encoder=EncoderSpec(DEMO_MODEL), timeout=60) as opened:
        yield opened


@pytest.fixture
def new_index(uri: str, collection: str) -> Iterator[VideoIndex]:
    """An index whose collection does not exist yet."""
    with VideoIndex(uri, collection, encoder=EncoderSpec(DEMO_MODEL), timeout=60) as opened:
        yield opened
