"""Unusable pairs are reported before the training starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clip4clip import PairsError
from clip4clip.training import TrainingConfig, train


def test_bad_pairs_are_reported_before_anything_is_trained(
    config: TrainingConfig, drawings: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (drawings / "no_video.mp4").write_text("text")
    table = tmp_path / "pairs.csv"
    table.write_text((drawings / "train.csv").read_text("utf-8") + "nowhere,a dog\nno_video,a cat\n")
    bad = replace(config, pairs=table, epochs=1)
    with pytest.raises(PairsError, match=r"(?s)2 of 50 pairs.*nowhere.*no_video.*skip_bad \(--skip-bad\)"):
        train(bad)
    assert not Path(config.out).exists()
    assert train(replace(bad, skip_bad=True)).finished
    assert "They are left out" in caplog.text


def test_bad_evaluation_pairs_are_warned_about_and_rejected_if_none_is_good(
    config: TrainingConfig, drawings: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(config, epochs=1, eval_pairs=tmp_path / "eval.csv")
    Path(config.eval_pairs).write_text("video,sentence\nnowhere,a dog\neval/0-000000.mp4,a cat\n")
    with pytest.raises(PairsError, match=r"(?s)2 of 2 pairs.*eval\.csv.*nowhere.*eval_videos \(--eval-videos\)"):
        train(replace(config, eval_videos=tmp_path))
    assert not Path(config.out).exists()
    assert list(train(config).evaluation.failed) == ["nowhere"]
    assert "1 of 2 pairs" in caplog.text
    assert "a miss in every evaluation" in caplog.text
