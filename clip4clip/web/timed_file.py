"""A file that can be read until a deadline, which bounds how long a decoder works on it."""

from __future__ import annotations

import time
from typing import BinaryIO

from ..errors import VideoError

READ_SIZE = 1 << 14  # bytes; the time is checked once per read


class TimedFile:
    """A file that can be read until a deadline. Afterwards a read raises, which ends FFmpeg's work on the file.

    It has the methods of a binary file that :func:`clip4clip.video.read_frames` needs.

    Args:
        file: the file, which can seek. It stays open.
        name: name of the file, for messages.
        deadline: end of the time, by ``time.monotonic()``.
        message: text of the error, after the name.

    Attributes:
        name: name of the file.
    """

    def __init__(self, file: BinaryIO, name: str, deadline: float, message: str) -> None:
        self._file, self.name = file, name
        self._deadline, self._message = deadline, message

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self._deadline

    def read(self, size: int | None = -1) -> bytes:
        """Return at most ``READ_SIZE`` bytes, so that the deadline is checked often.

        Raises:
            VideoError: the deadline has passed.
        """
        if self.is_late:
            raise VideoError(f"{self.name}: {self._message}")
        return self._file.read(READ_SIZE if size is None or size < 0 else min(size, READ_SIZE))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position, as files do, and return it."""
        self._file.seek(offset, whence)
        return self._file.tell()  # before Python 3.11, seek of a SpooledTemporaryFile returns None

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Return that the file can seek."""
        return True

    def stop(self) -> None:
        """Let the deadline pass now."""
        self._deadline = -1.0
