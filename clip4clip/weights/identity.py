"""Tell checkpoints apart: fingerprints of weights, and states of files."""

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

_INSPECTION = re.compile(r"([0-9a-f]{16}) (meanP|seqLSTM|seqTransf)")
_DIGEST = re.compile(r"([0-9a-f]{32})")
_SAMPLES, _SAMPLE_BYTES = 256, 4096  # of a file's content, in its state


@dataclass(frozen=True)
class Identity:
    """Which vectors can be compared: those of one model with the same weights.

    Attributes:
        model: key of :data:`clip4clip.config.MODELS`.
        fingerprint: of the weights, 16 hexadecimal digits; the same for the same numbers in another kind of file.
    """

    model: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.model} with the weights {self.fingerprint}"


def identify(weights: Reference | None, model_name: str) -> Identity:
    """The identity of a checkpoint; arguments and errors are those of :func:`locate` and :func:`inspect`."""
    return Identity(model_name, inspect(locate(weights, model_name), model_name).fingerprint)


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint file is, beside its numbers.

    Attributes:
        fingerprint: see :func:`clip4clip.weights.checkpoint.fingerprint`.
        head: ``'meanP'``, ``'seqLSTM'`` or ``'seqTransf'``.
    """

    fingerprint: str
    head: str


def file_state(path: Path) -> str:
    """Return 32 hexadecimal digits that change whenever a file is rewritten or replaced.

    They are of its inode, its size, its times of modification and of change, and a megabyte of its content. Copying a
    file can preserve the first time but not the second. The content decides where a file system keeps no such time,
    as on Windows and in read-only images.
    """
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        known = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        digest = hashlib.sha256(repr(known).encode())
        last = max(status.st_size - _SAMPLE_BYTES, 0)
        for number in range(_SAMPLES):
            file.seek(last * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def inspect(path: Path, model_name: str) -> CheckpointInfo:
    """Return what a checkpoint file is; remembered for its place and :func:`file_state`.

    Raises:
        CheckpointError: when it cannot be read, is of another shape than the model, or has a ``tightTransf`` head.
    """

    def find() -> tuple[str, ...]:
        from .checkpoint import check_shape, fingerprint, read_state_dict, sim_header  # which bring torch along

        tensors = read_state_dict(path)
        check_shape(tensors, model_name, path)
        return fingerprint(tensors), sim_header(tensors, path)

    return CheckpointInfo(*_remembered(path, model_name, _INSPECTION, find))


def tower_digest(path: Path, modality: str) -> str:
    """Return :func:`clip4clip.weights.checkpoint.digest` of a tower, kept for the file's path and :func:`file_state`.

    Raises:
        CheckpointError: when the file cannot be read.
    """

    def find() -> tuple[str, ...]:
        from .checkpoint import digest, read_state_dict

        return (digest(read_state_dict(path), modality),)

    return _remembered(path, modality, _DIGEST, find)[0]


def _remembered(path: Path, key: str, form: re.Pattern[str], find: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    """What ``find`` returns for a file, kept as one line of the given form."""
    state = file_state(path)
    name = hashlib.sha256(f"{key} {path.resolve()} {state}".encode(errors="surrogateescape")).hexdigest()[:32]
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if known := form.fullmatch((cache_folder() / "inspections" / name).read_text("utf-8")):
            return known.groups()
    found = find()
    with contextlib.suppress(OSError):  # without a place to keep it, the file is read again
        if file_state(path) != state:
            return found  # it was replaced meanwhile, and nobody knows which of the two was read
        kept = cache_folder() / "inspections" / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(kept) as fresh:
            fresh.write_text(" ".join(found), "utf-8")
    return found
