"""Searches of a visitor, by a sentence or by an uploaded clip, within limits on work and time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from ..errors import Clip4clipError, VideoError
from ..index.hit import Hit
from ..index.video_index import VideoIndex
from ..video.container import Container
from ..video.limits import Limits
from .results import SEARCH_FAILED, results_html, status_html, visitor_message
from .uploads import TimedFile, Uploads
from .workers import Workers

logger = logging.getLogger(__name__)

MAX_RESULTS = 12  # fills whole rows of two, three and four
MAX_QUERY = 2000  # characters
TEXT_WORKERS = 4  # searches by a sentence that run at once; further ones wait
CLIP_WORKERS = 2  # searches by a clip that run at once, apart from searches by a sentence
MAX_CLIP_SECONDS = 600  # duration of a clip
# 4K; an hour at 60 frames per second, because a clip may be longer than it declares; about a minute of decoding.
CLIP_LIMITS = Limits(pixels=4096 * 2304, frames=250_000, decoded_pixels=16e9)
CLIP_TIMEOUT = 60  # seconds until a search by a clip is answered, including the time that it waits

EMPTY_QUERY = "Type what the video shows, or search by a clip of your own."
OUT_OF_TIME = f"the search was not done within {CLIP_TIMEOUT} seconds. Please try a shorter or smaller clip"


class Answer(NamedTuple):
    """What the page shows after a search.

    Attributes:
        status: HTML of the status line.
        results: HTML of the results; empty if there are none.
    """

    status: str
    results: str = ""


class Search:
    """Search an index in threads of its own.

    Args:
        index: index to search.
        uploads: holds the clips to search by; each is deleted after its search.
    """

    def __init__(self, index: VideoIndex, uploads: Uploads) -> None:
        self._index, self._uploads = index, uploads
        self._text_workers, self._clip_workers = Workers(TEXT_WORKERS), Workers(CLIP_WORKERS)

    async def by_text(self, query: str) -> Answer:
        """Search by a sentence."""
        query = query.strip()
        if not query:
            return Answer(status_html(EMPTY_QUERY))
        if len(query) > MAX_QUERY:
            return Answer(status_html(f"That is longer than {MAX_QUERY} characters.", is_error=True))

        def search() -> list[Hit]:
            return self._index.search(query, limit=MAX_RESULTS)

        return await self._text_workers.run(self._answer, search, f"“{query}”", f"?{urlencode({'q': query})}")

    async def by_clip(self, path: Path) -> Answer:
        """Search by an uploaded clip, then delete it."""
        deadline = time.monotonic() + CLIP_TIMEOUT
        try:
            return await asyncio.wait_for(self._clip_workers.run(self._search_by_clip, path, deadline), CLIP_TIMEOUT)
        except asyncio.TimeoutError:
            return Answer(status_html(f"{path.name}: {OUT_OF_TIME}.", is_error=True))
        except FileNotFoundError:
            return Answer(status_html(f"{path.name} has been deleted. Please send it again.", is_error=True))
        finally:
            self._uploads.discard(path)

    def _search_by_clip(self, path: Path, deadline: float) -> Answer:
        with TimedFile(path, deadline, OUT_OF_TIME) as clip:

            def search() -> list[Hit]:
                _check_duration(clip)
                video: Any = clip  # an open file, which read_frames takes
                return self._index.search(video=video, limit=MAX_RESULTS, limits=CLIP_LIMITS)

            return self._answer(search, f"the clip {path.name}", clip=path)

    def _answer(
        self, search: Callable[[], list[Hit]], query: str, link: str | None = None, clip: Path | None = None
    ) -> Answer:
        """Run a search and return what the page shows, also if the search fails.

        Args:
            search: returns the hits.
            query: the query in words.
            link: URL of this search, if it has one.
            clip: the uploaded clip, whose folder is removed from messages.
        """
        start = time.perf_counter()
        try:
            hits = search()
            milliseconds = 1000 * (time.perf_counter() - start)
            count = self._index.count_vectors()  # on a server, to count videos would take longer than the search
        except Clip4clipError as error:
            message = visitor_message(error)
            if clip is not None:
                message = message.replace(str(clip), clip.name)
            return Answer(status_html(message, is_error=True))
        except Exception:
            logger.exception("a search failed")
            return Answer(status_html(SEARCH_FAILED, is_error=True))
        if not hits:
            return Answer(status_html(f"No videos were found for {query}: the index has {count:,}."))
        kind = "videos" if all(hit.start is None for hit in hits) else "moments"
        summary = f"{len(hits)} of {count:,} {kind} for {query}, in {milliseconds:.0f} ms"
        return Answer(status_html(summary, link), results_html(hits))


def _check_duration(clip: TimedFile) -> None:
    with Container(clip, CLIP_LIMITS) as container:
        seconds = container.duration or 0
    if seconds > MAX_CLIP_SECONDS:
        raise VideoError(
            f"{clip.name}: it has {seconds:,.0f} seconds of video, and a clip to search by may have at most "
            f"{MAX_CLIP_SECONDS}. Cut it, or save less of it"
        )
