"""The command ``eval``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

from clip4clip import InputValueError


def test_metrics_are_printed_as_a_table_and_written_as_json_and_as_a_picture(
    run: Callable[..., Result], tiny_checkpoint: Path, drawings: Path, tmp_path: Path
) -> None:
    metrics, picture = tmp_path / "metrics.json", tmp_path / "ranks.png"
    arguments = ["eval", drawings / "eval.csv", "--videos", drawings, "-n", 2, "-m", "tiny", "-w", tiny_checkpoint]
    result = run(*arguments, "--json", metrics, "--histogram", picture)
    assert result.exit_code == 0
    for word in ("24 sentences, 24 videos", "R@1", "R@5", "R@10", "MdR", "MnR", "text → video", "video → text"):
        assert word in result.stdout
    written = json.loads(metrics.read_text("utf-8"))
    assert (written["pairs"], written["videos"], written["failed"]) == (24, 24, {})
    assert f"{written['text_to_video']['mean_rank']:.1f}" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(run(*arguments, "--json", "-").stdout) == written


def test_videos_that_cannot_be_decoded_are_listed(
    run: Callable[..., Result], tiny_checkpoint: Path, drawings: Path, tmp_path: Path
) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("video,sentence\neval/0-000000.mp4,a\ngone,b\n")
    result = run("eval", table, "--videos", drawings, "-n", 2, "-m", "tiny", "-w", tiny_checkpoint)
    assert result.exit_code == 1
    assert "missed" in result.stderr
    assert "gone: there is no such file" in result.stderr.replace("\n", "")
    assert "1 of 2 videos failed and count as misses" in result.stderr


def test_outputs_are_checked_before_the_work(run: Callable[..., Result], drawings: Path, tmp_path: Path) -> None:
    for option in ("--json", "--histogram"):
        result = run("eval", drawings / "eval.csv", "--videos", drawings, option, tmp_path / "no" / "such")
        assert result.exit_code == 2
        assert option in result.stderr
    picture = tmp_path / "ranks.bmp"
    result = run("eval", drawings / "eval.csv", "--videos", drawings, "-w", "nowhere.pt", "--histogram", picture)
    assert isinstance(result.exception, InputValueError)
    assert "ranks.bmp" in str(result.exception)


def test_a_table_that_does_not_exist_is_an_error(error_of: Callable[..., str]) -> None:
    assert "no table at nowhere.csv" in error_of("eval", "nowhere.csv", "--videos", ".")


def test_sentences_can_be_cut_as_in_the_paper(
    run: Callable[..., Result], tiny_checkpoint: Path, drawings: Path, tmp_path: Path
) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("video,sentence\neval/0-000000.mp4,a red dog runs\neval/0-000001.mp4,a red cat sleeps\n")
    arguments = ["eval", table, "--videos", drawings, "-n", 1, "-m", "tiny", "-w", tiny_checkpoint, "--json", "-"]
    whole, cut = (json.loads(run(*arguments, *option).stdout) for option in ((), ("--max-words", 4)))
    # Cut to the start mark, "a", "red" and the end mark, the two sentences are equal and share a rank.
    assert cut["text_to_video"]["mean_rank"] == 1.5
    assert whole != cut
    assert run(*arguments, "--max-words", 2).exit_code == 2
