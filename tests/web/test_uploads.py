"""Tests for clip4clip.web.uploads."""

from __future__ import annotations

import asyncio
import io
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from page_client import SEARCH, files_in, multipart_form, search_by_clip
from PIL import Image
from processes import file_size_limit
from servers import PageServer

from clip4clip import VideoError
from clip4clip.video import read_frames

pytest.importorskip("fastapi")
from clip4clip.web import uploads


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a b-ü.mp4", "a b-ü.mp4"),
        ("../../x.mp4", "x.mp4"),
        (r"C:\clips\y.mp4", "y.mp4"),
        ("<img>&'.mp4", "_img___.mp4"),
        ("..", "clip"),
        ("日" * 300 + ".mp4", "日" * 96 + ".mp4"),
    ],
)
def test_messages_name_a_clip_without_folders_and_markup(shared_client: Any, name: str, expected: str) -> None:
    response = shared_client.post(SEARCH, files={"clip": (name, b"x")})
    assert response.status_code == 400
    assert response.json()["detail"].startswith(f"{expected}: unsupported or corrupt video.")


@pytest.mark.parametrize(
    "form",
    [
        {"data": {"clip": "x" * 1000}},  # a text field, which would be held in memory
        {"files": [("clip", ("a.mp4", b"x")), ("clip", ("b.mp4", b"x"))]},
        {"files": {"other": ("a.mp4", b"x")}},
        {"content": b"x" * 1000},
        {"content": b"clip=x", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        {"content": b"--x\r\nno form", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"content": b"--x\r\nA: " + b"b" * 60_000, "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
    ],
)
def test_an_upload_must_be_a_form_with_one_file(shared_client: Any, form: dict[str, Any]) -> None:
    response = shared_client.post(SEARCH, **form)
    assert response.status_code == 400, response.text
    assert response.json()["detail"] == ("Expected a form (multipart/form-data) with one file, in the field 'clip'.")


def test_a_clip_finds_its_video_and_so_does_one_of_its_frames(library_client: Any, library: Path) -> None:
    clip = sorted((library / "clips").glob("0-*.mp4"))[5]
    best = search_by_clip(library_client, clip).json()["moments"][0]
    assert (best["name"], best["score"]) == (clip.name, pytest.approx(1, abs=1e-3))
    frame = list(read_frames(clip))[6].rgb
    for kind in ("JPEG", "PNG", "WEBP"):
        image = io.BytesIO()
        Image.fromarray(frame).save(image, kind)
        response = library_client.post(SEARCH, files={"clip": ("photo", image.getvalue())})
        assert response.json()["moments"][0]["name"] == clip.name
    large = io.BytesIO()
    Image.new("RGB", (9000, 8000)).save(large, "PNG")
    response = library_client.post(SEARCH, files={"clip": ("large.png", large.getvalue())})
    assert (response.status_code, "9000×8000 pixels" in response.json()["detail"]) == (400, True)


def test_the_total_size_of_clips_is_limited_and_a_finished_search_makes_room(
    shared_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOADS", 5000)
    for _ in range(3):
        assert shared_client.post(SEARCH, files={"clip": ("a.mp4", b"x" * 3000)}).status_code == 400  # no video
        response = shared_client.post(SEARCH, files={"clip": ("a.mp4", b"x" * 6000)})
        assert (response.status_code, "Too many clips" in response.text) == (503, True)


def test_only_bytes_that_have_arrived_count_towards_the_limit(empty_page: PageServer) -> None:
    """A large Content-Length by itself takes no room from others."""
    host, port = empty_page.url.removeprefix("http://").rstrip("/").split(":")
    start = f"POST {SEARCH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    claims = [socket.create_connection((host, int(port))) for _ in range(6)]
    for claim in claims:
        claim.sendall(f"{start}Content-Length: {500 << 20}\r\n\r\n".encode())
    body, headers = multipart_form("clip", "x")
    status, _, answer = empty_page.request("POST", SEARCH, body=body, headers=headers)
    assert (status, b"a.mp4: unsupported or corrupt video" in answer) == (400, True)
    for claim in claims:
        claim.close()


def test_a_full_disk_is_reported(shared_client: Any) -> None:
    with file_size_limit(8_000_000):
        response = shared_client.post(SEARCH, files={"clip": ("a.mp4", bytes(9_000_000))})
    assert (response.status_code, "disk may be full" in response.json()["detail"]) == (507, True)
    assert shared_client.post(SEARCH, files={"clip": ("a.mp4", bytes(9_000_000))}).status_code == 400  # no video


def test_a_server_that_is_killed_leaves_no_clip(uploads_folder: Path, empty_page: PageServer) -> None:
    """Nor does a visitor who leaves: a clip never has a name in a folder, even while it arrives."""
    before = files_in(uploads_folder)
    host, port = empty_page.url.removeprefix("http://").rstrip("/").split(":")
    start = f"POST {SEARCH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with socket.create_connection((host, int(port))) as visitor:
        visitor.sendall(
            f"{start}Content-Length: 9000000\r\n\r\n".encode() + multipart_form("clip", "x" * 5_000_000)[0][:-10]
        )
        assert empty_page.get("/api/status")[0] == 200
        assert files_in(uploads_folder) == before


class Visitor:
    """A visitor who sends a form in pieces, and then leaves if ``leaves`` is set."""

    def __init__(self, body: bytes, leaves: bool = False, size: int = 100_000) -> None:
        self._pieces = [body[start : start + size] for start in range(0, len(body), size)]
        self._leaves, self.has_sent = leaves, asyncio.Event()
        self.wants_to_leave = asyncio.Event()

    async def receive(self) -> Any:
        if self._pieces:
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces) or self._leaves}
        if not self._leaves:
            await self.wants_to_leave.wait()
        return {"type": "http.disconnect"}

    def request(self) -> Any:
        from starlette.requests import Request

        headers = [(b"content-type", b"multipart/form-data; boundary=x")]
        return Request({"type": "http", "method": "POST", "headers": headers}, self.receive)


def test_a_clip_is_deleted_after_its_search_and_when_the_visitor_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette import formparsers
    from starlette.exceptions import HTTPException

    files: list[Any] = []

    def spool(*arguments: Any, **options: Any) -> Any:
        files.append(tempfile.SpooledTemporaryFile(*arguments, **options))  # noqa: SIM115
        return files[-1]

    monkeypatch.setattr(formparsers, "SpooledTemporaryFile", spool)
    body, _ = multipart_form("clip", "x" * 3_000_000)
    received = uploads.Uploads()

    async def visit() -> None:
        async with received.receive(Visitor(body).request()) as upload:
            clip = upload.until(float("inf"), "too late")
            assert len(b"".join(iter(clip.read, b""))) == 3_000_000
            assert not files[0].closed
        with pytest.raises(HTTPException, match="closed"):
            async with received.receive(Visitor(body[:-10], leaves=True).request()):
                pass
        with pytest.raises(ZeroDivisionError):
            async with received.receive(Visitor(body).request()):
                1 / 0  # noqa: B018

    asyncio.run(asyncio.wait_for(visit(), 60))
    assert [file.closed for file in files] == [True] * 3


def test_the_search_by_a_clip_ends_when_the_visitor_leaves() -> None:
    body, _ = multipart_form("clip", "x" * 1000)

    async def visit() -> None:
        visitor = Visitor(body)
        async with uploads.Uploads().receive(visitor.request()) as upload:
            clip = upload.until(float("inf"), "nobody waits for the result")
            assert clip.read() == b"x" * 1000
            visitor.wants_to_leave.set()
            await asyncio.sleep(0.01)
            with pytest.raises(VideoError, match=r"a\.mp4: nobody waits for the result"):
                clip.read()

    asyncio.run(visit())


def test_a_clip_must_arrive_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.exceptions import HTTPException

    monkeypatch.setattr(uploads, "UPLOAD_SECONDS", 0.05)

    class SlowVisitor(Visitor):
        async def receive(self) -> Any:
            await asyncio.sleep(0.02)
            return await super().receive()

    async def visit() -> None:
        with pytest.raises(HTTPException) as error:
            async with uploads.Uploads().receive(SlowVisitor(multipart_form("clip", "x")[0], size=1).request()):
                pass
        assert error.value.status_code == 408

    asyncio.run(asyncio.wait_for(visit(), 60))
