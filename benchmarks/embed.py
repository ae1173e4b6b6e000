"""Compare the speed of embedding captions and frames with other libraries, on the same weights, inputs and threads.

Each row of the report is one task. In every round, every contender does the task once, in random order; short tasks
are repeated for a while. Ratios are taken within a round. Every vector is compared with that of transformers in
float32: a contender with other vectors is reported, and the exit code is 1. Libraries that are not installed are
skipped and named.

The contenders do what their users get: towhee.models as the published operator calls it (it builds a tokenizer at each
call and pads to the context length); transformers' CLIPModel, padded and unpadded; open_clip, which always pads; and
ONNX Runtime and OpenVINO with the export of transformers' model by torch. transformers, ONNX Runtime and OpenVINO get
their ids from this project's tokenizer, the others use their own. torch always runs in inference mode.

    pip install -c <(grep -v -e '^torch' -e '^torchmetrics' constraints.txt) -e '.[bench]'
    python benchmarks/embed.py --json docs/embed.json --plot docs/embed.png
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from embed_contenders import Call, Setup, build_contenders
from embed_report import (
    Rows,
    check_bars,
    cosine_lines,
    lines_of,
    markdown_of,
    plot,
    roofline,
    summary_of,
    table_of,
    wrong_vectors,
)
from embed_work import COLD, PRODUCTS, READING, Figures, Row, Tasks, least_cosine, measure_cold_starts
from rich.console import Console
from safetensors.torch import save_file

from clip4clip.config import get_model
from clip4clip.model import random_state_dict
from clip4clip.runtime.placement import available_cores

PAUSE = 0.02  # seconds before each measurement, so that the threads of the previous one go to sleep


def measure(call: Call, seconds: float) -> float:
    """Return the median milliseconds of the calls that fill the time, without the first unless it is the only one."""
    time.sleep(PAUSE)
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[1:] or times)


def measure_row(row: Row, seconds: float, is_timed: bool) -> Figures:
    """Return the least cosine of each contender and, if timed, its milliseconds in each round."""
    figures: Figures = {}
    for name, call in row.calls.items():
        vectors = call()
        is_bound = name in (*PRODUCTS.values(), *READING.values())
        figures[name] = {} if is_bound else {"cosine": least_cosine(vectors, row.expected)}
    for number in range(row.rounds if is_timed else 0):
        order = list(row.calls)
        random.Random(number).shuffle(order)
        for name in order:
            figures[name].setdefault("milliseconds", []).append(round(measure(row.calls[name], seconds), 3))
    return figures


def installed_versions() -> dict[str, str]:
    versions = {}
    for name in ("torch", "onnxruntime", "onnx", "openvino", "transformers", "open_clip_torch", "towhee.models"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="clip_vit_b32", help="model name, for the shape of the random weights")
    parser.add_argument(
        "--rounds", type=int, default=7, help="number of rounds; 0 shows the figures in --json, without measuring"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.4, help="time for which short tasks are repeated in each round"
    )
    parser.add_argument(
        "--only", default="", help="measure the rows whose title contains this; keep the others in --json"
    )
    parser.add_argument("--short", action="store_true", help="do small tasks once, untimed, to check all vectors")
    parser.add_argument("--markdown", action="store_true", help="also print the tables as Markdown")
    parser.add_argument("--json", type=Path, help="report to write after each row")
    parser.add_argument("--plot", type=Path, help="picture to draw")
    arguments = parser.parse_args()
    if not arguments.rounds and not arguments.json:
        parser.error("--rounds 0 shows the figures in --json: name that file")
    return arguments


def start_report(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the report before anything is measured: the environment, and rows to keep."""
    if not arguments.rounds:
        return json.loads(arguments.json.read_text("utf-8"))
    rows: Rows = {}
    if arguments.only and arguments.json and arguments.json.exists():
        old = json.loads(arguments.json.read_text("utf-8"))
        rows = old["rows"] if old["model"] == arguments.model else {}
    return {
        "model": arguments.model,
        "threads": available_cores(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "versions": installed_versions(),
        "rows": rows,
    }


def write_report(report: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def measure_rows(arguments: argparse.Namespace, report: dict[str, Any], console: Console, folder: Path) -> None:
    """Measure the rows and add them to the report."""
    os.environ["CLIP4CLIP_CACHE"] = str(folder / "cache")  # graphs of random weights are useless later
    setup = Setup(arguments.model, random_state_dict(get_model(arguments.model).config), folder)
    save_file(setup.state, setup.weights)
    contenders, missing = build_contenders(setup, console)
    report["not installed"] = list(missing)
    for name, reason in missing.items():
        console.print(f"{name}: left out: {reason}", highlight=False)

    def add_row(title: str, row: Figures) -> None:
        report["rows"][title] = row
        if not arguments.short:
            console.print(table_of(title, lines_of(row)), highlight=False)
        if arguments.json:
            write_report(report, arguments.json)

    tasks = Tasks(setup, contenders, arguments.short, arguments.rounds)
    for title, make_row in tasks.rows().items():
        if arguments.only in title:
            add_row(title, measure_row(make_row(title), arguments.seconds, is_timed=not arguments.short))
    if not arguments.short and arguments.only in COLD and arguments.model == "clip_vit_b32":
        add_row(COLD, measure_cold_starts(setup, contenders, (arguments.rounds + 1) // 2))


def main() -> int:
    arguments = parse_arguments()
    console = Console(width=150)
    torch.set_num_threads(available_cores())
    if find_spec("transformers") is None:
        print(
            "this benchmark compares all vectors with those of transformers: pip install transformers", file=sys.stderr
        )
        return 2
    report = start_report(arguments)
    rows: Rows = report["rows"]
    if arguments.rounds:
        with tempfile.TemporaryDirectory(prefix="clip4clip-embed-") as temporary:
            measure_rows(arguments, report, console, Path(temporary))
    if arguments.short:
        tables = {"Least cosine to transformers in float32": cosine_lines(rows)}
    else:
        report["bounds"] = roofline(get_model(report["model"]).config, rows)
        report["bars"] = check_bars(rows, report["bounds"])
        tables = summary_of(report["bounds"], report["bars"])
    for title, lines in tables.items():
        if len(lines) > 1:
            console.print(table_of(title, lines), highlight=False)
    if arguments.markdown and not arguments.short:
        for title, lines in ({title: lines_of(row) for title, row in rows.items()} | tables).items():
            print(markdown_of(title, lines))
    if arguments.json:
        write_report(report, arguments.json)
    if arguments.plot:
        plot(rows, arguments.plot)
    failures = wrong_vectors(rows)
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
