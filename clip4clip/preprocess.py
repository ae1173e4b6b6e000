"""Decoded frames to the pixel tensor CLIP sees: RGB, short side to the model's resolution, centre crop, normalised."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from PIL import Image

from .errors import InputTypeError, InputValueError, brief
from .threads import thread_pool

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
HOW_TO_DECODE = "decode it first, with ops.video_decode.ffmpeg in a pipeline or clip4clip.video.read_frames in Python"
THREADS = min(4, os.cpu_count() or 1)  # that resize; Pillow works on one frame with one
MAX_ASPECT = 64  # of a frame; of a longer one only the middle is resized, for the whole could need any amount of memory

# What each of the 256 levels of a channel becomes, in the steps and the precision of the references.
_NORMALISED = (np.arange(256, dtype=np.float32) / 255 - np.array(MEAN, np.float32)[:, None]) / np.array(
    STD, np.float32
)[:, None]

# towhee.types.Image.mode -> how its array is turned into RGB
_ARRAY_MODES = {
    "RGB": lambda array: array,
    "BGR": lambda array: array[..., ::-1],
    "RGBA": lambda array: array[..., :3],
    "BGRA": lambda array: array[..., 2::-1],
    "GRAY": lambda array: array.repeat(3, axis=2),
}
_CHANNELS = {"RGB": 3, "BGR": 3, "RGBA": 4, "BGRA": 4, "GRAY": 1}


def pixel_values(frames: Sequence[Any], resolution: int = 224) -> np.ndarray:
    """Frames to the vision tower's input.

    Args:
        frames: :class:`clip4clip.video.Frame`, uint8 H×W×3 RGB arrays, ``towhee.types.Image``/``VideoFrame`` (whose
            mode RGB, BGR, RGBA, BGRA or GRAY is honoured; transparency is dropped) or PIL images, of any sizes.
        resolution: side of the square the model takes.

    Returns:
        float32 of shape (len(frames), 3, resolution, resolution).

    Raises:
        InputTypeError: for something that is not a frame.
        InputValueError: for a frame of the wrong dtype, shape, mode or size.
    """
    rows = PixelBatch(len(frames), resolution)
    for frame in frames:
        rows.append(frame)
    return rows.pixel_values()


class PixelBatch:
    """Pixels of as many frames as there is room for, filled by a few threads while the next frames are decoded.

    Args:
        size: how many frames there is room for.
        resolution: side of the square the model takes.
    """

    def __init__(self, size: int, resolution: int) -> None:
        self._pixels = np.empty((size, 3, resolution, resolution), np.float32)
        self._pending: deque[Future[None]] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, frame: Any) -> None:
        """Takes one more frame; see :func:`pixel_values` for what is taken and what is raised."""
        image = to_image(frame)
        while len(self._pending) >= 2 * THREADS:
            self._pending.popleft().result()
        row = self._pixels[self._length]
        self._length += 1
        self._pending.append(thread_pool("frames", THREADS).submit(_fill, row, image))

    def pixel_values(self) -> np.ndarray:
        """float32 of shape (len(self), 3, resolution, resolution). Nothing can be appended afterwards."""
        while self._pending:
            self._pending.popleft().result()
        return self._pixels[: self._length]


def _fill(row: np.ndarray, image: Image.Image) -> None:
    levels = np.asarray(resize_and_crop(image, row.shape[-1]))
    for channel, values in enumerate(_NORMALISED):
        np.take(values, levels[..., channel], out=row[channel])


def is_frame(data: Any) -> bool:
    """Whether ``data`` looks like one frame, right or wrong, and not like several."""
    return hasattr(data, "rgb") or isinstance(data, Image.Image) or (isinstance(data, np.ndarray) and data.ndim < 4)


def to_image(frame: Any) -> Image.Image:
    """One frame as a PIL image in mode RGB; see :func:`pixel_values` for what is taken and what is raised."""
    frame = getattr(frame, "rgb", frame)  # of a clip4clip.video.Frame
    if isinstance(frame, Image.Image):
        try:
            image = _pil_to_rgb(frame)
        except InputValueError:
            raise
        except Exception as error:  # Pillow reads a file's pixels only now; that file or the image may be closed
            raise InputValueError(f"this PIL image of size {frame.size} cannot be read: {error}") from error
    elif isinstance(frame, np.ndarray):
        image = Image.fromarray(_array_to_rgb(frame))
    else:
        if isinstance(frame, str | bytes | os.PathLike):
            raise InputTypeError(f"{brief(frame)} is a path where a decoded frame was due: {HOW_TO_DECODE}")
        raise InputTypeError(
            f"a frame must be a uint8 H×W×3 array, a towhee Image or VideoFrame, or a PIL image, "
            f"not {type(frame).__name__}: {brief(frame)}"
        )
    return image


def resize_and_crop(image: Image.Image, resolution: int) -> Image.Image:
    """Bicubic (Pillow's, antialiased) to a short side of ``resolution``, then the centre square, as CLIP does it."""
    width, height = image.size
    short = min(width, height)
    wide, high = int(resolution * width / short), int(resolution * height / short)
    left, top = round((wide - resolution) / 2), round((high - resolution) / 2)
    if max(wide, high) > MAX_ASPECT * resolution:
        # Only what the crop keeps is resized. Not so for all frames: the box is in 32-bit floats and Pillow chooses the
        # order of its two passes by the sizes, so that many a pixel comes out a level off.
        across, down = width / wide, height / high
        box = (left * across, top * down, (left + resolution) * across, (top + resolution) * down)
        return image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box)
    image = image.resize((wide, high), Image.Resampling.BICUBIC)
    return image.crop((left, top, left + resolution, top + resolution))


def _array_to_rgb(frame: np.ndarray) -> np.ndarray:
    mode = getattr(frame, "mode", None) or "RGB"
    name = type(frame).__name__
    if not isinstance(mode, str) or mode.upper() not in _ARRAY_MODES:
        raise InputValueError(f"{name} has mode {mode!r}; the modes that are understood are {', '.join(_ARRAY_MODES)}")
    mode = mode.upper()
    array = np.asarray(frame)  # the towhee classes add only the mode
    if array.dtype != np.uint8:
        nan = " and holds NaN" if array.dtype.kind == "f" and np.isnan(array).any() else ""
        raise InputValueError(
            f"a frame must be uint8 with values 0 to 255; this {name} of shape {array.shape} is {array.dtype}{nan}: "
            "convert it first, for example (frame * 255).round().astype('uint8') if its values lie in 0 to 1"
        )
    if mode == "GRAY" and array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] != _CHANNELS[mode]:
        raise InputValueError(
            f"a frame of mode {mode} must have shape (height, width, {_CHANNELS[mode]}), "
            f"but this {name} has shape {frame.shape}"
        )
    if 0 in array.shape:
        raise InputValueError(f"a frame must have at least one pixel, but this {name} has shape {frame.shape}")
    return np.ascontiguousarray(_ARRAY_MODES[mode](array))


def _pil_to_rgb(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise InputValueError(f"a frame must have at least one pixel, but this PIL image has size {image.size}")
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips these 16 bits at 255.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 255):  # so written that NaN fails too
            raise InputValueError(
                f"a PIL image of mode {image.mode!r} must hold values 0 to 255, but this one holds "
                f"{values.min()} to {values.max()}; scale it to 8 bits first"
            )
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGB")
