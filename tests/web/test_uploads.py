"""Tests for clip4clip.web.uploads."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from page_client import RUN, UPLOAD, clip_event, files_in, multipart_form
from processes import file_size_limit
from servers import PageServer

from clip4clip import VideoError
from clip4clip.video import read_frames

pytest.importorskip("starlette")
from clip4clip.web import uploads


def test_a_clip_keeps_its_name_within_its_own_folder(client: Any, tmp_path: Path) -> None:
    for name, expected in [
        ("a b-ü.mp4", "a b-ü.mp4"),
        ("../../x.mp4", "x.mp4"),
        (r"C:\clips\y.mp4", "y.mp4"),
        ("<img>&'.mp4", "_img___.mp4"),
        ("..", "clip"),
        ("x" * 300 + ".mp4", "x" * 56 + ".mp4"),
        ("日" * 100 + ".mp4", "日" * 56 + ".mp4"),
    ]:
        path = Path(client.post(UPLOAD, files={"files": (name, b"x")}).json()[0])
        assert (path.name, path.parent.parent, path.read_bytes()) == (expected, tmp_path.resolve(), b"x")


def test_two_visitors_with_the_same_clip_do_not_share_its_file(client: Any, drawings: Path) -> None:
    clip = min((drawings / "eval").glob("*.mp4"))
    config = client.get("/config").json()
    first, second = (client.post(UPLOAD, files={"files": (clip.name, clip.read_bytes())}).json()[0] for _ in "12")
    for path in (first, second):
        assert client.post(RUN, json=clip_event(config, path)).json()["data"][1].count(f"the clip {clip.name}") == 1
        assert not Path(path).exists()
    # A deleted clip cannot be searched by again.
    assert client.post(RUN, json=clip_event(config, first)).status_code == 400


def test_another_file_in_the_folder_is_neither_read_nor_deleted(client: Any, tmp_path: Path) -> None:
    (tmp_path / "other.mp4").write_bytes(b"x")
    config = client.get("/config").json()
    assert client.post(RUN, json=clip_event(config, str(tmp_path / "other.mp4"))).status_code == 400
    assert (tmp_path / "other.mp4").exists()


@pytest.mark.parametrize(
    "form",
    [
        {"data": {"files": "x" * 1000}},  # a text field, which would be held in memory
        {"files": [("files", ("a.mp4", b"x")), ("files", ("b.mp4", b"x"))]},
        {"files": {"other": ("a.mp4", b"x")}},
        {"content": b"x" * 1000},
        {"content": b"--x\r\nno form", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
    ],
)
def test_an_upload_must_be_a_form_with_one_file(client: Any, tmp_path: Path, form: dict[str, Any]) -> None:
    response = client.post(UPLOAD, **form)
    assert response.status_code == 400, response.text
    assert files_in(tmp_path) == []


def test_the_total_size_of_waiting_clips_is_limited(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOADS", 5000)
    clip = {"files": ("a.mp4", b"x" * 3000)}
    assert client.post(UPLOAD, files=clip).status_code == 200
    response = client.post(UPLOAD, files=clip)
    assert (response.status_code, "Too many clips are waiting" in response.text) == (503, True)
    assert client.post(UPLOAD, files={"files": ("a.mp4", b"x" * 100)}).status_code == 200
    # An expired clip is deleted, which makes room.
    old, new = sorted(files_in(tmp_path), key=lambda path: -path.stat().st_size)
    os.utime(old, (1, 1))
    assert client.post(UPLOAD, files=clip).status_code == 200
    assert (old.exists(), new.exists(), len(list(tmp_path.glob("clip-*")))) == (False, True, 2)


def test_only_bytes_that_have_arrived_count_towards_the_limit(empty_page: PageServer, uploads_folder: Path) -> None:
    """A large Content-Length by itself takes no room from others."""
    host, port = empty_page.url.removeprefix("http://").rstrip("/").split(":")
    start = f"POST {UPLOAD} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    claims = [socket.create_connection((host, int(port))) for _ in range(6)]
    for claim in claims:
        claim.sendall(f"{start}Content-Length: {500 << 20}\r\n\r\n".encode())
    body, headers = multipart_form("files", "x")
    assert empty_page.request("POST", UPLOAD, body=body, headers=headers)[0] == 200
    for claim in claims:
        claim.close()


@pytest.mark.parametrize("size", [400_000, 9_000_000])  # held in memory until it is stored; spooled to the disk
def test_a_full_disk_is_reported_and_leaves_no_file(client: Any, tmp_path: Path, size: int) -> None:
    with file_size_limit(300_000 if size < 1 << 20 else 8_000_000):
        response = client.post(UPLOAD, files={"files": ("a.mp4", bytes(size))})
    assert (response.status_code, response.text) == (507, "The clip cannot be stored: the server's disk may be full.")
    assert files_in(tmp_path) == []
    assert list(tmp_path.glob("clip-*")) == []
    assert client.post(UPLOAD, files={"files": ("a.mp4", bytes(size))}).status_code == 200


def test_an_interrupted_upload_leaves_no_file(empty_page: PageServer, uploads_folder: Path) -> None:
    before = files_in(uploads_folder)
    host, port = empty_page.url.removeprefix("http://").rstrip("/").split(":")
    start = f"POST {UPLOAD} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with socket.create_connection((host, int(port))) as visitor:
        visitor.sendall(
            f"{start}Content-Length: 9000000\r\n\r\n".encode() + multipart_form("files", "x" * 2_000_000)[0][:-10]
        )
    assert empty_page.get("/config")[0] == 200
    assert files_in(uploads_folder) == before


def test_a_timed_file_can_be_decoded_until_its_deadline(drawings: Path) -> None:
    clip = min((drawings / "eval").glob("*.mp4"))
    with uploads.TimedFile(clip, time.monotonic() + 1000, "too slow") as file:
        assert [frame.time for frame in read_frames(file)] == [frame.time for frame in read_frames(clip)]
    with uploads.TimedFile(clip, 0, "too slow") as file, pytest.raises(VideoError, match="too slow"):
        next(read_frames(file))
