"""Videos that are cut into segments, in the video index: in a local file and on a real Milvus server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from constants import DEMO_MODEL
from engines import on_one_engine
from index_rows import ids, random_rows
from library_tables import write_scenes
from moment_choice import overlap

from clip4clip import InputValueError, ModelMismatchError, VideoIndexError
from clip4clip.encoder import EncoderSpec
from clip4clip.index import video_index
from clip4clip.retrieval import Hit, VideoIndex, embed_library
from clip4clip.video import FrameSampling


def cut(video: str, *times: float, start: int = 0, **fields: Any) -> list[dict[str, Any]]:
    """Rows of the segments of a video between these times, with random vectors that depend on ``start``."""
    rows = random_rows(len(times) - 1, start)
    for row, begin, end in zip(rows, times, times[1:], strict=False):
        row |= {"id": f"{video}#t={begin:g},{end:g}", "video": video, "path": video, "start": begin, "end": end}
        row |= {"duration": times[-1], "uniform": False} | fields
    return rows


def times(index: VideoIndex, video: str) -> list[tuple[float | None, float | None]]:
    return sorted((hit.start, hit.end) for hit in index.segments() if hit.video == video)


def test_the_rows_of_a_video_are_replaced_whatever_their_number_was(index: VideoIndex) -> None:
    whole = random_rows(1)[0] | {"id": "/a", "path": "/a"}
    assert index.add([whole, *random_rows(2, start=5)]) == 3
    assert index.add([*cut("/a", 0, 10, 20, 30), *cut("/b", 0, 5)]) == 2
    assert times(index, "/a") == [(0, 10), (10, 20), (20, 30)]
    assert index.add(cut("/a", 0, 20, 30)) == 1
    assert times(index, "/a") == [(0, 20), (20, 30)]
    assert (index.count(), index.count_vectors(), index.info().videos, index.info().rows) == (4, 5, 4, 5)
    assert index.add([whole]) == 1
    assert times(index, "/a") == [(None, None)]
    assert index.get("/a") == Hit("/a", "/a", 1.0, {"duration": 0.0})
    assert (index.count(), index.count_vectors()) == (4, 4)


def test_rows_of_a_video_may_come_in_several_batches_and_apart(
    index: VideoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_index, "ADD_BATCH", 3)
    index.add(cut("/a", *range(12), start=1))
    first, second = cut("/a", *range(9)), cut("/b", 0, 10, 20)
    assert index.add([*first[:2], second[0], *first[2:7], second[1], first[7]]) == 2
    assert len(times(index, "/a")) == 8
    assert times(index, "/b") == [(0, 10), (10, 20)]
    batches = [len(batch) for batch in video_index._batches_to_add([*cut("/a", *range(9)), *second])]
    assert batches == [8, 2]  # what is interrupted has no half of a video


@on_one_engine
def test_segments_of_one_colour_are_left_out(index: VideoIndex) -> None:
    rows = cut("/a", 0, 10, 20, 30)
    rows[1] |= {"uniform": True, "vector": None}
    black = random_rows(1, start=9)[0] | {"uniform": True}
    assert index.add([*rows, black]) == 2
    assert times(index, "/a") == [(0, 10), (20, 30)]
    assert ids(index.segments("uniform == true")) == ["v9"]


def test_a_video_that_is_cut_is_listed_once_with_the_fields_of_all_its_segments(index: VideoIndex) -> None:
    rows = cut("/a", 0, 10, 20, 30, camera="front")
    rows[1]["title"] = "a horse"
    index.add([*rows, *random_rows(1)])
    video = Hit("/a", "/a", 1.0, {"duration": 30.0, "camera": "front", "segments": 3})
    assert sorted(index.videos(), key=lambda hit: hit.id) == [video, Hit("v0", "/videos/v0.mp4", 1.0, {"duration": 0})]
    assert index.get("/a") == video
    [found] = index.videos("start >= 10")
    assert (found.id, found.fields["segments"]) == ("/a", 2)
    assert index.get("/a#t=10,20") == Hit(
        "/a#t=10,20", "/a", 1.0, {"duration": 30.0, "camera": "front", "title": "a horse"}, "/a", 10.0, 20.0
    )
    assert sorted(ids(index.missing())) == ["/a", "v0"]


def test_a_video_is_deleted_with_all_segments_and_a_segment_alone(index: VideoIndex) -> None:
    index.add([*cut("/a", 0, 10, 20, 30), *cut("/b", 0, 10, 20), *cut("/c", 0, 10, 20), *random_rows(1)])
    assert index.delete(["/a#t=10,20"]) == 1
    assert times(index, "/a") == [(0, 10), (20, 30)]
    assert index.delete(["/a", "/b", "v0", "none"]) == 5
    assert times(index, "/c") == [(0, 10), (10, 20)]
    assert index.delete(filter="start > 5") == 1
    assert (index.count(), index.count_vectors()) == (1, 1)


def test_filters_know_the_video_and_the_times_of_a_segment(index: VideoIndex) -> None:
    index.add([*cut("/a", 0, 60, 90.5), *cut("/b", 0, 61, 62), *random_rows(1)])
    vector = random_rows(1)[0]["vector"]
    for text, expected in {
        "start > 60": ["/b#t=61,62"],
        "start >= 60 and end < 100": ["/a#t=60,90.5", "/b#t=61,62"],
        'video == "/a"': ["/a#t=0,60", "/a#t=60,90.5"],
        'video in ["/b", "v0"] and not (start > 0)': ["/b#t=0,61", "v0"],
        "not exists start": ["v0"],
        "end == 90.5 or start == 0": ["/a#t=0,60", "/a#t=60,90.5", "/b#t=0,61"],
    }.items():
        assert sorted(ids(index.search(vector=vector, filter=text, per_video=None))) == expected, text
        assert sorted(ids(index.segments(text))) == expected, text
    with pytest.raises(VideoIndexError, match="the filter compares start, which is a number, with the string"):
        index.search(vector=vector, filter='start > "0:60"')


def test_a_search_returns_the_best_moment_of_each_video_or_several_that_do_not_overlap(index: VideoIndex) -> None:
    rng = np.random.default_rng(0)
    query = random_rows(1, start=99)[0]["vector"]
    rows = []
    for video in range(6):
        windows = random_rows(20, start=video + 100)
        for number, row in enumerate(windows):  # windows of ten seconds that overlap by half
            start, end = 5.0 * number, 5.0 * number + 10
            row |= {"id": f"{video}#t={start:g},{end:g}", "video": str(video), "start": start, "end": end}
            row["vector"] = row["vector"] + query * rng.uniform(0, 1)
            row["vector"] /= np.linalg.norm(row["vector"])
        rows += windows
    index.add(rows)
    best_first = sorted(rows, key=lambda row: -float(row["vector"] @ query))
    for per_video in (1, 2, 3, None):
        expected: list[dict] = []
        for row in best_first:
            same = [other for other in expected if other["video"] == row["video"]]
            if len(same) < (per_video or 99) and not any(
                overlap(row["start"], row["end"], other["start"], other["end"]) for other in same
            ):
                expected.append(row)
        for limit in (1, 5, 100):
            hits = index.search(vector=query, limit=limit, per_video=per_video)
            assert ids(hits) == [row["id"] for row in expected[:limit]], (per_video, limit)
    assert len(expected) < 80  # of 120


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two videos that are cut into three and two shots, of which one is black, and one that is whole."""
    folder = tmp_path / "clips"
    folder.mkdir()
    write_scenes(folder / "a.mp4", (1, 14), (2, 14), (3, 14))
    write_scenes(folder / "b.mp4", (4, 20), (None, 14), (5, 20))
    write_scenes(folder / "c.mp4", (6, 6))
    return folder


