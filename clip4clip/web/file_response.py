"""Send a file, or a range of it, over HTTP: also to slow visitors, and while the file changes."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError
from .problems import problem
from .video_files import file_version, gone
from .workers import Workers

try:
    from starlette.datastructures import Headers
    from starlette.responses import Response
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

logger = logging.getLogger(__name__)

CHUNK_SIZE = 1 << 18  # bytes that are read at once


class FileResponse(Response):
    """A file, or the range of it that a request asks for (RFC 9110, section 14).

    Only one range is sent: a request for several gets the whole file, as does one for a range that is not valid.

    A chunk is read by opening the file for a moment. So a slow visitor keeps no file open, threads of the process never
    wait for a visitor, and a file that changes is noticed: the connection then breaks, as there is no other way to tell
    the visitor.

    Args:
        path: path of the file.
        version: its size and time of change, as returned by :func:`clip4clip.web.video_files.file_version`.
        media_type: its content type.
        workers: threads that read it.
        headers: further headers.
        on_end: is called once nothing more is sent, whatever the reason.
    """

    def __init__(
        self,
        path: str,
        version: tuple[int, int],
        media_type: str,
        workers: Workers,
        headers: Mapping[str, str] | None = None,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self._path, self._version, self._workers, self._on_end = path, version, workers, on_end
        self.status_code, self.media_type, self.background = 200, media_type, None
        size, mtime = version
        self._etag, self._modified = f'"{mtime:x}-{size:x}"', formatdate(mtime / 1e9, usegmt=True)
        self.init_headers({"ETag": self._etag, "Last-Modified": self._modified, **(headers or {})})
        self.headers["Accept-Ranges"] = "bytes"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._answer(scope, receive, send)
        finally:
            self._on_end()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        headers, size = Headers(scope=scope), self._version[0]
        if self._is_known(headers):
            await Response(status_code=304, headers=dict(self.headers))(scope, receive, send)
            return
        byte_range = parse_range(headers.get("range", ""), size) if self._may_send_part(headers) else None
        if byte_range is not None and not byte_range:
            sentence = f"There is nothing in this range: the file has {size:,} bytes."
            await problem(416, sentence, {"Content-Range": f"bytes */{size}"})(scope, receive, send)
            return
        sent = range(size) if byte_range is None else byte_range
        chunk = b""
        if scope["method"] != "HEAD" and sent:
            try:
                chunk = await self._read(sent)
            except OSError:
                await problem(404, gone(Path(self._path).name))(scope, receive, send)
                return
        self.headers["Content-Length"] = str(len(sent))
        if byte_range is not None:
            self.status_code = 206
            self.headers["Content-Range"] = f"bytes {sent.start}-{sent.stop - 1}/{size}"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD" or not sent:
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._send_body(sent, chunk, receive, send)

    def _is_known(self, headers: Headers) -> bool:
        """Return whether the visitor has the file already."""
        tags = headers.get("if-none-match", "").split(",")
        return self._etag in (tag.strip().removeprefix("W/") for tag in tags)

    def _may_send_part(self, headers: Headers) -> bool:
        """Return whether a part would fit to the parts that the visitor has already."""
        return headers.get("if-range", self._etag) in (self._etag, self._modified)

    async def _send_body(self, sent: range, chunk: bytes, receive: Any, send: Any) -> None:
        """Send a range of bytes, of which ``chunk`` has been read, unless the visitor leaves."""
        has_left = asyncio.ensure_future(wait_until_left(receive))
        try:
            while not has_left.done():
                sent = sent[len(chunk) :]
                message = {"type": "http.response.body", "body": chunk, "more_body": bool(sent)}
                await send(message)
                if not sent:
                    return
                chunk = await self._read(sent)
        except OSError as error:
            logger.warning("%s: the rest of it cannot be sent: %s", self._path, error.strerror or error)
        finally:
            has_left.cancel()

    async def _read(self, sent: range) -> bytes:
        """Return the first bytes of a range."""
        return await self._workers.run(_read, self._path, self._version, sent[:CHUNK_SIZE])


def parse_range(header: str, size: int) -> range | None:
    """Return the range of bytes that a header ``Range`` asks for; None if it is none, several, or not valid.

    Args:
        header: value of the header.
        size: bytes of the file.

    Returns:
        The part of the range that the file has: empty if it has none of it.
    """
    match = re.fullmatch(r"bytes=\s*(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))\s*", header, re.ASCII | re.IGNORECASE)
    if match is None:
        return None
    if match[3]:
        return range(max(size - int(match[3]), 0), size)
    first, last = int(match[1]), int(match[2]) if match[2] else size - 1
    if match[2] and last < first:
        return None
    return range(first, min(last + 1, size)) if first < size else range(0)


def _read(path: str, version: tuple[int, int], part: range) -> bytes:
    """Return a part of a file.

    Raises:
        OSError: the file cannot be read, or has changed.
    """
    with Path(path).open("rb", buffering=0) as file:
        file.seek(part.start)
        content = file.read(len(part))
    if len(content) < len(part) or file_version(path) != version:
        raise OSError("the file has changed")
    return content


async def wait_until_left(receive: Any) -> None:
    """Wait until the visitor has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
