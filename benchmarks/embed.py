"""Compare the speed of embedding captions and frames with other libraries, on the same weights, inputs and threads.

Each row of the report is one task. In every round, every contender does the task once, in random order; short tasks
are repeated for a while. Ratios are taken within a round. Every vector is compared with that of transformers in
float32, or of open_clip where transformers does not have the network: a contender with other vectors is reported, and
the exit code is 1. Libraries that are not installed are skipped and named.

The contenders do what their users get: towhee.models as the published operator calls it (it builds a tokenizer at each
call and pads to the context length); transformers' CLIPModel, padded and unpadded; open_clip (with timm for the
Perception Encoder), which always pads; and ONNX Runtime and OpenVINO with the export of transformers' model by torch.
transformers, ONNX Runtime and OpenVINO get their ids from this project's tokenizer, the others use their own. torch
always runs in inference mode.

    pip install -c <(grep -v -e '^torch' -e '^torchmetrics' constraints.txt) -e '.[bench]'
    python benchmarks/embed.py --json docs/embed.json --plot docs/embed.png

In brief, for several models:

    python benchmarks/embed.py --brief --json docs/embed_models.json --plot docs/embed_models.png
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
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from embed_contenders import Call, Setup, build_contenders
from embed_models import BRIEF_CONTENDERS, BRIEF_MODELS, brief_lines, plot_brief, register_small_networks
from embed_report import (
    Lines,
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

from clip4clip.config import DEFAULT_MODEL, get_model
from clip4clip.model import random_state_dict
from clip4clip.runtime.placement import available_cores
from clip4clip.weights.metadata import Metadata, to_metadata

PAUSE = 0.02  # seconds before each measurement, so that the threads of the previous one go to sleep


def measure(call: Call, seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the median milliseconds of the calls that fill the time, without the first unless it is the only one."""
    time.sleep(PAUSE)
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = clock()
        call()
        times.append(clock() - start)
    return 1e3 * statistics.median(times[1:] or times)


def measure_row(row: Row, options: argparse.Namespace) -> Figures:
    """Return the least cosine of each contender and, unless the run is short, its milliseconds in each round."""
    figures: Figures = {}
    for name, call in row.calls.items():
        vectors = call()
        is_bound = name in (*PRODUCTS.values(), *READING.values())
        figures[name] = {} if is_bound else {"cosine": least_cosine(vectors, row.expected)}
    clock = time.process_time if options.processor_time else time.perf_counter
    for number in range(0 if options.short else row.rounds):
        order = list(row.calls)
        random.Random(number).shuffle(order)
        for name in order:
            milliseconds = measure(row.calls[name], options.seconds, clock)
            figures[name].setdefault("milliseconds", []).append(round(milliseconds, 3))
    return figures


def installed_versions() -> dict[str, str]:
    versions = {}
    for name in (
        "torch",
        "onnxruntime",
        "onnx",
        "openvino",
        "transformers",
        "open_clip_torch",
        "timm",
        "towhee.models",
    ):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        nargs="+",
        help=f"names of models, for the networks of the random weights; by default {DEFAULT_MODEL}, with --short also "
        f"small networks of other kinds, and with --brief {', '.join(BRIEF_MODELS)}",
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="number of rounds; 0 shows the figures in --json, without measuring"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.4, help="time for which short tasks are repeated in each round"
    )
    parser.add_argument(
        "--only", default="", help="measure the rows whose title contains this; keep the others in --json"
    )
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="measure processor time instead of the time that passes, for a machine that has other work",
    )
    parser.add_argument("--short", action="store_true", help="do small tasks once, untimed, to check all vectors")
    parser.add_argument(
        "--brief",
        action="store_true",
        help="measure three tasks, by this project, open_clip and transformers; keep other models in --json",
    )
    parser.add_argument("--markdown", action="store_true", help="also print the tables as Markdown")
    parser.add_argument("--json", type=Path, help="report to write after each row")
    parser.add_argument("--plot", type=Path, help="picture to draw")
    arguments = parser.parse_args()
    if not arguments.rounds and not arguments.json:
        parser.error("--rounds 0 shows the figures in --json: name that file")
    small = register_small_networks() if arguments.short else []
    arguments.model = arguments.model or (list(BRIEF_MODELS) if arguments.brief else [DEFAULT_MODEL, *small])
    return arguments


