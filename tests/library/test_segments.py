"""Videos cut into segments: shots and windows of a fixed length."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from constants import DEMO_MODEL

from clip4clip import InputValueError, VideoEncoder
from clip4clip.library.segments import Segment, Segmenter, is_uniform, segment_id
from clip4clip.runtime.tower import MeanPooling
from clip4clip.training.drawing import FRAME_RATE, SIDE, draw_long
from clip4clip.training.scenes import Moment, Scene
from clip4clip.video.sampling import FrameSampling

Frames = tuple[np.ndarray, np.ndarray, np.ndarray]  # times, embeddings, uniformity
STEPS = (0.5, 1.0, 2.0, 4.0)  # seconds between frames
BLACK = 0


def frames_of(directions: np.ndarray, every: float, noise: float = 0.3) -> Frames:
    """Return frames whose embeddings have some directions, (T, 64), and noise of some length. The first is black."""
    random = np.random.default_rng(0)
    noises = random.standard_normal(directions.shape) * noise / 8
    lengths = random.uniform(5, 15, (len(directions), 1))
    return (
        np.arange(len(directions)) * every,
        ((directions + noises) * lengths).astype(np.float32),
        directions[:, BLACK] == 1,
    )


def contents(*parts: tuple[float, int], every: float, noise: float = 0.3) -> Frames:
    """Return the frames of parts, each of some seconds and a content; equal numbers have the same content."""
    return frames_of(
        np.eye(64)[[content for seconds, content in parts for _ in range(round(seconds / every))]], every, noise
    )


def cut(
    frames: Frames,
    segments: str | float = "shots",
    every: float | None = None,
    chunks: Sequence[int] = (32,),
    duration: float | None = None,
) -> list[Segment]:
    """Return the segments of a video whose frames are added in chunks of the given lengths, in turn."""
    every = every or float(frames[0][1] - frames[0][0])
    segmenter = Segmenter(FrameSampling(segments=segments, every=every), MeanPooling())
    found: list[Segment] = []
    first = number = 0
    while first < len(frames[0]):
        end = first + chunks[number % len(chunks)]
        times, embeddings, uniform = (values[first:end] for values in frames)
        found += segmenter.add(times, embeddings, uniform)
        first, number = end, number + 1
    return found + segmenter.finish(duration)


def ranges(segments: list[Segment]) -> list[tuple[float, float]]:
    return [(segment.start, segment.end) for segment in segments]


def cuts(segments: list[Segment]) -> list[float]:
    return [segment.start for segment in segments[1:]]


@pytest.mark.parametrize("every", [0.5, 1, 2, 4])
def test_a_video_is_cut_where_its_content_changes(every: float) -> None:
    segments = cut(contents((8, 1), (20, 2), (12, 3), (24, 1), every=every))
    half = every / 2  # the change lies somewhere between two frames
    assert ranges(segments) == [(0, 8 - half), (8 - half, 28 - half), (28 - half, 40 - half), (40 - half, 64)]
    for segment, content in zip(segments, (1, 2, 3, 1), strict=True):
        assert segment.vector.dtype == np.float32
        assert np.linalg.norm(segment.vector) == pytest.approx(1)
        assert segment.vector[content] > 0.95
        assert not segment.is_uniform


def test_a_cut_lies_near_a_frame_off_the_steps_which_is_a_key_frame() -> None:
    times, embeddings, uniform = contents((20, 1), (20, 2), every=2)
    assert cuts(cut((times, embeddings, uniform))) == [19]
    assert cuts(cut((times + 0.1 * (times >= 20), embeddings, uniform))) == [19.05]
    assert cuts(cut((times + 1.0 * (times >= 20), embeddings, uniform))) == [20.25]
    assert cuts(cut((times - 0.8 * (times >= 20), embeddings, uniform))) == [18.9]


@pytest.mark.parametrize("every", STEPS)
def test_a_fade_is_one_cut_in_its_middle(every: float) -> None:
    seconds = 3 * every
    share = np.clip((np.arange(0, 48, every) - 20) / seconds + 0.5, 0, 1)[:, None]
    segments = cut(frames_of(np.eye(64)[1] * (1 - share) + np.eye(64)[2] * share, every))
    assert len(segments) == 2
    assert abs(segments[0].end - 20) <= every


@pytest.mark.parametrize("every", STEPS)
@pytest.mark.parametrize("odd", [BLACK, 2])
def test_one_odd_frame_cuts_nothing(every: float, odd: int) -> None:
    frames = [1] * round(28 / every)
    frames[5] = odd
    (segment,) = cut(frames_of(np.eye(64)[frames], every))
    assert (segment.start, segment.end, segment.is_uniform) == (0, len(frames) * every, False)
    assert segment.vector[1] > 0.9


@pytest.mark.parametrize("every", STEPS)
@pytest.mark.parametrize("noise", [0.0001, 0.02, 0.3])
def test_a_static_camera_is_divided_evenly(every: float, noise: float) -> None:
    assert ranges(cut(contents((28, 1), every=every, noise=noise))) == [(0, 28)]
    assert ranges(cut(contents((100, 1), every=every, noise=noise))) == [(0, 25), (25, 50), (50, 75), (75, 100)]


@pytest.mark.parametrize("every", STEPS)
def test_a_slow_change_is_no_cut(every: float) -> None:
    angle = np.arange(0, 112, every)[:, None] / 112 * np.pi / 2  # from one content to another, at a steady pace
    segments = cut(frames_of(np.eye(64)[1] * np.cos(angle) + np.eye(64)[2] * np.sin(angle), every, noise=0.1))
    assert ranges(segments) == [(0, 28), (28, 56), (56, 84), (84, 112)]


def test_what_counts_as_a_cut_adapts_to_the_video() -> None:
    near, far = np.eye(64)[1] + 0.6 * np.eye(64)[2], 0.1 * np.eye(64)[1] + np.eye(64)[3]
    calm = np.concatenate([np.tile(each, (6, 1)) for each in (np.eye(64)[1], near, np.eye(64)[1], near)])
    assert cuts(cut(frames_of(calm, 2, noise=0.05))) == [11, 23, 35]
    # Between contents that are far apart, the same changes are small.
    wild = np.concatenate([np.tile(each, (6, 1)) for each in (-far, far, np.eye(64)[1], near, -far, far)])
    assert cuts(cut(frames_of(wild, 2, noise=0.05))) == [11, 23, 47, 59]
    # In restless pictures, too.
    turns = np.arange(120)[:, None] * 0.4
    restless = np.concatenate([np.cos(turns), np.sin(turns), np.zeros((120, 62))], axis=1)
    assert len(cut(frames_of(restless, 2, noise=0.01))) == 8


@pytest.mark.parametrize("every", STEPS)
def test_a_black_stretch_is_a_uniform_segment(every: float) -> None:
    half = every / 2
    segments = cut(contents((8, BLACK), (20, 1), (8, BLACK), (12, 2), (8, BLACK), every=every))
    assert ranges(segments) == [
        (0, 8 - half),
        (8 - half, 28 - half),
        (28 - half, 36 - half),
        (36 - half, 48 - half),
        (48 - half, 56),
    ]
    assert [segment.is_uniform for segment in segments] == [True, False, True, False, True]
    assert segments[1].vector[1] > 0.9
    assert segments[3].vector[2] > 0.9


def test_a_video_of_one_colour_is_divided_into_uniform_segments() -> None:
    segments = cut(contents((50, BLACK), every=2))
    assert [(segment.start, segment.end, segment.is_uniform) for segment in segments] == [(0, 25, True), (25, 50, True)]


def test_a_short_black_stretch_is_ignored_but_a_cut_lies_in_it() -> None:
    segments = cut(contents((10, 1), (1.5, BLACK), (10, 2), (1.5, BLACK), (5, 2), every=0.5))
    assert ranges(segments) == [(0, 10.5), (10.5, 28)]
    assert segments[0].vector[1] > 0.95  # the black frames are not pooled
    assert segments[1].vector[2] > 0.95


def test_one_odd_frame_in_the_dark_is_no_shot() -> None:
    segments = cut(contents((10, 1), (8, BLACK), (0.5, 2), (8, BLACK), (10, 3), every=0.5))
    assert ranges(segments) == [(0, 9.75), (9.75, 26.25), (26.25, 36.5)]
    assert not segments[1].is_uniform
    assert segments[1].vector[2] > 0.9


def test_a_second_at_the_start_or_the_end_is_no_shot() -> None:
    assert ranges(cut(contents((1, 1), (20, 2), (1, 3), every=0.5))) == [(0, 22)]
    assert ranges(cut(contents((1, 1), (8, BLACK), (1, 3), every=0.5))) == [(0, 10)]


@pytest.mark.parametrize("seed", range(3))
def test_segments_cover_a_video_and_are_neither_too_short_nor_too_long(seed: int) -> None:
    random = np.random.default_rng(seed)
    lengths = random.choice([0.5, 1, 2, 3, 5, 8, 40, 150], 25)
    frames = contents(*((length, int(random.integers(0, 64))) for length in lengths), every=0.5)
    segments = cut(frames)
    assert (segments[0].start, segments[-1].end) == (0, lengths.sum())
    assert [segment.end for segment in segments[:-1]] == cuts(segments)
    assert min(segment.end - segment.start for segment in segments) >= 2
    assert max(segment.end - segment.start for segment in segments) <= 30
    for kind in ("shots", 7.0):
        whole, chunked = cut(frames, kind, chunks=[len(frames[0])]), cut(frames, kind, chunks=[1, 5, 32, 2])
        assert ranges(whole) == ranges(chunked)
        np.testing.assert_allclose([one.vector for one in whole], [one.vector for one in chunked], atol=1e-6)


def test_long_shots_are_divided_evenly_and_very_long_ones_before_their_end_is_known() -> None:
    assert ranges(cut(contents((62, 1), (20, 2), every=2))) == [(0, 20.333), (20.333, 40.667), (40.667, 61), (61, 82)]
    lengths = np.diff([*cuts(cut(contents((1000, 1), (20, 2), every=2))), 1020])
    assert lengths[:25] == pytest.approx(np.full(25, 30))
    assert lengths[25:-1].min() >= 15
    assert lengths[-1] == 21


def test_memory_does_not_grow_with_the_length_of_the_video() -> None:
    hour = contents(*[(20, 1), (6, 2), (40, 3), (4, BLACK), (30, 4)] * 12, (1200, BLACK), (1200, 5), every=4)
    for segments in ("shots", 60.0):
        segmenter = Segmenter(FrameSampling(segments=segments, every=4), MeanPooling())
        sizes, count = [], 0
        for number in range(10):
            count += len(segmenter.add(hour[0] + number * len(hour[0]) * 4, hour[1], hour[2]))
            sizes.append(len(pickle.dumps(segmenter)))
        assert max(sizes) < 1.5 * sizes[0]
        assert sizes[0] < hour[1].nbytes / 5
        assert count + len(segmenter.finish(None)) > 10 * 3600 / 31


def test_frames_that_are_far_apart_give_no_empty_segments() -> None:
    times = np.array([0, 100, 190, 280, 281, 400, 700, 701, 990.0])
    embeddings, uniform = np.eye(64, dtype=np.float32)[1 : len(times) + 1], np.zeros(len(times), bool)
    for chunk in (1, 9):
        segments = cut((times, embeddings, uniform), every=2, chunks=[chunk])
        assert (segments[0].start, segments[-1].end) == (0, 992)
        assert [segment.end for segment in segments[:-1]] == cuts(segments)
        for segment in segments:
            assert ((times >= segment.start) & (times < segment.end)).any()
        windows = cut((times, embeddings, uniform), 10.0, every=2, chunks=[chunk])
        assert ranges(windows)[:4] == [(0, 10), (95, 105), (100, 110), (185, 195)]


def test_windows_overlap_by_half() -> None:
    frames = contents((21, 1), every=1)
    assert ranges(cut(frames, 10.0)) == [(0, 10), (5, 15), (10, 20), (15, 21)]
    assert ranges(cut(frames, 21.0)) == [(0, 21)]
    assert ranges(cut(frames, 100.0)) == [(0, 21)]
    assert ranges(cut(contents((20, 1), every=1), 10.0)) == [(0, 10), (5, 15), (10, 20)]
    changing = cut(contents((10, 1), (10, 2), every=1), 10.0)
    assert [segment.vector[1] > 0.9 for segment in changing] == [True, False, False]
    assert changing[1].vector[1] == pytest.approx(changing[1].vector[2], abs=0.1)


def test_a_black_window_is_uniform() -> None:
    segments = cut(contents((10, 1), (10, BLACK), every=1), 10.0)
    assert [segment.is_uniform for segment in segments] == [False, False, True]


def test_a_wrong_duration_costs_neither_time_nor_memory() -> None:
    assert ranges(cut(contents((40, 1), every=2), "shots", duration=1e12))[-1][1] == 1e12


@pytest.mark.parametrize("kind", ["shots", 40.0])
def test_the_last_segment_ends_with_the_video(kind: str | float) -> None:
    times, embeddings, uniform = contents((20, 1), every=2)
    assert ranges(cut((times, embeddings, uniform), kind)) == [(0, 20)]
    assert ranges(cut((times, embeddings, uniform), kind, duration=19.4567)) == [(0, 19.457)]
    assert ranges(cut((times + 1.4, embeddings, uniform), kind, duration=19)) == [(1.4, 20.4)]
    assert ranges(cut((times, embeddings, uniform), kind, duration=3)) == [(0, 20)]  # wrong: there are later frames
    assert ranges(cut((times[:1], embeddings[:1], uniform[:1]), kind, every=2)) == [(0, 2)]
    assert Segmenter(FrameSampling(segments=kind), MeanPooling()).finish(10) == []


def draw_scenes(*parts: tuple[str, float, str, float]) -> np.ndarray:
    """Draw scenes of shapes on backgrounds, each with its background, seconds, transition and length of the fade."""
    moments, start = [], 0.0
    for number, (background, seconds, transition, fade) in enumerate(parts):
        shape, colour = ("star", "heart", "ring", "cross")[number % 4], ("red", "blue", "green", "pink")[number % 4]
        scene = Scene(shape, colour, "plain", "large", 2, background, "horizontal", None)
        moments.append((Moment(scene, start, start + seconds, transition, fade), np.random.default_rng(number)))
        start += seconds
    return np.stack(list(draw_long(moments)))


@pytest.mark.parametrize("every", [0.5, 1.0, 2.0])
def test_drawn_scenes_are_found_in_spite_of_flashes_fades_and_darkness(every: float) -> None:
    drawn = draw_scenes(
        ("white", 12, "cut", 0), ("black", 16, "dissolve", 1), ("brick", 12, "black", 2), ("gray", 8, "cut", 0)
    )
    drawn[6 * FRAME_RATE : 6 * FRAME_RATE + 2] = 255  # a flash
    drawn[20 * FRAME_RATE] = drawn[0]  # an odd frame
    drawn = np.concatenate([drawn, np.full((6 * FRAME_RATE, SIDE, SIDE, 3), 16, np.uint8)])
    frames = drawn[:: round(every * FRAME_RATE)]
    embeddings = VideoEncoder.load(DEMO_MODEL, device="cpu").frame_embeddings(frames)
    uniform = np.array([is_uniform(frame) for frame in frames])
    segments = cut((np.arange(len(frames)) * every, embeddings, uniform))
    assert cuts(segments) == pytest.approx([12, 28, 40, 48], abs=every / 2 + 0.5)
    assert [segment.is_uniform for segment in segments] == [False] * 4 + [True]


def test_the_id_of_a_segment_is_a_media_fragment() -> None:
    assert segment_id("a/b.mp4", 12.5, 20.0) == "a/b.mp4#t=12.5,20"
    assert segment_id("a", 0.0, 0.001) == "a#t=0,0.001"
    assert segment_id("a", 36000.25, 36010) == "a#t=36000.25,36010"


def test_what_cannot_be_cut_is_rejected() -> None:
    with pytest.raises(InputValueError, match="'whole' cuts nothing"):
        Segmenter(FrameSampling(segments="whole"), MeanPooling())
    segmenter = Segmenter(FrameSampling(segments="shots"), MeanPooling())
    times, embeddings, uniform = contents((20, 1), every=2)
    with pytest.raises(InputValueError, match="10 times, 9 embeddings and 10 values"):
        segmenter.add(times, embeddings[1:], uniform)
    with pytest.raises(InputValueError, match="must rise, but 0 s follows 18 s"):
        segmenter.add(np.concatenate([times, times]), np.tile(embeddings, (2, 1)), np.tile(uniform, 2))


def test_a_frame_of_one_colour_is_uniform_in_spite_of_noise() -> None:
    noise = np.random.default_rng(0).integers(-6, 7, (64, 64, 3))
    for colour in (0, 16, 128, (20, 90, 200), 255):
        assert is_uniform(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))
    black = np.zeros((64, 64, 3), np.uint8)
    assert is_uniform(black)
    black[30:33, 30:33] = 200
    assert not is_uniform(black)
    assert not is_uniform(draw_scenes(("black", 1, "cut", 0))[0])
    assert not is_uniform(np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 64, 3)))  # a gradient
