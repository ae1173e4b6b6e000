"""Paths, named pipes and file objects as sources of a video."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from clips import straight
from frame_checks import assert_frames, evenly_spaced

from clip4clip import VideoError, VideoNotFoundError
from clip4clip.video import read_frames, source


def read(path: Path | str | bytes) -> None:
    list(read_frames(path, None))


# Paths


def test_a_path_without_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VideoNotFoundError, match=r"nowhere\.mp4: there is no such file"):
        read(tmp_path / "nowhere.mp4")


def test_a_folder_or_an_impossible_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="cannot be opened"):
        read(tmp_path)
    with pytest.raises(VideoError, match="cannot be opened"):
        read("a\0b.mp4")


@pytest.mark.parametrize("name", ["frame%03d.mp4", "concat:a.mp4", "file:a.mp4", "a b'c\".mp4", "-i.mp4", "http:a.mp4"])
def test_a_file_name_is_never_taken_for_a_pattern_or_a_protocol(
    name: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(list(read_frames(name, None))) == 25


@pytest.mark.parametrize("name", ["rtsp://127.0.0.1/a", "ftp://127.0.0.1/a", "data:video/mp4;base64,AA", "pipe:0"])
def test_other_protocols_than_http_are_names_of_files(name: str) -> None:
    with pytest.raises(VideoNotFoundError, match="there is no such file"):
        read(name)


def test_a_url_of_another_protocol_is_an_error_that_names_those_that_work() -> None:
    with pytest.raises(VideoNotFoundError, match="a URL must begin with http:// or https://"):
        read("s3://bucket/film.mp4")


@pytest.mark.parametrize("content", [b"", b"hello world" * 50])
def test_a_file_name_cannot_control_the_terminal(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J\nb\u202e.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError) as caught:
        read(path)
    assert str(caught.value).isprintable()
    assert r"a\x1b[2J\nb\u202e.mp4: " in str(caught.value)
    with pytest.raises(VideoNotFoundError, match=r"no\\x1b\.mp4: there is no such file"):
        read("no\x1b.mp4")


# Named pipes


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
def test_a_named_pipe_gives_what_is_written_to_it(clip: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mp4"  # as <(command) gives one in a shell
    os.mkfifo(pipe)
    for content in (clip.read_bytes(), b""):
        writer = threading.Thread(target=pipe.write_bytes, args=(content,))
        writer.start()
        if content:
            assert_frames(read_frames(pipe, 5), evenly_spaced(25, 5), straight(clip))
        else:
            with pytest.raises(VideoError, match=r"pipe\.mp4: the file is empty"):
                list(read_frames(pipe))
        writer.join()


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
def test_a_named_pipe_that_nobody_writes_to_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PIPE_OPEN_TIMEOUT", 0.1)
    monkeypatch.setattr(source, "PIPE_READ_TIMEOUT", 0.1)
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    threads = threading.active_count()
    with pytest.raises(VideoError, match=r"pipe\.mp4: cannot be opened: no program has begun to write to this pipe"):
        read(pipe)
    assert threading.active_count() == threads
    with (
        os.fdopen(os.open(pipe, os.O_RDWR), "wb", buffering=0),  # a writer that writes nothing
        pytest.raises(VideoError, match=r"pipe\.mp4: nothing has come through this pipe for 0\.1 s"),
    ):
        read(pipe)


# File objects


class Unseekable(io.RawIOBase):
    """A file object that cannot seek."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._content.readinto(buffer)


def test_a_file_object_that_cannot_seek_is_copied_up_to_a_limit(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = clip.read_bytes()
    assert_frames(read_frames(Unseekable(content), 5), evenly_spaced(25, 5), straight(clip))  # type: ignore[arg-type]
    monkeypatch.setattr(source, "MAX_COPY_BYTES", 100)
    with pytest.raises(VideoError, match="cannot seek, and is over the limit of 100 bytes for a temporary copy"):
        list(read_frames(Unseekable(content)))  # type: ignore[arg-type]
