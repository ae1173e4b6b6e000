"""The report of benchmarks/embed.py: tables, comparisons with lower bounds, the required speed-ups, and the picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embed_contenders import ALONE, BFLOAT16, DEFAULT, INT8, ONNX_INT8, PADDED, TORCH, TOWHEE, TRANSFORMERS
from embed_work import (
    COLD,
    FRAMES_NETWORK,
    FRAMES_RAW,
    GRAPH_KEPT,
    KEPT,
    MANY_NETWORK,
    MANY_STRING,
    PRODUCTS,
    READING,
    TEXT_NETWORK,
    TEXT_STRING,
    Figures,
    frame_flop,
    products_flop,
    text_bytes,
    text_flop,
)
from rich.table import Table

from clip4clip.config import CLIPConfig

Rows = dict[str, Figures]  # by title
Lines = list[list[str]]

# The required cosine to transformers in float32. On a CPU without VNNI, the products of ONNX Runtime's own int8 graph
# saturate: its bound only finds a broken graph.
REQUIRED_COSINE = {INT8: 0.999, ONNX_INT8: 0.9, BFLOAT16: 0.999}
REQUIRED_COSINE_FLOAT32 = 0.99999


def required_cosine(name: str) -> float:
    return REQUIRED_COSINE.get(name.removesuffix(ALONE).removesuffix(GRAPH_KEPT), REQUIRED_COSINE_FLOAT32)


def wrong_vectors(rows: Rows) -> list[str]:
    """Return a message for each contender and row whose vectors differ from those of transformers."""
    return [
        f"{name} gives other vectors: {title}: cosine {figures['cosine']:.6f}, must be at least {required_cosine(name)}"
        for title, row in rows.items()
        for name, figures in row.items()
        if "cosine" in figures and not figures["cosine"] >= required_cosine(name)  # "not >=" also catches NaN
    ]


# The tables


def ratio(row: Figures, over: str, under: str, key: str = "milliseconds") -> list[float]:
    """Return the quartiles, over the rounds, of one contender's figure divided by another's."""
    pairs = zip(row[over][key], row[under][key], strict=True)
    return quartiles([numerator / denominator for numerator, denominator in pairs])


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def baseline_of(row: Figures) -> str:
    return next(name for name in (DEFAULT, DEFAULT + GRAPH_KEPT, TORCH) if name in row)


def cells_of(row: Figures, name: str) -> list[str]:
    """Return the cells of a contender: milliseconds, times clip4clip's, perhaps megabytes, cosine."""
    own = row[name]
    low, middle, high = quartiles(own["milliseconds"])
    first, second, third = ratio(row, name, baseline_of(row))
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    cells = [f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})", f"{second:.2f} ({first:.2f}–{third:.2f})"]
    if "megabytes" in own:
        cells.append(f"{statistics.median(own['megabytes']):.0f}")
    return [*cells, f"{own['cosine']:.6f}" if "cosine" in own else "–"]


def lines_of(row: Figures) -> Lines:
    megabytes = ["peak MB"] if any("megabytes" in own for own in row.values()) else []
    header = ["contender", "ms", "times clip4clip's", *megabytes, "least cosine"]
    return [header, *([name, *cells_of(row, name)] for name in row)]


