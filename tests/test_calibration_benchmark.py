"""The benchmark of calibrations: it runs, and its areas under ROC curves are right."""

from __future__ import annotations

import calibration
import numpy as np
import pytest


def test_the_area_under_a_curve_is_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(0)
    present, absent = random.integers(0, 9, 40) / 9, random.integers(0, 6, 30) / 9
    pairs = [1 if one > other else 0.5 if one == other else 0 for one in present for other in absent]
    assert calibration.roc_auc(present, absent) == pytest.approx(np.mean(pairs))


def test_small_libraries_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    calibration.main(["--clips", "16", "--libraries", "8", "--draws", "1"])
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert lines[0] == ["clips", "threshold", *calibration.PRESENT, *calibration.ABSENT]
    shares = dict(zip(lines[0], map(float, lines[2]), strict=True))
    assert min(shares["caption"], shares["never drawn"]) >= 75
    areas = {line[0]: [float(area) for area in line[1:]] for line in lines[5:]}
    assert len(areas) == 5
    assert areas["best score (what is used)"][2] > 0.95
