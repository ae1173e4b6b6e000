"""The command ``synthetic``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clip4clip.training import synthetic

# Runs the command line; after 20 clips it waits for a signal.
STOP_AFTER_20_CLIPS = """
import threading
from clip4clip.cli import main
from clip4clip.cli.progress import ProgressTracker
def track_and_wait(self, items, total, description):
    for number, item in enumerate(items, 1):
        yield item
        if number == 20:
            print("reached", flush=True)
            threading.Event().wait()
ProgressTracker.track = track_and_wait
if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_keeps_the_clips_that_are_drawn(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # the processes that draw import it
    script.write_text(STOP_AFTER_20_CLIPS)
    command = [sys.executable, script, "synthetic", tmp_path, "--train", "3000", "--eval", "0", "--workers", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "reached\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: also to the processes that draw
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    clips = list((tmp_path / "train").iterdir())
    assert len(clips) >= 20
    assert all(clip.suffix == ".mp4" and not clip.name.startswith(".") for clip in clips)
    assert not (tmp_path / "train.csv").exists()


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (["--long", 2], [("long", 2)]),
        (["--long", 2, "--eval", 3], [("clips", 0, 3), ("long", 2)]),
        (["--train", 4], [("clips", 4, 500)]),
        ([], [("clips", 24_000, 500)]),
    ],
)
def test_long_videos_are_drawn_instead_of_clips_unless_both_are_wanted(
    options: list[object],
    written: list[tuple],
    run_main: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    calls: list[tuple] = []

    def write_dataset(folder: Path, train: int, evaluation: int, *_: object) -> list[Path]:
        calls.append(("clips", train, evaluation))
        return [folder / "eval.csv"]

    def write_long_videos(folder: Path, count: int, *_: object, **__: object) -> Path:
        calls.append(("long", count))
        return folder / "long.csv"

    monkeypatch.setattr(synthetic, "write_dataset", write_dataset)
    monkeypatch.setattr(synthetic, "write_long_videos", write_long_videos)
    code, _, errors = run_main("synthetic", tmp_path, *options)
    assert (code, calls) == (0, written)
    assert ("long.csv" in errors) == (("long", 2) in written)


@pytest.mark.parametrize("option", ["--seed", "--workers", "--long"])
def test_negative_numbers_are_errors(option: str, error_of: Callable[..., str], tmp_path: Path) -> None:
    assert option in error_of("synthetic", tmp_path, option, -1)
