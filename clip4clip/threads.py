"""Pools of threads that are there in forked processes, too."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor


def thread_pool(name: str, count: int) -> ThreadPoolExecutor:
    """So many threads of this process, the same for the same name: those of its parent did not come along."""
    return _pool(name, count, os.getpid())


@functools.cache
def _pool(name: str, count: int, process: int) -> ThreadPoolExecutor:  # noqa: ARG001
    return ThreadPoolExecutor(count, thread_name_prefix=f"clip4clip-{name}")
