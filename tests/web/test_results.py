"""Tests for clip4clip.web.results."""

from __future__ import annotations

import pytest

from clip4clip import CacheError, Clip4clipError, IndexUnavailableError, InputValueError, VideoIndexError

pytest.importorskip("starlette")
from clip4clip.retrieval import Hit
from clip4clip.web.results import results_html, visitor_message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputValueError("a video has more than 77 frames"), "That did not work: a video has more than 77 frames"),
        (CacheError("/home/me/graph.onnx is gone"), "The search failed. The log of the server says more"),
        (VideoIndexError("the index at /srv says: no"), "The search failed. The log of the server says more"),
        (
            IndexUnavailableError("/srv/videos.db"),
            "The index does not answer at the moment. Please try again in a minute",
        ),
    ],
)
def test_a_visitor_reads_no_paths_and_addresses_of_the_server(error: Clip4clipError, message: str) -> None:
    assert visitor_message(error).removesuffix(".") == message


def test_a_moment_is_shown_with_its_times_and_played_from_its_start() -> None:
    moment = Hit("/v/a.mp4#t=750.5,765.9", "/v/a.mp4", 0.3, {"duration": 3725.0}, "/v/a.mp4", 750.5, 765.9)
    page = results_html([moment])
    assert '<span class="length">12:30–12:45</span>' in page
    assert 'src="library/video?id=%2Fv%2Fa.mp4%23t%3D750.5%2C765.9#t=750.500,765.900"' in page
    whole = results_html([Hit("a", "https://example.org/a.mp4", 0.3, {"duration": 3725.0})])
    assert '<span class="length">1:02:05</span>' in whole
    assert 'src="https://example.org/a.mp4"' in whole
