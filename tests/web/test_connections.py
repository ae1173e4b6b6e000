"""Tests for clip4clip.web.connections: slow visitors, and too many of them."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_client import address
from servers import drip, get

from clip4clip.retrieval import Hit

pytest.importorskip("fastapi")
from clip4clip.web import connections

START = b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n"


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def rest(connection: socket.socket) -> bytes:
    """Return what comes until the server closes a connection."""
    received = b""
    try:
        while piece := connection.recv(10_000):
            received += piece
    except ConnectionError:
        pass
    return received


def test_answers_are_sent_without_delay(
    empty_index: Any, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[int] = []
    connection_made = connections.BoundedProtocol.connection_made

    def on_connection(self: Any, transport: Any) -> None:
        connection_made(self, transport)
        delays.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(connections.BoundedProtocol, "connection_made", on_connection)
    serve(empty_index, lambda url: get(url, "/api/status"))
    assert delays == [1]


def test_a_request_whose_headers_come_too_slowly_is_cut(
    empty_index: Any, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)

    def visit(url: str) -> None:
        for start in (b"", b"GET", START):
            with connect(url) as connection:
                connection.sendall(start)
                assert rest(connection) == b""
        with connect(url) as connection:  # one more byte does not extend the time
            assert drip(connection) == b""
        with connect(url) as connection:  # a second request of a connection, too
            connection.sendall(START + b"\r\n")
            assert connection.recv(10_000).startswith(b"HTTP/1.1 200 ")
            connection.sendall(START)
            assert b"HTTP/1.1" not in rest(connection)
        assert get(url, "/api/status")[0] == 200

    serve(empty_index, visit)


def test_a_body_that_nobody_reads_does_not_keep_a_connection(
    empty_index: Any, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)

    def visit(url: str) -> None:
        with connect(url) as connection:
            connection.sendall(START.replace(b"GET", b"POST") + b"Content-Length: 60000\r\n\r\n")
            assert connection.recv(10_000).startswith(b"HTTP/1.1 405 ")
            connection.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                connection.recv(10_000)  # the body of the answer
            assert b"HTTP/1.1" not in drip(connection)

    serve(empty_index, visit)


@pytest.fixture
def long_video(tmp_path: Path, empty_index: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a file of a gigabyte, which ``empty_index`` has."""
    with (tmp_path / "long.mp4").open("wb") as file:
        file.truncate(1 << 30)
    monkeypatch.setattr(empty_index, "get", lambda _: Hit("long", str(tmp_path / "long.mp4"), 1.0))
    return address("media", "long")


def test_a_visitor_who_does_not_read_is_cut(
    empty_index: Any, long_video: str, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.3)

    def visit(url: str) -> None:
        with connect(url) as connection:
            connection.sendall(f"GET {long_video} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
            time.sleep(1)
            received = 0
            try:
                while piece := connection.recv(1 << 20):
                    received += len(piece)
            except ConnectionError:
                pass
            assert received < 1 << 30
        assert get(url, "/api/status")[0] == 200

    assert "Traceback" not in serve(empty_index, visit)


def test_connections_beyond_the_limit_are_closed(
    empty_index: Any, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)

    def visit(url: str) -> None:
        held = [connect(url) for _ in range(3)]
        for connection in held:
            connection.sendall(START + b"\r\n")
            assert connection.recv(10_000).startswith(b"HTTP/1.1 200 ")
        with connect(url) as refused:
            assert rest(refused) == b""
        for connection in held:
            connection.close()
        end = time.monotonic() + 60
        while True:  # the server notices a moment later
            try:
                assert get(url, "/api/status")[0] == 200
                break
            except ConnectionError:
                assert time.monotonic() < end

    serve(empty_index, visit)


@pytest.mark.parametrize(
    "headers",
    [
        b"X: " + b"x" * 100_000 + b"\r\n",
        b"".join(b"X-%d: x\r\n" % number for number in range(10_000)),
        b"Content-Length: x\r\n",
        b"Content-Length: 1\r\nContent-Length: 2\r\n",
        b"X : x\r\n",
        b"\x00\r\n",
    ],
)
def test_headers_that_are_invalid_or_too_many_are_rejected(
    empty_index: Any, serve: Callable[..., str], headers: bytes
) -> None:
    def visit(url: str) -> None:
        with connect(url) as connection:
            try:
                connection.sendall(START + headers + b"\r\n")
                assert connection.recv(1000)[9:13] in (b"400 ", b"431 ")
            except ConnectionError:  # it was closed before all was sent
                pass
        assert get(url, "/api/status")[0] == 200

    assert "Traceback" not in serve(empty_index, visit)
