"""``hf://`` references, by huggingface_hub itself, against a server on loopback that speaks the hub's protocol."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from clip4clip import TextEncoder
from clip4clip.config import MODELS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Run in a process of its own: huggingface_hub reads its environment when it is imported.
LOCATE = """
import json, sys, time
from clip4clip.errors import Clip4clipError
from clip4clip.weights import locate
time.sleep = lambda seconds: None  # the client pauses between its attempts
try:
    print(json.dumps({"path": str(locate(sys.argv[1] if len(sys.argv) > 1 else None, "clip_vit_b32"))}))
except Clip4clipError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


@dataclass
class Hub:
    """What the server has, what it was asked, and how it fails."""

    files: dict[str, bytes]
    cut_first_answer_at: int | None = None
    failure: str = ""
    requests: list[str] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub, wanted = self.hub, self.headers.get("Range")
        hub.requests.append(f"{self.command} {self.path}" + (f" {wanted}" if wanted else ""))
        match = re.fullmatch(r"/owner/model/resolve/([^/]+)/(.+)", self.path)
        content = hub.files.get(match[2]) if match else None
        if hub.failure == "silent":
            self.close_connection = True
            return
        if hub.failure == "forbids":
            self.send_error(403)
            return
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if match else "RepoNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(match[1]) if wanted and (match := re.fullmatch(r"bytes=(\d+)-", wanted)) else 0
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            end = len(content)
            if hub.cut_first_answer_at is not None:
                end, hub.cut_first_answer_at = hub.cut_first_answer_at, None
            if hub.failure == "drops every answer":
                end = 1000
            self.wfile.write(content[start:end])
            if end < len(content):
                self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = Hub({"model.safetensors": os.urandom(300_000), "other/weights.bin": b"other"})
    handler = type("Handler", (_Handler,), {"hub": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield state
        server.shutdown()


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_ETAG_TIMEOUT": "30",
    }


@pytest.fixture
def locate(environment: dict[str, str]) -> Callable[..., dict[str, str]]:
    def run(*reference: str, offline: bool = False, endpoint: str | None = None) -> dict[str, str]:
        changes = {"HF_HUB_OFFLINE": "1"} if offline else {}
        changes |= {"HF_ENDPOINT": endpoint} if endpoint else {}
        terminal, theirs = os.openpty()  # only a terminal is shown a progress bar
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
        with os.fdopen(theirs, "wb") as stderr:
            command = [sys.executable, "-c", LOCATE, *reference]
            done = subprocess.run(
                command, env=environment | changes, stdout=subprocess.PIPE, stderr=stderr, text=True, check=True
            )
            stderr.write(b"the end")
        with os.fdopen(terminal, "rb", buffering=0) as shown:
            return {**json.loads(done.stdout.splitlines()[-1]), "shown": shown.read(4096).decode(errors="replace")}

    return run


def test_a_file_at_a_revision_is_fetched_with_a_progress_bar(locate: Callable, hub: Hub) -> None:
    result = locate("hf://owner/model@v1/model.safetensors")
    assert Path(result["path"]).read_bytes() == hub.files["model.safetensors"]
    assert "GET /owner/model/resolve/v1/model.safetensors" in hub.requests
    assert "model.safetensors" in result["shown"]
    assert "%" in result["shown"]


def test_a_file_in_a_folder_of_the_repository(locate: Callable) -> None:
    assert Path(locate("hf://owner/model/other/weights.bin")["path"]).read_bytes() == b"other"


def test_without_a_file_the_usual_names_are_tried_in_order(locate: Callable, hub: Hub) -> None:
    assert locate("hf://owner/model")["path"].endswith("model.safetensors")
    asked = [request.rsplit("/", 1)[1] for request in hub.requests if request.startswith("HEAD")]
    assert asked[:2] == ["open_clip_model.safetensors", "model.safetensors"]


def test_a_second_time_nothing_is_fetched_and_offline_it_still_works(locate: Callable, hub: Hub) -> None:
    first = locate(f"hf://owner/model@{COMMIT}/model.safetensors")
    hub.requests.clear()
    assert locate(f"hf://owner/model@{COMMIT}/model.safetensors")["path"] == first["path"]
    assert locate("hf://owner/model", offline=True).get("error") == "WeightsNotFoundError"  # main was never seen
    assert locate(f"hf://owner/model@{COMMIT}", offline=True)["path"] == first["path"]
    assert not [request for request in hub.requests if request.startswith("GET")]


def test_a_dropped_connection_is_resumed_where_it_broke(locate: Callable, hub: Hub) -> None:
    hub.files["model.safetensors"] = os.urandom(25_000_000)  # more than one of the pieces it is fetched in
    hub.cut_first_answer_at = 15_000_000
    result = locate("hf://owner/model@v1/model.safetensors")
    assert Path(result["path"]).read_bytes() == hub.files["model.safetensors"]
    again = [int(request.split("bytes=")[1].rstrip("-")) for request in hub.requests if "bytes=" in request]
    assert len(again) == 1
    assert 0 < again[0] <= 15_000_000


def test_a_file_that_is_not_there_is_named(locate: Callable) -> None:
    result = locate("hf://owner/model@v1/nothing.pt")
    assert result["error"] == "WeightsNotFoundError"
    assert "hf://owner/model@v1/nothing.pt (no such file in the repository)" in result["message"]
    assert "Pass weight_path" in result["message"]


def test_a_repository_that_is_not_there_is_asked_for_once(locate: Callable, hub: Hub) -> None:
    result = locate("hf://nobody/nothing")
    assert result["error"] == "WeightsNotFoundError"
    assert "hf://nobody/nothing/open_clip_model.safetensors" in result["message"]
    assert len({request for request in hub.requests if "nobody" in request}) == 1


def test_offline_and_not_cached_says_all_that_was_tried(locate: Callable, hub: Hub) -> None:
    result = locate("hf://owner/model", offline=True)
    assert result["error"] == "WeightsNotFoundError"
    for name in ("open_clip_model.safetensors", "model.safetensors", "pytorch_model.bin"):
        assert f"hf://owner/model/{name} (not cached, and the hub cannot be reached" in result["message"]
    assert "offline mode is enabled" in result["message"]
    assert hub.requests == []


def test_a_hub_out_of_reach_is_one_error(locate: Callable) -> None:
    result = locate("hf://owner/model@v1/model.safetensors", endpoint="http://127.0.0.1:9")
    assert result["error"] == "WeightsNotFoundError"
    assert "cannot be reached" in result["message"]


def test_a_repository_that_asks_for_another_activation_is_refused(locate: Callable, hub: Hub) -> None:
    hub.files["config.json"] = json.dumps({"model_type": "clip", "text_config": {"hidden_act": "gelu"}}).encode()
    result = locate("hf://owner/model@v1/other/weights.bin")
    assert result["error"] == "CheckpointError"
    assert "QuickGELU" in result["message"]


@pytest.mark.parametrize("folder", ["", "other/"])
def test_a_checkpoint_of_another_network_is_not_fetched(folder: str, locate: Callable, hub: Hub) -> None:
    """What the configuration of ViT-L/14 says, for one by open_clip, at the root or beside the file."""
    config = {
        "embed_dim": 768,
        "vision_cfg": {"width": 1024, "layers": 24, "patch_size": 14},
        "text_cfg": {"width": 768},
    }
    hub.files[f"{folder}open_clip_config.json"] = json.dumps({"model_cfg": config}).encode()
    result = locate("hf://owner/model@v1/other/weights.bin")
    assert result["error"] == "CheckpointError"
    assert "open_clip_config.json describes another network than clip_vit_b32" in result["message"]
    assert "the activation is gelu, not QuickGELU" in result["message"]
    assert "patch_size is 14, not 32; vision_width is 1024, not 768" in result["message"]
    assert not [request for request in hub.requests if request.startswith("GET") and "weights.bin" in request]


def test_a_checkpoint_of_another_size_is_not_fetched_and_its_name_is_said(locate: Callable, hub: Hub) -> None:
    config = {"model_type": "clip", "vision_config": {"patch_size": 16, "hidden_size": 768}, "text_config": {}}
    hub.files["config.json"] = json.dumps(config).encode()
    result = locate("hf://owner/model")
    assert result["error"] == "CheckpointError"
    assert "patch_size is 16, not 32. It fits model_name='clip_vit_b16'" in result["message"]
    assert not [request for request in hub.requests if request.startswith("GET") and "safetensors" in request]


def test_what_is_cached_at_a_commit_is_not_asked_for_again(locate: Callable, hub: Hub) -> None:
    reference = f"hf://owner/model@{COMMIT}/model.safetensors"
    first = locate(reference)
    hub.requests.clear()
    assert locate(reference)["path"] == first["path"]
    assert hub.requests == []


def test_an_encoder_is_loaded_from_the_hub(
    hub: Hub, environment: dict[str, str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    hub.files = {"model.safetensors": tiny_checkpoint.read_bytes()}
    program = """
import json, sys
import numpy as np
from clip4clip import TextEncoder
from clip4clip.config import MODELS, CLIPConfig, Model
MODELS["tiny"] = Model(CLIPConfig(**json.loads(sys.argv[1])), hub="hf://owner/model@v1/model.safetensors")
np.save(sys.argv[2], [TextEncoder.load("tiny", weights, "cpu")("a dog") for weights in (None, "hf://owner/model")])
"""
    config = json.dumps(asdict(MODELS["tiny"].config))
    subprocess.run([sys.executable, "-c", program, config, str(tmp_path / "a.npy")], env=environment, check=True)
    expected = TextEncoder.load("tiny", tiny_checkpoint, "cpu")("a dog")
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), [expected, expected], atol=1e-6)
    assert {"GET /owner/model/resolve/v1/model.safetensors", "HEAD /owner/model/resolve/main/model.safetensors"} <= set(
        hub.requests
    )


@pytest.mark.parametrize("failure", ["silent", "drops every answer"])
def test_a_hub_that_never_gets_to_the_end_is_one_error(failure: str, locate: Callable, hub: Hub) -> None:
    hub.failure = failure
    result = locate("hf://owner/model@v1/model.safetensors")
    assert result["error"] == "WeightsNotFoundError"
    assert "hf://owner/model@v1/model.safetensors (" in result["message"]
    assert "Pass weight_path" in result["message"]


def test_a_refusal_of_the_hub_is_told_apart_from_silence(locate: Callable, hub: Hub) -> None:
    hub.failure = "forbids"
    result = locate("hf://owner/model@v1/model.safetensors")
    assert result["error"] == "WeightsNotFoundError"
    assert "403" in result["message"]


def test_an_endpoint_that_is_no_address_is_one_error(locate: Callable) -> None:
    result = locate("hf://owner/model@v1/model.safetensors", endpoint="127.0.0.1:9")
    assert result["error"] == "WeightsNotFoundError"
    assert "http" in result["message"]


def test_the_default_is_the_pinned_file(locate: Callable, hub: Hub) -> None:
    assert locate()["error"] == "WeightsNotFoundError"
    pinned = "/timm/vit_base_patch32_clip_224.openai/resolve/ab5b8ef490e86faa07d3523926b842c765de1de5/"
    assert f"HEAD {pinned}open_clip_model.safetensors" in hub.requests


TWICE = """
import sys, time
from clip4clip.errors import WeightsNotFoundError
from clip4clip.weights import locate
def no_pause(seconds):
    sys.exit(f"it waits {seconds} s")
time.sleep = no_pause
for reference in (None, None, "hf://owner/model"):
    try:
        locate(reference, "clip_vit_b32")
    except WeightsNotFoundError as error:
        print(error)
"""


def test_a_hub_out_of_reach_is_asked_once_and_without_a_pause(hub: Hub, environment: dict[str, str]) -> None:
    hub.failure = "silent"
    done = subprocess.run([sys.executable, "-c", TWICE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no word of retries
    assert len(hub.requests) == 1
    first, second, third = done.stdout.splitlines()
    assert first == second
    assert "the hub cannot be reached: " in first
    assert "clip_vit_tiny_demo" in first
    assert "hf://owner/model/pytorch_model.bin.1 (not cached, and the hub cannot be reached: " in third
