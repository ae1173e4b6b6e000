"""Hits of an index as the API answers them: with the addresses of their media, thumbnails and clips."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from ..index.hit import Hit
from ..video.clip import source_file_name
from ..video.source import is_url
from .schemas import Copy, Moment, Segment, Video, VideoDetails

SHOWN_APART = frozenset(("duration", "mtime", "segments", "vector"))  # fields that an answer names otherwise


def to_moment(hit: Hit, copies: Iterable[Hit] = ()) -> Moment:
    """Return a hit of a search.

    Args:
        hit: a moment, or a whole video.
        copies: other hits that show the same.
    """
    is_moment = hit.start is not None and hit.end is not None
    is_here = not is_url(hit.path)
    times = {"start": _seconds(hit.start), "end": _seconds(hit.end)} if is_moment else {}
    return Moment(
        **dict(to_copy(hit)),
        start=hit.start,
        end=hit.end,
        duration=_duration(hit),
        modified=_modified(hit),
        fields=_further_fields(hit),
        media=media_url(hit),
        thumbnail=thumbnail_url(hit),
        strip=_address("strips", hit, times) if is_here else None,
        clip=_address("clips", hit, times) if is_here and is_moment else None,
        copies=[to_copy(copy) for copy in copies],
    )


def to_copy(hit: Hit) -> Copy:
    """Return a hit that shows the same as a better one."""
    return Copy(
        id=str(hit.id),
        video=str(hit.video),
        name=file_name(hit),
        path=hit.path,
        time=hit.time_range,
        score=hit.score,
    )


def to_video(hit: Hit) -> Video:
    """Return a whole video of the index."""
    count = hit.fields.get("segments", 0)
    return Video(
        id=str(hit.video),
        name=file_name(hit),
        path=hit.path,
        duration=_duration(hit),
        modified=_modified(hit),
        fields=_further_fields(hit),
        media=media_url(hit),
        thumbnail=thumbnail_url(hit),
        segment_count=count if isinstance(count, int) else 0,
    )


def to_video_details(video: Hit, segments: Sequence[Hit]) -> VideoDetails:
    """Return a video with its segments; one that is not cut has none."""
    cut = [segment for segment in segments if segment.id != video.video]
    listed = [
        Segment(
            id=str(segment.id),
            start=segment.start,
            end=segment.end,
            time=segment.time_range,
            thumbnail=thumbnail_url(segment),
        )
        for segment in cut
    ]
    return VideoDetails(**dict(to_video(video)) | {"segment_count": len(listed)}, segments=listed)


def file_name(hit: Hit) -> str:
    """Return the name of a video's file; its id if it has no path."""
    return source_file_name(hit.path) or str(hit.video)


def media_url(hit: Hit) -> str:
    """Return where a whole video is: a path on this server, or another URL."""
    return hit.path if is_url(hit.path) else _address("media", hit, {})


def thumbnail_url(hit: Hit) -> str | None:
    """Return the address of a picture from the middle of a moment or of a video; None for a URL."""
    if is_url(hit.path):
        return None
    if hit.start is None or hit.end is None:
        return _address("thumbnails", hit, {})
    return _address("thumbnails", hit, {"t": _seconds((hit.start + hit.end) / 2)})


def _address(folder: str, hit: Hit, parameters: Mapping[str, str]) -> str:
    query = f"?{urlencode(parameters)}" if parameters else ""
    return f"/{folder}/{quote(str(hit.video), safe='')}{query}"


def _seconds(seconds: float | None) -> str:
    return f"{seconds or 0:.3f}"


def _duration(hit: Hit) -> float | None:
    duration = hit.fields.get("duration")
    return float(duration) if isinstance(duration, int | float) else None


def _modified(hit: Hit) -> float | None:
    mtime = hit.fields.get("mtime")
    return mtime / 1e9 if isinstance(mtime, int | float) else None


def _further_fields(hit: Hit) -> dict[str, Any]:
    return {name: value for name, value in hit.fields.items() if name not in SHOWN_APART}
