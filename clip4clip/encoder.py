"""Raw input to unit vectors: :class:`TextEncoder` for captions, :class:`VideoEncoder` for decoded frames.

:class:`EncoderSpec` says which of them to load, for functions that load an encoder themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from .config import (
    MODELS,
    CLIPConfig,
    add_model,
    get_model,
    image_model,
    is_registered,
    is_text_tower,
    registered_models,
)
from .errors import InputTypeError, InputValueError, ModelMismatchError, brief
from .preprocess import HOW_TO_DECODE, PixelBatch, is_frame
from .runtime.load import load_head, load_text_model, load_tower, report_weights
from .runtime.normalize import l2_normalize
from .runtime.placement import resolve_placement
from .runtime.tower import Head, Tower
from .tokenizer import default_tokenizer
from .weights.identity import Checkpoint, Identity, find_checkpoint
from .weights.locate import Reference
from .weights.multilingual import find_text_model

MAX_BATCH_TOKENS = 512  # token ids in a batch of captions, including padding
MAX_PADDING_TOKENS = 24  # padding in a batch of captions; computing more takes longer than one more batch
MIN_CAPTION_TOKENS = 2  # the start token and the end token
MAX_BATCH_FRAMES = 32  # frames that the vision tower gets at once


class TextTokenizer(Protocol):
    """Converts text to token ids, for one text tower."""

    def encode(self, text: str, context_length: int, /) -> list[int]:
        """Return the ids of one text, at most ``context_length``, without padding."""

    def pad(self, rows: Sequence[Sequence[int]], /) -> np.ndarray:
        """Return rows of ids as an int64 array of shape (len(rows), longest row), padded as the tower expects."""


class TextEncoder:
    """Sentences to unit vectors. Several threads may call it at once.

    Args:
        model: the text tower: (B, L) int64 token ids to (B, D) float32 embeddings.
        config: shape of the model.
        tokenizer: converts text to the token ids of the model; None for CLIP's.

    Attributes:
        max_batch_size: the most captions that the model gets at once.
    """

    max_batch_size = MAX_BATCH_TOKENS // MIN_CAPTION_TOKENS

    def __init__(self, model: Tower, config: CLIPConfig, tokenizer: TextTokenizer | None = None) -> None:
        self.model = model
        self.config = config
        self.tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        model_name: str | None = None,
        weights: Reference | None = None,
        device: str | None = None,
        runtime: str | None = None,
        precision: str = "float32",
        compiled: bool = False,
    ) -> TextEncoder:
        """Load the text encoder of a checkpoint. The vision tower is neither built nor read.

        Args:
            model_name: key of :data:`clip4clip.config.MODELS`, which `clip4clip models` lists. None reads the network
                from ``weights``; without these it is ``'clip_vit_b32'``.
            weights: a file, a folder, ``hf://owner/repo[@revision][/file]``, or None for the model's default
                (docs/checkpoints.md).
            device: ``'cpu'``, ``'cuda:1'``, ``'mps'`` or ``'openvino'``; None for the best one available.
            runtime: ``'torch'`` or ``'onnxruntime'``; None for the faster one of those that are installed.
            precision: ``'float32'``, ``'float16'``, ``'bfloat16'`` or ``'int8'``.
                :data:`clip4clip.runtime.placement.PRECISIONS` lists which runtime and device supports which.
            compiled: compile with ``torch.compile``: the first calls take a minute, later ones less time than without
                it.

        Raises:
            Clip4clipError: one of UnknownNameError, WeightsNotFoundError, CheckpointError, DeviceError,
                MissingExtraError, CacheError and ExportError; see :mod:`clip4clip.errors`.
        """
        if model_name is not None and is_text_tower(model_name):  # an unknown name is reported before anything else
            tower = load_text_model(model_name, weights, device, runtime, precision, compiled)
            config = CLIPConfig(embed_dim=tower.embed_dim, context_length=tower.max_length)
            return cls(tower, config, tower.tokenizer)
        placement = resolve_placement(device, runtime, precision, compiled)
        checkpoint = find_checkpoint(weights, model_name)
        encoder = cls(load_tower(checkpoint, "text", placement), checkpoint.config)
        report_weights(encoder, "text", checkpoint)
        return encoder

    def __call__(self, texts: str | Sequence[str]) -> np.ndarray:
        """Embed one caption or several.

        Args:
            texts: a string, or a list or tuple of n strings. A caption of more tokens than ``config.context_length``,
                start and end token included, is cut, as in CLIP.

        Returns:
            Unit vectors, float32: (D,) for a string, (n, D) for a list. D is ``config.embed_dim``.

        Raises:
            InputTypeError: something is not a string.
            InputValueError: the list is empty.
            WeightsNotFoundError: the tokenizer's table, which is read at the first call, is missing.
            CheckpointError: the model returned an embedding that is zero or not finite.
            CacheError: the cached graph for ONNX Runtime is missing or damaged, and cannot be rebuilt.
        """
        captions = _check_captions(texts)
        tokenizer = self.tokenizer or default_tokenizer(self.config.vocab_size)
        ids = [tokenizer.encode(caption, self.config.context_length) for caption in captions]
        batches = list(_batches_by_length([len(caption_ids) for caption_ids in ids]))
        embeddings = np.concatenate([self.model(tokenizer.pad([ids[index] for index in batch])) for batch in batches])
        vectors = np.empty_like(embeddings)
        vectors[np.concatenate(batches)] = l2_normalize(embeddings)
        return vectors[0] if isinstance(texts, str) else vectors


def _check_captions(texts: Any) -> Sequence[str]:
    """Return one caption or several as a sequence."""
    captions = [texts] if isinstance(texts, str) else texts
    if not isinstance(captions, list | tuple):
        raise InputTypeError(f"text must be a str or a list of str, not {type(texts).__name__}: {brief(texts)}")
    if not captions:
        raise InputValueError("got an empty list, expected at least one text")
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise InputTypeError(f"text {index} must be a str, not {type(caption).__name__}: {brief(caption)}")
    return captions


def _batches_by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Put captions of similar length into batches, so that padding never costs more than one more batch.

    Args:
        lengths: number of token ids of each caption.

    Yields:
        The indices of the captions of a batch, the shortest captions first.
    """
    batch: list[int] = []
    tokens = 0  # token ids in the batch, without padding
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]  # the longest so far, to which the others are padded
        padded_tokens = (len(batch) + 1) * length
        padding = padded_tokens - (tokens + length)
        if batch and (padded_tokens > MAX_BATCH_TOKENS or padding > MAX_PADDING_TOKENS):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += length
    yield batch


