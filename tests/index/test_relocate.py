"""Videos whose folder was moved get new paths, and keep everything else."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from engines import on_one_engine
from index_rows import random_rows

from clip4clip import InputTypeError, InputValueError, VideoIndexError
from clip4clip.index.relocate import make_path_change
from clip4clip.retrieval import Hit, VideoIndex


def add(index: VideoIndex, paths: dict[str, str], **fields: Any) -> None:
    """Add rows with these paths, by their ids; the vectors are those of ``random_rows``."""
    rows = random_rows(len(paths))
    index.add(row | {"id": id_, "path": path} | fields for row, (id_, path) in zip(rows, paths.items(), strict=True))


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_videos_of_a_moved_folder_keep_their_vectors_and_fields(index: VideoIndex, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    touch(new / "a.mp4", new / "sub" / "b.mp4", new / "c.mp4")
    names = {"a": old / "a.mp4", "b": old / "sub" / "b.mp4", "c": old / "c.mp4", "other": tmp_path / "older" / "a.mp4"}
    ids = {name: str(path) for name, path in names.items()} | {"c": "own"}
    add(index, {ids[name]: str(path) for name, path in names.items()}, title="mine")
    index.add([random_rows(1, start=4)[0] | {"path": "https://example.org/old/a.mp4"}])

    report = index.relocate(old, new)
    assert report.relocated == {
        str(old / "a.mp4"): str(new / "a.mp4"),
        str(old / "sub" / "b.mp4"): str(new / "sub" / "b.mp4"),
        str(old / "c.mp4"): str(new / "c.mp4"),
    }
    assert (report.not_found, report.taken, index.count()) == ({}, {}, 5)
    for id_, path, number in (
        (str(new / "a.mp4"), new / "a.mp4", 0),
        (str(new / "sub" / "b.mp4"), new / "sub" / "b.mp4", 1),
        ("own", new / "c.mp4", 2),
        (ids["other"], names["other"], 3),
    ):
        [hit] = index.search(vector=random_rows(4)[number]["vector"], limit=1)
        assert (hit.id, hit.path) == (id_, str(path))
        assert hit.fields == {"duration": float(number), "title": "mine"}
        assert index.get(id_) == Hit(id_, str(path), 1.0, hit.fields)
    assert index.get(str(old / "a.mp4")) is None


def test_the_rows_of_a_video_stay_together(index: VideoIndex, tmp_path: Path) -> None:
    old, new = tmp_path / "old.mp4", tmp_path / "new.mp4"
    touch(new)
    add(index, {str(old): str(old), "second": str(old)}, video=str(old))
    assert index.relocate(old, new).relocated == {str(old): str(new)}
    hits = index.search(vector=random_rows(1)[0]["vector"], per_video=None)
    assert {hit.id: hit.video for hit in hits} == {str(new): str(new), "second": str(new)}
    assert {hit.path for hit in hits} == {str(new)}
    assert len(index.search(vector=random_rows(1)[0]["vector"])) == 1


@on_one_engine
def test_a_video_whose_file_is_not_at_its_new_path_keeps_the_old_one_unless_forced(
    index: VideoIndex, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    touch(new / "a.mp4")
    paths = [str(old / "a.mp4"), str(old / "b.mp4")]
    add(index, dict(zip(paths, paths, strict=True)))
    for dry_run in (True, False):
        report = index.relocate(old, new, dry_run=dry_run)
        assert report.relocated == {paths[0]: str(new / "a.mp4")}
        assert report.not_found == {paths[1]: str(new / "b.mp4")}
        assert {hit.id for hit in index.videos()} == {paths[0] if dry_run else str(new / "a.mp4"), paths[1]}
    with pytest.raises(VideoIndexError, match=f"none of the 1 videos below {re.escape(str(old))} is in .*--force"):
        index.relocate(old, new)
    assert index.relocate(old, new, force=True).relocated == {paths[1]: str(new / "b.mp4")}
    assert {hit.path for hit in index.videos()} == {str(new / "a.mp4"), str(new / "b.mp4")}
    with pytest.raises(VideoIndexError, match="the index has no video below"):
        index.relocate(old, new)


@on_one_engine
def test_a_video_does_not_take_the_path_of_another_one(index: VideoIndex, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    touch(new / "a.mp4", new / "b.mp4", new / "c.mp4")
    own_path = {"own": str(new / "b.mp4")}  # has the path of the second video under an id of its own
    paths = [str(old / "a.mp4"), str(old / "b.mp4"), str(old / "c.mp4"), str(new / "a.mp4")]
    add(index, {path: path for path in paths} | own_path)
    before = {hit.id: hit.fields["duration"] for hit in index.videos()}
    report = index.relocate(old, new)
    assert report.relocated == {paths[2]: str(new / "c.mp4")}
    assert report.taken == {paths[0]: str(new / "a.mp4"), paths[1]: str(new / "b.mp4")}
    before[str(new / "c.mp4")] = before.pop(paths[2])
    assert {hit.id: hit.fields["duration"] for hit in index.videos()} == before
    with pytest.raises(VideoIndexError, match=r"the index already has all 2 videos below .* `clip4clip delete"):
        index.relocate(old, new)
    assert {hit.id: hit.fields["duration"] for hit in index.videos()} == before


def test_a_folder_may_be_moved_into_itself_or_to_the_folder_above(index: VideoIndex, tmp_path: Path) -> None:
    def paths(*names: str) -> list[str]:
        return [str(tmp_path / name) for name in names]

    # Each new path but the last is the old one of the next video.
    before, after = paths("a.mp4", "b/a.mp4", "b/b/a.mp4"), paths("b/a.mp4", "b/b/a.mp4", "b/b/b/a.mp4")
    touch(*map(Path, after))
    add(index, dict(zip(before, before, strict=True)))
    numbers = {hit.id: hit.fields["duration"] for hit in index.videos()}
    index.relocate(tmp_path, tmp_path / "b")
    moved = {hit.id: hit.fields["duration"] for hit in index.videos()}
    assert moved == {new: numbers[old] for old, new in zip(before, after, strict=True)}
    touch(tmp_path / "a.mp4")
    index.relocate(tmp_path / "b", tmp_path)
    assert {hit.id: hit.fields["duration"] for hit in index.videos()} == numbers
    # A video that keeps its path, as its file stayed there, also stops the one that would get it, and so on.
    (tmp_path / "b" / "b" / "b" / "a.mp4").unlink()
    with pytest.raises(VideoIndexError, match="already has all 2 videos"):
        index.relocate(tmp_path, tmp_path / "b")
    assert {hit.id: hit.fields["duration"] for hit in index.videos()} == numbers


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        ("/a/b", "/c", {"/a/b/x.mp4": "/c/x.mp4", "/a/bc/x.mp4": None, "/a/b": "/c", "/a": None, "b/x.mp4": None}),
        ("/a/b/", "/c/../d//e/", {"/a/b/x.mp4": "/d/e/x.mp4", "/a/./b/x.mp4": "/d/e/x.mp4", "/A/b/x.mp4": None}),
        ("/", "/mnt", {"/a/x.mp4": "/mnt/a/x.mp4", "https://example.org/x.mp4": None, "C:\\x.mp4": None}),
        ("C:\\a", "D:\\b", {"C:\\a\\s\\x.mp4": "D:\\b\\s\\x.mp4", "c:/A/x.mp4": "D:\\b\\x.mp4", "C:\\ab\\x.mp4": None}),
        ("C:\\a", "/srv", {"C:\\a\\s\\x.mp4": "/srv/s/x.mp4", "/a/x.mp4": None}),
        ("\\\\host\\share", "Z:\\", {"\\\\host\\share\\s\\x.mp4": "Z:\\s\\x.mp4"}),
        (
            "https://example.org/a",
            "http://localhost:8000/b/",
            {
                "https://example.org/a/x.mp4?t=1#2": "http://localhost:8000/b/x.mp4?t=1#2",
                "https://example.org/ab/x.mp4": None,
                "https://example.org/a": "http://localhost:8000/b",
                "/a/x.mp4": None,
            },
        ),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="a path without a drive is relative there")
def test_folders_are_exact(old: str, new: str, paths: dict[str, str | None]) -> None:
    change = make_path_change(old, new)
    assert {path: change(path) for path in paths} == paths


def test_relative_folders_start_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    change = make_path_change("old", Path("new"))
    assert change(str(tmp_path / "old" / "a.mp4")) == str(tmp_path / "new" / "a.mp4")


@on_one_engine
def test_urls_change_without_being_fetched(index: VideoIndex) -> None:
    old, new = "http://127.0.0.1:9/a/x.mp4", "http://127.0.0.1:9/b/x.mp4"
    add(index, {old: old})
    assert index.relocate("http://127.0.0.1:9/a", "http://127.0.0.1:9/b/").relocated == {old: new}
    assert [(hit.id, hit.path) for hit in index.videos()] == [(new, new)]


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("/a", "", InputValueError, "the new folder is empty: ''"),
        (" ", "/a", InputValueError, "the old folder is empty: ' '"),
        (5, "/a", InputTypeError, "the old folder must be a path or a URL, not 5"),
        ("/a/b", "/a/b/", InputValueError, "the old and the new folder are the same"),
        ("/a", "https://example.org/a", InputValueError, "must both be folders, or both be URLs"),
    ],
)
def test_invalid_folders_are_errors(old: Any, new: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_path_change(old, new)
