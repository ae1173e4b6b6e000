"""A fixed number of daemon threads for the blocking work of an asynchronous server."""

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
    """Threads that run blocking functions for asyncio code, one function each at a time. Further calls wait.

    The threads are daemons, unlike those of ``ThreadPoolExecutor`` and anyio: a decoder or an index that hangs cannot
    keep the process from exiting.

    Args:
        count: number of threads.
    """

    def __init__(self, count: int) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        for _ in range(count):
            threading.Thread(target=self._work, name="clip4clip-worker", daemon=True).start()

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return ``function(*arguments)``, run by one of the threads; an exception is raised here.

        If the caller is cancelled, a function that still waits is not run. One that is running runs to its end, and
        its result is dropped.
        """
        future: Future[T] = Future()
        self._queue.put((future, functools.partial(function, *arguments)))
        return await asyncio.wrap_future(future)

    def _work(self) -> None:
        while True:
            _run(*self._queue.get())


# A function of its own, so that a waiting thread holds no reference to the result of its last call.
def _run(future: Future[Any], function: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)
