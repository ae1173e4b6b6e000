"""The report of benchmarks/index.py: medians over the rounds, tables, required figures, and the picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from index_contenders import CONTENDERS, OURS, PRODUCT
from index_data import FIELD_FILTERED, FILTERED, PER_VIDEO, PLAIN, SCORE_TOLERANCE

CROWDS = ("one client", "threads", "processes")
MODES = (PLAIN, FILTERED, FIELD_FILTERED, PER_VIDEO)

Figures = Mapping[str, Any]  # of one contender
Lines = list[list[str]]


def summarise(rounds: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return the figures of each contender over all rounds.

    Args:
        rounds: what ``index_work.search`` has returned in each round, with the seconds ``first``, by contender. All
            contenders have the same rounds, as ratios are taken within a round.

    Returns:
        By contender: p50 (median of the rounds), p99 (of the searches of all rounds), the median of the ratios to the
        product, and the number of searches, by crowd and mode; the recall and the greatest error of a score, by mode.
        The error is None if an answer is incomplete.
    """
    summaries: dict[str, dict[str, Any]] = {}
    for name, runs in rounds.items():
        summary: dict[str, Any] = {"first s": statistics.median(run["first"] for run in runs)}
        summary["peak MB"] = max((run["peak MB"] for run in runs if run["peak MB"]), default=None)
        for crowd in CROWDS:
            summary[crowd] = {
                mode: _summarise_searches(runs, rounds.get(PRODUCT, runs), crowd, mode)
                for mode in CONTENDERS[name].modes
                if mode in runs[0].get(crowd, {})
            }
        summary["checked"] = {
            mode: _summarise_answers([run["checked"][mode] for run in runs]) for mode in CONTENDERS[name].modes
        }
        summaries[name] = summary
    return summaries


def _summarise_searches(runs: Sequence[Any], product: Sequence[Any], crowd: str, mode: str) -> dict[str, Any]:
    """Return the figures of one mode. The ratio is to the product without a filter."""
    pairs = [
        (run[crowd][mode], own_product[crowd][PLAIN])
        for run, own_product in zip(runs, product, strict=True)
        if crowd in run
    ]
    searches = [each for own, _ in pairs for each in own["ms"]]
    medians = [statistics.median(own["ms"]) for own, _ in pairs]
    ratios = [middle / statistics.median(other["ms"]) for middle, (_, other) in zip(medians, pairs, strict=True)]
    figures = {
        "p50": statistics.median(medians),
        "p50 of rounds": medians,
        "p99": float(np.percentile(searches, 99)),
        "times the product": statistics.median(ratios),
        "searches": len(searches),
    }
    if crowd != CROWDS[0]:
        figures["searches per second"] = statistics.median(own["searches per second"] for own, _ in pairs)
    return figures


def _summarise_answers(checked: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    error = max(each["error"] for each in checked)
    return {
        "queries": max(each["queries"] for each in checked),
        "recall": min(each["recall"] for each in checked),
        "error": error if np.isfinite(error) else None,  # JSON has no infinity
    }


def wrong_results(summaries: Mapping[str, Figures]) -> list[str]:
    """Return a message for each exact contender and mode with a wrong result or score."""
    return [
        f"{CONTENDERS[name].title} is wrong: {mode}: recall {own['recall']:.4f}, must be 1; scores differ from those "
        f"of float64 by {own['error'] or float('inf'):.1e}, at most {SCORE_TOLERANCE:.0e} is right"
        for name, summary in summaries.items()
        if CONTENDERS[name].is_exact
        for mode, own in summary["checked"].items()
        if own["recall"] < 1 or own["error"] is None or own["error"] > SCORE_TOLERANCE
    ]


# The tables


def milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def title_of(kind: str, rows: int) -> str:
    return f"{rows:,} rows, {kind}"


def lines_of(table: Mapping[str, Any]) -> Lines:
    """Return a table with a column for each contender, and a line for each figure that any of them has."""
    contenders = table["contenders"]
    lines = [["", *(CONTENDERS[name].title for name in contenders)]]
    for what, cell in _cells(table["clients"]):
        cells = [cell(figures) for figures in contenders.values()]
        if any(each != "–" for each in cells):
            lines.append([what, *cells])
    return lines


def _cells(clients: int) -> Iterator[tuple[str, Callable[[Figures], str]]]:
    """Yield the name of each line, and a function that returns the cell of a contender."""
    for crowd in CROWDS:
        who = "" if crowd == CROWDS[0] else f"{clients} {crowd}: "
        for mode in MODES:
            yield f"{who}{mode}, p50 / p99 ms", lambda own, crowd=crowd, mode=mode: _cell_of_times(own, crowd, mode)
            if crowd == CROWDS[0]:
                yield f"{mode}, times the product", lambda own, mode=mode: _cell_of_ratio(own, mode)
            elif mode == PLAIN:
                yield f"{who}searches/s", lambda own, crowd=crowd: _cell_of_rate(own, crowd)
    yield "fresh process to first result, s", lambda own: f"{own['first s']:.2f}"
    yield "insert, rows/s", lambda own: f"{own['rows per second']:,.0f}" if own.get("rows per second") else "–"
    yield "then until indexed, s", lambda own: f"{own['indexing s']:.0f}" if own.get("indexing s") else "–"
    yield "on disk, MB", lambda own: f"{own['disk MB']:,.0f}"
    yield "peak memory of a search, MB", lambda own: f"{own['peak MB']:,.0f}" if own["peak MB"] else "–"
    yield "memory of the server, MB", lambda own: f"{own['server MB']:,.0f}" if own.get("server MB") else "–"
    yield "recall@10, in the worst mode", lambda own: f"{min(mode['recall'] for mode in own['checked'].values()):.4f}"


def _cell_of_times(own: Figures, crowd: str, mode: str) -> str:
    times = own.get(crowd, {}).get(mode)
    return f"{milliseconds(times['p50'])} / {milliseconds(times['p99'])}" if times else "–"


def _cell_of_ratio(own: Figures, mode: str) -> str:
    times = own["one client"].get(mode)
    return f"{times['times the product']:.2f}" if times else "–"


def _cell_of_rate(own: Figures, crowd: str) -> str:
    times = own.get(crowd, {}).get(PLAIN)
    return f"{times['searches per second']:.0f}" if times else "–"


def markdown_of(title: str, lines: Lines) -> str:
    table = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return f"\n**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in table)


# What is required


class Bar(NamedTuple):
    """A required figure of this project's index.

    Attributes:
        text: what it is.
        rows: number of rows that it is required for; None for any.
        figure: returns it from the figures of the contender.
        most: largest value that meets the requirement; or else
        least: smallest value that meets it.
    """

    text: str
    rows: int | None
    figure: Callable[[Figures], float]
    most: float | None = None
    least: float | None = None

    def is_met(self, value: float) -> bool:
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)

    @property
    def bound(self) -> str:
        return f"≤ {self.most:g}" if self.most is not None else f"≥ {self.least:g}"


