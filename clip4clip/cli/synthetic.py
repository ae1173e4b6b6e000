"""The command ``synthetic``: draw a data set of captioned videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import err, plain
from .options import parse_path
from .progress import progress_bars


def synthetic(
    folder: Annotated[
        Path,
        typer.Argument(parser=parse_path, metavar="FOLDER", help="Folder for the tables and the videos."),
    ],
    train: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=10_000_000,
            show_default=False,
            help="Number of clips to train on. Default: 24000; 0 with --long.",
        ),
    ] = None,
    evaluation: Annotated[
        int | None,
        typer.Option(
            "--eval", min=0, show_default=False, help="Number of clips to evaluate on. Default: 500; 0 with --long."
        ),
    ] = None,
    long: Annotated[
        int, typer.Option(min=0, help="Number of long videos to evaluate on, of many scenes and about four minutes.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawings; another seed gives other videos.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Number of processes that draw. Default: one for each CPU core."),
    ] = None,
) -> None:
    """Draw videos of shapes, with captions, to train and evaluate small models.

    The shapes move or stand still. The clips of eval.csv show combinations of a
    shape, a colour and a background that the clips of train.csv never show.
    eval_paraphrased.csv describes the clips of eval.csv in other sentences.

    With --long, long.csv has the moments of long videos: each row has a video,
    a sentence, and when what it says starts and ends, in seconds. All of them
    show combinations that the clips of train.csv never show.

    Videos that exist already are kept: after Ctrl-C, run the same command again
    to resume.

    Examples:
        clip4clip synthetic drawings --train 2000 --eval 200
        clip4clip synthetic drawings --long 20
    """
    from ..training.synthetic import write_dataset, write_long_videos

    train = (0 if long else 24_000) if train is None else train
    evaluation = (0 if long else 500) if evaluation is None else evaluation
    tables = []
    with progress_bars() as progress:
        if train or evaluation or not long:
            tables += write_dataset(folder, train, evaluation, seed, workers, progress.track)
        if long:
            tables.append(write_long_videos(folder, long, seed, workers=workers, track=progress.track))
    for table in tables:
        err.print(f"wrote {plain(table)}", highlight=False, soft_wrap=True)
