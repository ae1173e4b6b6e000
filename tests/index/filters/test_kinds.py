"""Checks of the fields that a filter names, run on a local index and on a server."""

from __future__ import annotations

import pytest
from index_rows import ids, random_rows

from clip4clip import VideoIndexError
from clip4clip.retrieval import VideoIndex

WRONG_KINDS = {
    'mtime > "2025-06-01"': 'mtime, which is a number, with the string "2025-06-01": .* modified > "2025-06-01"',
    'duration > "60"': 'duration, which is a number, with the string "60": write duration > 60',
    '$meta["duration"] > "60"': "duration, which is a number",
    '"60" < duration': "write duration > 60",
    'duration in [1, "2"]': r"the string \"2\": write duration in \[2\]",
    'duration not in ["2"]': "duration, which is a number",
    'duration like "1%"': "duration, which is a number",
    'id == "v0" or (not (duration == ("1")))': "duration, which is a number",
    'frame_count > "3"': "frame_count, which is a number",  # which no video here has
    "camera == 1": 'camera, which is a string, with the number 1: write camera == "1"',
    "camera == -1": "camera, which is a string, with the number",
    "camera + 1 > 3": "computes with camera, which is a string and not a number",
    "camera == true": "camera, which is a string, with the boolean true",
    'flag == "x"': 'flag, which is a boolean, with the string "x": write flag == true',
    "flag == 1": "flag, which is a boolean, with the number 1",
    'tags == "p"': r"tags, which is a list, with the string .*: write json_contains\(tags, \"p\"\)",
    "place == 1": r"place, which is an object, with the number 1: write place\[\"key\"\] == 1",
    "id == 5": 'id, which is a string, with the number 5: write id == "5"',
    "id in [5]": r"write id in \[\"5\"\]",
    "path > 3": "path, which is a string",
    "size < 99999999999999999999": "the integer 99999999999999999999, which does not fit into 64 bits",
}


def test_a_comparison_with_the_wrong_kind_names_the_field_and_shows_a_correct_one(index: VideoIndex) -> None:
    rows = random_rows(130)
    rows[0] |= {"camera": "front", "flag": True, "tags": ["p"], "place": {"k": 1}}
    for row in rows:
        row |= {"mixed": 1}
    rows[-1]["mixed"] = "x"  # beyond the sample
    index.add(rows)

    def search(text: str) -> list[str]:
        return sorted(ids(index.search(vector=rows[0]["vector"], filter=text)))

    for text, message in WRONG_KINDS.items():
        with pytest.raises(VideoIndexError, match=message):
            search(text)
    right = 'mtime > 5 or duration == 0 and camera >= "a" and flag == true and json_contains(tags, "p")'
    assert search(right) == search('place["k"] == 1 and camera like "fr%"') == ["v0"]
    assert search('mixed == "x"') == ["v129"]
    assert search("mixed == 1 and duration in [1.0, 2.0]") == ["v1", "v2"]
    with pytest.raises(VideoIndexError, match="mixed, which is a number"):
        search("mixed == true")


def test_an_unknown_field_is_reported_with_similar_names(index: VideoIndex, caplog: pytest.LogCaptureFixture) -> None:
    index.create()
    query = random_rows(1)[0]["vector"]
    assert index.search(vector=query, filter='camra == "front"') == []
    assert caplog.messages == []  # an index without videos has no fields
    index.add([random_rows(1)[0] | {"camera": "front"}, random_rows(2)[1]])
    assert ids(index.search(vector=query, filter='camera == "front" and duration < 5')) == ["v0"]
    assert caplog.messages == []
    index.search(vector=query, filter='json_contains(camra, "front")')
    index.search(vector=query, filter='colour == "red"')
    assert caplog.messages == [
        "the filter has the field camra, but no video in the index does: did you mean camera?",
        "the filter has the field colour, but no video in the index does: the fields are camera, duration, id, path",
    ]
    with pytest.raises(VideoIndexError, match="the field camra, but no video in the index does: did you mean camera"):
        index.delete(filter='camra != "front"')  # a server would delete all
    assert index.count() == 2
    index.add([random_rows(1)[0] | {"mtime": 10**18}])
    index.search(vector=query, filter='Modified > "2025-06-01"')
    message = "the filter has the field Modified, but no video in the index does: did you mean modified?"
    assert caplog.messages[2:] == [message]


def test_a_vector_is_not_a_field_of_a_filter(index: VideoIndex) -> None:
    index.add(random_rows(1))
    with pytest.raises(VideoIndexError, match="the filter has the field vector, but no video in the index does"):
        index.delete(filter="vector != 1")
    assert index.count() == 1