def one_client(mode: str, key: str) -> Callable[[Figures], float]:
    return lambda own: own["one client"][mode][key]


BARS = (
    Bar("10 nearest, times the float32 product", 100_000, one_client(PLAIN, "times the product"), most=1.5),
    Bar("with a filter that keeps 10 %, times the product", 100_000, one_client(FILTERED, "times the product"), most=3),
    Bar("fresh process to first result, s", 100_000, lambda own: own["first s"], most=0.5),
    Bar("10 nearest, p50 ms", 1_000_000, one_client(PLAIN, "p50"), most=150),
    Bar("insert, rows/s", 100_000, lambda own: own["rows per second"], least=20_000),
    Bar("recall@10", None, lambda own: min(mode["recall"] for mode in own["checked"].values()), least=1),
)


def check_bars(tables: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Yield a line for each required figure that was measured, after a header."""
    yield ["what is shown", "rows", "required", "found", ""]
    for table in tables:
        own = table["contenders"].get(OURS)
        for bar in BARS if own else ():
            if bar.rows in (None, table["rows"]):
                value, where = bar.figure(own), title_of(table["kind"], table["rows"])
                yield [bar.text, where, bar.bound, f"{value:,.4g}", "met" if bar.is_met(value) else "MISSED"]


# Memory


def memory_lines(measured: Mapping[int, Mapping[str, Any]], computed_rows: int) -> Iterator[list[str]]:
    """Yield the memory of a searching process by number of rows, and what follows for another number of rows.

    Args:
        measured: what ``index_work.memory`` has returned, by number of rows; at least two numbers.
        computed_rows: number of rows to compute the memory for, by a straight line through the largest two.
    """
    yield ["rows", "resident, private MB", "resident, mapped files MB", "peak MB", "codes on disk MB", "database MB"]
    values = {rows: _memory_values(own) for rows, own in measured.items()}
    for rows, own in values.items():
        yield [f"{rows:,}", *(f"{each:,.0f}" for each in own)]
    few, many = sorted(values)[-2:]
    slopes = [(large - small) / (many - few) for small, large in zip(values[few], values[many], strict=True)]
    computed = [own + slope * (computed_rows - many) for own, slope in zip(values[many], slopes, strict=True)]
    yield [f"{computed_rows:,}, computed", *(f"{each:,.0f}" for each in computed)]


def _memory_values(own: Mapping[str, Any]) -> list[float]:
    last = [*own["steps"].values()][-1]
    codes = sum(size for name, size in own["files"].items() if "-codes-" in name)
    return [last["RssAnon"], last["RssFile"], last["VmHWM"], codes, sum(own["files"].values()) - codes]


# The picture


COLOURS = {
    "ours": "#d1495b",
    "numpy": "#444b53",
    "usearch": "#2e86ab",
    "sqlite-vec": "#3d9a5f",
    "lancedb": "#a267ac",
    "server": "#d08c2f",
}
PANELS = {
    PLAIN: "10 nearest rows",
    FILTERED: "with a filter that keeps 10 %",
    PER_VIDEO: "10 nearest videos, by their best row",
}


def plot(tables: Sequence[Mapping[str, Any]], kind: str, path: Path) -> None:
    """Draw the p50 of one client against the number of rows, with a line for each contender."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = sorted((table for table in tables if table["kind"] == kind), key=lambda table: table["rows"])
    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(13, 4.6), sharey=True, layout="constrained")
    for axes, (mode, title) in zip(panels, PANELS.items(), strict=True):
        for name, contender in CONTENDERS.items():
            times = {
                table["rows"]: table["contenders"][name]["one client"][mode]["p50"]
                for table in shown
                if name in table["contenders"]
            }
            if times:
                width = 2.8 if name == OURS else 1.5
                options = {"color": COLOURS[name], "linewidth": width, "zorder": 3 if name == OURS else 2}
                axes.plot(times.keys(), times.values(), marker="o", markersize=4.5, label=contender.title, **options)
        axes.set(xscale="log", yscale="log", xlabel="rows")
        axes.set_xticks([table["rows"] for table in shown], [f"{table['rows']:,}" for table in shown])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_title(title, fontsize=10.5, loc="left")
        axes.grid(color="#e4e7ea", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("milliseconds, p50, one client")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(CONTENDERS), fontsize=9)
    figure.savefig(path, dpi=130)
