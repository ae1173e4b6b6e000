"""The index, in a local file and on a real Milvus server."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from safetensors.torch import save_file
from servers import MilvusServer, PageServer, ask, free_port
from typer.testing import CliRunner

from clip4clip import (
    IndexUnavailableError,
    InputTypeError,
    InputValueError,
    LibraryError,
    ModelMismatchError,
    TextEncoder,
    UnknownNameError,
    VideoIndexError,
)
from clip4clip.cli import app
from clip4clip.encoder import EncoderSpec
from clip4clip.index.video_index import _local
from clip4clip.library.sources import absolute
from clip4clip.library.table import read_rows
from clip4clip.operators import MilvusSearch
from clip4clip.retrieval import Hit, VideoIndex, embed_library
from clip4clip.video import FrameSampling
from clip4clip.weights.identity import identify

DEMO = "clip_vit_tiny_demo"
numbers = itertools.count()


@pytest.fixture(params=["lite", "server"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "lite":
        return str(tmp_path / "videos.db")
    return request.getfixturevalue("milvus").uri


@pytest.fixture
def collection(request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"videos{next(numbers)}"
    yield name
    if "milvus" in request.fixturenames or "[server" in request.node.name:  # it starts the sooner the less it has
        with VideoIndex(request.getfixturevalue("milvus").uri, name) as index:
            index._client.drop_collection(name)


@pytest.fixture
def index(uri: str, collection: str) -> Iterator[VideoIndex]:
    with VideoIndex(uri, collection, encoder=EncoderSpec(DEMO)) as opened:
        yield opened


def made_up(count: int, start: int = 0, dim: int = 128) -> list[dict[str, Any]]:
    """Rows with random vectors, always the same."""
    demo = identify(None, DEMO)
    vectors = np.random.default_rng(start).normal(size=(count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        {"id": f"v{number}", "path": f"/videos/v{number}.mp4", "vector": vector, "duration": float(number)}
        | {"model": demo.model, "fingerprint": demo.fingerprint}
        for number, vector in enumerate(vectors, start)
    ]


def ids(hits: list[Hit]) -> list[str]:
    return [hit.id for hit in hits]


def test_sentences_find_their_clips_as_brute_force_does(
    index: VideoIndex, drawings_table: Path, captions: dict[str, str]
) -> None:
    assert index.add(drawings_table) == 24
    assert index.count() == 24
    rows = list(read_rows(drawings_table))
    matrix = np.stack([row["vector"] for row in rows])
    first = 0
    for caption, path in captions.items():
        hits = index.search(caption, limit=5)
        similarity = matrix @ TextEncoder.load(DEMO)(caption)
        best = np.argsort(-similarity)[:5]
        assert ids(hits) == [rows[place]["id"] for place in best]
        np.testing.assert_allclose([hit.score for hit in hits], similarity[best], atol=1e-5)
        first += hits[0].path == path
    assert first >= 20  # of 24; what the demo model is capable of is measured elsewhere


def test_a_video_finds_itself_and_its_fields_are_told(index: VideoIndex, drawings_table: Path) -> None:
    index.add(drawings_table)
    row = next(iter(read_rows(drawings_table)))
    for video in (row["path"], Path(row["path"]), Path(row["path"]).read_bytes()):
        hit = index.search(video=video, limit=1)[0]
        assert (hit.id, hit.path, hit.score) == (row["id"], row["path"], pytest.approx(1, abs=1e-5))
    told = {"duration": row["duration"], "frame_count": 16, "size": row["size"], "mtime": row["mtime"]}
    assert hit.fields == told
    assert index.search(vector=row["vector"], limit=1, output_fields=["size"])[0].fields == {"size": row["size"]}
    found = index.get(row["id"])
    assert found is not None
    assert (found.path, found.fields) == (row["path"], told)
    assert index.get("none") is None


NASTY = [
    "it's",
    'say "hi"',
    "back\\slash\\",
    "x' or id != '",
    'x"] or id not in ["',
    "a\nb\tc",
    "你好 🎬",
    "%_{id}",
    "<b>&amp;",
    "\x01\b\f\x7f\u2028",
]


def test_names_of_any_kind_are_names_and_nothing_more(index: VideoIndex) -> None:
    rows = [row | {"id": name, "path": f"/v/{name}"} for row, name in zip(made_up(len(NASTY)), NASTY, strict=True)]
    index.add(rows[1:])
    for row in rows[1:]:
        found = index.get(row["id"])
        assert found is not None
        assert (found.id, found.path) == (row["id"], row["path"])
        assert index.search(vector=row["vector"], limit=1)[0].id == row["id"]
    assert index.get(rows[0]["id"]) is None
    assert index.delete([rows[0]["id"]]) == 0
    for left, name in enumerate(NASTY[:0:-1], 1):
        assert index.delete([name]) == 1
        assert index.count() == len(NASTY) - 1 - left


def test_filters_are_milvuss(index: VideoIndex) -> None:
    index.add(made_up(30))
    query = made_up(30)[7]["vector"]
    assert len(index.search(vector=query, limit=30)) == 30
    hits = index.search(vector=query, limit=30, filter='duration < 10 and path like "/videos/%"')
    assert sorted(ids(hits)) == sorted(f"v{number}" for number in range(10))
    assert hits[0].id == "v7"
    assert index.search(vector=query, filter='id == "none"') == []
    with pytest.raises(VideoIndexError, match="says: "):
        index.search(vector=query, filter="duration <")


HOUR = 3600 * 10**9
JUNE = 1748728800 * 10**9  # midnight of 2025-06-01 in Berlin


@pytest.fixture
def dated(index: VideoIndex, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[str]]]:
    """A filter to the videos that it finds; v1, v2 and v3 were changed on 2025-06-01, v5 has no time."""
    if not hasattr(time, "tzset"):
        pytest.skip("the time zone of a process cannot be changed on Windows")
    rows = made_up(6)
    for row, mtime in zip(rows, (JUNE - 1, JUNE, JUNE + HOUR, JUNE + 24 * HOUR - 1, JUNE + 24 * HOUR), strict=False):
        row["mtime"] = mtime
    index.add(rows)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield lambda text: sorted(ids(index.search(vector=rows[0]["vector"], filter=text)))
    time.tzset()


DATES = {
    'modified > "2025-06-01"': "4",
    'modified >= "2025-06-01"': "1234",
    'modified < "2025-06-01"': "0",
    'modified <= "2025-06-01"': "0123",
    'modified == "2025-06-01"': "123",
    'modified != "2025-06-01"': "04",
    '"2025-06-01" < modified': "4",
    '"2025-06-01" <= modified < "2025-06-02"': "123",
    'modified in ["2025-06-01", "2025-05-31"]': "0123",
    'modified not in ["2025-06-01"]': "04",
    "(modified) > ('2025-06-01T00:30')": "234",
    'modified >= "2025-06-01 01:00"': "234",
    'modified == "2025-06-01T01:00:00"': "2",
    'modified < "2025-06-01T00:00:00.000001"': "01",
    'modified >= "2025-05-31T22:00:00Z"': "1234",
    'modified >= "2025-06-01T01:00:00+02:00"': "234",
    'modified >= "2025-06-01T01:00:00Z"': "34",
    'modified < "9000-01-01"': "01234",
    'modified > "1600-01-01"': "01234",
    'duration < 4 and modified > "2025-06-01" or id == "v0"': "0",
    'id != "v5" and not (modified > "2025-06-01")': "0123",
    "exists modified": "01234",
    f"mtime > {JUNE}": "234",
    "exists duration": "012345",
}


def test_dates_are_written_as_dates(dated: Callable[[str], list[str]]) -> None:
    for text, found in DATES.items():
        assert dated(text) == [f"v{number}" for number in found], text


def test_what_is_not_a_date_is_refused(dated: Callable[[str], list[str]]) -> None:
    for text, wrong in {
        'modified > "yesterday"': 'compares modified with "yesterday", which is not a date',
        'modified > "2025-13-01"': "which is not a date",
        'modified > "9999-12-31"': "which is out of range",
        r'modified > "\x"': "which is not a date",
        'modified > "2025-06-01" > duration': "compares modified together with something else",
        "modified > 3": "compares modified with 3",
        "modified > duration": "compares modified with an expression",
        'modified like "2025%"': "compares modified by like",
        "modified + 1 > 3": "uses modified in another way than to compare it",
        "json_contains(modified, 1)": "uses modified in another way than to compare it",
        'modified in "2025-06-01"': "looks for modified in something else than a list",
    }.items():
        with pytest.raises(VideoIndexError, match=wrong) as caught:
            dated(text)
        assert 'write modified > "2025-06-01"' in str(caught.value)


def test_a_field_called_modified_stays_its_owners(index: VideoIndex) -> None:
    row = made_up(1)[0]
    index.add([row | {"modified": "in spring", "mtime": JUNE}])
    assert ids(index.search(vector=row["vector"], filter='modified == "in spring"')) == ["v0"]


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


def test_a_comparison_of_the_wrong_kind_names_the_field_and_the_right_form(index: VideoIndex) -> None:
    rows = made_up(130)
    rows[0] |= {"camera": "front", "flag": True, "tags": ["p"], "place": {"k": 1}}
    for row in rows:
        row |= {"mixed": 1}
    rows[-1]["mixed"] = "x"  # beyond the sample
    index.add(rows)

    def found(text: str) -> list[str]:
        return sorted(ids(index.search(vector=rows[0]["vector"], filter=text)))

    for text, message in WRONG_KINDS.items():
        with pytest.raises(VideoIndexError, match=message):
            found(text)
    right = 'mtime > 5 or duration == 0 and camera >= "a" and flag == true and json_contains(tags, "p")'
    assert found(right) == found('place["k"] == 1 and camera like "fr%"') == ["v0"]
    assert found('mixed == "x"') == ["v129"]
    assert found("mixed == 1 and duration in [1.0, 2.0]") == ["v1", "v2"]
    with pytest.raises(VideoIndexError, match="mixed, which is a number"):
        found("mixed == true")


def test_fields_are_stored_as_json_holds_them(index: VideoIndex) -> None:
    row = made_up(1)[0] | {"n": np.int64(3), "list": [np.float32(0.5)], "day": date(2025, 6, 1), "pair": (1, "x")}
    index.add([row])
    hit = index.get("v0")
    assert hit is not None
    assert hit.fields == {"duration": 0.0, "n": 3, "list": [0.5], "day": "2025-06-01", "pair": [1, "x"]}


def test_a_misspelt_field_is_said(index: VideoIndex, caplog: pytest.LogCaptureFixture) -> None:
    index.create()
    query = made_up(1)[0]["vector"]
    assert index.search(vector=query, filter='camra == "front"') == []
    assert caplog.messages == []  # who has no videos has no fields either
    index.add([made_up(1)[0] | {"camera": "front"}, made_up(2)[1]])
    assert ids(index.search(vector=query, filter='camera == "front" and duration < 5')) == ["v0"]
    assert caplog.messages == []
    index.search(vector=query, filter='json_contains(camra, "front")')
    index.search(vector=query, filter='colour == "red"')
    told = "no video of the index has the field"
    assert caplog.messages == [
        f"{told} camra that the filter names: did you mean camera?",
        f"{told} colour that the filter names: the fields are camera, duration, id, path",
    ]
    with pytest.raises(VideoIndexError, match="the field camra that the filter names: did you mean camera"):
        index.delete(filter='camra != "front"')  # a server would delete all
    assert index.count() == 2
    index.add([made_up(1)[0] | {"mtime": JUNE}])
    index.search(vector=query, filter='Modified > "2025-06-01"')
    assert caplog.messages[2:] == [f"{told} Modified that the filter names: did you mean modified?"]


def test_what_only_milvus_knows_is_passed_on(index: VideoIndex) -> None:
    index.add(made_up(3))
    query = made_up(3)[0]["vector"]
    for text in ('id like "v%" && !(duration > 1)', "duration not in [2,]", "duration < 1 || duration == 1.0"):
        assert sorted(ids(index.search(vector=query, filter=text))) == ["v0", "v1"]
    for text in ("duration >", "a.b", "duration", 'path =~ "x"', "1"):
        with pytest.raises(VideoIndexError, match="says: "):
            index.search(vector=query, filter=text)
    if index.is_local:
        with pytest.raises(VideoIndexError, match="says: the filter is nested too deeply, it has too many brackets"):
            index.search(vector=query, filter="(" * 5000 + "duration > 1" + ")" * 5000)
    else:
        assert len(index.search(vector=query, filter="(" * 400 + "0 < duration < 2" + ")" * 400)) == 1


def test_adding_again_replaces(index: VideoIndex) -> None:
    rows = made_up(10)
    assert index.add(rows) == 10
    assert index.add(rows[:5] + made_up(3, start=10)) == 8
    assert index.count() == 13
    moved = rows[0] | {"vector": rows[1]["vector"], "duration": 99.0}
    index.add([moved])
    assert index.count() == 13
    assert set(ids(index.search(vector=rows[1]["vector"], limit=2))) == {"v0", "v1"}
    hit = index.get("v0")
    assert hit is not None
    assert hit.fields["duration"] == 99


def test_of_two_rows_of_an_id_the_last_counts(index: VideoIndex) -> None:
    first, other = made_up(2)
    assert index.add([first, other, first | {"duration": 7.0}]) == 2
    assert index.count() == 2
    assert [(hit.id, hit.fields["duration"]) for hit in index.search(vector=first["vector"], limit=5)] == [
        ("v0", 7.0),
        ("v1", 1.0),
    ]


def test_a_row_that_is_replaced_leaves_none_of_its_fields(index: VideoIndex) -> None:
    row = made_up(1)[0]
    index.add([row | {"camera": "front"}, *made_up(2, start=1)])
    index.add([{name: value for name, value in row.items() if name != "duration"}])
    hit = index.get("v0")
    assert hit is not None
    assert hit.fields == {}
    assert index.search(vector=row["vector"], filter='camera == "front"') == []
    assert hit.length == ""
    index.add([row | {"camera": "front"}])
    index.insert("v0", "/elsewhere/v0.mp4", row["vector"])
    hit = index.get("v0")
    assert hit is not None
    assert (hit.path, hit.fields) == ("/elsewhere/v0.mp4", {})
    assert index.search(vector=made_up(2, start=1)[1]["vector"], limit=1)[0].length == "0:02"


def test_a_length_that_is_none_is_not_shown() -> None:
    lengths = {7220: "2:00:20", 3725.2: "1:02:05", 3599.9: "59:59", 59.9: "0:59", 0: "0:00"}
    lengths |= dict.fromkeys(["1:20", float("nan"), float("inf"), -1.0], "")
    assert {value: Hit("a", "", 1, {"duration": value}).length for value in lengths} == lengths


def test_deleting_tells_how_many_there_were(index: VideoIndex) -> None:
    index.add(made_up(20))
    assert index.delete(["v3", "v4", "none"]) == 2
    assert index.delete(["v3"]) == 0
    assert index.delete(filter="duration >= 15") == 5
    assert index.count() == 13
    assert "v3" not in ids(index.search(vector=made_up(20)[3]["vector"], limit=20))
    with pytest.raises(InputTypeError, match="must be a list of ids"):
        index.delete("v3")


def test_it_is_all_there_when_it_is_opened_again(uri: str, collection: str) -> None:
    with VideoIndex(uri, collection) as index:
        index.add(made_up(25))
    with VideoIndex(uri, collection) as index:
        assert index.count() == 25
        assert index.model == identify(None, DEMO)
        assert index.search("a red square", limit=3)  # by the model that the index names


def test_another_model_is_refused_with_both_names(
    index: VideoIndex, uri: str, collection: str, tmp_path: Path, random_state: Callable[..., Any]
) -> None:
    from clip4clip.config import MODELS

    index.add(made_up(3))
    weights = tmp_path / "other.safetensors"
    save_file(random_state(MODELS[DEMO].config, 7), weights)
    with VideoIndex(uri, collection, encoder=EncoderSpec(model_name=DEMO, weights=weights)) as other:
        ours, theirs = identify(None, DEMO).fingerprint, identify(weights, DEMO).fingerprint
        both = f"has vectors of {DEMO} with the weights {ours}, .* of {DEMO} with the weights {theirs}"
        with pytest.raises(ModelMismatchError, match=both):
            other.search("a red square")
        with pytest.raises(ModelMismatchError, match=both):
            other.sync(tmp_path if list(tmp_path.glob("*.mp4")) else made_video(tmp_path))
        with pytest.raises(ModelMismatchError, match=both):
            other.add([made_up(1)[0] | {"fingerprint": theirs}])
        assert other.search(vector=made_up(1)[0]["vector"], limit=1)[0].id == "v0"
    assert index.count() == 3


def test_another_model_is_refused_before_anything_is_fetched(
    index: VideoIndex, uri: str, collection: str, drawings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(made_up(3))
    monkeypatch.setattr("clip4clip.encoder.EncoderSpec.identify", lambda *_: pytest.fail("a checkpoint is looked for"))
    theirs = f"has vectors of {DEMO} with the weights .*, which cannot be compared with vectors of clip_vit_b16"
    with VideoIndex(
        uri, collection, encoder=EncoderSpec(model_name="clip_vit_b16", weights="hf://owner/repo")
    ) as other:
        for ask in (
            lambda: other.search("a red square"),
            lambda: other.search(video="none.mp4"),
            lambda: other.sync(drawings / "eval"),
            other.create,
        ):
            with pytest.raises(ModelMismatchError, match=theirs):
                ask()
        with pytest.raises(ModelMismatchError, match="this index was opened for the model clip_vit_b16"):
            other.add(made_up(1))
    with (
        VideoIndex(uri, collection, encoder=EncoderSpec("b99")) as other,
        pytest.raises(UnknownNameError, match="'b99'"),
    ):
        other.search("a red square")


def test_a_collection_is_made_as_a_table_was(
    index: VideoIndex, drawings_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clip4clip.encoder.EncoderSpec.identify", lambda *_: pytest.fail("a checkpoint is looked for"))
    for wrong in ({"frames": 4}, {"seek": "keyframe"}):
        with pytest.raises(ModelMismatchError, match="has vectors of 12 frames, seek 'exact', not of"):
            index.create(table=drawings_table, **wrong)  # type: ignore[arg-type]
    with VideoIndex(index.uri, index.collection) as fresh:  # whose model would be clip_vit_b32
        fresh.create(table=drawings_table)
        fresh.create(table=drawings_table)
        assert fresh.model is not None
        assert fresh.model.model == DEMO
        assert fresh.add({**row, "camera": "front"} for row in read_rows(drawings_table)) == 24


def made_video(folder: Path) -> Path:
    from clips import write

    (folder / "one").mkdir()
    write(folder / "one" / "a.mp4", count=5)
    return folder / "one"


def test_sync_follows_a_folder(index: VideoIndex, drawings: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "clips", tmp_path / "clips-of-others"
    shutil.copytree(drawings / "eval", folder)
    shutil.copytree(drawings / "eval", other)
    names = sorted(path.name for path in folder.iterdir())
    assert index.sync(folder).added == 24
    assert index.sync(other).added == 24
    report = index.sync(folder)
    assert (report.added, report.changed, report.dropped, report.unchanged) == (0, 0, 0, 24)
    shutil.copy(folder / names[0], folder / names[1])
    (folder / names[2]).unlink()
    shutil.copy(folder / names[3], folder / "new.mp4")
    (folder / "bad.mp4").write_text("not a video")
    report = index.sync(folder)
    assert (report.added, report.changed, report.dropped, report.unchanged) == (1, 1, 1, 22)
    assert list(report.failed) == [str(folder / "bad.mp4")]
    (folder / "bad.mp4").unlink()
    report = index.sync(folder)
    assert (report.added, report.changed, report.dropped, report.unchanged) == (0, 0, 0, 24)
    assert index.count() == 48
    twins = index.search(video=folder / names[0], limit=3)
    assert {str(folder / names[0]), str(folder / names[1])} < set(ids(twins))
    with pytest.raises(ModelMismatchError, match="vectors of 12 frames, seek 'exact', not of 4"):
        index.sync(folder, sampling=FrameSampling(frames=4))
    # A good file that is damaged is not found any more.
    (folder / names[5]).write_text("damaged")
    report = index.sync(folder)
    assert (report.dropped, list(report.failed)) == (1, [str(folder / names[5])])
    assert index.count() == 47


def test_a_folder_that_is_not_mounted_empties_nothing(index: VideoIndex, drawings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    shutil.copytree(drawings / "eval", folder)
    index.sync(folder)
    shutil.rmtree(folder)
    with pytest.raises(InputValueError, match="no folder at"):
        index.sync(folder)
    folder.mkdir()
    with pytest.raises(LibraryError, match="no videos in"):
        index.sync(folder)
    assert index.count() == 24


def test_sync_leaves_names_and_fields_to_videos_that_have_their_own(
    index: VideoIndex, drawings: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number, clip in enumerate(sorted((drawings / "eval").iterdir())[:3]):
        shutil.copy(clip, folder / f"{number}.mp4")
    table = tmp_path / "videos.csv"
    table.write_text("id,path\n" + "".join(f"video{number},clips/{number}.mp4\n" for number in range(3)))
    embed_library(table, tmp_path / "vectors.parquet", encoder=EncoderSpec(DEMO))
    index.add(row | {"title": f"the {row['id']}"} for row in read_rows(tmp_path / "vectors.parquet"))
    report = index.sync(folder)
    assert (report.added, report.changed, report.dropped, report.unchanged) == (0, 0, 0, 3)
    shutil.copy(folder / "0.mp4", folder / "1.mp4")
    report = index.sync(folder)
    assert (report.added, report.changed, report.dropped, report.unchanged) == (0, 1, 0, 2)
    found = {hit.id: hit.fields["title"] for hit in index.search(video=folder / "0.mp4")}
    assert found == {f"video{number}": f"the video{number}" for number in range(3)}
    (folder / "2.mp4").unlink()
    assert index.sync(folder).dropped == 1
    assert index.get("video2") is None


def test_a_folder_that_cannot_be_listed_keeps_its_videos(
    index: VideoIndex, drawings: Path, tmp_path: Path, unlistable: Callable[[Path], None]
) -> None:
    folder, closed = tmp_path / "clips", tmp_path / "clips" / "closed"
    closed.mkdir(parents=True)
    clips = sorted((drawings / "eval").iterdir())
    for number in range(4):
        shutil.copy(clips[number], (closed if number < 2 else folder) / f"{number}.mp4")
    assert index.sync(folder).added == 4
    (folder / "3.mp4").unlink()

    unlistable(closed)
    report = index.sync(folder)
    assert (report.added, report.changed, report.dropped, report.unchanged) == (0, 0, 1, 1)
    assert report.unlisted == {str(closed): f"the folder {closed} cannot be listed: Permission denied"}
    assert index.count() == 3


def test_what_is_there_and_not_listed_is_not_dropped(index: VideoIndex, drawings: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "clips", tmp_path / "other"
    (folder / ".hidden").mkdir(parents=True)
    other.mkdir()
    clips = sorted((drawings / "eval").iterdir())
    for number, path in enumerate((folder / "a.mp4", folder / ".hidden" / "b.mp4", folder / "c.m2v", other / "d.mp4")):
        shutil.copy(clips[number], path)
    (folder / "link").symlink_to(other)
    names = ("a.mp4", ".hidden/b.mp4", "c.m2v", "link/d.mp4")
    (tmp_path / "list.txt").write_text("".join(f"clips/{name}\n" for name in names))
    embed_library(tmp_path / "list.txt", tmp_path / "vectors.parquet", encoder=EncoderSpec(DEMO))
    index.add(tmp_path / "vectors.parquet")
    report = index.sync(folder)
    assert (report.dropped, report.unchanged, index.count()) == (0, 1, 4)
    (folder / "link").unlink()
    assert index.sync(folder).dropped == 1


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs another user")
def test_a_folder_whose_files_cannot_be_looked_at_keeps_its_videos(drawings: Path) -> None:
    code = """
