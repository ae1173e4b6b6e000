"""Videos that several test files read, and the work that reading takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from clips import make
from frame_checks import Work


@pytest.fixture(scope="session")
def clip_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Maps a kind of ``clips.KINDS``, and a number of frames, to a file that is written once."""
    paths: dict[tuple[str, int], Path] = {}

    def path_of(kind: str, count: int = 25) -> Path:
        count = 1 if kind == "still" else count
        if (kind, count) not in paths:
            paths[kind, count] = make(kind, tmp_path_factory.mktemp("clip"), count)
        return paths[kind, count]

    return path_of


@pytest.fixture(scope="session")
def clip(clip_of: Callable[..., Path]) -> Path:
    """25 frames, 2.5 s, H.264 with B-frames, a key frame at every eighth frame."""
    return clip_of("h264")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)
