"""Display times rise, even if time stamps are missing, repeat or fall."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import KINDS, RATE, X264, straight, write
from frame_checks import assert_frames, evenly_spaced, times_of

from clip4clip.video import read_frames

ClipOf = Callable[..., Path]


# Time stamps that are right


def test_frames_of_a_variable_rate_are_displayed_at_their_time_stamps(clip_of: ClipOf) -> None:
    times = times_of(read_frames(clip_of("h264, variable rate"), None))
    np.testing.assert_allclose(times, [(number + number * number // 9) / RATE for number in range(25)], atol=1e-3)


def test_an_edit_list_hides_frames_and_moves_the_others(clip_of: ClipOf) -> None:
    times = times_of(read_frames(clip_of("h264, edit list"), None))
    np.testing.assert_allclose(times, np.arange(20) / RATE, atol=1e-6)


# Time stamps that are missing from the format


def test_a_raw_stream_without_time_stamps_is_timed_by_its_rate(tmp_path: Path) -> None:
    frames = list(read_frames(write(tmp_path / "raw.h264", bf="0"), None))
    assert len(frames) == 25
    assert all(later.time > earlier.time for earlier, later in itertools.pairwise(frames))


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_an_avi_that_leaves_frames_out_displays_the_others_at_their_times(codec: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", codec, 15, bf="2", pts=lambda number: 3 * number)
    np.testing.assert_allclose(times_of(read_frames(path, None)), 3 * np.arange(15) / RATE, atol=1e-6)
    np.testing.assert_allclose(times_of(read_frames(path, times=[2.5])), [2.4], atol=1e-6)


@pytest.mark.parametrize(("codec", "options"), [("mpeg4", {"g": "8"}), ("libx264", X264)])
def test_lost_frames_do_not_move_the_others_of_an_avi(codec: str, options: dict[str, str], tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", codec, 43, **options)
    expected = straight(path)
    with av.open(str(path)) as file:
        positions = [packet.pos for packet in file.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    content[positions[9] - 8 : positions[14]] = bytes(positions[14] - positions[9] + 8)
    frames = list(read_frames(bytes(content), None))
    assert 30 < len(frames) < 43
    for frame in frames[-25:]:
        np.testing.assert_array_equal(frame.rgb, expected[round(frame.time * RATE)])


# Time stamps that do not order the frames


def number_in_decoding_order(number: int, packet: av.Packet) -> None:
    """As a remuxer does that finds no display times, copying from an AVI."""
    packet.pts = packet.dts = round(number / RATE / packet.time_base)


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        *(("h264", ending) for ending in ("mp4", "mov", "mkv", "flv", "ts")),
        *(("hevc", ending) for ending in ("mp4", "mkv", "ts")),
        *(("h264, 384×216", ending) for ending in ("mp4", "ts")),
    ],
)
def test_time_stamps_in_decoding_order_are_sorted_without_a_warning(
    kind: str, ending: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = {**KINDS[kind].arguments, "muxer": {}}
    path = write(tmp_path / f"a.{ending}", count=43, restamp=number_in_decoding_order, **arguments)
    expected = straight(path)
    for samples in (12, 43):
        assert_frames(read_frames(path, samples), evenly_spaced(43, samples), expected)
    assert_frames(read_frames(path, indices=[30, 31]), [30, 31], expected)
    frames = list(read_frames(path, None))
    assert_frames(frames, list(range(43)), expected)
    np.testing.assert_allclose(np.array(times_of(frames)) - frames[0].time, np.arange(43) / RATE, atol=1e-3)
    assert not caplog.records


def set_to_zero(number: int, packet: av.Packet) -> None:
    packet.pts = packet.dts = 0


class Repeat:
    """Gives every n-th packet the time stamp of the packet before."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._last_pts = 0

    def __call__(self, number: int, packet: av.Packet) -> None:
        if number % self._n == self._n - 1:
            packet.pts = self._last_pts = max(self._last_pts, packet.dts)
        self._last_pts = packet.pts


class RepeatBoth(Repeat):
    """Repeats the decoding time, too. Without B-frames, it must not be after the display time."""

    def __call__(self, number: int, packet: av.Packet) -> None:
        packet.dts = self._last_pts if number % self._n == self._n - 1 else packet.dts
        super().__call__(number, packet)


