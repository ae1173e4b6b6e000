"""Videos of the index, and moments cut out of them, over HTTP."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
import threading
import time
import unicodedata
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from ..errors import InputValueError, MissingExtraError, VideoError, VideoNotFoundError
from ..index.clips import clip_name
from ..index.hit import Hit
from ..video.clip import write_clip
from ..video.limits import Limits

try:
    from fastapi import APIRouter, Query
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

from .file_response import FileResponse, wait_until_left
from .parameters import VideoId
from .problems import DISK_FULL, problem_responses
from .video_files import VideoFile, VideoFiles, file_version, gone, media_type
from .workers import Workers

READ_WORKERS = 4  # files that are read at once; further reads wait
CLIP_WORKERS = 2  # clips that are cut out at once; further ones wait
MAX_CLIPS = 8  # clips that are cut out, wait for it, or are being sent; further ones are refused
MAX_CLIP_LENGTH = 600  # seconds of a clip
MAX_CLIP_BYTES = 1 << 31
CLIP_SECONDS = 60  # until a clip is cut out, including the time that it waits
CLIP_LIMITS = Limits(threads=1)
CHECK_SECONDS = 0.2  # between two looks at a clip that is being cut out

Start = Annotated[
    float | None, Query(ge=0, allow_inf_nan=False, description="Start in seconds; that of the segment if left out.")
]
End = Annotated[
    float | None, Query(ge=0, allow_inf_nan=False, description="End in seconds; that of the segment if left out.")
]


class Media:
    """Answer requests for a video of the index, or for a moment of it.

    Args:
        files: the files of the index.
        folder: existing folder for clips; each is deleted once it is sent.

    Attributes:
        router: the addresses ``/media/{id}`` and ``/clips/{id}``.
    """

    def __init__(self, files: VideoFiles, folder: Path) -> None:
        self._files, self._folder = files, folder
        self._readers, self._cutters = Workers(READ_WORKERS), Workers(CLIP_WORKERS)
        self._clips = 0  # that are cut out, wait for it, or are being sent
        self.router = APIRouter()
        video: dict[str, Any] = {"content": {"video/*": {"schema": {"type": "string", "format": "binary"}}}}
        self.router.add_api_route(
            "/media/{id}",
            self.get_media,
            operation_id="get_media",
            response_class=Response,
            responses={200: video, 206: video | {"description": "A range of it."}, **problem_responses(404, 416)},
        )
        self.router.add_api_route("/media/{id}", self.get_media, methods=["HEAD"], include_in_schema=False)
        self.router.add_api_route(
            "/clips/{id}",
            self.get_clip,
            operation_id="get_clip",
            response_class=Response,
            responses={200: video, **problem_responses(404, 507)},
        )

    async def get_media(self, id: VideoId) -> Response:  # noqa: A002
        """Return the file of a video, or the range of it that the request asks for."""
        file = await self._files.find(id)
        return FileResponse(file.path, file.version, media_type(file.path), self._readers)

    async def get_clip(
        self,
        request: Request,
        id: VideoId,  # noqa: A002
        start: Start = None,
        end: End = None,
    ) -> Response:
        """Return a moment of a video as a file of its own, in the quality of the video.

        It begins at the last key frame before the start, so that nothing is re-encoded.
        """
        file = await self._files.find(id)
        hit = _moment(file.hit, start, end)
        if self._clips >= MAX_CLIPS:
            raise HTTPException(503, "Too many clips are being cut out. Try again in a minute.")
        try:
            folder = Path(tempfile.mkdtemp(prefix="cut-", dir=self._folder))
        except OSError as error:
            raise HTTPException(507, DISK_FULL) from error
        self._clips += 1
        clip = folder / f"clip{Path(clip_name(hit)).suffix}"
        stopped = threading.Event()
        work = asyncio.ensure_future(self._cutters.run(_write, file, hit, clip, stopped))
        try:
            await _wait_for_clip(work, folder, request)
            version = file_version(str(clip))
            if work.exception() is not None or version is None:
                raise _clip_error(work.exception(), file)
        except BaseException:
            stopped.set()
            work.add_done_callback(lambda _: work.cancelled() or work.exception())  # nobody else asks for it
            work.add_done_callback(lambda _: self._discard(folder))
            raise
        headers = {"Content-Disposition": content_disposition(clip_name(hit)), "Cache-Control": "private, no-store"}
        return FileResponse(
            str(clip), version, media_type(clip.name), self._readers, headers, partial(self._discard, folder)
        )

    def _discard(self, folder: Path) -> None:
        self._clips -= 1
        shutil.rmtree(folder, ignore_errors=True)


def _moment(hit: Hit, start: float | None, end: float | None) -> Hit:
    """Return a moment of a video; raise HTTPException (422) if it is none."""
    start, end = hit.start if start is None else start, hit.end if end is None else end
    if start is None or end is None:
        raise HTTPException(422, "start and end are required for a whole video: seconds where the clip is to be cut.")
    if not start < end:
        raise HTTPException(422, f"end is {end:g}: it should be after start, {start:g}.")
    if end - start > MAX_CLIP_LENGTH:
        raise HTTPException(422, f"end is {end:g}: it should be at most {MAX_CLIP_LENGTH} s after start, {start:g}.")
    return replace(hit, start=start, end=end)


def _write(file: VideoFile, hit: Hit, clip: Path, stopped: threading.Event) -> None:
    try:
        write_clip(file.path, clip, hit.start, hit.end, limits=CLIP_LIMITS, stopped=stopped)
    except KeyboardInterrupt:  # it was stopped; nobody waits for it
        return


async def _wait_for_clip(work: asyncio.Future[None], folder: Path, request: Request) -> None:
    """Wait until a clip is cut out.

    Raises:
        HTTPException: it takes too long, becomes too large, or the visitor has left.
    """
    deadline = time.monotonic() + CLIP_SECONDS
    has_left = asyncio.ensure_future(wait_until_left(request.receive))
    try:
        while not work.done():
            await asyncio.wait({work, has_left}, timeout=CHECK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if has_left.done():
                raise HTTPException(400, "The connection was closed.")  # nobody receives it
            if time.monotonic() > deadline:
                raise HTTPException(503, f"The clip was not cut out within {CLIP_SECONDS} seconds. Try a shorter one.")
            if _size(folder) > MAX_CLIP_BYTES:
                raise HTTPException(413, f"The clip is larger than {MAX_CLIP_BYTES:,} bytes. Try a shorter one.")
    finally:
        has_left.cancel()


def _size(folder: Path) -> int:
    """Return the bytes of the files of a folder, which may vanish meanwhile."""
    return sum((file_version(str(path)) or (0, 0))[0] for path in folder.iterdir())


def _clip_error(error: BaseException | None, file: VideoFile) -> BaseException:
    """Return the error to raise where there is no clip."""
    if isinstance(error, VideoNotFoundError):
        return HTTPException(404, gone(file.name))
    if isinstance(error, InputValueError):  # the video has no such time
        return HTTPException(422, f"{error}.".replace(file.path, file.name))
    if isinstance(error, VideoError):  # its advice is for the command line
        sentence = f"A moment of {file.name} cannot be cut out: the file is damaged, or of a kind that cannot be cut."
        return HTTPException(422, f"{sentence} Download the whole video instead.")
    if isinstance(error, OSError) or error is None:
        return HTTPException(507, DISK_FULL)
    return error


def content_disposition(name: str) -> str:
    """Return the header that makes a browser save a file under a name (RFC 6266).

    Args:
        name: file name in any script. Programs that know only ASCII get the nearest name.
    """
    letters = (letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    ascii_name = re.sub(r'[^ -~]|["\\%]', "_", "".join(letters))
    header = f'attachment; filename="{ascii_name}"'
    return header if ascii_name == name else f"{header}; filename*=UTF-8''{quote(name, safe='')}"
