"""What ``search`` writes beside its list: clips of the found moments, and a list for editing programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import printable
from ..files import check_folder_writable
from .options import parse_path
from .output import check_output, list_failures, print_summary, write_output
from .progress import interruptible_progress, progress_bars

if TYPE_CHECKING:
    from ..index.hit import Hit


@dataclass(frozen=True)
class SearchOutputOptions:
    """What to make of the moments that were found, beside the list."""

    clips: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FOLDER",
            help="Cut the found moments out of their videos, each into a file of this folder. Nothing is re-encoded, "
            "so a clip starts at the key frame before its moment, up to some seconds early. Whole videos are copied.",
        ),
    ] = None
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Cut clips to the frame: re-encode them, as H.264 and AAC in .mp4 files."),
    ] = False
    padding: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, max=3600, help="Seconds to add before and after each moment, in clips and lists."
        ),
    ] = 0.0
    edl: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FILE.edl",
            help="Write an edit decision list (CMX 3600), which Premiere Pro, DaVinci Resolve, Avid and other editing "
            "programs import: the found moments one after the other.",
        ),
    ] = None
    edl_rate: Annotated[
        str | None,
        typer.Option(metavar="FPS", help="Frame rate of the list: 25, 29.97, … Default: that of the first video."),
    ] = None

    def check(self) -> None:
        """Check, before the search, that the options fit together and that the files can be written."""
        if self.exact and self.clips is None:
            raise typer.BadParameter("it needs --clips FOLDER", param_hint="--exact")
        if self.edl_rate is not None and self.edl is None:
            raise typer.BadParameter("it needs --edl FILE.edl", param_hint="--edl-rate")
        if self.padding and self.clips is None and self.edl is None:
            raise typer.BadParameter("it needs --clips FOLDER or --edl FILE.edl", param_hint="--padding")
        check_output(self.edl, ".edl", "--edl")
        if self.edl_rate is not None:
            from ..index.edl import parse_rate

            parse_rate(self.edl_rate)
        if self.clips is not None:
            if self.clips.exists() and not self.clips.is_dir():
                raise typer.BadParameter(f"{self.clips} is a file; expected a folder", param_hint="--clips")
            check_folder_writable(self.clips)

    def write(self, hits: list[Hit], title: str) -> None:
        """Write the edit list and the clips. If a video failed, end the command with exit code 1."""
        failed = 0
        if hits and self.edl is not None:
            failed += _write_edl(self.edl, hits, title, self.edl_rate, self.padding)
        if hits and self.clips is not None:
            failed += _save_clips(self.clips, hits, self.exact, self.padding)
        if failed:
            raise typer.Exit(1)


def _write_edl(output: Path, hits: list[Hit], title: str, rate: str | None, padding: float) -> int:
    """Write an edit list. Return how many hits are not in it."""
    from ..index.edl import make_edit_list, parse_rate

    fixed_rate = None if rate is None else parse_rate(rate)
    with progress_bars() as progress:
        edit_list = make_edit_list(hits, title, rate=fixed_rate, padding=padding, track=progress.track)
    list_failures(edit_list.failed)
    for note in edit_list.notes:
        print_summary(f"note: {printable(note)}")
    if not edit_list.events:
        print_summary(f"{output} was not written, as no video can be read")
        return len(hits)
    content = edit_list.text.encode()
    write_output(output, lambda path: path.write_bytes(content))
    print_summary(
        f"{edit_list.events} of {len(hits)} results are in {output}, at {edit_list.rate_name} frames a second"
    )
    return len(hits) - edit_list.events


def _save_clips(folder: Path, hits: list[Hit], exact: bool, padding: float) -> int:
    """Cut clips out. Return how many failed."""
    from ..index.clips import ClipReport, save_clips

    report = ClipReport()
    with interruptible_progress() as progress:
        save_clips(hits, folder, exact=exact, padding=padding, report=report, track=progress.track)
    list_failures(report.failed)
    summary = f"{len(report.saved)} of {len(hits)} clips are in {folder}"
    progress.exit_if_stopped(summary)
    print_summary(summary)
    return len(report.failed)
