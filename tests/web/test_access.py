"""Who reaches the page and how much they may send, by plain HTTP: host names, other websites, uploads, slots."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from servers import PageServer, posted

from clip4clip import InputValueError, VideoError
from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex
from clip4clip.video import read_frames
from clip4clip.video.limits import DEFAULT_LIMITS, Limits
from clip4clip.web import uploads

pytest.importorskip("gradio")
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from clip4clip.web import access as doors
from clip4clip.web import page
from clip4clip.web.access import SameSiteMiddleware

DEMO = "clip_vit_tiny_demo"
UPLOAD = "/gradio_api/upload"
RUN = "/gradio_api/run/predict"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server below keeps temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A page over an empty index, that a proxy calls ``videos.example.com``."""
    uri = tmp_path_factory.mktemp("index") / "videos.db"
    with VideoIndex(uri, encoder=EncoderSpec(DEMO)) as index:
        index.create()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        running = PageServer(str(uri), "--allowed-host", "Videos.example.com", "--allowed-host", "[fd00::5]:443")
    with running:
        yield running


class StillIndex:
    """An index without videos, in which nothing but the page can fail."""

    def search(
        self, text: str | None = None, *, video: Any = None, limit: int = 12, limits: Limits = DEFAULT_LIMITS
    ) -> list[Any]:
        if video is not None:
            list(read_frames(video, 1, limits=limits))
        return []

    def count(self) -> int:
        return 0


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    # Gradio leaves event loops open. One that is collected while a test parses Python breaks the parser of Python 3.11.
    loops: list[asyncio.AbstractEventLoop] = []
    new = asyncio.new_event_loop
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: loops.append(new()) or loops[-1])
    yield TestClient(page.make_app(StillIndex(), tmp_path))  # type: ignore[arg-type]
    for loop in loops:
        loop.close()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def search_by_clip(client: TestClient, clip: Path) -> str:
    """Sends a clip and searches by it; what the page says."""
    sent = client.post(UPLOAD, files={"files": (clip.name, clip.read_bytes())})
    assert sent.status_code == 200, sent.text
    return client.post(RUN, json=by_clip(client.get("/config").json(), sent.json()[0])).json()["data"][1]


def by_clip(config: dict[str, Any], path: str) -> dict[str, Any]:
    return {"fn_index": number(config, "upload"), "data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}


def number(config: dict[str, Any], event: str) -> int:
    """Gradio's number of the function that an event of the page calls."""
    called = (one for one in config["dependencies"] if one["backend_fn"] and one["targets"][0][1] == event)
    return next(one["id"] for one in called)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("127.0.0.1:7860", 200),
        ("[::1]:7860", 200),
        ("videos.example.com", 200),
        ("[fd00::5]", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:7860", 421),
        ("videos.example.com.evil.example", 421),
        ("evil.example@localhost", 421),
        ("localhost evil.example", 421),
        ("10.1.2.3", 421),
        ("[fd00::6]", 421),
        ("::1", 421),
        ("[localhost]", 421),
        ("", 421),
    ],
)
def test_only_a_name_that_the_server_is_known_by_is_answered(server: PageServer, host: str, status: int) -> None:
    for path in ("/", "/config", "/static/img/logo.svg"):
        assert server.get(path, Host=host)[0] == status
    body, headers = posted("files", "x")
    assert server.request("POST", UPLOAD, body=body, headers=headers | {"Host": host})[0] == status
    if status == 421 and host.startswith("evil.example") and "@" not in host:
        assert b"--allowed-host evil.example" in server.get("/", Host=host)[1]


def test_a_request_without_a_host_is_refused(server: PageServer) -> None:
    host, port = server.url.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET /config HTTP/1.0\r\n\r\n")
        assert b" 421 " in connection.makefile("rb").readline()


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_on_all_addresses_any_address_is_known_and_any_name_is_not(address: str) -> None:
    client = TestClient(SameSiteMiddleware(PlainTextResponse("x"), address))
    known = ("192.168.1.5:7860", "[fe80::1]:7860", f"{socket.gethostname()}:7860", "localhost")
    assert [client.get("/", headers={"Host": host}).status_code for host in known] == [200] * 4
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
    local = TestClient(SameSiteMiddleware(PlainTextResponse("x"), "192.168.1.5"))
    assert local.get("/", headers={"Host": "192.168.1.5:7860"}).status_code == 200
    assert local.get("/", headers={"Host": "192.168.1.6"}).status_code == 421


@pytest.mark.parametrize("name", ["", "https://videos.example.com", "two names", "*"])
def test_an_allowed_host_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InputValueError, match=r"must be a host name such as videos\.example\.com"):
        SameSiteMiddleware(PlainTextResponse("x"), "127.0.0.1", [name])


