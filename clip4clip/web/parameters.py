"""The parameters that several addresses of the API share."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import unquote

from ..errors import MissingExtraError

try:
    from fastapi import Depends, Path, Query
    from pydantic import AfterValidator
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

from .search import SearchOptions

MAX_RESULTS = 100  # of one answer
MAX_OFFSET = 1000  # of a search
MAX_LIST_OFFSET = 10_000_000  # of a list of videos: more than an index has


def _decode_segment(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("it should be percent-encoded UTF-8") from None


VideoId = Annotated[
    str,
    Path(description="Id of a video or of a segment. In an address, `/` is `%2F`."),
    AfterValidator(_decode_segment),
]
Count = Annotated[int, Query(ge=1, le=MAX_RESULTS, description="Largest number of results.")]
Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET, description="Number of better results to leave out.")]
ListOffset = Annotated[int, Query(ge=0, le=MAX_LIST_OFFSET, description="Number of videos to leave out.")]
Filter = Annotated[str, Query(description='Condition on the fields, such as `duration < 60 and path like "/srv/%"`.')]
PerVideo = Annotated[
    Annotated[int, Query(ge=1)] | Literal["all"], Query(description="Largest number of moments of each video.")
]
MinScore = Annotated[float | None, Query(ge=-1, le=1, allow_inf_nan=False, description="Smallest score of a moment.")]


def search_options(
    k: Count = 12,
    offset: Offset = 0,
    filter: Filter = "",  # noqa: A002
    per_video: PerVideo = 1,
    min_score: MinScore = None,
) -> SearchOptions:
    """Return the options of a search from the parameters of a request."""
    return SearchOptions(k, offset, filter, None if per_video == "all" else per_video, min_score)


Options = Annotated[SearchOptions, Depends(search_options)]
