"""The content of the drawn videos: random scenes, and captions that describe them.

A scene has one, two or three equal shapes in front of a background, still or moving. One in ten combinations of a
shape, a colour and a background is held out: no training clip shows it and every evaluation clip does. So a model that
does well on the evaluation clips has learnt to combine attributes. A clip shows one scene, a long video many.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..errors import InputValueError

T = TypeVar("T")

MAX_HELD_OUT = 1000  # different scenes; there are more, but finding another new one takes ever longer
MAX_LONG = 40  # long videos, for the same reason

# Of long videos, in seconds. The lengths of scenes are distributed like those of the shots of films: many are short.
LONG = 240.0  # a long video has the fewest scenes that are together this long
SHORTEST_SCENE, MEAN_SCENE, LONGEST_SCENE = 4.0, 12.0, 40.0
SHORTEST_FADE, LONGEST_FADE = 0.5, 2.0
TIME_UNIT = 0.25  # lengths are multiples of it: a whole even number of frames
# How a scene becomes the next one, with the probability: at once, one fades into the other, or it fades through black.
TRANSITIONS = {"cut": 0.5, "dissolve": 0.25, "black": 0.25}

# The values of each attribute, and for most of them the words for each value.
SHAPES = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "diamond": ("diamond", "rhombus"),
}
COLOURS = {
    "red": (214, 40, 40),
    "orange": (244, 130, 20),
    "yellow": (250, 214, 40),
    "green": (50, 160, 70),
    "blue": (35, 90, 210),
    "purple": (130, 50, 170),
    "pink": (245, 130, 180),
}
TEXTURES = ("plain", "striped", "dotted")
SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
COUNTS = {1: ("a", "one", "a single"), 2: ("two", "a pair of"), 3: ("three", "a group of three")}
BACKGROUNDS = {
    "white": ("on a white background", "against a white backdrop", "on white paper"),
    "black": ("on a black background", "against a black backdrop", "in the dark"),
    "gray": ("on a gray background", "against a gray backdrop"),
    "brown": ("on a brown background", "against a brown backdrop", "on brown wood"),
    "light blue": ("on a light blue background", "against a light blue backdrop", "in a clear sky"),
    "checkered": ("on a checkered background", "against a checkered backdrop", "on a chess board"),
    "brick": ("in front of a brick wall", "against a wall of bricks"),
    "starry": ("in front of a starry sky", "against the stars of the night"),
}
MOTIONS = {
    "still": ("standing still", "not moving", "at rest"),
    "horizontal": ("moving from side to side", "sliding left and right", "going back and forth"),
    "vertical": ("moving up and down", "bouncing up and down", "rising and falling"),
    "circular": ("moving in a circle", "going round and round", "circling around"),
}
POSITIONS = {
    "middle": ("in the middle", "in the center"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
}
# Possible positions of a single shape, by its motion. Several shapes are spread over the picture and have no position.
POSITIONS_BY_MOTION = {
    "still": tuple(POSITIONS),
    "horizontal": ("middle", "top", "bottom"),
    "vertical": ("middle", "left", "right"),
    "circular": ("middle",),
}

# Orders of the parts of a sentence.
PATTERNS = (
    "{what} {motion} {where} {background}",
    "a video of {what} {motion} {where} {background}",
    "{background}, {what} {motion} {where}",
    "{what} {where} {background}, {motion}",
    "{where} {what} {background}, {motion}",
    "there you see {what} {background}, {motion} {where}",
    "{motion} {where}: {what} {background}",
    "{what}, {background}, {motion}, {where}",
)
# The same parts in different orders and with different words, which no training caption has.
PARAPHRASES = (
    "{background} and {motion}: {what} {where}",
    "someone drew {what}, it is {motion} {where}, all of it {background}",
    "{where}, {motion}, {background}, this clip shows {what}",
    "look, {motion} {background} {where} {what}!",
)


@dataclass(frozen=True)
class Scene:
    """The content of a clip. The values are keys of the tables above; ``position`` is None for more than one shape."""

    shape: str
    colour: str
    texture: str
    size: str
    count: int
    background: str
    motion: str
    position: str | None

    @property
    def held_out(self) -> bool:
        """Whether this combination of shape, colour and background belongs to the evaluation."""
        return zlib.crc32(f"{self.shape} {self.colour} {self.background}".encode()) % 10 == 0


def random_scene(random: np.random.Generator, held_out: bool) -> Scene:
    """Draw a scene, held out or not; all values of an attribute are equally likely."""
    while True:
        motion = _choose(random, tuple(MOTIONS))
        count = int(random.integers(1, 4))
        scene = Scene(
            shape=_choose(random, tuple(SHAPES)),
            colour=_choose(random, tuple(COLOURS)),
            texture=_choose(random, TEXTURES),
            size=_choose(random, tuple(SIZES)),
            count=count,
            background=_choose(random, tuple(BACKGROUNDS)),
            motion=motion,
            position=_choose(random, POSITIONS_BY_MOTION[motion]) if count == 1 else None,
        )
        if scene.held_out == held_out:
            return scene


def scenes(count: int, seed: int, held_out: bool) -> Iterator[tuple[Scene, np.random.Generator]]:
    """Yield scenes, each with the random generator for its captions and pictures.

    Held-out scenes all differ from each other, so that every caption describes exactly one clip.

    Args:
        count: number of scenes.
        seed: seed of the scenes.
        held_out: whether to draw held-out scenes or scenes to train with.

    Raises:
        InputValueError: ``count`` is larger than the number of different held-out scenes.
    """
    if held_out and count > MAX_HELD_OUT:
        raise InputValueError(f"cannot draw {count} different held-out scenes; the limit is {MAX_HELD_OUT}")
    seen: set[Scene] = set()
    for number in range(count):
        random = np.random.default_rng([seed, held_out, number])
        scene = random_scene(random, held_out)
        while held_out and scene in seen:
            scene = random_scene(random, held_out)
        seen.add(scene)
        yield scene, random


@dataclass(frozen=True)
class Moment:
    """A scene of a long video.

    Attributes:
        scene: the content.
        start: seconds. During a fade, a scene starts in the middle of it.
        end: likewise.
        transition: key of :data:`TRANSITIONS`: how it becomes the next scene.
        fade: seconds that this takes, half of them after ``end``; 0 for a cut and for the last scene.
    """

    scene: Scene
    start: float
    end: float
    transition: str
    fade: float


def long_videos(
    count: int, seed: int, held_out: bool, seconds: float = LONG
) -> Iterator[list[tuple[Moment, np.random.Generator]]]:
    """Yield the moments of long videos, each with the random generator for its caption and pictures.

    All scenes differ from each other, also those of different videos, so that every caption describes one moment.

    Args:
        count: number of videos.
        seed: seed of the videos.
        held_out: whether to draw held-out scenes or scenes to train with.
        seconds: least length of a video.

    Raises:
        InputValueError: ``count`` is over :data:`MAX_LONG`.
    """
    if count > MAX_LONG:
        raise InputValueError(f"cannot draw {count} long videos of different scenes; the limit is {MAX_LONG}")
    seen: set[Scene] = set()
    for number in range(count):
        random = np.random.default_rng([seed, 2 + held_out, number])
        moments: list[tuple[Moment, np.random.Generator]] = []
        end = 0.0
        while end < seconds:
            scene = random_scene(random, held_out)
            while scene in seen:
                scene = random_scene(random, held_out)
            seen.add(scene)
            start, end = end, end + _random_length(random)
            transition = str(random.choice(list(TRANSITIONS), p=list(TRANSITIONS.values())))
            fade = 0.0 if transition == "cut" else _round(random.uniform(SHORTEST_FADE, LONGEST_FADE))
            if end >= seconds:
                transition, fade = "cut", 0.0
            moment = Moment(scene, start, end, transition, fade)
            moments.append((moment, np.random.default_rng([seed, 2 + held_out, number, len(moments)])))
        yield moments


def _random_length(random: np.random.Generator) -> float:
    """Return the length of a scene of a long video in seconds."""
    length = LONGEST_SCENE
    while length >= LONGEST_SCENE:
        length = SHORTEST_SCENE + random.exponential(MEAN_SCENE - SHORTEST_SCENE)
    return _round(length)


def _round(seconds: float) -> float:
    return round(seconds / TIME_UNIT) * TIME_UNIT


def describe(scene: Scene, random: np.random.Generator, patterns: tuple[str, ...] = PATTERNS) -> str:
    """Return a caption of a scene, with random words in a random order."""
    shape = _choose(random, SHAPES[scene.shape])
    if scene.count > 1:
        shape += "es" if shape.endswith(("s", "x")) else "s"
    adjectives = [_choose(random, SIZES[scene.size]), scene.colour]
    suffix = ""
    if scene.texture != "plain":
        match random.integers(3):
            case 0:
                adjectives.insert(1, scene.texture)
            case 1:
                adjectives.append(scene.texture)
            case _:
                suffix = " with stripes" if scene.texture == "striped" else " with dots"
    sentence = _choose(random, patterns).format(
        what=f"{_choose(random, COUNTS[scene.count])} {' '.join(adjectives)} {shape}{suffix}",
        motion=_choose(random, MOTIONS[scene.motion]),
        where=_choose(random, POSITIONS[scene.position]) if scene.position else "",
        background=_choose(random, BACKGROUNDS[scene.background]),
    )
    # Without a position, a pattern leaves double spaces and stray punctuation.
    for stray, clean in (("  ", " "), (" ,", ","), (",,", ","), (" :", ":"), (" !", "!")):
        sentence = sentence.replace(stray, clean)
    return sentence.strip(" ,:")


def _choose(random: np.random.Generator, values: Sequence[T]) -> T:
    return values[int(random.integers(len(values)))]
