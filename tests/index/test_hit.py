"""A search result."""

from __future__ import annotations

from clip4clip.index.hit import format_time, to_hit
from clip4clip.retrieval import Hit


def test_the_length_is_empty_for_an_invalid_duration() -> None:
    lengths = {7220: "2:00:20", 3725.2: "1:02:05", 3599.9: "59:59", 59.9: "0:59", 0: "0:00"}
    lengths |= dict.fromkeys(["1:20", float("nan"), float("inf"), -1.0], "")
    assert {value: Hit("a", "", 1, {"duration": value}).length for value in lengths} == lengths


def test_a_moment_has_a_time_range_and_a_whole_video_has_none() -> None:
    times = {(5.2, 12): "0:05–0:12", (750, 765.9): "12:30–12:45", (3595.5, 3725): "59:55–1:02:05", (None, None): ""}
    ranges = {(start, end): Hit("a", "", 1, start=start, end=end).time_range for start, end in times}
    assert ranges == times
    assert format_time(7220) == "2:00:20"


def test_a_hit_knows_its_video_whatever_fields_are_asked_for() -> None:
    row = {"id": "a#t=1,2.5", "path": "/a", "video": "a", "start": 1.0, "end": 2.5, "camera": "front", "title": None}
    for names in (["*"], [], ["camera", "video", "id", "none"]):
        hit = to_hit(row, 0.5, names)
        assert (hit.id, hit.path, hit.score, hit.video, hit.start, hit.end) == ("a#t=1,2.5", "/a", 0.5, "a", 1, 2.5)
    assert hit.fields == {"camera": "front", "id": "a#t=1,2.5"}
    assert Hit("a", "/a", 1.0) == to_hit({"id": "a", "path": "/a", "video": "a"})
