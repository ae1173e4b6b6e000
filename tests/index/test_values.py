"""Values that are stored in an index or searched with, valid and invalid."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from index_rows import random_rows

from clip4clip import InputTypeError, InputValueError, VideoIndexError
from clip4clip.retrieval import VideoIndex


def test_numpy_values_dates_and_tuples_are_stored_as_json_values(index: VideoIndex) -> None:
    row = random_rows(1)[0] | {"n": np.int64(3), "list": [np.float32(0.5)], "day": date(2025, 6, 1), "pair": (1, "x")}
    index.add([row])
    hit = index.get("v0")
    assert hit is not None
    assert hit.fields == {"duration": 0.0, "n": 3, "list": [0.5], "day": "2025-06-01", "pair": [1, "x"]}


def test_an_invalid_row_is_rejected_with_its_whole_batch(index: VideoIndex) -> None:
    good = random_rows(1)[0]
    for bad, message in (
        ({"id": ""}, "id must be a string of 1 to"),
        ({"id": 5}, "id must be a string of 1 to"),
        ({"path": "x" * 70_000}, "path must be a string of 1 to"),
        ({"vector": np.ones(5)}, "shape"),
        ({"vector": np.zeros(128)}, "all zeros"),
        ({"id": "\udcff"}, "id must be valid Unicode"),
        ({"path": "\udcff"}, "path must be valid Unicode"),
        ({"fingerprint": ""}, "fingerprint must be a string of 1 to"),
        ({"\udcff": 1}, "a field of 'v0' must be valid Unicode"),
        ({"note": "\udcff"}, "the field note of 'v0' cannot be stored, .*surrogates not allowed"),
        ({"note": {1, 2}}, "the field note of 'v0' cannot be stored, set is not a type of JSON"),
        ({"size": 2**63}, "the field size of 'v0' cannot be stored, it has more than 64 bits"),
    ):
        with pytest.raises(InputValueError, match=message):
            index.add([good, good | bad])
    for bad, message in (
        ({"vector": "red"}, "the vector of 'v0' must be numbers, not 'red'"),
        ({"vector": 5}, "has shape"),
        ({"model": 5}, "model must be a string"),
        ({5: 1}, "a field of 'v0' must be a string, not 5"),
    ):
        with pytest.raises((InputTypeError, InputValueError), match=message):
            index.add([good | bad])
    with pytest.raises(InputTypeError, match="a row must be a dictionary, not 5"):
        index.add([5])  # type: ignore[list-item]
    for value in (5, None, good):
        with pytest.raises(InputTypeError, match="expected the path of a table or rows as dictionaries"):
            index.add(value)  # type: ignore[arg-type]
    with pytest.raises(InputValueError, match="a row has no fingerprint, model, path, vector"):
        index.add([{"id": "a"}])
    with pytest.raises(InputValueError, match="a row has no fingerprint"):
        index.add([{name: value for name, value in good.items() if name != "fingerprint"}])
    index.create()
    assert index.count() == 0


def test_invalid_search_arguments_are_rejected(index: VideoIndex, tmp_path: Path) -> None:
    with pytest.raises(VideoIndexError, match="there is no collection"):
        index.search("a")
    index.create()
    index.create()
    assert index.search("a red square") == []
    with pytest.raises(InputTypeError, match="exactly one of text, video and vector"):
        index.search("a", video="b.mp4")
    with pytest.raises(InputTypeError, match="exactly one of text, video and vector"):
        index.search()
    for empty in ("", " \n"):
        with pytest.raises(InputValueError, match="the text to search for is empty"):
            index.search(empty)
    for limit in (0, -1, 16385, 10**30, 1.5, True, "3", None):
        with pytest.raises(InputValueError, match=r"from 1 to 16,384, not"):
            index.search("a", limit=limit)  # type: ignore[arg-type]
    for vector in (np.zeros(128), np.full(128, np.nan), np.ones(64), np.ones((1, 128))):
        with pytest.raises(InputValueError, match="the vector to search for"):
            index.search(vector=vector)
    for value in ("a red square", ["1"] * 128, b"x" * 128, [None] * 128, [[1, 2], [3]], np.ones(128) * 1j, object()):
        with pytest.raises(InputTypeError, match="the vector to search for must be numbers, not"):
            index.search(vector=value)  # type: ignore[arg-type]
    vector = random_rows(1)[0]["vector"]
    assert index.search(vector=list(vector), limit=np.int64(3)) == []  # type: ignore[arg-type]
    with pytest.raises(InputValueError, match="a filter must be valid Unicode"):
        index.search(vector=vector, filter='id == "\udcff"')
    with pytest.raises(InputTypeError, match="a filter must be a string, not 5"):
        index.search(vector=vector, filter=5)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="must be a list of names, not the string 'size'"):
        index.search(vector=vector, output_fields="size")
    with pytest.raises(InputValueError, match="a name in output_fields must be valid Unicode"):
        index.search(vector=vector, output_fields=["\udcff"])
    for use in (index.get, lambda name: index.delete([name])):
        with pytest.raises(InputValueError, match="an id must be valid Unicode"):
            use("\udcff")
    with pytest.raises(FileNotFoundError):
        index.search(video=tmp_path / "none.mp4")
