"""Read sampled frames from a video file or URL."""

from .reader import Frame, read_frames

__all__ = ["Frame", "read_frames"]
