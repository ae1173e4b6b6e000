"""Forked processes, and a limit of this one that stands in for a full disk."""

from __future__ import annotations

import os
import pickle
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

TIMEOUT = 300  # seconds

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def in_a_fork(function: Callable[[], object]) -> object:
    """Return what a function returns, or the error it raises, in a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                result = function()
            except Exception as error:
                result = error
            with open(writer, "wb") as file:  # noqa: PTH123  a descriptor
                pickle.dump(result, file)
        finally:
            os._exit(0)
    os.close(writer)
    parts = []
    try:
        with open(reader, "rb", buffering=0) as file:  # noqa: PTH123
            while True:
                assert select.select([file], [], [], TIMEOUT)[0], "the forked process hangs"
                parts.append(file.read(2**16))
                if not parts[-1]:
                    break
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return pickle.loads(b"".join(parts))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let this process write no file larger than ``size`` bytes. Such a write fails as on a full disk."""
    resource = pytest.importorskip("resource", reason="Windows has no limit on the size of files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
