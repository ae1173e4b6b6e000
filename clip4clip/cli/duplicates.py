"""The command ``duplicates``: find videos that are the same or contain each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from ..index.hit import format_time
from .console import err, out, plain
from .index_options import CollectionOption, IndexOptions, TokenOption
from .output import print_csv, print_json, print_summary
from .progress import progress_bars

if TYPE_CHECKING:
    from ..index.duplicates import Duplicate, DuplicateReport
    from ..index.timelines import VideoFile

COLUMNS = ("group", "relation", "id", "path", "duration", "size", "score", "covered", "times")  # of --csv
SHOWN = 4  # time ranges of a video that the table lists


def duplicates(
    source: Annotated[
        str,
        typer.Argument(
            envvar="CLIP4CLIP_URI",
            metavar="[TABLE|URI]",
            help="A table written by `clip4clip embed` (.parquet); or an index: a file (.db), or a Milvus server.",
        ),
    ] = IndexOptions.uri,
    *,
    threshold: Annotated[
        float,
        typer.Option(
            metavar="COSINE",
            help="Smallest cosine of two vectors that show the same. Less finds more changed copies, and more videos "
            "that only look alike.",
        ),
    ] = 0.995,
    collection: CollectionOption = IndexOptions.collection,
    token: TokenOption = IndexOptions.token,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per group, with times in seconds.")
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print a table for programs: a header, then one line per video.")
    ] = False,
) -> None:
    """Find videos that are the same, or contain each other.

    Compares the vectors and times of a table or an index. No video is opened, so
    this also works where the files are not. Finds copies in another format, size
    or quality, trimmed ones, and clips and their longer originals. Copies that
    are mirrored, stretched, cropped or framed by bars are mostly missed.

    The first video of each group is the one to keep: the longest, in whole
    seconds; of these the largest file. Of the others, `same` has about its
    length, and `part` is shorter. The times say what matches what. Nothing is
    deleted. Look at the videos before you delete one: two that only look very
    much alike can be in a group.

    Black or one-coloured stretches match nothing, and a picture that stands for
    over a minute nothing by itself.

    Examples:
        clip4clip duplicates vectors.parquet
        clip4clip duplicates videos.db --threshold 0.99
        clip4clip duplicates --csv > duplicates.csv
    """
    if as_json and as_csv:
        raise typer.BadParameter("give either --json or --csv", param_hint="--csv")
    if not 0 < threshold < 1:
        raise typer.BadParameter(f"{threshold} is not above 0 and below 1", param_hint="--threshold")
    report = _find(source, threshold, collection, token)
    if as_json:
        for group in report.groups:
            print_json(asdict(group))
    elif as_csv:
        print_csv([*_rows(report)], COLUMNS)
    elif report.groups:
        _print_groups(report)
    _print_counts(report)


def _find(source: str, threshold: float, collection: str, token: str | None) -> DuplicateReport:
    """Compare the videos of a table or an index, with a progress bar. Ctrl-C ends the command."""
    if source.lower().endswith(".parquet"):
        from ..index.duplicates import find_duplicates
        from ..library.table import TableSpec, count_rows, read_rows

        TableSpec.read(Path(source))  # an error here needs no progress bar
        with progress_bars() as progress:
            rows = progress.track(read_rows(source), count_rows(source), "reading")
            return find_duplicates(rows, threshold, progress.track)
    with IndexOptions(source, collection, token).open() as videos, progress_bars() as progress:
        return videos.duplicates(threshold, track=progress.track)


def _relation(duplicate: Duplicate) -> str:
    return "part" if duplicate.is_part else "same"


def _rows(report: DuplicateReport) -> Iterator[dict[str, Any]]:
    """Yield what ``--csv`` prints of each video."""
    for number, group in enumerate(report.groups, 1):
        yield {"group": number, "relation": "keep", **asdict(group.kept)}
        for duplicate in group.duplicates:
            found = {"score": duplicate.score, "covered": duplicate.covered}
            times = [asdict(times) for times in duplicate.times]
            yield {
                "group": number,
                "relation": _relation(duplicate),
                **asdict(duplicate.video),
                **found,
                "times": times,
            }


def _print_groups(report: DuplicateReport) -> None:
    table = Table(
        "",
        "score",
        Column("length", justify="right"),
        Column("MB", justify="right"),
        Column("its time = time in the first", no_wrap=True),
        Column("video", overflow="fold"),
    )
    for group in report.groups:
        table.add_row("keep", "", *_describe(group.kept), "", plain(group.kept.path or group.kept.id))
        for duplicate in group.duplicates:
            video = duplicate.video
            cells = (f"{duplicate.score:.3f}", *_describe(video), _format_times(duplicate))
            table.add_row(_relation(duplicate), *cells, plain(video.path or video.id))
        table.add_section()
    out.print(table)


def _describe(video: VideoFile) -> tuple[str, str]:
    """Return the length and the size of a video; empty if unknown."""
    length = "" if video.duration is None else format_time(video.duration)
    return length, "" if video.size is None else f"{video.size / 1e6:,.1f}"


def _format_times(duplicate: Duplicate) -> str:
    """Return which times of a video match which ones of the video to keep; empty if no video is cut."""
    lines = []
    for times in duplicate.times[:SHOWN]:
        own, kept = _format_range(times.start, times.end), _format_range(times.kept_start, times.kept_end)
        if own and kept:
            lines.append(f"{own} = {kept}")
    if len(duplicate.times) > SHOWN:
        lines.append(f"and {len(duplicate.times) - SHOWN} more")
    return "\n".join(lines)


def _format_range(start: float | None, end: float | None) -> str:
    """Return a time range; empty if it is unknown."""
    return "" if start is None or end is None else f"{format_time(start)}–{format_time(end)}"


def _print_counts(report: DuplicateReport) -> None:
    found = [duplicate for group in report.groups for duplicate in group.duplicates]
    if not found:
        print_summary(f"no duplicates among {report.videos:,} videos")
    else:
        size = sum(duplicate.video.size or 0 for duplicate in found)
        print_summary(
            f"{len(found):,} of {report.videos:,} videos show what another one shows, {size / 1e6:,.1f} MB in all, in "
            f"{len(report.groups):,} group{'s' * (len(report.groups) != 1)}"
        )
    from ..index.duplicates import MAX_ALIKE, MAX_COPIES

    if report.usual_views:
        err.print(
            f"{report.usual_views:,} videos look like more than {MAX_COPIES} others each, as those of a fixed camera "
            "do: of these, only equal files are listed",
            highlight=False,
            soft_wrap=True,
        )
    if report.usual_cuts:
        err.print(
            f"{report.usual_cuts:,} long videos consist mostly of moments that look like more than {MAX_ALIKE} others "
            "each: of these, copies may be missing, except for equal files",
            highlight=False,
            soft_wrap=True,
        )
