"""Progress bars, and Ctrl-C while they are shown."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

import pytest
import typer

from clip4clip.cli.progress import ProgressTracker, interruptible_progress, make_progress, progress_bars
from clip4clip.library.sources import Video


def test_a_bar_yields_all_items() -> None:
    with progress_bars() as progress:
        assert list(progress.track("abc", 3, "reading")) == ["a", "b", "c"]
        assert list(progress.track(iter("ab"), 0, "reading without a known number")) == ["a", "b"]
        assert not progress.stopped.is_set()
        progress.exit_if_stopped("nothing")


def test_a_bar_shows_its_description_without_reading_it_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    progress = make_progress("videos/s")
    tracker = ProgressTracker(progress)
    for item in tracker.track(["[red]a.mp4", "b\n.mp4"], 2, "embedding"):
        tracker.describe(item)
        progress.console.print(progress.get_renderable())
    printed = capsys.readouterr().err
    assert "[red]a.mp4" in printed
    assert r"b\n.mp4" in printed
    assert "0/2" in printed


def test_a_bar_shows_how_much_of_a_long_video_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    progress = make_progress()
    tracker = ProgressTracker(progress)
    video = Video("1", "/videos/holiday.mp4", None, None)
    lines = []
    for item in tracker.track(range(3), 3, "embedding"):
        if item < 2:
            tracker.describe_position(video, 750.5, 3600 if item else None)
        progress.console.print(progress.get_renderable())
        lines.append(capsys.readouterr().err)
    assert "embedding holiday.mp4, 12:30 " in lines[0]
    assert "embedding holiday.mp4, 12:30 of 1:00:00 " in lines[1]
    assert "embedding " in lines[2]
    assert "holiday" not in lines[2]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_the_block_and_the_command_says_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    done = []
    handler = signal.getsignal(signal.SIGINT)
    with interruptible_progress() as progress:
        for item in progress.track(range(5), 5, "working"):
            done.append(item)
            if item == 2:
                signal.raise_signal(signal.SIGINT)
    assert done == [0, 1, 2]
    assert progress.stopped.is_set()
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(typer.Exit) as end:
        progress.exit_if_stopped("3 of 5 are done")
    assert end.value.exit_code == 130
    assert "stopped: 3 of 5 are done" in capsys.readouterr().err


def test_ctrl_c_whose_exception_is_lost_ends_the_block_after_the_item() -> None:
    done = []
    with interruptible_progress() as progress:
        for item in progress.track(range(5), 5, "working"):
            done.append(item)
            if item == 2:
                progress.stopped.set()
    assert done == [0, 1, 2]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_in_bars_that_are_not_interruptible_is_raised() -> None:
    with pytest.raises(KeyboardInterrupt), progress_bars() as progress:
        _interrupt_in_first_item(progress.track(range(5), 5, "working"))


def _interrupt_in_first_item(items: Iterable[int]) -> None:
    for item in items:
        assert item == 0
        signal.raise_signal(signal.SIGINT)
