"""The files of a checkpoint: one, or the shards that an index names.

transformers writes ``model.safetensors.index.json`` or ``pytorch_model.bin.index.json`` beside the shards. Nothing in
this module imports torch.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import CheckpointError, brief, first_line
from .json_section import read_json

MAX_TENSORS = 10_000  # of a checkpoint; a CLIP has a few hundred
MAX_INDEX_BYTES = 2**22  # four times what so many tensors need
MAX_SHARDS = 100
INDEX_SUFFIX = ".index.json"
# A name without a folder that begins with a letter or digit: no path, and no name that Windows reads as something else.
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.(safetensors|bin|pt|pth)")


def is_index(path: Path) -> bool:
    """Return whether a checkpoint file is the index of a sharded one, by its name."""
    return path.name.endswith(INDEX_SUFFIX)


def checkpoint_files(path: Path) -> list[Path]:
    """Return the files of a checkpoint: the file itself or, of a sharded checkpoint, its index and its shards.

    Raises:
        CheckpointError: the index is invalid, or a shard is missing.
    """
    if not is_index(path):
        return [path]
    try:
        return [path, *(path.parent / shard for shard in sorted(set(read_index(path).values())))]
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {first_line(error)}") from error


def shard_names(path: Path) -> list[str]:
    """Return the names of the shards of a checkpoint, which need not exist yet; none if it is not sharded.

    Raises:
        CheckpointError: the index is invalid.
    """
    if not is_index(path):
        return []
    try:
        return sorted(set(_parse_index(path).values()))
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {first_line(error)}") from error


def read_index(path: Path) -> dict[str, str]:
    """Return the name of the shard of each tensor. All kinds of errors can be raised.

    Raises:
        ValueError: the index is invalid, or a shard is missing.
    """
    shards = _parse_index(path)
    for shard in sorted(set(shards.values())):
        if not (path.parent / shard).is_file():
            raise ValueError(f"its shard {shard} is missing in the folder {path.parent}")
    return shards


def _parse_index(path: Path) -> dict[str, str]:
    content = read_json(path, MAX_INDEX_BYTES)
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise ValueError("it has no weight_map, as the index of a sharded checkpoint has")
    if len(shards) > MAX_TENSORS:
        raise ValueError(f"it lists {len(shards):,} tensors; {MAX_TENSORS:,} are read at most")
    for shard in shards.values():
        if not (isinstance(shard, str) and _SHARD_NAME.fullmatch(shard)):
            raise ValueError(f"{brief(shard)} is not the name of a shard: it must be a file in the same folder")
    if len(set(shards.values())) > MAX_SHARDS:
        raise ValueError(f"it has more than {MAX_SHARDS} shards, the limit")
    return shards
