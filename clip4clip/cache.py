"""The folder for everything that is computed from checkpoints and can be deleted at any time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .errors import CacheError, first_line


def is_cache_writable() -> bool:
    """Whether something can be kept in :func:`cache_folder`; makes it if there is none."""
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def cache_folder() -> Path:
    """Where what is made from checkpoints is kept: ``$CLIP4CLIP_CACHE``, or ``clip4clip`` in the user's cache folder.

    Everything in it can be deleted at any time: it is made again.

    Raises:
        CacheError: when its name begins with a home folder that there is none of.
    """
    try:
        return Path(cache_name()).expanduser()
    except RuntimeError as error:
        raise CacheError(
            f"nothing can be kept in {cache_name()}: {first_line(error)} Set CLIP4CLIP_CACHE to a folder that there is"
        ) from error


def cache_name() -> str:
    """:func:`cache_folder` as it is named, which may begin with ``~``."""
    if chosen := os.environ.get("CLIP4CLIP_CACHE"):
        return chosen
    usual = "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return f"{usual}/clip4clip"
