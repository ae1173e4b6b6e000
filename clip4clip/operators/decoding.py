"""``ops.video_decode.ffmpeg``: decode frames of a video."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from towhee.operator import PyOperator
from towhee.types import VideoFrame

from ..errors import InputValueError, UnknownNameError
from ..video.reader import read_frames

# The name of the argument that each sample type needs.
SAMPLE_TYPES = {"uniform_temporal_subsample": "num_samples", "time_step_sample": "time_step"}


class Ffmpeg(PyOperator):
    """``ops.video_decode.ffmpeg``: decode RGB frames of a video file or URL.

    Args:
        start_time: time of the first frame in seconds; None for the start of the video.
        end_time: time of the last frame in seconds; None for the end of the video.
        sample_type: ``'uniform_temporal_subsample'``, ``'time_step_sample'``, or None for every frame.
        args: ``{'num_samples': n}`` for the first type, ``{'time_step': seconds}`` for the second. Both can also have
            ``'seek'``. :func:`clip4clip.video.read_frames` explains all of them.

    Raises:
        UnknownNameError: unknown sample type.
        InputValueError: the argument of the sample type is missing.
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
        argument = SAMPLE_TYPES.get(sample_type.lower())
        if argument is None:
            raise UnknownNameError(
                f"unknown sample_type {sample_type!r}; it must be None or one of {', '.join(SAMPLE_TYPES)}"
            )
        if not args or args.get(argument) is None:
            raise InputValueError(f"sample_type {sample_type!r} needs args={{{argument!r}: …}}, but args is {args!r}")
        self._arguments |= {argument: args[argument], "seek": args.get("seek", "exact")}

    def __call__(self, video_path: str | os.PathLike[str]) -> Iterator[VideoFrame]:
        """Yield frames as ``towhee.types.VideoFrame``: RGB, timestamp in milliseconds. Decoding is lazy.

        Args:
            video_path: local path or http(s) URL.

        Raises:
            VideoNotFoundError, VideoError, InputValueError: see :func:`clip4clip.video.read_frames`.
        """
        for frame in read_frames(video_path, **self._arguments):
            yield VideoFrame(frame.rgb, "RGB", round(frame.time * 1000), int(frame.key_frame))
