"""Searches of a visitor within limits on work and time: by a text, by a clip, and by a moment of the index."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..errors import MissingExtraError, VideoError
from ..index.calibration import is_probably_here
from ..index.clip_query import merge_hits
from ..index.copies import fold_copies
from ..index.hit import Hit
from ..index.video_index import VideoIndex
from ..video.container import Container
from ..video.image import is_image
from ..video.limits import Limits

try:
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

from .answers import to_moment
from .lookup import find
from .schemas import SearchAnswer
from .timed_file import TimedFile
from .uploads import Upload
from .workers import Workers

T = TypeVar("T")

TEXT_WORKERS = 4  # searches without a clip that run at once; further ones wait
CLIP_WORKERS = 2  # searches by a clip that run at once, apart from the others
MAX_WAITING_CLIPS = 16  # searches by a clip that run or wait; further ones are refused
MAX_CLIP_SECONDS = 600  # duration of a clip
MAX_HITS = 4096  # that a search looks at to find so many that are not copies of others
# 4K; an hour at 60 frames per second, because a clip may be longer than it declares; about a minute of decoding.
CLIP_LIMITS = Limits(pixels=4096 * 2304, frames=250_000, decoded_pixels=16e9)
IMAGE_LIMITS = Limits(pixels=64_000_000)  # 200 MB of memory
SEARCH_SECONDS = 60  # until a search, or another question about the index, is answered; with the time that it waits

OUT_OF_TIME = f"the search was not done within {SEARCH_SECONDS} seconds. Try a shorter or smaller clip"


@dataclass(frozen=True)
class SearchOptions:
    """What a search returns.

    Attributes:
        k: largest number of moments.
        offset: number of nearer moments to leave out.
        filter: condition on the fields, as :meth:`VideoIndex.search` takes it.
        per_video: largest number of moments of each video; None for all.
        min_score: smallest score; None for any.
    """

    k: int = 12
    offset: int = 0
    filter: str = ""
    per_video: int | None = 1
    min_score: float | None = None


class Search:
    """Search an index in threads of its own.

    All methods raise what :meth:`VideoIndex.search` raises, and HTTPException (503) if the search takes too long.

    Args:
        index: index to search.
    """

    def __init__(self, index: VideoIndex) -> None:
        self._index = index
        self._text_workers, self._clip_workers = Workers(TEXT_WORKERS), Workers(CLIP_WORKERS)
        self._clips = 0  # searches by a clip that run or wait

    async def by_text(self, text: str, options: SearchOptions) -> SearchAnswer:
        """Return the moments that a text describes."""

        def search(limit: int) -> list[Hit]:
            return self._index.search(text, limit=limit, **_arguments(options))

        return await in_time(self._text_workers.run(self._answer, search, options, time.perf_counter(), True))

    async def similar(self, id: str, at: float | None, options: SearchOptions) -> SearchAnswer:  # noqa: A002
        """Return the moments that look like a video of the index, or like its moment at ``at`` seconds."""

        def search(limit: int) -> list[Hit]:
            find(self._index, id)
            return self._index.similar(id, at, limit=limit, **_arguments(options))

        return await in_time(self._text_workers.run(self._answer, search, options, time.perf_counter()))

    async def check_clip_search(self, options: SearchOptions) -> None:
        """Raise what a search by a clip would raise whatever the clip is, so that it need not be received first.

        Raises:
            HTTPException: 503 if too many searches by a clip are waiting.
            VideoIndexError: the filter is invalid.
        """
        self._check_waiting_clips()
        if options.filter.strip():
            await in_time(self._text_workers.run(self._index.check_filter, options.filter))

    def _check_waiting_clips(self) -> None:
        if self._clips >= MAX_WAITING_CLIPS:
            raise HTTPException(503, "Too many searches by a clip are waiting. Try again in a minute.")

    async def by_clip(self, upload: Upload, options: SearchOptions) -> SearchAnswer:
        """Return the moments that look like an uploaded clip or image. Call :meth:`check_clip_search` before."""
        self._check_waiting_clips()  # others may have come while the clip was received
        clip = upload.until(time.monotonic() + SEARCH_SECONDS, OUT_OF_TIME)
        self._clips += 1
        try:
            return await in_time(self._clip_workers.run(self._search_by_clip, clip, options))
        finally:
            self._clips -= 1

    async def embed(self, text: str) -> list[float]:
        """Return the vector of a text."""
        [vector] = await in_time(self._text_workers.run(self._index.embed, text))
        return vector.tolist()

    def _search_by_clip(self, clip: TimedFile, options: SearchOptions) -> SearchAnswer:
        video: Any = clip  # an open file, which read_frames takes
        limits = IMAGE_LIMITS if is_image(video) else CLIP_LIMITS
        if limits is CLIP_LIMITS:
            _check_duration(clip)

        start = time.perf_counter()
        vectors = self._index.embed(video=video, limits=limits)

        def search(limit: int) -> list[Hit]:
            found = (self._index.search(vector=vector, limit=limit, **_arguments(options)) for vector in vectors)
            return next(found) if len(vectors) == 1 else merge_hits(found, limit, options.per_video)

        return self._answer(search, options, start)

    def _answer(
        self, search: Callable[[int], list[Hit]], options: SearchOptions, start: float, is_text: bool = False
    ) -> SearchAnswer:
        """Run a search and return the part of its result that was asked for.

        Args:
            search: takes the largest number of hits; returns the best ones, with their vectors.
            options: what to return.
            start: when the search began, by ``time.perf_counter()``.
            is_text: whether the query is a text, whose best score says whether the index probably has it.
        """
        if options.filter.strip():
            self._index.check_filter(options.filter)
        last = options.offset + options.k
        hits = _search_folded(search, last + 1)
        listed = [hit for hit, _ in hits]
        is_probable = is_probably_here(self._index, listed, options.filter) if is_text else None
        if options.min_score is not None:
            hits = [(hit, copies) for hit, copies in hits if hit.score >= options.min_score]
        return SearchAnswer(
            moments=[to_moment(hit, copies) for hit, copies in hits[options.offset : last]],
            offset=options.offset,
            has_more=len(hits) > last,
            probably_here=is_probable,
            milliseconds=1000 * (time.perf_counter() - start),
        )


def _search_folded(search: Callable[[int], list[Hit]], count: int) -> list[tuple[Hit, list[Hit]]]:
    """Return ``count`` hits or more, each with its copies; fewer if there are no more.

    A larger search begins with the same hits, so the first ones here are the same for any ``count``.
    """
    limit = count
    while True:
        hits = search(limit)
        folded = fold_copies(hits, np.stack([hit.fields.pop("vector") for hit in hits])) if hits else []
        if len(folded) >= count or len(hits) < limit or limit >= MAX_HITS:
            return folded
        limit = min(4 * limit, MAX_HITS)


def _arguments(options: SearchOptions) -> dict[str, Any]:
    return {"filter": options.filter, "per_video": options.per_video, "output_fields": ("*", "vector")}


async def in_time(work: Awaitable[T]) -> T:
    """Return the result of work for a visitor; raise HTTPException (503) if there is none in time."""
    try:
        return await asyncio.wait_for(work, SEARCH_SECONDS)
    except asyncio.TimeoutError:
        raise HTTPException(503, f"This was not done within {SEARCH_SECONDS} seconds. Try again.") from None


def _check_duration(clip: TimedFile) -> None:
    video: Any = clip
    with Container(video, CLIP_LIMITS) as container:
        seconds = container.duration or 0
    if seconds > MAX_CLIP_SECONDS:
        raise VideoError(
            f"{clip.name}: it has {seconds:,.0f} seconds of video, and a clip to search by may have at most "
            f"{MAX_CLIP_SECONDS}. Cut it, or save less of it"
        )
