"""Tests for clip4clip.web.search: limits on searches, and copies that are folded."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from page_client import SEARCH, search_by_clip

from clip4clip import FilterError
from clip4clip.retrieval import Hit
from clip4clip.video.limits import Limits

pytest.importorskip("fastapi")
from clip4clip.web import search
from clip4clip.web.search import Search, SearchOptions
from clip4clip.web.uploads import Upload


def test_a_clip_that_is_too_long_is_rejected(client: Any, tmp_path: Path) -> None:
    with av.open(tmp_path / "long.mp4", "w") as container:
        stream = container.add_stream("mpeg4", Fraction(1, 400))
        stream.width, stream.height = 64, 48
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))))
        container.mux(stream.encode(None))
    answer = search_by_clip(client, tmp_path / "long.mp4")
    sentence = "long.mp4: it has 800 seconds of video, and a clip to search by may have at most 600"
    assert (answer.status_code, sentence in answer.json()["detail"]) == (400, True)


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
    assert search_by_clip(client, clip).status_code == 200
    monkeypatch.setattr(search, "CLIP_LIMITS", limits)
    answer = search_by_clip(client, clip)
    assert (answer.status_code, answer.json()["detail"].startswith(f"{clip.name}: {message}")) == (400, True)


def test_a_search_that_takes_too_long_is_given_up(
    client: Any, empty_index: Any, drawings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(search, "SEARCH_SECONDS", 0.05)
    monkeypatch.setattr(empty_index, "search", lambda *_, **__: release.wait() and [])
    for answer in (client.get("/api/search?q=x"), search_by_clip(client, min((drawings / "eval").glob("*.mp4")))):
        assert (answer.status_code in (400, 503), "not done within" in answer.json()["detail"]) == (
            True,
            True,
        )
    release.set()


def test_searches_by_a_clip_that_hang_do_not_delay_others_and_are_limited(
    empty_index: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(search, "is_image", lambda _: True)
    monkeypatch.setattr(empty_index, "embed", lambda *_, **__: release.wait() and [np.zeros(4, np.float32)])

    async def run() -> None:
        searches, options = Search(empty_index), SearchOptions()
        pending = [
            asyncio.create_task(searches.by_clip(Upload(io.BytesIO(b"x"), "a.mp4"), options))
            for _ in range(search.MAX_WAITING_CLIPS + 5)
        ]
        assert (await searches.by_text("a red square", options)).moments == []
        refused = [task for task in pending if task.done()]
        assert [task.exception().status_code for task in refused] == [503] * 5
        release.set()
        others = await asyncio.gather(*(task for task in pending if task not in refused))
        assert [answer.moments for answer in others] == [[]] * search.MAX_WAITING_CLIPS

    asyncio.run(run())


def test_what_refuses_every_clip_is_said_before_a_clip_arrives(
    client: Any, empty_index: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise FilterError("the filter is odd")

    def body() -> Iterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    monkeypatch.setattr(empty_index, "check_filter", fail)
    answer = client.post(f"{SEARCH}?filter=x", content=body(), headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (400, "the filter is odd.")
    monkeypatch.setattr(search, "MAX_WAITING_CLIPS", 0)
    answer = client.post(SEARCH, content=body(), headers=headers)
    assert (answer.status_code, "Too many searches" in answer.json()["detail"]) == (503, True)


def test_a_page_of_results_is_full_although_copies_are_folded(
    empty_index: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each picture is in the index seven times.
    vectors = np.repeat(np.eye(10, dtype=np.float32), 7, axis=0)
    limits: list[int] = []

    def find(*_: Any, limit: int, **__: Any) -> list[Hit]:
        limits.append(limit)
        return [Hit(f"{n}", f"/{n}.mp4", 1 - n / 100, {"vector": vectors[n]}) for n in range(70)][:limit]

    monkeypatch.setattr(empty_index, "search", find)
    answer = asyncio.run(Search(empty_index).by_text("x", SearchOptions(k=3, offset=2)))
    assert [moment.id for moment in answer.moments] == ["14", "21", "28"]
    assert [len(moment.copies) for moment in answer.moments] == [6, 6, 6]
    assert answer.has_more
    assert limits == [6, 24, 96]
    assert "vector" not in answer.moments[0].fields
    last = asyncio.run(Search(empty_index).by_text("x", SearchOptions(k=3, offset=8)))
    assert ([moment.id for moment in last.moments], last.has_more) == (["56", "63"], False)


def test_the_best_score_of_a_text_says_whether_the_index_probably_has_it(
    empty_index: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Calibration:
        def probably_here(self, score: float) -> bool:
            return score >= 0.3

    scores = [0.4, 0.2]

    def find(*_: Any, **__: Any) -> list[Hit]:
        hits = [Hit(f"{n}", f"/{n}.mp4", score) for n, score in enumerate(scores)]
        return [replace(hit, fields={"vector": np.eye(2, dtype=np.float32)[n]}) for n, hit in enumerate(hits)]

    def probably_here(**options: Any) -> bool | None:
        return asyncio.run(Search(empty_index).by_text("x", SearchOptions(**options))).probably_here

    monkeypatch.setattr(empty_index, "search", find)
    assert probably_here() is None  # not known yet
    monkeypatch.setattr(empty_index, "calibration", lambda wait: None if wait else Calibration())
    assert probably_here() is True
    assert probably_here(offset=1) is True  # of the best moment, on every page of the result
    assert probably_here(filter="duration < 60") is None  # the index may have it elsewhere
    scores = [0.29]
    assert probably_here() is False
    assert probably_here(min_score=0.5) is False
    scores = []
    assert probably_here() is None