def start_report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the report before anything is measured: the environment, and models and rows to keep."""
    old = json.loads(options.json.read_text("utf-8")) if options.json and options.json.exists() else {"models": {}}
    if not options.rounds:
        return old
    return {
        "threads": available_cores(),
        "clock": "processor time" if options.processor_time else "wall time",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "versions": installed_versions(),
        "models": old["models"] if options.only or options.brief else {},
    }


def write_report(report: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def measure_model(model: str, options: argparse.Namespace, report: dict[str, Any], console: Console) -> None:
    """Measure the rows of a model and add them to the report."""
    own = report["models"].setdefault(model, {"rows": {}})
    if not options.only:
        own["rows"] = {}
    with tempfile.TemporaryDirectory(prefix="clip4clip-embed-") as temporary:
        folder = Path(temporary)
        os.environ["CLIP4CLIP_CACHE"] = str(folder / "cache")  # graphs of random weights are useless later
        setup = Setup(model, random_state_dict(get_model(model).config), folder)
        metadata = Metadata(model, setup.config, "meanP")  # says what the tensors do not show
        save_file(setup.state, setup.weights, to_metadata(metadata))
        contenders, missing = build_contenders(setup, console, BRIEF_CONTENDERS if options.brief else ())
        own["not measured"] = missing
        for name, reason in missing.items():
            console.print(f"{name}: left out: {reason}", highlight=False)

        def add_row(title: str, row: Figures) -> None:
            own["rows"][title] = row
            if not options.short:
                console.print(table_of(f"{model}: {title}", lines_of(row)), highlight=False)
            if options.json:
                write_report(report, options.json)

        tasks = Tasks(setup, contenders, options.short, options.brief, options.rounds)
        for title, make_row in tasks.rows().items():
            if options.only in title:
                add_row(title, measure_row(make_row(title), options))
        is_whole = not options.short and not options.brief
        if is_whole and options.only in COLD and model == DEFAULT_MODEL:
            add_row(COLD, measure_cold_starts(setup, contenders, (options.rounds + 1) // 2))


def tables_of(report: dict[str, Any], options: argparse.Namespace) -> dict[str, Lines]:
    """Return the tables that come after the rows; also add to the report what they say."""
    if options.brief:
        return {"Several models": brief_lines(report["models"])}
    tables: dict[str, Lines] = {}
    for model, own in report["models"].items():
        if options.short:
            tables[f"{model}: least cosine to the reference in float32"] = cosine_lines(own["rows"])
            continue
        own["bounds"] = roofline(get_model(model).config, own["rows"])
        own["bars"] = check_bars(own["rows"], own["bounds"])
        tables |= {f"{model}: {title}": lines for title, lines in summary_of(own["bounds"], own["bars"]).items()}
    return tables


def main() -> int:
    options = parse_arguments()
    console = Console(width=150)
    torch.set_num_threads(available_cores())
    if find_spec("transformers") is None:
        print("this benchmark compares vectors with those of transformers: pip install transformers", file=sys.stderr)
        return 2
    report = start_report(options)
    for model in options.model if options.rounds else ():
        measure_model(model, options, report, console)
    tables = tables_of(report, options)
    for title, lines in tables.items():
        if len(lines) > 1:
            console.print(table_of(title, lines), highlight=False)
    if options.markdown and not options.short:
        rows = {
            f"{model}: {title}": lines_of(row)
            for model, own in report["models"].items()
            for title, row in own["rows"].items()
        }
        for title, lines in (tables if options.brief else rows | tables).items():
            print(markdown_of(title, lines))
    if options.json:
        write_report(report, options.json)
    if options.plot and options.brief:
        plot_brief(report["models"], options.plot)
    elif options.plot:
        plot(report["models"][options.model[0]]["rows"], options.plot)
    failures = [f"{model}: {line}" for model, own in report["models"].items() for line in wrong_vectors(own["rows"])]
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
