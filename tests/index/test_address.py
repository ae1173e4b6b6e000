"""Addresses of an index, valid and invalid."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from clip4clip import InputTypeError, InputValueError, VideoIndexError
from clip4clip.cli import app
from clip4clip.index.address import IndexAddress
from clip4clip.operators import MilvusSearch
from clip4clip.retrieval import VideoIndex


@pytest.mark.parametrize("name", ["videos.sqlite", "none/videos.db", "videos"])
def test_an_invalid_local_uri_is_rejected_and_nothing_is_created(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoIndexError, match=f"'.*{name}' (is not an index|cannot be an index)"):
        VideoIndex(name)
    assert list(tmp_path.iterdir()) == []


INVALID_SERVERS = {
    "http://": "it names no host",
    "http://:19530": "it names no host",
    "https:///x": "it names no host",
    "tcp://": "it names no host",
    "http://?x": "it names no host",
    "http://127.0.0.1:99999": "Port out of range",
    "http://127.0.0.1:0": "the port must be 1 to 65535",
    "http://127.0.0.1:-1": "Port",
    "http://127.0.0.1:x": "Port could not be cast",
    "http://[::1": "Invalid IPv6 URL",
    "http://127.0.0.1 :1": "it has characters that are not allowed in an address",
    "http:// 127.0.0.1:1": "it has characters that are not allowed in an address",
    " http://127.0.0.1:1": "it has characters that are not allowed in an address",
    "http://127.0.0.1\n:1": "it has characters that are not allowed in an address",
    "http://a\udcff:1": "it has characters that are not allowed in an address",
    "http://127.0.0.1:1?x=1": "it has more than a host and a port",
    "http://127.0.0.1:1/x.db": "it has more than a host and a port",
    "ftp://127.0.0.1/x.db": "ftp:// is not a protocol of Milvus",
    "unix:///x": "unix:// is not a protocol of Milvus",
    "://": ":// is not a protocol of Milvus",
}


def test_an_invalid_server_address_is_rejected_before_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip4clip.index.milvus.MilvusClient", lambda *_, **__: pytest.fail("connected"))
    for address, problem in INVALID_SERVERS.items():
        with pytest.raises(VideoIndexError, match=f"is not the address of a server, {problem}.*: expected http"):
            VideoIndex(address)
    result = CliRunner().invoke(app, ["search", "a", "--uri", " http://127.0.0.1:1"])
    assert isinstance(result.exception, VideoIndexError)
    with pytest.raises(VideoIndexError, match=r"must not hold a user and password: .*a token") as caught:
        VideoIndex("http://me:secret@127.0.0.1:1")
    assert "secret" not in str(caught.value)
    for value in (5, None):
        with pytest.raises(InputTypeError, match="uri must be a string or a path"):
            VideoIndex(value)  # type: ignore[arg-type]
    for token in ("secret\udcff", "secret\n", 5):
        with pytest.raises(InputValueError, match="the token is not a string of printable characters") as refused:
            VideoIndex("http://127.0.0.1:1", token=token)  # type: ignore[arg-type]
        assert "secret" not in str(refused.value)
    with pytest.raises(VideoIndexError, match="it names no host"):
        MilvusSearch(host="", collection_name="videos")


def test_valid_server_addresses_reach_the_client_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    uris: list[str] = []
    monkeypatch.setattr("clip4clip.index.milvus.MilvusClient", lambda uri, **_: uris.append(uri))
    addresses = ["http://milvus", "http://127.0.0.1:19530", "https://in03-1a.serverless.gcp-us-west1.cloud.zilliz.com"]
    addresses += ["https://milvus:443/library", "tcp://milvus:19530", "HTTP://[::1]:19530/", "http://my_milvus:19530"]
    for address in addresses:
        VideoIndex(address)
    assert uris == addresses


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "", " ", ".", "..", "a\n", "a\0", "a\udcff"])
def test_an_invalid_collection_name_is_rejected(name: str, tmp_path: Path) -> None:
    for uri in (str(tmp_path / "videos.db"), "http://127.0.0.1:1"):
        with pytest.raises(VideoIndexError, match="cannot be the name of a collection: use letters"):
            VideoIndex(uri, name)
    with pytest.raises(InputTypeError, match="the name of a collection must be a string, not 5"):
        VideoIndex(tmp_path / "videos.db", 5)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_the_token_is_not_in_the_repr() -> None:
    address = IndexAddress("http://127.0.0.1:1", "videos", "me:secret")
    assert address.token == "me:secret"
    assert "secret" not in repr(address)


def test_a_local_address_is_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    address = IndexAddress("./videos.db", "videos")
    assert (address.uri, address.is_local) == (str(tmp_path / "videos.db"), True)
    assert not IndexAddress("https://milvus:443/library", "videos").is_local
