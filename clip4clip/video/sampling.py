"""Which frames of a video to take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a video are embedded.

    Attributes:
        frames: number of frames, spread evenly over the video.
        seek: ``'exact'``, or ``'keyframe'`` for the nearest key frames; see :func:`clip4clip.video.read_frames`.
    """

    frames: int = 12
    seek: str = "exact"

    def __str__(self) -> str:
        return f"{self.frames} frames, seek {self.seek!r}"


DEFAULT_SAMPLING = FrameSampling()