import os, sys, tempfile
from pathlib import Path
from clip4clip.retrieval import VideoIndex
with tempfile.TemporaryDirectory() as place:
    closed = Path(place, "clips/closed")
    closed.mkdir(parents=True)
    for path in (closed / "a.mp4", closed.parent / "b.mp4"):
        path.write_bytes(Path(sys.argv[1]).read_bytes())
    with VideoIndex(place + "/videos.db", model_name="clip_vit_tiny_demo") as index:
        index.sync(closed.parent)
        for path in (Path(place), *Path(place).rglob("*")):
            os.chown(path, 65534, 65534)
        closed.chmod(0o444)
        os.seteuid(65534)  # root may look at everything
        report = index.sync(closed.parent)
        print(report.dropped, report.unchanged, list(report.failed) == [str(closed / "a.mp4")], index.count())
        os.seteuid(0)
"""
    clip = min((drawings / "eval").iterdir())
    done = subprocess.run([sys.executable, "-c", code, clip], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1", "True", "2"]


def test_what_cannot_be_searched_for_is_said(index: VideoIndex, tmp_path: Path) -> None:
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
    for words in ("a red square", ["1"] * 128, b"x" * 128, [None] * 128, [[1, 2], [3]], np.ones(128) * 1j, object()):
        with pytest.raises(InputTypeError, match="the vector to search for must be numbers, not"):
            index.search(vector=words)  # type: ignore[arg-type]
    one = made_up(1)[0]["vector"]
    assert index.search(vector=list(one), limit=np.int64(3)) == []  # type: ignore[arg-type]
    with pytest.raises(InputValueError, match="a filter must be valid Unicode"):
        index.search(vector=one, filter='id == "\udcff"')
    with pytest.raises(InputTypeError, match="a filter must be a string, not 5"):
        index.search(vector=one, filter=5)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="must be a list of names, not the string 'size'"):
        index.search(vector=one, output_fields="size")
    with pytest.raises(InputValueError, match="a name in output_fields must be valid Unicode"):
        index.search(vector=one, output_fields=["\udcff"])
    for use in (index.get, lambda name: index.delete([name]), lambda name: index.insert(name, one)):
        with pytest.raises(InputValueError, match="an id must be valid Unicode"):
            use("\udcff")
    with pytest.raises(InputTypeError, match="the vector of 'a' must be numbers"):
        index.insert("a", "a red square")
    with pytest.raises(FileNotFoundError):
        index.search(video=tmp_path / "none.mp4")


def test_rows_that_are_none_are_refused_whole(index: VideoIndex) -> None:
    good = made_up(1)[0]
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
        ({"note": {1, 2}}, "the field note of 'v0' cannot be stored, set is no kind of JSON"),
        ({"size": 2**63}, "the field size of 'v0' cannot be stored, more than 64 bits"),
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
    for nothing in (5, None, good):
        with pytest.raises(InputTypeError, match="expected the path of a table or rows as dictionaries"):
            index.add(nothing)  # type: ignore[arg-type]
    with pytest.raises(InputValueError, match="a row has no fingerprint, model, path, vector"):
        index.add([{"id": "a"}])
    with pytest.raises(InputValueError, match="a row has no fingerprint"):
        index.add([{name: value for name, value in good.items() if name != "fingerprint"}])
    if index._find():
        assert index.count() == 0


def test_several_threads_search_at_once(index: VideoIndex) -> None:
    rows = made_up(50)
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


def test_a_collection_is_not_searched_before_it_is_loaded(index: VideoIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    index.add(made_up(5))
    index._known = None  # as after a failure of the server
    load, loaded = index._client.load_collection, threading.Event()

    def slowly(*arguments: Any, **options: Any) -> None:
        time.sleep(0.3)
        load(*arguments, **options)
        loaded.set()

    monkeypatch.setattr(index._client, "load_collection", slowly)
    ready: list[bool] = []
    threads = [threading.Thread(target=lambda: ready.append(index.count() == 5 and loaded.is_set())) for _ in range(4)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert ready == [True] * 4


def test_a_collection_of_somebody_else_takes_vectors_and_no_sentences(uri: str, collection: str) -> None:
    from pymilvus import MilvusClient

    with VideoIndex(uri, collection) as index:
        client: MilvusClient = index._client
        client.create_collection(collection, dimension=128, metric_type="COSINE", auto_id=False)
        row = made_up(2)[1]
        index.insert(7, row["vector"])
        assert index.search(vector=row["vector"], limit=1)[0].id == 7
        with pytest.raises(ModelMismatchError, match="been made by something else than clip4clip"):
            index.search("a red square")
        with pytest.raises(ModelMismatchError):
            index.add([row])
        with pytest.raises(InputValueError, match="3 values were given for the fields id, vector"):
            index.insert(1, 2, 3)
        assert index.delete([7]) == 1
        with pytest.raises(InputValueError, match="'seven' is no key of a collection whose keys are whole numbers"):
            index.delete(["seven"])
        for name in (7.5, None, 2**63):
            with pytest.raises(InputValueError, match="is no key of a collection"):
                index.delete([name])  # type: ignore[list-item]
        with pytest.raises(InputValueError, match=r"'picture' is no field of float vectors in .*, but vector"):
            index.search(vector=row["vector"], anns_field="picture")


def test_a_collection_without_float_vectors_is_refused(milvus: MilvusServer, collection: str) -> None:
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("bits", DataType.BINARY_VECTOR, dim=128)
    with VideoIndex(milvus.uri, collection) as index:
        kind = MilvusClient.prepare_index_params("bits", index_type="BIN_FLAT", metric_type="HAMMING")
        index._client.create_collection(collection, schema=schema, index_params=kind)
        assert index.insert(1, bytes(16)) == 1
        assert index.count() == 1
        with pytest.raises(InputValueError, match=r"no field of float vectors in .*, but none"):
            index.search(vector=made_up(1)[0]["vector"])


def test_towhees_operator_gives_the_fields_that_are_asked_for(index: VideoIndex) -> None:
    rows = made_up(2)
    index.add(rows)
    search = MilvusSearch(
        collection_name=index.collection, uri=index.uri, limit=1, output_fields=["id", "duration", "path", "vector"]
    )
    name, score, *fields = search(rows[1]["vector"])[0]
    assert (name, fields[:3]) == ("v1", ["v1", 1.0, "/videos/v1.mp4"])
    assert score == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(fields[3], rows[1]["vector"], atol=1e-6)
    search._index.close()


# A local file alone


@pytest.mark.parametrize("uri_", ["videos.sqlite", "none/videos.db", "videos"])
def test_a_uri_that_is_none_is_refused(uri_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoIndexError, match=f"'.*{uri_}' (is not an index|cannot be an index)"):
        VideoIndex(uri_)
    assert list(tmp_path.iterdir()) == []


SERVERS = {
    "http://": "it names no host",
    "http://:19530": "it names no host",
    "https:///x": "it names no host",
    "tcp://": "it names no host",
    "http://?x": "it names no host",
    "http://127.0.0.1:99999": "Port out of range",
    "http://127.0.0.1:0": "the port must be 1 to 65535",
    "http://127.0.0.1:-1": "Port",
    "http://127.0.0.1:x": "Port could not be cast",
    "http://[::1": "Invalid IPv6 URL",
    "http://127.0.0.1 :1": "it has characters that no address has",
    "http:// 127.0.0.1:1": "it has characters that no address has",
    " http://127.0.0.1:1": "it has characters that no address has",
    "http://127.0.0.1\n:1": "it has characters that no address has",
    "http://a\udcff:1": "it has characters that no address has",
    "http://127.0.0.1:1?x=1": "it has more than a host and a port",
    "http://127.0.0.1:1/x.db": "it has more than a host and a port",
    "ftp://127.0.0.1/x.db": "ftp:// is no protocol of Milvus",
    "unix:///x": "unix:// is no protocol of Milvus",
    "://": ":// is no protocol of Milvus",
}


def test_an_address_that_is_none_is_refused_and_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip4clip.index.video_index.MilvusClient", lambda *_, **__: pytest.fail("somebody is asked"))
    for address, wrong in SERVERS.items():
        with pytest.raises(VideoIndexError, match=f"is not the address of a server, {wrong}.*: expected http"):
            VideoIndex(address)
        result = CliRunner().invoke(app, ["search", "a", f"--uri={address}"])
        assert isinstance(result.exception, VideoIndexError)
    with pytest.raises(VideoIndexError, match=r"holds no user and password: .*a token") as caught:
        VideoIndex("http://me:secret@127.0.0.1:1")
    assert "secret" not in str(caught.value)
    for nothing in (5, None):
        with pytest.raises(InputTypeError, match="uri must be a string or a path"):
            VideoIndex(nothing)  # type: ignore[arg-type]
    for token in ("secret\udcff", "secret\n", 5):
        with pytest.raises(InputValueError, match="the token is not a string of printable characters") as refused:
            VideoIndex("http://127.0.0.1:1", token=token)  # type: ignore[arg-type]
        assert "secret" not in str(refused.value)
    with pytest.raises(VideoIndexError, match="it names no host"):
        MilvusSearch(host="", collection_name="videos")


def test_addresses_of_servers_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("clip4clip.index.video_index.MilvusClient", lambda uri, **_: asked.append(uri))
    addresses = ["http://milvus", "http://127.0.0.1:19530", "https://in03-1a.serverless.gcp-us-west1.cloud.zilliz.com"]
    addresses += ["https://milvus:443/library", "tcp://milvus:19530", "HTTP://[::1]:19530/", "http://my_milvus:19530"]
    for address in addresses:
        VideoIndex(address)
    assert asked == addresses


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "", " ", ".", "..", "a\n", "a\0", "a\udcff"])
def test_what_cannot_be_the_name_of_a_collection_is_refused(name: str, tmp_path: Path) -> None:
    for uri in (str(tmp_path / "videos.db"), "http://127.0.0.1:1"):
        with pytest.raises(VideoIndexError, match="cannot be the name of a collection: use letters"):
            VideoIndex(uri, name)
    with pytest.raises(InputTypeError, match="the name of a collection must be a string, not 5"):
        VideoIndex(tmp_path / "videos.db", 5)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_why_a_local_file_cannot_be_opened_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    (tmp_path / "file.db").write_text("not a folder")
    with pytest.raises(VideoIndexError, match=r"file.db is a file, and a local index is a folder") as caught:
        VideoIndex(tmp_path / "file.db")
    assert not isinstance(caught.value, IndexUnavailableError)
    with VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec(DEMO)) as index:
        index.add(made_up(3))

    def read_only(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if str(path).endswith("LOCK") and flags & os.O_RDWR:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return opened(path, flags, *rest, **options)

    opened = os.open  # as root, who may run the tests, can write wherever the disk can be written
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        with pytest.raises(VideoIndexError, match=r"cannot be opened: .*Read-only.*It must be on a disk") as caught:
            VideoIndex(tmp_path / "videos.db")
        assert not isinstance(caught.value, IndexUnavailableError)
    with VideoIndex(tmp_path / "videos.db") as index:
        assert index.count() == 3
    with pytest.raises(VideoIndexError, match="has been closed: open another one"):
        index.count()


FULL = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from test_index import DEMO, made_up
from clip4clip import IndexUnavailableError, VideoIndexError
from clip4clip.retrieval import VideoIndex
with VideoIndex(sys.argv[1], model_name=DEMO) as index:
    index.add(made_up(3))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    try:
        index.add(made_up(4000))
    except VideoIndexError as error:
        assert not isinstance(error, IndexUnavailableError), error
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, tmp_path / "videos.db", Path(__file__).parents[1]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "says: [Errno 27]" in done.stdout  # the system's own words, as for a full disk


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_is_no_table_is_refused_at_once(tmp_path: Path, drawings: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.txt").write_text("videos")
    clip = min((drawings / "eval").iterdir())
    with VideoIndex(tmp_path / "videos.db") as index:
        for path, wrong in {
            tmp_path / "pipe": "there is no table at .*pipe: write one by `clip4clip embed",
            tmp_path / "none.parquet": "there is no table at .*none.parquet",
            tmp_path: "is a folder: expected a table",
            tmp_path / "text.txt": "is not a table",
            clip: "is not a table",
        }.items():
            with pytest.raises(LibraryError, match=wrong):
                index.add(path)
            with pytest.raises(LibraryError, match=wrong):
                index.create(table=path)
        assert not index._client.has_collection("videos")


def test_a_server_is_asked_without_pyarrow_and_a_local_file_says_what_is_missing(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["pyarrow"] = sys.modules["milvus_lite"] = None
from clip4clip.errors import IndexUnavailableError, MissingExtraError
from clip4clip.operators import MilvusInsert
for arguments in ({"port": 1}, {"uri": sys.argv[1]}):
    try:
        MilvusInsert(host="127.0.0.1", collection_name="videos", **arguments)
    except (IndexUnavailableError, MissingExtraError) as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "videos.db"], capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("IndexUnavailableError the index at http://127.0.0.1:1 does not answer")
    assert second == "MissingExtraError a local index needs milvus-lite: pip install 'towhee-clip4clip[retrieval]'"


def test_two_processes_cannot_open_one_file_and_are_told(tmp_path: Path) -> None:
    code = "import sys; from clip4clip.retrieval import VideoIndex; VideoIndex(sys.argv[1])"
    with VideoIndex(tmp_path / "videos.db"), VideoIndex(tmp_path / "videos.db"):  # one process can, twice
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "videos.db"], capture_output=True, text=True)
        assert "IndexUnavailableError: the index" in done.stderr
        assert "cannot be opened: another process is using it\n" in done.stderr
        command = [sys.executable, "-m", "clip4clip", "search", "a", "--uri", tmp_path / "videos.db"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    subprocess.run([sys.executable, "-c", code, tmp_path / "videos.db"], check=True)


def test_threads_open_write_and_close_one_file_as_they_like(tmp_path: Path) -> None:
    def work(number: int) -> None:
        for start in range(number * 1000, (number + 1) * 1000, 250):
            with VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec(DEMO)) as opened:
                opened.add(made_up(250, start=start))

    with VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec(DEMO)) as index:
        index.create()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    with VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec(DEMO)) as index:
        assert index.count() == 4000
        assert sorted(file.id for file in index._files()) == sorted(f"v{number}" for number in range(4000))


def test_all_of_one_file_have_one_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip4clip.index.video_index.MilvusClient", lambda *_, **__: None)
    together = threading.Barrier(6)

    def opened(path: str) -> int:
        together.wait()
        return id(VideoIndex(path)._writing)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            for number in range(300):
                assert len(set(pool.map(opened, [f"{number}.db"] * 6))) == 1
    finally:
        sys.setswitchinterval(before)
        for number in range(300):
            _local.pop(absolute(f"{number}.db"))


def test_threads_write_to_one_file_in_turn(tmp_path: Path) -> None:
    rows = made_up(4000)
    with VideoIndex(tmp_path / "videos.db", encoder=EncoderSpec(DEMO)) as index:

        def work(number: int) -> None:
            for start in range(number * 500, (number + 1) * 500, 50):
                index.add(rows[start : start + 50])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        everything_is_there_once(index, 4000)


def test_a_file_that_is_closed_by_one_stays_open_for_the_other(tmp_path: Path) -> None:
    first, second = VideoIndex(tmp_path / "videos.db"), VideoIndex(tmp_path / "videos.db")
    first.add(made_up(3))
    first.close()
    first.close()
    assert second.count() == 3
    second.close()


ADDING = """
import sys
sys.path.insert(0, sys.argv[3])
from test_index import made_up
from clip4clip.retrieval import VideoIndex
with VideoIndex(sys.argv[1], sys.argv[2]) as index:
    def track(rows, total, what):
        for number, row in enumerate(rows):
            yield row
            if number == 2000:
                print("half", flush=True)
    print(index.add(made_up(5000), track))
