"""Write files atomically: a file is complete, or it is what it was before."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

MAX_LINKS = 40  # symbolic links followed from a path, as many as Linux follows


@contextlib.contextmanager
def atomic_write(path: Path, replace_link: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to. If the block ends without an error, that file replaces ``path``.

    A symbolic link is followed. The new file gets the mode and, where the system permits it, the owner of the file that
    it replaces. If ``path`` is not a regular file but a device or a pipe, or if it can be written but not replaced, the
    bytes are copied into it.

    Args:
        path: the file to write.
        replace_link: replace a symbolic link itself instead of its target.

    Raises:
        OSError: the file cannot be written (raised before the block) or cannot be replaced (raised after it).
    """
    target = path if replace_link else _resolve_link(path)
    existing = target.stat() if target.exists() else None
    is_special = existing is not None and not replace_link and not is_regular(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
    failure = None if is_special else _create(temporary, existing)
    try:
        if temporary.exists():
            status = existing or temporary.stat()
            _set_mode_and_owner(temporary, status)
            yield temporary
            _set_mode_and_owner(temporary, status)  # again: some writers delete the file and create a new one
            _replace(temporary, target, is_new=existing is None)
        elif existing is None or not os.access(target, os.W_OK):
            raise failure or PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        else:
            with tempfile.TemporaryDirectory(prefix="clip4clip-") as folder:
                temporary = Path(folder, target.name)
                yield temporary
                _copy(temporary, target)
    except OSError as error:
        if error.errno is None or error.filename not in (None, os.fspath(temporary)):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error  # names the file of the caller
    finally:
        temporary.unlink(missing_ok=True)


def is_regular(path: Path) -> bool:
    """Return whether :func:`atomic_write` would create or replace a file, rather than write to a device or a pipe."""
    target = _resolve_link(path)
    return not target.exists() or (target.is_file() and not target.is_symlink())


def is_writable(path: Path) -> bool:
    """Return whether this process may write to a file or folder; False if it does not exist."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def check_writable(path: Path) -> None:
    """Raise the OSError that :func:`atomic_write` would raise if the file cannot be written. Change nothing."""
    with contextlib.suppress(_CheckOnlyError), atomic_write(path):
        raise _CheckOnlyError


def check_folder_writable(folder: Path) -> None:
    """Raise OSError if no file can be written in a folder, which need not exist yet. Change nothing."""
    folder = folder.absolute()
    existing = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    check_writable(existing / "file")


def remove_partial_files(paths: Iterable[Path]) -> None:
    """Remove the temporary files that :func:`atomic_write` left for these paths when its process was killed."""
    for path in map(_resolve_link, paths):
        for partial in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*"):
            partial.unlink(missing_ok=True)


class _CheckOnlyError(Exception):
    """Raised to end a block of :func:`atomic_write` without writing the file."""


def _resolve_link(path: Path) -> Path:
    """Return the target of a symbolic link. A link to an open file, such as ``/dev/stdout``, is not followed."""
    target = path
    for _ in range(MAX_LINKS):
        if not target.is_symlink() or "proc" in Path(os.path.realpath(target.parent)).parts[1:2]:
            return target
        target = target.parent / target.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))


def _create(temporary: Path, existing: os.stat_result | None) -> OSError | None:
    """Create an empty file; return the error if this fails. Only its owner can read it if it will replace a file."""
    try:
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if existing is None else 0o600))
    except OSError as error:
        return error
    return None


def _set_mode_and_owner(path: Path, status: os.stat_result) -> None:
    if hasattr(os, "chown"):
        for owner in ((-1, status.st_gid), (status.st_uid, -1)):
            with contextlib.suppress(OSError):  # only root may give a file to another user
                os.chown(path, *owner)
    path.chmod(stat.S_IMODE(status.st_mode))


def _replace(temporary: Path, target: Path, is_new: bool) -> None:
    try:
        temporary.replace(target)
    except OSError:  # the target is a mount point, or belongs to another user in a folder such as /tmp
        if is_new:
            raise
        _copy(temporary, target)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer)