def swap(number: int, packet: av.Packet) -> None:
    """Swaps the 21st and the 22nd frame."""
    packet.pts += round({20: 1, 21: -1}.get(number, 0) / RATE / packet.time_base)
    packet.dts = min(packet.dts, packet.pts)


BEFORE_ZERO = {"muxer": {"avoid_negative_ts": "disabled"}, "shift": -13}
NO_B_FRAMES = {**X264, "bf": "0"}
WRONG_TIMES = {
    "negative, mkv": ("a.mkv", {**NO_B_FRAMES, **BEFORE_ZERO}),
    "negative, b-frames, mkv": ("a.mkv", {**X264, **BEFORE_ZERO}),
    "all zero, mkv": ("a.mkv", {**X264, "restamp": set_to_zero}),
    "every fifth repeated, mkv": ("a.mkv", {**NO_B_FRAMES, "restamp": RepeatBoth(5)}),
    "every fifth repeated, b-frames, mp4": ("a.mp4", {**X264, "restamp": Repeat(5)}),
    "one repeated, mp4": ("a.mp4", {**X264, "restamp": Repeat(27)}),
    "two swapped, mkv": ("a.mkv", {**NO_B_FRAMES, "restamp": swap}),
}


@pytest.mark.parametrize("case", WRONG_TIMES)
def test_frames_with_wrong_time_stamps_are_those_of_decoding_everything_at_rising_times(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, arguments = WRONG_TIMES[case]
    path = write(tmp_path / name, count=43, **arguments)
    expected = straight(path)
    assert len(expected) == 43
    times = times_of(read_frames(path, None))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "time stamps are missing, repeat or fall" in caplog.text
    selections: list[tuple[dict[str, Any], list[int]]] = [
        ({"num_samples": 12}, evenly_spaced(43, 12)),
        ({"indices": [20, 21, 22, 26, 27]}, [20, 21, 22, 26, 27]),
        ({"times": [times[27]]}, [27]),
        ({"num_samples": None, "start_time": times[10], "end_time": times[35]}, list(range(10, 36))),
    ]
    for selection, numbers in selections:
        caplog.clear()
        frames = list(read_frames(path, **selection))
        assert_frames(frames, numbers, expected)
        assert times_of(frames) == pytest.approx([times[number] for number in numbers])
        assert len(caplog.records) <= 1  # none if the frames with wrong time stamps are not read
        assert "damaged" not in caplog.text


@pytest.mark.parametrize(
    "case", ["negative, mkv", "negative, b-frames, mkv", "all zero, mkv", "every fifth repeated, mkv"]
)
def test_missing_and_repeated_time_stamps_are_replaced_by_steps_of_one_frame(case: str, tmp_path: Path) -> None:
    name, arguments = WRONG_TIMES[case]
    path = write(tmp_path / name, count=43, **arguments)
    np.testing.assert_allclose(times_of(read_frames(path, None)), np.arange(43) / RATE, atol=1e-3)


def round_to_quarters(number: int, packet: av.Packet) -> None:
    """Four ticks a second, of which each frame takes at least one."""
    pts = round(packet.pts * packet.time_base * 4)
    packet.time_base = Fraction(1, 4)
    packet.dts, packet.pts = number, max(number, pts)


def test_ticks_may_be_longer_than_a_frame(tmp_path: Path) -> None:
    muxer = {"video_track_timescale": "4"}
    path = write(tmp_path / "a.mp4", count=43, muxer=muxer, restamp=round_to_quarters, **X264)
    expected = straight(path)
    for samples in (None, 12):
        numbers = evenly_spaced(len(expected), samples or len(expected))
        assert_frames(read_frames(path, samples), numbers, expected)


@pytest.mark.parametrize("size", [(160, 96), (96, 160)])
def test_the_second_of_two_joined_recordings_follows_the_first(
    size: tuple[int, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = [write(tmp_path / "a.ts", count=25, **X264), write(tmp_path / "b.ts", count=25, size=size, **X264)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    expected = [frame for part in parts for frame in straight(part)]
    frames = list(read_frames(path, None))
    assert_frames(frames, list(range(50)), expected)
    np.testing.assert_allclose(np.array(times_of(frames)) - frames[0].time, np.arange(50) / RATE, atol=1e-6)
    caplog.clear()
    assert_frames(read_frames(path, 12), evenly_spaced(50, 12), expected)
    assert len(caplog.records) == 1
