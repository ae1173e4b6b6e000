"""The log of a run and its TensorBoard scalars."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from training_runs import read_log, signal_at

from clip4clip.training import TrainingConfig, train
from clip4clip.training import data as training_data
from clip4clip.training.log import TrainingLog
from clip4clip.video import read_frames


def test_lines_after_the_resumed_step_are_removed(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    with TrainingLog(tmp_path, 2, enabled=True) as log:
        log.write(3, {"loss": 0.5})
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "loss": 0.5}\n'


def test_only_the_first_process_writes_a_log(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, 0, enabled=False) as log:
        log.write(1, {"loss": 0.5})
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_has_every_step_once_after_a_resumption(config: TrainingConfig) -> None:
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    if os.name == "posix":
        assert train(config, progress=signal_at(2)).steps == 2
        train(replace(config, accumulate=2), resume=True)  # the number of parts may change
    else:
        train(config)
    events = board.EventAccumulator(os.fspath(Path(config.out) / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_the_logged_speed_includes_decoding(config: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:

    def slow_read_frames(*arguments: object, **options: object) -> object:
        time.sleep(0.2 / config.batch_size)
        return read_frames(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(training_data, "read_frames", slow_read_frames)
    train(replace(config, epochs=1))
    assert max(read_log(config, "videos_per_second")) < 16 / 0.2
