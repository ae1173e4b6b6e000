"""The command ``eval-moments``: measure how well sentences find when they happen in long videos."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from .console import out
from .options import EncoderOptions, SamplingOptions, WorkersOption, parse_path
from .output import (
    check_figures_output,
    check_output,
    exit_if_videos_failed,
    list_failures,
    output_figures,
    print_summary,
)
from .progress import interruptible_progress, loading_status

if TYPE_CHECKING:
    from ..encoder import EncoderSpec
    from ..evaluation.moment_tables import MomentQuery
    from ..evaluation.moments import MomentEvaluation
    from ..video import FrameSampling


def eval_moments(
    table: Annotated[
        Path,
        typer.Argument(
            parser=parse_path,
            metavar="TABLE",
            help="Moments: a table (.csv, .tsv, .jsonl) with the columns video, sentence, start and end, or a file of "
            "QVHighlights, Charades-STA, ActivityNet Captions or DiDeMo, as published.",
        ),
    ],
    videos: Annotated[
        Path,
        typer.Option(
            "--videos", parser=parse_path, metavar="FOLDER", help="Folder that the videos in the table are relative to."
        ),
    ],
    sampling: SamplingOptions,
    encoder: EncoderOptions,
    workers: WorkersOption = None,
    vectors: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FILE.parquet",
            help="Keep the vectors of the videos in this table, and use those that it has, as `clip4clip embed` does. "
            "After Ctrl-C, the same command resumes. Default: they are not kept.",
        ),
    ] = None,
    as_json: Annotated[
        Path | None,
        typer.Option(
            "--json",
            parser=parse_path,
            metavar="FILE.json",
            help="Also write the metrics, and what every sentence found, to this file; - prints them as JSON instead "
            "of the table.",
        ),
    ] = None,
) -> None:
    """Measure how well sentences find the moments of videos that they describe.

    Videos are cut into segments (--segments), which are ranked for each
    sentence, within its own video and over all videos together. R@1 and R@5 at
    an IoU of 0.5 or 0.7 are the percentages of the sentences with a segment
    among the first 1 or 5 that overlaps a true moment so much. mAP is that of
    QVHighlights: at an IoU of 0.5 and of 0.75, and averaged from 0.5 to 0.95.

    Videos of up to 30 seconds are not cut unless --segments says so: use
    --segments shots, or a number of seconds, for short ones.

    A video that is missing or cannot be decoded counts as a miss for all of its
    sentences. It is listed at the end, and the exit code is then 1.

    Examples:
        clip4clip eval-moments highlight_val_release.jsonl --videos QVHighlights
        clip4clip eval-moments charades_sta_test.txt --videos . --segments 8
    """
    check_figures_output(as_json)
    check_output(vectors, ".parquet", "--vectors")
    from ..evaluation.moment_tables import read_moments

    recipe = sampling.sampling()
    left_out: dict[str, str] = {}
    queries = read_moments(table, videos, left_out)
    with tempfile.TemporaryDirectory(prefix="clip4clip-") as folder:
        output = vectors or Path(folder, "vectors.parquet")
        result = _evaluate(queries, output, encoder.spec(), recipe, workers, is_kept=vectors is not None)
    output_figures(result.to_dict(), lambda: _print_evaluation(result), as_json)
    list_failures(left_out, "left out")
    exit_if_videos_failed(result)


def _evaluate(
    queries: list[MomentQuery],
    table: Path,
    spec: EncoderSpec,
    sampling: FrameSampling,
    workers: int | None,
    is_kept: bool,
) -> MomentEvaluation:
    """Embed the videos of the queries into a table, and evaluate its rows. Ctrl-C ends the command."""
    with loading_status(spec.model_name):
        from ..evaluation.moments import evaluate_moments
        from ..library.embed import embed_library
        from ..library.table import read_rows

        text_encoder = spec.text_encoder()
    paths = list(dict.fromkeys(query.path for query in queries))
    with interruptible_progress() as progress:
        embed_library(
            paths,
            table,
            spec,
            sampling,
            workers=workers,
            track=progress.track,
            report_position=progress.describe_position,
        )
        result = evaluate_moments(queries, read_rows(table), text_encoder, progress.track)
    kept = f"finished videos are kept in {table}; run the same command to resume"
    progress.exit_if_stopped(kept if is_kept else "no vectors are kept; --vectors FILE.parquet keeps them")
    return result


def _print_evaluation(evaluation: MomentEvaluation) -> None:
    """Print the metrics as a table, and what limits them."""
    columns = ("R@1\n0.5", "R@1\n0.7", "R@5\n0.5", "R@5\n0.7", "mAP\n0.5", "mAP\n0.75", "mAP\naverage")
    title = f"{len(evaluation.results)} sentences, {evaluation.videos} videos, {evaluation.segments} segments"
    table = Table("IoU of at least", *columns, title=title)
    for name, metrics in (("within the video", evaluation.within_video), ("all videos", evaluation.all_videos)):
        table.add_row(name, *(f"{value:.1f}" for value in metrics.to_dict().values()))
    out.print(table)
    shares = (f"{value:.1f} % at an IoU of {threshold}" for threshold, value in evaluation.reachable.items())
    print_summary(f"the best segment of the video, whatever its rank: {', '.join(shares)}")
    if evaluation.uncut:
        print_summary(f"{evaluation.uncut} of {evaluation.videos} videos were not cut into segments: see --segments")
