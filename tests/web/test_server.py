"""Tests for clip4clip.web.server: where the page listens, and how it stops."""

from __future__ import annotations

import base64
import contextlib
import gc
import http.client
import importlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from constants import DEMO_MODEL
from page_client import RUN, UPLOAD, clip_event, event_number, files_in, multipart_form
from servers import PageServer, get, request

from clip4clip import MissingExtraError
from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex
from clip4clip.weights.identity import identify

pytest.importorskip("starlette")
from clip4clip.web.search import CLIP_WORKERS


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
        assert get(url, "/")[0] == 200

    serve(empty_index, visit, host="::1")


@pytest.mark.slow
def test_the_command_passes_its_options_on(library: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    shutil.copy(library / "videos.db", tmp_path / "videos.db")
    options = ["--user", "ann", "--password", "s3cret: é", "--allowed-host", "videos.example.com"]
    with PageServer(str(tmp_path / "videos.db"), *options) as page:
        credentials = "Basic " + base64.b64encode("ann:s3cret: é".encode()).decode()
        assert page.get("/", Host="videos.example.com")[0] == 401
        assert page.get("/", Host="videos.example.com", Authorization=credentials)[0] == 200
        assert "Traceback" not in page.stop()


@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGTERM])
def test_clips_that_wait_for_their_search_are_deleted_when_the_page_stops(
    stop_signal: int, empty_index: Any, serve: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def visit(url: str) -> None:
        body, headers = multipart_form("files", "clip")
        assert request(url, "POST", UPLOAD, body=body, headers=headers)[0] == 200
        assert list(tmp_path.rglob("a.mp4"))

    assert "Traceback" not in serve(empty_index, visit, stop_signal)
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
            connection.sendall(b"GET /library/video?id=long HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")

        assert "Traceback" not in serve(index, visit, signal.SIGTERM)
    # The server gives up the connection without closing its socket, as the process usually ends then.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


HANGING = """
import threading
from clip4clip.web.server import run_page

class Index:
    def search(self, text=None, *, video=None, **options):
        if video is not None or text == "hang":
            print("searching", flush=True)
            threading.Event().wait()
        return []

    def count_vectors(self):
        return 0

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

    def send(self, event: dict[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json"}
        return self.request("POST", RUN, body=json.dumps(event).encode(), headers=headers)[2]

    def send_in_background(self, event: dict[str, Any]) -> None:
        def send() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):  # the page has stopped
                self.send(event)

        threading.Thread(target=send, daemon=True).start()


@pytest.mark.slow
@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_searches_that_hang_block_neither_other_searches_nor_the_exit(stop_signal: int, drawings: Path) -> None:
    pytest.importorskip("gradio")
    clip = min((drawings / "eval").glob("*.mp4"))
    with HangingServer() as page:
        config = json.loads(page.get("/config")[1])
        text_event = {"fn_index": event_number(config, "click"), "data": ["a red square"]}
        for _ in range(CLIP_WORKERS + 45):  # more than any pool of threads behind the page has
            body, headers = multipart_form("files", "\0")
            body = body.replace(b"\0", clip.read_bytes())
            path = json.loads(page.request("POST", UPLOAD, body=body, headers=headers)[2])[0]
            page.send_in_background(clip_event(config, path))
        assert [page.read_line() for _ in range(CLIP_WORKERS)] == ["searching"] * CLIP_WORKERS
        assert "No videos were found" in page.send(text_event).decode()
        page.send_in_background(text_event | {"data": ["hang"]})
        assert page.read_line() == "searching"
        page.stop(stop_signal)
        assert page.returncode == 0


MODULES = ["server", "app", "page", "media", "access", "uploads"]


@pytest.mark.parametrize(
    ("package", "failing"), [("starlette", MODULES), ("gradio", MODULES[:3]), ("uvicorn", MODULES[:1])]
)
def test_without_the_extra_the_import_error_names_it(
    package: str, failing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio")
    for name in MODULES:
        importlib.import_module(f"clip4clip.web.{name}")
    for name in [name for name in sys.modules if name.startswith("clip4clip.web.")]:
        monkeypatch.delattr(name)  # until the end of the test, so that it is imported again
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in MODULES:
        if name in failing:
            with pytest.raises(MissingExtraError, match=r"pip install 'towhee-clip4clip\[retrieval\]'"):
                importlib.import_module(f"clip4clip.web.{name}")
        else:
            importlib.import_module(f"clip4clip.web.{name}")
