"""Show the progress of a command on standard error, and stop it on Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.status import Status
from rich.text import Text

from ..index.hit import format_time
from .console import err, plain

if TYPE_CHECKING:
    from ..library.sources import Video

SPEED_PERIOD = 300.0  # seconds over which the speed is averaged; long, because videos come in batches
INTERRUPTED = 130  # exit code of a command that was stopped by Ctrl-C


class ProgressTracker:
    """The progress bars of a command, and whether the user has pressed Ctrl-C.

    Attributes:
        stopped: set by Ctrl-C in a block of :func:`interruptible_progress`.
    """

    def __init__(self, progress: Progress) -> None:
        self.stopped = threading.Event()
        self._progress = progress
        self._task: TaskID | None = None

    def track(self, items: Iterable[Any], total: int, description: str) -> Iterator[Any]:
        """Yield items and advance a progress bar. The functions of this package take this method as ``track``.

        Args:
            items: what to iterate over.
            total: number of items; 0 when it is not known.
            description: text in front of the bar.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed during the previous item. The signal handler raises it too, but that
                exception is lost if a callback from C code is running.
        """
        self._task = self._progress.add_task(plain(description), total=total or None)
        for item in self._progress.track(items, total or None, task_id=self._task):
            self.describe(description)  # again, as it may have been replaced
            yield item
            if self.stopped.is_set():
                raise KeyboardInterrupt

    def describe(self, description: str) -> None:
        """Replace the text in front of the current bar."""
        if self._task is not None:
            self._progress.update(self._task, description=plain(description))

    def describe_position(self, video: Video, seconds: float, duration: float | None) -> None:
        """Show how much of a long video is done. Functions take this method as ``report_position``."""
        total = "" if duration is None else f" of {format_time(duration)}"
        self.describe(f"embedding {Path(video.path).name}, {format_time(seconds)}{total}")

    def exit_if_stopped(self, summary: str) -> None:
        """End the command with exit code 130 if Ctrl-C was pressed, and print what is kept."""
        if self.stopped.is_set():
            err.print(f"stopped: {summary}", highlight=False)
            raise typer.Exit(INTERRUPTED)


def make_progress(speed_unit: str | None = None) -> Progress:
    """Return progress bars on standard error, which disappear when the work is done.

    Args:
        speed_unit: such as ``'videos/s'``, to show the speed as well.
    """
    columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn()]
    columns += [MofNCompleteColumn(), *([_SpeedColumn(speed_unit)] if speed_unit else []), TimeRemainingColumn()]
    return Progress(*columns, console=err, transient=True, speed_estimate_period=SPEED_PERIOD)


@contextlib.contextmanager
def progress_bars(speed_unit: str | None = None) -> Iterator[ProgressTracker]:
    """Show progress bars while the block runs. Ctrl-C ends the command.

    Args:
        speed_unit: such as ``'videos/s'``, to show the speed as well.
    """
    with make_progress(speed_unit) as progress:
        yield ProgressTracker(progress)


@contextlib.contextmanager
def interruptible_progress(speed_unit: str | None = None) -> Iterator[ProgressTracker]:
    """Show progress bars while the block runs. Ctrl-C ends only the block, so that finished work can be kept.

    After the block, see :meth:`ProgressTracker.exit_if_stopped`.

    Args:
        speed_unit: such as ``'videos/s'``, to show the speed as well.
    """
    stopped = threading.Event()

    def stop(*_: object) -> None:
        stopped.set()
        raise KeyboardInterrupt

    previous_handler = signal.signal(signal.SIGINT, stop)
    try:
        # Ctrl-C may also strike while the bars are removed: everything is within the try statement.
        with progress_bars(speed_unit) as tracker:
            tracker.stopped = stopped
            yield tracker
    except KeyboardInterrupt:
        stopped.set()
    finally:
        signal.signal(signal.SIGINT, previous_handler)


def loading_status(model: str | None) -> Status:
    """Return a context manager that shows that a model is being loaded; None for one without a name."""
    return err.status(f"loading {plain(model or 'the model')}")


class _SpeedColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self._unit}" if task.speed else "")
