"""A small model, a run and a batch, for all tests of the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from constants import QUICK_GELU
from safetensors.torch import save_file
from training_runs import MINI

from clip4clip.config import MODELS, Model
from clip4clip.evaluation.pairs import read_pairs
from clip4clip.training import TrainingConfig, VideoTextDataset
from clip4clip.training.data import Batch, collate


@pytest.fixture(scope="module", autouse=True)
def mini_model() -> Iterator[None]:
    """The model name ``mini``."""
    models: dict[str, Model] = MODELS  # type: ignore[assignment]
    models["mini"] = Model(MINI, hub="hf://owner/mini")
    yield
    del models["mini"]


@pytest.fixture(scope="session")
def mini_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, random_state: Callable[..., dict[str, torch.Tensor]]
) -> Path:
    path = tmp_path_factory.mktemp("mini") / "model.safetensors"
    save_file(random_state(MINI), path)
    path.with_name("open_clip_config.json").write_text(QUICK_GELU)
    return path


@pytest.fixture
def config(drawings: Path, mini_checkpoint: Path, tmp_path: Path) -> TrainingConfig:
    """Two epochs of three steps; decodes in this process; saves its state after each step."""
    return TrainingConfig(
        pairs=drawings / "train.csv",
        videos=drawings,
        out=tmp_path / "run",
        model="mini",
        init=str(mini_checkpoint),
        epochs=2,
        batch_size=16,
        lr=1e-3,
        frames=2,
        device="cpu",
        workers=0,
        save_every=1,
        freeze_layers=-1,
    )


@pytest.fixture(scope="session")
def batch(drawings: Path) -> Batch:
    """Eight pairs with three frames each."""
    dataset = VideoTextDataset(read_pairs(drawings / "train.csv", drawings), MINI, frames=3)
    return collate([dataset[index] for index in range(8)])
