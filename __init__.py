"""Entry point for Towhee, which loads this folder (a hub download or a clone) without installing the package."""

from .clip4clip.operators import clip4clip, ffmpeg

__all__ = ["clip4clip", "ffmpeg"]
