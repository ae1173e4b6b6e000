"""``hf://`` references: huggingface_hub itself, against a server on the loopback that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from servers import HttpServer, Request, Response

from clip4clip import TextEncoder, WeightsNotFoundError
from clip4clip.config import MODELS
from clip4clip.weights.locate import locate

COMMIT = "0123456789abcdef0123456789abcdef01234567"
UNKNOWN_COMMIT = "f" * 40
# It runs in a process of its own, because huggingface_hub reads its environment when it is imported. Each line of its
# output is the result for one reference.
LOCATE = """
import json, sys, time
from clip4clip.errors import Clip4clipError
from clip4clip.weights.locate import locate
time.sleep = lambda seconds: None  # the client pauses between its attempts
for reference in sys.argv[1:] or [None]:
    try:
        print(json.dumps({"path": str(locate(reference, "clip_vit_b32").path)}))
    except Clip4clipError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


@dataclass
class Hub:
    """A hub with one repository, ``owner/model``.

    Attributes:
        files: path in the repository to content.
        cut_first_answer_at: bytes after which the first download breaks off.
        failure: ``"silent"``, ``"forbids"`` or ``"drops every answer"``; "" if the server works.
        requests: the requests received, such as ``"GET /owner/model/resolve/main/model.safetensors bytes=10-"``.
        url: address of the server.
    """

    files: dict[str, bytes]
    cut_first_answer_at: int | None = None
    failure: str = ""
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def respond(self, request: Request) -> Response | None:
        byte_range = request.headers.get("Range")
        self.requests.append(f"{request.method} {request.path}" + (f" {byte_range}" if byte_range else ""))
        if self.failure == "silent":
            return None
        if self.failure == "forbids":
            return Response(status=403)
        match = re.fullmatch(r"/owner/model/resolve/([^/]+)/(.+)", request.path)
        is_known = match is not None and match[1] != UNKNOWN_COMMIT
        content = self.files.get(match[2]) if match and is_known else None
        if content is None:
            code = "EntryNotFound" if is_known else "RevisionNotFound" if match else "RepoNotFound"
            return Response(status=404, headers={"X-Error-Code": code, "X-Repo-Commit": COMMIT})
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        cut_at = 1000 if self.failure == "drops every answer" else None
        if request.method == "GET" and self.cut_first_answer_at is not None:
            cut_at, self.cut_first_answer_at = self.cut_first_answer_at, None
        return Response(content, headers=headers, ranges=True, cut_at=cut_at)


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub({"model.safetensors": os.urandom(300_000), "other/weights.bin": b"other"})
    with HttpServer(hub.respond) as server:
        hub.url = server.url
        yield hub


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
def locate_all(environment: dict[str, str]) -> Callable[..., list[dict[str, str]]]:
    """References to the result of each: the path of the file, or the class and the message of the error."""

    def run(*references: str, **changes: str) -> list[dict[str, str]]:
        command = [sys.executable, "-c", LOCATE, *references]
        done = subprocess.run(command, env=environment | changes, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.fixture
def locate_one(locate_all: Callable[..., list[dict[str, str]]]) -> Callable[..., dict[str, str]]:
    """The same for one reference."""
    return lambda *reference, **changes: locate_all(*reference, **changes)[0]


def test_a_file_at_a_revision_is_downloaded(locate_one: Callable, hub: Hub) -> None:
    path = locate_one("hf://owner/model@v1/model.safetensors")["path"]
    assert Path(path).read_bytes() == hub.files["model.safetensors"]
    assert "GET /owner/model/resolve/v1/model.safetensors" in hub.requests


def test_a_terminal_shows_a_progress_bar(environment: dict[str, str]) -> None:
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    terminal, child = os.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    command = [sys.executable, "-c", LOCATE, "hf://owner/model@v1/model.safetensors"]
    with os.fdopen(child, "wb") as stderr:
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=stderr, check=True)
        stderr.write(b"the end")
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        text = screen.read(4096).decode(errors="replace")
    assert "model.safetensors" in text
    assert "%" in text


def test_a_file_in_a_folder_of_the_repository_is_downloaded(locate_one: Callable) -> None:
    assert Path(locate_one("hf://owner/model/other/weights.bin")["path"]).read_bytes() == b"other"


def test_without_a_file_the_usual_names_are_tried_in_order(locate_one: Callable, hub: Hub) -> None:
    assert locate_one("hf://owner/model")["path"].endswith("model.safetensors")
    names = [request.rsplit("/", 1)[1] for request in hub.requests if request.startswith("HEAD")]
    assert names[:3] == ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors"]


