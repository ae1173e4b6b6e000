"""Check a GPU: vectors equal to those of the CPU, a training step, and the speed beside open_clip and transformers.

It needs torch, numpy, Pillow and safetensors, beside a checkout of this repository, which need not be installed.
open_clip (with timm) and transformers are left out if they are not installed. Weights and inputs are random, the same
everywhere.

    python benchmarks/gpu.py --json gpu.json

These parts follow each other, until the deadline (what is left out for it is reported):

1. parity: the unit vectors of both towers, in each precision, with those of the CPU in float32;
2. training: the loss and the gradients of a step, in float32 and in bfloat16 (autocast), with those of the CPU;
3. speed: batches of 1, 64 and 512 in float16, and of 64 in float32, "arrays to arrays" as an encoder calls the tower,
   and "network alone" with inputs that are on the device already. In every round every contender is measured once, in
   random order, and ratios are taken within a round. Vectors are compared in every row;
4. the same with torch.compile, which takes up to a minute for each row.

The exit code is 1 if a result differs by more than its bar (gpu_work.py lists them) or was not checked in time, and
2 if there is no such device.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
if find_spec("wrapt") is None:  # the package needs it to wait for Towhee, which is not used here
    sys.modules["wrapt"] = SimpleNamespace(register_post_import_hook=lambda *_: None)  # type: ignore[assignment]

import torch
from gpu_work import (
    ARRAYS,
    COMPILED,
    MODALITIES,
    NETWORK,
    OURS,
    PARITY_BARS,
    PEERS,
    TRAINING_BARS,
    Case,
    Contender,
    Meter,
    Network,
    check_parity,
    check_training,
    networks,
    our_contender,
    peer_contender,
    training_step,
    why_missing,
)

BATCHES, TINY_BATCHES = (1, 64, 512), (1, 3)
COMPILE_SECONDS = 4.0  # for each layer: expected of the first row, and of the others unless one took longer


@dataclass
class Report:
    """The report as it grows, and the time that is left.

    Attributes:
        path: JSON file that is written after each result; None for none.
        deadline: seconds after which nothing is begun.
        content: what is written.
    """

    path: Path | None
    deadline: float
    content: dict[str, Any] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.content |= {"parity": [], "training": [], "speed": [], "skipped": {}}

    @property
    def left(self) -> float:
        return self.deadline - (time.monotonic() - self.start)

    def has_time(self, what: str, seconds: float = 0) -> bool:
        """Return whether work that takes some seconds ends before the deadline; if not, report it as skipped."""
        if self.left > seconds:
            return True
        self.skip(what, "too little time was left")
        return False

    def skip(self, what: str, reason: str) -> None:
        self.content["skipped"][what] = reason

    def add(self, part: str, result: dict[str, Any]) -> None:
        self.content[part].append(result)
        self.write()

    def write(self) -> None:
        self.content["seconds"] = round(time.monotonic() - self.start, 1)
        if self.path:
            self.path.write_text(json.dumps(self.content, indent=1) + "\n", "utf-8")

    def failures(self) -> list[str]:
        """Return a message for each result that misses its bar, and for each that there was no time to check."""
        unchecked = [
            f"{what} was not checked: {reason}"
            for what, reason in self.content["skipped"].items()
            if what.startswith(("parity", "training"))
        ]
        missed = [
            f"{part}: {row['network']}, {row.get('modality', 'both towers')}, {row['precision']}: {numbers_of(row)}"
            for part in ("parity", "training")
            for row in self.content[part]
            if not row["met"]
        ]
        other_vectors = [
            f"speed: {title_of(row)}: {name} gives other vectors: cosine {own['cosine']:.6f}"
            for row in self.content["speed"]
            for name, own in row["contenders"].items()
            if not own["cosine"] >= PARITY_BARS[row["precision"]][0]
        ]
        return unchecked + missed + other_vectors


def describe_device(device: str) -> dict[str, Any]:
    """Return the names and versions that the figures depend on."""
    packages = ("torch", "numpy", "pillow", "safetensors", "triton", "open_clip_torch", "timm", "transformers")
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    described: dict[str, Any] = {"device": device, "name": platform.processor() or platform.machine()}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        described |= {"name": properties.name, "megabytes": properties.total_memory // 10**6}
        described |= {"capability": f"{properties.major}.{properties.minor}", "cuda": torch.version.cuda}
        described |= {"cudnn": torch.backends.cudnn.version(), "TF32 convolutions": torch.backends.cudnn.allow_tf32}
    return described | {"CPU threads": torch.get_num_threads(), "versions": versions}


# The parts


def run_parity(report: Report, tested: list[Network], device: str) -> None:
    for network in tested:
        for precision in PARITY_BARS:
            if report.has_time(f"parity of {network.name}, {precision}"):
                for result in check_parity(network, device, precision):
                    report.add("parity", result)


def run_training(report: Report, tested: list[Network], device: str) -> None:
    for network in tested:
        if not report.has_time(f"training of {network.name}"):
            continue
        expected = training_step(network, "cpu")
        for precision in TRAINING_BARS:
            report.add("training", check_training(network, device, precision, expected))


def build_contenders(
    report: Report, network: Network, device: str, precision: str, peers: tuple[str, ...]
) -> list[Contender]:
    """Return this project, and those of the peers that are installed and have the network."""
    contenders = [our_contender(network, device, precision)]
    for name in peers:
        if reason := why_missing(name, network):
            report.skip(f"{name}, {network.name}", reason)
        else:
            contenders.append(peer_contender(name, network, device, precision))
    return contenders


def run_speed(
    report: Report, tested: list[Network], meter: Meter, batches: tuple[int, ...], peers: tuple[str, ...]
) -> None:
    for precision, sizes in (("float16", batches), ("float32", batches[1:2])):
        for network in tested:
            if not report.has_time(f"speed of {network.name}, {precision}"):
                continue
            contenders = build_contenders(report, network, meter.device, precision, peers)
            for modality in MODALITIES:
                for batch in sizes:
                    for kind in (ARRAYS, NETWORK):
                        measure_case(report, Case(network, modality, batch, precision, kind), meter, contenders)


def run_compiled(
    report: Report, tested: list[Network], meter: Meter, batches: tuple[int, ...], peers: tuple[str, ...]
) -> None:
    """Measure compiled towers beside the others, the batch that matters most first."""
    seconds = COMPILE_SECONDS if meter.device.startswith("cuda") else 0.0
    contenders: dict[str, list[Contender]] = {}
    for batch in sorted(batches, key=lambda batch: batch != batches[1]):
        for network in tested:
            for modality in reversed(MODALITIES):
                case = Case(network, modality, batch, "float16", ARRAYS)
                layers = network.config.text_layers if modality == "text" else network.config.vision_layers
                if not report.has_time(f"compiled: {title_of(case.titles())}", seconds * layers):
                    continue
                start = time.monotonic()
                if network.name not in contenders:
                    others = build_contenders(report, network, meter.device, "float16", peers)
                    compiled = our_contender(network, meter.device, "float16", compiled=True)
                    contenders[network.name] = [*others, compiled]
                measure_case(report, case, meter, contenders[network.name])
                seconds = max(seconds, (time.monotonic() - start) / layers)


def measure_case(report: Report, case: Case, meter: Meter, contenders: list[Contender]) -> None:
    if not report.has_time(title_of(case.titles())):
        return
    try:
        report.add("speed", meter.row(case, contenders))
    except torch.OutOfMemoryError as error:
        report.skip(title_of(case.titles()), f"out of memory: {str(error).splitlines()[0]}")


# The tables


def title_of(row: dict[str, Any]) -> str:
    """Return the title of a row of speeds."""
    rows = "captions" if row["modality"] == "text" else "frames"
    return f"{row['network']}, {row['batch']} {rows}, {row['precision']}, {row['kind']}"


def numbers_of(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in row.items() if isinstance(value, float))


def parity_lines(rows: list[dict[str, Any]]) -> list[list[str]]:
    lines = [["network", "tower", "precision", "least cosine", "largest difference", ""]]
    for row in rows:
        numbers = [f"{row['cosine']:.7f}", f"{row['difference']:.1e}", "" if row["met"] else "MISSED"]
        lines.append([row["network"], row["modality"], row["precision"], *numbers])
    return lines


def training_lines(rows: list[dict[str, Any]]) -> list[list[str]]:
    lines = [["network", "precision", "loss", "on the CPU", "cosine of gradients", "ms", "MB", ""]]
    for row in rows:
        numbers = [f"{row[key]:.6f}" for key in ("loss", "expected loss", "gradient cosine")]
        numbers += [f"{row['milliseconds']:.1f}", megabytes_of(row), "" if row["met"] else "MISSED"]
        lines.append([row["network"], row["precision"], *numbers])
    return lines


def speed_lines(rows: list[dict[str, Any]]) -> list[list[str]]:
    lines = [["work", "contender", "ms", "rows/s", "times clip4clip's", "MB", "least cosine"]]
    for row in rows:
        for name, own in row["contenders"].items():
            pairs = zip(own["milliseconds"], row["contenders"][OURS]["milliseconds"], strict=True)
            ratio = statistics.median(ours / theirs for ours, theirs in pairs)
            numbers = [f"{statistics.median(own['milliseconds']):.3g}", f"{own['rows per second']:.4g}", f"{ratio:.2f}"]
            lines.append([title_of(row), name, *numbers, megabytes_of(own), f"{own['cosine']:.6f}"])
    return lines


def megabytes_of(row: dict[str, Any]) -> str:
    return "–" if row["megabytes"] is None else f"{row['megabytes']:.0f}"


def print_table(title: str, lines: list[list[str]]) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    print(f"\n{title}")
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_report(report: Report) -> None:
    content = report.content
    print_table("Parity with the CPU in float32", parity_lines(content["parity"]))
    print_table("A training step", training_lines(content["training"]))
    print_table("Speed", speed_lines(content["speed"]))
    for what, reason in content["skipped"].items():
        print(f"skipped: {what}: {reason}")
    print(f"{content['seconds']} s on {content['device']['name']}, torch {content['device']['versions']['torch']}")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="device of torch: cuda, cuda:1 or cpu")
    parser.add_argument("--tiny", action="store_true", help="take networks of two small layers, to try the script")
    parser.add_argument("--no-compiled", action="store_true", help="leave out torch.compile")
    parser.add_argument("--no-peers", action="store_true", help="leave out open_clip and transformers")
    parser.add_argument("--deadline", type=float, default=220, help="seconds after which nothing is begun")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds of each row of speeds")
    parser.add_argument("--seconds", type=float, default=0.05, help="time for which calls are repeated in each round")
    parser.add_argument("--json", type=Path, help="report to write after each result")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    report = Report(options.json, options.deadline)
    try:
        torch.zeros(1, device=options.device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        print(f"this machine has no device {options.device!r}: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    report.content["device"] = describe_device(options.device)
    batches = TINY_BATCHES if options.tiny else BATCHES
    tested = networks(options.tiny, batches[-1])
    meter = Meter(options.device, options.rounds, options.seconds)
    run_parity(report, tested, options.device)
    run_training(report, tested, options.device)
    peers = () if options.no_peers else tuple(PEERS)
    run_speed(report, tested, meter, batches, peers)
    if options.no_compiled:
        report.skip(COMPILED, "--no-compiled")
    else:
        run_compiled(report, tested, meter, batches, peers)
    report.write()
    print_report(report)
    failures = report.failures()
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
