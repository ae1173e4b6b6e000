"""Which frames of a video to read."""

from __future__ import annotations

import operator
from dataclasses import dataclass

from ..errors import InputValueError, UnknownNameError

SEEK_MODES = ("exact", "keyframe")


@dataclass(frozen=True)
class FrameSampling:
    """How the frames that represent a video are sampled from it.

    Attributes:
        frames: Number of frames, spread evenly over the video; at least 1.
        seek: ``'exact'`` for exactly these frames, or ``'keyframe'`` for the key frame nearest to each, which is much
            faster to decode. See :func:`clip4clip.video.read_frames`.

    Raises:
        InputValueError: If ``frames`` is not a whole number above 0.
        UnknownNameError: If ``seek`` is not one of the two modes.
    """

    frames: int = 12
    seek: str = "exact"

    def __post_init__(self) -> None:
        check_count("frames", self.frames)
        check_seek(self.seek)


def check_count(name: str, value: object) -> None:
    """Raise InputValueError unless an argument is a whole number above 0."""
    try:
        is_count = operator.index(value) > 0  # type: ignore[arg-type]
    except TypeError:
        is_count = False
    if not is_count:
        raise InputValueError(f"{name} must be a whole number above 0, not {value!r}")


def check_seek(seek: str) -> None:
    """Raise UnknownNameError unless ``seek`` is one of ``SEEK_MODES``."""
    if seek not in SEEK_MODES:
        raise UnknownNameError(f"unknown seek {seek!r}; it must be {' or '.join(map(repr, SEEK_MODES))}")
