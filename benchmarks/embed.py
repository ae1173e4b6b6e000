"""Captions and frames to vectors: this project beside its peers, on the same random weights, inputs and threads.

Each row is one piece of work. In every round each contender does it once, in an order of its own, for long enough that
short work is repeated; ratios are taken within a round. Every vector is compared with that of transformers in float32:
who gives another one is told so, and the exit code is 1. Peers that are not installed are left out and named.

The peers are what their users have: towhee.models as the published operator calls it, which builds a tokenizer at each
call and pads to the context; transformers' CLIPModel, padded and not; open_clip, which always pads; and ONNX Runtime
and OpenVINO on what torch's exporter makes of transformers' model. transformers, ONNX Runtime and OpenVINO get their
ids from this project's tokenizer, the others from their own. All that torch computes is computed in inference mode.

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
from embed_contenders import Call, Given, contenders
from embed_report import Rows, bars, cosine_lines, lines_of, markdown_of, plot, roofline, summary_of, table_of, wrong
from embed_work import COLD, PRODUCTS, READING, Figures, Row, Work, cold_start, cosines
from rich.console import Console
from safetensors.torch import save_file

from clip4clip.config import get_model
from clip4clip.model import random_state_dict
from clip4clip.runtime.placement import available_cores

REST = 0.02  # seconds before each measurement, in which the threads of the one before go to sleep


def measure(call: Call, seconds: float) -> float:
    """Milliseconds: the median of as many calls as fill the time; the first one counts only if it is the only one."""
    time.sleep(REST)
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[1:] or times)


def figures(row: Row, seconds: float, times: bool) -> Figures:
    """For each contender its least cosine, and milliseconds in each round."""
    found: Figures = {}
    for name, call in row.calls.items():
        vectors = call()
        bound = name in (*PRODUCTS.values(), *READING.values())
        found[name] = {} if bound else {"cosine": cosines(vectors, row.expected)}
    for number in range(row.rounds if times else 0):
        order = list(row.calls)
        random.Random(number).shuffle(order)
        for name in order:
            found[name].setdefault("milliseconds", []).append(round(measure(row.calls[name], seconds), 3))
    return found


def versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "onnxruntime", "onnx", "openvino", "transformers", "open_clip_torch", "towhee.models"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="clip_vit_b32", help="the shape of the random weights")
    parser.add_argument("--rounds", type=int, default=7, help="with 0 what --json holds is shown, and nothing measured")
    parser.add_argument("--seconds", type=float, default=0.4, help="for which short work is repeated in each round")
    parser.add_argument(
        "--only", default="", help="rows whose title contains this; of the others the figures in --json are kept"
    )
    parser.add_argument("--short", action="store_true", help="little work, once, to see that all vectors are right")
    parser.add_argument("--markdown", action="store_true", help="also print the tables as Markdown")
    parser.add_argument("--json", type=Path, help="written after each row")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    if not arguments.rounds and not arguments.json:
        parser.error("--rounds 0 shows what --json holds: say which")
    return arguments


def report_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is known before anything is measured."""
    if not arguments.rounds:
        return json.loads(arguments.json.read_text("utf-8"))
    rows: Rows = {}
    if arguments.only and arguments.json and arguments.json.exists():
        kept = json.loads(arguments.json.read_text("utf-8"))
        rows = kept["rows"] if kept["model"] == arguments.model else {}
    return {
        "model": arguments.model,
        "threads": available_cores(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "versions": versions(),
        "rows": rows,
    }


def write(report: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def measure_rows(arguments: argparse.Namespace, report: dict[str, Any], console: Console, folder: Path) -> None:
    """Puts the rows into the report."""
    os.environ["CLIP4CLIP_CACHE"] = str(folder / "cache")  # graphs of random weights are of no use to anybody
    given = Given(arguments.model, random_state_dict(get_model(arguments.model).config), folder)
    save_file(given.state, given.weights)
    built, missing = contenders(given, console)
    report["not installed"] = list(missing)
    for name, why in missing.items():
        console.print(f"{name}: not installed ({why})", highlight=False)

    def keep(title: str, row: Figures) -> None:
        report["rows"][title] = row
        if not arguments.short:
            console.print(table_of(title, lines_of(row)), highlight=False)
        if arguments.json:
            write(report, arguments.json)

    for title, make in Work(given, built, arguments.short, arguments.rounds).rows().items():
        if arguments.only in title:
            keep(title, figures(make(title), arguments.seconds, times=not arguments.short))
    if not arguments.short and arguments.only in COLD and arguments.model == "clip_vit_b32":
        keep(COLD, cold_start(given, built, (arguments.rounds + 1) // 2))


def main() -> int:
    arguments = parse()
    console = Console(width=150)
    torch.set_num_threads(available_cores())
    if find_spec("transformers") is None:
        print("transformers gives the vectors that all are compared with: pip install transformers", file=sys.stderr)
        return 2
    report = report_of(arguments)
    rows: Rows = report["rows"]
    if arguments.rounds:
        with tempfile.TemporaryDirectory(prefix="clip4clip-embed-") as temporary:
            measure_rows(arguments, report, console, Path(temporary))
    if arguments.short:
        tables = {"Least cosine to transformers in float32": cosine_lines(rows)}
    else:
        report["bounds"] = roofline(get_model(report["model"]).config, rows)
        report["bars"] = bars(rows, report["bounds"])
        tables = summary_of(report["bounds"], report["bars"])
    for title, lines in tables.items():
        if len(lines) > 1:
            console.print(table_of(title, lines), highlight=False)
    if arguments.markdown and not arguments.short:
        for title, lines in ({title: lines_of(row) for title, row in rows.items()} | tables).items():
            print(markdown_of(title, lines))
    if arguments.json:
        write(report, arguments.json)
    if arguments.plot:
        plot(rows, arguments.plot)
    failures = wrong(rows)
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
