"""Signals that stop a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from constants import REPOSITORY
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import load_file
from training_runs import WITH_MINI, bars_that, read_log, signal_at

from clip4clip.training import TrainingConfig, train
from clip4clip.training.signals import track_until_stopped

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_and_saves_its_state(
    config: TrainingConfig, number: signal.Signals
) -> None:
    handler = signal.getsignal(number)
    result = train(replace(config, save_every=100), progress=signal_at(2, number))
    assert (result.steps, result.finished) == (2, False)
    assert signal.getsignal(number) is handler
    assert train(config, resume=True).steps == 6


def test_a_second_ctrl_c_ends_the_run_at_once(config: TrainingConfig) -> None:
    def interrupt_twice(event: str | int) -> None:
        if event == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config, progress=bars_that(interrupt_twice))
    assert not (Path(config.out) / "resume.safetensors").exists()


@pytest.mark.parametrize("last", [3, 6])
def test_a_stop_in_the_last_step_of_an_epoch_leaves_its_evaluation_to_the_resumption(
    config: TrainingConfig, drawings: Path, last: int
) -> None:
    config = replace(config, eval_pairs=drawings / "eval.csv")
    result = train(config, progress=signal_at(last))
    assert (result.steps, result.finished) == (last, False)
    assert len(read_log(config, "text_to_video")) == last // 3 - 1
    result = train(config, resume=True)
    assert (result.steps, result.finished) == (6, True)
    assert result.evaluation.pairs == 24
    assert read_log(config, "step") == [1, 2, 3, 3, 4, 5, 6, 6]
    out = Path(config.out)
    assert (out / "best.safetensors").is_file()
    state = load_file(out / "resume.safetensors")
    torch.testing.assert_close(
        load_file(out / "last.safetensors")["clip.text_projection"], state["model.text.text_projection"]
    )


def test_a_kill_or_a_stop_during_an_evaluation_costs_no_step(config: TrainingConfig, drawings: Path) -> None:
    class KilledError(BaseException):
        pass

    def kill_the_evaluation(event: str | int) -> None:
        if event == "embedding sentences":
            raise KilledError

    config = replace(config, eval_pairs=drawings / "eval.csv", save_every=100)
    with pytest.raises(KilledError):
        train(config, progress=bars_that(kill_the_evaluation))
    result = train(config, resume=True, progress=signal_at("embedding sentences"))
    assert (result.steps, result.finished) == (3, False)
    assert read_log(config, "text_to_video") == []
    assert train(config, resume=True).finished
    assert read_log(config, "step") == [1, 2, 3, 3, 4, 5, 6, 6]


def test_a_bar_is_removed_when_its_work_is_done() -> None:
    with Progress(disable=True) as bars:
        for item in track_until_stopped(bars, threading.Event())([1, 2], 2, "embedding"):
            assert [(task.description, task.total) for task in bars.tasks] == [("embedding", 2)]
            assert item in (1, 2)
        assert bars.tasks == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_process_group_keeps_the_decoders_until_the_state_is_saved(
    config: TrainingConfig, tmp_path: Path, number: signal.Signals
) -> None:
    # torchrun, timeout and terminals signal the whole group.
    script = tmp_path / "script.py"
    script.write_text(
        f"""{WITH_MINI}
import signal, time
from training_runs import bars_that
from clip4clip.training import TrainingConfig, train
def wait_for_the_signal(event):
    if event == 1:
        handler, received = signal.getsignal({int(number)}), []
        signal.signal({int(number)}, lambda *arguments: (handler(*arguments), received.append(arguments)))
        print("reached", flush=True)
        while not received:
            time.sleep(0.01)
if __name__ == "__main__":
    paths = dict(pairs={str(config.pairs)!r}, videos={str(config.videos)!r}, out={str(config.out)!r})
    small = dict(model="mini", init={config.init!r}, batch_size=16, frames=2, device="cpu")
    config = TrainingConfig(**paths, **small, epochs=40, workers=1)
    raise SystemExit(10 + train(config, progress=bars_that(wait_for_the_signal)).steps)
"""
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "tests")}
    with subprocess.Popen(
        [sys.executable, script], start_new_session=True, env=environment, text=True, **pipes
    ) as running:
        assert running.stdout.readline() == "reached\n"
        os.killpg(running.pid, number)
        _, errors = running.communicate()
    assert running.returncode == 11, errors
    with safe_open(Path(config.out) / "resume.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["clip4clip"])["step"] == 1
