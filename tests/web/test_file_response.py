"""Tests for clip4clip.web.file_response."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
from clip4clip.web import file_response
from clip4clip.web.file_response import FileResponse, parse_range
from clip4clip.web.video_files import file_version
from clip4clip.web.workers import Workers

CONTENT = bytes(range(256)) * 4000  # four chunks


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with ``CONTENT``."""
    (tmp_path / "a.mp4").write_bytes(CONTENT)
    os.utime(tmp_path / "a.mp4", (1, 1))  # a later change has another time, however soon it comes
    return tmp_path / "a.mp4"


def ask(
    path: Path, method: str = "GET", on_chunk: Callable[[], object] = lambda: None, **headers: str
) -> tuple[int, dict[str, str], bytes, bool]:
    """Send a request; return status, headers, body, and whether the body was complete."""
    version = file_version(str(path))
    assert version is not None
    messages: list[Any] = []
    ended: list[bool] = []
    response = FileResponse(str(path), version, "video/mp4", Workers(1), {}, lambda: ended.append(True))

    async def send(message: Any) -> None:
        messages.append(message)
        if message.get("body"):
            on_chunk()

    async def receive() -> Any:
        await asyncio.sleep(1000)

    raw = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(response({"type": "http", "method": method, "headers": raw}, receive, send))
    assert ended == [True]
    start, *body = messages
    answered = {name.decode(): value.decode() for name, value in start["headers"]}
    content = b"".join(message["body"] for message in body)
    return start["status"], answered, content, not body[-1].get("more_body", False)


def test_the_whole_file_is_sent_in_chunks(file: Path) -> None:
    status, headers, body, is_complete = ask(file)
    assert (status, body, is_complete) == (200, CONTENT, True)
    assert (headers["content-length"], headers["content-type"]) == (str(len(CONTENT)), "video/mp4")
    assert headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=10-19", range(10, 20)),
        ("BYTES=90-", range(90, 100)),
        ("bytes=-7", range(93, 100)),
        ("bytes=-700", range(100)),
        ("bytes=90-1000", range(90, 100)),
        ("bytes=100-", range(0)),
        ("bytes=-0", range(0)),
        *(
            (header, None)
            for header in ("", "bytes=", "bytes=-", "bytes=9-3", "lines=1-2", "bytes=1-2,5-6", "bytes=a-b")
        ),
        *((header, None) for header in ("bytes=١-٢", "bytes=1_0-", "bytes=+1-2", f"bytes={'9' * 5000}-", "bytes=--5")),
    ],
)
def test_a_range_that_is_not_valid_counts_as_none(header: str, expected: range | None) -> None:
    found = parse_range(header, 100)
    assert found == expected
    assert (found is None) == (expected is None)


def test_a_range_is_sent_and_one_behind_the_end_is_an_error(file: Path) -> None:
    status, headers, body, _ = ask(file, range="bytes=300000-900000")
    assert (status, body) == (206, CONTENT[300_000:900_001])
    assert headers["content-range"] == f"bytes 300000-900000/{len(CONTENT)}"
    status, headers, body, _ = ask(file, range=f"bytes={len(CONTENT)}-")
    assert (status, headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")
    assert b"the file has 1,024,000 bytes" in body
    assert ask(file, range="bytes=0-1, 5-6")[0] == 200


def test_head_gets_the_headers_only(file: Path) -> None:
    for headers in ({}, {"range": "bytes=5-"}):
        status, answered, body, _ = ask(file, "HEAD", **headers)
        assert (status, body) == (206 if headers else 200, b"")
        assert answered["content-length"] == str(len(CONTENT) - 5 * bool(headers))


def test_a_visitor_who_has_the_file_gets_no_part_of_another_version(file: Path) -> None:
    tag, date = (ask(file, "HEAD")[1][name] for name in ("etag", "last-modified"))
    for known in (tag, f'"x", W/{tag}'):
        status, _, body, _ = ask(file, if_none_match=known)
        assert (status, body) == (304, b"")
    for version, status in ((tag, 206), (date, 206), ('"other"', 200), (f"W/{tag}", 200)):
        assert ask(file, range="bytes=0-4", if_range=version)[0] == status
    file.write_bytes(CONTENT[::-1])
    assert ask(file, if_none_match=tag)[0] == 200


@pytest.mark.parametrize("change", ["shorter", "other", "gone"])
def test_a_file_that_changes_while_it_is_sent_breaks_the_connection(
    file: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    def act() -> None:
        if change == "gone":
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(b"" if change == "shorter" else b"x" * len(CONTENT))

    status, _, body, is_complete = ask(file, on_chunk=act)
    assert (status, body, is_complete) == (200, CONTENT[: file_response.CHUNK_SIZE], False)
    assert "the rest of it cannot be sent" in caplog.text


def test_nothing_more_is_read_for_a_visitor_who_has_left(file: Path) -> None:
    version = file_version(str(file))
    assert version is not None
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        await asyncio.sleep(0.01)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    response = FileResponse(str(file), version, "video/mp4", Workers(1))
    asyncio.run(response({"type": "http", "method": "GET", "headers": []}, receive, send))
    assert len(sent) == 2  # the headers and one chunk


def test_a_file_that_is_gone_is_a_problem(file: Path) -> None:
    version = file_version(str(file))
    assert version is not None
    file.unlink()
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        await asyncio.sleep(1000)

    response = FileResponse(str(file), version, "video/mp4", Workers(1))
    asyncio.run(response({"type": "http", "method": "GET", "headers": []}, receive, send))
    assert messages[0]["status"] == 404
    assert b"a.mp4 has been moved or deleted" in messages[1]["body"]
