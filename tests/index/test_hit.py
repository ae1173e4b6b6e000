"""A search result."""

from __future__ import annotations

from clip4clip.retrieval import Hit


def test_the_length_is_empty_for_an_invalid_duration() -> None:
    lengths = {7220: "2:00:20", 3725.2: "1:02:05", 3599.9: "59:59", 59.9: "0:59", 0: "0:00"}
    lengths |= dict.fromkeys(["1:20", float("nan"), float("inf"), -1.0], "")
    assert {value: Hit("a", "", 1, {"duration": value}).length for value in lengths} == lengths
