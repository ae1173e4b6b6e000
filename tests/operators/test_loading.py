"""Every way in which Towhee can load the operators.

They are the registry of an installed package, operators that ``install-operators`` placed, a hub download, a clone in
Towhee's cache folder, and Towhee's legacy loader. The package under test is mostly a copy of this repository in which
``clip_vit_b32`` is small.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from constants import REPOSITORY
from safetensors.torch import load_file, save_file
from servers import HttpServer, Request, Response

from clip4clip import TextEncoder, VideoEncoder
from clip4clip.config import MODELS, CLIPConfig, Model
from clip4clip.operators.install import install_operators
from clip4clip.video import read_frames

CAPTION = "kids feeding and playing with the horse"
PUBLISHED = "pytorch_model.bin.1"  # the name of the checkpoint beside the published operator
# The tests run where the package is installed. This hides it.
NOT_INSTALLED = "import sys; sys.modules['clip4clip'] = None\n"
SMALL = CLIPConfig(
    embed_dim=512, resolution=32, patch_size=16, vision_width=128, vision_layers=2, text_width=64, text_layers=2
)

Vectors = dict[str, np.ndarray]  # by modality


def slow(*values: object) -> Any:
    """Return a parameter, or several, of tests that are slow."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def tracked_files() -> list[str]:
    listing = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return listing.stdout.splitlines()


@pytest.fixture(scope="module")
def small_clone(tmp_path_factory: pytest.TempPathFactory, tracked_files: list[str]) -> Path:
    """A clone of this repository whose clip_vit_b32 is small."""
    clone = tmp_path_factory.mktemp("small") / "clone"
    for name in tracked_files:
        is_code = name.endswith((".py", ".safetensors")) and name.startswith("clip4clip")
        if is_code or name in ("__init__.py", "requirements.txt"):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, clone / name)
    config = clone / "clip4clip" / "config.py"
    before, after = config.read_text("utf-8").split("_B32 = CLIPConfig()")
    config.write_text(f"{before}_B32 = {SMALL!r}{after}", "utf-8")
    return clone


@pytest.fixture(scope="module")
def small_model() -> Iterator[str]:
    """The name in this process of the clone's clip_vit_b32."""
    models: dict[str, Model] = MODELS  # type: ignore[assignment]
    models["small"] = Model(SMALL)
    yield "small"
    del models["small"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, random_state: Callable) -> Path:
    """The checkpoint that belongs beside the operator."""
    path = tmp_path_factory.mktemp("published") / PUBLISHED
    torch.save({f"clip.{name}": tensor for name, tensor in random_state(SMALL, 5).items()}, path)
    return path


@pytest.fixture(scope="module")
def default_checkpoint(tmp_path_factory: pytest.TempPathFactory, random_state: Callable) -> Path:
    """The default checkpoint of the model, in the Hugging Face cache. Its weights are not those of ``published``."""
    path = tmp_path_factory.mktemp("default") / "open_clip_model.safetensors"
    save_file(random_state(SMALL, 6), path)
    return path


def embed_with_python(model_name: str, checkpoint: Path, video: Path, frames: int) -> Vectors:
    return {
        "text": TextEncoder.load(model_name, checkpoint, "cpu")(CAPTION),
        "video": VideoEncoder.load(model_name, checkpoint, "cpu")(read_frames(video, frames)),
    }


def put_into_hugging_face_cache(checkpoint: Path, home: Path) -> None:
    """Put the default weights of clip_vit_b32 where a download would put them."""
    match = re.fullmatch(r"hf://(\w+)/([\w.]+)@(\w+)/([\w.]+)", MODELS["clip_vit_b32"].hub)
    assert match is not None
    owner, repo, revision, file = match.groups()
    cached = home / "hf" / "hub" / f"models--{owner}--{repo}" / "snapshots" / revision / file
    cached.parent.mkdir(parents=True)
    cached.symlink_to(checkpoint)


