"""The video index, in a local file and on a real Milvus server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import write
from constants import DEMO_MODEL
from engines import on_one_engine
from index_rows import ids, random_rows
from safetensors.torch import save_file

from clip4clip import (
    InputTypeError,
    InputValueError,
    LibraryError,
    ModelMismatchError,
    TextEncoder,
    UnknownNameError,
    VideoIndexError,
)
from clip4clip.config import MODELS
from clip4clip.encoder import EncoderSpec
from clip4clip.index.sync import moved_folders
from clip4clip.library.table import read_rows
from clip4clip.retrieval import Hit, VideoIndex, embed_library
from clip4clip.video import FrameSampling
from clip4clip.weights.identity import identify


def test_texts_find_the_same_clips_as_brute_force(
    index: VideoIndex, drawings_table: Path, captions: dict[str, str]
) -> None:
    assert index.add(drawings_table) == 24
    assert index.count() == 24
    rows = list(read_rows(drawings_table))
    matrix = np.stack([row["vector"] for row in rows])
    right = 0
    for caption, path in captions.items():
        hits = index.search(caption, limit=5)
        similarity = matrix @ TextEncoder.load(DEMO_MODEL)(caption)
        best = np.argsort(-similarity)[:5]
        assert ids(hits) == [rows[row]["id"] for row in best]
        np.testing.assert_allclose([hit.score for hit in hits], similarity[best], atol=1e-5)
        right += hits[0].path == path
    assert right >= 20  # of 24; the quality of the demo model is measured elsewhere


def test_a_video_finds_itself_with_its_fields(index: VideoIndex, drawings_table: Path) -> None:
    index.add(drawings_table)
    row = next(iter(read_rows(drawings_table)))
    for video in (row["path"], Path(row["path"]), Path(row["path"]).read_bytes()):
        hit = index.search(video=video, limit=1)[0]
        assert (hit.id, hit.path, hit.score) == (row["id"], row["path"], pytest.approx(1, abs=1e-5))
    fields = {"duration": row["duration"], "frame_count": 16, "size": row["size"], "mtime": row["mtime"]}
    assert hit.fields == fields
    assert index.search(vector=row["vector"], limit=1, output_fields=["size"])[0].fields == {"size": row["size"]}
    stored = index.get(row["id"])
    assert stored is not None
    assert (stored.path, stored.fields) == (row["path"], fields)
    assert index.get("none") is None


def test_adding_rows_again_replaces_them(index: VideoIndex) -> None:
    rows = random_rows(10)
    assert index.add(rows) == 10
    assert index.add(rows[:5] + random_rows(3, start=10)) == 8
    assert index.count() == 13
    moved = rows[0] | {"vector": rows[1]["vector"], "duration": 99.0}
    index.add([moved])
    assert index.count() == 13
    assert set(ids(index.search(vector=rows[1]["vector"], limit=2))) == {"v0", "v1"}
    hit = index.get("v0")
    assert hit is not None
    assert hit.fields["duration"] == 99


def test_an_interrupted_add_is_completed_by_repeating_it(index: VideoIndex) -> None:
    def stop(rows: Iterable[Any], total: int, what: str) -> Iterator[Any]:
        for number, row in enumerate(rows):
            if number == 2100:
                raise KeyboardInterrupt
            yield row

    rows = random_rows(2200)
    with pytest.raises(KeyboardInterrupt):
        index.add(rows, stop)
    assert index.count() == 2000  # one batch
    assert index.add(rows) == 2200
    assert index.count() == 2200
    assert index.search(vector=rows[2150]["vector"], limit=1)[0].id == "v2150"


def test_the_last_of_two_rows_with_the_same_id_is_stored(index: VideoIndex) -> None:
    first, other = random_rows(2)
    assert index.add([first, other, first | {"duration": 7.0}]) == 2
    assert index.count() == 2
    assert [(hit.id, hit.fields["duration"]) for hit in index.search(vector=first["vector"], limit=5)] == [
        ("v0", 7.0),
        ("v1", 1.0),
    ]


def test_a_replaced_row_loses_all_of_its_old_fields(index: VideoIndex) -> None:
    row = random_rows(1)[0]
    index.add([row | {"camera": "front"}, *random_rows(2, start=1)])
    index.add([{name: value for name, value in row.items() if name != "duration"}])
    hit = index.get("v0")
    assert hit is not None
    assert hit.fields == {}
    assert index.search(vector=row["vector"], filter='camera == "front"') == []
    assert hit.length == ""
    assert index.search(vector=random_rows(2, start=1)[1]["vector"], limit=1)[0].length == "0:02"


def test_a_reopened_index_has_its_videos_and_its_model(uri: str, collection: str) -> None:
    with VideoIndex(uri, collection) as index:
        index.add(random_rows(25))
    with VideoIndex(uri, collection) as index:
        assert index.count() == 25
        assert index.model == identify(None, DEMO_MODEL)
        assert index.search("a red square", limit=3)  # by the model that the index names


def test_vectors_of_other_weights_are_rejected_naming_both(
    index: VideoIndex, empty: tuple[str, str], tmp_path: Path, random_state: Callable[..., Any]
) -> None:
    (tmp_path / "clips").mkdir()
    clip = write(tmp_path / "clips" / "a.mp4", count=5)
    index.add(random_rows(3))
    weights = tmp_path / "other.safetensors"
    save_file(random_state(MODELS[DEMO_MODEL].config, 7), weights)
    with VideoIndex(*empty, encoder=EncoderSpec(model_name=DEMO_MODEL, weights=weights)) as other:
        ours, theirs = identify(None, DEMO_MODEL).fingerprint, identify(weights, DEMO_MODEL).fingerprint
        both = f"has vectors of {DEMO_MODEL} with the weights {ours}, .* of {DEMO_MODEL} with the weights {theirs}"
        with pytest.raises(ModelMismatchError, match=both):
            other.search("a red square")
        with pytest.raises(ModelMismatchError, match=both):
            other.sync(clip.parent)
        with pytest.raises(ModelMismatchError, match=both):
            other.add([random_rows(1)[0] | {"fingerprint": theirs}])
        assert other.search(vector=random_rows(1)[0]["vector"], limit=1)[0].id == "v0"
    assert index.count() == 3


@on_one_engine
def test_another_model_is_rejected_before_a_checkpoint_is_downloaded(
    index: VideoIndex, empty: tuple[str, str], drawings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(random_rows(3))
    monkeypatch.setattr("clip4clip.encoder.EncoderSpec.identify", lambda *_: pytest.fail("looked for a checkpoint"))
    theirs = f"has vectors of {DEMO_MODEL} with the weights .*, which cannot be compared with vectors of clip_vit_b16"
    with VideoIndex(*empty, encoder=EncoderSpec(model_name="clip_vit_b16", weights="hf://owner/repo")) as other:
        for ask in (
            lambda: other.search("a red square"),
            lambda: other.search(video="none.mp4"),
            lambda: other.sync(drawings / "eval"),
            other.create,
        ):
            with pytest.raises(ModelMismatchError, match=theirs):
                ask()
        with pytest.raises(ModelMismatchError, match="this index was opened for the model clip_vit_b16"):
            other.add(random_rows(1))
    with (
        VideoIndex(*empty, encoder=EncoderSpec("b99")) as other,
        pytest.raises(UnknownNameError, match="'b99'"),
    ):
        other.search("a red square")


def test_a_collection_takes_model_and_sampling_from_a_table(
    new_index: VideoIndex, drawings_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clip4clip.encoder.EncoderSpec.identify", lambda *_: pytest.fail("looked for a checkpoint"))
    for sampling in (FrameSampling(frames=4), FrameSampling(seek="keyframe")):
        with pytest.raises(ModelMismatchError, match=r"were made with: 12 frames, seek 'auto', .* made with: "):
            new_index.create(sampling, table=drawings_table)
    with VideoIndex(new_index.address.uri, new_index.address.collection) as fresh:  # whose model would be clip_vit_b32
        fresh.create(table=drawings_table)
        fresh.create(table=drawings_table)
        assert fresh.model is not None
        assert fresh.model.model == DEMO_MODEL
        assert fresh.add({**row, "camera": "front"} for row in read_rows(drawings_table)) == 24


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_file_that_is_not_a_table_is_rejected_and_nothing_is_created(tmp_path: Path, drawings: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.txt").write_text("videos")
    clip = min((drawings / "eval").iterdir())
    with VideoIndex(tmp_path / "videos.db") as index:
        for path, problem in {
            tmp_path / "pipe": "there is no table at .*pipe: write one with `clip4clip embed",
            tmp_path / "none.parquet": "there is no table at .*none.parquet",
            tmp_path: "is a folder: expected a table written by",
            tmp_path / "text.txt": "is not a table",
            clip: "is not a table",
        }.items():
            with pytest.raises(LibraryError, match=problem):
                index.add(path)
            with pytest.raises(LibraryError, match=problem):
                index.create(table=path)
        with pytest.raises(VideoIndexError, match="there is no collection"):
            index.count()


def rows_changed_on(*dates: str) -> list[dict[str, Any]]:
    """Rows ``v0``, ``v1``, … whose files were last changed at noon on these days, in the local time zone."""
    times = [datetime.fromisoformat(f"{date}T12:00").timestamp() for date in dates]
    rows = random_rows(len(dates))
    return [row | {"mtime": round(time * 1e9)} for row, time in zip(rows, times, strict=True)]


@on_one_engine
def test_dates_select_whole_days_and_are_combined_with_a_filter(index: VideoIndex) -> None:
    index.add([*rows_changed_on("2025-05-31", "2025-06-01", "2025-06-02", "2025-06-03"), *random_rows(1, start=4)])
    vector = random_rows(1)[0]["vector"]

    def found(**conditions: str) -> set[str]:
        listed = {hit.id for hit in index.videos(**conditions)}
        assert {hit.id for hit in index.search(vector=vector, **conditions)} == listed
        return listed

    assert found() == {"v0", "v1", "v2", "v3", "v4"}
    assert found(since="2025-06-01") == {"v1", "v2", "v3"}  # the file of v4 has no date
    assert found(until="2025-06-01") == {"v0", "v1"}
    assert found(since="2025-06-01", until="2025-06-02") == {"v1", "v2"}
    assert found(since="2025-06-01 12:01", until="2025-06-02T12:00") == {"v2"}
    assert found(since="2025-06-02", filter="duration == 0 or duration == 2") == {"v2"}  # not v0: "and" binds tighter
    assert found(since="2025-06-01", filter='modified < "2025-06-02"') == {"v1"}


@on_one_engine
@pytest.mark.parametrize(
    ("conditions", "error", "message"),
    [
        ({"since": "yesterday"}, InputValueError, "since is 'yesterday', which is not a date: expected a date such as"),
        ({"until": "2025-13-01"}, InputValueError, "until is '2025-13-01', which is not a date"),
        ({"until": 2025}, InputTypeError, "until must be a string"),
        ({"since": "2025-06-02", "until": "2025-06-01"}, InputValueError, "since, '2025-06-02', is after until"),
        ({"filter": "duration > 1) or (duration < 2", "since": "2025-06-01"}, VideoIndexError, "the filter is invalid"),
    ],
)
def test_invalid_dates_and_filters_are_errors(
    conditions: dict[str, Any], error: type[Exception], message: str, index: VideoIndex
) -> None:
    index.add(random_rows(3))
    for ask in (
        lambda: index.search("a red square", **conditions),
        lambda: index.videos(**conditions),
        lambda: index.missing(**conditions),
    ):
        with pytest.raises(error, match=re.escape(message)):
            ask()


def test_a_search_returns_the_best_row_of_each_video_unless_it_is_asked_for_more(index: VideoIndex) -> None:
    rows = [row | {"video": f"clip{number // 3}"} for number, row in enumerate(random_rows(9))]
    index.add([*rows, *random_rows(1, start=9)])
    vector = rows[4]["vector"]
    every = index.search(vector=vector, per_video=None)
    assert [len({hit.id for hit in hits}) for hits in (every, index.search(vector=vector, per_video=3))] == [10, 10]
    videos = [hit.video for hit in every]
    best = [hit for number, hit in enumerate(every) if videos[number] not in videos[:number]]
    assert ids(index.search(vector=vector)) == ids(best)
    assert ids(best)[0] == "v4"
    assert len(best) == 4
    assert len(index.search(vector=vector, per_video=2)) == 7
    assert len(index.search(vector=vector, per_video=2, limit=5)) == 5
    assert next(hit for hit in every if hit.id == "v9").video == "v9"
    for invalid in (0, -1, True, 1.5, "1"):
        with pytest.raises(InputValueError, match="per_video must be a whole number from 1, not"):
            index.search(vector=vector, per_video=invalid)  # type: ignore[arg-type]


def test_the_videos_of_an_index_are_listed_with_their_fields(
    index: VideoIndex, caplog: pytest.LogCaptureFixture
) -> None:
    index.add([row | {"camera": {"place": "door"}} for row in random_rows(1200)])
    listed = {hit.id: hit for hit in index.videos()}
    assert listed.keys() == {f"v{number}" for number in range(1200)}
    assert listed["v7"] == Hit("v7", "/videos/v7.mp4", 1.0, {"duration": 7.0, "camera": {"place": "door"}})
    assert listed["v7"] == index.get("v7")
    assert {hit.id for hit in index.videos("duration < 2")} == {"v0", "v1"}
    assert list(index.videos('title == "a"')) == []
    assert len([record for record in caplog.records if "the filter has the field title" in record.message]) == 1
    with pytest.raises(VideoIndexError, match="the filter has the field title, but no video in the index does"):
        index.videos('title == "a"', strict=True)


@on_one_engine
def test_videos_whose_files_are_gone_are_missing(index: VideoIndex, tmp_path: Path) -> None:
    (tmp_path / "there.mp4").touch()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "nowhere.mp4")
    paths = [tmp_path / "there.mp4", tmp_path / "gone.mp4", tmp_path / "no" / "folder.mp4", tmp_path / "link.mp4"]
    names = [*map(str, paths), "https://example.org/a.mp4", "relative.mp4"]
    index.add(row | {"path": path, "id": path} for row, path in zip(random_rows(len(names)), names, strict=True))
    assert {hit.path for hit in index.missing()} == {str(paths[1]), str(paths[2])}
    assert {hit.path for hit in index.missing("duration == 2")} == {str(paths[2])}
    assert list(index.missing(until="2025-06-01")) == []

    counts: list[tuple[int, str]] = []

    def track(items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
        counts.append((total, description))
        return items

    assert len([*index.missing(track=track)]) == 2
    assert len([*index.missing("duration == 2", track=track)]) == 1
    assert counts == [(6, "checking"), (0, "checking")]


def test_info_describes_the_index(index: VideoIndex) -> None:
    rows = random_rows(4)
    rows[0] |= {"title": "a", "seen": True, "tags": ["x"], "place": {"city": "Bern"}, "mixed": 1}
    rows[1] |= {"mixed": "one", "video": "v0"}
    index.add(rows)
    info = index.info()
    assert (info.uri, info.collection) == (index.address.uri, index.address.collection)
    assert (info.model, info.sampling) == (identify(None, DEMO_MODEL), FrameSampling())
    assert (info.rows, info.videos, info.dim) == (4, 3, 128)
    assert info.fields == {
        "duration": ("number",),
        "mixed": ("number", "string"),
        "place": ("object",),
        "seen": ("boolean",),
        "tags": ("list",),
        "title": ("string",),
    }
    index.delete(["v0", "v1"])
    assert (index.info().rows, index.info().videos) == (2, 2)
    if index.address.is_local:
        info = index.info()
        folder, name = os.path.split(index.address.uri)
        files = [path for path in Path(folder).iterdir() if path.name.startswith(name)]
        assert info.bytes == sum(path.stat().st_size for path in files) > 4 * 128 * 4
    else:
        assert info.bytes is None


def test_sync_follows_a_folder(index: VideoIndex, drawings: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "clips", tmp_path / "clips-of-others"
    shutil.copytree(drawings / "eval", folder)
    shutil.copytree(drawings / "eval", other)
    names = sorted(path.name for path in folder.iterdir())
    assert index.sync(folder).added == 24
    assert index.sync(other).added == 24
    report = index.sync(folder)
    assert (report.added, report.changed, report.removed, report.unchanged) == (0, 0, 0, 24)
    shutil.copy(folder / names[0], folder / names[1])
    (folder / names[2]).unlink()
    shutil.copy(folder / names[3], folder / "new.mp4")
    (folder / "bad.mp4").write_text("not a video")
    report = index.sync(folder)
    assert (report.added, report.changed, report.removed, report.unchanged) == (1, 1, 1, 22)
    assert list(report.failed) == [str(folder / "bad.mp4")]
    (folder / "bad.mp4").unlink()
    report = index.sync(folder)
    assert (report.added, report.changed, report.removed, report.unchanged) == (0, 0, 0, 24)
    assert index.count() == 48
    twins = index.search(video=folder / names[0], limit=3)
    assert {str(folder / names[0]), str(folder / names[1])} < set(ids(twins))
    with pytest.raises(
        ModelMismatchError, match=r"made with: 12 frames, seek 'auto', .* mixed with .* made with: 4 frames"
    ):
        index.sync(folder, sampling=FrameSampling(frames=4))
    # A good file that is damaged is not found any more.
    (folder / names[5]).write_text("damaged")
    report = index.sync(folder)
    assert (report.removed, list(report.failed)) == (1, [str(folder / names[5])])
    assert index.count() == 47


@on_one_engine
def test_sync_with_an_empty_or_missing_folder_removes_nothing(
    index: VideoIndex, drawings: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "clips"
    shutil.copytree(drawings / "eval", folder)
    index.sync(folder)
    shutil.rmtree(folder)
    with pytest.raises(LibraryError, match="no folder at"):
        index.sync(folder)
    folder.mkdir()
    with pytest.raises(LibraryError, match="no videos in"):
        index.sync(folder)
    assert index.count() == 24


@on_one_engine
def test_sync_keeps_the_ids_and_fields_of_videos_added_under_other_ids(
    index: VideoIndex, drawings: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number, clip in enumerate(sorted((drawings / "eval").iterdir())[:3]):
        shutil.copy(clip, folder / f"{number}.mp4")
    table = tmp_path / "videos.csv"
    table.write_text("id,path\n" + "".join(f"video{number},clips/{number}.mp4\n" for number in range(3)))
    embed_library(table, tmp_path / "vectors.parquet", encoder=EncoderSpec(DEMO_MODEL))
    index.add(row | {"title": f"the {row['id']}"} for row in read_rows(tmp_path / "vectors.parquet"))
    report = index.sync(folder)
    assert (report.added, report.changed, report.removed, report.unchanged) == (0, 0, 0, 3)
    shutil.copy(folder / "0.mp4", folder / "1.mp4")
    report = index.sync(folder)
    assert (report.added, report.changed, report.removed, report.unchanged) == (0, 1, 0, 2)
    found = {hit.id: hit.fields["title"] for hit in index.search(video=folder / "0.mp4")}
    assert found == {f"video{number}": f"the video{number}" for number in range(3)}
    (folder / "2.mp4").unlink()
    assert index.sync(folder).removed == 1
    assert index.get("video2") is None


@on_one_engine
def test_sync_keeps_the_videos_of_a_folder_that_cannot_be_listed(
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
    assert (report.added, report.changed, report.removed, report.unchanged) == (0, 0, 1, 1)
    assert report.unlisted == {str(closed): f"the folder {closed} cannot be listed: Permission denied"}
    assert index.count() == 3


@on_one_engine
def test_sync_keeps_existing_files_that_it_does_not_list(index: VideoIndex, drawings: Path, tmp_path: Path) -> None:
    folder, other = tmp_path / "clips", tmp_path / "other"
    (folder / ".hidden").mkdir(parents=True)
    other.mkdir()
    clips = sorted((drawings / "eval").iterdir())
    for number, path in enumerate((folder / "a.mp4", folder / ".hidden" / "b.mp4", folder / "c.m2v", other / "d.mp4")):
        shutil.copy(clips[number], path)
    (folder / "link").symlink_to(other)
    names = ("a.mp4", ".hidden/b.mp4", "c.m2v", "link/d.mp4")
    (tmp_path / "list.txt").write_text("".join(f"clips/{name}\n" for name in names))
    embed_library(tmp_path / "list.txt", tmp_path / "vectors.parquet", encoder=EncoderSpec(DEMO_MODEL))
    index.add(tmp_path / "vectors.parquet")
    report = index.sync(folder)
    assert (report.removed, report.unchanged, index.count()) == (0, 1, 4)
    (folder / "link").unlink()
    assert index.sync(folder).removed == 1


def copy_clips(drawings: Path, *targets: Path) -> None:
    """Copy clips of the data set, each a different one, with their modification times."""
    for clip, target in zip(sorted((drawings / "eval").iterdir()), targets, strict=False):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(clip, target)


def vectors_of(index: VideoIndex) -> dict[str, list[float]]:
    """The vector of each video by its id."""
    vector = random_rows(1)[0]["vector"]
    hits = index.search(vector=vector, limit=100, output_fields=["vector"])
    return {hit.id: [*map(float, hit.fields["vector"])] for hit in hits}


def test_sync_keeps_the_vectors_of_files_that_were_moved_within_the_folder(
    index: VideoIndex, drawings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "clips"
    copy_clips(drawings, folder / "2024" / "a.mp4", folder / "2024" / "b.mp4", folder / "c.mp4")
    index.sync(folder)
    # One of the two was added under an id of its own, too.
    row = {name: value for name, value in random_rows(1)[0].items() if name != "duration"}
    stored = index.get(str(folder / "2024" / "a.mp4"))
    assert stored is not None
    index.add([row | stored.fields | {"id": "own", "path": stored.path, "title": "mine"}])
    before = vectors_of(index)

    (folder / "archive").mkdir()
    (folder / "2024").rename(folder / "archive" / "2024")
    monkeypatch.setattr("clip4clip.video.reader._read", lambda *_: pytest.fail("a video was decoded again"))
    report = index.sync(folder)
    assert (report.relocated, report.added, report.changed, report.removed) == (2, 0, 0, 0)
    assert (report.unchanged, report.moved, report.failed) == (1, {}, {})
    after = vectors_of(index)
    moved = folder / "archive" / "2024"
    assert after.keys() == {str(moved / "a.mp4"), str(moved / "b.mp4"), str(folder / "c.mp4"), "own"}
    assert after[str(moved / "b.mp4")] == before[str(folder / "2024" / "b.mp4")]
    own = index.get("own")
    assert own is not None
    assert (own.path, own.fields["title"]) == (str(moved / "a.mp4"), "mine")
    report = index.sync(folder)
    assert (report.relocated, report.unchanged) == (0, 3)


@on_one_engine
def test_a_video_that_has_the_new_path_as_its_id_is_replaced(index: VideoIndex, drawings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    copy_clips(drawings, folder / "2024" / "a.mp4", folder / "b.mp4")
    index.sync(folder)
    (folder / "2024").rename(folder / "2025")
    path = str(folder / "2025" / "a.mp4")
    index.add([random_rows(1)[0] | {"id": path}])
    report = index.sync(folder)
    assert (report.relocated, report.added, report.removed, report.unchanged) == (0, 1, 1, 1)
    hit = index.get(path)
    assert hit is not None
    assert (hit.path, index.count()) == (path, 2)


@on_one_engine
def test_sync_leaves_out_files_that_are_gone_from_another_folder(
    index: VideoIndex, drawings: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    copy_clips(drawings, old / "a.mp4", old / "sub" / "b.mp4", old / "c.mp4", old / "kept.mp4")
    index.sync(old)
    new.mkdir()
    for name in ("a.mp4", "sub", "c.mp4"):
        (old / name).rename(new / name)
    os.utime(new / "c.mp4", ns=(0, 1))  # it may be another video
    shutil.copy2(old / "kept.mp4", new / "kept.mp4")
    report = index.sync(new)
    assert report.moved == {
        str(new / "a.mp4"): str(old / "a.mp4"),
        str(new / "sub" / "b.mp4"): str(old / "sub" / "b.mp4"),
    }
    assert (report.added, report.relocated, report.removed, index.count()) == (2, 0, 0, 6)
    assert moved_folders(report.moved, new) == {(str(old), str(new)): 2}

    # What the report advises keeps the vectors of the files that were left out.
    vectors = vectors_of(index)
    new_paths = {path: new_path for new_path, path in report.moved.items()}
    assert index.relocate(old, new).relocated == new_paths
    expected = {new_paths.get(path, path): vector for path, vector in vectors.items()}
    assert vectors_of(index) == expected
    again = index.sync(new)
    assert (again.unchanged, again.moved) == (4, {})


@on_one_engine
def test_sync_embeds_files_that_are_gone_from_another_folder_if_it_is_told_to(
    index: VideoIndex, drawings: Path, tmp_path: Path
) -> None:
    copy_clips(drawings, tmp_path / "old" / "a.mp4")
    index.sync(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    report = index.sync(tmp_path / "new", embed_moved=True)
    assert (report.added, report.moved, index.count()) == (1, {}, 2)


def test_a_local_index_tries_a_file_that_cannot_be_decoded_again_only_when_it_has_changed(
    index: VideoIndex, drawings: Path, tmp_path: Path
) -> None:
    folder, bad = tmp_path / "clips", tmp_path / "clips" / "bad.mp4"
    copy_clips(drawings, folder / "a.mp4")
    bad.write_text("not a video")
    (folder / "nowhere.mp4").symlink_to(folder / "none")  # it may come back without a change of the link
    first = index.sync(folder)
    assert (first.added, first.failed_before) == (1, {})
    assert first.failed.keys() == {str(bad), str(folder / "nowhere.mp4")}
    again = index.sync(folder)
    is_remembered = index.address.is_local
    assert again.failed_before == ({str(bad): first.failed[str(bad)]} if is_remembered else {})
    assert again.failed.keys() == first.failed.keys() - again.failed_before.keys()
    assert index.sync(folder, retry_failed=True).failed.keys() == first.failed.keys()
    bad.write_text("still not a video")
    assert str(bad) in index.sync(folder).failed
    copy_clips(drawings, bad)
    report = index.sync(folder)
    assert (report.added, report.failed_before) == (1, {})
    # A good file that is damaged leaves the index, and is remembered, too.
    bad.write_text("damaged")
    assert index.sync(folder).removed == 1
    report = index.sync(folder)
    assert (report.removed, str(bad) in report.failed_before) == (0, is_remembered)


@on_one_engine
def test_a_file_that_can_be_decoded_at_last_is_not_a_failure_any_more(
    index: VideoIndex, drawings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = tmp_path / "clips" / "a.mp4"
    copy_clips(drawings, clip)
    with monkeypatch.context() as old_decoder:
        old_decoder.setattr("clip4clip.video.container.FORMATS", ("avi",))
        assert list(index.sync(clip.parent).failed) == [str(clip)]
    assert index.sync(clip.parent, retry_failed=True).added == 1
    index.delete([str(clip)])
    report = index.sync(clip.parent)
    assert (report.added, report.failed_before) == (1, {})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs another user")
def test_sync_keeps_the_videos_of_a_folder_without_search_permission(drawings: Path) -> None:
    code = """
