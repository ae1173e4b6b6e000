"""Tests for clip4clip.web.media: which files of this machine a visitor can fetch, and clips cut out of them."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import pytest
from page_client import address, files_in
from processes import file_size_limit
from servers import PageServer

from clip4clip import VideoError
from clip4clip.evaluation.video_folder import VIDEO_EXTENSIONS
from clip4clip.retrieval import VideoIndex
from clip4clip.video import read_frames

pytest.importorskip("fastapi")
from clip4clip.web import media
from clip4clip.web.video_files import VideoFiles


def test_only_files_that_the_index_names_can_be_fetched(page: PageServer, library: Path) -> None:
    clip = sorted((library / "clips").glob("0-*.mp4"))[0]
    assert page.get(address("media", clip)) == (200, clip.read_bytes())
    assert page.get(address("media", clip), Range="bytes=10-19") == (206, clip.read_bytes()[10:20])
    status, headers, body = page.request("HEAD", address("media", clip))
    assert (status, headers["content-length"], body) == (200, str(clip.stat().st_size), b"")
    secrets = [library / "secret.txt", library / "secret.mp4", library / "videos.db", Path("/etc/passwd")]
    hidden = [f"{library}/clips/../secret.mp4", f"{clip}/../../secret.mp4", f"{clip}\0{secrets[0]}"]
    for secret in (*secrets, *hidden):
        coded = quote(str(secret), safe="")
        for folder in ("media", "thumbnails", "strips", "clips", "static"):
            for path in (coded, f"..{quote(str(secret))}", f"%2e%2e{coded}", f"{quote(str(clip), safe='')}%00{coded}"):
                status, body = page.get(f"/{folder}/{path}?start=0&end=1")
                assert (status, json.loads(body)["status"]) == (404, 404)
    for injection in ("x' or id != '", 'x"] or id not in ["', "\x01", ""):
        assert page.get(address("media", injection))[0] == 404


def test_a_file_that_is_no_video_is_not_served_even_if_the_index_names_it(
    library: Path, tmp_path: Path, client_of: Callable[..., Any]
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    paths = ["/etc/passwd", str(library / "secret.txt"), "secret.mp4", str(tmp_path / "folder.mp4")]
    client = client_of(*paths, "http://videos.example.com/a.mp4", library / "broken.mp4")
    for path in paths:
        for folder in ("media", "thumbnails", "strips", "clips"):
            response = client.get(address(folder, path))
            assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
    response = client.get(address("media", "http://videos.example.com/a.mp4"))
    assert (response.status_code, "but at http://videos.example.com/a.mp4" in response.json()["detail"]) == (404, True)
    assert client.get(address("media", library / "broken.mp4")).status_code == 200  # it may be played elsewhere
    for folder in ("thumbnails", "strips"):
        response = client.get(address(folder, library / "broken.mp4"))
        assert response.status_code == 404
        assert "no picture of broken.mp4" in response.json()["detail"]


def test_no_content_type_is_one_that_a_browser_runs(tmp_path: Path, client_of: Callable[..., Any]) -> None:
    paths = [tmp_path / f"a{extension.upper()}" for extension in VIDEO_EXTENSIONS]
    for path in paths:
        path.write_text("<script>alert(1)</script>")
    client = client_of(*paths)
    types = {client.get(address("media", path)).headers["content-type"] for path in paths}
    assert all(name.startswith("video/") or name == "image/gif" for name in types), types


def test_a_file_that_has_gone_says_what_to_do(scenes: Path, tmp_path: Path, client_of: Callable[..., Any]) -> None:
    video = tmp_path / "holiday.mp4"
    shutil.copy(scenes, video)
    client = client_of(video)
    assert client.get(address("media", video)).status_code == 200
    video.unlink()
    for folder in ("media", "thumbnails", "strips", "clips"):
        response = client.get(address(folder, video))
        assert response.status_code == 404
        assert response.json()["detail"].startswith("holiday.mp4 has been moved or deleted.")
        assert "`clip4clip relocate`" in response.json()["detail"]


def test_a_clip_has_the_frames_of_its_moment_and_a_name(scenes: Path, scenes_client: Any, clips_folder: Path) -> None:
    response = scenes_client.get(address("clips", scenes), params={"start": 2.5, "end": 3.05})
    assert (response.status_code, response.headers["content-type"]) == (200, "video/mp4")
    name = "%C3%9Cn%C3%AF%20%E6%97%A5%E6%9C%AC%20100%25%200.02-0.03.mp4"
    expected = f"attachment; filename=\"Uni __ 100_ 0.02-0.03.mp4\"; filename*=UTF-8''{name}"
    assert response.headers["content-disposition"] == expected
    frames = list(read_frames(response.content, None))  # from the only key frame on
    assert [frames[0].time, frames[-1].time] == pytest.approx([0, 3.1], abs=0.11)
    by_segment = scenes_client.get(address("clips", f"{scenes}#t=2,4"))
    with av.open(io.BytesIO(by_segment.content)) as file:
        assert sum(1 for packet in file.demux(video=0) if packet.size) == pytest.approx(40, abs=2)
    response = scenes_client.get(address("clips", f"{scenes}#t=2,4"), headers={"Range": "bytes=0-9"})
    assert (response.status_code, len(response.content)) == (206, 10)
    assert files_in(clips_folder) == []


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({}, "start and end are required for a whole video"),
        ({"start": 2, "end": 2}, "end is 2: it should be after start, 2."),
        ({"start": 0, "end": 601}, "end is 601: it should be at most 600 s after start, 0."),
        ({"start": 90, "end": 91}, "100%.mp4: it has no frame at 90 s."),
        ({"start": -1, "end": 1}, "start is '-1'"),
        ({"start": "nan", "end": 1}, "start is"),
        ({"start": 0, "end": "inf"}, "end is"),
    ],
)
def test_a_moment_that_cannot_be_cut_out_is_explained(
    query: dict[str, Any], sentence: str, scenes: Path, scenes_client: Any, clips_folder: Path
) -> None:
    response = scenes_client.get(address("clips", scenes), params=query)
    assert response.status_code == 422
    assert sentence in response.json()["detail"]
    assert str(scenes.parent) not in response.text
    assert files_in(clips_folder) == []


def test_a_video_that_cannot_be_cut_is_explained_to_a_visitor(
    scenes: Path, scenes_client: Any, clips_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise VideoError(f"{scenes}: cannot be copied. It can be re-encoded instead: --exact")

    monkeypatch.setattr(media, "write_clip", fail)
    response = scenes_client.get(address("clips", scenes), params={"start": 0, "end": 1})
    sentence = "A moment of Ünï 日本 100%.mp4 cannot be cut out"
    assert (response.status_code, sentence in response.json()["detail"]) == (422, True)
    assert "--exact" not in response.text
    assert str(scenes.parent) not in response.text
    assert files_in(clips_folder) == []


def test_a_full_disk_is_reported_and_leaves_nothing(scenes: Path, scenes_client: Any, clips_folder: Path) -> None:
    with file_size_limit(500):
        response = scenes_client.get(address("clips", scenes), params={"start": 0, "end": 5})
    assert (response.status_code, "disk may be full" in response.json()["detail"]) == (507, True)
    assert files_in(clips_folder) == []


class StuckClips:
    """Replaces :func:`write_clip` by one that writes until it is stopped."""

    def __init__(self) -> None:
        self.has_begun, self.has_ended = threading.Event(), threading.Event()

    def write_clip(self, _: object, clip: Path, *__: object, stopped: threading.Event, **___: object) -> None:
        clip.write_bytes(bytes(1000))
        self.has_begun.set()
        assert stopped.wait(60)
        self.has_ended.set()
        raise KeyboardInterrupt


def ask_for_clip(cutter: media.Media, video: Path, seconds_until_left: float = 1000) -> Any:
    """Ask for a clip as a visitor who leaves after some time."""
    from starlette.requests import Request

    async def receive() -> Any:
        await asyncio.sleep(seconds_until_left)
        return {"type": "http.disconnect"}

    request = Request({"type": "http", "method": "GET", "headers": []}, receive)
    return cutter.get_clip(request, str(video), 0, 1)


@pytest.mark.parametrize("reason", ["left", "late", "large"])
def test_a_clip_is_given_up_and_deleted(
    reason: str, scenes: Path, scenes_index: VideoIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.exceptions import HTTPException

    stuck = StuckClips()
    monkeypatch.setattr(media, "write_clip", stuck.write_clip)
    monkeypatch.setattr(media, "CHECK_SECONDS", 0.01)
    if reason == "late":
        monkeypatch.setattr(media, "CLIP_SECONDS", 0.05)
    if reason == "large":
        monkeypatch.setattr(media, "MAX_CLIP_BYTES", 999)
    cutter = media.Media(VideoFiles(scenes_index), tmp_path)

    async def visit() -> None:
        with pytest.raises(HTTPException) as error:
            await ask_for_clip(cutter, scenes, 0.05 if reason == "left" else 1000)
        assert error.value.status_code == {"left": 400, "late": 503, "large": 413}[reason]
        assert stuck.has_ended.wait(60)
        while files_in(tmp_path):
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(visit(), 60))


def test_no_more_clips_are_cut_out_than_are_allowed(
    scenes: Path, scenes_client: Any, clips_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = StuckClips()
    monkeypatch.setattr(media, "write_clip", stuck.write_clip)
    monkeypatch.setattr(media, "MAX_CLIPS", 1)
    monkeypatch.setattr(media, "CLIP_SECONDS", 0.5)
    query = {"start": 0, "end": 1}
    statuses: list[int] = []
    first = threading.Thread(
        target=lambda: statuses.append(scenes_client.get(address("clips", scenes), params=query).status_code)
    )
    first.start()
    assert stuck.has_begun.wait(60)
    response = scenes_client.get(address("clips", scenes), params=query)
    assert (response.status_code, "Too many clips" in response.json()["detail"]) == (503, True)
    first.join(60)
    assert statuses == [503]
    monkeypatch.undo()
    deadline = time.monotonic() + 60
    while scenes_client.get(address("clips", scenes), params=query).status_code != 200:
        assert time.monotonic() < deadline
