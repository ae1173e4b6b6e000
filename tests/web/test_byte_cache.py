"""Tests for clip4clip.web.byte_cache."""

from __future__ import annotations

import pytest

from clip4clip.web.byte_cache import ENTRY_BYTES, ByteCache


def test_what_was_not_asked_for_the_longest_is_dropped() -> None:
    cache = ByteCache(3 * ENTRY_BYTES + 30)
    for key in "abc":
        cache.put(key, key.encode() * 10)
    assert cache.get("a") == b"a" * 10
    cache.put("d", b"d" * 10)
    assert [cache.get(key) for key in "abcd"] == [b"a" * 10, None, b"c" * 10, b"d" * 10]
    cache.put("a", b"a" * 11)  # one byte too many: c is the oldest now, as a was asked for before it
    assert [cache.get(key) for key in "cda"] == [None, b"d" * 10, b"a" * 11]


@pytest.mark.parametrize("size", [0, 10])
def test_the_limit_counts_bytes_and_keys(size: int) -> None:
    cache = ByteCache(20 * (ENTRY_BYTES + size))
    for key in range(1000):
        cache.put(key, bytes(size))
        cache.put(key, bytes(size))  # counted once
    assert sum(cache.get(key) is not None for key in range(1000)) == 20
    cache.put("large", bytes(100_000))
    assert cache.get("large") is None
