"""Tests for clip4clip.web.timed_file."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import clips
import pytest

from clip4clip import VideoError
from clip4clip.video import read_frames
from clip4clip.web.timed_file import READ_SIZE, TimedFile


def test_a_timed_file_can_be_decoded_until_its_deadline(tmp_path: Path) -> None:
    video = clips.make("h264", tmp_path)
    expected = [frame.time for frame in read_frames(video)]
    with tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(video.read_bytes())
        for deadline in (math.inf, 0.0):
            file: Any = TimedFile(spooled, "a.mp4", deadline, "too slow")  # type: ignore[arg-type]
            if deadline:
                assert [frame.time for frame in read_frames(file)] == expected
                file.stop()
            assert file.is_late
            with pytest.raises(VideoError, match=r"a\.mp4: too slow"):
                next(read_frames(file))


def test_the_time_is_checked_often(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10 * READ_SIZE))
    with (tmp_path / "a").open("rb") as opened:
        file = TimedFile(opened, "a", math.inf, "too slow")
        assert [len(file.read()), len(file.read(10)), len(file.read(10**9))] == [READ_SIZE, 10, READ_SIZE]
        assert (file.tell(), file.seek(-1, 2)) == (2 * READ_SIZE + 10, 10 * READ_SIZE - 1)
