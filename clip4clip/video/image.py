"""Read JPEG, PNG and WebP images, upright and without transparency."""

from __future__ import annotations

import contextlib
import io
import os
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ..errors import VideoError
from .limits import DEFAULT_LIMITS, Limits
from .source import Source, is_local_file, open_source, source_name

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_IMAGE_BYTES = 128 << 20  # of a file
READ_SIZE = 1 << 16  # bytes
SIGNATURE_SIZE = 12  # bytes
BACKGROUND = (255, 255, 255)  # behind transparent pixels


def read_image(source: Source, limits: Limits = DEFAULT_LIMITS) -> np.ndarray | None:
    """Return a JPEG, PNG or WebP image as a uint8 RGB array of shape (height, width, 3), as it is meant to be shown.

    FFmpeg reads such files as videos of one frame. But it ignores mirroring, shows what is behind transparent pixels,
    does not know animated WebP, and takes the parts of a phone's picture, such as its depth, for further frames.

    Args:
        source: local path, the bytes of a file, or a binary file object that can seek. It is read from its start.
        limits: ``Limits.pixels`` is the largest size.

    Returns:
        The image, the first one of several; None if the content of ``source`` is anything else, such as a video or an
        animated PNG, or if ``source`` is a URL or cannot seek.

    Raises:
        VideoError: the image is damaged, exceeds a limit, or cannot be opened.
    """
    if not is_image(source):
        return None
    with contextlib.ExitStack() as resources:
        content = _read(open_source(source, resources), MAX_IMAGE_BYTES + 1)
    name = source_name(source)
    if len(content) > MAX_IMAGE_BYTES:
        raise VideoError(f"{name}: the image is over the limit of {MAX_IMAGE_BYTES:,} bytes")
    return _decode(content, name, limits)


def is_image(source: Source) -> bool:
    """Return whether the content of a source begins like a JPEG, PNG or WebP image. See :func:`read_image`."""
    if not (isinstance(source, bytes) or is_local_file(source) or _is_seekable(source)):
        return False
    with contextlib.ExitStack() as resources:
        start = _read(open_source(source, resources), SIGNATURE_SIZE)
    is_webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    return is_webp or start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))


def _is_seekable(source: Source) -> bool:
    return not isinstance(source, bytes | str | os.PathLike) and hasattr(source, "seekable") and source.seekable()


def _read(file: BinaryIO, size: int) -> bytes:
    """Return the first ``size`` bytes of a file, or all; also of a file that returns fewer at a time."""
    file.seek(0)
    pieces = []
    while size > 0 and (piece := file.read(min(size, READ_SIZE))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _decode(content: bytes, name: str, limits: Limits) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > limits.pixels:
                raise VideoError(
                    f"{name}: its {image.width}×{image.height} pixels are over the limit of {limits.pixels:,}"
                )
            if image.format == "PNG" and getattr(image, "is_animated", False):
                return None
            return _to_rgb(image)
    except Image.DecompressionBombError as error:
        raise VideoError(f"{name}: the image is over the limit of {limits.pixels:,} pixels") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow has no error of its own for damage
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"{name}: the image is damaged, or of a kind that is not supported") from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits of grey
        grey = (np.asarray(upright).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        canvas = Image.new("RGBA", upright.size, (*BACKGROUND, 255))
        canvas.alpha_composite(upright)
        upright = canvas
    return np.array(upright.convert("RGB"))
