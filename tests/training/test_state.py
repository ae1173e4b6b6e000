"""Saved states: a resumed run ends with the weights of an uninterrupted one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from constants import REPOSITORY
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_runs import WITH_MINI, assert_same_tensors, read_log, signal_at

from clip4clip import TrainingError
from clip4clip.training import TrainingConfig, train


def assert_resumes_to_the_weights_of(uninterrupted: TrainingConfig, config: TrainingConfig) -> None:
    result = train(config, resume=True)
    assert (result.steps, result.finished) == (6, True)
    assert read_log(config, "step") == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(read_log(config), read_log(uninterrupted), atol=1e-6)
    weights = [Path(each.out) / "last.safetensors" for each in (config, uninterrupted)]
    assert_same_tensors(*weights, atol=1e-6)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("head", [pytest.param("meanP", marks=pytest.mark.slow), "seqLSTM"])
def test_a_stopped_and_resumed_run_has_the_weights_of_an_uninterrupted_run(
    config: TrainingConfig, tmp_path: Path, head: str
) -> None:
    config = replace(config, head=head, save_every=100)
    uninterrupted = replace(config, out=tmp_path / "uninterrupted")
    train(uninterrupted)
    assert train(config, progress=signal_at(4)).steps == 4
    assert_resumes_to_the_weights_of(uninterrupted, config)


@pytest.mark.slow
def test_a_killed_and_resumed_run_has_the_weights_of_an_uninterrupted_run(
    config: TrainingConfig, tmp_path: Path
) -> None:
    uninterrupted = replace(config, out=tmp_path / "uninterrupted")
    train(uninterrupted)
    settings = {name: os.fspath(value) if isinstance(value, Path) else value for name, value in vars(config).items()}
    program = f"""{WITH_MINI}
import threading
from training_runs import bars_that
from clip4clip.training import TrainingConfig, train
def wait_at_step_5(event):
    if event == 5:
        print("reached", flush=True)
        threading.Event().wait()
train(TrainingConfig(**{settings!r}), progress=bars_that(wait_at_step_5))
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "tests")}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "reached\n"
        running.kill()
    assert read_log(config, "step") == [1, 2, 3, 4, 5]
    assert_resumes_to_the_weights_of(uninterrupted, config)


def truncate(state: Path) -> None:
    state.write_bytes(state.read_bytes()[:1000])


def drop_step(state: Path) -> None:
    with safe_open(state, framework="pt") as file:
        about = json.loads(file.metadata()["clip4clip"])
    del about["step"]
    save_file(load_file(state), state, {"clip4clip": json.dumps(about)})


@pytest.mark.parametrize("damage", [truncate, drop_step])
def test_a_damaged_state_is_rejected(config: TrainingConfig, damage: Callable[[Path], None]) -> None:
    config = replace(config, epochs=1)
    train(config)
    damage(Path(config.out) / "resume.safetensors")
    with pytest.raises(TrainingError, match=r"resume\.safetensors cannot be resumed from"):
        train(config, resume=True)


def test_a_run_is_only_resumed_with_its_own_settings_and_pairs(config: TrainingConfig, drawings: Path) -> None:
    with pytest.raises(TrainingError, match="holds no run to resume"):
        train(config, resume=True)
    config = replace(config, epochs=1)
    train(config)
    with pytest.raises(TrainingError, match="holds a run already: resume it, or choose another folder"):
        train(config)
    with pytest.raises(TrainingError, match=r"in which lr was 0\.001, not 0\.002"):
        train(replace(config, lr=2e-3), resume=True)
    with pytest.raises(TrainingError, match=r"in which pairs was '48 pairs.*not '24 pairs"):
        train(replace(config, pairs=drawings / "eval.csv"), resume=True)
