"""Raw input to unit vectors: :class:`TextEncoder` and :class:`VideoEncoder`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .config import CLIPConfig, get_model
from .errors import InputTypeError, InputValueError, brief
from .preprocess import HOW_TO_DECODE, PixelBatch, is_frame
from .runtime.load import load_head, load_tower, resolve_weights, warn_if_weights_differ
from .runtime.placement import resolve_placement
from .runtime.tower import Head, Tower, l2_normalize
from .tokenizer import default_tokenizer
from .weights.identity import Identity, identify
from .weights.locate import Reference

TOKENS_AT_ONCE = 512  # of captions that are embedded together
FILLED_UP = 24  # tokens at most that a batch of captions is filled up with: what another batch costs, in tokens' time
FRAMES_AT_ONCE = 32


DEFAULT_MODEL = "clip_vit_b32"


@dataclass(frozen=True)
class EncoderSpec:
    """Which encoder to use: a model, its weights, and how to compute it.

    Attributes:
        model_name: key of :data:`clip4clip.config.MODELS`. None for ``clip_vit_b32``, or, where an index is searched,
            for the model of its vectors.
        weights: checkpoint, as for :meth:`TextEncoder.load`.
        device: as for :meth:`TextEncoder.load`.
        runtime: as for :meth:`TextEncoder.load`.
        precision: as for :meth:`TextEncoder.load`. Vectors of different precisions can be compared.
    """

    model_name: str | None = None
    weights: Reference | None = None
    device: str | None = None
    runtime: str | None = None
    precision: str = "float32"

    def identify(self) -> Identity:
        """Return the model and the fingerprint of its weights.

        Raises:
            UnknownNameError, WeightsNotFoundError, CheckpointError: see :mod:`clip4clip.errors`.
        """
        return identify(self.weights, self.model_name or DEFAULT_MODEL)

    def text_encoder(self) -> TextEncoder:
        """Return :meth:`TextEncoder.load` of these values."""
        return TextEncoder.load(
            self.model_name or DEFAULT_MODEL, self.weights, self.device, self.runtime, self.precision
        )

    def video_encoder(self) -> VideoEncoder:
        """Return :meth:`VideoEncoder.load` of these values."""
        return VideoEncoder.load(
            self.model_name or DEFAULT_MODEL, self.weights, self.device, self.runtime, self.precision
        )


DEFAULT_ENCODER = EncoderSpec()


class TextEncoder:
    """Sentences to unit vectors. Safe to call from several threads at once.

    Args:
        model: (B, L) int64 token ids to (B, D) float32 embeddings; see :class:`clip4clip.runtime.tower.Tower`.
        config: shape of the model.
    """

    def __init__(self, model: Tower, config: CLIPConfig) -> None:
        self.model = model
        self.config = config

    @classmethod
    def load(
        cls,
        model_name: str = "clip_vit_b32",
        weights: Reference | None = None,
        device: str | None = None,
        runtime: str | None = None,
        precision: str = "float32",
        compiled: bool = False,
    ) -> TextEncoder:
        """The text encoder of a checkpoint; the vision tower is neither built nor read.

        Args:
            model_name: ``'clip_vit_b32'``, ``'clip_vit_b16'``, or ``'clip_vit_tiny_demo'``, trained on drawings.
            weights: a file, a folder, ``hf://owner/repo[@revision][/file]``, or None for the default of the model
                (docs/checkpoints.md).
            device: ``'cpu'``, ``'cuda:1'``, ``'mps'``, ``'openvino'``, or None for the best there is.
            runtime: ``'torch'``, ``'onnxruntime'``, or None for the faster one of those that are installed.
            precision: ``'float32'``, ``'float16'``, ``'bfloat16'`` or ``'int8'``;
                :func:`clip4clip.runtime.placement.resolve_placement` tells where there is which.
            compiled: by ``torch.compile``: the first calls take a minute, the others less than without.

        Raises:
            UnknownNameError, WeightsNotFoundError, CheckpointError, DeviceError, MissingExtraError, CacheError,
                ExportError: see :mod:`clip4clip.errors`.
        """
        config = get_model(model_name).config
        where = resolve_placement(device, runtime, precision, compiled)
        found = resolve_weights(weights, model_name, "text")
        encoder = cls(load_tower(model_name, "text", found.path, where), config)
        warn_if_weights_differ(encoder, found)
        return encoder

    def __call__(self, texts: str | Sequence[str]) -> np.ndarray:
        """Unit vectors of one caption or of several.

        Args:
            texts: one string, or a list or tuple of n strings. A caption of more than 75 tokens is cut, as CLIP does
                (46 for ``clip_vit_tiny_demo``).

        Returns:
            float32 of shape (D,) for a string, (n, D) for a list; D is 512, of ``clip_vit_tiny_demo`` 128.

        Raises:
            InputTypeError: for anything but strings.
            InputValueError: for an empty list.
            WeightsNotFoundError: without the tokenizer's table, which is read at the first call.
            CheckpointError: when the model gives a vector that is not finite or has no direction.
            CacheError: when a graph for ONNX Runtime is gone or damaged meanwhile and cannot be made anew.
        """
        captions = [texts] if isinstance(texts, str) else texts
        if not isinstance(captions, list | tuple):
            raise InputTypeError(f"text must be a str or a list of str, not {type(texts).__name__}: {brief(texts)}")
        if not captions:
            raise InputValueError("an empty list was given where at least one text was due")
        for index, caption in enumerate(captions):
            if not isinstance(caption, str):
                raise InputTypeError(f"text {index} must be a str, not {type(caption).__name__}: {brief(caption)}")
        tokenizer = default_tokenizer(self.config.vocab_size)
        rows = [tokenizer.encode(caption, self.config.context_length) for caption in captions]
        batches = list(_by_length(rows))
        embeddings = np.concatenate([self.model(tokenizer.pad([rows[place] for place in batch])) for batch in batches])
        vectors = np.empty_like(embeddings)
        vectors[np.concatenate(batches)] = l2_normalize(embeddings)
        return vectors[0] if isinstance(texts, str) else vectors


def _by_length(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The places of rows of ids in batches, so that filling up shorter ones costs no more than another batch."""
    batch: list[int] = []
    tokens = 0
    for place in sorted(range(len(rows)), key=lambda place: len(rows[place])):
        longest = len(rows[place])
        computed, needed = (len(batch) + 1) * longest, tokens + longest
        if batch and (computed > TOKENS_AT_ONCE or computed - needed > FILLED_UP):
            yield batch
            batch, tokens = [], 0
        batch.append(place)
        tokens += longest
    yield batch