"""


def adding(uri: str, collection: str) -> subprocess.Popen[str]:
    """A process that adds 5,000 videos, some of which are there when this returns."""
    command = [sys.executable, "-c", ADDING, uri, collection, str(Path(__file__).parents[1])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    return process


def everything_is_there_once(index: VideoIndex, count: int) -> None:
    assert index.count() == count
    there = [file.id for file in index._files()]
    assert len(there) == len(set(there)) == count
    rows = made_up(count)
    for number in range(0, count, count // 50):
        assert index.search(vector=rows[number]["vector"], limit=1)[0].id == f"v{number}"


def test_a_process_killed_while_it_adds_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    uri = str(tmp_path / "videos.db")
    process = adding(uri, "videos")
    process.kill()
    process.communicate()
    with VideoIndex(uri) as index:
        before = index.count()
        assert 1500 <= before < 5000  # what was acknowledged is there
        index.add(made_up(5000))
        everything_is_there_once(index, 5000)


# A server alone


def test_a_server_killed_in_mid_upsert_loses_nothing_and_doubles_nothing(milvus: MilvusServer, collection: str) -> None:
    process = adding(milvus.uri, collection)
    rows = made_up(5000)
    with VideoIndex(milvus.uri, collection, timeout=20) as index:
        assert index.count() >= 1500  # waits for what others have written, which a search need not find at once
        assert index.search(vector=rows[3]["vector"], limit=1)[0].id == "v3"
        milvus.kill()
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 1
        assert "IndexUnavailableError: the index at" in said
        with pytest.raises(IndexUnavailableError, match="does not answer"):
            index.search(vector=rows[3]["vector"])
        milvus.start()
        end = time.monotonic() + 300
        while True:  # what was open before goes on by itself, once the server has loaded its collections
            try:
                assert index.search(vector=rows[3]["vector"], limit=1)[0].id == "v3"
                break
            except IndexUnavailableError:
                assert time.monotonic() < end
                time.sleep(0.5)
        assert 1500 <= index.count() <= 5000
        index.add(rows)
        everything_is_there_once(index, 5000)
        kind = index._client.describe_index(collection, "vector")
        assert (kind["index_type"], kind["metric_type"]) == ("HNSW", "COSINE")


def test_the_page_says_in_a_sentence_that_its_server_is_down(
    milvus: MilvusServer, collection: str, browser: Any, drawings_table: Path, easy: tuple[str, str]
) -> None:
    caption, name = easy
    with VideoIndex(milvus.uri, collection) as index:
        index.add(drawings_table)
        clip = next(row["id"] for row in read_rows(drawings_table) if Path(row["path"]).name == name)
    with PageServer(milvus.uri, "--collection", collection) as page, browser.new_page() as tab:
        tab.goto(f"{page.url}?q={caption}")
        first = tab.locator(".hits li").first
        first.get_by_text(name).wait_for()
        assert page.get(f"/library/video?id={quote(clip, safe='')}")[0] == 200
        milvus.kill()
        ask(tab, "a red square")
        alert = tab.get_by_role("alert")
        alert.wait_for(timeout=300_000)
        assert alert.inner_text() == "The index does not answer at the moment. Please try again in a minute."
        assert tab.locator(".hits li").count() == 0
        assert page.get(f"/library/video?id={quote(clip, safe='')}")[0] == 503
        milvus.start()
        end = time.monotonic() + 300
        while not tab.locator(".hits li").count():  # what is open goes on by itself
            assert time.monotonic() < end
            ask(tab, caption)
            tab.wait_for_timeout(2000)
        first.get_by_text(name).wait_for()
        assert "Traceback" not in page.stop()


def test_a_server_that_is_not_there_is_said_in_a_sentence() -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(IndexUnavailableError, match=f"the index at {uri} does not answer"):
        VideoIndex(uri, timeout=3)
    result = subprocess.run(
        [sys.executable, "-m", "clip4clip", "search", "a red square", "--uri", uri],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert result.returncode == 2
    assert f"error the index at {uri} does not answer" in result.stderr
    assert "Traceback" not in result.stderr


# The commands


def test_three_commands_find_the_right_clip(
    drawings: Path, drawings_table: Path, captions: dict[str, str], easy: tuple[str, str], uri: str, collection: str
) -> None:
    where = ["--uri", uri, "--collection", collection]
    run = CliRunner()
    result = run.invoke(app, ["index", str(drawings_table), *where])
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"24 added or replaced; 24 videos in '{collection}' of {uri}" in result.stderr
    caption, path = easy[0], captions[easy[0]]
    found = run.invoke(app, ["search", caption, "-k", "3", "--json", *where])
    assert found.exit_code == 0
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert (len(lines), lines[0]["path"], lines[0]["duration"]) == (3, path, 2.0)
    like = run.invoke(app, ["search", "--video", path, "-k", "1", "--json", *where])
    assert json.loads(like.stdout)["path"] == path
    shown = run.invoke(app, ["search", caption, "-k", "1", *where])
    column = [line.split("│")[4].strip() for line in shown.stdout.splitlines() if "│" in line]
    assert "".join(column) == path  # however long, and however narrow the terminal
    none = run.invoke(app, ["search", caption, "--filter", "duration > 100", *where])
    assert (none.exit_code, none.stdout) == (0, "")
    assert "no videos were found" in none.stderr
    assert run.invoke(app, ["search", caption, "--video", path, *where]).exit_code == 2
    again = run.invoke(app, ["index", str(drawings / "eval"), *where])
    assert "0 added, 0 changed, 0 dropped, 24 as before; 24 videos" in again.stderr
    (Path(uri).parent / "x.txt").write_text("x") if "://" not in uri else None
    wrong = run.invoke(app, ["search", caption, "-m", "clip_vit_b32", "-w", "none", *where])
    assert isinstance(wrong.exception, Exception)


# The published tutorial


def tutorial(drawings: Path, *where: str) -> list[str]:
    """What the example prints."""
    script = Path(__file__).parents[2] / "examples" / "text_video_retrieval.py"
    command = [sys.executable, str(script), str(drawings / "eval.csv"), *where]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_index_that_is_not_there_is_not_made_by_a_question(tmp_path: Path) -> None:
    for command in (["search", "a dog"], ["serve"]):
        done = subprocess.run(
            [sys.executable, "-m", "clip4clip", *command, "--uri", "none.db"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (2, "error no index at none.db: create it with `clip4clip index`\n")
    assert list(tmp_path.iterdir()) == []


def test_the_tutorial_counts_what_the_matrix_of_similarities_has(
    drawings: Path, drawings_table: Path, captions: dict[str, str], uri: str, collection: str
) -> None:
    where = ["--uri", uri] if "://" not in uri else ["--host", "127.0.0.1", "--port", uri.rsplit(":", 1)[1]]
    said = tutorial(drawings, *where, "--collection", collection)
    rows = list(read_rows(drawings_table))
    paths, matrix = [row["path"] for row in rows], np.stack([row["vector"] for row in rows])
    similarity = {path: matrix @ TextEncoder.load(DEMO)(text) for text, path in captions.items()}
    ranks = [int((scores > scores[paths.index(path)]).sum()) for path, scores in similarity.items()]
    assert len(ranks) == 24
    assert said == [
        f"the right video is among the first {first}: {100 * np.mean(np.array(ranks) < first):.1f} %"
        for first in (1, 5, 10)
    ]
    assert tutorial(drawings, *where, "--collection", collection) == said  # again, on a collection made anew
