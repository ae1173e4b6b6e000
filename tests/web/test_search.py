"""Tests for clip4clip.web.search: limits on clips that visitors search by."""

from __future__ import annotations

import asyncio
import shutil
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from page_client import files_in, search_by_clip

from clip4clip.video.limits import Limits

pytest.importorskip("starlette")
from clip4clip.web import search
from clip4clip.web.uploads import Uploads


def test_a_clip_that_is_too_long_is_rejected(client: Any, tmp_path: Path) -> None:
    with av.open(tmp_path / "long.mp4", "w") as container:
        stream = container.add_stream("mpeg4", Fraction(1, 400))
        stream.width, stream.height = 64, 48
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))))
        container.mux(stream.encode(None))
    status = search_by_clip(client, tmp_path / "long.mp4")
    assert "long.mp4: it has 800 seconds of video, and a clip to search by may have at most 600" in status


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(pixels=128 * 128 - 1), "its frames of 128×128 are over the limit of 16,383 pixels"),
        (Limits(frames=2), "it has over 2 frames, which is the limit"),
        (Limits(decoded_pixels=1), "decoding it takes more than 1 pixels, which is the limit"),
    ],
)
def test_a_clip_that_takes_too_much_work_is_rejected(
    client: Any, drawings: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits, message: str
) -> None:
    clip = min((drawings / "eval").glob("*.mp4"))
    assert f"for the clip {clip.name}" in search_by_clip(client, clip)
    monkeypatch.setattr(search, "CLIP_LIMITS", limits)
    assert f"That did not work: {clip.name}: {message}" in search_by_clip(client, clip)


def test_a_search_that_takes_too_long_is_cancelled(
    client: Any, drawings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = min((drawings / "eval").glob("*.mp4"))
    monkeypatch.setattr(search, "CLIP_TIMEOUT", 0)
    assert "the search was not done within" in search_by_clip(client, clip)
    assert [path for path in files_in(tmp_path) if path.suffix == ".mp4"] == []


def test_searches_by_a_clip_that_hang_do_not_delay_searches_by_a_sentence(
    empty_index: Any, drawings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(empty_index, "search", lambda *text, **options: [] if text else release.wait() and [])
    monkeypatch.setattr(search, "CLIP_TIMEOUT", 600)
    clips = [tmp_path / f"clip-{number}" / "a.mp4" for number in range(search.CLIP_WORKERS + 45)]
    for clip in clips:
        clip.parent.mkdir()
        shutil.copy(min((drawings / "eval").glob("*.mp4")), clip)

    async def run() -> None:
        searches = search.Search(empty_index, Uploads(tmp_path))
        pending = [asyncio.create_task(searches.by_clip(clip)) for clip in clips]
        assert "No videos were found" in (await searches.by_text("a red square")).status
        assert not any(task.done() for task in pending)
        release.set()
        assert all("for the clip a.mp4" in answer.status for answer in await asyncio.gather(*pending))

    asyncio.run(run())
    assert files_in(tmp_path) == []
