"""Data sets of drawn clips."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from clip4clip import InputValueError
from clip4clip.training import synthetic
from clip4clip.training.drawing import draw
from clip4clip.training.scenes import PARAPHRASES, describe, long_videos, scenes
from clip4clip.training.synthetic import write_dataset, write_long_videos
from clip4clip.video import read_frames


def test_a_data_set_is_h264_files_and_tables_that_name_them(drawings: Path) -> None:
    with (drawings / "eval_paraphrased.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (drawings / "eval.csv").open(encoding="utf-8", newline="") as file:
        assert [row["video"] for row in csv.DictReader(file)] == [row["video"] for row in rows]
    assert len(rows) == 24
    for row, (scene, random) in zip(rows[:3], scenes(24, 0, True), strict=False):
        with av.open(str(drawings / row["video"])) as clip:
            stream = clip.streams.video[0]
            assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 128, 128)
        sentence = describe(scene, random)
        assert row["sentence"] == describe(scene, random, PARAPHRASES) != sentence
        drawn = draw(scene, random).astype(int)
        decoded = np.stack([frame.rgb for frame in read_frames(drawings / row["video"], None)]).astype(int)
        assert decoded.shape == drawn.shape == (16, 128, 128, 3)
        assert np.abs(decoded - drawn).mean() < 6  # lossy, and colour at half the resolution


def test_existing_clips_are_kept_missing_ones_are_drawn_and_no_partial_file_remains(tmp_path: Path) -> None:
    write_dataset(tmp_path, train=3, evaluation=1, workers=1)
    kept, missing = tmp_path / "train/0-000000.mp4", tmp_path / "train/0-000001.mp4"
    modified, content = kept.stat().st_mtime_ns, missing.read_bytes()
    missing.unlink()
    write_dataset(tmp_path, train=3, evaluation=1, workers=1)
    assert kept.stat().st_mtime_ns == modified
    assert missing.read_bytes() == content
    assert len(list(tmp_path.rglob("*.mp4"))) == len([p for p in tmp_path.rglob("*") if "mp4" in p.name]) == 4


@pytest.fixture
def short_long_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long videos of one scene or two."""

    def shortened(count: int, seed: int, held_out: bool) -> Iterator[Any]:
        return long_videos(count, seed, held_out, seconds=8)

    monkeypatch.setattr(synthetic, "long_videos", shortened)


@pytest.mark.usefixtures("short_long_videos")
def test_long_videos_have_a_table_of_moments_and_are_drawn_only_once(tmp_path: Path) -> None:
    table = write_long_videos(tmp_path, 2, seed=5, workers=1)
    assert table == tmp_path / "long.csv"
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    planned = [(name, moment) for name, video in enumerate(long_videos(2, 5, True, 8)) for moment, _ in video]
    assert [(row["video"], float(row["start"]), float(row["end"])) for row in rows] == [
        (f"long/5-{number:06}.mp4", moment.start, moment.end) for number, moment in planned
    ]
    assert all(moment.scene.colour in row["sentence"] for row, (_, moment) in zip(rows, planned, strict=True))
    kept, missing = sorted((tmp_path / "long").iterdir())
    with av.open(str(kept)) as video:
        assert video.streams.video[0].frames == 8 * planned[0][1].end or len(planned) > 2
    modified, content = kept.stat().st_mtime_ns, missing.read_bytes()
    missing.unlink()
    write_long_videos(tmp_path, 2, seed=5, workers=1)
    assert kept.stat().st_mtime_ns == modified
    assert missing.read_bytes() == content


@pytest.mark.usefixtures("short_long_videos")
def test_long_videos_of_training_scenes_have_names_of_their_own(tmp_path: Path) -> None:
    table = write_long_videos(tmp_path, 1, held_out=False, workers=1)
    assert table == tmp_path / "long_train.csv"
    assert [path.name for path in (tmp_path / "long_train").iterdir()] == ["0-000000.mp4"]


def test_tables_of_other_clips_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("mine")
    tables = write_dataset(tmp_path, train=0, evaluation=1, workers=1)
    assert [path.name for path in tables] == ["eval.csv", "eval_paraphrased.csv"]
    assert (tmp_path / "train.csv").read_text() == "mine"


def test_impossible_settings_are_rejected_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputValueError, match="seed must be at least 0, not -1"):
        write_dataset(tmp_path, train=1, evaluation=0, seed=-1)
    with pytest.raises(InputValueError, match="workers must be at least 1, not 0"):
        write_dataset(tmp_path, train=1, evaluation=0, workers=0)
    with pytest.raises(InputValueError, match="seed must be at least 0, not -1"):
        write_long_videos(tmp_path, 1, seed=-1)
    with pytest.raises(InputValueError, match="workers must be at least 1, not 0"):
        write_long_videos(tmp_path, 1, workers=0)
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_cannot_be_written_keeps_its_old_content(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("mine")
    with pytest.raises(UnicodeEncodeError):
        synthetic._write_table([("video", "sentence"), ("a.mp4", "a dog"), ("b.mp4", "\ud800")], tmp_path / "train.csv")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_script_without_the_main_guard_gets_an_error_that_names_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom clip4clip.training.synthetic import write_dataset\n"
        f"write_dataset(Path({str(tmp_path)!r}), train=1, evaluation=0, workers=1)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert "clip4clip.errors.TrainingError: a process that draws" in done.stderr
    assert done.stderr.rstrip().endswith('under `if __name__ == "__main__":`')
