"""Decoded frames to RGB pictures, upright and in standard dynamic range."""

from __future__ import annotations

import struct
import threading
from typing import cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from .tonemap import is_hdr, to_sdr

_thread_local = threading.local()


def to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """Convert a decoded frame to a uint8 RGB array of shape (height, width, 3), as it is meant to be displayed.

    Pixels are not stretched to be square, and interlaced frames are not deinterlaced.
    """
    # One reformatter for each thread, without threads of its own: setting up either costs more than a small frame.
    if not hasattr(_thread_local, "reformatter"):
        _thread_local.reformatter = VideoReformatter()
    if is_hdr(frame):
        rgb = to_sdr(frame, _thread_local.reformatter)
    else:
        rgb = _thread_local.reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    return np.ascontiguousarray(_orient(frame, rgb))


def is_upright(frame: av.VideoFrame) -> bool:
    """Return whether a frame is displayed as it is stored, neither rotated nor mirrored."""
    try:
        return frame.side_data.get("DISPLAYMATRIX") is None
    except ValueError:  # as in _orient
        return not frame.rotation


def _orient(frame: av.VideoFrame, rgb: np.ndarray) -> np.ndarray:
    """Rotate and mirror a picture as its display matrix says. Other angles are rounded to quarter turns."""
    try:
        matrix = cast("bytes | None", frame.side_data.get("DISPLAYMATRIX"))  # a buffer
    except ValueError:  # PyAV does not support all kinds of side data, such as EXIF, and then gives only the angle
        return np.rot90(rgb, round(frame.rotation / 90) % 4)  # both are counter-clockwise
    if matrix is None:
        return rgb
    # A pixel at (x, y) is displayed at (a x + c y, b x + d y).
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    if abs(b) + abs(c) > abs(a) + abs(d):
        rgb, a, d = rgb.swapaxes(0, 1), c, b
    return rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