def cosine_lines(rows: Rows) -> Lines:
    """Return one table with the least cosines of all rows."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    cells = [[f"{row[name]['cosine']:.6f}" if name in row else "–" for row in rows.values()] for name in names]
    return [["contender", *rows], *([name, *cell] for name, cell in zip(names, cells, strict=True))]


def table_of(title: str, lines: Lines) -> Table:
    table = Table(*lines[0], title=title, title_justify="left")
    table.columns[0].no_wrap = True
    for line in lines[1:]:
        table.add_row(*line, style="bold" if line[0].startswith(DEFAULT) else None)
    return table


def markdown_of(title: str, lines: Lines) -> str:
    table = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return f"\n**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in table)


# Lower bounds


def roofline(config: CLIPConfig, rows: Rows) -> list[dict[str, Any]]:
    """Compare times with the time that only the matrix products take, or only reading the weights.

    Returns:
        For each comparison the work, its size, the measured rate, and the quartiles of the ratio.
    """
    comparisons: list[dict[str, Any]] = []
    frames, captions = rows.get(FRAMES_NETWORK.format(12), {}), rows.get(TEXT_NETWORK.format(10), {})
    products_by = fastest(frames, PRODUCTS.values())
    if products_by:
        rate = products_flop(config, 12) / statistics.median(frames[products_by]["milliseconds"]) / 1e6
        for name in frames:
            if "cosine" in frames[name] and required_cosine(name) == REQUIRED_COSINE_FLOAT32:
                work = 12 * frame_flop(config, one_in_last=name.startswith(DEFAULT))
                times = [each * products_flop(config, 12) / work for each in ratio(frames, name, products_by)]
                comparisons.append(comparison(f"12 frames, {name}", f"{work / 1e9:.1f} GFLOP", rate, "GFLOP/s", times))
        work = text_flop(config, 10, one_in_last=True)
        for name in (TORCH, DEFAULT):
            if name in captions:
                times = [each / (work / rate / 1e6) for each in quartiles(captions[name]["milliseconds"])]
                comparisons.append(
                    comparison(f"one caption of 10 ids, {name}", f"{work / 1e9:.2f} GFLOP", rate, "GFLOP/s", times)
                )
    reading_by = fastest(captions, READING.values())
    if reading_by:
        rate = text_bytes(config) / statistics.median(captions[reading_by]["milliseconds"]) / 1e6
        for name, width in {TORCH: 4, DEFAULT: 4, BFLOAT16: 2, INT8: 1}.items():
            if name in captions:
                times = [each * 4 / width for each in ratio(captions, name, reading_by)]
                size = f"{text_bytes(config, width) / 1e6:.0f} MB of weights"
                comparisons.append(comparison(f"one caption of 10 ids, {name}", size, rate, "GB/s", times))
    return comparisons


def comparison(work: str, size: str, rate: float, unit: str, times: list[float]) -> dict[str, Any]:
    return {"work": work, "size": size, "rate": rate, "unit": unit, "times": times}


def fastest(row: Figures, names: Iterable[str]) -> str | None:
    """Return the name with the least median time; None if none was measured."""
    measured = [name for name in names if "milliseconds" in row.get(name, {})]
    return min(measured, key=lambda name: statistics.median(row[name]["milliseconds"]), default=None)


# The required speed-ups


@dataclass
class Bar:
    """A required ratio of two figures.

    Attributes:
        text: description of the comparison.
        row: title of the row.
        over: contender of the numerator; None for the fastest peer.
        under: contender of the denominator.
        least: smallest ratio that meets the requirement; or else
        most: largest ratio that meets it.
        key: name of the figure.
    """

    text: str
    row: str
    over: str | None
    under: str
    least: float | None = None
    most: float | None = None
    key: str = "milliseconds"


BARS = (
    Bar("one caption of 10 ids, string to vector, float32, against towhee.models", TEXT_STRING, TOWHEE, DEFAULT, 15),
    Bar("one caption of 10 ids, string to vector, int8, against towhee.models", TEXT_STRING, TOWHEE, INT8, 30),
    Bar(
        "one caption of 10 ids, network alone, float32, against towhee.models",
        TEXT_NETWORK.format(10),
        TOWHEE,
        DEFAULT,
        7,
    ),
    Bar("one caption of 10 ids, network alone, int8, against towhee.models", TEXT_NETWORK.format(10), TOWHEE, INT8, 12),
    Bar(
        "one caption of 10 ids, network alone, float32, against transformers",
        TEXT_NETWORK.format(10),
        TRANSFORMERS,
        DEFAULT,
        2.5,
    ),
    Bar(
        "64 captions, strings to vectors, float32, against the best peer",
        MANY_STRING.format(64),
        None,
        DEFAULT,
        1.5,
    ),
    Bar("64 captions, network alone, float32, against the best peer", MANY_NETWORK.format(64), None, DEFAULT, 1.5),
    Bar("12 frames, float32, against towhee.models", FRAMES_NETWORK.format(12), TOWHEE, DEFAULT, 1.2),
    Bar("12 frames, int8, against towhee.models", FRAMES_NETWORK.format(12), TOWHEE, INT8, 1.6),
    Bar(
        "12 frames of 720p, float32, against Pillow one by one and transformers",
        FRAMES_RAW.format(12),
        TRANSFORMERS,
        DEFAULT,
        1.4,
    ),
    Bar("cold start to the first caption's vector against towhee.models", COLD, TOWHEE, KEPT, 4),
    Bar("peak memory until then, of towhee.models'", COLD, KEPT, TOWHEE, most=0.5, key="megabytes"),
)


def best_peer(row: Figures) -> str | None:
    """Return the fastest other library that computes in float32."""
    peers = [name for name in row if not name.startswith(DEFAULT) and required_cosine(name) == REQUIRED_COSINE_FLOAT32]
    return fastest(row, peers)


def check_bars(rows: Rows, bounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the bars whose rows were measured, each with its ratio and whether it is met."""
    checked: list[dict[str, Any]] = []
    for bar in BARS:
        row = rows.get(bar.row, {})
        over = bar.over or best_peer(row)
        if over in row and bar.under in row:
            text = bar.text if bar.over else f"{bar.text}, {over}"
            checked.append({"text": text, **judge(ratio(row, over, bar.under, bar.key), bar.least, bar.most)})
    for bound in bounds:
        if bound["work"] == f"12 frames, {DEFAULT}":
            text = "12 frames, float32, of what its products take alone"
            checked.append({"text": text, **judge(bound["times"], most=1.15)})
    return checked


