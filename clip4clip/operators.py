"""The Towhee operators. The only file that imports Towhee."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from towhee import accelerate
from towhee.operator import NNOperator, PyOperator
from towhee.runtime.operator_manager import OperatorRegistry
from towhee.types import VideoFrame

from .device import resolve_device
from .encoder import TextEncoder, VideoEncoder, check_modality, load_head, load_tower
from .errors import InputTypeError, InputValueError, UnknownNameError, brief
from .video import Frame, decode, sample_every, sample_uniformly
from .weights import MODELS, OPERATOR_FOLDER, get_model

SAMPLE_TYPES = ("uniform_temporal_subsample", "time_step_sample")


class Clip4clip(NNOperator):
    """``ops.video_text_embedding.clip4clip``: text or frames to an L2-normalised vector.

    Args:
        model_name: ``'clip_vit_b32'`` or ``'clip_vit_b16'``.
        modality: ``'text'`` or ``'video'``; only this tower is built and read.
        weight_path: a checkpoint file; a folder (a Hugging Face snapshot); ``hf://owner/repo[@revision][/file]``;
            or None for ``pytorch_model.bin.1`` beside the operator and, without it, the model's default on the hub.
        device: ``'cpu'``, ``'cuda:1'``, ``'mps'``, …. None follows the device that Towhee configures for the node, and
            without one takes the best there is.
        folder: where ``pytorch_model.bin.1`` may lie.

    Raises:
        UnknownNameError, WeightsNotFoundError, CheckpointError, DeviceError: see :mod:`clip4clip.errors`.
    """

    def __init__(
        self,
        model_name: str,
        modality: str,
        weight_path: str | os.PathLike[str] | None = None,
        device: str | None = None,
        *,
        folder: Path = OPERATOR_FOLDER,
    ) -> None:
        super().__init__()
        config = get_model(model_name).config
        check_modality(modality)
        if device is None and self._device_id >= 0:
            device = f"cuda:{self._device_id}"
        place = resolve_device(device)
        # One tensor in, one tensor out. Where Towhee has the model served, a client stands here and nothing is loaded.
        self.model = accelerate(load_tower)(model_name, modality, weight_path, place, folder)
        self._encoder = (
            TextEncoder(self.model, config, place)
            if modality == "text"
            else VideoEncoder(self.model, load_head(model_name, weight_path, place, folder), config, place)
        )

    def __call__(self, data: Any) -> np.ndarray:
        """Unit vectors, float32: (512,) for one text or one video, (n, 512) for a list of n.

        Args:
            data: what :class:`~clip4clip.TextEncoder` or :class:`~clip4clip.VideoEncoder` takes, by modality.

        Raises:
            InputTypeError, InputValueError: for what cannot be understood; nothing of it is embedded.
        """
        return self._encoder(data)

    @staticmethod
    def supported_model_names() -> list[str]:
        """The values ``model_name`` may have."""
        return list(MODELS)


class Ffmpeg(PyOperator):
    """``ops.video_decode.ffmpeg``: a video file or URL to RGB frames.

    Args:
        start_time: seconds; None begins at the first frame.
        end_time: seconds; None goes to the last frame.
        sample_type: ``'uniform_temporal_subsample'``, ``'time_step_sample'``, or None for every frame.
        args: ``{'num_samples': n}`` for the first, ``{'time_step': seconds}`` for the second.

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
        self._between = start_time, end_time
        self._sample_type = sample_type.lower() if sample_type else None
        self._args = args or {}
        if self._sample_type not in (None, *SAMPLE_TYPES):
            raise UnknownNameError(
                f"unknown sample_type {sample_type!r}; it must be None or one of {', '.join(SAMPLE_TYPES)}"
            )
        needed = {"uniform_temporal_subsample": "num_samples", "time_step_sample": "time_step"}.get(
            self._sample_type or ""
        )
        if needed and self._args.get(needed) is None:
            raise InputValueError(
                f"sample_type {self._sample_type!r} needs args={{{needed!r}: …}}, but args is {args!r}"
            )

    def __call__(self, video_path: str | os.PathLike[str]) -> Iterator[VideoFrame]:
        """Frames one by one, as they are asked for: ``towhee.types.VideoFrame``, RGB, timestamp in milliseconds.

        Args:
            video_path: local path or http(s) URL.

        Raises:
            VideoNotFoundError, VideoError, InputValueError: see :func:`clip4clip.video.decode`.
        """
        if not isinstance(video_path, str | os.PathLike):
            raise InputTypeError(
                f"a video must be a path or a URL, not {type(video_path).__name__}: {brief(video_path)}"
            )
        for frame in self._sample(video_path):
            yield VideoFrame(frame.rgb, "RGB", round(frame.time * 1000), int(frame.key_frame))

    def _sample(self, source: str | os.PathLike[str]) -> Iterator[Frame]:
        match self._sample_type:
            case "uniform_temporal_subsample":
                return sample_uniformly(source, self._args["num_samples"], *self._between)
            case "time_step_sample":
                return sample_every(source, self._args["time_step"], *self._between)
            case _:
                return decode(source, *self._between)


# The factories, under the names by which Towhee asks for them.
clip4clip = Clip4clip
ffmpeg = Ffmpeg


def register(_towhee: object = None) -> None:
    """Makes both operators known to Towhee's registry, before its cache folder and its hub are asked."""
    OperatorRegistry.register(name="video-text-embedding/clip4clip")(Clip4clip)
    OperatorRegistry.register(name="video-decode/ffmpeg")(Ffmpeg)