CROSS = {"Sec-Fetch-Site": "cross-site"}
LINK = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
FRAME = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}


@pytest.mark.parametrize(
    ("headers", "reads", "sends"),
    [
        ({}, 200, 200),  # a program
        ({"Sec-Fetch-Site": "none"} | LINK, 200, 200),  # an address that was typed
        ({"Sec-Fetch-Site": "same-origin"}, 200, 200),
        ({"Origin": "http://localhost:7860"}, 200, 200),
        ({"Origin": "https://LOCALHOST:7860"}, 200, 200),  # a proxy that speaks HTTPS
        ({"Origin": "https://videos.example.com", "Sec-Fetch-Site": "same-origin"}, 200, 200),  # and changes the Host
        (CROSS | LINK, 200, 403),
        ({"Sec-Fetch-Site": "same-site"} | LINK, 200, 403),
        (CROSS | LINK | {"Origin": "http://evil.example"}, 403, 403),
        (CROSS | FRAME, 403, 403),
        (CROSS | {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403, 403),
        ({"Origin": "http://evil.example"}, 403, 403),
        ({"Origin": "http://localhost:3000"}, 403, 403),
        ({"Origin": "http://localhost:7860.evil.example"}, 403, 403),
        ({"Origin": "null"}, 403, 403),
        ({"Origin": ""}, 403, 403),
        ({"Origin": "http://["}, 403, 403),
    ],
)
def test_another_website_is_refused(
    server: PageServer, folder: Path, headers: dict[str, str], reads: int, sends: int
) -> None:
    headers = {"Host": "localhost:7860"} | headers
    for path in ("/", "/config", "/theme.css"):
        assert server.get(path, **headers)[0] == reads
    before = len(files(folder))
    body, form = posted("files", "x")
    assert server.request("POST", UPLOAD, body=body, headers=form | headers)[0] == sends
    assert len(files(folder)) == before + (sends == 200)
    assert server.request("POST", RUN, body=b"{}", headers=headers)[0] == (422 if sends == 200 else 403)


def test_every_answer_has_security_headers(server: PageServer) -> None:
    for path, host in (("/", "localhost"), ("/library/video?id=x", "localhost"), ("/none", "localhost"), ("/", "evil")):
        headers = server.request("GET", path, headers={"Host": host})[1]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "object-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "private, no-cache"
        assert "server" not in headers


def test_a_clip_keeps_its_name_within_its_own_folder(client: TestClient, tmp_path: Path) -> None:
    for given, kept in [
        ("a b-ü.mp4", "a b-ü.mp4"),
        ("../../x.mp4", "x.mp4"),
        (r"C:\clips\y.mp4", "y.mp4"),
        ("<img>&'.mp4", "_img___.mp4"),
        ("..", "clip"),
        ("x" * 300 + ".mp4", "x" * 56 + ".mp4"),
        ("日" * 100 + ".mp4", "日" * 56 + ".mp4"),
    ]:
        path = Path(client.post(UPLOAD, files={"files": (given, b"x")}).json()[0])
        assert (path.name, path.parent.parent, path.read_bytes()) == (kept, tmp_path.resolve(), b"x")


def test_two_visitors_with_the_same_clip_do_not_share_it(client: TestClient, drawings: Path) -> None:
    clip = min((drawings / "eval").glob("*.mp4"))
    config = client.get("/config").json()
    first, second = (client.post(UPLOAD, files={"files": (clip.name, clip.read_bytes())}).json()[0] for _ in "12")
    for path in (first, second):
        assert client.post(RUN, json=by_clip(config, path)).json()["data"][1].count(f"the clip {clip.name}") == 1
        assert not Path(path).exists()
    # What is gone is not understood any more, and nothing else of the folder is ever deleted.
    assert client.post(RUN, json=by_clip(config, first)).status_code == 400


def test_a_file_of_the_folder_that_is_no_clip_is_neither_read_nor_deleted(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "other.mp4").write_bytes(b"x")
    config = client.get("/config").json()
    assert client.post(RUN, json=by_clip(config, str(tmp_path / "other.mp4"))).status_code == 400
    assert (tmp_path / "other.mp4").exists()


@pytest.mark.parametrize(
    "form",
    [
        {"data": {"files": "x" * 1000}},  # a field, which would be held in memory
        {"files": [("files", ("a.mp4", b"x")), ("files", ("b.mp4", b"x"))]},
        {"files": {"other": ("a.mp4", b"x")}},
        {"content": b"x" * 1000},
        {"content": b"--x\r\nno form", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
    ],
)
def test_a_form_is_one_file_and_nothing_else(client: TestClient, tmp_path: Path, form: dict[str, Any]) -> None:
    answer = client.post(UPLOAD, **form)
    assert answer.status_code == 400, answer.text
    assert files(tmp_path) == []


def test_a_body_is_cut_off_at_its_limit_whatever_it_says_of_its_size(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "MAX_UPLOAD", 10_000)
    body, headers = posted("files", "x" * 1_000_000)
    asked = 0

    def pieces() -> Iterator[bytes]:
        nonlocal asked
        for start in range(0, len(body), 1000):
            asked += 1
            yield body[start : start + 1000]

    for content in (body, pieces()):
        answer = client.post(UPLOAD, content=content, headers=headers)
        assert (answer.status_code, "larger than 75,536 bytes" in answer.text) == (413, True)
    assert files(tmp_path) == []
    assert client.post(RUN, content=b" " * 70_000).status_code == 400
    assert client.post(UPLOAD, content=posted("files", "x" * 9000)[0], headers=headers).status_code == 200


def test_no_more_clips_are_taken_than_there_is_room_for(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOADS", 5000)
    clip = {"files": ("a.mp4", b"x" * 3000)}
    assert client.post(UPLOAD, files=clip).status_code == 200
    answer = client.post(UPLOAD, files=clip)
    assert (answer.status_code, "Too many clips are waiting" in answer.text) == (503, True)
    assert client.post(UPLOAD, files={"files": ("a.mp4", b"x" * 100)}).status_code == 200
    # What nobody has searched by in time makes room.
    old, new = sorted(files(tmp_path), key=lambda path: -path.stat().st_size)
    os.utime(old, (1, 1))
    assert client.post(UPLOAD, files=clip).status_code == 200
    assert (old.exists(), new.exists(), len(list(tmp_path.glob("clip-*")))) == (False, True, 2)


def test_clips_that_arrive_together_share_the_room(server: PageServer, folder: Path) -> None:
    """Counted while they arrive: one that only claims to be large takes no room."""
    host, port = server.url.removeprefix("http://").rstrip("/").split(":")
    start = f"POST {UPLOAD} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    claims = [socket.create_connection((host, int(port))) for _ in range(6)]
    for claim in claims:
        claim.sendall(f"{start}Content-Length: {500 << 20}\r\n\r\n".encode())
    body, headers = posted("files", "x")
    assert server.request("POST", UPLOAD, body=body, headers=headers)[0] == 200
    for claim in claims:
        claim.close()


@pytest.mark.parametrize("size", [400_000, 9_000_000])  # in memory until it is kept; spooled to the disk at once
def test_a_full_disk_is_said_and_leaves_nothing(client: TestClient, tmp_path: Path, size: int) -> None:
    resource = pytest.importorskip("resource", reason="a limit on the size of files stands for a full disk")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = 300_000 if size < 1 << 20 else 8_000_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        answer = client.post(UPLOAD, files={"files": ("a.mp4", bytes(size))})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (answer.status_code, answer.text) == (507, "The clip cannot be stored: the server's disk may be full.")
    assert files(tmp_path) == []
    assert list(tmp_path.glob("clip-*")) == []
    assert client.post(UPLOAD, files={"files": ("a.mp4", bytes(size))}).status_code == 200


def test_a_visitor_who_leaves_in_mid_upload_leaves_nothing(server: PageServer, folder: Path) -> None:
    before = files(folder)
    host, port = server.url.removeprefix("http://").rstrip("/").split(":")
    start = f"POST {UPLOAD} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with socket.create_connection((host, int(port))) as visitor:
        visitor.sendall(f"{start}Content-Length: 9000000\r\n\r\n".encode() + posted("files", "x" * 2_000_000)[0][:-10])
    assert server.get("/config")[0] == 200
    assert files(folder) == before


def test_gradio_keeps_nothing_of_a_session(client: TestClient) -> None:
    asked = {"fn_index": number(client.get("/config").json(), "click"), "data": ["a red square"]}

    def sessions() -> int:
        gc.collect()
        return sum(type(one).__name__ == "SessionState" for one in gc.get_objects())

    before = sessions()
    for session in "abc":
        answer = client.post(RUN, json=asked | {"session_hash": session})
        assert "No videos were found for “a red square”" in answer.json()["data"][0]
    assert sessions() == before


def test_a_clip_of_too_many_seconds_is_refused(client: TestClient, tmp_path: Path) -> None:
    with av.open(tmp_path / "long.mp4", "w") as container:
        stream = container.add_stream("mpeg4", Fraction(1, 400))
        stream.width, stream.height = 64, 48
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))))
        container.mux(stream.encode(None))
    said = search_by_clip(client, tmp_path / "long.mp4")
    assert "long.mp4: it has 800 seconds of video, and a clip to search by may have at most 600" in said


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(pixels=128 * 128 - 1), "its frames of 128×128 are over the limit of 16,383 pixels"),
        (Limits(frames=2), "it has over 2 frames, which is the limit"),
        (Limits(decoded_pixels=1), "decoding it takes more than 1 pixels, which is the limit"),
    ],
)
def test_a_clip_may_make_only_so_much_work(
    client: TestClient, drawings: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits, said: str
) -> None:
    clip = min((drawings / "eval").glob("*.mp4"))
    assert f"for the clip {clip.name}" in search_by_clip(client, clip)
    monkeypatch.setattr(page, "CLIP_LIMITS", limits)
    assert f"That did not work: {clip.name}: {said}" in search_by_clip(client, clip)


