"""Values that are stored in an index or searched with, valid and invalid."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from index_rows import random_rows

from clip4clip import InputTypeError, InputValueError, VideoIndexError
from clip4clip.index.values import to_stored_row, to_vector, to_vectors
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


def test_a_stored_row_has_known_fields_of_one_type_each() -> None:
    row = random_rows(1)[0] | {"start": 3, "end": np.float32(4.5), "duration": None, "error": None}
    row |= {"frame_count": 12.0, "size": np.int32(7), "mtime": -1, "note": None, "ok": True, "title": "红色 square"}
    stored = to_stored_row(row)
    assert stored.pop("vector") is row["vector"]
    expected = {"id": "v0", "path": "/videos/v0.mp4", "video": "v0", "start": 3.0, "end": 4.5}
    assert stored == expected | {"frame_count": 12, "size": 7, "mtime": -1, "ok": True, "title": "红色 square"}
    assert [type(stored[name]) for name in ("start", "end", "frame_count", "size", "ok")] == [
        float,
        float,
        int,
        int,
        bool,
    ]
    assert to_stored_row(row | {"video": "v"})["video"] == "v"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("duration", "12", "must be a number of seconds, not '12'"),
        ("start", True, "must be a number of seconds, not True"),
        ("end", float("inf"), "cannot be stored, it is not finite: inf"),
        ("duration", np.float64("nan"), "cannot be stored, Out of range float"),
        ("size", "12", "must be a whole number, not '12'"),
        ("frame_count", 2.5, "must be a whole number, not 2.5"),
        ("frame_count", False, "must be a whole number, not False"),
        ("mtime", 1e300, "cannot be stored, it has more than 64 bits"),
        ("size", -(2**63) - 1, "cannot be stored, it has more than 64 bits"),
        ("video", "", "must be a string of 1 to 65535 bytes, not ''"),
        ("video", 5, "must be a string of 1 to 65535 bytes, not 5"),
        ("weight", float("nan"), "cannot be stored, it is not finite: nan"),
        ("weights", [1.0, float("-inf")], "cannot be stored, Out of range float"),
    ],
)
def test_a_field_that_cannot_be_stored_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises((InputTypeError, InputValueError), match=f"^the field {field} of 'v0' {message}"):
        to_stored_row(random_rows(1)[0] | {field: value})


def test_vectors_are_checked_at_once_as_one_by_one() -> None:
    rows = random_rows(5)
    vectors = [row["vector"] for row in rows]
    names = [row["id"] for row in rows]
    for kind in (np.asarray, list, lambda vector: vector.astype(np.float64), lambda vector: np.rint(vector * 100)):
        batch = to_vectors([kind(vector) for vector in vectors], 128, names)
        assert (batch.dtype, batch.shape) == (np.float32, (5, 128))
        np.testing.assert_array_equal(batch, np.stack([to_vector(kind(v), 128, "it") for v in vectors]))
    assert to_vectors(vectors, None, names).shape == (5, 128)
    for bad, message in (
        (np.zeros(128), "is not finite, or all zeros"),
        (np.full(128, 1e60), "is not finite, or all zeros"),
        (np.full(128, np.nan), "is not finite, or all zeros"),
        (np.ones(64), r"has shape \(64,\); this index has vectors of shape \(128,\)"),
        (np.ones((1, 128)), "has shape"),
        (np.ones(128, bool), "must be numbers"),
        ("red", "must be numbers, not 'red'"),
        (None, "must be numbers, not None"),
    ):
        for dim in (128, None):
            with pytest.raises((InputTypeError, InputValueError), match=f"^the vector of 'v3' {message}"):
                to_vectors([*vectors[:3], bad, vectors[4]], dim, names)


def test_a_collection_is_searched_once_it_is_created(new_index: VideoIndex) -> None:
    with pytest.raises(VideoIndexError, match="there is no collection"):
        new_index.search("a")
    new_index.create()
    new_index.create()
    assert new_index.search("a red square") == []


def test_invalid_search_arguments_are_rejected(index: VideoIndex, tmp_path: Path) -> None:
    index.create()
    assert index.search("a red square") == []
    with pytest.raises(InputTypeError, match="exactly one of text, video and vector"):
        index.search("a", video="b.mp4")
    with pytest.raises(InputTypeError, match="exactly one of text, video and vector"):
        index.search()
    for empty in ("", " \n"):
        with pytest.raises(InputValueError, match="the text to search for is empty"):
            index.search(empty)
        with pytest.raises(InputValueError, match="the text to search for is empty"):
            index.embed(empty)
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
