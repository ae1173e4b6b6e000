"""The command ``search``: find videos of an index, and moments of them, by a sentence, a video or another moment."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from ..errors import Clip4clipError
from .console import err, out, plain
from .index_options import FilterOptions, IndexEncoderOptions, IndexOptions
from .options import parse_time
from .output import print_csv, print_json, print_summary
from .search_output import SearchOutputOptions
from .texts import read_texts

if TYPE_CHECKING:
    from ..index.calibration import Calibration
    from ..index.hit import Hit
    from ..index.video_index import VideoIndex

logger = logging.getLogger(__name__)

MAX_CALIBRATED_ROWS = 100_000  # of a local index: to compare more takes over half a second
COLUMNS = ("id", "score", "video", "path", "start", "end")  # of --json and --csv, before the other fields


def search(
    *,
    text: Annotated[
        str | None,
        typer.Argument(
            metavar='"TEXT"', help="What the videos show. @FILE reads it from a file, - from standard input."
        ),
    ] = None,
    video: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL", help="Find videos similar to this one, or to a local image, instead of by text."
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Find other videos similar to this one of the index, by its id, which is mostly its path.",
        ),
    ] = None,
    at: Annotated[
        float | None,
        typer.Option(
            parser=parse_time, metavar="TIME", help="With --like: only the moment at this time, such as 750 or 12:30."
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-k", min=1, max=16384, help="Maximum number of results to list.")
    ] = (10),
    per_video: Annotated[
        str,
        typer.Option(metavar="N|all", help="Maximum number of moments of the same video."),
    ] = "1",
    min_score: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE",
            min=-1,
            max=1,
            help="Only results with this score or a higher one. Models score differently.",
        ),
    ] = None,
    filters: FilterOptions,
    address: IndexOptions,
    encoder: IndexEncoderOptions,
    output: SearchOutputOptions,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, with times in seconds.")
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print a table for programs: a header, then one line per result.")
    ] = False,
) -> None:
    """Find videos, and the moments in them, by a sentence, a video or another moment.

    Lists the most similar videos of the index, best first. Of a long video, which
    `clip4clip index` has cut into segments, the time says where in it the moment
    is. With --per-video 3, a video can be listed with up to three moments.

    A search always finds something. If the best score of a sentence is no higher
    than sentences about other things get in this index, the command says that
    what it describes is probably not here; not with --filter, --since or --until.
    It is wrong now and then; --min-score leaves out what scores low.

    The moments can leave the list: --json and --csv are for programs, --clips
    cuts them out, and --edl hands them to an editing program. A video that is
    gone or broken does not stop the others. It is listed at the end, and the
    exit code is then 1. Existing clips are never replaced.

    Examples:
        clip4clip search "kids feeding a horse"
        clip4clip search "kids feeding a horse" --filter "duration < 60"
        clip4clip search "kids feeding a horse" --since 2025-06-01
        clip4clip search "kids feeding a horse" --min-score 0.3
        clip4clip search --video clip.mp4 -k 5 --json
        clip4clip search --like /videos/horses.mp4 --at 12:30
        clip4clip search "a goal" --per-video all -k 30 --clips goals --padding 2
        clip4clip search "a goal" --per-video all -k 30 --edl goals.edl
        clip4clip search "a goal" -k 3 --clips goals --exact
    """
    text = _check_query(text, video, like, at)
    if as_json and as_csv:
        raise typer.BadParameter("give either --json or --csv", param_hint="--csv")
    rows_per_video = _parse_per_video(per_video)
    output.check()
    with err.status("opening the index"), address.open(encoder.spec()) as videos:
        conditions: dict[str, Any] = {
            "filter": filters.condition,
            "since": filters.since,
            "until": filters.until,
            "per_video": rows_per_video,
        }
        if like is not None:
            hits = videos.similar(like, at, limit=limit, min_score=min_score, **conditions)
        elif text is None:
            hits = videos.search(video=video, limit=limit, min_score=min_score, **conditions)
        else:
            hits = videos.search(text, limit=limit, **conditions)
        calibration = _calibrate(videos) if text is not None and hits and not filters.is_narrow else None
    best_score = hits[0].score if hits else None  # also if --min-score leaves nothing
    if text is not None and min_score is not None:
        hits = [hit for hit in hits if hit.score >= min_score]
    if as_csv:
        print_csv([_row(hit, calibration) for hit in hits], COLUMNS)
    elif as_json:
        for hit in hits:
            print_json(_row(hit, calibration))
    else:
        _print_hits(hits)
    if calibration is not None and best_score is not None and not calibration.probably_here(best_score):
        print_summary(
            f"probably not here: the best score is {best_score:.3f}, and what is here mostly scores "
            f"{calibration.threshold:.3f} or more"
        )
    output.write(hits, title=text or f"like {Path(video or like or '').name}")


def _check_query(text: str | None, video: str | None, like: str | None, at: float | None) -> str | None:
    """Return the sentence to search for, if any, read from its file.

    Raises:
        BadParameter: there is no query, more than one, or an empty one.
    """
    if sum(query is not None for query in (text, video, like)) != 1:
        raise typer.BadParameter("give one of a text, --video and --like", param_hint="TEXT")
    if at is not None and like is None:
        raise typer.BadParameter("it needs --like ID", param_hint="--at")
    for option, query, what in (("--video", video, "the name of a video"), ("--like", like, "the id of a video")):
        if query is not None and not query.strip():
            raise typer.BadParameter(f"{what} must not be empty", param_hint=option)
    if text is None:
        return None
    text, *others = read_texts([text])
    if others:
        raise typer.BadParameter("expected one sentence, but got several lines", param_hint="TEXT")
    return text


def _calibrate(videos: VideoIndex) -> Calibration | None:
    """Return what scores mean in an index; None if each command would take long for it: without a cache, or in a large
    local index.
    """
    from ..cache import is_cache_writable

    try:
        is_large = videos.address.is_local and videos.count_vectors() > MAX_CALIBRATED_ROWS
        return None if is_large or not is_cache_writable() else videos.calibration()
    except Clip4clipError as error:  # what was found is worth more
        logger.warning("it is unknown whether this is here at all: %s", error)
        return None


def _row(hit: Hit, calibration: Calibration | None) -> dict[str, Any]:
    """Return what ``--json`` and ``--csv`` print of a hit."""
    row = {name: getattr(hit, name) for name in COLUMNS}
    if calibration is not None:
        row["probably_here"] = calibration.probably_here(hit.score)
    return row | {name: value for name, value in hit.fields.items() if name not in row}


def _parse_per_video(text: str) -> int | None:
    """Return the number that ``--per-video`` means; None for all."""
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is neither a number from 1 nor the word all", param_hint="--per-video")
    return int(text)


def _print_hits(hits: list[Hit]) -> None:
    if not hits:
        err.print("no videos were found", highlight=False)
        return
    has_moments = any(hit.time_range for hit in hits)
    table = Table(
        "",
        "score",
        Column("time" if has_moments else "length", no_wrap=True),
        Column("video", overflow="fold"),
    )
    for rank, hit in enumerate(hits, 1):
        time = hit.length
        if has_moments:
            time = hit.time_range or (f"0:00–{hit.length}" if hit.length else "")  # a whole video
        table.add_row(str(rank), f"{hit.score:.3f}", time, plain(hit.path or str(hit.id)))
    out.print(table)
