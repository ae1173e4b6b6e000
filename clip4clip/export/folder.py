"""Write a folder so that it is complete, or does not have the file that makes it one."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from ..errors import ExportError
from ..files import check_folder_writable


def check_folder(folder: Path, replaceable: Collection[str], force: bool) -> None:
    """Check that a folder can be written by :func:`atomic_folder`.

    Args:
        folder: it may exist if it is empty or, with ``force``, whatever it holds.
        replaceable: names of the files that would be replaced in it.
        force: whether files may be replaced.

    Raises:
        ExportError: it is a file, it cannot be written to, or it holds files that may not be replaced.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise ExportError(f"{folder} is not a folder; choose another name")
    try:
        check_folder_writable(folder)
    except OSError as error:
        raise ExportError(f"{folder} cannot be written: {error.strerror}") from error
    if not folder.exists() or force:
        return
    names = sorted(path.name for path in folder.iterdir())
    if names:
        replaced = sorted(set(names) & set(replaceable))
        consequence = f"which would replace {', '.join(replaced)}" if replaced else "which keeps what it holds"
        raise ExportError(
            f"{folder} is not empty, it holds {names[0]}: choose another folder, or pass force (--force), {consequence}"
        )


@contextlib.contextmanager
def atomic_folder(folder: Path, replaceable: Collection[str], last: str) -> Iterator[Path]:
    """Yield a temporary folder. If the block ends without an error, its files are those of ``folder``.

    A new folder appears with all its files. In a folder that exists, the file ``last`` is removed first and written
    last: whoever finds it there finds the others, too.

    Args:
        folder: the folder to write.
        replaceable: names of files that are removed from it, because another export may have written them.
        last: name of the file without which the others are of no use, such as the weights.

    Raises:
        OSError: a file cannot be written, moved or removed.
    """
    folder = Path(os.path.realpath(folder))
    exists = folder.is_dir()
    folder.parent.mkdir(parents=True, exist_ok=True)
    name = f".{folder.name}.{os.getpid()}.{threading.get_ident()}"
    temporary = (folder if exists else folder.parent) / name
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        if not exists:
            temporary.rename(folder)
            return
        names = sorted((path.name for path in temporary.iterdir()), key=lambda name: name == last)
        for old in sorted(replaceable, key=lambda name: name != last):
            (folder / old).unlink(missing_ok=True)
        for new in names:
            (temporary / new).replace(folder / new)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
