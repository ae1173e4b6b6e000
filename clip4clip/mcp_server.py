"""Let assistants search an index: a server of the Model Context Protocol (MCP) with two tools."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from . import __version__
from .errors import Clip4clipError
from .index.calibration import is_probably_here
from .index.hit import Hit
from .index.video_index import VideoIndex

MAX_QUERY = 2000  # characters
MAX_RESULTS = 100  # of a search: more would fill an assistant's context

INSTRUCTIONS = (
    "Finds videos of the user, and moments in them, by what they show. A search always finds the nearest there is: if "
    "probably_here is false, say that the videos probably do not show it. Compare scores within one search only. Tell "
    "the user the path and the time of what you found."
)

Limit = Annotated[int, Field(ge=1, le=MAX_RESULTS, description="Largest number of moments.")]
PerVideo = Annotated[int | None, Field(ge=1, description="Largest number of moments of each video; null for all.")]
Filter = Annotated[
    str,
    Field(
        description="Only videos that meet a condition on path, duration (seconds), size (bytes), modified or fields "
        'of their own, such as: path like "/videos/2025/%" and duration < 60, or: modified > "2025-06-01". '
        "Empty for all videos."
    ),
]


class Moment(BaseModel):
    """A moment of a video, or a whole video."""

    video: str = Field(description="Id of the video, for similar_moments.")
    path: str = Field(description="Local path or URL of the video.")
    start: float | None = Field(description="Start of the moment in seconds; null for a whole video.")
    end: float | None = Field(description="End of the moment in seconds; null for a whole video.")
    time: str = Field(description="Start and end for people, such as 12:30–12:45; empty for a whole video.")
    duration: float | None = Field(description="Length of the whole video in seconds; null if it is unknown.")
    score: float = Field(description="Cosine similarity to the query, -1 to 1; higher is more similar.")


class Moments(BaseModel):
    """What was found, the most similar first."""

    moments: list[Moment]


class SearchResult(Moments):
    """What a search for a sentence found, the most similar first."""

    probably_here: bool | None = Field(
        description="Whether the videos probably show what was asked for at all; null with a filter, or if that is not "
        "known yet."
    )


def make_server(index: VideoIndex) -> MCPServer[Any]:
    """Return a server with the tools *search_videos* and *similar_moments*.

    It answers at once. The model is loaded by the first search for a sentence, because most servers of an assistant
    are started and not used.

    Args:
        index: index to search. The caller closes it.
    """
    server: MCPServer[Any] = MCPServer("clip4clip", instructions=INSTRUCTIONS, version=__version__)
    reads_only = ToolAnnotations(read_only_hint=True, open_world_hint=False)

    @server.tool(title="Search videos", annotations=reads_only)
    def search_videos(
        sentence: Annotated[
            str,
            Field(
                min_length=1,
                max_length=MAX_QUERY,
                description="What the videos show, in English, such as: kids feeding a horse.",
            ),
        ],
        limit: Limit = 10,
        filter: Filter = "",  # noqa: A002  the word of the command line
        per_video: PerVideo = 1,
        min_score: Annotated[
            float | None, Field(ge=-1, le=1, description="Leave out moments with a lower score; null for none.")
        ] = None,
    ) -> SearchResult:
        """Find videos, and the moments in them, that show what a sentence describes."""
        with _errors_for_the_assistant():
            index.check_filter(filter)
            hits = index.search(sentence, limit=limit, filter=filter, per_video=per_video)
            is_probable = is_probably_here(index, hits, filter)
            if min_score is not None:
                hits = [hit for hit in hits if hit.score >= min_score]
            return SearchResult(moments=[_to_moment(hit) for hit in hits], probably_here=is_probable)

    @server.tool(title="Similar moments", annotations=reads_only)
    def similar_moments(
        video: Annotated[str, Field(description="Id of a video, as search_videos returns it.")],
        time: Annotated[
            float | None, Field(ge=0, description="Time of the moment in seconds; null for the whole video.")
        ] = None,
        limit: Limit = 10,
        filter: Filter = "",  # noqa: A002
        per_video: PerVideo = 1,
    ) -> Moments:
        """Find moments of other videos that look like a moment of a video, or like the whole video."""
        with _errors_for_the_assistant():
            index.check_filter(filter)
            hits = index.similar(video, time, limit=limit, filter=filter, per_video=per_video)
            return Moments(moments=[_to_moment(hit) for hit in hits])

    return server


@contextlib.contextmanager
def _errors_for_the_assistant() -> Iterator[None]:
    """Raise errors of this package as ToolError, of which the assistant gets the sentence."""
    try:
        yield
    except Clip4clipError as error:
        raise ToolError(str(error)) from error


def _to_moment(hit: Hit) -> Moment:
    duration = hit.fields.get("duration")
    return Moment(
        video=str(hit.video),
        path=hit.path,
        start=hit.start,
        end=hit.end,
        time=hit.time_range,
        duration=duration if isinstance(duration, int | float) else None,
        score=hit.score,
    )
