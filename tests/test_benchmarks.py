"""The embedding benchmark: it runs, its vectors are right, and it reports wrong ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from constants import DEMO_MODEL, REPOSITORY
from embed_report import check_bars, wrong_vectors
from embed_work import TEXT_STRING, frame_flop, text_bytes

from clip4clip.config import get_model

EMBED = REPOSITORY / "benchmarks" / "embed.py"


@pytest.mark.slow
def test_the_short_form_compares_the_vectors_of_all_installed_libraries(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, EMBED, "--short", "--model", DEMO_MODEL, "--json", report]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(report.read_text("utf-8"))["rows"]
    assert {"clip4clip, torch bfloat16", "clip4clip, int8"} <= rows["3 frames, network alone"].keys()
    cells = [[cell.strip() for cell in line.split("│")] for line in done.stdout.splitlines() if line.startswith("│")]
    printed = {line[1]: line[2:-1] for line in cells}
    for name in ("clip4clip", "clip4clip, torch", "transformers", "ONNX Runtime"):
        assert printed[name] == ["1.000000"] * len(rows)
    assert " ms" not in done.stdout  # the short form measures no times


def test_a_contender_with_other_vectors_is_reported() -> None:
    right = {"clip4clip": {"cosine": 0.9999999}, "clip4clip, int8": {"cosine": 0.9991}, "products alone, torch": {}}
    assert wrong_vectors({"one": right}) == []
    assert [line.split(" gives")[0] for line in wrong_vectors({"one": {**right, "OpenVINO": {"cosine": 0.9991}}})] == [
        "OpenVINO"
    ]
    assert len(wrong_vectors({"one": {"open_clip": {"cosine": float("nan")}}})) == 1


def test_flop_and_bytes_of_vit_b32_are_those_worked_out_by_hand() -> None:
    config = get_model("clip_vit_b32").config
    assert 12 * frame_flop(config, one_in_last=False) / 1e9 == pytest.approx(105.8, abs=0.05)
    assert text_bytes(config) / 1e6 == pytest.approx(152, abs=0.5)


def test_the_median_of_the_rounds_decides_whether_a_bar_is_met() -> None:
    rounds = {"towhee.models": [200.0, 300.0, 310.0], "clip4clip": [20.0, 20.0, 20.0], "clip4clip, int8": [10.0] * 3}
    row = {name: {"milliseconds": times, "cosine": 1.0} for name, times in rounds.items()}
    checked = check_bars({TEXT_STRING: row}, [])
    assert [(bar["times"][1], bar["met"]) for bar in checked] == [(15.0, True), (30.0, True)]
