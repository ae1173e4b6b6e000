"""What both engines do in the same way: the local file and the Milvus server."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from constants import DEMO_MODEL
from index_rows import ids, random_rows

from clip4clip import InputTypeError, InputValueError, VideoIndexError
from clip4clip.index import milvus as milvus_module
from clip4clip.index.address import IndexAddress
from clip4clip.index.collection import VectorSpec
from clip4clip.index.engine import Engine, Failure, open_engine
from clip4clip.index.hit import Hit
from clip4clip.index.values import to_stored_row
from clip4clip.retrieval import VideoIndex
from clip4clip.video import FrameSampling
from clip4clip.weights.identity import identify

SPEC = VectorSpec(identify(None, DEMO_MODEL), FrameSampling())


@pytest.fixture
def engine(empty: tuple[str, str]) -> Iterator[Engine]:
    """An engine with an empty collection."""
    opened = open_engine(IndexAddress(*empty), timeout=60)
    opened.create(SPEC, 128)
    yield opened
    opened.close()


def add(engine: Engine, rows: list[dict]) -> None:
    engine.upsert({row["id"]: to_stored_row(row) for row in rows})


def moments(videos: int, per_video: int) -> list[dict]:
    """Rows of several videos, with more and more rows near the first vector."""
    rows = random_rows(videos * per_video)
    for number, row in enumerate(rows):
        row |= {"video": f"/v/{number % videos}.mp4", "start": float(number), "end": number + 1.5}
        row |= {"path": row["video"]}
    return rows


def test_there_is_no_collection_until_it_is_created(uri: str, collection: str) -> None:
    engine = open_engine(IndexAddress(uri, collection), timeout=60)
    assert engine.find() is None
    with pytest.raises(VideoIndexError, match=f"there is no collection '{collection}' in "):
        engine.require()
    engine.finish()
    engine.create(SPEC, 128)
    engine.create(SPEC, 64)  # does nothing
    info = engine.require()
    assert (info.spec, dict(info.dims), engine.count()) == (SPEC, {"vector": 128}, 0)
    engine.close()
    engine.close()
    with pytest.raises(VideoIndexError, match="has been closed"):
        engine.count()


ODD_IDS = [
    "it's",
    'say "hi"',
    "back\\slash\\",
    "C:\\videos\\a.mp4",
    "x' or id != '",
    'x"] or id not in ["',
    "a\nb\tc",
    "你好 🎬",
    "%_{id}",
    "<b>&amp;",
    "\x01\b\f\x7f\u2028",
]


def test_ids_with_quotes_and_control_characters_are_found_and_deleted_exactly(index: VideoIndex) -> None:
    rows = [
        row | {"id": name, "path": f"/v/{name}"} for row, name in zip(random_rows(len(ODD_IDS)), ODD_IDS, strict=True)
    ]
    index.add(rows[1:])
    for row in rows[1:]:
        hit = index.get(row["id"])
        assert hit is not None
        assert (hit.id, hit.path) == (row["id"], row["path"])
        assert index.search(vector=row["vector"], limit=1)[0].id == row["id"]
    assert index.get(rows[0]["id"]) is None
    assert index.delete([rows[0]["id"]]) == 0
    for deleted, name in enumerate(ODD_IDS[:0:-1], 1):
        assert index.delete([name]) == 1
        assert index.count() == len(ODD_IDS) - 1 - deleted


def test_delete_returns_the_number_of_deleted_rows(index: VideoIndex) -> None:
    index.add(random_rows(20))
    assert index.delete(["v3", "v4", "none"]) == 2
    assert index.delete(["v3"]) == 0
    assert index.delete(filter="duration >= 15") == 5
    assert index.delete(filter=" \n") == 0
    assert index.count() == 13
    assert "v3" not in ids(index.search(vector=random_rows(20)[3]["vector"], limit=20))
    with pytest.raises(InputTypeError, match="must be a list of ids"):
        index.delete("v3")


def test_several_threads_search_at_once(index: VideoIndex) -> None:
    rows = random_rows(50)
    index.add(rows)
    found: dict[int, str] = {}

    def search(number: int) -> None:
        found[number] = index.search(vector=rows[number]["vector"], limit=1)[0].id

    threads = [threading.Thread(target=search, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: f"v{number}" for number in range(16)}


def test_a_row_is_inserted_by_its_values(engine: Engine) -> None:
    vector = random_rows(1)[0]["vector"]
    assert engine.insert("a", "/videos/a.mp4", vector) == "a"
    assert engine.insert("b", vector) == "b"
    assert [hit.path for hit in map(engine.get, "ab") if hit] == ["/videos/a.mp4", "b"]
    with pytest.raises(InputValueError, match="got 1 values for the fields id, path, vector of"):
        engine.insert("a")
    with pytest.raises(InputTypeError, match="the vector of 'a' must be numbers"):
        engine.insert("a", "a red square")
    with pytest.raises(InputValueError, match="an id must be valid Unicode"):
        engine.insert("\udcff", vector)
    with pytest.raises(InputValueError, match="a path must be valid Unicode"):
        engine.insert("a", "\udcff", vector)


def test_an_inserted_row_replaces_all_fields_of_the_row_with_its_id(engine: Engine) -> None:
    row = random_rows(1)[0]
    add(engine, [row | {"camera": "front", "video": "v"}])
    engine.insert("v0", "/elsewhere/v0.mp4", row["vector"])
    hit = engine.get("v0")
    assert hit is not None
    assert (hit.path, hit.fields) == ("/elsewhere/v0.mp4", {})


def test_vectors_are_checked_before_anything_is_stored(engine: Engine) -> None:
    rows = random_rows(2)
    with pytest.raises(InputValueError, match=r"the vector of 'v1' has shape \(5,\)"):
        add(engine, [rows[0], rows[1] | {"vector": np.ones(5)}])
    assert engine.count() == 0


def test_a_row_knows_its_video_whatever_fields_are_asked_for(engine: Engine) -> None:
    row = random_rows(1)[0]
    add(engine, [row, row | {"id": "v0#1", "video": "v0", "start": 1, "end": 2.5}])
    whole, moment = engine.get("v0"), engine.get("v0#1")
    assert whole == Hit("v0", row["path"], 1.0, {"duration": 0.0}, "v0")
    assert moment == Hit("v0#1", row["path"], 1.0, {"duration": 0.0}, "v0", 1.0, 2.5)
    assert engine.search(row["vector"], 1, filter="start > 0", output_fields=["*", "duration"])[0].fields == (
        {"duration": 0.0}
    )
    for names in (["video"], [], ["start"]):
        hits = engine.search(row["vector"], 2, filter='video == "v0"', output_fields=names)
        found = {hit.id: (hit.path, hit.video, hit.start, hit.end, hit.fields) for hit in hits}
        assert found == {"v0": (row["path"], "v0", None, None, {}), "v0#1": (row["path"], "v0", 1.0, 2.5, {})}


def test_the_vector_of_a_hit_is_a_float32_array(engine: Engine) -> None:
    row = random_rows(1)[0]
    add(engine, [row])
    vector = engine.search(row["vector"], 1, output_fields=["vector"])[0].fields["vector"]
    assert isinstance(vector, np.ndarray)
    assert (vector.dtype, vector.shape) == (np.float32, (128,))
    np.testing.assert_allclose(vector, row["vector"], atol=1e-6)


def best_per_video(rows: list[dict], query: np.ndarray, per_video: int, limit: int) -> list[str]:
    """The expected hits of a search with ``per_video``."""
    counts: Counter[str] = Counter()
    found = []
    for row in sorted(rows, key=lambda row: -float(row["vector"] @ query)):
        counts[row["video"]] += 1
        if counts[row["video"]] <= per_video:
            found.append(row["id"])
    return found[:limit]


def test_a_search_per_video_returns_the_best_rows_of_each(engine: Engine) -> None:
    rows = moments(videos=30, per_video=20)
    query = random_rows(1, start=7)[0]["vector"]
    for row in rows[::30]:  # one video has the nearest rows of all
        row["vector"] = query + 0.3 * row["vector"]
        row["vector"] /= np.linalg.norm(row["vector"])
    add(engine, rows)
    for per_video, limit in ((1, 1), (1, 4), (1, 30), (2, 5), (3, 90), (1, 100), (20, 600)):
        hits = engine.search(query, limit, per_video=per_video, output_fields=["duration"])
        assert ids(hits) == best_per_video(rows, query, per_video, limit), (per_video, limit)
        assert {*hits[0].fields} == {"duration"}
    few = [row for row in rows if row["start"] < 60]
    assert ids(engine.search(query, 40, per_video=1, filter="start < 60")) == best_per_video(few, query, 1, 40)
    assert engine.search(query, 1, per_video=1)[0].video == "/v/0.mp4"
    for number in (0, -1, 1.5, True, "3"):
        with pytest.raises(InputValueError, match="per_video must be a whole number from 1, not"):
            engine.search(query, per_video=number)  # type: ignore[arg-type]


def test_all_rows_are_read_whatever_their_ids_are(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus_module, "READ_BATCH", 3)  # a batch may end with any id
    rows = [row | {"id": f"{name}{n}"} for n in range(4) for row, name in zip(random_rows(11), ODD_IDS, strict=True)]
    add(engine, rows)
    engine.delete([rows[5]["id"], rows[20]["id"]])
    expected = sorted(row["id"] for row in rows if row["id"] not in (rows[5]["id"], rows[20]["id"]))
    read = [*itertools.islice(engine.rows(["path", "camera"]), 100)]
    assert sorted(row["id"] for row in read) == expected
    assert {(*row,) for row in map(sorted, read)} == {("id", "path")}
    few = [row["id"] for row in engine.rows(["id"], "duration >= 9")]
    assert sorted(few) == sorted(row["id"] for row in rows if row["duration"] >= 9 and row["id"] in expected)
    [one] = engine.rows(["*", "vector"], f'id in ["{rows[0]["id"]}"]')
    np.testing.assert_allclose(one.pop("vector"), rows[0]["vector"], atol=1e-6)
    assert one == {"id": rows[0]["id"], "path": "/videos/v0.mp4", "video": rows[0]["id"], "duration": 0.0}
    with pytest.raises(VideoIndexError, match="the filter"):
        next(engine.rows(["id"], "duration <"))


def test_a_moved_row_keeps_its_vector_and_fields(engine: Engine) -> None:
    rows = random_rows(6)
    rows[1] |= {"camera": "front", "tags": ["a", "b"]}
    rows[2] |= {"video": "v1"}
    add(engine, rows)
    changes = {"v1": ("w1", "/w/1.mp4"), "v2": ("v2", "/w/2.mp4"), "none": ("w3", "/w/3.mp4")}
    engine.update_paths(changes, {"v1": "w1", "none": "w3"})
    assert engine.count() == 6
    assert engine.get("v1") is engine.get("w3") is None
    moved, same = engine.get("w1"), engine.get("v2")
    assert moved is not None
    assert same is not None
    assert (moved.path, moved.fields) == ("/w/1.mp4", {"duration": 1.0, "camera": "front", "tags": ["a", "b"]})
    assert (same.path, same.fields, same.video) == ("/w/2.mp4", {"duration": 2.0}, "w1")
    assert engine.search(rows[1]["vector"], 1)[0].id == "w1"
    # Ids that others have at first: a chain and an exchange.
    changes = {"w1": ("v2", "b"), "v2": ("x", "c"), "v3": ("v4", "4"), "v4": ("v3", "3"), "v5": ("v1", "1")}
    engine.update_paths(changes, {"w1": "v2", "v3": "v4", "v4": "v3", "v5": "v1"})
    assert sorted(row["id"] for row in engine.rows(["id"])) == ["v0", "v1", "v2", "v3", "v4", "x"]
    found = {
        hit.id: (hit.path, hit.fields["duration"]) for hit in map(engine.get, ("v1", "v2", "v3", "v4", "x")) if hit
    }
    assert found == {"v1": ("1", 5), "v2": ("b", 1), "v3": ("3", 4), "v4": ("4", 3), "x": ("c", 2)}
    for old, new in ((1, "v2"), (2, "x"), (3, "v4"), (4, "v3"), (5, "v1")):
        assert engine.search(rows[old]["vector"], 1)[0].id == new
    # An id that another row keeps.
    for changes in ({"v0": ("new", "a"), "v1": ("v2", "b")}, {"v0": ("new", "a"), "v1": ("new", "b")}):
        with pytest.raises(VideoIndexError, match=r"already has a video with the id '.*': delete one of the two first"):
            engine.update_paths(changes, {})
    with pytest.raises(VideoIndexError, match="already has a video with the id 'v2': delete one of the two first"):
        engine.update_paths({}, {"v0": "v2"})
    assert sorted(row["id"] for row in engine.rows(["id"])) == ["v0", "v1", "v2", "v3", "v4", "x"]


def test_fields_of_rows_can_be_set(engine: Engine) -> None:
    rows = random_rows(3)
    rows[0] |= {"camera": "front", "tags": ["a", "b"]}
    add(engine, rows)
    version = engine.version()
    engine.update_fields({})
    engine.update_fields({"v0": {"camera": None, "night": True}, "v1": {"title": "it's"}, "none": {"title": "x"}})
    fields = {row["id"]: row for row in engine.rows(["*"])}
    assert fields["v0"] == {"id": "v0", "path": "/videos/v0.mp4", "video": "v0", "duration": 0.0} | {
        "tags": ["a", "b"],
        "night": True,
    }
    assert fields["v1"]["title"] == "it's"
    assert fields.keys() == {"v0", "v1", "v2"}
    assert [row["id"] for row in engine.rows(["id"], 'title == "it\'s"')] == ["v1"]
    engine.check_filter("night == true", strict=True)  # the new fields are known
    assert ids(engine.search(rows[0]["vector"], 1, filter="night == true and not exists camera")) == ["v0"]
    assert [engine.search(row["vector"], 1)[0].id for row in rows] == ["v0", "v1", "v2"]
    assert (engine.version() != version) == engine.address.is_local


def test_the_version_changes_with_the_number_of_rows(engine: Engine) -> None:
    versions = [engine.version()]
    for work in (lambda: add(engine, random_rows(2)), lambda: engine.delete(["v0"])):
        work()
        versions.append(engine.version())
        assert engine.version() == versions[-1]
    assert len({*versions}) == 3


def test_the_best_score_is_that_of_the_nearest_row(engine: Engine) -> None:
    vectors = np.stack([row["vector"] for row in random_rows(5, start=100)])
    assert engine.best_scores(vectors).shape == (0,)
    rows = random_rows(50)
    rows[0]["vector"] = 3 * rows[0]["vector"]  # no vector has to have norm 1
    add(engine, rows)
    expected = [engine.search(vector, 1)[0].score for vector in vectors]
    tolerance = 0.01 if engine.address.is_local else 1e-5  # a file compares its codes
    np.testing.assert_allclose(engine.best_scores(vectors), expected, atol=tolerance)


def test_only_check_filter_warns_about_a_field_that_no_row_has(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    rows = random_rows(3)
    add(engine, rows)
    caplog.set_level(logging.WARNING)
    assert ids(engine.search(rows[0]["vector"], filter="duratoin < 60")) == []
    assert [*engine.rows(["id"], "duratoin < 60")] == []
    assert caplog.messages == []
    engine.check_filter("duratoin < 60")
    assert len(caplog.messages) == 1
    assert "did you mean duration?" in caplog.messages[0]
    for use in (
        lambda: engine.check_filter("duratoin < 60", strict=True),
        lambda: engine.delete(filter="nothing == 1"),
    ):
        with pytest.raises(VideoIndexError, match="but no video in the index does"):
            use()
    for use in (
        lambda: engine.check_filter("duration == 'x'"),
        lambda: engine.search(rows[0]["vector"], filter="duration == 'x'"),
        lambda: next(engine.rows(["id"], "duration == 'x'")),
        lambda: engine.delete(filter="duration == 'x'"),
    ):
        with pytest.raises(
            VideoIndexError, match="the filter compares duration, which is a number, with the string 'x'"
        ):
            use()
    assert engine.count() == 3


def test_failures_are_remembered_in_a_file_only(engine: Engine) -> None:
    failures = [Failure(f"/v/{number}.mp4", 5, 7, "no frames") for number in range(3)]
    engine.record_failures(failures)
    engine.forget_failures(["/v/1.mp4", "/v/none.mp4"])
    found = engine.failures(["/v/0.mp4", "/v/1.mp4", "/v/none.mp4"])
    assert found == ({"/v/0.mp4": failures[0]} if engine.address.is_local else {})


def test_a_field_can_have_an_index_in_a_file_only(index: VideoIndex) -> None:
    rows = random_rows(6)
    index.add([row | {"camera": f"c{number % 3}"} for number, row in enumerate(rows)])
    if index.address.is_local:
        index.index_field("camera")
    else:
        with pytest.raises(VideoIndexError, match="a server indexes fields by its own means"):
            index.index_field("camera")
    hits = index.search(vector=rows[1]["vector"], filter='camera == "c1"')
    assert sorted(ids(hits)) == ["v1", "v4"]
