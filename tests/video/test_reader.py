"""Frames with their times, from paths, bytes and file objects."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from clips import RATE, straight, write
from frame_checks import Work, assert_frames, evenly_spaced, times_of

from clip4clip import InputTypeError, VideoError
from clip4clip.video import Frame, FrameSampling, read_frames, read_sampled


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


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize(
    ("every", "numbers"),
    [
        (0.5, range(0, 200, 5)),
        (1, range(0, 200, 10)),
        (2, range(0, 200, 20)),
        (1.5, [key + step for key in range(0, 200, 40) for step in (0, 15, 30)]),
        (3, [*range(0, 200, 40), 190]),  # a frame at 3 s would be too near to the key frame at 4 s
        (7, range(0, 200, 80)),
        (100, [0]),
    ],
)
def test_auto_takes_key_frames_and_others_only_between_distant_ones(
    name: str, every: float, numbers: list[int], four_second_gops: Path
) -> None:
    path = four_second_gops.parent / name
    frames = read_sampled(path, FrameSampling(seek="auto", segments="shots", every=every))
    assert_similar(frames, list(numbers), straight(path))


def assert_similar(frames: Iterable[Frame], numbers: list[int], expected: list[np.ndarray]) -> None:
    """Assert that these are the pictures of these numbers, up to what leaving out the loop filter changes."""
    frames = list(frames)
    np.testing.assert_allclose(times_of(frames), np.array(numbers) / RATE, atol=1e-6)
    for frame, number in zip(frames, numbers, strict=True):
        difference = np.abs(frame.rgb.astype(int) - expected[number]).mean()
        assert difference < 3, number
        assert difference < np.abs(frame.rgb.astype(int) - expected[number - 1]).mean() or not number


@pytest.fixture(scope="module")
def four_second_gops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 s with B-frames and a key frame every four seconds, as MP4 and MKV."""
    folder = tmp_path_factory.mktemp("gops")
    for name in ("a.mkv", "a.mp4"):
        path = write(folder / name, count=200, g="40", bf="3", sc_threshold="0")
    return path


@pytest.mark.parametrize("seek", ["auto", "keyframe"])
@pytest.mark.parametrize("kind", ["h264, open groups", "hevc, open groups", "hevc, open groups, mkv", "h264, ts"])
def test_close_key_frames_are_decoded_without_any_other_frame(
    kind: str, seek: str, clip_of: Callable[..., Path], work: Work
) -> None:
    path = clip_of(kind, 200)
    frames = list(read_sampled(path, FrameSampling(seek=seek, segments="shots", every=3)))
    assert work.packets == len(frames)
    assert all(frame.key_frame for frame in frames)
    numbers = [round((frame.time - frames[0].time) * RATE) for frame in frames]
    assert np.diff(numbers).min() >= 15
    assert np.diff(numbers).max() <= 45
    assert_frames(frames, numbers, straight(path))


@pytest.mark.parametrize(("seek", "numbers"), [("auto", [0, 30, 60, 90]), ("keyframe", [0])])
def test_key_frames_only_leave_gaps_that_auto_fills(seek: str, numbers: list[int], tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", count=100, g="1000", sc_threshold="0")
    frames = read_sampled(path, FrameSampling(seek=seek, segments="shots", every=3))
    assert_similar(frames, numbers, straight(path))


@pytest.mark.parametrize(("group", "is_exact"), [("30", True), ("100", False), ("1000", True)])
def test_pixels_are_inexact_only_where_this_saves_time_and_costs_little(
    group: str, is_exact: bool, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.mp4", count=220, g=group, sc_threshold="0")
    frames = list(read_sampled(path, FrameSampling(segments="shots", every=3)))
    expected = straight(path)
    equal = [np.array_equal(frame.rgb, expected[round(frame.time * RATE)]) for frame in frames]
    assert all(equal) == is_exact


@pytest.mark.parametrize("seek", ["auto", "keyframe"])
def test_exact_frames_are_taken_where_key_frames_are_unknown(seek: str, clip_of: Callable[..., Path]) -> None:
    path = clip_of("h264, avi", 100)
    frames = read_sampled(path, FrameSampling(seek=seek, segments="shots", every=3))
    assert_frames(frames, [0, 30, 60, 90], straight(path))


@pytest.mark.parametrize("kind", ["h264, index in front", "h264, mkv", "hevc, open groups, mkv"])
def test_a_long_video_that_is_cut_off_gives_its_remaining_frames(kind: str, clip_of: Callable[..., Path]) -> None:
    path = clip_of(kind, 100)
    content = path.read_bytes()
    whole = {frame.time: frame.rgb for frame in read_frames(path, None)}
    read = 0
    for length in np.linspace(0, len(content), 12)[1:-1].astype(int):
        try:
            frames = list(read_sampled(content[:length], FrameSampling(segments="shots", every=1.7)))
        except VideoError:
            continue
        assert times_of(frames) == sorted(set(times_of(frames)))
        wrong = [frame for frame in frames if not np.array_equal(frame.rgb, whole.get(frame.time, 0))]
        assert len(wrong) <= 1  # of the packet that is cut in two
        read = max(read, len(frames))
    assert read > 4
