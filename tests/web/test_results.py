"""Tests for clip4clip.web.results."""

from __future__ import annotations

import pytest

from clip4clip import CacheError, Clip4clipError, IndexUnavailableError, InputValueError, VideoIndexError

pytest.importorskip("starlette")
from clip4clip.web.results import visitor_message


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
