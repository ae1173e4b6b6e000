"""Short drawn clips with captions, from a seeded grammar: what ``clip_vit_tiny_demo`` is trained and measured on.

A clip shows one, two or three alike shapes before a background, still or moving. One in ten combinations of a shape, a
colour and a background is held out: no training clip shows it and every evaluation clip does, so a model that does well
on the latter has learnt to put attributes together.

Everything follows from the seed and the number of a clip: the same call draws the same pictures and writes the same
captions. (The bytes of the files are up to the encoder's version.)
"""

from __future__ import annotations

import csv
import math
import signal
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from PIL import Image, ImageDraw

from ..errors import InputValueError, TrainingError
from ..files import atomic_write

T = TypeVar("T")

MOST_HELD_OUT = 1000  # different scenes; there are more, but then finding one that is new takes ever longer
SIDE = 128  # pixels
FRAMES = 16
FRAME_RATE = 8
RADIUS = {"small": 12, "large": 19}
OVERSAMPLING = 4  # a shape is drawn this much larger and then reduced, for smooth edges
CLIPS_AT_ONCE = 16

# Every attribute with its values, and every value with the words for it.
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
# Where one shape alone can be, by how it moves. Several are spread over the picture, and their position is not told.
PLACES = {
    "still": tuple(POSITIONS),
    "horizontal": ("middle", "top", "bottom"),
    "vertical": ("middle", "left", "right"),
    "circular": ("middle",),
}

# How a sentence is put together: what is to be seen, how it moves, where, before what.
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
# The same words in an order, and between words, that no training caption has.
PARAPHRASES = (
    "{background} and {motion}: {what} {where}",
    "someone drew {what}, it is {motion} {where}, all of it {background}",
    "{where}, {motion}, {background}, this clip shows {what}",
    "look, {motion} {background} {where} {what}!",
)


@dataclass(frozen=True)
class Scene:
    """What a clip shows. Values are those of the tables above; ``position`` is None for more than one shape."""

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
    """A scene of the one kind or of the other, every attribute drawn evenly."""
    while True:
        motion = _one(random, tuple(MOTIONS))
        count = int(random.integers(1, 4))
        scene = Scene(
            shape=_one(random, tuple(SHAPES)),
            colour=_one(random, tuple(COLOURS)),
            texture=_one(random, TEXTURES),
            size=_one(random, tuple(SIZES)),
            count=count,
            background=_one(random, tuple(BACKGROUNDS)),
            motion=motion,
            position=_one(random, PLACES[motion]) if count == 1 else None,
        )
        if scene.held_out == held_out:
            return scene


def describe(scene: Scene, random: np.random.Generator, patterns: tuple[str, ...] = PATTERNS) -> str:
    """A caption of a scene, its words and its order chosen at random."""
    shape = _one(random, SHAPES[scene.shape])
    if scene.count > 1:
        shape += "es" if shape.endswith(("s", "x")) else "s"
    adjectives = [_one(random, SIZES[scene.size]), scene.colour]
    after = ""
    if scene.texture != "plain":
        match random.integers(3):
            case 0:
                adjectives.insert(1, scene.texture)
            case 1:
                adjectives.append(scene.texture)
            case _:
                after = " with stripes" if scene.texture == "striped" else " with dots"
    sentence = _one(random, patterns).format(
        what=f"{_one(random, COUNTS[scene.count])} {' '.join(adjectives)} {shape}{after}",
        motion=_one(random, MOTIONS[scene.motion]),
        where=_one(random, POSITIONS[scene.position]) if scene.position else "",
        background=_one(random, BACKGROUNDS[scene.background]),
    )
    for left_over, right in (("  ", " "), (" ,", ","), (",,", ","), (" :", ":"), (" !", "!")):
        sentence = sentence.replace(left_over, right)
    return sentence.strip(" ,:")


