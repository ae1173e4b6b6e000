"""The benchmarks as programs: that they run, that their vectors are right, and that they would say if they were not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from embed_report import bars, wrong
from embed_work import TEXT_STRING, frame_flop, text_bytes

from clip4clip.config import get_model

EMBED = Path(__file__).parent.parent / "benchmarks/embed.py"


def test_the_short_form_compares_all_that_is_installed(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, EMBED, "--short", "--model", "clip_vit_tiny_demo", "--json", report]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(report.read_text("utf-8"))["rows"]
    assert {"clip4clip, torch bfloat16", "clip4clip, int8"} <= rows["3 frames, network alone"].keys()
    cells = [[cell.strip() for cell in line.split("│")] for line in done.stdout.splitlines() if line.startswith("│")]
    printed = {line[1]: line[2:-1] for line in cells}
    for name in ("clip4clip", "clip4clip, torch", "transformers", "ONNX Runtime"):
        assert printed[name] == ["1.000000"] * len(rows)
    assert " ms" not in done.stdout  # of one run on a busy machine times would mean nothing


def test_whoever_gives_other_vectors_is_named() -> None:
    right = {"clip4clip": {"cosine": 0.9999999}, "clip4clip, int8": {"cosine": 0.9991}, "products alone, torch": {}}
    assert wrong({"one": right}) == []
    assert [line.split(" gives")[0] for line in wrong({"one": {**right, "OpenVINO": {"cosine": 0.9991}}})] == [
        "OpenVINO"
    ]
    assert len(wrong({"one": {"open_clip": {"cosine": float("nan")}}})) == 1


def test_the_work_is_counted() -> None:
    config = get_model("clip_vit_b32").config
    assert 12 * frame_flop(config, one_in_last=False) / 1e9 == pytest.approx(105.8, abs=0.05)
    assert text_bytes(config) / 1e6 == pytest.approx(152, abs=0.5)


def test_a_bar_is_met_by_the_median_of_the_rounds() -> None:
    rounds = {"towhee.models": [200.0, 300.0, 310.0], "clip4clip": [20.0, 20.0, 20.0], "clip4clip, int8": [10.0] * 3}
    row = {name: {"milliseconds": times, "cosine": 1.0} for name, times in rounds.items()}
    found = bars({TEXT_STRING: row}, [])
    assert [(one["times"][1], one["met"]) for one in found] == [(15.0, True), (30.0, True)]