def test_a_cached_file_at_a_commit_needs_no_request_and_works_offline(locate_all: Callable, hub: Hub) -> None:
    reference = f"hf://owner/model@{COMMIT}/model.safetensors"
    (first,) = locate_all(reference)
    hub.requests.clear()
    (second,) = locate_all(reference)
    assert second["path"] == first["path"]
    assert hub.requests == []
    main, commit = locate_all("hf://owner/model", f"hf://owner/model@{COMMIT}", HF_HUB_OFFLINE="1")
    assert main.get("error") == "WeightsNotFoundError"  # nothing is cached of the branch main
    assert commit["path"] == first["path"]
    assert hub.requests == []


def test_an_interrupted_download_is_resumed(locate_one: Callable, hub: Hub) -> None:
    hub.files["model.safetensors"] = os.urandom(25_000_000)  # more than one chunk of the download
    hub.cut_first_answer_at = 15_000_000
    result = locate_one("hf://owner/model@v1/model.safetensors")
    assert Path(result["path"]).read_bytes() == hub.files["model.safetensors"]
    resumed_at = [int(request.split("bytes=")[1].rstrip("-")) for request in hub.requests if "bytes=" in request]
    assert len(resumed_at) == 1
    assert 0 < resumed_at[0] <= 15_000_000


def test_a_missing_file_is_named(locate_one: Callable) -> None:
    result = locate_one("hf://owner/model@v1/nothing.pt")
    assert result["error"] == "WeightsNotFoundError"
    assert "hf://owner/model@v1/nothing.pt (no such file in the repository)" in result["message"]
    assert "Pass weight_path" in result["message"]


def test_a_missing_repository_is_requested_once(locate_one: Callable, hub: Hub) -> None:
    result = locate_one("hf://nobody/nothing")
    assert result["error"] == "WeightsNotFoundError"
    assert "hf://nobody/nothing/open_clip_model.safetensors" in result["message"]
    assert len({request for request in hub.requests if "nobody" in request}) == 1


def test_an_uncached_file_offline_is_an_error_that_lists_what_was_tried(locate_one: Callable, hub: Hub) -> None:
    result = locate_one("hf://owner/model", HF_HUB_OFFLINE="1")
    assert result["error"] == "WeightsNotFoundError"
    for name in ("open_clip_model.safetensors", "model.safetensors", "pytorch_model.bin"):
        assert f"hf://owner/model/{name} (not cached, and the hub cannot be reached" in result["message"]
    assert "offline mode is enabled" in result["message"]
    assert hub.requests == []


def test_an_unreachable_hub_is_an_error(locate_one: Callable) -> None:
    result = locate_one("hf://owner/model@v1/model.safetensors", HF_ENDPOINT="http://127.0.0.1:9")
    assert result["error"] == "WeightsNotFoundError"
    assert "cannot be reached" in result["message"]


def test_a_repository_with_another_activation_is_refused(locate_one: Callable, hub: Hub) -> None:
    gelu = {"hidden_act": "gelu"}
    config = {"model_type": "clip", "text_config": gelu, "vision_config": gelu}
    hub.files["config.json"] = json.dumps(config).encode()
    result = locate_one("hf://owner/model@v1/other/weights.bin")
    assert result["error"] == "CheckpointError"
    assert "config.json describes a different network than clip_vit_b32: activation is gelu" in result["message"]


def test_the_shards_of_a_checkpoint_are_downloaded_from_the_commit_of_its_index(locate_all: Callable, hub: Hub) -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": dict(zip("ab", shards, strict=True))}
    hub.files |= {f"sub/{shard}": shard.encode() for shard in shards}
    hub.files["sub/model.safetensors.index.json"] = json.dumps(index).encode()
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "../secret.bin"}}).encode()
    found, refused = locate_all(
        "hf://owner/model@v1/sub/model.safetensors.index.json", "hf://owner/model@v1/model.safetensors.index.json"
    )
    assert [Path(found["path"]).with_name(shard).read_bytes() for shard in shards] == [*map(str.encode, shards)]
    assert f"GET /owner/model/resolve/{COMMIT}/sub/{shards[0]}" in hub.requests
    assert "'../secret.bin' is not the name of a shard" in refused["message"]
    cached = "hf://owner/model@v1/sub/model.safetensors.index.json"
    assert locate_all(cached, HF_HUB_OFFLINE="1") == [found]
    Path(found["path"]).with_name(shards[1]).unlink()
    missing = locate_all(cached, HF_HUB_OFFLINE="1")[0]
    assert missing["error"] == "WeightsNotFoundError"


