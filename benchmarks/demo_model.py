"""Evaluate clip_vit_tiny_demo on held-out drawings: its metrics, its confusions and its learning curve.

    clip4clip synthetic drawings --train 0
    python benchmarks/demo_model.py drawings [--weights FILE] [--plot docs/demo_model.png]

Prints the tables of docs/demo_model.md and, with --plot, draws its learning curve from docs/demo_model_log.jsonl.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np

from clip4clip import TextEncoder, VideoEncoder
from clip4clip.evaluation.evaluate import Evaluation, evaluate
from clip4clip.evaluation.pairs import read_pairs
from clip4clip.training.scenes import scenes

MODEL = "clip_vit_tiny_demo"
LOG = Path(__file__).parent.parent / "docs" / "demo_model_log.jsonl"


def metrics_row(name: str, evaluation: Evaluation, direction: str) -> str:
    metrics = getattr(evaluation, direction)
    recalls = (metrics.recall_at_1, metrics.recall_at_5, metrics.recall_at_10)
    figures = [f"{figure:.1f}" for figure in (*recalls, metrics.median_rank, metrics.mean_rank)]
    return f"| {name} | {' | '.join(figures)} |"


def count_confusions(evaluation: Evaluation) -> tuple[int, Counter[str], Counter[str]]:
    """Compare the best clip of each sentence with the right one.

    Returns:
        The number of sentences with a wrong best clip; how often each attribute of that clip is wrong; and how often it
        is the only wrong one.
    """
    shown = [asdict(scene) for scene, _ in scenes(evaluation.videos, 0, held_out=True)]
    wrong, only_wrong = Counter[str](), Counter[str]()
    missed = 0
    for number, best in enumerate(np.nanargmax(evaluation.similarity, axis=1)):
        differing = [name for name, value in shown[number].items() if shown[best][name] != value]
        # Several shapes have no position, so a wrong count always comes with a wrong position.
        if "count" in differing and "position" in differing:
            differing.remove("position")
        missed += bool(differing)
        wrong.update(differing)
        if len(differing) == 1:
            only_wrong.update(differing)
    return missed, wrong, only_wrong


def plot_learning_curve(log: Path, path: Path) -> None:
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    steps, losses = zip(*((line["step"], line["loss"]) for line in lines if "loss" in line), strict=True)
    evaluated = [(line["step"], line["text_to_video"]) for line in lines if "text_to_video" in line]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps, losses, color="#c9d3dd", linewidth=0.6)
    smooth = np.convolve(losses, np.ones(50) / 50, "valid")
    left.plot(steps[49:], smooth, color="#3568a8")
    left.set(yscale="log", xlabel="step", ylabel="loss (batch of 96)", title="training")
    for name, label, colour in (("recall_at_1", "R@1", "#1f9d55"), ("recall_at_5", "R@5", "#c46a2b")):
        right.plot([s for s, _ in evaluated], [m[name] for _, m in evaluated], "o-", color=colour, label=label, ms=4)
    right.set(ylim=(0, 102), xlabel="step", ylabel="%", title="500 held-out clips, text → video, 3 frames")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drawings", type=Path, help="folder made by `clip4clip synthetic`")
    parser.add_argument("--weights", help="checkpoint; default: the one in the package")
    parser.add_argument("--plot", type=Path, help="also draw the learning curve to this file")
    arguments = parser.parse_args()
    text, video = (kind.load(MODEL, arguments.weights, "cpu") for kind in (TextEncoder, VideoEncoder))
    print("| captions | R@1 | R@5 | R@10 | MdR | MnR |\n| --- | --- | --- | --- | --- | --- |")
    for table, words in (("eval", "as in training"), ("eval_paraphrased", "paraphrased")):
        evaluation = evaluate(read_pairs(arguments.drawings / f"{table}.csv", arguments.drawings), text, video)
        print(metrics_row(f"{words}, text → video", evaluation, "text_to_video"))
        print(metrics_row(f"{words}, video → text", evaluation, "video_to_text"))
        if table == "eval":
            missed, wrong, only_wrong = count_confusions(evaluation)
    print(f"\nOf {evaluation.pairs} sentences, {missed} have a wrong clip first. Its wrong attributes:\n")
    print("| attribute | wrong | only this one |\n| --- | --- | --- |")
    for name, count in wrong.most_common():
        print(f"| {name} | {count} | {only_wrong[name]} |")
    if arguments.plot:
        plot_learning_curve(LOG, arguments.plot)


if __name__ == "__main__":
    main()