def draw(scene: Scene, random: np.random.Generator) -> np.ndarray:
    """The frames of a scene: uint8 RGB of shape (16, 128, 128, 3). Places, shades, speed and phase vary a little."""
    background = _background(scene.background, random)
    sprites = [_sprite(scene, random) for _ in range(scene.count)]
    frames = np.empty((FRAMES, SIDE, SIDE, 3), np.uint8)
    for frame, places in zip(frames, _paths(scene, random), strict=True):
        picture = background.copy()
        for sprite, (x, y) in zip(sprites, places, strict=True):
            picture.paste(sprite, (round(x - sprite.width / 2), round(y - sprite.height / 2)), sprite)
        frame[:] = np.asarray(picture)
    return frames


def write_clip(frames: np.ndarray, path: Path) -> None:
    """Frames as an H.264 file, written under another name and then renamed."""
    with atomic_write(path) as fresh, av.open(fresh, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=FRAME_RATE, options={"preset": "veryfast", "crf": "20"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))


def scenes(count: int, seed: int, held_out: bool) -> Iterator[tuple[Scene, np.random.Generator]]:
    """Scenes of the one kind, each with the generator that its captions and its pictures come from.

    Held-out scenes all differ from each other, so that every caption has one clip that it is right for.

    Raises:
        InputValueError: for more held-out scenes than there are.
    """
    if held_out and count > MOST_HELD_OUT:
        raise InputValueError(f"{count} different held-out scenes were asked for; there are at most {MOST_HELD_OUT}")
    seen: set[Scene] = set()
    for number in range(count):
        random = np.random.default_rng([seed, held_out, number])
        scene = random_scene(random, held_out)
        while held_out and scene in seen:
            scene = random_scene(random, held_out)
        seen.add(scene)
        yield scene, random


def tables(train: int, evaluation: int, seed: int = 0) -> dict[str, list[tuple[str, str]]]:
    """The rows, a clip's name and its caption each, of the tables that :func:`write_dataset` writes."""
    return _plan(train, evaluation, seed)[0]


def write_dataset(
    folder: Path,
    train: int,
    evaluation: int,
    seed: int = 0,
    workers: int | None = None,
    track: Callable[[Iterable[None], int], Iterable[None]] = lambda done, total: done,  # noqa: ARG005
) -> list[Path]:
    """Draws, encodes and describes a data set. Clips that are there already are kept: it can be stopped and repeated.

    Processes draw, and each reads the calling script again: call this under ``if __name__ == "__main__":``.

    Args:
        folder: gets ``train.csv``, ``eval.csv`` and ``eval_paraphrased.csv``, each with the columns ``video`` and
            ``sentence``, and the clips that they name in ``train/`` and ``eval/``.
        train: number of clips to train with, each with one caption.
        evaluation: number of held-out clips, each with one caption in the words and patterns of the training and one in
            patterns that the training never has.
        seed: another one gives other clips, under other names; at least 0.
        workers: processes; None takes one per core.
        track: wraps the iteration over what is done, given how much there is; for a progress bar.

    Returns:
        The tables written; none for a kind of which no clips were asked for.

    Raises:
        InputValueError: for a negative seed, no workers, or more held-out clips than there are.
        TrainingError: when a process that draws ends, as it does without the guard above.
    """
    if workers is not None and workers < 1:
        raise InputValueError(f"workers must be at least 1, not {workers}")
    planned, clips = _plan(train, evaluation, seed)
    for kind, count in (("train", train), ("eval", evaluation)):
        if count:
            (folder / kind).mkdir(parents=True, exist_ok=True)
    jobs = [(scene, random, folder / name) for scene, random, name in clips if not (folder / name).exists()]
    # Spawned, not forked: the caller may run threads, torch's for one. Ctrl-C is for the caller alone.
    ignore = signal.signal, (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(workers, get_context("spawn"), *ignore) as pool:
        try:
            for _ in track(pool.map(_draw_and_write, jobs, chunksize=CLIPS_AT_ONCE), len(jobs)):
                pass
        except BrokenProcessPool as error:
            raise TrainingError(
                "a process that draws clips has ended. Each of them reads the calling script again, so a script must "
                'ask for clips under `if __name__ == "__main__":`'
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    written = {folder / f"{name}.csv": rows for name, rows in planned.items() if rows}
    for path, rows in written.items():
        _write_table(rows, path)
    return list(written)


def _plan(
    train: int, evaluation: int, seed: int
) -> tuple[dict[str, list[tuple[str, str]]], list[tuple[Scene, np.random.Generator, str]]]:
    """The rows of all tables, and all clips with the generators of their pictures."""
    if seed < 0:
        raise InputValueError(f"seed must be at least 0, not {seed}")
    planned: dict[str, list[tuple[str, str]]] = {"train": [], "eval": [], "eval_paraphrased": []}
    clips = []
    for kind, count in (("train", train), ("eval", evaluation)):
        for number, (scene, random) in enumerate(scenes(count, seed, held_out=kind == "eval")):
            name = f"{kind}/{seed}-{number:06}.mp4"
            planned[kind].append((name, describe(scene, random)))
            if kind == "eval":
                planned["eval_paraphrased"].append((name, describe(scene, random, PARAPHRASES)))
            clips.append((scene, random, name))
    return planned, clips


def _write_table(rows: list[tuple[str, str]], path: Path) -> None:
    with atomic_write(path) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("video", "sentence"), *rows])


