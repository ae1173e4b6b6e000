"""The video index, in a local folder and on a real Milvus server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import write
from constants import DEMO_MODEL
from index_rows import ids, random_rows
from safetensors.torch import save_file

from clip4clip import LibraryError, ModelMismatchError, TextEncoder, UnknownNameError, VideoIndexError
from clip4clip.config import MODELS
from clip4clip.encoder import EncoderSpec
from clip4clip.library.table import read_rows
from clip4clip.retrieval import VideoIndex, embed_library
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
            if number == 600:
                raise KeyboardInterrupt
            yield row

    rows = random_rows(700)
    with pytest.raises(KeyboardInterrupt):
        index.add(rows, stop)
    assert index.count() == 500  # one batch
    assert index.add(rows) == 700
    assert index.count() == 700
    assert index.search(vector=rows[650]["vector"], limit=1)[0].id == "v650"


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
    index: VideoIndex, uri: str, collection: str, tmp_path: Path, random_state: Callable[..., Any]
) -> None:
    (tmp_path / "clips").mkdir()
    clip = write(tmp_path / "clips" / "a.mp4", count=5)
    index.add(random_rows(3))
    weights = tmp_path / "other.safetensors"
    save_file(random_state(MODELS[DEMO_MODEL].config, 7), weights)
    with VideoIndex(uri, collection, encoder=EncoderSpec(model_name=DEMO_MODEL, weights=weights)) as other:
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


def test_another_model_is_rejected_before_a_checkpoint_is_downloaded(
    index: VideoIndex, uri: str, collection: str, drawings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(random_rows(3))
    monkeypatch.setattr("clip4clip.encoder.EncoderSpec.identify", lambda *_: pytest.fail("looked for a checkpoint"))
    theirs = f"has vectors of {DEMO_MODEL} with the weights .*, which cannot be compared with vectors of clip_vit_b16"
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
            other.add(random_rows(1))
    with (
        VideoIndex(uri, collection, encoder=EncoderSpec("b99")) as other,
        pytest.raises(UnknownNameError, match="'b99'"),
    ):
        other.search("a red square")


def test_a_collection_takes_model_and_sampling_from_a_table(
    index: VideoIndex, drawings_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clip4clip.encoder.EncoderSpec.identify", lambda *_: pytest.fail("looked for a checkpoint"))
    for sampling in (FrameSampling(frames=4), FrameSampling(seek="keyframe")):
        with pytest.raises(ModelMismatchError, match="has vectors of 12 frames, seek 'exact', not of"):
            index.create(sampling, table=drawings_table)
    with VideoIndex(index.address.uri, index.address.collection) as fresh:  # whose model would be clip_vit_b32
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
    with pytest.raises(ModelMismatchError, match="vectors of 12 frames, seek 'exact', not of 4"):
        index.sync(folder, sampling=FrameSampling(frames=4))
    # A good file that is damaged is not found any more.
    (folder / names[5]).write_text("damaged")
    report = index.sync(folder)
    assert (report.removed, list(report.failed)) == (1, [str(folder / names[5])])
    assert index.count() == 47


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
