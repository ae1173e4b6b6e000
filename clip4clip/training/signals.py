"""Turn Ctrl-C and SIGTERM into an event. The training loop checks it after every step, saves its state and ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from rich.progress import Progress

from ..progress import Track

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(Exception):
    """Raised within an evaluation when the run was asked to stop."""


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets. A second Ctrl-C raises KeyboardInterrupt at once.

    Python handles signals in the main thread only: in another thread nothing sets the event.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, _: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    handlers = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def ignore_signals(_: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a process that decodes.

    Terminals, ``timeout`` and torchrun signal the whole process group. The training process still needs its decoders to
    finish the step.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def track_until_stopped(bars: Progress, stop: threading.Event) -> Track:
    """Return a callback that shows an iteration as a bar, removes the bar at its end, and raises when asked to stop.

    Raises:
        StoppedError: raised by the iteration once ``stop`` is set.
    """

    def track(items: Iterable[Any], total: int, description: str) -> Iterator[Any]:
        task = bars.add_task(description, total=total)
        try:
            for item in bars.track(items, total, task_id=task):
                if stop.is_set():
                    raise StoppedError
                yield item
        finally:
            bars.remove_task(task)

    return track
