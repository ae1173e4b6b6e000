"""Moments like one of the index, by its stored vectors: in a local file and on a real Milvus server."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from index_rows import ids, random_rows

from clip4clip import InputTypeError, InputValueError, VideoIndexError, VideoNotFoundError
from clip4clip.index import similar
from clip4clip.retrieval import VideoIndex
from clip4clip.video.moments import choose_moments

ODD_NAME = 'it\'s "C:\\a"\n%_\x01 你好/#?.mp4'


def cut(video: str, *times: tuple[float, float], start: int) -> list[dict[str, Any]]:
    """Rows of the segments of a video, with random vectors that depend on ``start``."""
    return [
        row | {"id": f"{video}#t={begin:g},{end:g}", "video": video, "path": video, "start": begin, "end": end}
        for row, (begin, end) in zip(random_rows(len(times), start), times, strict=True)
    ]


def library() -> list[dict[str, Any]]:
    """Rows of four videos that are cut, one of which has an odd name, and of ten that are not."""
    windows = [(5.0 * number, 5.0 * number + 10) for number in range(8)]  # which overlap by half
    videos = ["/a", "/b", "/c", ODD_NAME]
    rows = [row for number, video in enumerate(videos) for row in cut(video, *windows, start=100 * number)]
    rows += random_rows(10, start=1000)
    return [row | {"camera": "front" if number % 3 else "back"} for number, row in enumerate(rows)]


def expected(
    rows: list[dict[str, Any]], queries: list[dict[str, Any]], per_video: int | None, camera: str = ""
) -> list[tuple[str, float]]:
    """Return ids and scores of the nearest rows of other videos, by brute force."""
    others = [row for row in rows if row.get("video", row["id"]) != queries[0].get("video", queries[0]["id"])]
    others = [row for row in others if row["camera"].startswith(camera)]

    def search(scores: np.ndarray) -> list[tuple[dict[str, Any], float]]:
        order = [(others[position], float(scores[position])) for position in np.argsort(-scores, kind="stable")]
        moments = ((row.get("video", row["id"]), row.get("start"), row.get("end")) for row, _ in order)
        return [order[position] for position in choose_moments(moments, per_video)]

    vectors = np.stack([row["vector"] for row in others])
    best: dict[str, float] = {}
    for query in queries:
        for row, score in search(vectors @ query["vector"]):
            best[row["id"]] = max(score, best.get(row["id"], -1))
    merged = search(np.array([best.get(row["id"], -2) for row in others]))
    return [(row["id"], score) for row, score in merged if score > -2]


def test_similar_moments_are_those_of_brute_force(index: VideoIndex) -> None:
    rows = library()
    index.add(rows)
    whole, segment = rows[-3], rows[2]  # segment is /a from 10 to 20 seconds
    cases = [
        ((segment["id"],), [segment]),
        (("/a", 15.1), [segment]),
        (("/a", np.float32(15)), [segment]),
        ((rows[5]["id"], 15.1), [segment]),  # the time is one of the video
        (("/a",), rows[:8]),
        ((ODD_NAME,), rows[24:32]),
        ((ODD_NAME, 1), [rows[24]]),
        ((whole["id"],), [whole]),
        ((whole["id"], 3), [whole]),
    ]
    for arguments, queries in cases:
        for per_video in (1, 2, None):
            hits = index.similar(*arguments, limit=1000, per_video=per_video)
            found, wanted = [(hit.id, hit.score) for hit in hits], expected(rows, queries, per_video)
            assert [name for name, _ in found] == [name for name, _ in wanted], (arguments, per_video)
            np.testing.assert_allclose([score for _, score in found], [score for _, score in wanted], atol=1e-6)
            assert [hit.id for hit in index.similar(*arguments, limit=3, per_video=per_video)] == [
                name for name, _ in wanted
            ][:3]
    filtered = index.similar("/a", 15, limit=50, filter='camera == "back"')
    assert ids(filtered) == [name for name, _ in expected(rows, [segment], 1, "back")]
    assert filtered[0].fields["camera"] == "back"
    with pytest.raises(InputValueError, match="since is 'soon', which is not a date"):
        index.similar("/a", since="soon")


def test_a_time_chooses_the_segment_around_it_or_the_nearest_one(index: VideoIndex) -> None:
    rows = cut("/a", (2, 10), (8, 12), (20, 21), start=0)  # what is not there was of one colour
    copies = [
        row | {"id": f"copy{number}", "path": "/copy", "video": f"copy{number}"}
        for number, row in enumerate(cut("/copy", (0, 1), (1, 2), (2, 3), start=0))
    ]
    index.add([*rows, *copies])
    for at, best in {0: 0, 6: 0, 7.9: 0, 8.4: 1, 15: 1, 16.5: 2, 20.4: 2, 21.5: 2}.items():
        assert index.similar("/a", at, limit=1)[0].id == f"copy{best}", at
    message = "the video '/a' ends at 0:21: expected a time up to 21 seconds, not 22.5"
    with pytest.raises(InputValueError, match=re.escape(message)):
        index.similar("/a", 22.5)


def test_of_a_video_with_very_many_segments_some_are_compared(
    index: VideoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similar, "MAX_SEARCHES", 3)
    index.add([*cut("/a", *[(float(start), start + 1.0) for start in range(7)], start=0), *random_rows(4)])
    hits = index.similar("/a", limit=4)
    parts = [index.similar("/a", at) for at in (0.5, 2.5, 4.5)]
    best = {hit.id: max(part.score for part in itertools.chain(*parts) if part.id == hit.id) for hit in hits}
    assert {hit.id: hit.score for hit in hits} == pytest.approx(best)


def test_the_searches_for_a_whole_video_run_one_after_the_other(
    index: VideoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As up to a hundred results with vectors would not fit into memory."""
    index.add([*cut("/a", (0, 1), (1, 2), (2, 3), start=0), *random_rows(4)])
    events: list[str] = []
    search = index._engine.search
    monkeypatch.setattr(
        index._engine, "search", lambda *args, **kwargs: events.append("search") or search(*args, **kwargs)
    )
    moment = similar.read_moment(index._engine, "/a", None)
    for _ in similar.search_others(index._engine, moment, 4, None, ""):
        events.append("used")
    assert events == ["search", "used"] * 3


def test_invalid_arguments_are_errors(index: VideoIndex) -> None:
    index.add(random_rows(2))
    cases: list[tuple[tuple[Any, ...], type[Exception], str]] = [
        (("/none",), VideoNotFoundError, "the index has no video with the id '/none': `clip4clip list` shows"),
        (("/none", 3), VideoNotFoundError, "the index has no video with the id '/none'"),
        ((7,), InputTypeError, "an id must be a string, not 7"),
        (("v0", "0:30"), InputTypeError, "at must be a time in seconds, not '0:30'"),
        (("v0", True), InputTypeError, "at must be a time in seconds, not True"),
        (("v0", float("nan")), InputValueError, "at must be a time in seconds from 0, not nan"),
        (("v0", -1), InputValueError, "at must be a time in seconds from 0, not -1"),
    ]
    for arguments, error, message in cases:
        with pytest.raises(error, match=re.escape(message)):
            index.similar(*arguments)


def test_the_only_video_has_no_similar_ones(new_index: VideoIndex) -> None:
    with pytest.raises(VideoIndexError, match=r"there is no collection|no index"):
        new_index.similar("/a")
    new_index.add(cut("/a", (0, 10), (10, 20), start=0))
    assert new_index.similar("/a") == new_index.similar("/a", 3, per_video=None) == []