def _draw_and_write(job: tuple[Scene, np.random.Generator, Path]) -> None:
    scene, random, path = job
    write_clip(draw(scene, random), path)


def _one(random: np.random.Generator, values: Sequence[T]) -> T:
    return values[int(random.integers(len(values)))]


def _paths(scene: Scene, random: np.random.Generator) -> Iterator[list[tuple[float, float]]]:
    """For each frame the centres of all shapes."""
    centre, radius = SIDE / 2, RADIUS[scene.size]
    jitter = random.uniform(-3, 3, 2)
    reach = centre - radius - 5  # how far from the centre a shape may go
    gap = 41.0  # between the centres of neighbours
    phase, turns = random.uniform(0, 2 * math.pi), random.uniform(1.0, 1.6) * random.choice([-1, 1])
    apart = np.arange(scene.count) - (scene.count - 1) / 2  # in units of the gap
    for frame in range(FRAMES):
        angle = phase + 2 * math.pi * turns * frame / FRAMES
        match scene.motion:
            case "horizontal":  # several are one above the other
                places = [(reach * math.sin(angle), gap * place) for place in apart]
            case "vertical":
                places = [(gap * place, reach * math.sin(angle)) for place in apart]
            case "circular":
                orbit = reach * (0.75 if scene.count == 1 else 0.9)
                around = [angle + 2 * math.pi * n / scene.count for n in range(scene.count)]
                places = [(orbit * math.cos(a), orbit * math.sin(a)) for a in around]
            case _:
                places = [(gap * place, 0.0) for place in apart]
        shift_x, shift_y = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}.get(
            scene.position or "", (0, 0)
        )
        yield [
            (centre + x + jitter[0] + 0.85 * reach * shift_x, centre + y + jitter[1] + 0.85 * reach * shift_y)
            for x, y in places
        ]


