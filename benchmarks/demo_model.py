"""What clip_vit_tiny_demo finds on held-out drawings, what it confuses, and how it came to learn it.

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


def metrics_row(name: str, found: Evaluation, direction: str) -> str:
    metrics = getattr(found, direction)
    recalls = (metrics.recall_at_1, metrics.recall_at_5, metrics.recall_at_10)
    figures = [f"{figure:.1f}" for figure in (*recalls, metrics.median_rank, metrics.mean_rank)]
    return f"| {name} | {' | '.join(figures)} |"


def confusions(found: Evaluation) -> tuple[int, Counter[str], Counter[str]]:
    """How many sentences found another clip first, in which attributes it was wrong, and where in one alone."""
    shown = [asdict(scene) for scene, _ in scenes(found.videos, 0, held_out=True)]
    wrong, alone = Counter[str](), Counter[str]()
    missed = 0
    for number, first in enumerate(np.nanargmax(found.similarity, axis=1)):
        differs = [name for name, value in shown[number].items() if shown[first][name] != value]
        # Where one shape is, is not told of several: that differs along with their count.
        if "count" in differs and "position" in differs:
            differs.remove("position")
        missed += bool(differs)
        wrong.update(differs)
        if len(differs) == 1:
            alone.update(differs)
    return missed, wrong, alone


def plot(log: Path, path: Path) -> None:
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
    parser.add_argument("drawings", type=Path, help="folder that `clip4clip synthetic` made")
    parser.add_argument("--weights", help="a checkpoint; default: the one in the package")
    parser.add_argument("--plot", type=Path, help="where to draw the learning curve")
    arguments = parser.parse_args()
    text, video = (kind.load(MODEL, arguments.weights, "cpu") for kind in (TextEncoder, VideoEncoder))
    print("| captions | R@1 | R@5 | R@10 | MdR | MnR |\n| --- | --- | --- | --- | --- | --- |")
    for table, words in (("eval", "as in training"), ("eval_paraphrased", "paraphrased")):
        found = evaluate(read_pairs(arguments.drawings / f"{table}.csv", arguments.drawings), text, video)
        print(metrics_row(f"{words}, text → video", found, "text_to_video"))
        print(metrics_row(f"{words}, video → text", found, "video_to_text"))
        if table == "eval":
            missed, wrong, alone = confusions(found)
    print(f"\nOf {found.pairs} sentences {missed} have another clip first. What is different about it:\n")
    print("| attribute | wrong | this alone |\n| --- | --- | --- |")
    for name, count in wrong.most_common():
        print(f"| {name} | {count} | {alone[name]} |")
    if arguments.plot:
        plot(LOG, arguments.plot)


if __name__ == "__main__":
    main()
