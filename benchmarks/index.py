"""Compare this project's index with other ways to find the ten nearest of 10,000 to a million vectors, exactly.

The contenders (see index_contenders.py): `VideoIndex` with a local file; a float32 product by numpy with an array in
memory, which all others are compared with; the exact searches of usearch, sqlite-vec and LanceDB; and `VideoIndex` with
a Milvus server, whose HNSW index is not exact. The vectors are described in index_data.py. A plain scan takes the same
time for all vectors, so only this project's index and the product are measured with random vectors as well.

Each contender works in processes of its own. In every round all contenders take turns: a fresh process finds its first
result, and another one searches in each mode for a while. In the first round, eight clients search at once, too, as
threads of a process and as processes. Quantiles are of single searches; the p50 is the median of the rounds, and the
ratio to the product is taken within a round. Every answer is compared with that of float64. If this project's index
misses a row, or a score differs by more than 1e-6, the benchmark stops with the exit code 1. Libraries that are not
installed are skipped and named.

A million rows on a server take minutes to be inserted and indexed, so they are left out unless --server-rows is raised.

    pip install -e '.[bench,retrieval]'
    python benchmarks/index.py --json docs/index.json --plot docs/index.png
    python benchmarks/index.py --memory --json docs/index.json    # memory only; keeps all other figures
    python benchmarks/index.py --contenders ours,sqlite-vec --rows 100000 --rounds 2
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from index_contenders import CONTENDERS, OURS, PRODUCT, SERVER
from index_data import DRAW, ROWS_PER_VIDEO
from index_report import check_bars, lines_of, markdown_of, memory_lines, plot, summarise, title_of, wrong_results
from index_work import Options, memory_status
from rich.console import Console
from rich.table import Table

WORK = Path(__file__).with_name("index_work.py")
SIZES = (10_000, 100_000, 1_000_000)
LARGE = 1_000_000  # from this number of rows on, fewer rounds and queries
ROUNDS_IF_LARGE, QUERIES, QUERIES_IF_LARGE = 2, 60, 30
COMPUTED_ROWS = 10_000_000  # whose memory is computed
SHORT_ROWS, SHORT_OPTIONS = 2000, Options(seconds=0, clients=2, client_seconds=0, check_all=True)
VERSIONS = ("numpy", "usearch", "numkong", "sqlite-vec", "apsw", "lancedb", "pymilvus", "milvus")

console = Console(width=200, stderr=True, highlight=False)


def run(*arguments: object) -> dict[str, Any]:
    """Run a task of index_work.py in a process of its own; return the figures that it prints, and its seconds."""
    command = [sys.executable, "-W", "ignore", str(WORK), *map(str, arguments)]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"a task failed with exit code {done.returncode}: {' '.join(command)}")
    return {**json.loads(done.stdout.splitlines()[-1]), "wall s": seconds}


# The server


@contextlib.contextmanager
def milvus_server(folder: Path) -> Iterator[str]:
    """Run a Milvus server with its data in a folder; yield its address."""
    file = Path(__file__).parent.parent / "tests" / "servers.py"  # not part of a package
    specification = spec_from_file_location("servers", file)
    assert specification is not None
    assert specification.loader is not None
    servers = module_from_spec(specification)
    specification.loader.exec_module(servers)
    server = servers.MilvusServer(folder)
    try:
        server.start()
        yield server.uri
    except AssertionError as error:
        raise SystemExit(f"the Milvus server did not start (only one can run at a time): {error}") from error
    finally:
        server.kill()


def server_memory(folder: Path) -> float:
    """Return the resident megabytes of the processes of a server; the commands of all name its folder."""
    total = 0.0
    for process in (path for path in Path("/proc").iterdir() if path.name.isdigit()):
        with contextlib.suppress(OSError):  # it has exited
            if str(folder / "data").encode() in (process / "cmdline").read_bytes():
                total += memory_status(process.name).get("VmRSS", 0)
    return total


# Measurements


def measure(kind: str, rows: int, names: Sequence[str], rounds: int, options: Options, folder: Path) -> dict[str, Any]:
    """Return the figures of all contenders for one data set.

    Args:
        kind: key of ``DRAW``.
        rows: number of rows.
        names: contenders, with the product.
        rounds: number of rounds.
        options: how long a process searches in the first round.
        folder: empty folder for the data.
    """
    data = folder / "data"
    data.mkdir()
    queries, clients = QUERIES if rows < LARGE else QUERIES_IF_LARGE, options.clients
    say(kind, rows, f"made in {run('make', data, kind, rows, queries)['wall s']:.1f} s")
    with contextlib.ExitStack() as stack:
        places, inserted = {}, {}
        for name in names:
            place = folder / name
            place.mkdir()
            places[name] = stack.enter_context(milvus_server(place)) if name == SERVER else str(place)
            inserted[name] = run("insert", name, places[name], data)
            say(kind, rows, f"{name} inserted in {inserted[name].pop('wall s'):.1f} s")
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for number in range(rounds):
            order = [*names[number % len(names) :], *names[: number % len(names)]]
            for name in order:
                runs[name].append(measure_once(name, places[name], data, options))
                say(kind, rows, f"round {number + 1} of {rounds}: {name}, {runs[name][-1]['wall s']:.1f} s")
            options = replace(options, clients=0, check_all=False)
        if SERVER in names:
            inserted[SERVER] |= {"server MB": server_memory(folder / SERVER), "disk MB": size_of(folder / SERVER)}
    figures = {name: {**inserted[name], **summary} for name, summary in summarise(runs).items()}
    return {"kind": kind, "rows": rows, "rounds": rounds, "clients": clients, "contenders": figures}


def measure_once(name: str, place: str, data: Path, options: Options) -> dict[str, Any]:
    """Return the figures of one round for a contender; ``first`` is the whole time of a process that searches once."""
    first = run("first", name, place, data)["wall s"]
    own = replace(options, check_all=options.check_all and CONTENDERS[name].is_exact)
    return {**run("search", name, place, data, own.to_json()), "first": first}


def measure_memory(rows: int, folder: Path) -> dict[str, Any]:
    """Return the memory and the files of this project's index with a number of rows."""
    data, place = folder / "data", folder / OURS
    data.mkdir()
    place.mkdir()
    run("make", data, "clustered", rows, 1)
    run("insert", OURS, place, data)
    return run("memory", OURS, place, data)


