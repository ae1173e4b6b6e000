"""Read sampled frames from a video file or URL."""

from .reader import Frame, read_frames
from .sampling import FrameSampling

__all__ = ["Frame", "FrameSampling", "read_frames"]
