"""Threads for blocking work of a web server: so many, and none that keeps the process from ending."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Workers:
    """Threads that do blocking work, one piece each at a time; what is more waits, and holds no thread meanwhile.

    They are daemons, unlike those of ``ThreadPoolExecutor`` and anyio: a decoder or a server that does not return
    cannot keep the process from ending.

    Args:
        count: how many threads.
    """

    def __init__(self, count: int) -> None:
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        for _ in range(count):
            threading.Thread(target=self._work, name="clip4clip-worker", daemon=True).start()

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return what ``work(*arguments)`` returns, or raise what it raises.

        Work that is cancelled before its turn is not done; from then on it is done to its end, and nobody waits for it.
        """
        result: Future[T] = Future()
        self._waiting.put((result, functools.partial(work, *arguments)))
        return await asyncio.wrap_future(result)

    def _work(self) -> None:
        while True:
            _do(*self._waiting.get())


def _do(result: Future[Any], work: Callable[[], Any]) -> None:
    if result.set_running_or_notify_cancel():
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)