class VideoEncoder:
    """Decoded frames to one unit vector for each video. Safe to call from several threads at once.

    Args:
        model: a :class:`clip4clip.runtime.tower.Tower` for (N, 3, R, R) float32 pixels.
        head: turns the frame embeddings of a video into one.
        config: shape of the model.
    """

    def __init__(self, model: Tower, head: Head, config: CLIPConfig) -> None:
        self.model = model
        self.head = head
        self.config = config

    @classmethod
    def load(
        cls,
        model_name: str = "clip_vit_b32",
        weights: Reference | None = None,
        device: str | None = None,
        runtime: str | None = None,
        precision: str = "float32",
        compiled: bool = False,
    ) -> VideoEncoder:
        """The video encoder of a checkpoint, with the head it was trained with; the text tower is not read.

        Arguments and errors are those of :meth:`TextEncoder.load`.
        """
        config = get_model(model_name).config
        where = resolve_placement(device, runtime, precision, compiled)
        found = resolve_weights(weights, model_name, "video")
        tower, head = load_tower(model_name, "video", found.path, where), load_head(model_name, found.path, where)
        encoder = cls(tower, head, config)
        warn_if_weights_differ(encoder, found)
        return encoder

    def __call__(self, videos: Iterable[Any]) -> np.ndarray:
        """Unit vector of one video or of several.

        Args:
            videos: one video, that is a list, tuple or iterator of frames or a uint8 (T, H, W, 3) RGB array; or a list
                or tuple of n such videos. :func:`clip4clip.preprocess.pixel_values` says what a frame may be. Iterators
                are read as they go, and memory does not grow with the number of frames.

        Returns:
            float32 of shape (D,) for one video, (n, D) for a list of videos; D is 512, of ``clip_vit_tiny_demo`` 128.

        Raises:
            InputTypeError: for a path, a single frame, or anything else that is not a video.
            InputValueError: for no videos, a video without frames, or a frame of the wrong dtype, shape or mode.
            CheckpointError, CacheError: as for :meth:`TextEncoder.__call__`.
        """
        several = (
            isinstance(videos, list | tuple) and len(videos) > 0 and not is_frame(videos[0]) and _is_video(videos[0])
        )
        batch = list(videos) if several else [videos]
        for index, video in enumerate(batch):
            if not _is_video(video):
                raise _not_a_video(video, f"video {index}" if several else "a video")
        states: list[Any] = [None] * len(batch)
        for owners, pixels in self._pixel_batches(batch, several):
            embeddings = self.model(pixels)
            for index in sorted(set(owners)):
                rows = [row for row, owner in enumerate(owners) if owner == index]
                states[index] = self.head(embeddings[rows[0] : rows[-1] + 1], states[index])
        for index, state in enumerate(states):
            if state is None:
                raise InputValueError(
                    f"{f'video {index}' if several else 'the video'} has no frames; at least one is needed"
                )
        vectors = l2_normalize(np.stack([self.head.pool(state) for state in states]))
        return vectors if several else vectors[0]

    def _pixel_batches(self, videos: Sequence[Iterable[Any]], several: bool) -> Iterator[tuple[list[int], np.ndarray]]:
        """Frames of all videos in full batches, each with the index of the video every frame belongs to."""
        owners: list[int] = []
        rows = PixelBatch(FRAMES_AT_ONCE, self.config.resolution)
        for index, video in enumerate(videos):
            for number, frame in enumerate(video):
                try:
                    rows.append(frame)
                except (InputTypeError, InputValueError) as error:
                    where = f"frame {number} of video {index}" if several else f"frame {number}"
                    raise type(error)(f"{where}: {error}") from error
                owners.append(index)
                if len(owners) == FRAMES_AT_ONCE:
                    yield owners, rows.pixel_values()
                    owners, rows = [], PixelBatch(FRAMES_AT_ONCE, self.config.resolution)
        if owners:
            yield owners, rows.pixel_values()


def _is_video(data: Any) -> bool:
    """Whether ``data`` can be iterated for frames: says nothing yet of the frames."""
    return isinstance(data, list | tuple | Iterator) or (isinstance(data, np.ndarray) and data.ndim == 4)


def _not_a_video(data: Any, what: str) -> InputTypeError | InputValueError:
    if isinstance(data, str | bytes | os.PathLike):
        return InputTypeError(f"{what} must be decoded frames, not the path {brief(data)}: {HOW_TO_DECODE}")
    if is_frame(data):
        return InputTypeError(
            f"{what} must be a list of frames or a (T, H, W, 3) array, not a single frame: wrap it in a list"
        )
    if isinstance(data, np.ndarray):
        return InputValueError(
            f"{what} must be a (T, H, W, 3) array, but has shape {data.shape}; pass several videos as a list"
        )
    return InputTypeError(
        f"{what} must be a list, tuple or iterator of frames or a (T, H, W, 3) array, "
        f"not {type(data).__name__}: {brief(data)}"
    )
