"""Searches of a visitor within limits on work and time: by a text, by a clip, and by a moment of the index."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Clip4clipError, MissingExtraError, VideoError
from ..index.hit import Hit
from ..index.video_index import VideoIndex
from ..video.container import Container
from ..video.limits import Limits

try:
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

from .answers import to_moment
from .lookup import find
from .problems import visitor_problem
from .schemas import SearchAnswer
from .uploads import TimedFile
from .workers import Workers

TEXT_WORKERS = 4  # searches without a clip that run at once; further ones wait
CLIP_WORKERS = 2  # searches by a clip that run at once, apart from the others
MAX_WAITING_CLIPS = 16  # searches by a clip that run or wait; further ones are refused
MAX_CLIP_SECONDS = 600  # duration of a clip
# 4K; an hour at 60 frames per second, because a clip may be longer than it declares; about a minute of decoding.
CLIP_LIMITS = Limits(pixels=4096 * 2304, frames=250_000, decoded_pixels=16e9)
SEARCH_SECONDS = 60  # until a search is answered, including the time that it waits

OUT_OF_TIME = f"the search was not done within {SEARCH_SECONDS} seconds. Try a shorter or smaller clip"


@dataclass(frozen=True)
class SearchOptions:
    """What a search returns.

    Attributes:
        k: largest number of moments.
        offset: number of nearer moments to leave out.
        filter: condition on the fields, as :meth:`VideoIndex.search` takes it.
        per_video: largest number of moments of each video; None for all.
        min_score: smallest score.
    """

    k: int = 12
    offset: int = 0
    filter: str = ""
    per_video: int | None = 1
    min_score: float = -1.0


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
            return self._index.search(text, limit=limit, filter=options.filter, per_video=options.per_video)

        return await _in_time(self._text_workers.run(self._answer, search, options))

    async def similar(self, id: str, at: float | None, options: SearchOptions) -> SearchAnswer:  # noqa: A002
        """Return the moments that look like a video of the index, or like its moment at ``at`` seconds."""

        def search(limit: int) -> list[Hit]:
            find(self._index, id)
            return self._index.similar(id, at, limit=limit, filter=options.filter, per_video=options.per_video)

        return await _in_time(self._text_workers.run(self._answer, search, options))

    async def by_clip(self, path: Path, options: SearchOptions) -> SearchAnswer:
        """Return the moments that look like an uploaded clip. The caller deletes the clip."""
        if self._clips >= MAX_WAITING_CLIPS:
            raise HTTPException(503, "Too many searches by a clip are waiting. Try again in a minute.")
        deadline = time.monotonic() + SEARCH_SECONDS
        self._clips += 1
        try:
            return await _in_time(self._clip_workers.run(self._search_by_clip, path, deadline, options))
        finally:
            self._clips -= 1

    async def embed(self, text: str) -> list[float]:
        """Return the vector of a text."""
        return await _in_time(self._text_workers.run(lambda: self._index.embed_text(text).tolist()))

    def _search_by_clip(self, path: Path, deadline: float, options: SearchOptions) -> SearchAnswer:
        try:
            with TimedFile(path, deadline, OUT_OF_TIME) as clip:
                _check_duration(clip)
                video: Any = clip  # an open file, which read_frames takes

                def search(limit: int) -> list[Hit]:
                    return self._index.search(
                        video=video, limit=limit, filter=options.filter, per_video=options.per_video, limits=CLIP_LIMITS
                    )

                return self._answer(search, options)
        except Clip4clipError as error:
            status, sentence = visitor_problem(error)
            raise HTTPException(status, sentence.replace(str(path), path.name)) from error

    def _answer(self, search: Callable[[int], list[Hit]], options: SearchOptions) -> SearchAnswer:
        """Run a search and return the part of its result that was asked for.

        Args:
            search: takes the largest number of hits; returns the best ones.
            options: what to return.
        """
        start = time.perf_counter()
        if options.filter.strip():
            self._index.check_filter(options.filter)
        last = options.offset + options.k
        hits = [hit for hit in search(last + 1) if hit.score >= options.min_score]
        return SearchAnswer(
            moments=[to_moment(hit) for hit in hits[options.offset : last]],
            offset=options.offset,
            has_more=len(hits) > last,
            probably_here=None,
            milliseconds=1000 * (time.perf_counter() - start),
        )


async def _in_time(search: Any) -> Any:
    """Return the result of a search; raise HTTPException (503) if there is none in time."""
    try:
        return await asyncio.wait_for(search, SEARCH_SECONDS)
    except asyncio.TimeoutError:
        raise HTTPException(503, f"The search was not done within {SEARCH_SECONDS} seconds. Try again.") from None


def _check_duration(clip: TimedFile) -> None:
    with Container(clip, CLIP_LIMITS) as container:
        seconds = container.duration or 0
    if seconds > MAX_CLIP_SECONDS:
        raise VideoError(
            f"{clip.name}: it has {seconds:,.0f} seconds of video, and a clip to search by may have at most "
            f"{MAX_CLIP_SECONDS}. Cut it, or save less of it"
        )
