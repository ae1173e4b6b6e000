"""Threads in forked processes: pools that are there, and torch that does not wait for threads of the parent."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def thread_pool(name: str, count: int) -> ThreadPoolExecutor:
    """So many threads of this process, the same for the same name: those of its parent did not come along."""
    return _pool(name, count, os.getpid())


@functools.cache
def _pool(name: str, count: int, process: int) -> ThreadPoolExecutor:  # noqa: ARG001
    return ThreadPoolExecutor(count, thread_name_prefix=f"clip4clip-{name}")


def fork_safe(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Wrap a function that computes with torch, so that it can be called in a forked process.

    OpenMP keeps a team of threads for each thread that computes. The thread that survives a fork still has the team of
    the parent, whose threads are gone, and would wait for them forever. A new thread gets a team of its own, so there
    a new thread computes in its place.
    """

    @functools.wraps(function)
    def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        if threading.get_ident() != _survivor:
            return function(*args, **kwargs)
        return thread_pool("forked", 1).submit(function, *args, **kwargs).result()

    return call


_survivor: int | None = None  # in a forked process, the thread that called fork


def _after_fork() -> None:
    global _survivor
    _survivor = threading.get_ident()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
