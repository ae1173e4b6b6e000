"""Pictures of videos over HTTP: of a moment, and strips of several moments side by side."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from PIL import Image, ImageOps

from ..errors import Clip4clipError, InputValueError, MissingExtraError
from ..runtime.placement import available_cores
from ..video.limits import Limits
from ..video.reader import Frame
from ..video.stills import read_stills

try:
    from fastapi import APIRouter, Query
    from starlette.exceptions import HTTPException
    from starlette.responses import Response
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

from .byte_cache import ByteCache
from .parameters import VideoId
from .problems import problem_responses
from .timed_file import TimedFile
from .video_files import VideoFile, VideoFiles
from .workers import Workers

MAX_PICTURE_WORKERS = 4  # pictures that are made at once, if there are as many cores; further ones wait
MAX_WAITING_PICTURES = 200  # pictures that are made or wait for it; further ones are refused
PICTURE_SECONDS = 20  # to decode the frames of a picture
# About a minute of decoding one after the other, which PICTURE_SECONDS cuts short.
PICTURE_LIMITS = Limits(decoded_pixels=8e9, threads=1)
CACHE_BYTES = 64 << 20  # of pictures in memory: some thousands
CACHE_CONTROL = "private, max-age=3600"
THUMBNAIL_SIZE = 480  # pixels of the longer side
STRIP_FRAMES = 6
STRIP_WIDTH = 160  # pixels of each frame of a strip
STRIP_HEIGHTS = (20, 320)  # pixels; a frame that is flatter or taller is cropped
QUALITY = 80  # of JPEG

Seconds = Annotated[float | None, Query(ge=0, allow_inf_nan=False)]
DrawFunction = Callable[[Sequence[Frame]], Image.Image]


class Thumbnails:
    """Answer requests for pictures of the videos of an index.

    Args:
        files: the files of the index.

    Attributes:
        router: the addresses ``/thumbnails/{id}`` and ``/strips/{id}``.
    """

    def __init__(self, files: VideoFiles) -> None:
        self._files = files
        self._workers = Workers(min(MAX_PICTURE_WORKERS, available_cores()))
        self._cache = ByteCache(CACHE_BYTES)
        self._being_made: dict[tuple[Any, ...], asyncio.Future[bytes]] = {}  # by their keys in the cache
        self.router = APIRouter()
        picture: dict[str, Any] = {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
        responses = {200: picture, **problem_responses(404)}
        for path, function in (("/thumbnails/{id}", self.get_thumbnail), ("/strips/{id}", self.get_strip)):
            self.router.add_api_route(
                path, function, operation_id=function.__name__, response_class=Response, responses=responses
            )

    async def get_thumbnail(self, id: VideoId, t: Seconds = None) -> Response:  # noqa: A002
        """Return a picture of a video at a time, or of the middle of a video or segment, as JPEG."""
        file = await self._files.find(id)
        if t is None:
            return await self._picture(file, draw_thumbnail, 1, file.hit.start, file.hit.end)
        return await self._picture(file, draw_thumbnail, 1, t, t)

    async def get_strip(
        self,
        id: VideoId,  # noqa: A002
        start: Seconds = None,
        end: Seconds = None,
    ) -> Response:
        """Return six pictures side by side, as JPEG: of a part of a video, of a segment, or of a whole video."""
        file = await self._files.find(id)
        start, end = file.hit.start if start is None else start, file.hit.end if end is None else end
        if start is not None and end is not None and end < start:
            raise HTTPException(422, f"end is {end:g}: it should not be before start, {start:g}.")
        return await self._picture(file, draw_strip, STRIP_FRAMES, start, end)

    async def _picture(
        self, file: VideoFile, draw: DrawFunction, count: int, start: float | None, end: float | None
    ) -> Response:
        """Return a picture from the cache, or make it once for all visitors who ask for it now."""
        times = [None if time is None else round(time, 3) for time in (start, end)]
        key = (file.path, file.version, count, *times)
        picture = self._cache.get(key)
        if picture is None:
            if key not in self._being_made:
                self._start(key, lambda: _make(file, draw, count, *times))
            picture = await asyncio.shield(self._being_made[key])
        if not picture:
            raise HTTPException(404, f"There is no picture of {file.name} here: its frames cannot be decoded.")
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": CACHE_CONTROL})

    def _start(self, key: tuple[Any, ...], make: Callable[[], bytes]) -> None:
        """Begin to make a picture, which goes on even if all who ask for it leave."""
        if len(self._being_made) >= MAX_WAITING_PICTURES:
            raise HTTPException(503, "Too many pictures are being made. Try again in a few seconds.")

        def finish(picture: asyncio.Future[bytes]) -> None:
            del self._being_made[key]
            if not picture.cancelled() and picture.exception() is None:
                self._cache.put(key, picture.result())

        future = self._being_made[key] = asyncio.ensure_future(self._workers.run(make))
        future.add_done_callback(finish)


def _make(file: VideoFile, draw: DrawFunction, count: int, start: float | None, end: float | None) -> bytes:
    """Return a picture as JPEG; empty if no frame can be decoded.

    Raises:
        HTTPException: the video has no such time, its file cannot be opened, or decoding takes too long.
    """
    try:
        with Path(file.path).open("rb") as opened:
            # The name of the file would tell its folder.
            timed = TimedFile(opened, file.name, time.monotonic() + PICTURE_SECONDS, "decoding takes too long")
            try:
                source: Any = timed
                frames = read_stills(source, count, start, end, PICTURE_LIMITS)
            except Clip4clipError as error:
                if timed.is_late:
                    raise HTTPException(503, f"{file.name} was not decoded in {PICTURE_SECONDS} seconds.") from error
                if isinstance(error, InputValueError):
                    raise HTTPException(422, f"{error}.") from error
                return b""
    except OSError as error:  # such as too many open files: not an answer to keep
        raise HTTPException(503, f"{file.name} cannot be read at the moment. Try again in a minute.") from error
    buffer = io.BytesIO()
    draw(frames).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def draw_thumbnail(frames: Sequence[Frame]) -> Image.Image:
    """Return a frame with a longer side of at most ``THUMBNAIL_SIZE`` pixels."""
    image = Image.fromarray(frames[0].rgb)
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    return image


def draw_strip(frames: Sequence[Frame]) -> Image.Image:
    """Return frames side by side, each ``STRIP_WIDTH`` pixels wide."""
    height, width = frames[0].rgb.shape[:2]
    low, high = STRIP_HEIGHTS
    size = STRIP_WIDTH, min(max(round(STRIP_WIDTH * height / width), low), high)
    strip = Image.new("RGB", (STRIP_WIDTH * len(frames), size[1]))
    for number, frame in enumerate(frames):
        strip.paste(ImageOps.fit(Image.fromarray(frame.rgb), size), (number * STRIP_WIDTH, 0))
    return strip
