"""What is known about a checkpoint file without reading its tensors again: cached by the state of the file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..cache import cache_folder
from ..errors import CheckpointError, first_line
from ..files import atomic_write
from .shards import checkpoint_files

SAMPLES, SAMPLE_BYTES = 256, 4096  # parts of a file's content that its state hashes, and the size of each
INSPECTION_VERSION = 1  # increase it when an inspection finds other values: cached ones are then ignored


@dataclass(frozen=True)
class Inspection:
    """What the tensors of a checkpoint file show.

    Attributes:
        fingerprint: see :func:`clip4clip.weights.fingerprint.compute_fingerprint`.
        head: ``'meanP'``, ``'seqLSTM'`` or ``'seqTransf'``.
        shape: see :func:`clip4clip.weights.state_dict.infer_config`.
    """

    fingerprint: str
    head: str
    shape: Mapping[str, Any]


def inspect_file(path: Path) -> Inspection:
    """Return what a checkpoint file contains, from the cache if the file has not changed.

    Raises:
        CheckpointError: the file cannot be read, is not a CLIP, or has a ``tightTransf`` head.
    """

    def read() -> dict[str, Any]:
        from .checkpoint import read_state_dict  # these modules import torch
        from .fingerprint import compute_fingerprint
        from .state_dict import infer_config, sim_header

        tensors = read_state_dict(path)
        inspection = Inspection(compute_fingerprint(tensors), sim_header(tensors, path), infer_config(tensors))
        return asdict(inspection)

    return Inspection(**_read_cached(path, f"inspection {INSPECTION_VERSION}", set(Inspection.__annotations__), read))


def tower_digest(path: Path, modality: str) -> str:
    """Return a hash of all numbers of a tower, from the cache if the file has not changed.

    Args:
        path: the checkpoint file.
        modality: ``'text'`` or ``'video'``.

    Returns:
        32 hexadecimal digits, see :func:`clip4clip.weights.fingerprint.compute_tower_digest`.

    Raises:
        CheckpointError: the file cannot be read.
    """

    def read() -> dict[str, Any]:
        from .checkpoint import read_state_dict
        from .fingerprint import compute_tower_digest

        return {"digest": compute_tower_digest(read_state_dict(path), modality)}

    return str(_read_cached(path, modality, {"digest"}, read)["digest"])


def file_state(path: Path) -> str:
    """Return 32 hexadecimal digits that change whenever a checkpoint is rewritten or replaced.

    They depend on its inode, its size, its times of modification and of change, and a megabyte of its content. Copying
    can preserve the time of modification, but not the time of change. The content matters where a file system has no
    time of change, as on Windows and in read-only images. Of a sharded checkpoint, all files count.
    """
    digest = hashlib.sha256()
    for file in checkpoint_files(path):
        try:
            digest.update(_state_of(file))
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read as a checkpoint: {first_line(error)}") from error
    return digest.hexdigest()[:32]


def _state_of(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        metadata = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        digest = hashlib.sha256(repr(metadata).encode())
        last_offset = max(status.st_size - SAMPLE_BYTES, 0)
        for number in range(SAMPLES):
            file.seek(last_offset * number // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.digest()


def _read_cached(path: Path, key: str, fields: set[str], read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what ``read`` returns for a file, and cache it for the path and the state of the file.

    Args:
        path: the file.
        key: distinguishes the values that are cached for one file.
        fields: names of the values.
        read: reads the values from the file.
    """
    state = file_state(path)
    name = hashlib.sha256(f"{key} {path.resolve()} {state}".encode(errors="surrogateescape")).hexdigest()[:32]
    with contextlib.suppress(OSError, ValueError):  # a damaged entry is not JSON
        values = json.loads((cache_folder() / "inspections" / name).read_text("utf-8"))
        if isinstance(values, dict) and values.keys() == fields:
            return values
    values = read()
    # If the cache cannot be written, or the file not be read any more, it is read again the next time.
    with contextlib.suppress(OSError, CheckpointError):
        if file_state(path) != state:
            return values  # the file was replaced meanwhile, and the values may belong to either version
        cached = cache_folder() / "inspections" / name
        cached.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(cached) as temporary:
            temporary.write_text(json.dumps(values), "utf-8")
    return values