def size_of(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def say(kind: str, rows: int, message: str) -> None:
    console.print(f"{title_of(kind, rows)}: {message}")


@contextlib.contextmanager
def temporary_folder(parent: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="index-benchmark-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# The report


def versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def installed_contenders(names: Sequence[str]) -> list[str]:
    """Return the contenders whose libraries are installed, with the product, in the usual order. Name the others."""
    missing = {name: [module for module in CONTENDERS[name].modules if find_spec(module) is None] for name in names}
    for name, modules in missing.items():
        if modules:
            console.print(f"{name} is skipped, not installed: {', '.join(modules)}")
    return [name for name in CONTENDERS if name == PRODUCT or (name in missing and not missing[name])]


def store(report: dict[str, Any], table: dict[str, Any], asked: Sequence[str]) -> None:
    """Put a table into the report. Contenders that were not asked for keep their figures, even the product."""
    tables: list[dict[str, Any]] = report["tables"]
    for old in tables:
        if (old["kind"], old["rows"]) == (table["kind"], table["rows"]):
            kept = {name: own for name, own in old["contenders"].items() if name not in asked}
            both = table["contenders"] | kept
            table = {**table, "contenders": {name: both[name] for name in CONTENDERS if name in both}}
            tables[tables.index(old)] = table
            return
    tables.append(table)
    tables.sort(key=lambda each: (each["kind"], each["rows"]))


def show(title: str, lines: Sequence[Sequence[str]]) -> None:
    table = Table(*lines[0], title=title, title_justify="left")
    table.columns[0].no_wrap = True
    for line in lines[1:]:
        table.add_row(*line)
    Console(width=220, highlight=False).print(table)


def show_report(report: Mapping[str, Any], markdown: bool) -> None:
    """Print all tables."""
    tables = {title_of(each["kind"], each["rows"]): lines_of(each) for each in report["tables"]}
    if len(bars := list(check_bars(report["tables"]))) > 1:
        tables["Required figures"] = bars
    if memory := report.get("memory"):
        measured = {int(rows): figures for rows, figures in memory.items()}
        tables["Memory of a searching process"] = list(memory_lines(measured, COMPUTED_ROWS))
    for title, lines in tables.items():
        if markdown:
            print(markdown_of(title, lines))
        else:
            show(title, lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="numbers of rows, multiples of ten")
    parser.add_argument("--contenders", help=f"names, separated by commas, of: {', '.join(CONTENDERS)}")
    parser.add_argument("--data", choices=DRAW, nargs="+", default=[*DRAW], help="kinds of vectors")
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of rounds, two at most for a million rows; 0 shows --json"
    )
    parser.add_argument("--server-rows", type=int, default=100_000, help="largest number of rows for the server")
    parser.add_argument("--short", action="store_true", help="search 2,000 rows a few times, to check the results")
    parser.add_argument("--memory", action="store_true", help="measure only the memory of the index, by rows")
    parser.add_argument("--folder", type=Path, help="where to put a temporary folder for up to 12 GB")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--json", type=Path, help="report to write after each table; other figures in it are kept")
    parser.add_argument("--plot", type=Path, help="picture to draw")
    arguments = parser.parse_args()
    names = arguments.contenders.split(",") if arguments.contenders else [*CONTENDERS]
    if unknown := {*names} - CONTENDERS.keys():
        parser.error(f"unknown contenders: {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    if any(rows < 1000 or rows % ROWS_PER_VIDEO for rows in arguments.rows):
        parser.error(f"--rows must be multiples of {ROWS_PER_VIDEO}, at least 1000")
    if not arguments.rounds and not (arguments.json and arguments.json.exists()):
        parser.error("--rounds 0 shows the figures in --json: name that file")
    arguments.contenders = names
    if arguments.short:
        arguments.rows, arguments.rounds, arguments.contenders = [SHORT_ROWS], 1, [OURS, PRODUCT]
    return arguments


def start_report(path: Path | None) -> dict[str, Any]:
    report: dict[str, Any] = {"tables": []}
    if path and path.exists():
        report = json.loads(path.read_text("utf-8"))
    return report


def measure_all(arguments: argparse.Namespace, report: dict[str, Any]) -> Iterator[None]:
    """Put one table after the other into the report, and yield after each. Raises SystemExit for a wrong result."""
    names = installed_contenders(arguments.contenders)
    report |= {"cores": os.cpu_count(), "versions": versions()}
    options = SHORT_OPTIONS if arguments.short else Options(check_all=True)
    for rows in arguments.rows:
        rounds = min(arguments.rounds, ROUNDS_IF_LARGE) if rows >= LARGE else arguments.rounds
        for kind in arguments.data:
            usable = [name for name in names if kind in CONTENDERS[name].data_sets]
            usable = [name for name in usable if name != SERVER or rows <= arguments.server_rows]
            with temporary_folder(arguments.folder) as folder:
                table = measure(kind, rows, usable, rounds, options, folder)
            store(report, table, arguments.contenders)
            yield
            if wrong := wrong_results(table["contenders"]):
                raise SystemExit("\n".join(wrong))


def measure_all_memory(arguments: argparse.Namespace, report: dict[str, Any]) -> Iterator[None]:
    """Put the memory of the index into the report, for the largest number of rows and a tenth of it."""
    rows = max(arguments.rows)
    report["memory"] = {}
    for number in (rows // 10, rows):
        with temporary_folder(arguments.folder) as folder:
            report["memory"][str(number)] = measure_memory(number, folder)
    yield


def main() -> None:
    arguments = parse_arguments()
    report = start_report(arguments.json)
    if arguments.rounds:
        for _ in (measure_all_memory if arguments.memory else measure_all)(arguments, report):
            if arguments.json:
                arguments.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    show_report(report, arguments.markdown)
    if arguments.plot:
        plot(report["tables"], "clustered", arguments.plot)


if __name__ == "__main__":
    main()
