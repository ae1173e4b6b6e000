"""Clips that visitors send to search by: received within limits, kept for a short time, deleted once used."""

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
    raise MissingExtraError("the page needs starlette: pip install 'towhee-clip4clip[retrieval]'") from error

logger = logging.getLogger(__name__)

MAX_UPLOAD = 500 << 20  # bytes of one clip
MAX_UPLOADS = 1 << 31  # bytes of all clips that are being sent, or were sent and not searched by yet
UPLOAD_SECONDS = 600  # for a clip to arrive, and then to be searched by
READ_SIZE = 4096  # bytes of a clip read at once, which is how often its time is checked
PREFIX = "clip-"  # of the folder that each clip has for itself, so that no two visitors share a file


class Uploads:
    """The clips in a folder.

    Args:
        folder: where they are kept; it must exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(os.path.realpath(folder))
        self._arriving = 0  # bytes of the clips that are being received

    async def receive(self, request: Request) -> Response:
        """Keep the one file of a multipart form, and answer with its path: ``[path]`` as JSON.

        The caller limits the size of a request. A form is spooled to an unnamed temporary file, which goes with the
        request: a visitor who leaves and a disk that is full leave nothing behind.
        """
        kept, received = await run_in_threadpool(self._sweep), 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await request.receive()
            received += (size := len(message.get("body", b"")))
            self._arriving += size
            if kept + self._arriving > MAX_UPLOADS:
                raise HTTPException(503, "Too many clips are waiting. Please try again in a few minutes.")
            return message

        try:
            with anyio.fail_after(UPLOAD_SECONDS):
                async with Request(request.scope, receive_counted).form(max_files=1, max_fields=0) as form:
                    file = form.get("files")
                    if not isinstance(file, UploadFile):
                        return PlainTextResponse("Expected a form with one file in the field 'files'.", 400)
                    return JSONResponse([str(await run_in_threadpool(self._keep, file))])
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except TimeoutError:
            return PlainTextResponse(f"The clip did not arrive within {UPLOAD_SECONDS} seconds.", 408)
        except OSError as error:
            logger.error("a clip cannot be stored in %s: %s", self._folder, error)
            return PlainTextResponse("The clip cannot be stored: the server's disk may be full.", 507)
        finally:
            self._arriving -= received

    def holds(self, path: object) -> bool:
        """Whether it is the path of a clip that was sent, and is still there."""
        if not isinstance(path, str) or not os.path.isfile(path):
            return False
        folder = Path(os.path.realpath(path)).parent
        return folder.parent == self._folder and folder.name.startswith(PREFIX)

    def discard(self, clip: Path) -> None:
        """Delete a clip, which may be gone already."""
        shutil.rmtree(clip.parent, ignore_errors=True)

    def _keep(self, file: UploadFile) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._folder))
        # Its own name, for messages and for what the ending says of the format; 60 characters are at most 240 bytes.
        name = re.split(r"[/\\]", file.filename or "")[-1]
        clip = folder / (re.sub(r"[^\w. -]", "_", name).strip(". ")[-60:] or "clip")
        try:
            with clip.open("xb") as kept:
                shutil.copyfileobj(file.file, kept)
        except OSError:
            self.discard(clip)
            raise
        return clip

    def _sweep(self) -> int:
        """Delete the clips that nobody has searched by in time; the bytes of the others."""
        kept = 0
        for clip in self._folder.glob(f"{PREFIX}*/*"):
            with contextlib.suppress(OSError):  # it may be gone by now
                status = clip.stat()
                if time.time() - status.st_mtime > UPLOAD_SECONDS:
                    self.discard(clip)
                else:
                    kept += status.st_size
        return kept


class TimedFile(io.FileIO):
    """A clip that cannot be read after its time is over: the error ends whatever FFmpeg is doing with it.

    Args:
        path: of the clip.
        end: when its time is over, by ``time.monotonic()``.
        message: of the error.
    """

    def __init__(self, path: Path, end: float, message: str) -> None:
        super().__init__(str(path))
        self._end, self._message = end, message

    def read(self, size: int | None = -1) -> bytes:
        """At most ``READ_SIZE`` bytes.

        Raises:
            VideoError: when its time is over.
        """
        if time.monotonic() > self._end:
            raise VideoError(f"{self.name}: {self._message}")
        return super().read(READ_SIZE if size is None or size < 0 else min(size, READ_SIZE))
