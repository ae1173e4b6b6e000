"""The report of benchmarks/moments.py: tables, the required figures, and the picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

WHOLE, WINDOWS, SHOTS = "one vector a video", "windows of 10 s", "shots"
SCENE_DETECT, TRUE_SCENES = "PySceneDetect", "true scenes"
EVERY = (0.5, 1.0, 2.0, 4.0)
DEFAULT_EVERY = 1.0
REQUIRED = {"R@1 IoU 0.5": 85.0, "R@1 IoU 0.7": 80.0, "R@1 within IoU 0.5": 85.0, "R@1 within IoU 0.7": 80.0}
MAX_COST = 0.1  # of PySceneDetect's cut
COLOURS = {WHOLE: "#7a8694", WINDOWS: "#c46a2b", SHOTS: "#1f9d55", SCENE_DETECT: "#3568a8", TRUE_SCENES: "#c9d3dd"}

Report = dict[str, Any]


def quality_rows(report: Report) -> Iterator[list[str]]:
    yield [
        "cut",
        "every",
        "segments",
        "right video",
        *(f"IoU ≥ {bound}" for bound in (0.5, 0.7)),
        *(f"in its video, IoU ≥ {bound}" for bound in (0.5, 0.7)),
    ]
    for row in report["rows"]:
        figures = [row[f"{name} IoU {bound}"] for name in ("R@1", "R@1 within") for bound in (0.5, 0.7)]
        percentages = [f"{figure:.1f}" for figure in (row["R@1 video"], *figures)]
        yield [row["cut"], _format_every(row), str(row["segments"]), *percentages]


def cost_rows(report: Report) -> Iterator[list[str]]:
    yield ["cut", "every", "video", "reading", "embedding", "cutting"]
    for size, rows in (("drawn, 128×128, 8 frames/s", report["rows"]), ("1280×720, 25 frames/s", report["large"])):
        for row in rows:
            if row["cut"] != TRUE_SCENES:
                cost = row["cost"]
                cells = [f"{cost[name]:.2f}" if name in cost else "" for name in ("read", "embed", "cut")]
                yield [row["cut"], _format_every(row), size, *cells]


def _format_every(row: dict[str, Any]) -> str:
    return "" if row["every"] is None else f"{row['every']:g} s"


def show(title: str, rows: Iterable[list[str]], markdown: bool) -> None:
    head, *body = rows
    table = Table(*head, title=title)
    for row in body:
        table.add_row(*row)
    Console(width=160, highlight=False).print(table)
    if markdown:
        print("\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body]))


def check_bars(report: Report) -> Iterator[str]:
    """Yield whether each requirement is met by shots with the default step."""

    def line(is_met: bool, what: str) -> str:
        return f"{'met' if is_met else 'MISSED'}: {what}"

    rows = {row["cut"]: row for row in report["rows"] if row["every"] in (DEFAULT_EVERY, None)}
    own, true, theirs = rows[SHOTS], rows[TRUE_SCENES], rows.get(SCENE_DETECT)
    for name, bar in REQUIRED.items():
        yield line(own[name] >= bar, f"{name} {own[name]:.1f} %, required {bar:g} %; true scenes {true[name]:.1f} %")
    if theirs is None:
        return
    for name in REQUIRED:
        what = f"{name} {own[name]:.1f} %, required {theirs[name]:.1f} %, as {SCENE_DETECT}"
        yield line(own[name] >= theirs[name], what)
    for size, costs in (("drawn", report["rows"]), ("1280×720", report["large"])):
        cut = {row["cut"]: row["cost"]["cut"] for row in costs if row["every"] in (DEFAULT_EVERY, None)}
        share = cut[SHOTS] / cut[SCENE_DETECT]
        yield line(share <= MAX_COST, f"{size}: cost of the cut {share:.4f} times {SCENE_DETECT}'s, at most {MAX_COST}")


def plot(report: Report, path: Path) -> None:
    """Draw R@1 at both bounds against the step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, bound in zip(figure.subplots(1, 2, sharey=True), (0.5, 0.7), strict=True):
        for name, colour in COLOURS.items():
            rows = [row for row in report["rows"] if row["cut"] == name]
            if not rows:
                continue
            values = [row[f"R@1 IoU {bound}"] for row in rows]
            if name == WHOLE:
                axes.axhline(values[0], color=colour, linewidth=1, label=name)
            else:
                axes.plot([row["every"] for row in rows], values, "o-", color=colour, label=name, ms=4)
        axes.set(xscale="log", ylim=(0, 102), xlabel="seconds between frames", title=f"IoU ≥ {bound}")
        axes.set_xticks(EVERY, [f"{every:g}" for every in EVERY], minor=False)
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
    axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("R@1 over all videos, %")
    figure.savefig(path, dpi=110)
