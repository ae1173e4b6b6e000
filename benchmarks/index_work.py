"""The processes of benchmarks/index.py: each does one task for one contender, and prints its figures as JSON.

    python benchmarks/index_work.py make DATA KIND ROWS QUERIES
    python benchmarks/index_work.py insert|first|memory CONTENDER PLACE DATA
    python benchmarks/index_work.py search CONTENDER PLACE DATA OPTIONS

Only what a contender needs is imported, because the time of a fresh process is measured as well.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from index_contenders import CONTENDERS, Client, Contender
from index_data import FILTERED, PER_VIDEO, PLAIN, DataSet, Judgement, Result

WARM_UP = 2  # searches in each mode that are not timed
CROWD_MODES = (PLAIN, FILTERED, PER_VIDEO)  # of many clients at once
SLOW = 0.3  # seconds of a search from which on they search in the first mode only
PATIENCE = 600  # seconds for the slowest step of a client


@dataclass(frozen=True)
class Options:
    """How long a process searches.

    Attributes:
        seconds: time for each mode of one client. At least ``MIN_SEARCHES`` are done.
        clients: number of clients at once, as threads and as processes; 0 for none.
        client_seconds: time for each mode of these clients. Each searches at least once.
        check_all: whether every query is asked, however long it takes.
    """

    seconds: float = 0.8
    clients: int = 8
    client_seconds: float = 0.5
    check_all: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))


MIN_SEARCHES = 3


def make(folder: str, kind: str, rows: str, queries: str) -> dict[str, Any]:
    DataSet(Path(folder)).make(kind, int(rows), int(queries))
    return {}


def open_contender(name: str, place: str, folder: str) -> Contender:
    return CONTENDERS[name](place, DataSet(Path(folder)))


def insert(name: str, place: str, folder: str) -> dict[str, Any]:
    contender = open_contender(name, place, folder)
    seconds = contender.insert()
    size = sum(path.stat().st_size for path in contender.files())
    rate = len(contender.data.vectors) / seconds if seconds else None
    figures = {"rows per second": rate, "indexing s": contender.indexing_seconds}
    return figures | {"disk MB": size / 1e6, "inserting MB": peak_memory()}


def first(name: str, place: str, folder: str) -> dict[str, Any]:
    """Search once. The caller measures the whole process."""
    contender = open_contender(name, place, folder)
    contender.open()
    found = contender.client()(contender.data.queries[0], PLAIN)
    contender.close()
    return {"found": len(found)}


# Searches


def search(name: str, place: str, folder: str, options_json: str) -> dict[str, Any]:
    """Search with one client, then with many, and compare the results of the one with the right ones."""
    options = Options(**json.loads(options_json))
    contender = open_contender(name, place, folder)
    contender.open()
    queries, client = contender.data.queries, contender.client()
    least = len(queries) if options.check_all else MIN_SEARCHES
    figures: dict[str, Any] = {"one client": {}, "checked": {}}
    answers: dict[str, list[list[Result]]] = {}
    for mode in contender.modes:
        for vector in queries[:WARM_UP]:
            client(vector, mode)
        latencies, answers[mode] = search_for(client, queries, mode, options.seconds, least)
        figures["one client"][mode] = {"ms": latencies}
    figures["peak MB"] = peak_memory()
    for mode, found in answers.items():
        judged = [contender.data.judge(mode, query, results) for query, results in enumerate(found)]
        figures["checked"][mode] = summarise(judged)
    if options.clients:
        is_slow = np.median(figures["one client"][PLAIN]["ms"]) > 1e3 * SLOW
        modes = CROWD_MODES[:1] if is_slow else CROWD_MODES
        figures["threads"] = search_in_threads(contender, modes, options)
    contender.close()
    if options.clients:
        figures["processes"] = search_in_processes((name, place, folder), modes, queries, options)
    return figures


def search_for(
    client: Client, queries: np.ndarray, mode: str, seconds: float, least: int
) -> tuple[list[float], list[list[Result]]]:
    """Search for one query after the other until the time is over.

    Returns:
        The milliseconds of each search, and the results of each query that was asked.
    """
    latencies: list[float] = []
    answers: list[list[Result]] = []
    deadline = time.perf_counter() + seconds
    while len(latencies) < least or time.perf_counter() < deadline:
        start = time.perf_counter()
        results = client(queries[len(latencies) % len(queries)], mode)
        latencies.append(1e3 * (time.perf_counter() - start))
        if len(answers) < len(queries):
            answers.append(results)
    return latencies, answers


def summarise(judged: Iterable[Judgement]) -> dict[str, float]:
    recalls, errors = zip(*judged, strict=True)
    return {"queries": len(recalls), "recall": float(np.mean(recalls)), "error": float(max(errors))}


# Many clients at once


def run_client(
    contender: Contender, modes: Sequence[str], queries: np.ndarray, options: Options, ready: Any, reports: Any
) -> None:
    """Search in one mode after the other. In each, all clients start at once."""
    try:
        client = contender.client()
        for mode in modes:
            client(queries[0], mode)
            ready.wait(PATIENCE)
            start = time.time()
            latencies, _ = search_for(client, queries, mode, options.client_seconds, 1)
            reports.put((mode, start, time.time(), latencies))
    except Exception as error:
        ready.abort()
        reports.put(f"{type(error).__name__}: {error}")


def run_client_process(
    names: tuple[str, str, str], modes: Sequence[str], queries: np.ndarray, options: Options, ready: Any, reports: Any
) -> None:
    contender = open_contender(*names)
    contender.open(shared=True)
    run_client(contender, modes, queries, options, ready, reports)
    contender.close()


def search_in_threads(contender: Contender, modes: Sequence[str], options: Options) -> dict[str, Any]:
    import queue
    import threading

    ready, reports = threading.Barrier(options.clients), queue.Queue()  # type: ignore[var-annotated]
    workers = [
        threading.Thread(target=run_client, args=(contender, modes, share, options, ready, reports))
        for share in np.array_split(contender.data.queries, options.clients)
    ]
    return collect(workers, reports, modes)


def search_in_processes(
    names: tuple[str, str, str], modes: Sequence[str], queries: np.ndarray, options: Options
) -> dict[str, Any]:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    ready, reports = context.Barrier(options.clients), context.Queue()
    workers = [
        context.Process(target=run_client_process, args=(names, modes, share, options, ready, reports))
        for share in np.array_split(queries, options.clients)
    ]
    return collect(workers, reports, modes)


def collect(workers: Sequence[Any], reports: Any, modes: Sequence[str]) -> dict[str, Any]:
    """Run the clients; return their milliseconds, and the searches per second of all together, by mode."""
    for worker in workers:
        worker.start()
    received = [reports.get(timeout=PATIENCE) for _ in range(len(workers) * len(modes))]
    if failed := {report for report in received if isinstance(report, str)}:
        raise SystemExit(f"a client failed: {'; '.join(sorted(failed))}")
    for worker in workers:
        worker.join()
    figures = {}
    for mode in modes:
        own = [report for report in received if report[0] == mode]
        latencies = [each for *_, times in own for each in times]
        seconds = max(end for _, _, end, _ in own) - min(start for _, start, _, _ in own)
        figures[mode] = {"ms": latencies, "searches per second": len(latencies) / seconds}
    return figures


# Memory


def peak_memory() -> float | None:
    """Return the megabytes that this process has had in memory at most; None where the system does not tell.

    Files that are mapped into memory count as far as they were read.
    """
    try:
        return memory_status()["VmHWM"]
    except OSError:  # not Linux
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes


def memory_status(process: int | str = "self") -> dict[str, float]:
    """Return the megabytes that Linux counts for a process, by its names for them, such as VmRSS and RssAnon."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    values = (line.split() for line in lines if line.endswith(" kB"))
    return {name.removesuffix(":"): int(kilobytes) * 1024 / 1e6 for name, kilobytes, _ in values}


def memory(name: str, place: str, folder: str) -> dict[str, Any]:
    """Return the memory of a searching process after each step, and the bytes of the files."""
    contender = open_contender(name, place, folder)
    query = contender.data.queries[0]
    steps = {"start": memory_status()}
    contender.open()
    client = contender.client()
    for mode in contender.modes:
        for _ in range(WARM_UP):
            client(query, mode)
        steps[mode] = memory_status()
    files = {path.name: path.stat().st_size / 1e6 for path in contender.files()}
    contender.close()
    kept = ("VmRSS", "RssAnon", "RssFile", "VmHWM")
    return {"steps": {step: {key: status[key] for key in kept} for step, status in steps.items()}, "files": files}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "make": make,
    "insert": insert,
    "first": first,
    "search": search,
    "memory": memory,
}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](*sys.argv[2:])))
