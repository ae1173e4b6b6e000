"""Servers that tests and benchmarks start on the loopback: a real Milvus, and the page."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# The wheel's launcher takes another port when the last connections to this one are still being closed.
LAUNCH = """
import socket, sys
from milvus import MilvusServerConfig, main

def bind(port):
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(("127.0.0.1", port))
    except OSError:
        return None
    taken.listen()
    return taken

MilvusServerConfig.try_bind_port = staticmethod(bind)
main()
"""


class MilvusServer:
    """Milvus standalone from the wheel ``milvus``, with its data in a folder. A machine can run one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        from pymilvus import MilvusClient, MilvusException

        command = [sys.executable, "-c", LAUNCH, "--data", str(self.folder / "data"), "--proxy-port", str(self.port)]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 60
        while True:
            try:
                client = MilvusClient(self.uri, timeout=5, grpc_options={"grpc.max_reconnect_backoff_ms": 1000})
                client.list_collections(timeout=5)
                client.close()
                return
            except MilvusException:
                if self._process.poll() is not None or time.monotonic() > end:
                    self.kill()
                    raise AssertionError((self.folder / "log").read_text(errors="replace")[-2000:]) from None
                time.sleep(0.5)

    def kill(self) -> None:
        """As a failure of the power would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class PageServer:
    """`clip4clip serve` in a process of its own, at ``url`` from the start of a ``with`` to its end."""

    def __init__(self, uri: str, *options: str) -> None:
        command = [sys.executable, "-m", "clip4clip", "serve", "--uri", uri, "--port", "0", *options]
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"}
        )
        assert self._process.stderr is not None
        self.said = ""
        for line in self._process.stderr:
            self.said += line
            if found := re.search(r"open (http://\S+)", line):
                self.url = found[1]
                return
        raise AssertionError(self.said)

    def __enter__(self) -> PageServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop()

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Status and body; the path goes out as it is, unlike from a browser."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://").rstrip("/"), timeout=20)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def stop(self, how: int = signal.SIGINT) -> str:
        """By Ctrl-C or another signal; what it said."""
        self._process.send_signal(how)
        self.said += self._process.communicate(timeout=30)[1]
        return self.said


def ask(tab: Any, query: str) -> None:
    """Types a query into the page and sends it."""
    tab.wait_for_function("document.activeElement.closest('#query')")  # from then on the page listens
    tab.get_by_label("What the video shows").fill(query)
    tab.keyboard.press("Enter")
