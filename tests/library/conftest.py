"""A small library of videos."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def clips(drawings: Path, tmp_path: Path) -> Path:
    """A folder with ten of the drawn clips, two of them in a folder below."""
    folder = tmp_path / "clips"
    (folder / "below").mkdir(parents=True)
    for number, clip in enumerate(sorted((drawings / "eval").iterdir())[:10]):
        shutil.copy(clip, folder / ("below" if number > 7 else ".") / f"{number}.mp4")
    return folder
