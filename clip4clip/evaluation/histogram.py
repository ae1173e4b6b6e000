"""A histogram of the ranks of an evaluation, drawn with matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputValueError, MissingExtraError
from ..files import atomic_write
from .evaluate import Evaluation

BINS = 23


def check_histogram(path: Path) -> None:
    """Raise what :func:`save_histogram` would raise for this file, before hours of work.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputValueError: matplotlib cannot write the format that the extension names.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("a histogram needs matplotlib: pip install 'towhee-clip4clip[plot]'") from error
    formats = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise InputValueError(f"a histogram cannot be written as {path}; its name must end in .{', .'.join(formats)}")


def save_histogram(evaluation: Evaluation, path: Path) -> None:
    """Draw how many queries have which rank, in both directions.

    Args:
        evaluation: from :func:`clip4clip.evaluation.evaluate.evaluate`.
        path: file to write; its extension decides the format.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputValueError: matplotlib cannot write the format that the extension names.
    """
    check_histogram(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    edges = np.unique(np.round(np.geomspace(1, max(evaluation.videos, 2) + 1, BINS + 1)))
    panels = (
        ("text → video", evaluation.text_ranks, evaluation.text_to_video, "#3568a8"),
        ("video → text", evaluation.video_ranks, evaluation.video_to_text, "#c46a2b"),
    )
    for axes, (title, ranks, metrics, colour) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.hist(np.nan_to_num(ranks, nan=evaluation.videos), edges, color=colour, edgecolor="white", linewidth=0.5)
        axes.set_xscale("log")
        axes.set_xlabel(f"rank of the match among {evaluation.videos}")
        axes.set_ylabel("queries")
        recalls = f"R@1 {metrics.recall_at_1:.1f}   R@5 {metrics.recall_at_5:.1f}   R@10 {metrics.recall_at_10:.1f}"
        axes.set_title(f"{title}:  {recalls}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130, format=path.suffix[1:].lower())