@pytest.mark.parametrize("folder", ["", "other/"])
def test_a_checkpoint_of_another_network_is_not_downloaded(folder: str, locate_one: Callable, hub: Hub) -> None:
    # ViT-L/14 as open_clip describes it, at the root of the repository or beside the file.
    config = {
        "embed_dim": 768,
        "vision_cfg": {"width": 1024, "layers": 24, "patch_size": 14},
        "text_cfg": {"width": 768},
    }
    hub.files[f"{folder}open_clip_config.json"] = json.dumps({"model_cfg": config}).encode()
    result = locate_one("hf://owner/model@v1/other/weights.bin")
    assert result["error"] == "CheckpointError"
    assert "open_clip_config.json describes a different network than clip_vit_b32" in result["message"]
    assert "activation is gelu, not quick_gelu" in result["message"]
    assert "patch_size is 14, not 32; vision_width is 1024, not 768" in result["message"]
    assert not [request for request in hub.requests if request.startswith("GET") and "weights.bin" in request]


def test_the_configuration_of_another_model_at_the_root_does_not_count(locate_one: Callable, hub: Hub) -> None:
    def configuration(activation: str) -> bytes:
        tower = {"hidden_act": activation}
        return json.dumps({"model_type": "clip", "text_config": tower, "vision_config": tower}).encode()

    hub.files |= {"config.json": configuration("gelu"), "other/config.json": configuration("quick_gelu")}
    assert Path(locate_one("hf://owner/model@v1/other/weights.bin")["path"]).read_bytes() == b"other"


def test_a_checkpoint_of_another_model_is_not_downloaded_but_named(locate_one: Callable, hub: Hub) -> None:
    config = {"model_type": "clip", "vision_config": {"patch_size": 16, "hidden_size": 768}, "text_config": {}}
    hub.files["config.json"] = json.dumps(config).encode()
    result = locate_one("hf://owner/model")
    assert result["error"] == "CheckpointError"
    assert "patch_size is 16, not 32. It fits model_name='clip_vit_b16'" in result["message"]
    assert not [request for request in hub.requests if request.startswith("GET") and "safetensors" in request]


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
references = None, "hf://owner/model"
np.save(sys.argv[2], [TextEncoder.load("tiny", reference, "cpu", "torch")("a dog") for reference in references])
"""
    config = json.dumps({name: value for name, value in vars(MODELS["tiny"].config).items() if name != "image"})
    subprocess.run([sys.executable, "-c", program, config, str(tmp_path / "a.npy")], env=environment, check=True)
    expected = TextEncoder.load("tiny", tiny_checkpoint, "cpu", "torch")("a dog")
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), [expected, expected], atol=1e-6)
    assert {"GET /owner/model/resolve/v1/model.safetensors", "HEAD /owner/model/resolve/main/model.safetensors"} <= set(
        hub.requests
    )


def test_a_default_that_the_hub_does_not_have_is_an_error_that_says_what_to_pass(environment: dict[str, str]) -> None:
    program = """
import sys
from clip4clip import WeightsNotFoundError
from clip4clip.config import MODELS, CLIPConfig, Model
from clip4clip.weights.locate import locate
for reference in sys.argv[1:]:
    MODELS["own"] = Model(CLIPConfig(), hub=reference)
    try:
        locate(None, "own")
    except WeightsNotFoundError as error:
        print(error)
