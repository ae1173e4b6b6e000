"""Which files of a folder were moved, and which are gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clip4clip.index.sync import find_moved, is_gone, moved_folders
from clip4clip.library.sources import Video


def video(path: str, size: int | None = 7, mtime: int | None = 9, id: str | None = None) -> Video:  # noqa: A002
    return Video(id or path, path, size, mtime)


def moves(new: list[Video], missing: list[Video]) -> dict[str, list[str]]:
    return {path: [old.id for old in videos] for path, videos in find_moved(new, missing).items()}


def test_a_moved_file_has_the_name_size_and_time_of_a_missing_one() -> None:
    missing = [video("/old/a.mp4"), video("/old/a.mp4", id="own")]
    assert moves([video("/new/a.mp4")], missing) == {"/new/a.mp4": ["/old/a.mp4", "own"]}
    for other in (video("/new/b.mp4"), video("/new/a.mp4", size=8), video("/new/a.mp4", mtime=8)):
        assert moves([other], missing) == {}
    assert moves([video("/new/a.mp4", None, None)], [video("/old/a.mp4", None, None)]) == {}


def test_copies_of_a_file_are_told_apart_by_their_folders() -> None:
    missing = [video("/old/x/a.mp4"), video("/old/y/a.mp4")]
    new = [video("/new/y/a.mp4"), video("/new/x/a.mp4")]
    assert moves(new, missing) == {"/new/x/a.mp4": ["/old/x/a.mp4"], "/new/y/a.mp4": ["/old/y/a.mp4"]}
    assert moves([video("/new/z/a.mp4")], missing) == {}  # either may have been moved
    assert moves([video("/new/a.mp4"), video("/new/z/a.mp4")], missing[:1]) == {"/new/a.mp4": ["/old/x/a.mp4"]}


@pytest.mark.skipif(os.name == "nt", reason="paths of POSIX")
def test_moved_folders_are_the_outermost_ones_that_explain_the_new_paths() -> None:
    moved = {"/new/a.mp4": "/old/a.mp4", "/new/x/b.mp4": "/old/x/b.mp4", "/new/c.mp4": "/old/y/c.mp4"}
    assert moved_folders(moved, "/new") == {("/old", "/new"): 2, ("/old/y", "/new"): 1}
    moved = {"/mnt/new/videos/x/a.mp4": "/mnt/old/videos/x/a.mp4"}
    assert moved_folders(moved, "/mnt/new/videos") == {("/mnt/old/videos", "/mnt/new/videos"): 1}
    assert moved_folders(moved, "/mnt/new/videos/x") == {("/mnt/old/videos/x", "/mnt/new/videos/x"): 1}


def test_a_file_is_gone_only_if_that_is_certain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, gone = tmp_path / "a.mp4", tmp_path / "none" / "b.mp4"
    file.touch()
    (tmp_path / "link.mp4").symlink_to(gone)
    assert not is_gone(str(file))
    assert not is_gone(str(tmp_path / "link.mp4"))
    assert is_gone(str(gone))
    assert is_gone(str(file / "b.mp4"))  # a file is where the folder was
    assert not is_gone(str(gone), [str(tmp_path)])
    assert is_gone(str(gone), [str(tmp_path / "no")])
    monkeypatch.chdir(tmp_path)
    for path in ("none/b.mp4", r"C:\none\b.mp4" if os.name != "nt" else "/none/b.mp4", "\0", f"{tmp_path}/\0"):
        assert not is_gone(path)

    def deny(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "lstat", deny)
    assert not is_gone(str(gone))
