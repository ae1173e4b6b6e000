"""Draw scenes as frames, with Pillow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from .scenes import COLOURS, Moment, Scene

SIDE = 128  # of a frame, in pixels
FRAME_RATE = 8
FRAMES = 16  # of a clip
RADIUS = {"small": 12, "large": 19}  # of a shape, in pixels
GAP = 41.0  # between the centres of neighbouring shapes, in pixels
OVERSAMPLING = 4  # a shape is drawn this much larger and then reduced, for smooth edges

BACKGROUND_COLOURS = {
    "white": (250, 250, 250),
    "black": (12, 12, 12),
    "gray": (128, 128, 128),
    "brown": (120, 78, 45),
    "light blue": (165, 215, 245),
    "checkered": (225, 225, 225),
    "brick": (205, 195, 185),
    "starry": (14, 18, 52),
}


def draw(scene: Scene, random: np.random.Generator) -> np.ndarray:
    """Draw the frames of a scene. Positions, shades, speed and phase vary a little with the random generator.

    Returns:
        uint8 RGB of shape (16, 128, 128, 3).
    """
    return np.stack(list(draw_frames(scene, random, FRAMES)))


def draw_frames(scene: Scene, random: np.random.Generator, count: int) -> Iterator[np.ndarray]:
    """Draw the first frames of a scene, as :func:`draw` does.

    Yields:
        uint8 RGB of shape (128, 128, 3), ``count`` times.
    """
    background = _draw_background(scene.background, random)
    sprites = [_draw_sprite(scene, random) for _ in range(scene.count)]
    for centres in _centres(scene, random, count):
        picture = background.copy()
        for sprite, (x, y) in zip(sprites, centres, strict=True):
            picture.paste(sprite, (round(x - sprite.width / 2), round(y - sprite.height / 2)), sprite)
        yield np.asarray(picture)


def draw_long(moments: Sequence[tuple[Moment, np.random.Generator]]) -> Iterator[np.ndarray]:
    """Draw the frames of a long video.

    Yields:
        uint8 RGB of shape (128, 128, 3), eight a second.
    """
    overlap = 0  # frames of a fade
    fading: list[np.ndarray] = []  # those of the scene before
    through_black = False
    for moment, random in moments:
        following = round(moment.fade * FRAME_RATE)
        count = round((moment.end - moment.start) * FRAME_RATE) + (overlap + following) // 2
        frames = draw_frames(moment.scene, random, count)
        for number, last in enumerate(fading):
            yield _blend(last, next(frames), (number + 0.5) / overlap, through_black)
        yield from itertools.islice(frames, count - overlap - following)
        overlap, fading, through_black = following, list(frames), moment.transition == "black"


def _blend(last: np.ndarray, following: np.ndarray, share: float, through_black: bool) -> np.ndarray:
    """Return a frame of a fade from one scene to the following one; ``share`` of it is over."""
    weights = (1 - share, share)
    if through_black:  # which lasts a fifth of the fade
        weights = (max(0.0, 1 - 2.5 * share), max(0.0, 2.5 * share - 1.5))
    return np.rint(weights[0] * last + weights[1] * following).astype(np.uint8)


def _centres(scene: Scene, random: np.random.Generator, count: int) -> Iterator[list[tuple[float, float]]]:
    """Yield the centres of all shapes for each of the first frames, in pixels."""
    centre, radius = SIDE / 2, RADIUS[scene.size]
    jitter = random.uniform(-3, 3, 2)
    reach = centre - radius - 5  # largest distance of a shape from the centre
    phase, turns = random.uniform(0, 2 * math.pi), random.uniform(1.0, 1.6) * random.choice([-1, 1])
    offsets = GAP * (np.arange(scene.count) - (scene.count - 1) / 2)  # of several shapes in a row
    for frame in range(count):
        angle = phase + 2 * math.pi * turns * frame / FRAMES
        match scene.motion:
            case "horizontal":  # several shapes are one above the other
                positions = [(reach * math.sin(angle), offset) for offset in offsets]
            case "vertical":
                positions = [(offset, reach * math.sin(angle)) for offset in offsets]
            case "circular":
                orbit = reach * (0.75 if scene.count == 1 else 0.9)
                angles = [angle + 2 * math.pi * number / scene.count for number in range(scene.count)]
                positions = [(orbit * math.cos(each), orbit * math.sin(each)) for each in angles]
            case _:
                positions = [(offset, 0.0) for offset in offsets]
        shift_x, shift_y = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}.get(
            scene.position or "", (0, 0)
        )
        yield [
            (centre + x + jitter[0] + 0.85 * reach * shift_x, centre + y + jitter[1] + 0.85 * reach * shift_y)
            for x, y in positions
        ]


def _draw_sprite(scene: Scene, random: np.random.Generator) -> Image.Image:
    """Draw one shape with its texture on a transparent ground, RGBA."""
    radius = RADIUS[scene.size] * random.uniform(0.94, 1.06) * OVERSAMPLING
    side = 2 * math.ceil(radius / OVERSAMPLING + 2) * OVERSAMPLING
    mask = Image.new("L", (side, side))
    _draw_shape(ImageDraw.Draw(mask), scene.shape, side / 2, radius, random.uniform(-0.15, 0.15))
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


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, centre: float, radius: float, tilt: float) -> None:
    """Fill a shape of a mask.

    Args:
        pen: draws on the mask.
        shape: key of :data:`clip4clip.training.scenes.SHAPES`.
        centre: x and y of its centre, in pixels.
        radius: size of the shape, in pixels.
        tilt: rotation in radians, for shapes with corners.
    """

    def polygon(points: Iterable[tuple[float, float]]) -> None:
        """Fill a polygon. A corner is an angle (in turns, clockwise, 0 is up) and a distance (in radii)."""
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
        case "heart":  # a curve in x and y, converted to corners
            turns = np.linspace(0, 2 * math.pi, 60, endpoint=False)
            x = 16 * np.sin(turns) ** 3
            y = 13 * np.cos(turns) - 5 * np.cos(2 * turns) - 2 * np.cos(3 * turns) - np.cos(4 * turns) + 2.5
            polygon(zip((np.arctan2(x, y) / (2 * math.pi)).tolist(), (np.hypot(x, y) / 16).tolist(), strict=True))


def _draw_background(name: str, random: np.random.Generator) -> Image.Image:
    shade = tuple(int(np.clip(value + random.integers(-8, 9), 0, 255)) for value in BACKGROUND_COLOURS[name])
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
