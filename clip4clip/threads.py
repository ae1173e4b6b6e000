"""Threads that also work in forked processes: thread pools, and computation with torch."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def thread_pool(name: str, size: int) -> ThreadPoolExecutor:
    """Return a thread pool of this process, the same for the same name and size.

    A forked process gets pools of its own: the threads of its parent do not exist in it.
    """
    return _thread_pool_of(os.getpid(), name, size)


@functools.cache
def _thread_pool_of(process_id: int, name: str, size: int) -> ThreadPoolExecutor:  # noqa: ARG001  a key of the cache
    return ThreadPoolExecutor(size, thread_name_prefix=f"clip4clip-{name}")


class ForkSafeLock:
    """A lock that is free in a forked process, where the thread that held it does not exist."""

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}

    def acquire(self, timeout: float = -1) -> bool:
        """Return whether the lock was acquired within a number of seconds; -1 waits forever."""
        return self._of_process().acquire(timeout=timeout)

    def release(self) -> None:
        """Release the lock."""
        self._of_process().release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _of_process(self) -> threading.Lock:
        return self._locks.setdefault(os.getpid(), threading.Lock())


def fork_safe(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Wrap a function that computes with torch, so that it can be called in a forked process.

    OpenMP keeps a team of threads for each thread that computes. In a forked process only the thread that called fork
    exists. It still has its team, but the threads of the team are gone, and it would wait for them forever. So the
    function runs in a new thread, which gets a new team.
    """

    @functools.wraps(function)
    def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        if threading.get_ident() != _forking_thread:
            return function(*args, **kwargs)
        return thread_pool("forked", 1).submit(function, *args, **kwargs).result()

    return call


_forking_thread: int | None = None  # in a forked process, the thread that called fork


def _remember_forking_thread() -> None:
    global _forking_thread
    _forking_thread = threading.get_ident()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_remember_forking_thread)
