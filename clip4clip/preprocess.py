"""Convert decoded frames to CLIP's pixel values: RGB, resized to a square, and normalised."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from PIL import Image

from .config import ImageConfig
from .errors import InputTypeError, InputValueError, brief
from .threads import thread_pool

HOW_TO_DECODE = "decode it first, with ops.video_decode.ffmpeg in a pipeline or clip4clip.video.read_frames in Python"
THREADS = min(4, os.cpu_count() or 1)  # for resizing; Pillow itself uses one thread for a frame
MAX_PENDING = 2 * THREADS  # frames that wait to be resized
MAX_ASPECT = 64  # long side divided by short side; longer frames are resized in another order, to save memory

_OPENAI = ImageConfig()
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# For each towhee.types.Image.mode, the function that converts an array of that mode to RGB.
_TO_RGB = {
    "RGB": lambda array: array,
    "BGR": lambda array: array[..., ::-1],
    "RGBA": lambda array: array[..., :3],
    "BGRA": lambda array: array[..., 2::-1],
    "GRAY": lambda array: array.repeat(3, axis=2),
}
_CHANNELS = {"RGB": 3, "BGR": 3, "RGBA": 4, "BGRA": 4, "GRAY": 1}


def pixel_values(frames: Sequence[Any], resolution: int = 224, image: ImageConfig = _OPENAI) -> np.ndarray:
    """Return the input of the vision tower for some frames.

    Args:
        frames: each a :class:`clip4clip.video.Frame`, a uint8 RGB array of shape (height, width, 3), a PIL image, or a
            ``towhee.types.Image`` or ``VideoFrame`` with the mode RGB, BGR, RGBA, BGRA or GRAY. Sizes may differ.
            Transparency is ignored.
        resolution: width and height that the model takes, in pixels.
        image: how it takes them: ``config.image`` of its :class:`~clip4clip.config.CLIPConfig`.

    Returns:
        float32 array of shape (len(frames), 3, resolution, resolution), normalised by the mean and std of ``image``.

    Raises:
        InputTypeError: an item is not a frame.
        InputValueError: a frame has the wrong dtype, shape, mode or size.
    """
    batch = PixelBatch(len(frames), resolution, image)
    for frame in frames:
        batch.append(frame)
    return batch.pixel_values()


class PixelBatch:
    """Pixel values of frames that are appended one by one. Threads resize them while the caller decodes the next ones.

    Args:
        capacity: number of frames that can be appended.
        resolution: width and height that the model takes, in pixels.
        image: as for :func:`pixel_values`.
    """

    def __init__(self, capacity: int, resolution: int, image: ImageConfig = _OPENAI) -> None:
        self._image = image
        self._pixels = np.empty((capacity, 3, resolution, resolution), np.float32)
        self._pending: deque[Future[None]] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, frame: Any) -> None:
        """Append one frame; :func:`pixel_values` says which frames are valid and which errors are raised."""
        picture = to_image(frame)
        while len(self._pending) >= MAX_PENDING:
            self._pending.popleft().result()
        pixels = self._pixels[self._length]
        self._length += 1
        self._pending.append(thread_pool("frames", THREADS).submit(_write_pixels, picture, self._image, pixels))

    def pixel_values(self) -> np.ndarray:
        """Wait for the threads, and return a float32 array of shape (len(self), 3, resolution, resolution)."""
        while self._pending:
            self._pending.popleft().result()
        return self._pixels[: self._length]


def _write_pixels(picture: Image.Image, image: ImageConfig, pixels: np.ndarray) -> None:
    """Write the pixel values of a picture into a float32 array of shape (3, resolution, resolution)."""
    levels = np.asarray(resize(picture, pixels.shape[-1], image))  # (resolution, resolution, 3)
    for channel, normalised in enumerate(_normalised_levels(image)):
        np.take(normalised, levels[..., channel], out=pixels[channel])


@functools.lru_cache(maxsize=16)
def _normalised_levels(image: ImageConfig) -> np.ndarray:
    """Return the normalised values of the 256 levels of each channel, (3, 256), computed as torchvision does."""
    mean, std = (np.array(values, np.float32)[:, None] for values in (image.mean, image.std))
    return (np.arange(256, dtype=np.float32) / 255 - mean) / std


def is_frame(data: Any) -> bool:
    """Return whether the data looks like one frame, valid or not, rather than several."""
    return hasattr(data, "rgb") or isinstance(data, Image.Image) or (isinstance(data, np.ndarray) and data.ndim < 4)


def to_image(frame: Any) -> Image.Image:
    """Return a frame as a PIL image in mode RGB.

    Args:
        frame: as for :func:`pixel_values`, which raises the same errors.
    """
    frame = getattr(frame, "rgb", frame)  # the pixels of a clip4clip.video.Frame
    if isinstance(frame, np.ndarray):
        return Image.fromarray(_array_to_rgb(frame))
    if isinstance(frame, Image.Image):
        try:
            return _pil_to_rgb(frame)
        except InputValueError:
            raise
        except Exception as error:  # Pillow reads the pixels of a file only now; the file or image may be closed
            raise InputValueError(f"this PIL image of size {frame.size} cannot be read: {error}") from error
    if isinstance(frame, str | bytes | os.PathLike):
        raise InputTypeError(f"{brief(frame)} is a path where a decoded frame was expected: {HOW_TO_DECODE}")
    raise InputTypeError(
        f"a frame must be a uint8 H×W×3 array, a towhee Image or VideoFrame, or a PIL image, "
        f"not {type(frame).__name__}: {brief(frame)}"
    )


def resize(picture: Image.Image, resolution: int, image: ImageConfig = _OPENAI) -> Image.Image:
    """Resize a picture to a square, with antialiasing, by Pillow: cropped or squashed, as ``image`` says.

    A picture that has this size already is not changed.
    """
    resample = _FILTERS[image.interpolation]
    if image.resize == "crop":
        return _resize_and_crop(picture, resolution, resample)
    width, height = picture.size
    if height > MAX_ASPECT * width:  # Pillow would enlarge the width first, and hold all of its height
        picture = picture.resize((width, resolution), resample)
    return picture.resize((resolution, resolution), resample)


def _resize_and_crop(picture: Image.Image, resolution: int, resample: Image.Resampling) -> Image.Image:
    """Resize a picture so that its short side is ``resolution``, and crop the square in its centre.

    Sizes are rounded down and odd margins to an even number, as torchvision does, which OpenAI's code uses.
    """
    width, height = picture.size
    short_side = min(width, height)
    new_width, new_height = int(resolution * width / short_side), int(resolution * height / short_side)
    left, top = round((new_width - resolution) / 2), round((new_height - resolution) / 2)
    right, bottom = left + resolution, top + resolution
    if max(new_width, new_height) <= MAX_ASPECT * resolution:
        return picture.resize((new_width, new_height), resample).crop((left, top, right, bottom))
    # Crop first, then resize. This differs by one level in some pixels: the box of Pillow is in 32-bit floats, and
    # Pillow chooses the order of its two passes by the sizes.
    x_scale, y_scale = width / new_width, height / new_height
    box = (left * x_scale, top * y_scale, right * x_scale, bottom * y_scale)
    return picture.resize((resolution, resolution), resample, box=box)


def crop_frame(frame: Any, resolution: int, image: ImageConfig = _OPENAI) -> np.ndarray:
    """Return a frame as the square that a model of this resolution takes, which encoders use unchanged.

    Args:
        frame: as for :func:`pixel_values`, which raises the same errors.
        resolution: side of the square in pixels.
        image: as for :func:`pixel_values`.

    Returns:
        uint8 RGB of shape (resolution, resolution, 3).
    """
    return np.asarray(resize(to_image(frame), resolution, image))


def _array_to_rgb(frame: np.ndarray) -> np.ndarray:
    """Return an array, or one of Towhee's subclasses with a mode, as a contiguous uint8 array of shape (H, W, 3)."""
    mode = getattr(frame, "mode", None) or "RGB"
    name = type(frame).__name__
    if not isinstance(mode, str) or mode.upper() not in _TO_RGB:
        raise InputValueError(f"{name} has mode {mode!r}; the supported modes are {', '.join(_TO_RGB)}")
    mode = mode.upper()
    array = np.asarray(frame)
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
    return np.ascontiguousarray(_TO_RGB[mode](array))


def _pil_to_rgb(image: Image.Image) -> Image.Image:
    """Return a PIL image in mode RGB. Transparency is ignored."""
    if 0 in image.size:
        raise InputValueError(f"a frame must have at least one pixel, but this PIL image has size {image.size}")
    if image.mode.startswith("I;16"):
        # Pillow's own conversion would clip the 16-bit values at 255.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 255):  # false for NaN, too
            raise InputValueError(
                f"a PIL image of mode {image.mode!r} must hold values 0 to 255, but this one holds "
                f"{values.min()} to {values.max()}; scale it to 8 bits first"
            )
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGB")
