"""The command ``eval``: measure retrieval on pairs of a video and a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import EncoderOptions, PairsOptions, WholeSamplingOptions, parse_path
from .output import check_figures_output, check_output, exit_if_videos_failed, output_figures, print_evaluation
from .progress import loading_status, progress_bars


def evaluate(
    pairs: PairsOptions,
    sampling: WholeSamplingOptions,
    encoder: EncoderOptions,
    max_words: Annotated[
        int | None,
        typer.Option(
            min=3,
            help="Maximum number of token ids per sentence, start and end marks included; the rest is cut. "
            "Default: the limit of the model, mostly 77. The CLIP4Clip paper uses 32.",
        ),
    ] = None,
    as_json: Annotated[
        Path | None,
        typer.Option(
            "--json",
            parser=parse_path,
            metavar="FILE.json",
            help="Also write the metrics to this file; - prints them as JSON instead of the table.",
        ),
    ] = None,
    histogram: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path, metavar="FILE.png", help="Also draw a histogram of the ranks; needs the extra plot."
        ),
    ] = None,
) -> None:
    """Measure how well sentences find their videos, and videos their sentences.

    Prints R@1, R@5 and R@10 (percent), the median rank (MdR) and the mean rank
    (MnR). Items with equal similarity share the average of their ranks. If a
    video has several sentences, video → text counts the one that ranks best.

    A video that cannot be decoded counts as a miss. It is listed at the end,
    and the exit code is then 1.

    Examples:
        clip4clip eval MSRVTT_JSFUSION_test.csv --videos MSRVTT/videos/all
    """
    check_figures_output(as_json)
    check_output(histogram, None, "--histogram")
    from ..evaluation import histogram as histograms
    from ..evaluation.evaluate import evaluate as evaluate_pairs
    from ..evaluation.pairs import read_pairs

    if histogram is not None:
        histograms.check_histogram(histogram)
    table = read_pairs(pairs.pairs, pairs.videos, pairs.captions)
    with loading_status(encoder.model):
        spec = encoder.spec()
        encoders = spec.text_encoder(), spec.video_encoder()
    with progress_bars() as progress:
        result = evaluate_pairs(table, *encoders, sampling.sampling(), progress.track, max_words)
    output_figures(result.to_dict(), lambda: print_evaluation(result), as_json)
    if histogram is not None:
        histograms.save_histogram(result, histogram)
    exit_if_videos_failed(result)
