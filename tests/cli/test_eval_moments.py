"""The command ``eval-moments``, with the demo model on a drawn video of 40 seconds."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from constants import DEMO_MODEL
from typer.testing import Result

from clip4clip import LibraryError, PairsError
from clip4clip.training import synthetic
from clip4clip.training.scenes import long_videos


@pytest.fixture(scope="module")
def moments(build_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A folder with a table of moments, ``long.csv``, and the drawn video that it describes."""

    def draw(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                synthetic, "long_videos", lambda count, seed, held_out: long_videos(count, seed, held_out, seconds=40)
            )
            synthetic.write_long_videos(folder, 1, workers=1)

    return build_once("moments", draw)


def arguments(table: Path, videos: Path) -> list[object]:
    return ["eval-moments", table, "--videos", videos, "-m", DEMO_MODEL, "-d", "cpu", "--runtime", "torch"]


def test_moments_of_a_drawn_video_are_found_and_every_result_is_kept(
    run: Callable[..., Result], moments: Path, tmp_path: Path
) -> None:
    table, output = moments / "long.csv", tmp_path / "results.json"
    result = run(*arguments(table, moments), "--every", 0.5, "--json", output)
    assert result.exit_code == 0, result.output
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for word in (f"{len(rows)} sentences, 1 videos", "R@1", "R@5", "mAP", "average", "within the video", "all videos"):
        assert word in result.stdout
    assert "the best segment of the video, whatever its rank: 100.0 % at an IoU of 0.5" in result.stderr
    written = json.loads(output.read_text("utf-8"))
    assert (written["sentences"], written["videos"], written["uncut"]) == (len(rows), 1, 0)
    assert written["within_video"] == written["all_videos"]  # there is only one video
    assert written["within_video"]["recall_at_1_iou_50"] >= 70
    assert f"{written['within_video']['map_average']:.1f}" in result.stdout
    for row, found in zip(rows, written["results"], strict=True):
        assert (found["video"], found["sentence"]) == (row["video"], row["sentence"])
        assert found["windows"] == [[float(row["start"]), float(row["end"])]]
        assert found["within_video"]["predictions"][0]["video"] == row["video"]
    ranks = [found["within_video"]["rank"]["iou_0.5"] for found in written["results"]]
    assert written["within_video"]["recall_at_1_iou_50"] == pytest.approx(100 * ranks.count(1) / len(rows))


def test_vectors_are_kept_and_used_again(
    run: Callable[..., Result], moments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = tmp_path / "vectors.parquet"
    command = [*arguments(moments / "long.csv", moments), "--vectors", vectors, "--json", "-"]
    first = run(*command)
    assert first.exit_code == 0, first.output
    written = vectors.stat().st_mtime_ns
    again = run(*command)
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert vectors.stat().st_mtime_ns == written
    other = run(*command, "--segments", 10)
    assert isinstance(other.exception, LibraryError)
    assert "was made with" in str(other.exception)


def test_missing_videos_and_unusable_moments_are_named(
    run: Callable[..., Result], moments: Path, tmp_path: Path
) -> None:
    shutil.copy(next((moments / "long").iterdir()), tmp_path / "here.mp4")
    table = tmp_path / "charades.txt"
    table.write_text("here 0 40##a red square\nhere 9 4##a blue circle\ngone 0 6##a red square\n")
    result = run(*arguments(table, tmp_path), "--segments", "whole")
    assert result.exit_code == 1
    assert "2 sentences, 2 videos, 1 segments" in result.stdout
    errors = result.stderr.replace("\n", "")
    assert "missed" in errors
    assert "gone: there is no such file" in errors
    assert "1 of 2 videos failed and count as misses" in errors
    assert "line 2: its window does not end after its start: 9 s to 4 s" in errors
    assert "1 of 2 videos were not cut into segments: see --segments" in errors


def test_tables_and_outputs_are_checked_before_the_work(run: Callable[..., Result], tmp_path: Path) -> None:
    table = tmp_path / "moments.csv"
    table.write_text("video,sentence\na,b\n")
    result = run(*arguments(table, tmp_path), "-w", "nowhere.pt")
    assert isinstance(result.exception, PairsError)
    assert "the columns video, sentence, start and end" in str(result.exception)
    for option in ("--json", "--vectors"):
        result = run(*arguments(table, tmp_path), option, tmp_path / "no" / "such")
        assert result.exit_code == 2
        assert option in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vectors", "vectors.parquet"], "stopped: finished videos are kept in"),
        ([], "stopped: no vectors are kept; --vectors FILE.parquet keeps them"),
    ],
)
def test_ctrl_c_says_what_is_kept(
    options: list[str],
    message: str,
    run: Callable[..., Result],
    moments: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("clip4clip.library.embed.embed_library", interrupt)
    result = run(*arguments(moments / "long.csv", moments), *options)
    assert result.exit_code == 130
    assert message in result.stderr.replace("\n", " ")
