"""Runs of one and of two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import WITH_MINI, assert_same_tensors, read_log

from clip4clip.training import TrainingConfig, VideoTextModel, train
from clip4clip.training.checkpoint import save_checkpoint
from clip4clip.training.data import Batch
from clip4clip.training.distributed import Process, join_processes
from clip4clip.training.gradients import compute_gradients
from clip4clip.weights.identity import find_checkpoint

CASES = {"meanP": 1, "seqTransf": 2}  # head, and parts of the batch

# Each process saves the loss and the gradients of each case.
PROGRAM = f"""{WITH_MINI}
import sys, torch
from pathlib import Path
from clip4clip.training import VideoTextModel
from clip4clip.training.data import Batch
from clip4clip.training.distributed import join_processes
from clip4clip.training.gradients import compute_gradients
from clip4clip.weights.identity import find_checkpoint
folder = Path(sys.argv[1])
with join_processes("cpu") as process:
    for head, parts in {CASES!r}.items():
        model = VideoTextModel.load(find_checkpoint(folder / f"{{head}}.safetensors", "mini"))
        batch = Batch(*(tensor.chunk(2)[process.rank] for tensor in torch.load(folder / "batch.pt")))
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        loss = compute_gradients(process.parallelise(model), batch, scaler, parts=parts)
        gradients = {{name: parameter.grad for name, parameter in model.named_parameters()}}
        torch.save((loss, gradients), folder / f"{{head}}-{{process.rank}}.pt")
"""


def torchrun(*arguments: object) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "FutureWarning" not in done.stderr
    assert done.stderr.count("wrote ") <= 1


def test_without_torchrun_a_run_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_processes("cpu") as process:
        assert process == Process(0, 1, torch.device("cpu"))
        assert process.is_first
        assert [process.any(flag) for flag in (True, False)] == [True, False]


@pytest.mark.slow
def test_two_processes_have_the_loss_and_the_gradients_of_one(
    mini_checkpoint: Path, batch: Batch, tmp_path: Path
) -> None:
    expected = {}
    for head in CASES:
        model = VideoTextModel.load(find_checkpoint(mini_checkpoint, "mini"), head)
        save_checkpoint(model, tmp_path / f"{head}.safetensors")
        loss = compute_gradients(model, batch, torch.amp.GradScaler("cpu", enabled=False))
        expected[head] = loss, {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.save(tuple(batch), tmp_path / "batch.pt")
    (tmp_path / "script.py").write_text(PROGRAM)
    torchrun(tmp_path / "script.py", tmp_path)
    for head, (expected_loss, expected_gradients) in expected.items():
        for rank in range(2):
            loss, gradients = torch.load(tmp_path / f"{head}-{rank}.pt")
            assert loss == pytest.approx(expected_loss, abs=1e-5)
            for name, gradient in expected_gradients.items():
                torch.testing.assert_close(
                    gradients[name], gradient, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
                )


@pytest.mark.slow
def test_a_run_of_two_processes_ends_with_the_weights_of_one(config: TrainingConfig, tmp_path: Path) -> None:
    config = replace(config, lr=1e-4)
    train(config)
    (tmp_path / "script.py").write_text(f"{WITH_MINI}\nfrom clip4clip.cli import main\nmain()\n")
    arguments = ["train", config.pairs, "--videos", config.videos, "--out", tmp_path / "two", "-m", "mini", "-d", "cpu"]
    arguments += ["--init", config.init, "--epochs", 2, "--batch-size", 16, "--lr", 1e-4, "--frames", 2]
    torchrun(tmp_path / "script.py", *arguments, "--workers", 0, "--freeze-layers", -1)
    np.testing.assert_allclose(read_log(replace(config, out=tmp_path / "two")), read_log(config), atol=1e-4)
    assert_same_tensors(Path(config.out) / "last.safetensors", tmp_path / "two/last.safetensors", atol=1e-4)
