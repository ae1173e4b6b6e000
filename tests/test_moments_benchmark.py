"""The benchmark of moments: it runs, and its figures are those worked out by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import moments
import numpy as np
import pytest
from constants import REPOSITORY
from moments import Cut, Frames, Moment
from moments_report import SCENE_DETECT, SHOTS, TRUE_SCENES, WHOLE, WINDOWS, check_bars

from clip4clip.runtime.tower import MeanPooling


@pytest.mark.slow
def test_the_short_form_finds_moments_by_shots(tmp_path: Path) -> None:
    command = [sys.executable, REPOSITORY / "benchmarks" / "moments.py", "--short", "--markdown"]
    report, picture = tmp_path / "report.json", tmp_path / "picture.png"
    done = subprocess.run([*command, "--json", report, "--plot", picture], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {row["cut"]: row for row in json.loads(report.read_text("utf-8"))["rows"]}
    assert {WHOLE, WINDOWS, SHOTS, TRUE_SCENES} <= rows.keys()
    name = "R@1 IoU 0.5"
    assert rows[WHOLE][name] < rows[WINDOWS][name] < rows[SHOTS][name] <= rows[TRUE_SCENES][name]
    assert rows[SHOTS][name] > rows[TRUE_SCENES][name] - 10
    assert f"| {SHOTS} | 1 s |" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_overlap_of_time_ranges_is_their_intersection_over_their_union() -> None:
    assert moments.overlap((0, 10), (5, 20)) == pytest.approx(5 / 20)
    assert moments.overlap((0, 10), (0, 10)) == 1
    assert moments.overlap((0, 10), (10, 20)) == 0
    assert moments.overlap((2, 4), (0, 10)) == pytest.approx(0.2)


def test_recalls_are_those_worked_out_by_hand() -> None:
    queries = np.eye(4)
    sentences = [
        Moment("a", "found", (0.0, 10.0)),
        Moment("a", "found, but a little late", (10.0, 20.0)),
        Moment("b", "found in another video", (0.0, 10.0)),
        Moment("b", "not found", (10.0, 30.0)),
    ]
    cuts = {
        "a": Cut([(0.0, 10.0), (14.0, 20.0), (20.0, 30.0)], np.array([queries[0], queries[1], 0.9 * queries[2]])),
        "b": Cut([(0.0, 10.0), (12.0, 13.0)], np.array([0.8 * queries[2], queries[3]])),
    }
    figures = moments.recalls(sentences, queries, cuts)
    assert figures == {
        "segments": 5,
        "R@1 video": 75,
        "R@1 IoU 0.5": 50,
        "R@1 IoU 0.7": 25,
        "R@1 within IoU 0.5": 75,
        "R@1 within IoU 0.7": 50,
    }


def test_ranges_without_a_frame_have_no_vector_and_frames_of_one_colour_are_not_pooled() -> None:
    class Encoder:
        head = MeanPooling()

    frames = Frames(np.arange(6.0), np.eye(6, dtype=np.float32), np.array([0, 1, 0, 0, 1, 1], bool), 6.0, (0.0, 0.0))
    cut = moments.cut_at(frames, [(0, 2), (2.1, 2.9), (2, 4), (4, 6)], Encoder())  # type: ignore[arg-type]
    assert cut.ranges == [(0, 2), (2, 4), (4, 6)]
    half = np.sqrt(0.5)
    np.testing.assert_allclose(cut.vectors, [[1, 0, 0, 0, 0, 0], [0, 0, half, half, 0, 0], [0, 0, 0, 0, half, half]])


@pytest.mark.parametrize(("quality", "seconds", "missed"), [(90.0, 1.0, 0), (84.0, 1.0, 2), (90.0, 11.0, 2)])
def test_quality_and_cost_of_shots_decide(quality: float, seconds: float, missed: int) -> None:
    def row(cut: str, quality: float, seconds: float) -> dict[str, Any]:
        figures = {"R@1 IoU 0.5": quality, "R@1 IoU 0.7": 90.0, "R@1 within IoU 0.5": 95.0, "R@1 within IoU 0.7": 95.0}
        return {"cut": cut, "every": 1.0, **figures, "cost": {"read": 1.0, "embed": 1.0, "cut": seconds}}

    rows = [row(SHOTS, quality, seconds), row(SCENE_DETECT, 86.0, 100.0), row(TRUE_SCENES, 95.0, 0.0)]
    lines = list(check_bars({"rows": rows, "large": rows}))
    assert sum(line.startswith("MISSED") for line in lines) == missed
    assert sum(line.startswith("met") for line in lines) == len(lines) - missed
