"""Embedding on this machine: errors of single videos, and memory."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from constants import DEMO_MODEL
from library_tables import embed, rows_by_id

from clip4clip import VideoEncoder
from clip4clip.library import local_engine
from clip4clip.library.sources import Video
from clip4clip.video import read_frames
from clip4clip.video.reader import VideoInfo


def test_an_unexpected_error_while_decoding_becomes_the_error_of_the_row(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith("3\x1b.mp4"):
            raise ZeroDivisionError("a fault\n\x1bof a library")
        return read_frames(path, *arguments, **options)

    monkeypatch.setattr(local_engine, "read_frames", read)
    (clips / "3.mp4").rename(clips / "3\x1b.mp4")
    report = embed(clips, tmp_path / "vectors.parquet")
    assert report.failed == {f"{clips}/3\x1b.mp4": rf"{clips}/3\x1b.mp4: ZeroDivisionError: a fault\n\x1bof a library"}


def test_rows_say_which_files_are_undecodable(
    clips: Path, tmp_path: Path, bigbuckbunny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(bigbuckbunny.read_bytes()[:100_000])  # its index was at the end
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "disk.mp4").touch()

    def read(path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith("disk.mp4"):
            raise OSError(errno.EIO, "Input/output error")
        return read_frames(path, *arguments, **options)

    monkeypatch.setattr(local_engine, "read_frames", read)
    names = ["text.mp4", "empty.mp4", "cut.mp4", "folder.mp4", "disk.mp4", "none.mp4"]
    paths = [str(tmp_path / name) for name in names] + [str(clips / "1.mp4"), "http://127.0.0.1:9/a.mp4"]
    videos = [Video(path, path, None, None) for path in paths]
    rows = list(local_engine.embed_videos(videos, VideoEncoder.load(DEMO_MODEL)))
    assert [row["error"] is None for row in rows] == [False] * 6 + [True, False]
    assert [Path(row["path"]).name for row in rows if row["undecodable"]] == ["text.mp4", "empty.mp4", "cut.mp4"]


class Frames(list[np.ndarray]):
    info = VideoInfo()


def test_at_most_three_batches_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    in_memory: list[int] = []
    embedded = 0

    def read(path: str, *_: object, **__: object) -> Frames:
        decoded.append(path)
        in_memory.append(len(decoded) - embedded)
        return Frames([np.zeros((112, 112, 3), np.uint8)])

    monkeypatch.setattr(local_engine, "read_frames", read)
    videos = (Video(str(number), str(number), None, None) for number in range(200))
    for row in local_engine.embed_videos(videos, VideoEncoder.load(DEMO_MODEL)):
        assert (row["id"], row["error"]) == (str(embedded), None)
        embedded += 1
    assert embedded == 200
    assert max(in_memory) <= 3 * local_engine.BATCH_SIZE


def test_file_names_that_are_not_utf8_fail_and_unusual_ones_do_not(clips: Path, tmp_path: Path) -> None:
    unusual = clips / "a b 'c' \"d\" #é % 你好 <b>.mp4"
    shutil.copy(clips / "1.mp4", unusual)
    listed = [unusual]
    if sys.platform == "linux":
        broken = os.fsdecode(os.fsencode(clips) + b"/\xff.mp4")
        shutil.copy(clips / "1.mp4", broken)
        listed.append(Path(broken))
    report = embed(listed, tmp_path / "vectors.parquet")
    assert len(report.failed) == len(listed) - 1
    assert all("its name is not UTF-8" in reason for reason in report.failed.values())
    assert rows_by_id(tmp_path / "vectors.parquet")[str(unusual)]["error"] is None
