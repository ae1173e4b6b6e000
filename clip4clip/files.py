"""Write files so that they are complete, or not there at all."""

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


@contextlib.contextmanager
def atomic_write(path: Path, replace_link: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; when the block ends without an error, its file takes the place of ``path``.

    A link is followed, and the file that is replaced keeps its mode and, where the system permits it, its owner. What
    is not a regular file (a device, a pipe), and a file that cannot be replaced but can be written, gets the bytes.

    Args:
        path: of the file.
        replace_link: replace a link itself, and leave alone what it points to.

    Raises:
        OSError: before the block when the file cannot be written, after it when it could not be put in its place.
    """
    target = path if replace_link else _follow(path)
    old = target.stat() if target.exists() else None
    in_place = old is not None and not replace_link and not is_regular(path)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
    failure = None if in_place else _create(fresh, old)
    try:
        if fresh.exists():
            like = old or fresh.stat()
            _set_mode_and_owner(fresh, like)
            yield fresh
            _set_mode_and_owner(fresh, like)  # some writers make a file of their own
            try:
                fresh.replace(target)
            except OSError:  # a mount point, or another user's file in a folder such as /tmp
                if old is None:
                    raise
                _copy(fresh, target)
        elif old is None or not os.access(target, os.W_OK):
            raise failure or PermissionError(13, os.strerror(13))
        else:
            with tempfile.TemporaryDirectory(prefix="clip4clip-") as folder:
                fresh = Path(folder, target.name)
                yield fresh
                _copy(fresh, target)
    except OSError as error:
        if error.errno is None or error.filename not in (None, os.fspath(fresh)):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        fresh.unlink(missing_ok=True)


def is_regular(path: Path) -> bool:
    """Whether :func:`atomic_write` would create or replace a file there, and not write to a device or a pipe."""
    target = _follow(path)
    return not target.exists() or (target.is_file() and not target.is_symlink())


def check_writable(path: Path) -> None:
    """Raise the OSError that :func:`atomic_write` would raise for a file that cannot be written. Changes nothing."""
    with contextlib.suppress(_UnusedError), atomic_write(path):
        raise _UnusedError


def check_folder_writable(folder: Path) -> None:
    """Raise OSError when no file can be written in a folder, which need not exist yet. Changes nothing."""
    folder = folder.absolute()
    existing = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    check_writable(existing / "file")


def remove_partial_files(paths: Iterable[Path]) -> None:
    """Remove what :func:`atomic_write` left for these files in a process that was killed."""
    for path in map(_follow, paths):
        for left in path.parent.glob(f".{glob.escape(path.name)}.[0-9]*"):
            left.unlink(missing_ok=True)


class _UnusedError(Exception):
    """Ends the block of a file that is not to be written."""


def _follow(path: Path) -> Path:
    """Return the file that links lead to, or the last of them where it stands for an open file, as ``/dev/stdout``."""
    target = path
    for _ in range(40):  # Linux follows as many
        if not target.is_symlink() or "proc" in Path(os.path.realpath(target.parent)).parts[1:2]:
            return target
        target = target.parent / target.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))


def _create(fresh: Path, old: os.stat_result | None) -> OSError | None:
    """Create an empty file, not yet readable for more users than the one that it will replace."""
    try:
        fresh.unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if old is None else 0o600))
    except OSError as error:
        return error
    return None


def _set_mode_and_owner(path: Path, like: os.stat_result) -> None:
    if hasattr(os, "chown"):
        for owner in ((-1, like.st_gid), (like.st_uid, -1)):
            with contextlib.suppress(OSError):  # only root may give a file to another user
                os.chown(path, *owner)
    path.chmod(stat.S_IMODE(like.st_mode))


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("wb") as write:
        shutil.copyfileobj(read, write)
