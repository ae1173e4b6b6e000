"""Tests for clip4clip.web.connections: slow visitors, and too many of them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_client import address
from servers import get

from clip4clip.retrieval import Hit

pytest.importorskip("fastapi")
from clip4clip.web import connections

START = b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n"


def connect(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def is_cut(connection: socket.socket) -> bool:
    """Return whether the server closes a connection without an answer."""
    try:
        return connection.recv(1000) == b""
    except ConnectionError:
        return True


def test_a_request_whose_headers_come_too_slowly_is_cut(
    empty_index: Any, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)

    def visit(url: str) -> None:
        for start in (b"", b"GET", START):
            with connect(url) as connection:
                connection.sendall(start)
                assert is_cut(connection)
        with connect(url) as connection:  # one more byte does not extend the time
            begin, end = time.monotonic(), time.monotonic() + 60
            connection.settimeout(0.05)
            while time.monotonic() < end:
                try:
                    connection.sendall(b"x")
                    if connection.recv(1000) == b"":
                        break
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
            assert time.monotonic() - begin < 50
        with connect(url) as connection:  # a second request of a connection, too
            connection.sendall(START + b"\r\n")
            assert connection.recv(10_000).startswith(b"HTTP/1.1 200 ")
            connection.sendall(START)
            assert is_cut(connection)
        assert get(url, "/api/status")[0] == 200

    serve(empty_index, visit)


def test_a_body_that_nobody_reads_does_not_keep_a_connection(
    empty_index: Any, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)

    def visit(url: str) -> None:
        with connect(url) as connection:
            connection.sendall(START.replace(b"GET", b"POST") + b"Content-Length: 60000\r\n\r\n")
            answer = connection.recv(10_000)
            assert answer.startswith(b"HTTP/1.1 405 ")
            connection.settimeout(0.05)
            with pytest.raises(ConnectionError):  # noqa: PT012  the last of these fails
                for _ in range(1000):
                    connection.sendall(b"x")
                    try:
                        if connection.recv(1000) == b"":
                            raise ConnectionResetError
                    except TimeoutError:
                        pass

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
            assert is_cut(refused)
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