def run_program(
    code: str, arguments: list[str], folder: Path, installed: Path | None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program offline, with an empty home.

    Args:
        code: the program.
        arguments: of the program.
        folder: its current folder, with the Hugging Face cache and Towhee's folder.
        installed: a folder whose package is imported before the one these tests run from; None hides both.
        **environment: more variables.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ("" if installed else NOT_INSTALLED) + code, *arguments],
        cwd=folder,
        env={
            **os.environ,
            **({"PYTHONPATH": str(installed)} if installed else {}),
            "HOME": str(folder),
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "1",
            "TOWHEE_HOME": str(folder / "towhee"),
            "TOWHEE_URL": "http://127.0.0.1:9",  # no server: what is not on this machine is an error
            "PIP_NO_INDEX": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def operator_folder(home: Path, version: str = "main", operator: str = "video-text-embedding/clip4clip") -> Path:
    folder = home / "towhee" / "operators" / operator / "versions" / version
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def respond_as_hub(files: Mapping[str, Path], request: Request) -> Response:
    """Answer as Towhee's hub does, with the same files (by their paths in the repository) for every operator."""
    blobs = {hashlib.sha256(path.encode()).hexdigest(): path for path in files}
    if re.fullmatch(r"/towhee-api/v1/repos/[\w-]+/\w+/tree\?recursive=true&ref=[\w.-]+", request.path):
        link, blob = f"http://{request.headers['Host']}/blobs/", {"mode": "100644", "type": "blob"}
        entries = [
            {**blob, "path": path, "size": files[path].stat().st_size, "sha": sha, "downloadLink": link + sha}
            for sha, path in blobs.items()
        ]
        return Response(json.dumps(entries).encode())
    path = blobs.get(request.path.removeprefix("/blobs/"))
    return Response(status=404) if path is None else Response(files[path].read_bytes())


@contextmanager
def run_hub(files: Mapping[str, Path]) -> Iterator[str]:
    """Run a hub on the loopback and yield its URL."""
    with HttpServer(partial(respond_as_hub, files)) as server:
        yield server.url


def files_of(clone: Path) -> dict[str, Path]:
    return {str(path.relative_to(clone)): path for path in clone.rglob("*") if path.is_file()}


# The README's two examples, verbatim but for the device. The video one has the same parts and takes longer.

MODALITIES = ["text", slow("video")]


@pytest.fixture(scope="module")
def expected(small_model: str, default_checkpoint: Path, bigbuckbunny: Path) -> Vectors:
    """The vectors of both examples, with the default weights."""
    return embed_with_python(small_model, default_checkpoint, bigbuckbunny, 12)


RunExample = Callable[..., np.ndarray]


@pytest.fixture
def run_example(tmp_path: Path, default_checkpoint: Path, bigbuckbunny: Path) -> RunExample:
    """Map (modality, installed, code to run first, variables of the environment) to the vector of the example."""
    blocks = re.findall(
        r"```python\n(from towhee import.*?)```", (REPOSITORY / "README.md").read_text("utf-8"), re.DOTALL
    )
    examples = dict(zip(("text", "video"), blocks, strict=True))
    put_into_hugging_face_cache(default_checkpoint, tmp_path)
    shutil.copy(bigbuckbunny, tmp_path / "demo_video.mp4")

    def run(modality: str, installed: Path | None, first: str = "", **environment: str) -> np.ndarray:
        example, replaced = re.subn(r"device='cuda:\d'", "device='cpu'", examples[modality])
        assert replaced == 1
        argument = re.search(r"DataCollection\(p\((.*)\)\)\.show\(\)", example)
        assert argument is not None
        save = f"import numpy; numpy.save('vec.npy', p({argument[1]}).get()[-1])\n"
        done = run_program(first + example + save, [], tmp_path, installed, **environment)
        assert "shape=(512,)" in done.stdout  # the table that show() prints
        return np.load(tmp_path / "vec.npy")

    return run


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_example_works_with_the_registry(
    modality: str, run_example: RunExample, small_clone: Path, expected: Vectors
) -> None:
    np.testing.assert_allclose(run_example(modality, small_clone, "import clip4clip\n"), expected[modality], atol=1e-5)


def test_registration_does_not_depend_on_the_order_of_imports(run_example: RunExample, small_clone: Path) -> None:
    run_example("text", small_clone, "import towhee\nimport clip4clip\n")


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_example_works_with_placed_operators(
    modality: str, run_example: RunExample, small_clone: Path, expected: Vectors, tmp_path: Path
) -> None:
    install_operators(tmp_path / "towhee")
    np.testing.assert_allclose(run_example(modality, small_clone), expected[modality], atol=1e-5)


@pytest.mark.slow  # runs pip; a test below downloads both operators without
def test_the_text_example_works_with_a_hub_download_and_nothing_installed(
    run_example: RunExample, small_clone: Path, default_checkpoint: Path, expected: Vectors, tmp_path: Path
) -> None:
    state = load_file(default_checkpoint)
    checkpoint = tmp_path / PUBLISHED
    torch.save({f"clip.{name}": tensor.half() for name, tensor in state.items()}, checkpoint)
    with run_hub(files_of(small_clone) | {PUBLISHED: checkpoint}) as url:
        vector = run_example("text", None, TOWHEE_URL=url)
    assert (operator_folder(tmp_path) / "__init__.py").is_symlink()
    # The checkpoint beside the operator was loaded, not the default one: it has the same weights in half precision.
    assert 1e-7 < np.abs(vector - expected["text"]).max() < 5e-3


@pytest.mark.slow
def test_the_video_example_works_with_a_hub_download_of_this_repository(
    tracked_files: list[str], b32_checkpoint: Path, bigbuckbunny: Path, run_example: RunExample, tmp_path: Path
) -> None:
    checkpoint = tmp_path / PUBLISHED
    torch.save({f"clip.{name}": tensor.half() for name, tensor in load_file(b32_checkpoint).items()}, checkpoint)
    with run_hub({path: REPOSITORY / path for path in tracked_files} | {PUBLISHED: checkpoint}) as url:
        vector = run_example("video", None, TOWHEE_URL=url)
    assert (operator_folder(tmp_path) / "__init__.py").is_symlink()
    encoder = VideoEncoder.load("clip_vit_b32", b32_checkpoint, "cpu", "torch")  # builds no graph
    expected = encoder(read_frames(bigbuckbunny, 12))
    assert 1e-7 < np.abs(vector - expected).max() < 5e-3


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_example_works_with_the_legacy_loader(
    modality: str, run_example: RunExample, small_clone: Path, expected: Vectors, tmp_path: Path
) -> None:
    operator = operator_folder(tmp_path)
    for folder in (operator, operator_folder(tmp_path, operator="video-decode/ffmpeg")):
        shutil.copytree(small_clone, folder, dirs_exist_ok=True)
    (operator / "__init__.py").unlink()  # then the loader executes clip4clip.py
    uses_folder = (
        "import atexit, os, sys\n"
        f"atexit.register(lambda: sys.modules['clip4clip'].__file__.startswith({str(operator)!r}) or os._exit(3))\n"
    )
    np.testing.assert_allclose(run_example(modality, tmp_path, uses_folder), expected[modality], atol=1e-5)


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


# The checkpoint beside the operator is found, however the operator is loaded and whatever was loaded before. The
# Hugging Face cache has other weights, which a mistake would load.

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
            pass  # there is no such index, but the operator was loaded
    elif step == "text":
        text = pipe.input("text").map("text", "vec", clip4clip("text")).output("vec")
        vectors["text"] = text("kids feeding and playing with the horse").get()[0]
    else:
        sampling = {"sample_type": "uniform_temporal_subsample", "args": {"num_samples": 4}}
        video = (
            pipe.input("path")
            .map("path", "frames", ops.video_decode.ffmpeg(**sampling))
            .map("frames", "list", lambda frames: list(frames))
            .map("list", "vec", clip4clip("video"))
            .output("vec")
        )
        vectors["video"] = video("demo_video.mp4").get()[0]
numpy.savez("vectors.npz", **vectors)
"""


@pytest.fixture(scope="module")
def published_vectors(small_model: str, published: Path, bigbuckbunny: Path) -> Vectors:
    """The vectors of the checkpoint beside the operator."""
    return embed_with_python(small_model, published, bigbuckbunny, 4)


RunSteps = Callable[..., tuple[Vectors, str]]


@pytest.fixture
def run_steps(tmp_path: Path, default_checkpoint: Path, bigbuckbunny: Path) -> RunSteps:
    """Map (steps, installed, revision, code to run first, variables of the environment) to vectors and log."""
    put_into_hugging_face_cache(default_checkpoint, tmp_path)
    shutil.copy(bigbuckbunny, tmp_path / "demo_video.mp4")

    def run(
        steps: list[str], installed: Path | None, revision: str = "main", first: str = "", **environment: str
    ) -> tuple[Vectors, str]:
        done = run_program(first + STEPS, [json.dumps([steps, revision])], tmp_path, installed, **environment)
        with np.load(tmp_path / "vectors.npz") as vectors:
            return dict(vectors), done.stderr

    return run


def check_vectors(vectors: Vectors, expected: Vectors, log: str, checkpoint: Path) -> None:
    """Assert that the vectors are right, and that the log names their checkpoint once for each, without a warning."""
    for modality, vector in vectors.items():
        np.testing.assert_allclose(vector, expected[modality], atol=1e-5)
    loaded = re.findall(r"^INFO clip_vit_b32: (text|video) from (.*) \(fingerprint [0-9a-f]{16}\)$", log, re.M)
    assert sorted(loaded) == sorted((modality, str(checkpoint)) for modality in vectors)
    assert not re.search(r"WARNING.*(fingerprint|QuickGELU|pytorch_model)", log)


ORDERS = [["text", "video"], slow(["video", "text"])]


SOURCES = ["registry", "placed", "beside the package", "another version"]


@pytest.mark.parametrize(
    ("source", "steps"),
    [
        *((source, ["text", "video"]) for source in SOURCES[:2]),
        *(slow(source, ["video", "text"]) for source in SOURCES),
        *(slow(source, ["milvus", "text", "video"]) for source in SOURCES),
    ],
)
def test_the_checkpoint_beside_the_operator_is_found_with_the_package_installed(
    source: str,
    steps: list[str],
    run_steps: RunSteps,
    small_clone: Path,
    published: Path,
    published_vectors: Vectors,
    tmp_path: Path,
) -> None:
    installed, first, revision = small_clone, "", "main"
    if source == "another version":  # downloaded at a time when the package was not installed
        folder, revision = operator_folder(tmp_path, "v1_0"), "v1.0"
        shutil.copytree(small_clone, folder, dirs_exist_ok=True)
        install_operators(tmp_path / "towhee")
        shutil.rmtree(operator_folder(tmp_path))
    elif source == "beside the package":
        folder = installed = tmp_path / "clone"
        shutil.copytree(small_clone, folder)
        install_operators(tmp_path / "towhee")
    else:
        folder = operator_folder(tmp_path)
        if source == "placed":
            install_operators(tmp_path / "towhee")
        else:
            first = "import clip4clip\n"
    shutil.copy(published, folder / PUBLISHED)
    vectors, log = run_steps(steps, installed, revision, first)
    check_vectors(vectors, published_vectors, log, folder / PUBLISHED)


@pytest.mark.parametrize("steps", ORDERS)
@pytest.mark.parametrize("source", ["hub download", slow("clone"), slow("legacy loader")])
def test_the_checkpoint_beside_the_operator_is_found_with_nothing_installed(
    source: str,
    steps: list[str],
    run_steps: RunSteps,
    small_clone: Path,
    published: Path,
    published_vectors: Vectors,
    tmp_path: Path,
) -> None:
    revision = "v1.0-rc" if source == "hub download" else "main"  # the tests above download main
    version = revision.replace(".", "_").replace("-", "_")
    folder = operator_folder(tmp_path, version)
    decoder = operator_folder(tmp_path, version, "video-decode/ffmpeg")
    if source == "hub download":
        shutil.rmtree(tmp_path / "towhee")
        files = files_of(small_clone) | {PUBLISHED: published}
        del files["requirements.txt"]  # without it pip does not run; a slow test above covers it
        with run_hub(files) as url:
            vectors, log = run_steps(steps, None, revision, TOWHEE_URL=url)
        assert (folder / PUBLISHED).is_symlink()
    else:
        for operator in (folder, decoder):
            shutil.copytree(small_clone, operator, dirs_exist_ok=True)
        shutil.copy(published, folder / PUBLISHED)
        if source == "legacy loader":
            (folder / "__init__.py").unlink()  # then the loader executes clip4clip.py, which imports the package
        vectors, log = run_steps(steps, None if source == "clone" else tmp_path)
    check_vectors(vectors, published_vectors, log, folder / PUBLISHED)
