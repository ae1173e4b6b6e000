"""The command ``demo``: try the package offline, with drawn clips."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from .console import out, plain
from .options import DeviceOption, parse_path
from .output import check_output
from .progress import progress_bars
from .texts import read_texts

if TYPE_CHECKING:
    from ..demo import Demo, Moments


def demo(
    sentences: Annotated[
        list[str] | None,
        typer.Argument(
            metavar='"TEXT"',
            help="Sentences of your own to search for, each in quotes. @FILE reads them from a file, - from "
            "standard input, one per line.",
        ),
    ] = None,
    out_folder: Annotated[
        Path,
        typer.Option(
            "--out",
            parser=parse_path,
            metavar="FOLDER",
            help="Folder for the videos, their captions and results.png.",
        ),
    ] = Path("clip4clip_demo"),
    clips: Annotated[int, typer.Option(min=1, max=500, help="Number of clips to draw and to search.")] = 36,
    device: DeviceOption = None,
) -> None:
    """Try it offline: draw videos, and find them by sentences.

    Clips are found through Towhee's pipelines, and moments of a longer video by
    its segments.

    The model, clip_vit_tiny_demo, comes with this package. It is trained on
    drawings like these: good for trials, not for real footage. They show
    combinations that it was never trained on.

    Examples:
        clip4clip demo
        clip4clip demo "two big green stars going round and round"
    """
    sentences = read_texts(sentences or [])
    from ..demo import PICTURE, run_demo
    from ..demo_picture import save_picture

    if out_folder.is_dir():
        check_output(out_folder / PICTURE, None, "--out")
    start = time.perf_counter()
    with progress_bars() as progress:
        result = run_demo(out_folder, sentences, clips, device, progress.track)
    save_picture(result, out_folder / PICTURE)
    _print_results(result)
    _print_moments(result.moments)
    _print_metrics(result, out_folder, time.perf_counter() - start)


def _print_results(result: Demo) -> None:
    """Print the most similar clips of each sentence as a table; green is the clip that the sentence describes."""
    from ..demo import BEST

    for sentence in result.sentences_to_show():
        table = Table("", "score", "clip", "what it shows", title=plain(f"“{result.sentences[sentence]}”"))
        table.title_justify, table.title_style = "left", "bold"
        for rank, clip in enumerate(result.best(sentence, BEST), 1):
            style = "green" if clip == result.matches[sentence] else None
            score = f"{result.similarity[sentence, clip]:.3f}"
            table.add_row(str(rank), score, result.clips[clip].name, plain(result.captions[clip]), style=style)
        out.print(table)


def _print_moments(moments: Moments) -> None:
    """Print the moment that was found for some sentences as a table; green is the one that the sentence describes."""
    from ..index.hit import format_time

    table = Table("score", "moment", "sentence", title=plain(f"Moments of {moments.video.name}"))
    table.title_justify, table.title_style = "left", "bold"
    for sentence in moments.sentences_to_show():
        found = moments.found(sentence)
        times = "–".join(format_time(time) for time in moments.segments[found])
        style = "green" if moments.is_right(sentence) else None
        table.add_row(
            f"{moments.similarity[sentence, found]:.3f}", times, plain(moments.sentences[sentence]), style=style
        )
    out.print(table)


def _print_metrics(result: Demo, folder: Path, seconds: float) -> None:
    from ..demo import MODEL, PICTURE

    metrics, moments = result.metrics, result.moments
    right = sum(map(moments.is_right, range(len(moments.sentences))))
    out.print(
        f"All {metrics.queries} captions against all {len(result.clips)} clips: R@1 {metrics.recall_at_1:.0f} %, "
        f"R@5 {metrics.recall_at_5:.0f} %, R@10 {metrics.recall_at_10:.0f} %. Green is the clip that the sentence "
        f"describes.\n{right} of {len(moments.sentences)} moments of the longer video are found first.\n"
        f"The model is {MODEL}, trained on drawings such as these: not for real footage.\n"
        f"Look at {folder / PICTURE}; {folder / 'eval.csv'} and {folder / 'long.csv'} say what was drawn. "
        f"({seconds:.0f} s)",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
