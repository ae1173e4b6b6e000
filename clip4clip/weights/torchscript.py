"""Read the tensors of a TorchScript archive without running any code in it.

``torch.jit.load`` compiles and runs the code of an archive, and ``torch.load(weights_only=True)`` refuses such a file.
OpenAI publishes CLIP in this form. So the objects of the archive are unpickled here with substitutes: every class
becomes an inert :class:`_Module`, only the functions that rebuild tensors are allowed, and each tensor is a view of the
mapped file.
"""

from __future__ import annotations

import io
import mmap
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch

MAX_MODULES = 10_000  # a CLIP has a few hundred
MAX_NAME_CHARACTERS = 10_000_000  # of all names together
NAME_OVERHEAD = 100  # characters that each name counts in addition, for the object behind it
_TOO_LARGE = (
    f"it has over {MAX_MODULES:,} modules, or a module that contains itself, "
    f"or names of over {MAX_NAME_CHARACTERS:,} characters"
)

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip entry: its signature, and the lengths of name and extra field
_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_torchscript(path: Path) -> bool:
    """Return whether a zip file is a TorchScript archive rather than a plain PyTorch checkpoint."""
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of an archive by their dotted names, mapped from the file.

    Raises:
        pickle.UnpicklingError: the archive contains anything but modules and tensors.
        zipfile.BadZipFile, KeyError, ValueError: the archive is damaged.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it is a zip file without a data.pkl, or with several")
        folder = pickles[0].removesuffix("data.pkl")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        module = _Unpickler(archive, folder, mapped).load()
    if not isinstance(module, _Module):
        raise pickle.UnpicklingError("the archive's root is not a module")
    return dict(_named_tensors(module))


class _Module:
    """Substitute for every class of an archive: it holds its attributes and does nothing."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def _named_tensors(root: _Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a module and of its submodules with their dotted names."""
    pending, characters = [("", root)], 0
    for _ in range(MAX_MODULES):
        if not pending:
            return
        prefix, module = pending.pop()
        for name, value in getattr(module, "attributes", {}).items():
            characters += NAME_OVERHEAD + len(prefix) + len(str(name))
            if characters > MAX_NAME_CHARACTERS:
                raise pickle.UnpicklingError(_TOO_LARGE)
            if isinstance(value, torch.Tensor):
                yield f"{prefix}{name}", value
            elif isinstance(value, _Module):
                pending.append((f"{prefix}{name}.", value))
    raise pickle.UnpicklingError(_TOO_LARGE)


# The pickle instructions that torch writes, and those of newer protocols for the same objects.
_ALLOWED_INSTRUCTIONS = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.GLOBAL, pickle.STACK_GLOBAL),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINUNICODE),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_DICT),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.NEWOBJ, pickle.REDUCE, pickle.BINPERSID),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET),
)


class _Unpickler(pickle._Unpickler):
    """An unpickler that knows only the instructions and the objects of a TorchScript archive.

    It extends the pure Python unpickler of the standard library. The one in C allocates as much memory for its memo as
    the file demands, and overflows its stack on dictionary keys of nested tuples.

    Args:
        archive: the opened zip file.
        folder: name of the archive's only folder, with a slash at its end.
        mapped: the whole file, mapped to memory.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, archive: zipfile.ZipFile, folder: str, mapped: mmap.mmap) -> None:
        entry = archive.getinfo(f"{folder}data.pkl")
        if entry.compress_type != zipfile.ZIP_STORED:  # torch never compresses it; this may be a zip bomb
            raise ValueError("its data.pkl is compressed")
        super().__init__(io.BytesIO(archive.read(entry)))
        self._archive, self._folder, self._mapped = archive, folder, mapped

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("its data.pkl holds an instruction that torch does not write")

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _set_items(self) -> None:
        self._update(self.pop_mark())

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or not all(isinstance(key, str | int | float) for key in items[::2]):
            raise pickle.UnpicklingError("its data.pkl sets an item of something other than a dict, or a strange key")
        target.update(zip(items[::2], items[1::2], strict=True))

    def _build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Module):  # the state of a tensor or function could do harm
            raise pickle.UnpicklingError("its data.pkl sets the state of something other than a module")
        self.stack[-1].__setstate__(state)

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **dict.fromkeys(range(256), _refuse),
        **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in _ALLOWED_INSTRUCTIONS},
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.BUILD[0]: _build,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return the substitute for a class or function of the archive; reject any that is unknown."""
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if module == "torch.jit._pickle" and (name.startswith("build_") or name == "restore_type_tag"):
            return _restore_container
        if (module, name) == ("collections", "OrderedDict"):
            return lambda *_: {}  # the hooks of a tensor
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is neither a module nor a tensor")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """Return a storage as a flat view of the mapped file.

        Args:
            pid: ``("storage", dtype, key, device, number of elements)``.
        """
        kind, dtype, key, _, count = pid
        if kind != "storage" or not (
            isinstance(dtype, torch.dtype) and isinstance(key, str) and isinstance(count, int)
        ):
            raise pickle.UnpicklingError("it refers to something outside of itself")
        entry = self._archive.getinfo(f"{self._folder}data/{key}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != count * dtype.itemsize:
            raise ValueError(f"storage {key} is compressed or has the wrong size")
        if not count:
            return torch.empty(0, dtype=dtype)
        start = entry.header_offset + _LOCAL_HEADER.size
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(self._mapped[entry.header_offset : start])
        if signature != b"PK\x03\x04" or self._mapped[start : start + name_length] != entry.filename.encode():
            raise ValueError(f"storage {key} is damaged: it is not where the archive's directory says")
        offset = start + name_length + extra_length
        return torch.frombuffer(self._mapped, dtype=dtype, count=count, offset=offset)


def _restore_container(items: Any, *_: Any) -> Any:
    """Return a list or dict as it is: in Python its elements need no declared type."""
    if not isinstance(items, list | dict):
        raise pickle.UnpicklingError("a typed list or dict is built from something that is neither")
    return items


def _rebuild_tensor(storage: torch.Tensor, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    if not (isinstance(size, tuple) and isinstance(stride, tuple)):
        raise pickle.UnpicklingError("the shape of a tensor is not a tuple")
    return torch.as_strided(storage, size, stride, offset)  # refuses to reach outside of the storage
