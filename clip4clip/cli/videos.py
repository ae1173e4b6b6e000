"""The commands that manage the videos of an index: ``list``, ``info``, ``delete`` and ``relocate``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import VideoIndexError, printable
from .console import err, out, plain
from .index_options import FilterOptions, IndexOptions
from .output import print_json, print_summary
from .progress import interruptible_progress, progress_bars

if TYPE_CHECKING:
    from ..index.hit import Hit
    from ..index.info import IndexInfo
    from ..index.video_index import VideoIndex
    from ..progress import Track

SHOWN = 10  # videos that are listed before a question
DELETE_BATCH = 10_000  # videos deleted between two steps of the progress bar

MissingOption = Annotated[bool, typer.Option("--missing", help="Only videos whose files are gone.")]
YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask. Needed where there is no terminal to ask on.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]


def list_videos(
    *,
    filters: FilterOptions,
    missing: MissingOption = False,
    segments: Annotated[
        bool, typer.Option("--segments", help="List the segments of the videos that are cut, with their times.")
    ] = False,
    address: IndexOptions,
    as_json: JsonOption = False,
) -> None:
    """List the videos of an index: date of the file, length, and path.

    A video that is cut has its number of segments behind its path. If there is
    a filter, only those that meet it count.

    With --missing, lists the videos whose files are gone: they were deleted,
    moved, or are on a disk that is not mounted. Searches still find them.
    `clip4clip relocate` gives moved ones their new paths, `clip4clip delete`
    removes them from the index. Videos behind URLs are never missing.

    Examples:
        clip4clip list
        clip4clip list --since 2025-06-01 --filter "duration > 60" --json
        clip4clip list --missing
        clip4clip list --segments --filter "start > 3600"
    """
    if missing and segments:
        raise typer.BadParameter("cannot be combined with --missing", param_hint="--segments")
    with address.open() as videos, _closed_pipe_is_the_end():
        if missing:
            found = _missing(videos, filters)
            amount = _print_videos(found, as_json)
        else:
            listed = (videos.segments if segments else videos.videos)(
                filters.condition, since=filters.since, until=filters.until
            )
            amount = _print_videos(listed, as_json)
    print_summary(amount + (" missing" if missing else ""))
    if missing:
        _print_missing_folders(found)


def info(*, address: IndexOptions, as_json: JsonOption = False) -> None:
    """Describe an index: its model, its size, and its fields.

    Lists the fields that filters can use, with the kinds of their values. The
    time in mtime can be used as a date, by the name modified.

    Examples:
        clip4clip info
        clip4clip info --uri http://localhost:19530 --json
    """
    with address.open() as videos, err.status("reading the index"):
        summary = videos.info()
    if as_json:
        print_json(asdict(summary))
    else:
        _print_info(summary)


def delete(
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID", help="Ids of videos. For videos of a folder these are their paths. Or ids of segments."
        ),
    ] = None,
    *,
    condition: Annotated[
        str,
        typer.Option(
            "--filter",
            metavar="EXPRESSION",
            help="Videos that meet a condition, as in `clip4clip search`; of videos that are cut, only the segments "
            "that meet it.",
        ),
    ] = "",
    missing: MissingOption = False,
    yes: YesOption = False,
    address: IndexOptions,
) -> None:
    """Remove videos from an index. Their files stay.

    Give ids, or a --filter, or --missing, or both of the latter for missing
    videos that meet the filter. The command shows how many and which videos
    that is, and asks.

    A video whose file is still in a folder is added again by the next
    `clip4clip index FOLDER`. That command also removes videos of the folder
    whose files are gone.

    Examples:
        clip4clip delete ~/Videos/holiday.mp4
        clip4clip delete --missing
        clip4clip delete --filter 'path like "/srv/old/%"' --yes
    """
    if bool(ids) == bool(condition.strip() or missing):
        raise typer.BadParameter("give either ids, or --filter, --missing or both", param_hint="ID")
    with address.open() as videos:
        found = _select(videos, ids or [], condition, missing)
        if not found:
            print_summary("there are no such videos in the index")
            return
        _show(f"{hit.path or hit.id} {hit.time_range}".rstrip() for hit in found)
        if missing:
            _print_missing_folders(found)
        amount = _amount(len({hit.video for hit in found}), sum(hit.start is not None for hit in found))
        _confirm(f"Remove {amount} from the index? Their files stay.", yes)
        with interruptible_progress("videos/s") as progress:
            _delete(videos, [hit.id for hit in found], progress.track)
        progress.exit_if_stopped("run the same command again to remove the rest")
        count = videos.count()
    print_summary(f"{amount} removed; {_videos(count)} in collection {address.collection!r} of {address.uri}")


def relocate(
    old: Annotated[str, typer.Argument(metavar="OLD", help="Path that the folder had, or the beginning of URLs.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its path now.")],
    *,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also change the paths of videos whose files are not at their new paths, such as those that another "
            "machine sees under other paths.",
        ),
    ] = False,
    yes: YesOption = False,
    address: IndexOptions,
) -> None:
    """Change the paths of videos in an index after their folder was moved.

    Nothing is embedded: vectors and fields are kept. All paths below OLD
    change, but a video whose file is not at its new path keeps the old one.
    Other videos stay as they are. The command shows what will change, and asks.

    Examples:
        clip4clip relocate /mnt/old/videos /mnt/new/videos
    """
    with address.open() as videos:
        with progress_bars("videos/s") as progress:
            plan = videos.relocate(old, new, force=force, dry_run=True, track=progress.track)
        _show(f"{path} → {new_path}" for path, new_path in plan.relocated.items())
        for kept, reason in ((plan.not_found, "there is no file"), (plan.taken, "the index already has a video")):
            if kept and not (force and kept is plan.not_found):
                print_summary(
                    f"{_videos(len(kept))} will not change, as {reason} at the new path, such as "
                    f"{printable(next(iter(kept.values())))}"
                )
        _confirm(f"Change the paths of {_videos(len(plan.relocated))}?", yes)
        with progress_bars("videos/s") as progress:
            report = videos.relocate(old, new, force=force, track=progress.track)
    print_summary(f"{_videos(len(report.relocated))} relocated")


def _videos(count: int) -> str:
    return f"{count:,} video{'s' * (count != 1)}"


def _amount(videos: int, segments: int) -> str:
    """Return the number of videos, or of segments and of the videos that they are of."""
    return f"{segments:,} segment{'s' * (segments != 1)} of {_videos(videos)}" if segments else _videos(videos)


def _select(videos: VideoIndex, ids: Iterable[str], condition: str, missing: bool) -> list[Hit]:
    """Return the videos and segments to delete: those with these ids, or those that meet the conditions."""
    if ids:
        return [_get(videos, name) for name in dict.fromkeys(ids)]
    if missing:
        return _missing(videos, FilterOptions(condition), strict=True)
    return [*videos.segments(condition, strict=True)]


def _missing(videos: VideoIndex, filters: FilterOptions, strict: bool = False) -> list[Hit]:
    """Return the videos whose files are gone, with a progress bar for the search."""
    with progress_bars("videos/s") as progress:
        missing = videos.missing(
            filters.condition, since=filters.since, until=filters.until, strict=strict, track=progress.track
        )
        return list(missing)


def _get(videos: VideoIndex, name: str) -> Hit:
    """Return the video or segment with an id, or with the path that a relative one means."""
    from ..library.sources import absolute_path

    hit = videos.get(name)
    if hit is None and videos.model is not None:
        hit = videos.get(absolute_path(name))
    if hit is None:
        raise VideoIndexError(f"the index has no video with the id {name!r}; nothing was removed")
    return hit


def _delete(videos: VideoIndex, ids: Sequence[str], track: Track) -> None:
    """Remove videos and segments from an index in batches."""
    batch: list[str] = []
    for id_ in track(ids, len(ids), "removing"):
        batch.append(id_)
        if len(batch) == DELETE_BATCH:
            videos.delete(batch)
            batch = []
    if batch:
        videos.delete(batch)


def _print_videos(hits: Iterable[Hit], as_json: bool) -> str:
    """Print a line for each video or segment as it comes, and return how many there were."""
    videos: set[str] = set()
    segments = 0
    for hit in hits:
        videos.add(hit.video)
        segments += hit.start is not None
        if as_json:
            row = {"id": hit.id, "path": hit.path, "video": hit.video, "start": hit.start, "end": hit.end}
            print_json(row | {name: value for name, value in hit.fields.items() if name not in row})
        else:
            print(f"{_date(hit):16} {hit.time_range or hit.length:>8}  {printable(_name(hit))}")
    sys.stdout.flush()
    return _amount(len(videos), segments)


def _name(hit: Hit) -> str:
    """Return the path of a video, with its id if that is another one, and its number of segments."""
    name = str(hit.path or hit.id)
    if hit.path not in ("", hit.video):
        name += f" ({hit.video})"
    segments = hit.fields.get("segments")
    return f"{name}, {segments:,} segment{'s' * (segments != 1)}" if isinstance(segments, int) else name


def _date(hit: Hit) -> str:
    """Return when the file of a video was last changed; empty if that is unknown."""
    mtime = hit.fields.get("mtime")
    try:
        return datetime.fromtimestamp(mtime / 1e9).strftime("%Y-%m-%d %H:%M") if isinstance(mtime, int) else ""
    except (OverflowError, OSError, ValueError):
        return ""


def _print_missing_folders(videos: Iterable[Hit]) -> None:
    """Print which folders of missing videos do not exist, as their disk may not be mounted."""
    folders = Counter(_missing_folder(hit.path) for hit in videos)
    for folder, count in folders.most_common(SHOWN):
        if folder is not None:
            print_summary(f"{count:,} in {printable(folder)}, a folder that does not exist. Is its disk mounted?")


def _missing_folder(path: str) -> str | None:
    """Return the outermost folder of a path that does not exist; None if the folder of the file exists."""
    missing = None
    for folder in Path(path).parents:
        if os.path.isdir(folder):  # noqa: PTH112  Path.is_dir raises an error for a folder that may not be searched
            break
        missing = str(folder)
    return missing


def _print_info(summary: IndexInfo) -> None:
    fields = (f"{name} ({' or '.join(kinds)})" for name, kinds in summary.fields.items())
    lines = {
        "index": summary.uri,
        "collection": summary.collection,
        "model": summary.model or "unknown: another program created the collection",
        "sampling": summary.sampling or "unknown",
        "videos": f"{summary.videos:,}",
        "vectors": f"{summary.rows:,} of {summary.dim} numbers",
        "on disk": None if summary.bytes is None else f"{summary.bytes / 1e6:,.1f} MB",
        "fields": ", ".join(fields) or "none",
    }
    for name, value in lines.items():
        if value is not None:
            out.print(f"{name:<12}{plain(value)}", highlight=False, soft_wrap=True)


def _show(lines: Iterable[str]) -> None:
    """Print the first lines and the number of the others on standard error."""
    lines = [*lines]
    for line in lines[:SHOWN]:
        print_summary(f"  {printable(line)}")
    if len(lines) > SHOWN:
        print_summary(f"  and {len(lines) - SHOWN:,} more")


def _confirm(question: str, yes: bool) -> None:
    """Ask a question on the terminal. End the command with exit code 1 if the answer is no.

    Args:
        question: what to ask.
        yes: whether the user has answered already.

    Raises:
        VideoIndexError: there is no terminal to ask on.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise VideoIndexError("nothing was changed, as there is no terminal to ask on: add --yes")
    if not typer.confirm(question, err=True):
        print_summary("nothing was changed")
        raise typer.Exit(1)


@contextlib.contextmanager
def _closed_pipe_is_the_end() -> Iterator[None]:
    """End the command when the program that reads its output, such as ``head``, has closed the pipe."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end
        raise typer.Exit from None
