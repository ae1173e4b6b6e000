"""Frames with their times, from paths, bytes and file objects."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clips import RATE, straight
from frame_checks import assert_frames, evenly_spaced, times_of

from clip4clip import InputTypeError
from clip4clip.video import FrameSampling, read_frames, read_sampled


def test_a_frame_has_its_time_and_whether_it_is_a_key_frame(clip: Path) -> None:
    frames = list(read_frames(clip, None))
    np.testing.assert_allclose(times_of(frames), np.arange(25) / RATE, atol=1e-6)
    assert [number for number, frame in enumerate(frames) if frame.key_frame] == [0, 8, 16, 24]


@pytest.mark.parametrize("kind", ["h264", "h264, avi"])
def test_the_number_of_frames_is_known_with_the_first_frame(kind: str, clip_of: Callable[..., Path]) -> None:
    frames = read_frames(clip_of(kind), 3)
    next(frames)
    assert frames.info.frame_count == 25
    assert frames.info.duration == pytest.approx(2.5, abs=0.2)
    frames.close()


def test_bytes_and_file_objects_give_the_frames_of_the_file(clip: Path) -> None:
    expected = straight(clip)
    assert_frames(read_frames(clip.read_bytes(), 5), evenly_spaced(25, 5), expected)
    with clip.open("rb") as file:
        assert_frames(read_frames(file, 5), evenly_spaced(25, 5), expected)
        assert_frames(read_frames(file, None), list(range(25)), expected)
        assert not file.closed
    assert_frames(read_frames(io.BytesIO(clip.read_bytes()), 5), evenly_spaced(25, 5), expected)


def test_another_type_of_source_is_an_error_at_once() -> None:
    with pytest.raises(InputTypeError, match="must be a path, a URL, bytes or a binary file object, not int: 3"):
        read_frames(3)  # type: ignore[arg-type]


# read_sampled


@pytest.mark.parametrize("seek", ["auto", "exact", "keyframe"])
def test_a_video_that_is_not_cut_gives_frames_spread_over_it(seek: str, clip: Path) -> None:
    frames = read_sampled(clip, FrameSampling(5, seek))
    expected = list(read_frames(clip, 5, seek="keyframe" if seek == "keyframe" else "exact"))
    assert_frames(frames, list(range(len(expected))), [frame.rgb for frame in expected])
    assert not frames.info.is_cut


@pytest.mark.parametrize("segments", ["auto", "shots", 2.0])
@pytest.mark.parametrize("kind", ["h264", "h264, begins late, ts", "h264, avi"])
def test_a_video_that_is_cut_gives_a_frame_for_each_step(
    kind: str, segments: str | float, clip_of: Callable[..., Path]
) -> None:
    path = clip_of(kind, 340)
    frames = read_sampled(path, FrameSampling(seek="exact", segments=segments, every=2))
    assert not frames.info.is_cut
    first = next(frames)
    assert frames.info.is_cut
    assert frames.info.frame_count == 340
    expected = straight(path)
    assert_frames([first, *frames], list(range(0, 340, 20)), expected)


@pytest.mark.parametrize(("count", "is_cut"), [(300, False), (301, False), (302, True)])
def test_only_videos_of_over_30_s_are_cut_by_default(count: int, is_cut: bool, clip_of: Callable[..., Path]) -> None:
    frames = read_sampled(clip_of("h264", count), FrameSampling())
    next(frames)
    assert frames.info.is_cut == is_cut
    frames.close()