def judge(times: list[float], least: float | None = None, most: float | None = None) -> dict[str, Any]:
    met = (least is None or times[1] >= least) and (most is None or times[1] <= most)
    return {"bar": f"≥ {least}" if least is not None else f"≤ {most}", "times": times, "met": met}


def summary_of(bounds: list[dict[str, Any]], checked: list[dict[str, Any]]) -> dict[str, Lines]:
    """Return two tables: the comparisons with lower bounds, and the bars."""

    def spread(times: list[float]) -> str:
        return f"{times[1]:.2f} ({times[0]:.2f}–{times[2]:.2f})"

    first = [["work", "size", "at", "times that"]]
    first += [
        [each["work"], each["size"], f"{each['rate']:.0f} {each['unit']}", spread(each["times"])] for each in bounds
    ]
    second = [["what is shown", "bar", "found", ""]]
    second += [
        [each["text"], each["bar"], spread(each["times"]), "met" if each["met"] else "missed"] for each in checked
    ]
    return {"What bounds it": first, "Bars": second}


# The picture


PANELS = {
    TEXT_STRING: "one caption of 10 ids, string to vector",
    TEXT_NETWORK.format(10): "the same, network alone",
    MANY_STRING.format(64): "64 captions, strings to vectors",
    FRAMES_NETWORK.format(12): "12 frames, network alone",
    FRAMES_RAW.format(12): "12 frames of 720p, raw pixels to vector",
    COLD: "start of a process to the first vector",
}


def plot(rows: Rows, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {title: rows[row] for row, title in PANELS.items() if row in rows}
    lines = (len(panels) + 1) // 2
    figure, grid = pyplot.subplots(lines, 2, figsize=(11, 3.9 * lines), layout="constrained")
    for axes, (title, row) in zip(grid.flat, panels.items(), strict=False):
        medians = {
            name: statistics.median(own["milliseconds"])
            for name, own in row.items()
            if "cosine" in own and name != PADDED
        }
        names = sorted(medians, key=lambda name: -medians[name])
        colours = ["#d1495b" if name.startswith(DEFAULT) else "#b8c0c8" for name in names]
        bars = axes.barh(names, [medians[name] for name in names], color=colours, height=0.72)
        baseline = medians[baseline_of(row)]
        labels = [f" {format_duration(medians[name])}  ({medians[name] / baseline:.1f}×)" for name in names]
        axes.bar_label(bars, labels, fontsize=8)
        axes.set_title(title, fontsize=10.5, loc="left")
        axes.set_xlim(0, 1.3 * max(medians.values()))
        axes.set_xticks([])
        axes.tick_params(axis="y", length=0, labelsize=8.5)
        for name, label in zip(names, axes.get_yticklabels(), strict=True):
            label.set_fontweight("bold" if name.startswith(DEFAULT) else "normal")
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    for axes in list(grid.flat)[len(panels) :]:
        axes.remove()
    figure.savefig(path, dpi=130)


def format_duration(milliseconds: float) -> str:
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 100 else f"{milliseconds:.1f} ms"
