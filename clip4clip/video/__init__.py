"""Read sampled frames from a video file or URL."""

from .limits import Limits
from .reader import Frame, read_frames
from .sampling import FrameSampling

__all__ = ["Frame", "FrameSampling", "Limits", "read_frames"]