import os, sys, tempfile
from pathlib import Path
from clip4clip.config import MODELS
from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex
with tempfile.TemporaryDirectory() as root:
    closed = Path(root, "clips/closed")
    closed.mkdir(parents=True)
    for path in (closed / "a.mp4", closed.parent / "b.mp4"):
        path.write_bytes(Path(sys.argv[1]).read_bytes())
    with VideoIndex(root + "/videos.db", encoder=EncoderSpec("clip_vit_tiny_demo")) as index:
        index.sync(closed.parent)
        for path in (Path(root), *Path(root).rglob("*")):
            os.chown(path, 65534, 65534)
        closed.chmod(0o444)
        os.seteuid(65534)  # root ignores permissions
        report = index.sync(closed.parent)
        print(report.removed, report.unchanged, list(report.failed) == [str(closed / "a.mp4")], index.count())
        os.seteuid(0)
"""
    clip = min((drawings / "eval").iterdir())
    done = subprocess.run([sys.executable, "-c", code, clip], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1", "True", "2"]


def test_weights_that_are_replaced_while_the_index_is_open_are_refused(tmp_path: Path, tiny_state: dict) -> None:
    path, spec = tmp_path / "weights.safetensors", EncoderSpec("tiny", tmp_path / "weights.safetensors", "cpu")
    save_file(tiny_state, path)
    with VideoIndex(tmp_path / "videos.db", encoder=spec) as index:
        index.create()
        save_file({name: tensor + 0.01 for name, tensor in tiny_state.items()}, tmp_path / "new")
        (tmp_path / "new").replace(path)
        with pytest.raises(ModelMismatchError, match=r"weights\.safetensors was replaced while this index was open"):
            index.search("a dog")
    with VideoIndex(tmp_path / "videos.db", encoder=spec) as index, pytest.raises(ModelMismatchError):
        index.search("a dog")
