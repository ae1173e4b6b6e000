"""The command ``mcp``: what it writes, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from constants import DEMO_MODEL

from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex

pytest.importorskip("mcp", reason="needs the extra mcp")

TIMEOUT = 120  # seconds until a process that does not end is killed
CLIENT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


def test_an_index_that_does_not_exist_is_an_error(error_of: Callable[..., str], tmp_path: Path) -> None:
    assert "create it with `clip4clip index`" in error_of("mcp", "--uri", tmp_path / "none.db")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, after it has answered the first request of a client."""
    with VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        index.create()
    command = [sys.executable, "-m", "clip4clip", "mcp", "--uri", str(tmp_path / "videos.db")]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": CLIENT}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert answer["result"]["serverInfo"]["name"] == "clip4clip"
        yield process
        process.kill()


@pytest.mark.slow
def test_it_ends_when_the_client_closes_its_input(server: subprocess.Popen[str]) -> None:
    assert server.communicate(timeout=TIMEOUT) == ("", "")
    assert server.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no Ctrl-C for another process alone")
def test_ctrl_c_ends_it_although_it_waits_for_input(server: subprocess.Popen[str]) -> None:
    server.send_signal(signal.SIGINT)
    assert server.wait(TIMEOUT) == 130
    assert server.communicate() == ("", "error stopped\n")