def _sprite(scene: Scene, random: np.random.Generator) -> Image.Image:
    """One shape with its texture, RGBA, transparent around it."""
    radius = RADIUS[scene.size] * random.uniform(0.94, 1.06) * OVERSAMPLING
    side = 2 * math.ceil(radius / OVERSAMPLING + 2) * OVERSAMPLING
    mask = Image.new("L", (side, side))
    _outline(ImageDraw.Draw(mask), scene.shape, side / 2, radius, random.uniform(-0.15, 0.15))
    shade = tuple(int(np.clip(value + random.integers(-14, 15), 0, 255)) for value in COLOURS[scene.colour])
    filled = Image.new("RGB", (side, side), shade)
    pen = ImageDraw.Draw(filled)
    step = 7 * OVERSAMPLING
    first = int(random.integers(step))
    if scene.texture == "striped":
        for x in range(first - side, 2 * side, step):
            pen.line([(x, 0), (x + side // 2, side)], fill="white", width=3 * OVERSAMPLING)
    elif scene.texture == "dotted":
        for row, y in enumerate(range(first - step, side + step, step)):
            for x in range(first - step + row % 2 * step // 2, side + step, step):
                pen.circle((x, y), 1.8 * OVERSAMPLING, fill="white")
    filled.putalpha(mask)
    return filled.reduce(OVERSAMPLING)


def _outline(pen: ImageDraw.ImageDraw, shape: str, centre: float, radius: float, tilt: float) -> None:
    def polygon(points: Iterable[tuple[float, float]]) -> None:
        """Corners as angle (0 is up, clockwise, in turns) and distance (in radii)."""
        pen.polygon(
            [
                (
                    centre + distance * radius * math.sin(2 * math.pi * turn + tilt),
                    centre - distance * radius * math.cos(2 * math.pi * turn + tilt),
                )
                for turn, distance in points
            ],
            fill=255,
        )

    match shape:
        case "circle":
            pen.circle((centre, centre), 0.95 * radius, fill=255)
        case "ring":
            pen.circle((centre, centre), radius, fill=255)
            pen.circle((centre, centre), 0.5 * radius, fill=0)
        case "square":
            polygon((turn / 4 + 1 / 8, 1.08) for turn in range(4))
        case "diamond":
            polygon([(0, 1.1), (0.25, 0.7), (0.5, 1.1), (0.75, 0.7)])
        case "triangle":
            polygon((turn / 3, 1.15) for turn in range(3))
        case "star":
            polygon((turn / 10, 1.15 if turn % 2 == 0 else 0.48) for turn in range(10))
        case "cross":
            arm, inner = math.atan2(0.3, 0.95) / (2 * math.pi), 0.3 * math.sqrt(2)
            length = math.hypot(0.3, 0.95)
            polygon(
                corner
                for quarter in (0, 0.25, 0.5, 0.75)
                for corner in ((quarter - arm, length), (quarter + arm, length), (quarter + 1 / 8, inner))
            )
        case "heart":  # a curve in x and y, here turned into corners
            turns = np.linspace(0, 2 * math.pi, 60, endpoint=False)
            x = 16 * np.sin(turns) ** 3
            y = 13 * np.cos(turns) - 5 * np.cos(2 * turns) - 2 * np.cos(3 * turns) - np.cos(4 * turns) + 2.5
            polygon(zip((np.arctan2(x, y) / (2 * math.pi)).tolist(), (np.hypot(x, y) / 16).tolist(), strict=True))


def _background(name: str, random: np.random.Generator) -> Image.Image:
    shades = {
        "white": (250, 250, 250),
        "black": (12, 12, 12),
        "gray": (128, 128, 128),
        "brown": (120, 78, 45),
        "light blue": (165, 215, 245),
        "checkered": (225, 225, 225),
        "brick": (205, 195, 185),
        "starry": (14, 18, 52),
    }
    shade = tuple(int(np.clip(value + random.integers(-8, 9), 0, 255)) for value in shades[name])
    picture = Image.new("RGB", (SIDE, SIDE), shade)
    pen = ImageDraw.Draw(picture)
    match name:
        case "checkered":
            for x in range(0, SIDE, 16):
                for y in range(x % 32, SIDE, 32):
                    pen.rectangle((x, y, x + 15, y + 15), fill=(95, 95, 95))
        case "brick":
            for row, y in enumerate(range(0, SIDE, 16)):
                for x in range(-(row % 2) * 16, SIDE, 32):
                    pen.rectangle((x, y, x + 29, y + 13), fill=(158 + int(random.integers(-12, 13)), 74, 58))
        case "starry":
            for x, y, size in random.uniform((0, 0, 0.6), (SIDE, SIDE, 1.6), (60, 3)):
                pen.circle((x, y), size, fill=(255, 250, 215))
    return picture
