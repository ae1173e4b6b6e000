"""The addresses below ``/api``: what they take, and what they answer."""

from __future__ import annotations

import heapq
import platform
from importlib.metadata import version
from typing import Annotated, Any, Literal, cast

from .. import __version__
from ..errors import MissingExtraError
from ..index.hit import Hit
from ..index.video_index import VideoIndex
from ..weights.identity import Identity

try:
    from fastapi import APIRouter, Query
    from starlette.requests import Request
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

from .answers import file_name, to_video, to_video_details
from .lookup import find
from .parameters import Count, Filter, ListOffset, Options, VideoId
from .problems import problem_responses
from .schemas import MAX_QUERY, EmbedAnswer, EmbedRequest, SearchAnswer, Status, VideoDetails, VideoList
from .search import Search, in_time
from .uploads import FIELD, Uploads
from .workers import Workers

LOOKUP_WORKERS = 2  # requests for one video, or for the status, that run at once; further ones wait
LIST_WORKERS = 1  # requests for lists of videos that run at once; each reads the whole index
CLIP_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "additionalProperties": False,
                "properties": {FIELD: {"type": "string", "format": "binary", "description": "A video or an image."}},
            }
        }
    },
}
PACKAGES = ("torch", "av", "numpy", "fastapi")


class Api:
    """The API over an index.

    Args:
        index: index to search.

    Attributes:
        router: its addresses.
    """

    def __init__(self, index: VideoIndex) -> None:
        self._index, self._search, self._uploads = index, Search(index), Uploads()
        self._lookups, self._lists = Workers(LOOKUP_WORKERS), Workers(LIST_WORKERS)
        self._counted: tuple[int, int] | None = None  # the last numbers of vectors and videos
        self.router = APIRouter(prefix="/api")
        for path, function, errors in (
            ("/search", self.search, (400,)),
            ("/videos", self.list_videos, (400,)),
            ("/videos/{id}", self.get_video, (404,)),
            ("/videos/{id}/similar", self.similar_moments, (400, 404)),
            ("/status", self.get_status, ()),
        ):
            self._add("GET", path, function, *errors)
        self._add("POST", "/search", self.search_by_clip, 400, 408, 507, openapi_extra={"requestBody": CLIP_FORM})
        self._add("POST", "/embed", self.embed_text, 400)

    def _add(self, method: str, path: str, function: Any, *errors: int, **options: Any) -> None:
        self.router.add_api_route(
            path,
            function,
            methods=[method],
            operation_id=function.__name__,
            responses=problem_responses(*errors),
            **options,
        )

    async def search(
        self,
        q: Annotated[str, Query(min_length=1, max_length=MAX_QUERY, description="What the moments show.")],
        options: Options,
    ) -> SearchAnswer:
        """Find the moments that a text describes, the best first."""
        return await self._search.by_text(q, options)

    async def search_by_clip(self, request: Request, options: Options) -> SearchAnswer:
        """Find the moments that look like a clip or an image, the best first."""
        await self._search.check_clip_search(options)  # before 500 MB have arrived
        async with self._uploads.receive(request) as upload:
            return await self._search.by_clip(upload, options)

    async def list_videos(
        self,
        filter: Filter = "",  # noqa: A002
        order: Literal["name", "date"] = "name",
        offset: ListOffset = 0,
        k: Count = 100,
    ) -> VideoList:
        """List the videos: by name, or the newest first."""
        return await in_time(self._lists.run(self._list, filter, order, offset, k))

    def _list(self, filter: str, order: str, offset: int, k: int) -> VideoList:  # noqa: A002
        if filter.strip():
            self._index.check_filter(filter)
        key = _by_name if order == "name" else _by_date
        videos = heapq.nsmallest(offset + k + 1, self._index.videos(filter), key=key)
        return VideoList(
            videos=[to_video(video) for video in videos[offset : offset + k]],
            offset=offset,
            has_more=len(videos) > offset + k,
        )

    async def get_video(self, id: VideoId) -> VideoDetails:  # noqa: A002
        """Return a video and its segments."""
        return await in_time(self._lookups.run(self._get, id))

    def _get(self, id: str) -> VideoDetails:  # noqa: A002
        video = find(self._index, find(self._index, id).video)
        return to_video_details(video, self._index.segments_of(video.video))

    async def similar_moments(
        self,
        id: VideoId,  # noqa: A002
        options: Options,
        t: Annotated[
            float | None,
            Query(
                ge=0, allow_inf_nan=False, description="Time of a moment of the video, in seconds; none for all of it."
            ),
        ] = None,
    ) -> SearchAnswer:
        """Find moments that look like a video of the index, or like a moment of it. The video itself is left out."""
        return await self._search.similar(id, t, options)

    async def embed_text(self, request: EmbedRequest) -> EmbedAnswer:
        """Return the vector of a text, which can be compared with the vectors of the index."""
        vector = await self._search.embed(request.text)
        model = cast("Identity", await in_time(self._lookups.run(lambda: self._index.model)))  # embed has checked it
        return EmbedAnswer(vector=vector, model=model.model, fingerprint=model.fingerprint)

    async def get_status(self) -> Status:
        """Return what can be searched, and by which model and versions."""
        return await in_time(self._lookups.run(self._status))

    def _status(self) -> Status:
        model = self._index.model
        return Status(
            model=model.model if model else None,
            fingerprint=model.fingerprint if model else None,
            videos=self._count_videos(vectors := self._index.count_vectors()),
            vectors=vectors,
            version=__version__,
            versions={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        )

    def _count_videos(self, vectors: int) -> int:
        """Return the number of videos. It is counted again if the number of vectors has changed: counting is slow."""
        if self._counted is None or self._counted[0] != vectors:
            self._counted = vectors, self._index.count()
        return self._counted[1]


def _by_name(video: Hit) -> tuple[str, str]:
    return file_name(video).casefold(), video.path


def _by_date(video: Hit) -> tuple[float, tuple[str, str]]:
    mtime = video.fields.get("mtime")
    return -mtime if isinstance(mtime, int | float) else float("inf"), _by_name(video)
