"""Where a video comes from: a path, a URL, bytes or a file object. Local ones are opened here as seekable files."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import stat
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import InputTypeError, VideoError, VideoNotFoundError, brief, printable

Source = str | os.PathLike[str] | bytes | BinaryIO

PIPE_OPEN_TIMEOUT = 60.0  # seconds until a program opens a named pipe for writing
PIPE_READ_TIMEOUT = 600.0  # seconds between two writes to a named pipe
MAX_COPY_BYTES = 16 << 30  # of a source that cannot seek: a file object, a pipe, a server without range requests
READ_SIZE = 1 << 18  # bytes; FFmpeg asks for fewer at a time, and each call into Python costs


def is_url(name: str) -> bool:
    """Return whether a name is an http(s) URL. Every other name is a local file."""
    return name.lower().startswith(("http://", "https://"))


def is_local_file(source: Source) -> bool:
    """Return whether a source is the path of a regular file.

    One that cannot be looked at is not: opening it says why.
    """
    try:
        return isinstance(source, str | os.PathLike) and Path(source).is_file()
    except OSError:
        return False


def source_name(source: Source) -> str:
    """Return the name of a source for messages, safe to print.

    Raises:
        InputTypeError: ``source`` is not a path, a URL, bytes or a binary file object.
    """
    if isinstance(source, str | os.PathLike):
        return printable(os.fspath(source))
    if isinstance(source, bytes):
        return f"video of {len(source):,} bytes"
    if hasattr(source, "read") and hasattr(source, "seekable"):
        name = getattr(source, "name", None)
        return printable(name) if isinstance(name, str) else f"<{type(source).__name__}>"
    raise InputTypeError(
        f"a video must be a path, a URL, bytes or a binary file object, not {type(source).__name__}: {brief(source)}"
    )


def open_source(source: Source, resources: contextlib.ExitStack) -> BinaryIO:
    """Open a source that is not a URL.

    Args:
        source: path, bytes, or binary file object. A source that cannot seek is copied to a temporary file.
        resources: closes the files that are opened here. A file object that is passed in stays open.

    Returns:
        A seekable binary file.

    Raises:
        VideoNotFoundError: the file does not exist.
        VideoError: the file cannot be opened or copied.
    """
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        # Python opens the file. FFmpeg would take some names for patterns or protocols.
        return _open_path(os.fspath(source), resources)
    if source.seekable():
        return source
    return copy_to_temporary_file(iter(lambda: source.read(READ_SIZE), b""), source_name(source), resources)


def copy_to_temporary_file(chunks: Iterable[bytes], name: str, resources: contextlib.ExitStack) -> BinaryIO:
    """Copy the content of a source that cannot seek to a temporary file.

    Args:
        chunks: the content.
        name: name of the video, for messages.
        resources: closes, and thereby deletes, the file.

    Raises:
        VideoError: the content does not fit on the disk, or has more than ``MAX_COPY_BYTES``.
    """
    copy = cast("BinaryIO", resources.enter_context(tempfile.TemporaryFile()))  # noqa: SIM115
    for chunk in chunks:
        try:
            copy.write(chunk)
        except OSError as error:
            raise VideoError(
                f"{name}: it cannot seek, and copying it to {tempfile.gettempdir()} failed: {error.strerror}"
            ) from error
        if copy.tell() > MAX_COPY_BYTES:
            raise VideoError(
                f"{name}: it cannot seek, and is over the limit of {MAX_COPY_BYTES:,} bytes for a temporary copy"
            )
    return copy


def _open_path(path: str, resources: contextlib.ExitStack) -> BinaryIO:
    name = printable(path)
    try:
        if not _is_pipe(path):
            return resources.enter_context(Path(path).open("rb"))
        pipe = resources.enter_context(_open_pipe(path))
    except FileNotFoundError as error:
        hint = "; a URL must begin with http:// or https://" if "://" in path else ""
        raise VideoNotFoundError(f"{name}: there is no such file{hint}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise VideoError(f"{name}: cannot be opened: {reason}") from error
    return copy_to_temporary_file(_read_pipe(pipe, name), name, resources)


def _is_pipe(path: str) -> bool:
    return sys.platform != "win32" and stat.S_ISFIFO(Path(path).stat().st_mode)


def _open_pipe(path: str) -> BinaryIO:
    """Open a named pipe as soon as a program writes to it, or give up after ``PIPE_OPEN_TIMEOUT``."""
    opened: Future[BinaryIO] = Future()

    def wait_for_writer() -> None:
        try:
            opened.set_result(cast("BinaryIO", Path(path).open("rb", buffering=0)))  # noqa: SIM115
        except OSError as error:
            opened.set_exception(error)

    threading.Thread(target=wait_for_writer, daemon=True).start()
    try:
        return opened.result(PIPE_OPEN_TIMEOUT)
    except FutureTimeoutError:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # ends the thread, which waits for a writer
        opened.result().close()
        raise TimeoutError(
            errno.ETIMEDOUT, f"no program has begun to write to this pipe within {PIPE_OPEN_TIMEOUT:g} s"
        ) from None


def _read_pipe(pipe: BinaryIO, name: str) -> Iterator[bytes]:
    while select.select([pipe], [], [], PIPE_READ_TIMEOUT)[0]:
        chunk = pipe.read(READ_SIZE)
        if not chunk:
            return
        yield chunk
    raise VideoError(f"{name}: nothing has come through this pipe for {PIPE_READ_TIMEOUT:g} s")