def test_a_table_of_segments_is_added_and_finds_moments(index: VideoIndex, folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "vectors.parquet"
    embed_library(folder, table, EncoderSpec(DEMO_MODEL))
    assert (index.add(table), index.count(), index.count_vectors()) == (3, 3, 6)
    assert len(times(index, str(folder / "a.mp4"))) == 3
    hit = index.search(video=folder / "c.mp4", limit=1)[0]
    assert (hit.video, hit.start, hit.end, hit.time_range) == (str(folder / "c.mp4"), None, None, "")
    other = VideoIndex(index.address.uri, f"{index.address.collection}_windows", encoder=EncoderSpec(DEMO_MODEL))
    windows = FrameSampling(segments=10)
    other.create(windows)
    message = r"the vectors of the collection .* were made with: 12 frames, .*, segments of 10 s, every 1 s\. They "
    with pytest.raises(
        ModelMismatchError, match=message + "cannot be mixed with vectors made with: .* segments 'auto'"
    ):
        other.add(table)
    with pytest.raises(ModelMismatchError, match=message):
        other.sync(folder, FrameSampling())
    other.close()


def test_sync_handles_videos_with_all_their_segments(index: VideoIndex, folder: Path) -> None:
    first, second, third = (str(folder / name) for name in ("a.mp4", "b.mp4", "c.mp4"))
    report = index.sync(folder)
    assert (report.added, index.count(), index.count_vectors()) == (3, 3, 6)
    assert index.sync(folder).unchanged == 3
    # Changed: fewer segments, more segments, and the fields of its own that a video has.
    index.add(hit_to_row(index, hit) | {"camera": "front"} for hit in [*index.segments()] if hit.video == first)
    write_scenes(folder / "a.mp4", (1, 40))
    write_scenes(folder / "c.mp4", (6, 16), (7, 16))
    report = index.sync(folder)
    assert (report.added, report.changed, report.removed, report.unchanged) == (0, 2, 0, 1)
    assert len(times(index, first)) == 2  # a shot longer than 30 s is divided
    assert len(times(index, third)) == 2
    video = index.get(first)
    assert video is not None
    assert (video.fields["camera"], video.fields["duration"]) == ("front", 40)
    assert [hit.fields["camera"] for hit in index.segments() if hit.video == first] == ["front"] * 2
    # Moved within the folder.
    before = times(index, second)
    (folder / "sub").mkdir()
    moved = folder / "sub" / "b.mp4"
    Path(second).replace(moved)
    report = index.sync(folder)
    assert (report.relocated, report.added, report.removed, report.unchanged) == (1, 0, 0, 2)
    assert (times(index, second), times(index, str(moved))) == ([], before)
    assert {hit.path for hit in index.segments() if hit.video == str(moved)} == {str(moved)}
    assert {hit.id.split("#t=")[0] for hit in index.segments()} == {first, str(moved), third}
    # Gone, and damaged.
    moved.unlink()
    (folder / "c.mp4").write_text("not a video")
    report = index.sync(folder)
    assert (report.removed, [*report.failed], index.count(), index.count_vectors()) == (2, [third], 1, 2)


def hit_to_row(index: VideoIndex, hit: Hit) -> dict[str, Any]:
    [row] = index._engine.rows(["*", "vector"], f'id == "{hit.id}"')
    assert index.model is not None
    return row | {"model": index.model.model, "fingerprint": index.model.fingerprint}


@on_one_engine
def test_sync_keeps_the_ids_of_videos_that_were_added_under_ids_of_their_own(
    index: VideoIndex, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "videos.csv").write_text("id,path\nholiday,clips/a.mp4\n")
    embed_library(tmp_path / "videos.csv", tmp_path / "vectors.parquet", EncoderSpec(DEMO_MODEL))
    index.add(tmp_path / "vectors.parquet")
    write_scenes(folder / "a.mp4", (8, 16), (9, 16))
    assert index.sync(folder).changed == 1
    assert len(times(index, "holiday")) == 2
    assert {hit.id.split("#t=")[0] for hit in index.segments() if hit.path == str(folder / "a.mp4")} == {"holiday"}


def test_relocated_videos_keep_all_segments(index: VideoIndex, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    new.mkdir()
    for name in ("a", "b", "c"):
        (new / name).touch()
    index.add([*cut(str(old / "a"), 0, 10, 20.5), *cut(str(old / "b"), 0, 10), *cut(str(old / "c"), 0, 5, 9)])
    index.add(row | {"video": "own", "id": f"own{row['id']}"} for row in cut(str(old / "b"), 0, 10, 20, start=7))
    index.add([random_rows(1)[0] | {"id": f"{new / 'c'}#t=0,5", "video": "x", "path": "/x"}])
    report = index.relocate(old, new)
    assert report.relocated == {str(old / name): str(new / name) for name in "ab"}
    assert report.taken == {str(old / "c"): str(new / "c")}
    assert {hit.id: (hit.path, hit.video) for hit in index.segments() if hit.path.startswith(str(new))} == {
        f"{new / 'a'}#t=0,10": (str(new / "a"), str(new / "a")),
        f"{new / 'a'}#t=10,20.5": (str(new / "a"), str(new / "a")),
        f"{new / 'b'}#t=0,10": (str(new / "b"), str(new / "b")),
        f"own{old / 'b'}#t=0,10": (str(new / "b"), "own"),
        f"own{old / 'b'}#t=10,20": (str(new / "b"), "own"),
    }
    assert times(index, str(old / "c")) == [(0, 5), (5, 9)]
    hits = index.search(vector=cut("/a", 0, 10, 20.5)[1]["vector"], limit=1)
    assert ids(hits) == [f"{new / 'a'}#t=10,20.5"]


def cut_out(source: Path, start: float, end: float, output: Path) -> Path:
    """Encode the part of a video between two times as a new file."""
    with av.open(str(source)) as old, av.open(str(output), "w") as new:
        stream = new.add_stream("libx264", rate=2, options={"g": "4"})
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        for frame in old.decode(video=0):
            if start <= frame.time < end:
                picture = av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"), format="rgb24")
                new.mux(stream.encode(picture))
        new.mux(stream.encode(None))
    return output


def intersection_over_union(hit: Hit, start: float, end: float) -> float:
    assert hit.start is not None
    assert hit.end is not None
    return (min(hit.end, end) - max(hit.start, start)) / (max(hit.end, end) - min(hit.start, start))


@on_one_engine
def test_a_clip_finds_the_moment_that_it_was_cut_from(index: VideoIndex, folder: Path, tmp_path: Path) -> None:
    for number in range(3):
        write_scenes(folder / f"long{number}.mp4", *((10 * number + scene, 12) for scene in range(5)))
    index.sync(folder)
    for number in range(3):
        clip = cut_out(folder / f"long{number}.mp4", 25, 35, tmp_path / "clip.mp4")
        hit = index.search(video=clip, limit=1)[0]
        assert hit.video == str(folder / f"long{number}.mp4")
        assert intersection_over_union(hit, 25, 35) > 0.7
        assert hit.score > 0.9
    # A clip of more than 30 seconds is searched for by each of its segments.
    clip = cut_out(folder / "long1.mp4", 0, 48, tmp_path / "clip.mp4")
    hits = index.search(video=clip, limit=4, per_video=None)
    assert {hit.video for hit in hits} == {str(folder / "long1.mp4")}
    for hit, start in zip(sorted(hits, key=lambda hit: hit.start or 0), (0, 12, 24, 36), strict=True):
        assert intersection_over_union(hit, start, start + 12) > 0.7
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    videos = [hit.video for hit in index.search(video=clip, limit=3)]
    assert videos[0] == str(folder / "long1.mp4")
    assert len(set(videos)) == 3


@on_one_engine
def test_a_damaged_time_of_a_row_is_an_error(index: VideoIndex) -> None:
    [row] = cut("/a", 0, 10)
    with pytest.raises(InputValueError, match="the field start of '/a#t=0,10' cannot be stored"):
        index.add([row | {"start": float("nan")}])
