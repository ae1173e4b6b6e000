"""What the HTTP API takes and answers."""

from __future__ import annotations

from typing import Any

from ..errors import MissingExtraError

try:
    from pydantic import BaseModel, Field
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

MAX_QUERY = 2000  # characters


class Moment(BaseModel):
    """A moment of a video, or a whole video, that a search found."""

    id: str = Field(description="Id of the segment, or of the video if the video is not cut.")
    video: str = Field(description="Id of the video.")
    name: str = Field(description="File name.")
    path: str = Field(description="Local path on the server, or the URL of the video.")
    start: float | None = Field(description="Start in seconds; null for a whole video.")
    end: float | None = Field(description="End in seconds; null for a whole video.")
    time: str = Field(description="Start and end as people write them, such as `12:30–12:45`; empty for a whole video.")
    score: float = Field(description="Cosine similarity to the query, -1 to 1.")
    duration: float | None = Field(description="Length of the whole video in seconds.")
    modified: float | None = Field(description="When the file was last changed: seconds since 1970, UTC.")
    fields: dict[str, Any] = Field(description="Further fields of the row.")
    media: str = Field(description="Where the whole video is: a path on this server, or another URL.")
    thumbnail: str | None = Field(description="A picture of the moment, on this server; null for a URL.")
    strip: str | None = Field(description="Six frames of the moment side by side, on this server; null for a URL.")
    clip: str | None = Field(description="The moment as a file, on this server; null for a whole video or a URL.")
    copies: list[Copy] = Field(description="Other moments that show the same, and that are not listed for themselves.")


class Copy(BaseModel):
    """A moment that shows the same as another one."""

    id: str
    video: str
    name: str
    path: str
    time: str
    score: float


class SearchAnswer(BaseModel):
    """The moments nearest to a query, the nearest first."""

    moments: list[Moment]
    offset: int = Field(description="How many nearer moments were left out at the front.")
    has_more: bool = Field(description="Whether a search with a larger offset would find more.")
    probably_here: bool | None = Field(description="Whether the library probably shows it; null if unknown.")
    milliseconds: float = Field(description="How long the search took on the server.")


class Segment(BaseModel):
    """A segment of a video."""

    id: str
    start: float | None
    end: float | None
    time: str
    thumbnail: str | None


class Video(BaseModel):
    """A video of the index."""

    id: str
    name: str
    path: str
    duration: float | None
    modified: float | None
    fields: dict[str, Any]
    media: str
    thumbnail: str | None
    segment_count: int = Field(description="Number of segments; 0 for a video that is not cut.")


class VideoDetails(Video):
    """A video of the index, with its segments."""

    segments: list[Segment]


class VideoList(BaseModel):
    """Some of the videos of the index, in order."""

    videos: list[Video]
    offset: int
    has_more: bool


class EmbedRequest(BaseModel):
    """A text to embed."""

    text: str = Field(min_length=1, max_length=MAX_QUERY)


class EmbedAnswer(BaseModel):
    """The vector of a text: float32 of norm 1."""

    vector: list[float]
    model: str
    fingerprint: str


class Status(BaseModel):
    """What can be searched, and by what."""

    model: str | None
    fingerprint: str | None
    videos: int
    vectors: int
    version: str = Field(description="Version of clip4clip.")
    versions: dict[str, str] = Field(description="Versions of the packages that matter.")


class Problem(BaseModel):
    """What went wrong (RFC 9457, application/problem+json)."""

    title: str
    status: int
    detail: str = Field(description="A sentence that says what to do.")
