"""The state of a run. A run that resumes from it ends with the weights of an uninterrupted run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import Clip4clipError, TrainingError
from ..evaluation.pairs import Pair
from .checkpoint import save_tensors
from .config import TrainingConfig
from .model import VideoTextModel

STATE = "resume.safetensors"

# Settings that may change when a run is resumed, because the result does not depend on them. The pairs themselves are
# compared, but not where they are stored.
_CHANGEABLE = {"pairs", "videos", "captions", "out", "eval_pairs", "eval_videos", "skip_bad"}
_CHANGEABLE |= {"accumulate", "device", "workers", "recompute", "save_every", "save_dtype"}


def describe_run(config: TrainingConfig, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return the settings that a resumed run must share with the first one, ready for JSON."""
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in _CHANGEABLE}
    lines = "\n".join(f"{pair.video}\t{pair.sentence}" for pair in pairs)
    settings["pairs"] = f"{len(pairs)} pairs, {hashlib.sha256(lines.encode()).hexdigest()[:16]}"
    return {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in settings.items()}


@dataclass
class TrainingState:
    """The values that change during a run.

    Attributes:
        model: model to train, on its device.
        optimizer: optimizer of the model.
        scaler: scaler of the loss, for float16.
        step: number of steps made.
        epochs_ended: number of epochs whose checkpoint and evaluation are complete.
        best_recall: best text→video R@1 of all evaluations, in percent.
    """

    model: VideoTextModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    epochs_ended: int = 0
    best_recall: float = -math.inf

    def save(self, path: Path, run: dict[str, Any]) -> None:
        """Write the state and the settings of the run, which are those of :func:`describe_run`, atomically.

        Raises:
            TrainingError: the file cannot be written, for example because the disk is full.
        """
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in values.items()}
        about = {
            "step": self.step,
            "ended": self.epochs_ended,
            "best": self.best_recall,
            "scaler": self.scaler.state_dict(),
            "run": run,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_tensors(tensors, path, {"clip4clip": json.dumps(about)})

    def load(self, path: Path, run: dict[str, Any]) -> None:
        """Read the state that a run with the same settings has saved.

        Raises:
            TrainingError: the state belongs to a run with other settings, or cannot be read.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["clip4clip"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            _check_same_run(about["run"], run, path.parent)
            self.model.load_state_dict(
                {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
            )
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": _optimizer_state(tensors), "param_groups": groups})
            self.scaler.load_state_dict(about["scaler"])
            self.step, self.epochs_ended, self.best_recall = about["step"], about["ended"], about["best"]
        except Clip4clipError:
            raise
        except Exception as error:
            # A damaged file, or one of another program: its parsers raise all kinds of errors.
            raise TrainingError(f"{path} cannot be resumed from: {error}") from error


def _check_same_run(saved: dict[str, Any], run: dict[str, Any], folder: Path) -> None:
    if differing := [name for name in run if run[name] != saved.get(name)]:
        raise TrainingError(
            f"{folder} holds another run, in which "
            + "; ".join(f"{name} was {saved.get(name)!r}, not {run[name]!r}" for name in differing)
        )


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Return the optimizer's tensors by the index of their parameter and their name."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
    return state
