"""Clips and images that visitors search by: received within limits, and deleted after the search."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import tempfile
from collections.abc import AsyncIterator
from typing import BinaryIO

from ..errors import MissingExtraError

try:
    import anyio
    import python_multipart  # noqa: F401  Starlette imports it when it reads a form
    from starlette.datastructures import FormData, UploadFile
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.types import Message
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

from .file_response import wait_until_left
from .problems import DISK_FULL
from .timed_file import TimedFile

logger = logging.getLogger(__name__)

FIELD = "clip"  # of the form
MAX_UPLOAD = 500 << 20  # bytes of one clip
MAX_UPLOADS = 1 << 31  # bytes of all clips that are being received or searched by
UPLOAD_SECONDS = 600  # for a clip to arrive
MAX_NAME = 100  # characters of a file name that are kept


class Upload:
    """A clip or an image to search by.

    Args:
        file: its content, in a file without a name.
        name: its file name, for messages.

    Attributes:
        name: the same.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self._file = file
        self._readers: list[TimedFile] = []

    def until(self, deadline: float, message: str) -> TimedFile:
        """Return the file for reading until a deadline, or until the visitor leaves; see :class:`TimedFile`."""
        self._file.seek(0)
        self._readers.append(TimedFile(self._file, self.name, deadline, message))
        return self._readers[-1]

    def stop(self) -> None:
        """End all work on the file."""
        for reader in self._readers:
            reader.stop()


class Uploads:
    """Receive clips and images to search by.

    Starlette writes a form to a file as it arrives; in memory are 1 MiB of it at most. The file has no name: the system
    deletes it with the request, also if the visitor leaves, the disk is full, or the server is killed.
    """

    def __init__(self) -> None:
        self._bytes = 0  # of all clips that are being received or searched by

    @contextlib.asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[Upload]:
        """Receive the one file of a multipart form, in the field ``clip``. It is deleted at the end of the block.

        The caller limits the size of the request.

        Raises:
            HTTPException: 400 if the form has no such file, or more; 408, 503 or 507 if it cannot be received.
        """
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await request.receive()
            size = len(message.get("body", b""))
            received += size
            self._bytes += size
            if self._bytes > MAX_UPLOADS:
                raise HTTPException(503, "Too many clips are being searched by. Try again in a minute.")
            return message

        try:
            form = await self._read_form(Request(request.scope, receive_counted))
            try:
                file = form.get(FIELD)
                if not isinstance(file, UploadFile):
                    raise _form_error()
                upload = Upload(file.file, clean_name(file.filename or ""))
                has_left = asyncio.ensure_future(wait_until_left(request.receive))
                has_left.add_done_callback(lambda _: upload.stop())
                try:
                    yield upload
                finally:
                    has_left.cancel()
                    upload.stop()
            finally:
                await form.close()
        finally:
            self._bytes -= received

    async def _read_form(self, request: Request) -> FormData:
        try:
            with anyio.fail_after(UPLOAD_SECONDS):
                return await request.form(max_files=1, max_fields=0)
        except HTTPException as error:
            if error.status_code == 400:  # it is no form, or one of several files or of text
                raise _form_error() from error
            raise
        except ClientDisconnect as error:
            raise HTTPException(400, "The connection was closed.") from error  # nobody receives it
        except TimeoutError as error:
            raise HTTPException(408, f"The clip did not arrive within {UPLOAD_SECONDS} seconds.") from error
        except OSError as error:
            logger.error("a clip cannot be stored in %s: %s", tempfile.gettempdir(), error)
            raise HTTPException(507, DISK_FULL) from error


def _form_error() -> HTTPException:
    return HTTPException(400, f"Expected a form (multipart/form-data) with one file, in the field {FIELD!r}.")


def clean_name(name: str) -> str:
    """Return the name of an uploaded file for messages: without folders and unusual characters."""
    base = re.split(r"[/\\]", name)[-1]
    return re.sub(r"[^\w. -]", "_", base).strip(". ")[-MAX_NAME:] or "clip"
