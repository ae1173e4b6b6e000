"""The command ``search``: find videos of an index by a sentence or by a video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from .console import err, out, plain
from .index_options import FilterOptions, IndexEncoderOptions, IndexOptions
from .output import print_json
from .texts import read_texts

if TYPE_CHECKING:
    from ..index.hit import Hit


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
        typer.Option(metavar="FILE|URL", help="Find videos similar to this one, instead of searching by text."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-k", min=1, max=16384, help="Maximum number of videos to list.")] = (
        10
    ),
    per_video: Annotated[
        str,
        typer.Option(
            metavar="N|all", help="Maximum number of results in the same video, if videos have several vectors."
        ),
    ] = "1",
    filters: FilterOptions,
    address: IndexOptions,
    encoder: IndexEncoderOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Find videos by a sentence, or by a video.

    Lists the most similar videos of the index, best first.

    Examples:
        clip4clip search "kids feeding a horse"
        clip4clip search "kids feeding a horse" --filter "duration < 60"
        clip4clip search "kids feeding a horse" --since 2025-06-01
        clip4clip search --video clip.mp4 -k 5 --json
    """
    if (text is None) == (video is None):
        raise typer.BadParameter("give either a text or --video", param_hint="TEXT")
    if video is not None and not video.strip():
        raise typer.BadParameter("the name of a video must not be empty", param_hint="--video")
    if text is not None:
        text, *others = read_texts([text])
        if others:
            raise typer.BadParameter("expected one sentence, but got several lines", param_hint="TEXT")
    rows_per_video = _parse_per_video(per_video)
    with err.status("opening the index"), address.open(encoder.spec()) as videos:
        hits = videos.search(
            text,
            video=video,
            limit=limit,
            filter=filters.condition,
            since=filters.since,
            until=filters.until,
            per_video=rows_per_video,
        )
    if as_json:
        for hit in hits:
            row = {"id": hit.id, "score": hit.score, "path": hit.path}
            row |= {"video": hit.video, "start": hit.start, "end": hit.end}
            print_json(row | {name: value for name, value in hit.fields.items() if name not in row})
    else:
        _print_hits(hits)


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
    table = Table("", "score", "length", Column("video", overflow="fold"))
    for rank, hit in enumerate(hits, 1):
        table.add_row(str(rank), f"{hit.score:.3f}", hit.length, plain(hit.path or str(hit.id)))
    out.print(table)
