"""The command ``synthetic``: draw a data set of captioned clips."""

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
        typer.Argument(parser=parse_path, metavar="FOLDER", help="Folder for train.csv, eval.csv and the clips."),
    ],
    train: Annotated[int, typer.Option(min=0, max=10_000_000, help="Number of clips to train on.")] = 24_000,
    evaluation: Annotated[int, typer.Option("--eval", min=0, help="Number of clips to evaluate on.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawings; another seed gives other clips.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Number of processes that draw. Default: one for each CPU core."),
    ] = None,
) -> None:
    """Draw short clips of shapes, with captions, to train and evaluate small models.

    The shapes move or stand still. The clips of eval.csv show combinations of a
    shape, a colour and a background that the clips of train.csv never show.
    eval_paraphrased.csv describes the clips of eval.csv in other sentences.

    Clips that exist already are kept: after Ctrl-C, run the same command again
    to resume.

    Examples:
        clip4clip synthetic drawings --train 2000 --eval 200
    """
    from ..training.synthetic import write_dataset

    with progress_bars() as progress:
        tables = write_dataset(folder, train, evaluation, seed, workers, progress.track)
    for table in tables:
        err.print(f"wrote {plain(table)}", highlight=False, soft_wrap=True)
