"""Tests for clip4clip.web.server: where the page listens, and how it stops."""

from __future__ import annotations

import base64
import contextlib
import http.client
import importlib
import itertools
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from constants import DEMO_MODEL
from page_client import SEARCH, files_in, multipart_form
from servers import PageServer, get, request

from clip4clip import MissingExtraError
from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex
from clip4clip.weights.identity import identify

pytest.importorskip("fastapi")
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from clip4clip.web.access import SameSiteMiddleware
from clip4clip.web.search import CLIP_WORKERS, MAX_WAITING_CLIPS
from clip4clip.web.server import run_page


@pytest.mark.parametrize("host", ["none.invalid", "a..b", "203.0.113.7"])
def test_an_address_of_another_machine_is_an_error(host: str, empty_index: Any, serve: Callable[..., str]) -> None:
    with pytest.raises(OSError, match=f"the page cannot listen at '{host}', port 0: "):
        serve(empty_index, print, host=host)


def test_the_page_listens_on_ipv6(empty_index: Any, serve: Callable[..., str]) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")

    def visit(url: str) -> None:
        assert url.startswith("http://[::1]:")
        assert get(url, "/api/status")[0] == 200

    serve(empty_index, visit, host="::1")


@pytest.mark.parametrize("host", ["videos.example.com", "Bücher.example", "0.0.0.0", ""])
def test_the_announced_address_is_one_that_the_page_answers_to(
    host: str, empty_index: Any, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = (socket.AF_INET, socket.SOCK_STREAM, 0, "", (host if host == "0.0.0.0" else "127.0.0.1", 0))
    with monkeypatch.context() as patch:
        resolve = socket.getaddrinfo
        patch.setattr(
            socket, "getaddrinfo", lambda name, *_, **__: [address] if name == host else resolve(name, *_, **__)
        )

        def visit(url: str) -> None:
            name, port = urlsplit(url).netloc.encode("idna").decode().rsplit(":", 1)
            assert name
            assert get(f"http://127.0.0.1:{port}/", "/api/status", Host=f"{name}:{port}")[0] == 200
            assert get(f"http://127.0.0.1:{port}/", "/api/status", Host=f"other.example:{port}")[0] == 421

        serve(empty_index, visit, host=host)


def test_a_link_local_address_is_known_without_its_zone() -> None:
    app = SameSiteMiddleware(PlainTextResponse("x"), "fe80::1%eth0")
    assert TestClient(app).get("/", headers={"Host": "[fe80::1]:7860"}).status_code == 200


def test_a_stop_while_the_address_is_announced_deletes_the_folder_for_clips(
    empty_index: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    handlers: list[Any] = []

    def on_ready(_: str) -> None:
        handlers.append(signal.getsignal(signal.SIGTERM))
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):  # which would end all tests
        run_page(empty_index, port=0, on_ready=on_ready)
    signal.signal(signal.SIGTERM, before)
    assert handlers == [signal.default_int_handler]  # raises KeyboardInterrupt
    assert [*tmp_path.iterdir()] == []


def test_two_servers_cannot_take_one_port(empty_index: Any, serve: Callable[..., str]) -> None:
    def visit(url: str) -> None:
        with pytest.raises(OSError, match="the page cannot listen at"):
            run_page(empty_index, port=urlsplit(url).port or 0)

    serve(empty_index, visit)


@pytest.mark.slow
def test_the_command_passes_its_options_on(library: Path, tmp_path: Path) -> None:
    shutil.copy(library / "videos.db", tmp_path / "videos.db")
    options = ["--user", "ann", "--password", "s3cret: é", "--allowed-host", "videos.example.com"]
    with PageServer(str(tmp_path / "videos.db"), *options) as page:
        credentials = "Basic " + base64.b64encode("ann:s3cret: é".encode()).decode()
        assert page.get("/", Host="videos.example.com")[0] == 401
        assert page.get("/api/status", Host="videos.example.com", Authorization=credentials)[0] == 200
        assert "Traceback" not in page.stop()


@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGTERM])
def test_clips_are_deleted_when_the_page_stops(
    stop_signal: int,
    empty_index: Any,
    serve: Callable[..., str],
    drawings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    started, release = threading.Event(), threading.Event()

    monkeypatch.setattr(empty_index, "embed", lambda **_: started.set() or release.wait())
    monkeypatch.setattr("clip4clip.web.server.SHUTDOWN_TIMEOUT", 1)

    def visit(url: str) -> None:
        def send() -> None:
            body, headers = multipart_form("clip", min((drawings / "eval").glob("*.mp4")).read_bytes())
            with contextlib.suppress(OSError, http.client.HTTPException):  # the page has stopped
                request(url, "POST", SEARCH, body=body, headers=headers)

        threading.Thread(target=send, daemon=True).start()
        assert started.wait(60)

    assert "Traceback" not in serve(empty_index, visit, stop_signal)
    release.set()
    assert files_in(tmp_path) == []


def test_a_visitor_who_stops_reading_cannot_keep_the_page_from_stopping(
    tmp_path: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clip4clip.web.server.SHUTDOWN_TIMEOUT", 1)
    with (tmp_path / "long.mp4").open("wb") as file:
        file.truncate(1 << 30)
    row = {"id": "long", "path": str(tmp_path / "long.mp4"), "vector": np.eye(1, 128, dtype=np.float32)[0]}
    with (
        contextlib.ExitStack() as visitor,
        VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec(DEMO_MODEL)) as index,
    ):
        index.add([row | asdict(identify(None, DEMO_MODEL))])

        def visit(url: str) -> None:
            host, port = url.removeprefix("http://").rstrip("/").split(":")
            connection = visitor.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(b"GET /media/long HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")

        assert "Traceback" not in serve(index, visit, signal.SIGTERM)


HANGING = """
import threading
from clip4clip.web.server import run_page

class Index:
    model = None

    def search(self, text=None, **options):
        return self.embed() if text == "hang" else []

    def calibration(self, wait):
        return None

    def embed(self, text=None, **options):
        print("searching\\n", end="", flush=True)  # in one piece, as several threads print
        threading.Event().wait()

run_page(Index(), port=0, on_ready=lambda url: print(url, flush=True))
"""


class HangingServer(PageServer):
    """A page whose searches by a clip, and for "hang", never end."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HANGING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._stderr, self.url = "", self.read_line()

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def read_line(self) -> str:
        """Return the next line that the server prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def search_by_clip(self, clip: Path) -> int:
        body, headers = multipart_form("clip", clip.read_bytes())
        return self.request("POST", SEARCH, body=body, headers=headers)[0]


def in_background(function: Callable[..., int], *arguments: Any) -> list[int]:
    """Call a function in a thread, and return a list that gets its result."""
    results: list[int] = []

    def call() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):  # the page has stopped
            results.append(function(*arguments))

    threading.Thread(target=call, daemon=True).start()
    return results


