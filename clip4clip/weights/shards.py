"""The files of a checkpoint: one, or an index and the shards that it names."""

from __future__ import annotations

from pathlib import Path


def checkpoint_files(path: Path) -> list[Path]:
    """Return the files of a checkpoint."""
    return [path]
