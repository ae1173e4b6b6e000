"""Files that are there whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Another name beside ``path`` to write to: after the block the file takes its place, unless there was an error."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        yield fresh
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def remove_unfinished(paths: Iterable[Path]) -> None:
    """Removes what :func:`whole_file` leaves behind for these files in a process that is killed."""
    for path in paths:
        for left in path.parent.glob(f".{path.name}.[0-9]*"):
            left.unlink(missing_ok=True)
