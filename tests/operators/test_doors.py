"""The README's two examples, verbatim but for the device, through every door by which Towhee comes to the operator."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clip4clip import TextEncoder, VideoEncoder
from clip4clip.config import MODELS
from clip4clip.operators.install import install_operators
from clip4clip.video import read_frames

REPOSITORY = Path(__file__).parents[2]
CAPTION = "kids feeding and playing with the horse"
# Makes sure that a door without an installed package does not lean on the one these tests run from.
NOT_INSTALLED = "import sys; sys.modules['clip4clip'] = None\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, b32_checkpoint: Path) -> Path:
    """A user's home, with the model's default weights in the Hugging Face cache."""
    home = tmp_path_factory.mktemp("home")
    match = re.fullmatch(r"hf://(\w+)/([\w.]+)@(\w+)/([\w.]+)", MODELS["clip_vit_b32"].hub)
    assert match is not None
    owner, repo, revision, file = match.groups()
    cached = home / "hf" / "hub" / f"models--{owner}--{repo}" / "snapshots" / revision / file
    cached.parent.mkdir(parents=True)
    cached.symlink_to(b32_checkpoint)
    return home


@pytest.fixture(scope="module")
def expected(b32_checkpoint: Path, bigbuckbunny: Path) -> dict[str, np.ndarray]:
    """The vectors of both examples, by the Python face."""
    return {
        "text": TextEncoder.load("clip_vit_b32", b32_checkpoint, "cpu")(CAPTION),
        "video": VideoEncoder.load("clip_vit_b32", b32_checkpoint, "cpu")(read_frames(bigbuckbunny)),
    }


@pytest.fixture
def run_example(tmp_path: Path, home: Path, bigbuckbunny: Path) -> Callable[..., np.ndarray]:
    """(modality, towhee_home, code to run first, environment) to the vector the example's pipeline gives."""
    blocks = re.findall(
        r"```python\n(from towhee import.*?)```", (REPOSITORY / "README.md").read_text("utf-8"), re.DOTALL
    )
    examples = dict(zip(("text", "video"), blocks, strict=True))
    shutil.copy(bigbuckbunny, tmp_path / "demo_video.mp4")

    def run(modality: str, towhee_home: Path, first: str = "", **environment: str) -> np.ndarray:
        example, replaced = re.subn(r"device='cuda:\d'", "device='cpu'", examples[modality])
        assert replaced == 1
        argument = re.search(r"DataCollection\(p\((.*)\)\)\.show\(\)", example)
        assert argument is not None
        keep = f"import numpy; numpy.save('vec.npy', p({argument[1]}).get()[-1])\n"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", first + example + keep],
            cwd=tmp_path,
            env={
                **os.environ,
                "HOME": str(home),
                "HF_HOME": str(home / "hf"),
                "HF_HUB_OFFLINE": "1",
                "TOWHEE_HOME": str(towhee_home),
                "TOWHEE_URL": "http://127.0.0.1:9",  # nobody there: what is not found locally fails
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "shape=(512,)" in done.stdout  # the table that show() prints
        return np.load(tmp_path / "vec.npy")

    return run


class _Hub(BaseHTTPRequestHandler):
    files: dict[str, Path]  # of every operator, by their paths

    def do_GET(self) -> None:
        if match := re.fullmatch(r"/towhee-api/v1/repos/[\w-]+/\w+/tree\?recursive=true&ref=[\w.-]+", self.path):
            body = json.dumps([self._entry(path, file) for path, file in self.files.items()]).encode()
        elif match := re.fullmatch(r"/blobs/(\w+)", self.path):
            body = next(file for path, file in self.files.items() if self._sha(path) == match[1]).read_bytes()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _entry(self, path: str, file: Path) -> dict[str, object]:
        link = f"http://127.0.0.1:{self.server.server_address[1]}/blobs/{self._sha(path)}"
        size = file.stat().st_size
        return {
            "path": path,
            "mode": "100644",
            "type": "blob",
            "size": size,
            "sha": self._sha(path),
            "downloadLink": link,
        }

    @staticmethod
    def _sha(path: str) -> str:
        return hashlib.sha256(path.encode()).hexdigest()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def tracked_files() -> list[str]:
    listing = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return listing.stdout.splitlines()


@pytest.fixture
def hub(tmp_path: Path, tracked_files: list[str], b32_checkpoint: Path) -> Iterator[str]:
    """A hub on loopback: this repository's tracked files and, as where it is published, a checkpoint beside them."""
    published = tmp_path / "pytorch_model.bin.1"
    torch.save({f"clip.{name}": tensor.half() for name, tensor in load_file(b32_checkpoint).items()}, published)
    _Hub.files = {path: REPOSITORY / path for path in tracked_files} | {published.name: published}
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("modality", ["text", "video"])
def test_hub_download_works_with_nothing_installed(
    modality: str, hub: str, run_example: Callable, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    vector = run_example(modality, tmp_path / "towhee", NOT_INSTALLED, TOWHEE_URL=hub, PIP_NO_INDEX="1")
    operator = tmp_path / "towhee/operators/video-text-embedding/clip4clip/versions/main"
    assert (operator / "__init__.py").is_symlink()
    # The checkpoint beside the operator was taken, not the default one: it holds the same weights in half precision.
    assert 1e-7 < np.abs(vector - expected[modality]).max() < 5e-3


@pytest.mark.parametrize("modality", ["text", "video"])
def test_cache_folder_works_offline(
    modality: str, run_example: Callable, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    install_operators(tmp_path / "towhee")
    np.testing.assert_allclose(run_example(modality, tmp_path / "towhee"), expected[modality], atol=1e-5)


def test_cache_folder_takes_the_checkpoint_beside_it(
    run_example: Callable, tmp_path: Path, random_state: Callable
) -> None:
    operator, *_ = install_operators(tmp_path / "towhee")
    other = {f"clip.{name}": tensor for name, tensor in random_state(MODELS["clip_vit_b32"].config, 7).items()}
    text_only = {name: tensor for name, tensor in other.items() if "visual" not in name}
    torch.save(text_only, operator.parent / "pytorch_model.bin.1")
    vector = TextEncoder.load("clip_vit_b32", operator.parent / "pytorch_model.bin.1", "cpu")(CAPTION)
    np.testing.assert_allclose(run_example("text", tmp_path / "towhee"), vector, atol=1e-5)


@pytest.mark.parametrize("modality", ["text", "video"])
def test_installed_package_is_in_the_registry(
    modality: str, run_example: Callable, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    vector = run_example(modality, tmp_path / "empty", "import clip4clip\n")
    np.testing.assert_allclose(vector, expected[modality], atol=1e-5)


def test_registration_does_not_depend_on_the_order_of_imports(run_example: Callable, tmp_path: Path) -> None:
    run_example("text", tmp_path / "empty", "import towhee\nimport clip4clip\n")


# One checkpoint beside the operator, whichever the door and whatever was loaded before. For speed the package is a copy
# in which clip_vit_b32 is small; in the Hugging Face cache lie other weights, which a mistake would take.

STEPS = """
import json, logging, sys
import numpy
from towhee import ops, pipe

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", force=True)
steps, revision = json.loads(sys.argv[1])

def clip4clip(modality):
    return ops.video_text_embedding.clip4clip("clip_vit_b32", modality, device="cpu").revision(revision)

vectors = {}
for step in steps:
    if step == "milvus":
        try:
            ops.ann_search.milvus_client(collection_name="none", uri="./none.db").get_op()
        except RuntimeError:
            pass  # it was loaded, and that is all that matters
    elif step == "text":
        text = pipe.input("text").map("text", "vec", clip4clip("text")).output("vec")
        vectors["text"] = text("kids feeding and playing with the horse").get()[0]
    else:
        sampled = {"sample_type": "uniform_temporal_subsample", "args": {"num_samples": 4}}
        video = (
            pipe.input("path")
            .map("path", "frames", ops.video_decode.ffmpeg(**sampled))
            .map("frames", "list", lambda frames: list(frames))
            .map("list", "vec", clip4clip("video"))
            .output("vec")
        )
        vectors["video"] = video("demo_video.mp4").get()[0]
numpy.savez("vectors.npz", **vectors)
"""
SMALL = "CLIPConfig(64, 32, 16, 128, 2, 77, 49408, 64, 2)"


@pytest.fixture(scope="module")
def small_clone(tmp_path_factory: pytest.TempPathFactory, tracked_files: list[str]) -> Path:
    """A clone of this repository whose clip_vit_b32 is small."""
    clone = tmp_path_factory.mktemp("small") / "clone"
    for name in tracked_files:
        if (name.endswith((".py", ".safetensors")) and name.startswith("clip4clip")) or name == "__init__.py":
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, clone / name)
    config = clone / "clip4clip" / "config.py"
    before, after = config.read_text("utf-8").split("CLIPConfig(patch_size=32)")
    config.write_text(before + SMALL + after, "utf-8")
    return clone


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, random_state: Callable) -> Path:
    """The file that belongs beside the operator."""
    path = tmp_path_factory.mktemp("published") / "pytorch_model.bin.1"
    torch.save({f"clip.{name}": tensor for name, tensor in random_state(MODELS["tiny"].config, 5).items()}, path)
    return path


@pytest.fixture(scope="module")
def right(published: Path, bigbuckbunny: Path) -> dict[str, np.ndarray]:
    """The vectors of the checkpoint beside the operator."""
    return {
        "text": TextEncoder.load("tiny", published, "cpu")(CAPTION),
        "video": VideoEncoder.load("tiny", published, "cpu")(read_frames(bigbuckbunny, 4)),
    }


@pytest.fixture
def run_steps(
    tmp_path: Path, small_clone: Path, random_state: Callable, bigbuckbunny: Path
) -> Callable[..., tuple[dict[str, np.ndarray], str]]:
    """(steps, installed, revision, first) to the vectors by their modality, and what was logged."""
    match = re.fullmatch(r"hf://(\w+)/([\w.]+)@(\w+)/([\w.]+)", MODELS["clip_vit_b32"].hub)
    assert match is not None
    owner, repo, revision, file = match.groups()
    cached = tmp_path / "hf" / "hub" / f"models--{owner}--{repo}" / "snapshots" / revision / file
    cached.parent.mkdir(parents=True)
    save_file(random_state(MODELS["tiny"].config, 6), cached)
    shutil.copy(bigbuckbunny, tmp_path / "demo_video.mp4")

    def run(
        steps: list[str], installed: Path | None, revision: str = "main", first: str = "", **environment: str
    ) -> tuple[dict[str, np.ndarray], str]:
        code = ("" if installed else NOT_INSTALLED) + first + STEPS
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, json.dumps([steps, revision])],
            cwd=tmp_path,
            env={
                **os.environ,
                **({"PYTHONPATH": str(installed)} if installed else {}),
                "HOME": str(tmp_path),
                "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_OFFLINE": "1",
                "TOWHEE_HOME": str(tmp_path / "towhee"),
                "TOWHEE_URL": "http://127.0.0.1:9",
                "PIP_NO_INDEX": "1",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        with np.load(tmp_path / "vectors.npz") as vectors:
            return dict(vectors), done.stderr

    return run


def version(home: Path, tag: str, operator: str = "video-text-embedding/clip4clip") -> Path:
    folder = home / "towhee" / "operators" / operator / "versions" / tag
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_vectors(vectors: dict[str, np.ndarray], right: dict[str, np.ndarray], log: str, file: Path) -> None:
    """The vectors are right, and the log names their file once for each operator, without a warning of it."""
    for modality, vector in vectors.items():
        np.testing.assert_allclose(vector, right[modality], atol=1e-5)
    said = re.findall(r"^INFO clip_vit_b32: (text|video) from (.*) \(fingerprint [0-9a-f]{16}\)$", log, re.M)
    assert sorted(said) == sorted((modality, str(file)) for modality in vectors)
    assert not re.search(r"WARNING.*(fingerprint|QuickGELU|pytorch_model)", log)


ORDERS = [["text", "video"], ["video", "text"]]
INSTALLED_DOORS = ["registry", "placed", "beside the package", "another version"]


@pytest.mark.parametrize(
    ("door", "steps"),
    [(door, steps) for door in INSTALLED_DOORS for steps in ORDERS] + [("placed", ["milvus", "text", "video"])],
)
def test_the_checkpoint_beside_the_operator_is_found_with_the_package_installed(
    door: str,
    steps: list[str],
    run_steps: Callable,
    small_clone: Path,
    published: Path,
    right: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    installed, first, revision = small_clone, "", "main"
    if door == "another version":  # downloaded at a time when the package was not installed
        folder, revision = version(tmp_path, "v1_0"), "v1.0"
        shutil.copytree(small_clone, folder, dirs_exist_ok=True)
        install_operators(tmp_path / "towhee")
        shutil.rmtree(version(tmp_path, "main"))
    elif door == "beside the package":
        folder = installed = tmp_path / "clone"
        shutil.copytree(small_clone, folder)
        install_operators(tmp_path / "towhee")
    else:
        folder = version(tmp_path, "main")
        if door == "placed":
            install_operators(tmp_path / "towhee")
        else:
            first = "import clip4clip\n"
    shutil.copy(published, folder / published.name)
    vectors, log = run_steps(steps, installed, revision, first)
    check_vectors(vectors, right, log, folder / published.name)


@pytest.mark.parametrize("steps", ORDERS, ids="-".join)
@pytest.mark.parametrize("door", ["hub download", "clone", "legacy"])
def test_the_checkpoint_beside_the_operator_is_found_with_nothing_installed(
    door: str,
    steps: list[str],
    run_steps: Callable,
    small_clone: Path,
    published: Path,
    right: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    revision = "v1.0-rc" if door == "hub download" else "main"  # the tests above download main
    folder = version(tmp_path, revision.replace(".", "_").replace("-", "_"))
    decoder = version(tmp_path, revision.replace(".", "_").replace("-", "_"), "video-decode/ffmpeg")
    if door == "hub download":
        files = {str(path.relative_to(small_clone)): path for path in small_clone.rglob("*") if path.is_file()}
        _Hub.files = files | {published.name: published}
        shutil.rmtree(tmp_path / "towhee")
        with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_address[1]}"
            vectors, log = run_steps(steps, None, revision, TOWHEE_URL=url)
            server.shutdown()
        assert (folder / published.name).is_symlink()
    elif door == "clone":
        for place in (folder, decoder):
            shutil.copytree(small_clone, place, dirs_exist_ok=True)
        shutil.copy(published, folder / published.name)
        vectors, log = run_steps(steps, None)
    else:  # the loader finds no __init__.py and executes clip4clip.py, which finds the package beside it
        shutil.copytree(small_clone, folder, dirs_exist_ok=True)
        (folder / "__init__.py").unlink()
        shutil.copytree(small_clone, decoder, dirs_exist_ok=True)
        shutil.copy(published, folder / published.name)
        vectors, log = run_steps(steps, tmp_path)
    check_vectors(vectors, right, log, folder / published.name)


@pytest.mark.parametrize("modality", ["text", "video"])
def test_legacy_loader_executes_clip4clip_py_alone(
    modality: str, run_example: Callable, expected: dict[str, np.ndarray], tmp_path: Path, tracked_files: list[str]
) -> None:
    # Without an __init__.py the loader has nothing but clip4clip.py to execute.
    _, decoder, *_ = install_operators(tmp_path / "towhee")
    operator = decoder.parents[4] / "video-text-embedding/clip4clip/versions/main"
    shutil.rmtree(operator)
    for name in tracked_files:
        if name == "clip4clip.py" or name.startswith("clip4clip/"):
            (operator / name).parent.mkdir(parents=True, exist_ok=True)
            (operator / name).symlink_to(REPOSITORY / name)
    from_folder = (
        "import atexit, sys\n"
        f"atexit.register(lambda: sys.modules['clip4clip'].__file__.startswith({str(operator)!r}) or sys.exit(3))\n"
    )
    vector = run_example(modality, tmp_path / "towhee", from_folder)
    np.testing.assert_allclose(vector, expected[modality], atol=1e-5)


def test_clip4clip_py_is_the_command_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "clip4clip.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "embed-text" in done.stdout
    assert "embed-video" in done.stdout
