"""The tools of the server for assistants, over the SDK's own client: in this process, and over standard streams."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from constants import DEMO_MODEL
from index_rows import random_rows

from clip4clip import TextEncoder
from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex

mcp = pytest.importorskip("mcp", reason="needs the extra mcp")

SENTENCE = "a red square"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoIndex]:
    """Three moments of one video, one of which matches SENTENCE, and three videos that are not cut."""
    rows = random_rows(6)
    for number, row in enumerate(rows[:3]):
        row |= {"id": f"a{number}", "video": "/a.mp4", "path": "/a.mp4", "start": 750.0 + 15 * number}
        row |= {"end": row["start"] + 15, "duration": 900.0}
    rows[1]["vector"] = TextEncoder.load(DEMO_MODEL)(SENTENCE)
    rows[4]["vector"] = rows[2]["vector"]
    path = tmp_path_factory.mktemp("index") / "videos.db"
    with VideoIndex(path, encoder=EncoderSpec(DEMO_MODEL)) as opened:
        opened.add(rows)
        yield opened


def call(index: VideoIndex, tool: str, **arguments: Any) -> Any:
    """Return the result of a tool, as a client gets it."""
    from clip4clip.mcp_server import make_server

    async def run() -> Any:
        async with mcp.Client(make_server(index)) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(run())


def found(index: VideoIndex, tool: str, **arguments: Any) -> list[dict[str, Any]]:
    result = call(index, tool, **arguments)
    assert not result.is_error, result
    return list(result.structured_content["moments"])


def test_a_search_returns_the_moments_with_their_times(index: VideoIndex) -> None:
    best, *others = found(index, "search_videos", sentence=SENTENCE)
    assert best.pop("score") == pytest.approx(1)
    assert best == {
        "video": "/a.mp4",
        "path": "/a.mp4",
        "start": 765.0,
        "end": 780.0,
        "time": "12:45–13:00",
        "duration": 900.0,
    }
    assert sorted(other["video"] for other in others) == ["v3", "v4", "v5"]
    whole = next(other for other in others if other["video"] == "v3")
    assert (whole["start"], whole["end"], whole["time"], whole["duration"]) == (None, None, "", 3.0)


def test_arguments_narrow_a_search(index: VideoIndex) -> None:
    assert len(found(index, "search_videos", sentence=SENTENCE, per_video=None)) == 6
    assert len(found(index, "search_videos", sentence=SENTENCE, per_video=2, limit=4)) == 4
    [short] = found(index, "search_videos", sentence=SENTENCE, filter="duration < 4")
    assert short["video"] == "v3"


def test_a_smallest_score_leaves_the_rest_out(index: VideoIndex) -> None:
    [best] = found(index, "search_videos", sentence=SENTENCE, min_score=0.99)
    assert best["time"] == "12:45–13:00"


def test_an_assistant_is_told_whether_the_videos_probably_show_it(index: VideoIndex) -> None:
    calibration = index.calibration()
    assert calibration is not None
    for sentence in (SENTENCE, "a parliament debates the budget"):
        result = call(index, "search_videos", sentence=sentence).structured_content
        assert result["probably_here"] == calibration.probably_here(result["moments"][0]["score"])
    assert call(index, "search_videos", sentence=SENTENCE).structured_content["probably_here"] is True
    for condition in ("duration > 1e6", "duration > 1"):  # the index may have it elsewhere
        result = call(index, "search_videos", sentence=SENTENCE, filter=condition)
        assert result.structured_content["probably_here"] is None
    result = call(index, "search_videos", sentence="a parliament debates the budget", min_score=1)
    assert result.structured_content == {"moments": [], "probably_here": False}


def test_similar_moments_are_those_of_other_videos(index: VideoIndex) -> None:
    best = found(index, "similar_moments", video="/a.mp4", time=781)[0]
    assert (best["video"], best["score"]) == ("v4", pytest.approx(1))
    assert found(index, "similar_moments", video="/a.mp4")[0]["video"] == "v4"
    best = found(index, "similar_moments", video="v4", limit=1, filter="duration == 900", per_video=None)[0]
    assert (best["video"], best["time"]) == ("/a.mp4", "13:00–13:15")


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("search_videos", {"sentence": " "}, "the text to search for is empty: ' '"),
        ("search_videos", {"sentence": "a", "filter": "duration <"}, "the filter is invalid at character 11"),
        (
            "search_videos",
            {"sentence": "a", "filter": "camera == 'a'"},
            "the filter has the field camera, but no video in the index does",
        ),
        (
            "similar_moments",
            {"video": "v3", "filter": "camera == 'a'"},
            "the filter has the field camera, but no video in the index does",
        ),
        ("search_videos", {"sentence": "a", "limit": 101}, "less than or equal to 100"),
        ("search_videos", {"sentence": "a" * 2001}, "at most 2000 characters"),
        ("search_videos", {}, "sentence"),
        ("similar_moments", {"video": "none"}, "the index has no video with the id 'none'"),
        ("similar_moments", {"video": "/a.mp4", "time": 1000}, "ends at 15:00: expected a time up to 900 seconds"),
    ],
)
def test_errors_reach_the_assistant_as_sentences(
    index: VideoIndex, tool: str, arguments: dict[str, Any], message: str
) -> None:
    result = call(index, tool, **arguments)
    assert result.is_error
    assert message in result.content[0].text


def test_an_unexpected_error_tells_nothing(index: VideoIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(VideoIndex, "similar", fail)
    result = call(index, "similar_moments", video="v3")
    assert result.is_error
    assert "secret" not in result.content[0].text


@pytest.mark.slow
def test_a_client_searches_drawn_clips_over_standard_streams(
    drawings_table: Path, easy: tuple[str, str], tmp_path: Path
) -> None:
    uri = str(tmp_path / "videos.db")
    with VideoIndex(uri) as index:
        index.add(drawings_table)
    caption, name = easy
    command = mcp.StdioServerParameters(
        command=sys.executable, args=["-m", "clip4clip", "mcp", "--uri", uri], env={**os.environ}
    )

    async def use() -> tuple[list[str], Any, Any, Any]:
        with (tmp_path / "stderr").open("w") as stderr:
            async with mcp.Client(mcp.stdio_client(command, stderr)) as client:
                tools = [tool.name for tool in (await client.list_tools()).tools]
                hits = await client.call_tool("search_videos", {"sentence": caption, "limit": 3})
                best = hits.structured_content["moments"][0]["video"]
                similar = await client.call_tool("similar_moments", {"video": best})
                return tools, hits, similar, await client.call_tool("similar_moments", {"video": "none"})

    tools, hits, similar, failure = asyncio.run(use())
    assert tools == ["search_videos", "similar_moments"]
    assert Path(hits.structured_content["moments"][0]["path"]).name == name
    with VideoIndex(uri) as index:
        videos = [hit.video for hit in index.similar(hits.structured_content["moments"][0]["video"])]
    assert [hit["video"] for hit in similar.structured_content["moments"]] == videos
    assert failure.is_error
    assert (tmp_path / "stderr").read_text() == ""