"""
    missing = ("owner/model@" + UNKNOWN_COMMIT, f"owner/model@{COMMIT}/gone.bin", "owner/none")
    command = [sys.executable, "-c", program, *(f"hf://{reference}" for reference in missing)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    messages = done.stdout.splitlines()
    for message, reference in zip(messages, missing, strict=True):
        assert f"Tried: hf://{reference}" in message
        assert f"pass weights='hf://{reference.partition('@')[0]}' for its newest" in message
    unreachable = subprocess.run(
        command, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=True
    )
    assert "newest" not in unreachable.stdout


@pytest.mark.parametrize("failure", ["silent", "drops every answer"])
def test_a_download_that_never_ends_is_an_error(failure: str, locate_one: Callable, hub: Hub) -> None:
    hub.failure = failure
    result = locate_one("hf://owner/model@v1/model.safetensors")
    assert result["error"] == "WeightsNotFoundError"
    assert "hf://owner/model@v1/model.safetensors (" in result["message"]
    assert "Pass weight_path" in result["message"]


def test_a_refusal_of_the_hub_is_named(locate_one: Callable, hub: Hub) -> None:
    hub.failure = "forbids"
    result = locate_one("hf://owner/model@v1/model.safetensors")
    assert result["error"] == "WeightsNotFoundError"
    assert "403" in result["message"]


def test_an_invalid_endpoint_is_an_error(locate_one: Callable) -> None:
    result = locate_one("hf://owner/model@v1/model.safetensors", HF_ENDPOINT="127.0.0.1:9")
    assert result["error"] == "WeightsNotFoundError"
    assert "http" in result["message"]


def test_the_default_checkpoint_is_the_pinned_file(locate_one: Callable, hub: Hub) -> None:
    assert locate_one()["error"] == "WeightsNotFoundError"
    pinned = "/timm/vit_base_patch32_clip_224.openai/resolve/ab5b8ef490e86faa07d3523926b842c765de1de5/"
    assert f"HEAD {pinned}open_clip_model.safetensors" in hub.requests


THREE_TIMES = """
import sys, time
from clip4clip.errors import WeightsNotFoundError
from clip4clip.weights.locate import locate
def refuse_pause(seconds):
    sys.exit(f"it waits {seconds} s")
time.sleep = refuse_pause
for reference in (None, None, "hf://owner/model"):
    try:
        locate(reference, "clip_vit_b32")
    except WeightsNotFoundError as error:
        print(error)
"""


def test_an_unreachable_hub_is_asked_once_and_without_a_pause(hub: Hub, environment: dict[str, str]) -> None:
    hub.failure = "silent"
    done = subprocess.run(
        [sys.executable, "-c", THREE_TIMES], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no warning about retries
    assert len(hub.requests) == 1
    first, second, third = done.stdout.splitlines()
    assert first == second
    assert "the hub cannot be reached: " in first
    assert "clip_vit_tiny_demo" in first
    assert "hf://owner/model/pytorch_model.bin.1 (not cached, and the hub cannot be reached: " in third


@pytest.mark.parametrize(
    "reference",
    [
        *("hf://", "hf://owner", "hf://owner/", "hf://a/b/../../etc/x", "hf://a/b@/x", "hf://a//b"),
        *("hf://a/b/\0", "hf://a/b@\0/x", "hf://a/b//x", "hf://a/b/c\\..\\x", "hf://-/-/x"),
    ],
)
def test_an_invalid_reference_is_an_error_that_shows_the_form(reference: str) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"hf://owner/repo\[@revision\]\[/file\]"):
        locate(reference, "clip_vit_b32")


FIND_FILES = """
import sys
from clip4clip.weights.hub import HubFolder
folder = HubFolder(sys.argv[1])
for name in sys.argv[2:]:
    print(folder.find(name))
print(folder.outage)
"""


def test_the_files_of_a_repository_are_of_one_commit_and_asked_for_once(hub: Hub, environment: dict[str, str]) -> None:
    hub.files |= {"modules.json": b"[]", "2_Dense/config.json": b"{}"}
    names = ["modules.json", "2_Dense/config.json", "vocab.txt", "other/weights.bin"]

    def find(reference: str, **changes: str) -> list[str]:
        """Return the paths of the files, and why the hub cannot be reached."""
        command = [sys.executable, "-c", FIND_FILES, reference, *names]
        done = subprocess.run(command, env=environment | changes, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    *paths, outage = find("hf://owner/model")
    assert (paths[2], outage) == ("None", "")
    assert [Path(path).read_bytes() for path in (paths[0], paths[1], paths[3])] == [b"[]", b"{}", b"other"]
    assert {
        Path(path).parents[name.count("/")].name for path, name in zip(paths, names, strict=True) if path != "None"
    } == {COMMIT}
    hub.requests.clear()
    assert find("hf://owner/model") == [*paths, ""]
    assert hub.requests == ["HEAD /owner/model/resolve/main/modules.json"]  # the branch may have moved
    assert find("hf://owner/model", HF_HUB_OFFLINE="1")[:4] == paths
    assert find(f"hf://owner/model@{COMMIT}") == [*paths, ""]
    assert len(hub.requests) == 1
    hub.failure = "forbids"
    names.append("new.json")
    *found, outage = find(f"hf://owner/model@{COMMIT}")
    assert found == [*paths, "None"]
    assert "403" in outage
