"""A video file that is being written: its streams, and what is wrong when they cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import av
import av.error

from ..errors import VideoError

# FFmpeg's names of the containers that are written, by the endings of the files. A video behind any other ending is
# copied into Matroska, which takes almost every codec.
MUXERS = {
    **dict.fromkeys((".mp4", ".m4v"), "mp4"),
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    **dict.fromkeys((".ts", ".m2ts", ".mts"), "mpegts"),
}
# With the index in front, a clip plays before it is fetched completely.
OPTIONS = {"mp4": {"movflags": "+faststart"}, "mov": {"movflags": "+faststart"}}
# Errors of FFmpeg that are about the content of a file. All others are about the disk.
_CONTENT_ERRNOS = (errno.EINVAL, errno.ENOSYS, errno.ERANGE, errno.EPERM)


class ClipFile:
    """A video file that is being written.

    Args:
        path: file to write.
        muxer: FFmpeg's name of the container, one of the values of ``MUXERS``.
        name: name of the video that it is made from, for messages.
        advice: what to do if the streams do not fit into the container.
    """

    def __init__(self, path: Path, muxer: str, name: str, advice: str) -> None:
        self._path, self._muxer, self._name, self._advice = path, muxer, name, advice
        # An absolute path: FFmpeg would take a relative one such as "http:/x" for an address.
        self._file = av.open(str(path.absolute()), "w", format=muxer, options=OPTIONS.get(muxer, {}))

    def __enter__(self) -> ClipFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(av.error.FFmpegError):  # it would hide the error that ended the block
                self._file.close()
        else:
            self._write(self._file.close)

    def add_stream(self, codec: str, rate: Any, **options: str) -> Any:
        """Add a stream that will be encoded, and return it."""
        return self._write(lambda: self._file.add_stream(codec, rate=rate, options=options))

    def add_copy(self, template: av.VideoStream | av.AudioStream) -> av.stream.Stream:
        """Add a stream for the packets of another file's stream, and return it."""
        stream = self._write(lambda: self._file.add_stream_from_template(template, opaque=True))
        if template.codec_tag == "hvc1" and self._muxer in OPTIONS:
            stream.codec_context.codec_tag = "hvc1"  # the only tag of HEVC that Apple's players accept
        if template.language not in (None, "und"):
            stream.metadata["language"] = template.language
        stream.disposition = template.disposition
        return cast("av.stream.Stream", stream)

    def mux(self, packet: av.Packet) -> None:
        """Write a packet, whose stream is one of this file's."""
        self._write(lambda: self._file.mux_one(packet))

    def _write(self, action: Callable[[], Any]) -> Any:
        with self._translated_errors():
            return action()

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Raise VideoError where the streams do not fit into the container, and OSError where the disk fails."""
        try:
            yield
        except av.error.FFmpegError as error:
            if isinstance(error, OSError) and error.errno not in _CONTENT_ERRNOS and 0 < (error.errno or 0) < 1000:
                raise OSError(error.errno, error.strerror, os.fspath(self._path)) from error
            raise self._error(str(error.strerror)) from error
        except ValueError as error:
            raise self._error(str(error)) from error

    def _error(self, reason: str) -> VideoError:
        return VideoError(f"{self._name}: it cannot be written as {self._muxer}: {reason}. {self._advice}")
