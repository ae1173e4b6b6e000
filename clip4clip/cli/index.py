"""The command ``index``: put videos into an index."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import LibraryError
from .index_options import IndexEncoderOptions, IndexOptions
from .options import MAX_FRAMES, SEGMENTS_METAVAR, Seek, WorkersOption, parse_path, parse_segments
from .output import list_failures, print_summary
from .progress import interruptible_progress

if TYPE_CHECKING:
    from ..index.sync import SyncReport
    from ..index.video_index import VideoIndex
    from ..video import FrameSampling


@dataclass(frozen=True)
class IndexSamplingOptions:
    """How to cut each new video, and which of its frames to take; by default as the index records it."""

    frames: Annotated[
        int | None,
        typer.Option(
            "--frames",
            "-n",
            min=1,
            max=MAX_FRAMES,
            help="Number of frames to take from each video that is not cut. Default: as in the index; 12 for a new "
            "index.",
        ),
    ] = None
    seek: Annotated[
        Seek | None,
        typer.Option(
            help="How to select frames; see `clip4clip embed --help`. Default: as in the index; auto for a new index."
        ),
    ] = None
    segments: Annotated[
        str | None,
        typer.Option(
            parser=parse_segments,
            metavar=SEGMENTS_METAVAR,
            help="How to cut videos into segments, which a search can find; see `clip4clip embed --help`. Default: as "
            "in the index; auto for a new index, which cuts videos of more than 30 seconds where the picture changes.",
        ),
    ] = None
    every: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Time between the frames of a video that is cut. Default: as in the index; 1 for a new index.",
        ),
    ] = None

    def sampling(self, index: VideoIndex) -> FrameSampling | None:
        """Return the sampling that these options describe; None for that of the index."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if not given:
            return None
        from ..video import FrameSampling

        if self.seek is not None:
            given["seek"] = self.seek.value
        return replace(index.sampling or FrameSampling(), **given)


def index(
    source: Annotated[
        Path,
        typer.Argument(
            parser=parse_path,
            metavar="TABLE.parquet|FOLDER",
            help="A table that `clip4clip embed` wrote, or a folder of videos.",
        ),
    ],
    address: IndexOptions,
    sampling: IndexSamplingOptions,
    encoder: IndexEncoderOptions,
    workers: WorkersOption = None,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Also try files that could not be decoded before and have not changed."),
    ] = False,
    embed_moved: Annotated[
        bool,
        typer.Option("--embed-moved", help="Also embed files that look like videos that are gone from other folders."),
    ] = False,
) -> None:
    """Put videos into an index, for `search` and `serve`.

    With a folder, its videos are embedded, and the index is made to match the
    folder: new videos are added, changed ones are re-embedded, and deleted ones
    are removed from the index. Files that look like videos that are gone from
    another folder are left out: `clip4clip relocate` keeps their vectors.

    A video of up to 30 seconds gets one vector. A longer one is cut where its
    picture changes, and gets a vector for each segment, so that a search finds
    the moment. A new index records this; --segments and --every change it.

    With a table, its rows are added to the index, or replace all rows of the
    same videos. --model, if given, must be the table's. Of the other options, only those
    for the index are used. Tables come from `clip4clip embed`: use it if other
    programs need the vectors, too, or if you fill several indexes. Both
    commands can be resumed.

    A video of a folder that cannot be read is listed at the end, and the exit
    code is then 1. A local index remembers files that cannot be decoded: later
    runs only count them, until they change. Videos that failed in `clip4clip
    embed` are left out.

    The search page and other commands may use the index at the same time.

    Examples:
        clip4clip index ~/Videos
        clip4clip index vectors.parquet --uri http://localhost:19530
    """
    if not source.exists():
        raise LibraryError(
            f"no folder or table at {source}: expected a folder of videos or a table that `clip4clip embed` wrote. "
            "The index is unchanged"
        )
    failures: dict[str, str] = {}
    with (
        address.open(encoder.spec(), create=True) as videos,
        interruptible_progress("videos/s") as progress,
    ):
        if source.is_dir():
            report = videos.sync(
                source,
                sampling.sampling(videos),
                workers=workers,
                retry_failed=retry_failed,
                embed_moved=embed_moved,
                track=progress.track,
                report_position=progress.describe_position,
            )
            summary, failures = _summary_of(report), report.failed | report.unlisted
            hints = _relocate_hints(report, source, address)
        else:
            summary, hints = f"{videos.add(source, track=progress.track)} added or replaced", []
        count, vectors = videos.count(), videos.count_vectors()
    progress.exit_if_stopped("finished videos are kept; run the same command to resume")
    list_failures(failures)
    content = f"{count} videos" if vectors == count else f"{count} videos with {vectors} segments"
    for text in (*hints, f"{summary}; {content} in collection {address.collection!r} of {address.uri}"):
        print_summary(text)
    if failures:
        raise typer.Exit(1)


def _summary_of(report: SyncReport) -> str:
    """Return what was done with the videos of a folder. Rare things are only mentioned if there are any."""
    parts = [f"{report.added} added", f"{report.changed} changed", f"{report.removed} removed"]
    if report.relocated:
        parts.append(f"{report.relocated} moved within the folder")
    parts.append(f"{report.unchanged} unchanged")
    if report.moved:
        parts.append(f"{len(report.moved)} left out")
    if report.failed_before:
        parts.append(f"{len(report.failed_before)} failed before (--retry-failed tries them again)")
    return ", ".join(parts)


def _relocate_hints(report: SyncReport, folder: Path, address: IndexOptions) -> list[str]:
    """Return a hint for each folder from which videos seem to have been moved, with the command to run."""
    from ..index.sync import moved_folders
    from ..library.sources import absolute_path

    hints = []
    for (old, new), count in moved_folders(report.moved, absolute_path(folder)).items():
        command = ["clip4clip", "relocate", old, new, *address.arguments()]
        text = subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)
        hints.append(
            f"moved from {old} to {new}, it seems, and left out: {count}. Run `{text}` to keep their vectors, or this "
            "command with --embed-moved to embed them as new videos"
        )
    return hints
