"""Several models in brief: which ones, the small networks of other kinds, and one table and picture of all models."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from embed_contenders import DEFAULT, INT8, OPEN_CLIP, TORCH, TRANSFORMERS
from embed_report import Lines, format_duration, quartiles, ratio, required_cosine
from embed_work import Figures

from clip4clip.config import get_model, register_model

BRIEF_MODELS = (
    "clip_vit_b32",
    "clip_vit_b32_laion2b",
    "clip_vit_b16",
    "clip_vit_b16_datacomp",
    "clip_vit_l14",
    "clip_vit_l14_336",
    "pe_core_b16",
)
BRIEF_CONTENDERS = (DEFAULT, INT8, TORCH, OPEN_CLIP, TRANSFORMERS)
PEERS = (OPEN_CLIP, TRANSFORMERS)


def register_small_networks() -> list[str]:
    """Register small networks, one with GELU and one like the Perception Encoder's, and return their names."""
    sizes = {"embed_dim": 96, "resolution": 64, "vision_width": 192, "vision_layers": 3, "vision_head_width": 32}
    sizes |= {"vision_mlp_width": 512, "text_width": 128, "text_layers": 3, "text_head_width": 32, "patch_size": 16}
    kinds = {"small_gelu": "clip_vit_b32_laion2b", "small_pe": "pe_core_b16"}
    for name, model in kinds.items():
        register_model(name, replace(get_model(model).config, **sizes))
    return list(kinds)


def brief_lines(models: dict[str, Any]) -> Lines:
    """Return a line for each model and task: times of this project, and how many times as long the peers take."""
    header = ["model", "task", f"{DEFAULT}, ms", INT8, TORCH, *PEERS, "least cosine", "of int8"]
    lines = [header]
    for model, own in models.items():
        for title, row in own["rows"].items():
            times = [times_of(row, name) for name in (INT8, TORCH, *PEERS)]
            exact = [each["cosine"] for name, each in row.items() if required_cosine(name) > required_cosine(INT8)]
            middle = quartiles(row[DEFAULT]["milliseconds"])[1]
            int8 = f"{row[INT8]['cosine']:.5f}" if INT8 in row else "–"
            milliseconds = f"{middle:.0f}" if middle >= 100 else f"{middle:.1f}"
            lines.append([model, title, milliseconds, *times, f"{min(exact):.6f}", int8])
    return lines


def times_of(row: Figures, name: str) -> str:
    """Return how many times as long as this project's default a contender takes, with quartiles."""
    if name not in row:
        return "–"
    low, middle, high = ratio(row, name, DEFAULT)
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def plot_brief(models: dict[str, Any], path: Path) -> None:
    """Draw one panel for each model: how long every contender takes for each task, as a multiple of the default's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    titles = {"one caption": "one caption", "captions of": "captions in a batch", "frames": "frames"}
    colours = {DEFAULT: "#d1495b", INT8: "#e8a0aa", TORCH: "#edc9cd", OPEN_CLIP: "#7d8794", TRANSFORMERS: "#b8c0c8"}
    figure, panels = pyplot.subplots(1, 3, figsize=(12, 0.75 * len(models) + 1.2), layout="constrained", sharey=True)
    for axes, (part, title) in zip(panels, titles.items(), strict=True):
        for place, own in enumerate(models.values()):
            row = next((row for name, row in own["rows"].items() if part in name), None)
            if row is None:
                continue
            default = statistics.median(row[DEFAULT]["milliseconds"])
            for offset, (name, colour) in enumerate(colours.items()):
                if name in row:
                    times = ratio(row, name, DEFAULT)[1]
                    bar = axes.barh(place + 0.16 * offset - 0.32, times, 0.15, color=colour, label=name)
                    label = format_duration(default) if name == DEFAULT else f"{times:.1f}×"
                    axes.bar_label(bar, [f" {label}"], fontsize=7)
        axes.set_title(title, fontsize=10.5, loc="left")
        axes.set_xticks([])
        axes.margins(x=0.15)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    panels[0].set_yticks(range(len(models)), list(models), fontsize=8.5)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=5, fontsize=8.5, frameon=False)
    figure.savefig(path, dpi=130)