@pytest.mark.slow
@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_searches_that_hang_block_neither_other_searches_nor_the_exit(stop_signal: int, drawings: Path) -> None:
    clip = min((drawings / "eval").glob("*.mp4"))
    with HangingServer() as page:
        answers = [in_background(page.search_by_clip, clip) for _ in range(MAX_WAITING_CLIPS + 10)]
        assert [page.read_line() for _ in range(CLIP_WORKERS)] == ["searching"] * CLIP_WORKERS
        while sum(map(len, answers)) < 10:  # those beyond the limit are refused, the others wait
            time.sleep(0.01)
        assert [*itertools.chain(*answers)] == [503] * 10
        assert page.get(f"{SEARCH}?q=a")[0] == 200
        in_background(page.get, f"{SEARCH}?q=hang")
        assert page.read_line() == "searching"
        page.stop(stop_signal)
        assert page.returncode == 0


MODULES = ["server", "app", "api", "documentation", "connections", "page", "media", "access", "uploads", "schemas"]


@pytest.mark.parametrize("package", ["starlette", "fastapi", "pydantic", "uvicorn", "multipart"])
def test_without_the_extra_the_import_error_names_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MODULES:
        importlib.import_module(f"clip4clip.web.{name}")
    for name in [name for name in sys.modules if name.startswith("clip4clip.web.")]:
        monkeypatch.delattr(name)  # until the end of the test, so that it is imported again
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] in (package, f"python_{package}")]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in MODULES[1:]:  # not all need the package, but none fails otherwise
        with contextlib.suppress(MissingExtraError):
            importlib.import_module(f"clip4clip.web.{name}")
    with pytest.raises(MissingExtraError, match=r"pip install 'towhee-clip4clip\[retrieval\]'"):
        importlib.import_module("clip4clip.web.server")