class VideoEncoder:
    """Decoded frames of a video to one unit vector. Several threads may call it at once.

    Args:
        model: the vision tower: (N, 3, R, R) float32 pixel values to (N, D) float32 embeddings.
        head: pools the frame embeddings of a video.
        config: shape of the model.

    Attributes:
        max_batch_size: the most frames that the model gets at once.
    """

    max_batch_size = MAX_BATCH_FRAMES

    def __init__(self, model: Tower, head: Head, config: CLIPConfig) -> None:
        self.model = model
        self.head = head
        self.config = config

    @classmethod
    def load(
        cls,
        model_name: str | None = None,
        weights: Reference | None = None,
        device: str | None = None,
        runtime: str | None = None,
        precision: str = "float32",
        compiled: bool = False,
    ) -> VideoEncoder:
        """Load the video encoder of a checkpoint, with its pooling head. The text tower is not read.

        Arguments and errors are those of :meth:`TextEncoder.load`.
        """
        if model_name is not None:
            get_model(model_name)  # an unknown name is reported before anything else
        placement = resolve_placement(device, runtime, precision, compiled)
        checkpoint = find_checkpoint(weights, model_name)
        tower = load_tower(checkpoint, "video", placement)
        encoder = cls(tower, load_head(checkpoint, placement), checkpoint.config)
        report_weights(encoder, "video", checkpoint)
        return encoder

    def __call__(self, videos: Iterable[Any]) -> np.ndarray:
        """Embed one video or several.

        Args:
            videos: a video, or a list or tuple of n videos. A video is a list, tuple or iterator of frames, or a uint8
                RGB array (T, H, W, 3). :func:`clip4clip.preprocess.pixel_values` lists what a frame can be. Iterators
                are read as needed, so memory does not grow with the number of frames.

        Returns:
            Unit vectors, float32: (D,) for one video, (n, D) for a list of videos. D is
            ``config.embed_dim``.

        Raises:
            InputTypeError: got a path, a single frame, or anything else that is not a video.
            InputValueError: no videos, a video without frames, or a frame of the wrong dtype, shape or mode.
            CheckpointError, CacheError: as for :meth:`TextEncoder.__call__`.
        """
        batch, is_single = _check_videos(videos)
        states: list[Any] = [None] * len(batch)  # the state of the head for each video
        for owners, pixels in self._pixel_batches(batch, is_single):
            embeddings = self.model(pixels)
            for index in sorted(set(owners)):
                rows = [row for row, owner in enumerate(owners) if owner == index]
                states[index] = self.head(embeddings[rows[0] : rows[-1] + 1], states[index])
        for index, state in enumerate(states):
            if state is None:
                name = "the video" if is_single else f"video {index}"
                raise InputValueError(f"{name} has no frames; at least one is needed")
        vectors = l2_normalize(np.stack([self.head.pool(state) for state in states]))
        return vectors[0] if is_single else vectors

    def frame_embeddings(self, frames: Iterable[Any]) -> np.ndarray:
        """Embed each frame of a video, for callers that pool the embeddings themselves.

        Args:
            frames: one video, as for :meth:`__call__`.

        Returns:
            Frame embeddings, (T, D) float32, not normalised: what ``head`` takes.

        Raises:
            InputTypeError: got several videos, or anything else that is not a video.
            InputValueError: there are no frames, or a frame has the wrong dtype, shape or mode.
            CacheError: as for :meth:`TextEncoder.__call__`.
        """
        batch, is_single = _check_videos(frames)
        if not is_single:
            raise InputTypeError(f"frames must be those of one video, but got {len(batch)} videos: pass one at a time")
        embeddings = [self.model(pixels) for _, pixels in self._pixel_batches(batch, is_single)]
        if not embeddings:
            raise InputValueError("the video has no frames; at least one is needed")
        return np.concatenate(embeddings)

    def _pixel_batches(
        self, videos: Sequence[Iterable[Any]], is_single: bool
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield the pixel values of all frames in full batches, (N, 3, R, R), each with the indices of their videos."""
        owners: list[int] = []
        pixels = PixelBatch(MAX_BATCH_FRAMES, self.config.resolution, self.config.image)
        for index, video in enumerate(videos):
            for frame_index, frame in enumerate(video):
                try:
                    pixels.append(frame)
                except (InputTypeError, InputValueError) as error:
                    name = f"frame {frame_index}" if is_single else f"frame {frame_index} of video {index}"
                    raise type(error)(f"{name}: {error}") from error
                owners.append(index)
                if len(owners) == MAX_BATCH_FRAMES:
                    yield owners, pixels.pixel_values()
                    owners, pixels = [], PixelBatch(MAX_BATCH_FRAMES, self.config.resolution, self.config.image)
        if owners:
            yield owners, pixels.pixel_values()


def _check_videos(videos: Any) -> tuple[list[Any], bool]:
    """Return one video or several as a list, and whether it is only one."""
    is_list = isinstance(videos, list | tuple) and len(videos) > 0 and not is_frame(videos[0]) and _is_video(videos[0])
    batch = list(videos) if is_list else [videos]
    for index, video in enumerate(batch):
        if not _is_video(video):
            raise _not_a_video(video, f"video {index}" if is_list else "a video")
    return batch, not is_list


def _is_video(data: Any) -> bool:
    """Return whether ``data`` can be a sequence of frames. The frames themselves are checked later."""
    return isinstance(data, list | tuple | Iterator) or (isinstance(data, np.ndarray) and data.ndim == 4)


def _not_a_video(data: Any, name: str) -> InputTypeError | InputValueError:
    """Return the error for something that is not a video."""
    if isinstance(data, str | bytes | os.PathLike):
        return InputTypeError(f"{name} must be decoded frames, not the path {brief(data)}: {HOW_TO_DECODE}")
    if is_frame(data):
        return InputTypeError(
            f"{name} must be a list of frames or a (T, H, W, 3) array, not a single frame: wrap it in a list"
        )
    if isinstance(data, np.ndarray):
        return InputValueError(
            f"{name} must be a (T, H, W, 3) array, but has shape {data.shape}; pass several videos as a list"
        )
    return InputTypeError(
        f"{name} must be a list, tuple or iterator of frames or a (T, H, W, 3) array, "
        f"not {type(data).__name__}: {brief(data)}"
    )


@dataclass(frozen=True)
class EncoderSpec:
    """Which encoder to use: a model, its weights, and how to compute it. See :meth:`TextEncoder.load`.

    Attributes:
        model_name: key of :data:`clip4clip.config.MODELS`. None reads the network from ``weights``; without these, it
            is :data:`clip4clip.config.DEFAULT_MODEL` or, for an index or a table, the model of its vectors.
        weights: the checkpoint; None for the model's default.
        device: where to compute; None for the best device available.
        runtime: what computes; None for the faster runtime of those that are installed.
        precision: precision of the computation. Vectors of different precisions can be compared.
    """

    model_name: str | None = None
    weights: Reference | None = None
    device: str | None = None
    runtime: str | None = None
    precision: str = "float32"

    def checkpoint(self) -> Checkpoint:
        """Find the checkpoint, that of the vision tower if the model has two; download it if necessary.

        Raises:
            UnknownNameError, WeightsNotFoundError, CheckpointError: see :mod:`clip4clip.errors`.
        """
        return find_checkpoint(self.weights, self.model_name)

    def identify(self) -> Identity:
        """Return what the vectors of this encoder can be compared with; see :meth:`checkpoint`."""
        return self.checkpoint().identity

    def identify_text(self) -> str:
        """Return text that changes whenever the text tower does; see :meth:`checkpoint`."""
        if self.model_name is not None and is_text_tower(self.model_name):
            return find_text_model(self.weights, self.model_name).digest()
        return self.identify().fingerprint

    def for_vectors_of(self, model: Identity) -> EncoderSpec:
        """Return this encoder, with the model of some vectors if it names none.

        Weights that do not state their network are then taken for those of this model: if they are not, their
        fingerprint differs from that of the vectors.

        Raises:
            ModelMismatchError: the vectors are from weights that were loaded without the name of a model, and this
                encoder names no weights either.
        """
        if self.model_name is not None:
            return self
        if model.model not in MODELS:
            if self.weights is not None:
                return self
            raise ModelMismatchError(
                f"the vectors are of {model}, and no model has that name here: pass the same weights (--weights) or, "
                "in Python, register the model (clip4clip.register_model)"
            )
        return replace(self, model_name=model.model)

    def contradicts(self, model: Identity) -> bool:
        """Return whether some vectors are of another model than that of this encoder, as far as the names tell.

        False does not mean that they can be compared; :meth:`identify` finds that out, but may download weights.

        Raises:
            UnknownNameError: there is no model of this encoder's name.
        """
        if self.model_name is None:
            return False
        own = image_model(self.model_name)
        if own == model.model or model.model not in MODELS:
            return False
        if self.weights is None and not (is_registered(own) or is_registered(model.model)):
            return True
        configs = get_model(own).config, get_model(model.model).config
        return None not in configs and configs[0] != configs[1]

    def __getstate__(self) -> dict[str, Any]:
        """Take a model that was registered (:func:`clip4clip.register_model`) along into another process."""
        return {**vars(self), "registered": registered_models(self.model_name)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, model in state.pop("registered").items():
            add_model(name, model)
        vars(self).update(state)

    def text_encoder(self) -> TextEncoder:
        """Load the text encoder; see :meth:`TextEncoder.load`."""
        return TextEncoder.load(self.model_name, self.weights, self.device, self.runtime, self.precision)

    def video_encoder(self) -> VideoEncoder:
        """Load the video encoder; see :meth:`VideoEncoder.load`."""
        return VideoEncoder.load(self.model_name, self.weights, self.device, self.runtime, self.precision)


DEFAULT_ENCODER = EncoderSpec()
