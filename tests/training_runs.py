"""Small training runs: the model they train, bars that interrupt them, and what the tests read of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TaskID
from safetensors.torch import load_file

from clip4clip.config import CLIPConfig
from clip4clip.training import TrainingConfig

# A small vocabulary: token embeddings would be most of a checkpoint, and of the time to save it.
MINI = CLIPConfig(
    embed_dim=64,
    resolution=32,
    patch_size=16,
    vision_width=128,
    vision_layers=2,
    text_width=64,
    text_layers=2,
    vocab_size=1024,
)
# Registers the model `mini` in a process of its own.
WITH_MINI = f"""
from clip4clip.config import MODELS, CLIPConfig, ImageConfig, Model
MODELS["mini"] = Model({MINI!r}, hub="hf://owner/mini")
"""


def bars_that(act: Callable[[str | int], None]) -> Callable[[], Progress]:
    """Return a maker of invisible progress bars that pass each new task's description and each step to ``act``.

    A step is one of the training. The bar of another task moves in a thread, to a number that depends on the time.
    """

    class ActingBars(Progress):
        training: TaskID | None = None

        def add_task(self, description: str, *arguments: Any, **options: Any) -> TaskID:
            act(description)
            task = super().add_task(description, *arguments, **options)
            if description == "training":
                self.training = task
            return task

        def update(self, task_id: TaskID, *arguments: Any, **options: Any) -> None:
            super().update(task_id, *arguments, **options)
            if "completed" in options and task_id == self.training:
                act(options["completed"])

    return lambda: ActingBars(disable=True)


def signal_at(event: str | int, number: signal.Signals = signal.SIGTERM) -> Callable[[], Progress]:
    """Return a maker of invisible progress bars that signal this process at a step or a new task."""
    return bars_that(lambda current: os.kill(os.getpid(), number) if current == event else None)


def read_log(config: TrainingConfig, key: str = "loss") -> list[Any]:
    """Return the values of a key in ``log.jsonl``, in the order of its lines."""
    lines = [json.loads(line) for line in (Path(config.out) / "log.jsonl").read_text("utf-8").splitlines()]
    return [line[key] for line in lines if key in line]


def assert_same_tensors(path: Path, other: Path, atol: float) -> None:
    """Assert that two safetensors files have the same tensors, each number to ``atol``."""
    tensors, others = load_file(path), load_file(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(
            tensor, others[name], atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
