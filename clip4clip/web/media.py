"""Videos of the index and their posters, over HTTP."""

from __future__ import annotations

import functools
import io
import mimetypes
import os

from PIL import Image

from ..errors import Clip4clipError, InputValueError, MissingExtraError
from ..evaluation.video_folder import VIDEO_EXTENSIONS
from ..index.hit import Hit
from ..index.video_index import VideoIndex
from ..video.reader import read_frames

try:
    from starlette.exceptions import HTTPException
    from starlette.responses import FileResponse, Response
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

from .lookup import NO_SUCH_VIDEO
from .parameters import VideoId
from .workers import Workers

LOOKUP_WORKERS = 4  # threads that look up rows and make posters
POSTER_SIZE = 480  # pixels of its longer side
POSTER_CACHE_SIZE = 1000  # posters


class Media:
    """Answer requests for a video of the index, or for a picture of it.

    A request names a row of the index by its id. The path comes from the row, never from the visitor.

    Args:
        index: index of the videos.
    """

    def __init__(self, index: VideoIndex) -> None:
        self._index = index
        self._workers = Workers(LOOKUP_WORKERS)

    async def get_media(self, id: VideoId) -> Response:  # noqa: A002
        """Return the file of a video, or the range of it that the request asks for."""
        hit = await self._find(id)
        media_type = mimetypes.guess_type(hit.path)[0] or ""
        # A browser must not run a file of the library, such as HTML.
        is_video = media_type.startswith("video/")
        return FileResponse(hit.path, media_type=media_type if is_video else "application/octet-stream")

    async def get_thumbnail(self, id: VideoId, t: float | None = None) -> Response:  # noqa: A002
        """Return a picture of a video, or of a moment of it, as JPEG."""
        hit = await self._find(id)
        picture = await self._workers.run(_poster, hit.path, hit.fields.get("mtime"), t, None)
        if picture is None:
            raise HTTPException(404, "No frame of this video can be shown.")
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(picture, media_type="image/jpeg", headers=headers)

    async def _find(self, id: str) -> Hit:  # noqa: A002
        """Return the row with an id; raise HTTPException (404) if there is no such video."""
        try:
            hit = await self._workers.run(self._index.get, id)
        except InputValueError:  # the id is not a valid key of this collection
            hit = None
        if hit is None or not _is_servable(hit.path):
            raise HTTPException(404, NO_SUCH_VIDEO)
        return hit


def _is_servable(path: str) -> bool:
    """Return whether a visitor may fetch this file. A row of an index could name any file of this machine."""
    return os.path.isabs(path) and path.lower().endswith(VIDEO_EXTENSIONS) and os.path.isfile(path)


@functools.lru_cache(POSTER_CACHE_SIZE)
def _poster(path: str, mtime: int | None, start: float | None, end: float | None) -> bytes | None:  # noqa: ARG001  mtime is part of the cache key: a changed file gets a new poster
    """Return a frame from the middle of a video, or of a moment of it, as JPEG; None if it cannot be decoded."""
    try:
        frames = read_frames(path, indices=lambda count: [count // 2], start_time=start, end_time=end, seek="keyframe")
        frame = next(frames)
    except Clip4clipError:
        return None
    image = Image.fromarray(frame.rgb)
    image.thumbnail((POSTER_SIZE, POSTER_SIZE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
