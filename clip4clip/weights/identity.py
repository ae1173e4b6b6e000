"""Identify checkpoints: by their weights, and by the state of their files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..cache import cache_folder
from ..files import atomic_write
from .locate import Reference, locate

SAMPLES, SAMPLE_BYTES = 256, 4096  # parts of a file's content that its state hashes, and the size of each
# What a cached line looks like.
_INFO = re.compile(r"([0-9a-f]{16}) (meanP|seqLSTM|seqTransf)")
_DIGEST = re.compile(r"([0-9a-f]{32})")


@dataclass(frozen=True)
class Identity:
    """What has to be equal for two vectors to be comparable: the model and its weights.

    Attributes:
        model: key of :data:`clip4clip.config.MODELS`.
        fingerprint: see :func:`clip4clip.weights.fingerprint.compute_fingerprint`.
    """

    model: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.model} with the weights {self.fingerprint}"


def identify(weights: Reference | None, model_name: str) -> Identity:
    """Return the identity of a checkpoint, and download it if necessary.

    Args:
        weights: as for :func:`clip4clip.weights.locate.locate`.
        model_name: key of :data:`clip4clip.config.MODELS`.

    Raises:
        UnknownNameError: there is no such model.
        WeightsNotFoundError: there is no such file.
        CheckpointError: the file is not a checkpoint of the model.
    """
    return Identity(model_name, inspect_checkpoint(locate(weights, model_name), model_name).fingerprint)


@dataclass(frozen=True)
class CheckpointInfo:
    """What is known about a checkpoint without reading its tensors again.

    Attributes:
        fingerprint: see :func:`clip4clip.weights.fingerprint.compute_fingerprint`.
        head: ``'meanP'``, ``'seqLSTM'`` or ``'seqTransf'``.
    """

    fingerprint: str
    head: str


def inspect_checkpoint(path: Path, model_name: str) -> CheckpointInfo:
    """Return the fingerprint and the head of a checkpoint file, from the cache if the file has not changed.

    Raises:
        CheckpointError: the file cannot be read, has another shape than the model, or has a ``tightTransf`` head.
    """

    def read() -> tuple[str, ...]:
        from .checkpoint import read_state_dict  # these modules import torch
        from .fingerprint import compute_fingerprint
        from .state_dict import check_shape, sim_header

        tensors = read_state_dict(path)
        check_shape(tensors, model_name, path)
        return compute_fingerprint(tensors), sim_header(tensors, path)

    return CheckpointInfo(*_read_cached(path, model_name, _INFO, read))


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

    def read() -> tuple[str, ...]:
        from .checkpoint import read_state_dict
        from .fingerprint import compute_tower_digest

        return (compute_tower_digest(read_state_dict(path), modality),)

    return _read_cached(path, modality, _DIGEST, read)[0]


def file_state(path: Path) -> str:
    """Return 32 hexadecimal digits that change whenever a file is rewritten or replaced.

    They depend on its inode, its size, its times of modification and of change, and a megabyte of its content. Copying
    can preserve the time of modification, but not the time of change. The content matters where a file system has no
    time of change, as on Windows and in read-only images.
    """
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        metadata = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        digest = hashlib.sha256(repr(metadata).encode())
        last_offset = max(status.st_size - SAMPLE_BYTES, 0)
        for number in range(SAMPLES):
            file.seek(last_offset * number // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def _read_cached(path: Path, key: str, line: re.Pattern[str], read: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    """Return what ``read`` returns for a file, and cache it for the path and the state of the file.

    Args:
        path: the file.
        key: distinguishes the values that are cached for one file.
        line: pattern of the cached line, with one group for each value.
        read: reads the values from the file.
    """
    state = file_state(path)
    name = hashlib.sha256(f"{key} {path.resolve()} {state}".encode(errors="surrogateescape")).hexdigest()[:32]
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if match := line.fullmatch((cache_folder() / "inspections" / name).read_text("utf-8")):
            return match.groups()
    values = read()
    with contextlib.suppress(OSError):  # if the cache cannot be written, the file is read again the next time
        if file_state(path) != state:
            return values  # the file was replaced meanwhile, and the values may belong to either version
        cached = cache_folder() / "inspections" / name
        cached.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(cached) as temporary:
            temporary.write_text(" ".join(values), "utf-8")
    return values
