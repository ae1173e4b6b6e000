"""A cache that is limited by the bytes of what it holds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

ENTRY_BYTES = 1000  # counted for an entry besides its value: its key has the path of a file


class ByteCache:
    """A cache of bytes that drops those not asked for the longest. Safe to use from several threads at once.

    Args:
        max_bytes: bytes of all values together, and ``ENTRY_BYTES`` for each.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._values: OrderedDict[Hashable, bytes] = OrderedDict()  # the one asked for last at the end
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> bytes | None:
        """Return the value of a key; None if it is not there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: bytes) -> None:
        """Add a value, or replace it."""
        with self._lock:
            self._bytes += len(value) + ENTRY_BYTES
            if key in self._values:
                self._bytes -= len(self._values.pop(key)) + ENTRY_BYTES
            self._values[key] = value
            while self._bytes > self._max_bytes:
                _, dropped = self._values.popitem(last=False)
                self._bytes -= len(dropped) + ENTRY_BYTES
