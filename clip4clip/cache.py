"""The folder for everything that is computed from checkpoints. It can be deleted at any time."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import CacheError, first_line


def is_cache_writable() -> bool:
    """Return whether :func:`cache_folder` can be written to. Create it if it does not exist."""
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def cache_folder() -> Path:
    """Return ``$CLIP4CLIP_CACHE`` or, if it is not set, the folder ``clip4clip`` in the user's cache folder.

    Raises:
        CacheError: the folder is in a home folder that cannot be determined.
    """
    try:
        return _configured_or_default().expanduser()
    except RuntimeError as error:
        reason = first_line(error).removesuffix(".")
        raise CacheError(
            f"cannot find {cache_name()}: {reason}. Set CLIP4CLIP_CACHE to a folder that exists"
        ) from error


def cache_name() -> str:
    """Return the name of :func:`cache_folder` for a message, even if the folder cannot be determined."""
    try:
        return str(_configured_or_default())
    except RuntimeError:
        return "the user's cache folder"


def _configured_or_default() -> Path:
    configured = os.environ.get("CLIP4CLIP_CACHE")
    if configured:
        return Path(configured)
    from platformdirs import user_cache_path  # only here: benchmarks/gpu.py also runs without it

    return user_cache_path("clip4clip", appauthor=False)