def test_a_clip_that_takes_too_long_is_given_up(
    client: TestClient, drawings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = min((drawings / "eval").glob("*.mp4"))
    with uploads.TimedFile(clip, time.monotonic() + 1000, "too slow") as file:
        assert [frame.time for frame in read_frames(file)] == [frame.time for frame in read_frames(clip)]
    with uploads.TimedFile(clip, 0, "too slow") as file, pytest.raises(VideoError, match="too slow"):
        next(read_frames(file))
    monkeypatch.setattr(page, "CLIP_TIMEOUT", 0)
    assert "the search was not done within" in search_by_clip(client, clip)
    assert [path for path in files(tmp_path) if path.suffix == ".mp4"] == []


HANGING = """
import threading
from clip4clip.retrieval.page import run_page

class Index:
    def search(self, text=None, *, video=None, **options):
        if video is not None or text == "hang":
            print("searching", flush=True)
            threading.Event().wait()
        return []

    def count(self):
        return 0

run_page(Index(), port=0, ready=lambda url: print(url, flush=True))
"""


class HangingServer(PageServer):
    """A page whose searches by a clip, and for "hang", never end."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HANGING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.said, self.url = "", self.line()

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def line(self) -> str:
        """What it prints next."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, data: dict[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json"}
        return self.request("POST", RUN, body=json.dumps(data).encode(), headers=headers)[2]

    def ask_in_background(self, data: dict[str, Any]) -> None:
        def ask() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):  # the page has stopped
                self.ask(data)

        threading.Thread(target=ask, daemon=True).start()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_searches_that_hang_stop_neither_other_searches_nor_the_end(how: int, drawings: Path) -> None:
    clip = min((drawings / "eval").glob("*.mp4"))
    with HangingServer() as server:
        config = json.loads(server.get("/config")[1])
        texts = {"fn_index": number(config, "click"), "data": ["a red square"]}
        for _ in range(page.CLIPS_AT_ONCE + 45):  # more than any pool of threads behind the page has
            body, headers = posted("files", "\0")
            body = body.replace(b"\0", clip.read_bytes())
            sent = json.loads(server.request("POST", UPLOAD, body=body, headers=headers)[2])[0]
            server.ask_in_background(by_clip(config, sent))
        assert [server.line() for _ in range(page.CLIPS_AT_ONCE)] == ["searching"] * page.CLIPS_AT_ONCE
        assert "No videos were found" in server.ask(texts).decode()
        server.ask_in_background(texts | {"data": ["hang"]})
        assert server.line() == "searching"
        server.stop(how)
        assert server.returncode == 0


@pytest.mark.parametrize("host", ["none.invalid", "a..b", "203.0.113.7"])
def test_an_address_of_another_machine_is_said(host: str) -> None:
    with pytest.raises(OSError, match=f"the page cannot listen at '{host}', port 0: "):
        page.run_page(StillIndex(), host, 0)  # type: ignore[arg-type]


def test_what_is_not_json_is_not_understood(client: TestClient) -> None:
    for data in (rb'["\ud800"]', b"[NaN]"):
        body = b'{"fn_index": %d, "data": %b}' % (number(client.get("/config").json(), "click"), data)
        assert client.post(RUN, content=body).status_code == 400


@pytest.mark.parametrize("package", ["starlette", "gradio", "uvicorn"])
def test_without_the_extra_the_page_says_which(package: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
from clip4clip import MissingExtraError
for module in ("page", "doors", "uploads"):
    try:
        __import__("clip4clip.retrieval." + module)
    except MissingExtraError as error:
        print(module, error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    failed = ["page", "doors", "uploads"] if package == "starlette" else ["page"]
    assert [line.split()[0] for line in said.splitlines()] == failed
    assert said.count("pip install 'towhee-clip4clip[retrieval]'") == len(failed)
