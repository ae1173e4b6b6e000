"""Reads the tensors of a TorchScript archive without running any of what it carries.

``torch.jit.load`` compiles and runs the code inside; ``torch.load(weights_only=True)`` refuses such a file. OpenAI
publishes CLIP in this form, so its object graph is unpickled here with stand-ins: every class becomes an inert
:class:`_Module`, every function but the tensor rebuilders is refused, and tensors are views of the mapped file.
"""

from __future__ import annotations

import io
import mmap
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

MAX_MODULES = 10_000  # a CLIP has a few hundred
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then the lengths of name and extra field
_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


def is_torchscript(path: Path) -> bool:
    """Whether the zip file at ``path`` is a TorchScript archive and not a plain PyTorch checkpoint."""
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """Parameters and buffers of the archive at ``path`` by their dotted names, mapped from the file.

    Raises:
        pickle.UnpicklingError: when the archive asks for anything but modules and tensors.
        zipfile.BadZipFile, KeyError, ValueError: when it is damaged.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        root = next(
            name[: -len("data.pkl")]
            for name in archive.namelist()
            if name.count("/") == 1 and name.endswith("/data.pkl")
        )
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        module = _Unpickler(archive, root, mapped).load()
    if not isinstance(module, _Module):
        raise pickle.UnpicklingError("the archive's root is not a module")
    return dict(_named_tensors(module))


class _Module:
    """Stands in for every class of an archive: keeps the attributes it is given and does nothing."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def _named_tensors(root: _Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of a module and of those within, by their dotted names."""
    pending = [("", root)]
    for _ in range(MAX_MODULES):
        if not pending:
            return
        prefix, module = pending.pop()
        for name, value in getattr(module, "attributes", {}).items():
            if isinstance(value, torch.Tensor):
                yield f"{prefix}{name}", value
            elif isinstance(value, _Module):
                pending.append((f"{prefix}{name}.", value))
    raise pickle.UnpicklingError(f"it has more than {MAX_MODULES:,} modules, or one that holds itself")


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str, mapped: mmap.mmap) -> None:
        entry = archive.getinfo(f"{root}data.pkl")
        if entry.compress_type != zipfile.ZIP_STORED:  # as torch writes it; what is stored cannot be a bomb
            raise ValueError("its data.pkl is compressed")
        super().__init__(io.BytesIO(archive.read(entry)))
        self._archive, self._root, self._mapped = archive, root, mapped

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return type(name, (_Module,), {})
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is neither a module nor a tensor")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """One storage: ('storage', dtype, key, device, number of elements), as a flat view of the mapped file."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it refers to a {kind!r} of {dtype!r} outside of itself")
        entry = self._archive.getinfo(f"{self._root}data/{key}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != count * dtype.itemsize:
            raise ValueError(f"storage {key} is compressed or has the wrong size")
        if not count:
            return torch.empty(0, dtype=dtype)
        header = self._mapped[entry.header_offset : entry.header_offset + _LOCAL_HEADER.size]
        _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        offset = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        return torch.frombuffer(self._mapped, dtype=dtype, count=count, offset=offset)


def _rebuild_tensor(storage: torch.Tensor, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)  # refuses what reaches outside of the storage
