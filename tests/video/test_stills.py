"""Tests for clip4clip.video.stills: its frames are those of read_frames, and it reads little of a file."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest

from clip4clip import InputValueError, VideoError
from clip4clip.video import read_frames
from clip4clip.video.limits import Limits
from clip4clip.video.stills import read_stills

KINDS = [
    *("h264, one group", "h264, open groups", "h264, open groups, ts", "h264, b-pyramid", "h264, begins late, ts"),
    *("h264, trimmed at its start, open groups", "h264, variable rate", "h264, variable rate, mkv", "h264, flv"),
    *("h264, intra refresh", "h264, raw", "mpeg-2, ps", "vp8, hidden frames", "gif", "still"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_frame_at_a_time_is_the_one_that_is_displayed_then(kind: str, tmp_path: Path) -> None:
    video = clips.make(kind, tmp_path)
    frames = list(read_frames(video, None))
    for time in np.linspace(frames[0].time, frames[-1].time, 5).tolist():
        expected = [frame for frame in frames if frame.time <= time + 1e-3][-1]
        still = read_stills(video, 1, time, time)[0]
        assert still.time == pytest.approx(expected.time)
        assert np.abs(still.rgb.astype(int) - expected.rgb).mean() < 4  # without the loop filter


def test_frames_lie_in_the_middles_of_equal_parts_or_at_a_key_frame_shortly_before(tmp_path: Path) -> None:
    video = clips.make("h264", tmp_path, count=50)  # key frames every 0.8 s
    assert [still.time for still in read_stills(video, 5)] == pytest.approx([0.5, 1.5, 2.5, 3.5, 4.5])
    assert [still.time for still in read_stills(video, 1)] == pytest.approx([2.4])  # not 2.5
    assert [still.time for still in read_stills(video, 1, 2.45, 2.55)] == pytest.approx([2.5])
    assert [still.time for still in read_stills(video, 3, 1.0, 2.2)] == pytest.approx([1.2, 1.6, 2.0])
    assert [still.time for still in read_stills(video, 2, 4.0)] == pytest.approx([4.2, 4.7])


@pytest.mark.parametrize("name", ["a.avi", "a.mkv"])
def test_little_of_a_long_file_is_read(name: str, tmp_path: Path) -> None:
    class CountingFile(io.FileIO):
        count = 0

        def read(self, size: Any = -1) -> bytes:
            content = super().read(size)
            self.count += len(content)
            return content

    video = clips.write(tmp_path / name, "rawvideo", 300)
    with CountingFile(video) as file:
        source: Any = file
        times = [still.time for still in read_stills(source, 2)]
        assert times == pytest.approx([7.5, 22.5], abs=0.11)
        assert file.count < video.stat().st_size / 2, (file.count, video.stat().st_size)


def test_a_video_with_fewer_frames_repeats_them(tmp_path: Path) -> None:
    for kind in ("h264", "h264, raw", "still"):
        stills = read_stills(clips.make(kind, tmp_path, count=1), 6)
        assert [still.time for still in stills] == [0.0] * 6


def test_a_time_after_the_end_and_a_video_over_a_limit_are_errors(tmp_path: Path) -> None:
    video = clips.make("h264, one group", tmp_path)
    for late in (9, 1.4e16, 1e308):
        with pytest.raises(InputValueError, match=re.escape(f"it has no frame at {late:g} s")):
            read_stills(video, 1, late, late)
    with pytest.raises(VideoError, match="which is the limit"):
        read_stills(video, 6, limits=Limits(decoded_pixels=160 * 96 * 10))
