"""Clips that visitors upload to search by: received within limits, deleted after the search or after ten minutes."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from ..errors import MissingExtraError, VideoError

try:
    import anyio
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.types import Message
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

logger = logging.getLogger(__name__)

MAX_UPLOAD = 500 << 20  # bytes of one clip
MAX_UPLOADS = 1 << 31  # bytes of all clips that are being received or wait for their search
UPLOAD_SECONDS = 600  # for a clip to arrive; and for its search to begin after that
READ_SIZE = 4096  # bytes; TimedFile checks the time once per read
FOLDER_PREFIX = "clip-"  # each clip has a folder of its own, so that visitors never share a file
MAX_NAME = 60  # characters of a clip's file name: at most 240 bytes, below the usual limit of 255


class Uploads:
    """The uploaded clips, in one folder.

    Args:
        folder: existing folder for the clips.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(os.path.realpath(folder))
        self._arriving = 0  # bytes received so far of clips that are not yet complete

    async def receive(self, request: Request) -> Response:
        """Store the one file of a multipart form and answer with its path: ``[path]`` as JSON.

        The caller limits the size of the request. Starlette spools the form to an unnamed temporary file, which is
        deleted with the request. So no file stays behind if a visitor leaves or the disk is full.
        """
        stored, received = await run_in_threadpool(self._delete_expired), 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await request.receive()
            received += (size := len(message.get("body", b"")))
            self._arriving += size
            if stored + self._arriving > MAX_UPLOADS:
                raise HTTPException(503, "Too many clips are waiting. Please try again in a few minutes.")
            return message

        try:
            with anyio.fail_after(UPLOAD_SECONDS):
                async with Request(request.scope, receive_counted).form(max_files=1, max_fields=0) as form:
                    file = form.get("files")
                    if not isinstance(file, UploadFile):
                        return PlainTextResponse("Expected a form with one file in the field 'files'.", 400)
                    return JSONResponse([str(await run_in_threadpool(self._store, file))])
        except ClientDisconnect:
            return Response(status_code=400)  # nobody receives it
        except TimeoutError:
            return PlainTextResponse(f"The clip did not arrive within {UPLOAD_SECONDS} seconds.", 408)
        except OSError as error:
            logger.error("a clip cannot be stored in %s: %s", self._folder, error)
            return PlainTextResponse("The clip cannot be stored: the server's disk may be full.", 507)
        finally:
            self._arriving -= received

    def holds(self, path: object) -> bool:
        """Return whether ``path`` is the path of an uploaded clip that still exists."""
        if not isinstance(path, str) or not os.path.isfile(path):
            return False
        folder = Path(os.path.realpath(path)).parent
        return folder.parent == self._folder and folder.name.startswith(FOLDER_PREFIX)

    def discard(self, clip: Path) -> None:
        """Delete a clip if it still exists."""
        shutil.rmtree(clip.parent, ignore_errors=True)

    def _store(self, file: UploadFile) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=self._folder))
        # The clip keeps its name, which messages quote, and its extension, which hints at its format.
        name = re.split(r"[/\\]", file.filename or "")[-1]
        clip = folder / (re.sub(r"[^\w. -]", "_", name).strip(". ")[-MAX_NAME:] or "clip")
        try:
            with clip.open("xb") as stored:
                shutil.copyfileobj(file.file, stored)
        except OSError:
            self.discard(clip)
            raise
        return clip

    def _delete_expired(self) -> int:
        """Delete the clips whose search has not begun in time, and return the bytes of the others."""
        total = 0
        for clip in self._folder.glob(f"{FOLDER_PREFIX}*/*"):
            with contextlib.suppress(OSError):  # a finished search may have deleted it meanwhile
                status = clip.stat()
                if time.time() - status.st_mtime > UPLOAD_SECONDS:
                    self.discard(clip)
                else:
                    total += status.st_size
        return total


class TimedFile(io.FileIO):
    """A clip that can be read until a deadline. Afterwards a read raises, which ends FFmpeg's work on the clip.

    Args:
        path: path of the clip.
        deadline: end of the time, by ``time.monotonic()``.
        message: text of the error, after the path.
    """

    def __init__(self, path: Path, deadline: float, message: str) -> None:
        super().__init__(str(path))
        self._deadline, self._message = deadline, message

    def read(self, size: int | None = -1) -> bytes:
        """Return at most ``READ_SIZE`` bytes, so that the deadline is checked often.

        Raises:
            VideoError: the deadline has passed.
        """
        if time.monotonic() > self._deadline:
            raise VideoError(f"{self.name}: {self._message}")
        return super().read(READ_SIZE if size is None or size < 0 else min(size, READ_SIZE))
