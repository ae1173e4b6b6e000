"""Histograms of ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip4clip import InputValueError, MissingExtraError
from clip4clip.evaluation.evaluate import Evaluation
from clip4clip.evaluation.histogram import save_histogram
from clip4clip.evaluation.metrics import RetrievalMetrics


@pytest.fixture
def evaluation() -> Evaluation:
    """Ten sentences and ten videos, of which one failed."""
    ranks = np.array([1, 1, 2, 1, 3, 10, 4, 2, 1, np.nan])
    metrics = RetrievalMetrics.of(ranks, 10)
    names = [f"{number}.mp4" for number in range(10)]
    return Evaluation(metrics, metrics, 10, 10, {"9.mp4": "corrupt"}, ranks, ranks, np.zeros((10, 10)), names)


def test_a_histogram_is_a_picture(evaluation: Evaluation, tmp_path: Path) -> None:
    save_histogram(evaluation, tmp_path / "ranks.png")
    with Image.open(tmp_path / "ranks.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 800
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_without_matplotlib_the_error_names_the_extra(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'towhee-clip4clip\[plot\]'"):
        save_histogram(evaluation, tmp_path / "ranks.png")
    assert not (tmp_path / "ranks.png").exists()


@pytest.mark.parametrize("name", ["ranks.bmp", "ranks"])
def test_an_extension_that_matplotlib_cannot_write_is_rejected(
    evaluation: Evaluation, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InputValueError, match=r"cannot be written as .*ranks.*\.png"):
        save_histogram(evaluation, tmp_path / name)
