"""Towhee's door: the folder of this file is an operator, as a hub download or a clone, with nothing installed."""

from .clip4clip.operators import clip4clip, ffmpeg

__all__ = ["clip4clip", "ffmpeg"]
