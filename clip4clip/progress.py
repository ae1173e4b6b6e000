"""How long-running functions report progress: through a callback that wraps an iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""Wrap an iteration to show its progress. Called with the items, their number and a description of the work, such as
``"embedding videos"``; returns an iterable over the same items."""


def no_progress(items: Iterable[Any], total: int, description: str) -> Iterable[Any]:  # noqa: ARG001
    """Return the items unchanged: the :data:`Track` that shows nothing."""
    return items
