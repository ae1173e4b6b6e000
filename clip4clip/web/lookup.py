"""Look up the video that a visitor names by its id."""

from __future__ import annotations

from ..errors import InputValueError, MissingExtraError
from ..index.hit import Hit
from ..index.video_index import VideoIndex

try:
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

NO_SUCH_VIDEO = "The index has no such video. It may have been removed or renamed."


def find(index: VideoIndex, id: str) -> Hit:  # noqa: A002
    """Return the video or segment with an id.

    Raises:
        HTTPException: 404, the index has none.
    """
    try:
        hit = index.get(id)
    except InputValueError:  # the id is not a valid key of this collection
        hit = None
    if hit is None:
        raise HTTPException(404, NO_SUCH_VIDEO)
    return hit
