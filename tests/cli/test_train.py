"""The command ``train``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from processes import file_size_limit
from typer.testing import Result

from clip4clip import training
from clip4clip.cli.train import TrainingOptions
from clip4clip.training import TrainingConfig


def test_the_options_are_the_fields_of_the_configuration_with_their_defaults() -> None:
    options, config = ({field.name: field.default for field in fields(of)} for of in (TrainingOptions, TrainingConfig))
    assert options == config
    assert [name for name, default in options.items() if default is MISSING] == ["pairs", "videos", "out"]


def test_options_reach_the_training(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    received = []

    def fake(config: TrainingConfig, resume: bool, *_: object) -> training.TrainingResult:
        received.append((config, resume))
        return training.TrainingResult(3, False, None)

    monkeypatch.setattr(training, "train", fake)
    arguments = ["train", "p.csv", "--videos", "v", "--out", "o", "--lr", 1e-5, "-n", 3, "--skip-bad", "--resume"]
    result = run(*arguments)
    assert result.exit_code == 130
    assert "stopped after step 3; run the same command with --resume to continue" in result.stderr
    config = TrainingConfig(Path("p.csv"), Path("v"), Path("o"), lr=1e-5, frames=3, skip_bad=True)
    assert received == [(config, True)]


def test_only_one_process_of_torchrun_prints(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "train", lambda *_: training.TrainingResult(3, True, None))
    expected = f"wrote {Path('out', 'last.safetensors')} after 3 steps"
    for rank, printed in (("0", expected), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert run("train", "pairs.csv", "--videos", "videos", "--out", "out").stderr.strip() == printed


def test_training_with_a_bad_pair_and_without_it(
    run_main: Callable[..., tuple[int, str, str]], drawings: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text((drawings / "train.csv").read_text("utf-8") + "gone.mp4,a dog\n", "utf-8")
    arguments = ["train", table, "--videos", drawings, "--out", tmp_path / "run", "-m", "tiny", "--epochs", 1]
    arguments += ["--init", tiny_checkpoint, "--batch-size", 24, "-n", 2, "--workers", 0, "-d", "cpu"]
    code, _, errors = run_main(*arguments)
    assert code == 2
    assert "1 of 49 pairs" in errors
    assert "--skip-bad" in errors
    assert not (tmp_path / "run").exists()
    held_out = tmp_path / "held_out.csv"
    held_out.write_text((drawings / "eval.csv").read_text("utf-8") + "lost.mp4,a cat\n", "utf-8")
    code, printed, errors = run_main(*arguments, "--skip-bad", "--eval-pairs", held_out)
    assert code == 1, errors
    assert "25 sentences, 25 videos" in printed
    assert "after 2 steps" in errors
    assert re.search("epoch 1: .* %; 1 of 25 videos failed", errors)
    assert "missed" in errors
    assert "1 of 25 videos failed and count as misses" in errors
    assert (tmp_path / "run/best.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.csv", "--videos", ".", "--out", "run"], "no table at nowhere.csv"),
        (["two.txt", "--videos", ".", "--out", "run", "--lr", "1e38"], "lr must be a number from 0 to 1"),
        (["two.txt", "--videos", ".", "--out", "run", "--seed", "-1"], "--seed"),
        (["two.txt", "--videos", ".", "--out", "run", "--workers", "-1"], "--workers"),
    ],
)
def test_wrong_options_are_errors(arguments: list[str], message: str, error_of: Callable[..., str]) -> None:
    assert message in error_of("train", *arguments)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc, where root cannot write either")
def test_a_folder_that_cannot_be_written_is_reported_first(error_of: Callable[..., str]) -> None:
    assert "/proc/run cannot be written to: " in error_of("train", "a.csv", "--videos", ".", "--out", "/proc/run")


# The first limit leaves no room for the log, the second one none for a checkpoint.
@pytest.mark.parametrize(
    ("limit", "message"),
    [(50, "training in {run} stopped: [Errno 27]"), (100_000, "{run}/last.safetensors cannot be written")],
)
def test_a_full_disk_is_one_line_of_error(
    limit: int, message: str, error_of: Callable[..., str], tiny_checkpoint: Path, drawings: Path, tmp_path: Path
) -> None:
    arguments = ["train", drawings / "train.csv", "--videos", drawings, "--out", tmp_path / "run", "-m", "tiny"]
    arguments += ["--init", tiny_checkpoint, "--batch-size", 48, "--epochs", 1, "-n", 1, "--workers", 0, "-d", "cpu"]
    with file_size_limit(limit):
        errors = error_of(*arguments)
    assert f"error {message.format(run=tmp_path / 'run')}" in errors
