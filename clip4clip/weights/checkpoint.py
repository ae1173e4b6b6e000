"""Read a checkpoint file of any supported format into a state dict.

Checkpoints are untrusted: no code in them is run, and their size is limited before anything is unpacked. Tensors stay
mapped from the file where its format allows it, so that only those in use are read from the disk.
"""

from __future__ import annotations

import itertools
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, first_line
from .families import shorten, to_openai_names
from .shards import MAX_TENSORS, is_index, read_index
from .torchscript import is_torchscript, read_torchscript

# Within these limits and MAX_TENSORS, a file is read in a second at most.
MAX_TENSOR_SIZE = 2**30  # numbers in one tensor: a few bytes of a file can stand for any number of them
MAX_PICKLE_BYTES = 2**20  # of the pickle that lists the tensors and their positions in the file
LEGACY_PICKLES = 5  # that precede the tensors in a file from before PyTorch 1.6

_PICKLE_TOO_LARGE = (
    f"it holds more than {MAX_PICKLE_BYTES:,} bytes besides its tensors' numbers, ten times what a CLIP needs: "
    "save its state dict only"
)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint under OpenAI's names; docs/checkpoints.md lists the supported families.

    Args:
        path: the file; of a sharded checkpoint, its index.

    Returns:
        Tensors by name, see :func:`clip4clip.weights.families.to_openai_names`.

    Raises:
        CheckpointError: a file is truncated, damaged, missing or too large, or it is not a checkpoint of a CLIP that
            is supported.
    """
    tensors = read_tensors(path)
    try:
        tensors = to_openai_names(tensors)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be loaded: {error}.") from error
    if "token_embedding.weight" not in tensors and "visual.conv1.weight" not in tensors:
        examples = ", ".join(itertools.islice(tensors, 5)) or "none at all"
        raise CheckpointError(f"{path} holds no CLIP with a vision transformer; its tensors are: {examples}")
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint under the names that they have in it.

    Args:
        path: the file; of a sharded checkpoint, its index.

    Raises:
        CheckpointError: a file is truncated, damaged, missing or too large, or not a checkpoint.
    """
    try:
        tensors = _read_shards(path) if is_index(path) else _read_file(path)
        if large := [name for name, tensor in tensors.items() if tensor.numel() > MAX_TENSOR_SIZE]:
            raise ValueError(f"these tensors have more than {MAX_TENSOR_SIZE:,} numbers, the limit: {shorten(large)}")
    except Exception as error:
        # The file is untrusted and its parsers raise all kinds of errors: each means the same to the caller.
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {first_line(error)}") from error
    return tensors


def _read_shards(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a sharded checkpoint: each must be in the shard that its index names, and only there."""
    shards = read_index(path)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(shards.values())):
        try:
            content = _read_file(path.parent / shard)
        except Exception as error:
            raise ValueError(f"its shard {shard}: {first_line(error)}") from error
        if unexpected := [name for name in content if shards.get(name) != shard]:
            raise ValueError(f"its shard {shard} holds tensors that are not in the index: {shorten(unexpected)}")
        tensors |= content
    if missing := [name for name in shards if name not in tensors]:
        raise ValueError(f"its shards lack {len(missing)} tensors of the index: {shorten(missing)}")
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file under the names that they have in it. Many kinds of errors can be raised."""
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return _read_safetensors(path)
    if zipfile.is_zipfile(path):
        _check_zip(path)
        return read_torchscript(path) if is_torchscript(path) else _unpickle(path, mmap=True)
    if start.startswith(b"PK"):
        raise ValueError("the file is truncated")
    if start.startswith(b"\x80"):
        _check_legacy_pickles(path)
        return _unpickle(path, mmap=False)
    if start.startswith(b"version https://git-lfs"):
        raise ValueError("it is a Git LFS pointer, not the file it points to: run git lfs pull")
    raise ValueError(f"it is neither safetensors nor a PyTorch file, it begins with {start[:16]!r}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as checkpoint:
        names = list(checkpoint.keys())
        if len(names) > MAX_TENSORS:
            raise ValueError(f"it holds {len(names):,} tensors; {MAX_TENSORS:,} are read at most")
        return {name: checkpoint.get_tensor(name) for name in names}


def _unpickle(path: Path, mmap: bool) -> dict[str, Tensor]:
    """Return the tensors of a file that ``torch.save`` wrote: a state dict, or one under a usual key."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        # torch's own message explains how to run the code in the file.
        raise ValueError(
            "it is damaged, or contains more than tensors, which would run code from it. "
            "If you trust it, save its state dict again, preferably as safetensors"
        ) from error
    for key in ("state_dict", "model_state_dict", "model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, not a state dict")
    tensors = {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_nested or tensor.device.type != "cpu":
            raise ValueError(f"{name} is {tensor.layout} on the device {tensor.device}, not a plain tensor")
    return tensors


def _check_zip(path: Path) -> None:
    """Reject a zip file that PyTorch did not write, or that was compressed later.

    torch would map compressed tensors as if they were plain, and unpack everything else to any size. The code in a
    TorchScript archive is compressed, but never read.
    """
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not re.match(r"[^/]+/code/", entry.filename)]
    if not any(re.fullmatch(r"[^/]+/data\.pkl", entry.filename) for entry in entries):
        raise ValueError("it is a zip file, but not one that PyTorch wrote: it has no data.pkl")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it is compressed, which PyTorch never does: save its state dict again")
    if len(entries) > MAX_TENSORS:
        raise ValueError(f"it holds {len(entries):,} entries; {MAX_TENSORS:,} are read at most")
    if any(entry.file_size > MAX_PICKLE_BYTES for entry in entries if entry.filename.endswith(".pkl")):
        raise ValueError(_PICKLE_TOO_LARGE)


def _check_legacy_pickles(path: Path) -> None:
    """Reject a file from before PyTorch 1.6 whose pickles would keep their parser busy."""
    with path.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            for _, _, position in pickletools.genops(file):
                if (position or 0) > MAX_PICKLE_BYTES:
                    raise ValueError(_PICKLE_TOO_LARGE)
