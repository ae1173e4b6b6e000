"""Drawn frames show the attributes of their scene."""

from __future__ import annotations

import numpy as np

from clip4clip.training.drawing import FRAMES, draw, draw_frames, draw_long
from clip4clip.training.scenes import Moment, Scene, scenes


def draw_circle(random: np.random.Generator, **changed: object) -> np.ndarray:
    plain = Scene("circle", "red", "plain", "large", 1, "white", "still", "middle")
    return draw(Scene(**{**vars(plain), **changed}), random).astype(int)  # type: ignore[arg-type]


def red_pixels(frames: np.ndarray) -> np.ndarray:
    return (frames[..., 0] > 150) & (frames[..., 1] < 120)


def centre_of(mask: np.ndarray) -> np.ndarray:
    """Return (x, y) of the centre of each mask, from 0 to 1."""
    return np.array([np.argwhere(frame)[:, ::-1].mean(0) for frame in mask]) / mask.shape[1]


def test_the_seed_decides_the_pictures() -> None:
    def pictures(seed: int) -> list[tuple[Scene, bytes]]:
        return [(scene, draw(scene, random).tobytes()) for scene, random in scenes(5, seed, False)]

    assert pictures(3) == pictures(3)
    assert pictures(3) != pictures(4)


def test_size_and_count_are_those_of_the_scene() -> None:
    random = np.random.default_rng(0)
    large, small = (red_pixels(draw_circle(random, size=size))[0].sum() for size in ("large", "small"))
    assert large > 1.7 * small
    one, three = (
        red_pixels(draw_circle(random, count=count, size="small", position=None))[0].sum() for count in (1, 3)
    )
    assert 2.6 < three / one < 3.4


def test_position_is_that_of_the_scene() -> None:
    random = np.random.default_rng(0)
    for position, axis, side in (("left", 0, -1), ("right", 0, 1), ("top", 1, -1), ("bottom", 1, 1)):
        centre = centre_of(red_pixels(draw_circle(random, position=position)))[0]
        assert side * (centre[axis] - 0.5) > 0.2


def test_motion_is_that_of_the_scene() -> None:
    random = np.random.default_rng(0)
    for motion, still_axis, moving_axis in (("horizontal", 1, 0), ("vertical", 0, 1)):
        path = centre_of(red_pixels(draw_circle(random, motion=motion)))
        assert np.ptp(path[:, still_axis]) < 0.05
        assert np.ptp(path[:, moving_axis]) > 0.4
    assert np.ptp(centre_of(red_pixels(draw_circle(random, motion="still"))), axis=0).max() < 0.02
    distances = np.hypot(*(centre_of(red_pixels(draw_circle(random, motion="circular"))) - 0.5).T)
    assert distances.min() > 0.15
    assert np.ptp(distances) < 0.1


def test_texture_and_background_are_those_of_the_scene() -> None:
    random = np.random.default_rng(0)
    textures = [red_pixels(draw_circle(random, texture=name))[0].sum() for name in ("plain", "striped", "dotted")]
    assert textures[0] > 1.15 * max(textures[1:])
    backgrounds = [draw_circle(random, background=name)[0, :8, :8].mean() for name in ("black", "gray", "white")]
    assert backgrounds == sorted(backgrounds)


def test_a_longer_scene_begins_like_a_clip_and_goes_on_moving() -> None:
    (scene, _), *_ = [drawn for drawn in scenes(50, 0, False) if drawn[0].motion == "horizontal"]
    clip = draw(scene, np.random.default_rng(0))
    frames = np.stack(list(draw_frames(scene, np.random.default_rng(0), 3 * FRAMES)))
    np.testing.assert_array_equal(frames[:FRAMES], clip)
    assert len(frames) == 3 * FRAMES
    assert (np.diff(frames[FRAMES:].astype(int), axis=0) != 0).any((1, 2, 3)).mean() > 0.9


FADES = {"cut": 0.0, "dissolve": 2.0, "black": 2.0}  # seconds


def draw_moments(transition: str, fade: float) -> np.ndarray:
    """Draw four seconds of a red circle on black and five of one on white."""
    drawn = [Scene("circle", "red", "plain", "large", 1, name, "still", "middle") for name in ("black", "white")]
    moments = [Moment(drawn[0], 0, 4, transition, fade), Moment(drawn[1], 4, 9, "cut", 0)]
    return np.stack(list(draw_long([(moment, np.random.default_rng(1)) for moment in moments]))).astype(int)


def test_a_scene_of_a_long_video_becomes_the_next_one_by_a_cut_or_a_fade() -> None:
    corners = {transition: draw_moments(transition, fade)[:, 0, 0, 0] for transition, fade in FADES.items()}
    assert {len(corner) for corner in corners.values()} == {9 * 8}
    for corner in corners.values():  # outside of the fade
        assert set(corner[:24].tolist()) == {corners["cut"][0]}
        assert set(corner[40:].tolist()) == {corners["cut"][-1]}
    assert (corners["cut"][31], corners["cut"][32]) == (corners["cut"][0], corners["cut"][-1])
    assert (np.diff(corners["dissolve"][24:40]) > 0).all()
    reds = draw_moments("black", 2)[:, 64, 64, 0]
    assert reds[30:34].tolist() == [0, 0, 0, 0]
    assert (np.diff(reds[24:31]) < 0).all()
    assert (np.diff(reds[33:40]) > 0).all()
