"""``ops.video_decode.ffmpeg``: decode a video into frames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from towhee.operator import PyOperator
from towhee.types import VideoFrame

from ..errors import InputValueError, UnknownNameError
from ..video.reader import read_frames

# Each with its argument.
SAMPLE_TYPES = {"uniform_temporal_subsample": "num_samples", "time_step_sample": "time_step"}


class Ffmpeg(PyOperator):
    """``ops.video_decode.ffmpeg``: a video file or URL to RGB frames.

    Args:
        start_time: seconds; None begins at the first frame.
        end_time: seconds; None goes to the last frame.
        sample_type: ``'uniform_temporal_subsample'``, ``'time_step_sample'``, or None for every frame.
        args: ``{'num_samples': n}`` for the first, ``{'time_step': seconds}`` for the second; for either also
            ``'seek'``, which :func:`clip4clip.video.read_frames` explains, as it does the rest.

    Raises:
        UnknownNameError: for another sample type.
        InputValueError: when its argument is missing.
    """

    def __init__(
        self,
        start_time: float | None = None,
        end_time: float | None = None,
        sample_type: str | None = None,
        args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._arguments: dict[str, Any] = {"num_samples": None, "start_time": start_time, "end_time": end_time}
        if not sample_type:
            return
        needed = SAMPLE_TYPES.get(sample_type.lower())
        if needed is None:
            raise UnknownNameError(
                f"unknown sample_type {sample_type!r}; it must be None or one of {', '.join(SAMPLE_TYPES)}"
            )
        if not args or args.get(needed) is None:
            raise InputValueError(f"sample_type {sample_type!r} needs args={{{needed!r}: …}}, but args is {args!r}")
        self._arguments |= {needed: args[needed], "seek": args.get("seek", "exact")}

    def __call__(self, video_path: str | os.PathLike[str]) -> Iterator[VideoFrame]:
        """Frames one by one, as they are asked for: ``towhee.types.VideoFrame``, RGB, timestamp in milliseconds.

        Args:
            video_path: local path or http(s) URL.

        Raises:
            VideoNotFoundError, VideoError, InputValueError: see :func:`clip4clip.video.read_frames`.
        """
        for frame in read_frames(video_path, **self._arguments):
            yield VideoFrame(frame.rgb, "RGB", round(frame.time * 1000), int(frame.key_frame))
