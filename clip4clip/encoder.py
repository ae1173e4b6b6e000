"""Raw input to unit vectors: :class:`TextEncoder` and :class:`VideoEncoder`."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .device import resolve_device
from .errors import CheckpointError, InputTypeError, InputValueError, UnknownNameError, brief
from .frames import HOW_TO_DECODE, FrameRows, is_frame
from .model import CLIPConfig, MeanPooling, SequenceLSTM, SequenceTransformer, TextTower, VisionTower
from .tokenizer import default_tokenizer
from .weights import (
    HEAD,
    OPERATOR_FOLDER,
    Reference,
    assign,
    check_shape,
    get_model,
    locate,
    logger,
    read_state_dict,
    report_unused,
    sim_header,
    tower_state,
    unknown,
)

MODALITIES = ("text", "video")
CAPTIONS_AT_ONCE = 64
FRAMES_AT_ONCE = 32

Head = MeanPooling | SequenceLSTM | SequenceTransformer


class TextEncoder:
    """Sentences to unit vectors. Safe to call from several threads at once.

    Args:
        model: (B, L) int64 token ids to (B, D) embeddings; a :class:`~clip4clip.model.TextTower`, or what stands in for
            it.
        config: shape of the model.
        device: where its input goes.
    """

    def __init__(self, model: Callable[[Tensor], Tensor], config: CLIPConfig, device: torch.device) -> None:
        self.model = model
        self.config = config
        self.device = device

    @classmethod
    def load(
        cls,
        model_name: str = "clip_vit_b32",
        weights: Reference | None = None,
        device: str | torch.device | None = None,
    ) -> TextEncoder:
        """The text encoder of a checkpoint; the vision tower is neither built nor read.

        Args:
            model_name: ``'clip_vit_b32'``, ``'clip_vit_b16'``, or ``'clip_vit_tiny_demo'``, trained on drawings.
            weights: a file, a folder, ``hf://owner/repo[@revision][/file]``, or None for the default of the model.
            device: ``'cpu'``, ``'cuda:1'``, ``'mps'``, …, or None for the best there is.

        Raises:
            UnknownNameError, WeightsNotFoundError, CheckpointError, DeviceError: see :mod:`clip4clip.errors`.
        """
        config, place = get_model(model_name).config, resolve_device(device)
        return cls(load_tower(model_name, "text", weights, place), config, place)

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
        """
        captions = [texts] if isinstance(texts, str) else texts
        if not isinstance(captions, list | tuple):
            raise InputTypeError(f"text must be a str or a list of str, not {type(texts).__name__}: {brief(texts)}")
        if not captions:
            raise InputValueError("an empty list was given where at least one text was due")
        for index, caption in enumerate(captions):
            if not isinstance(caption, str):
                raise InputTypeError(f"text {index} must be a str, not {type(caption).__name__}: {brief(caption)}")
        chunks = (captions[start : start + CAPTIONS_AT_ONCE] for start in range(0, len(captions), CAPTIONS_AT_ONCE))
        with torch.inference_mode():
            vectors = _to_unit_rows(torch.cat([self._embed(chunk) for chunk in chunks]))
        return vectors[0] if isinstance(texts, str) else vectors

    def _embed(self, captions: Sequence[str]) -> Tensor:
        ids = default_tokenizer(self.config.vocab_size)(captions, self.config.context_length)
        return self.model(torch.from_numpy(ids).to(self.device))


class VideoEncoder:
    """Decoded frames to one unit vector for each video. Safe to call from several threads at once.

    Args:
        model: (N, 3, H, W) pixels to (N, D) frame embeddings; a :class:`~clip4clip.model.VisionTower`, or what stands
            in for it.
        head: turns the frame embeddings of a video into one.
        config: shape of the model.
        device: where its input goes.
    """

    def __init__(self, model: Callable[[Tensor], Tensor], head: Head, config: CLIPConfig, device: torch.device) -> None:
        self.model = model
        self.head = head
        self.config = config
        self.device = device

    @classmethod
    def load(
        cls,
        model_name: str = "clip_vit_b32",
        weights: Reference | None = None,
        device: str | torch.device | None = None,
    ) -> VideoEncoder:
        """The video encoder of a checkpoint, with the head it was trained with; the text tower is not read.

        Arguments and errors are those of :meth:`TextEncoder.load`.
        """
        config, place = get_model(model_name).config, resolve_device(device)
        return cls(
            load_tower(model_name, "video", weights, place), load_head(model_name, weights, place), config, place
        )

    def __call__(self, videos: Iterable[Any]) -> np.ndarray:
        """Unit vector of one video or of several.

        Args:
            videos: one video, that is a list, tuple or iterator of frames or a uint8 (T, H, W, 3) RGB array; or a list
                or tuple of n such videos. :func:`clip4clip.frames.pixel_values` says what a frame may be. Iterators are
                read as they go, and memory does not grow with the number of frames.

        Returns:
            float32 of shape (D,) for one video, (n, D) for a list of videos; D is 512, of ``clip_vit_tiny_demo`` 128.

        Raises:
            InputTypeError: for a path, a single frame, or anything else that is not a video.
            InputValueError: for no videos, a video without frames, or a frame of the wrong dtype, shape or mode.
        """
        several = (
            isinstance(videos, list | tuple) and len(videos) > 0 and not is_frame(videos[0]) and _is_video(videos[0])
        )
        batch = list(videos) if several else [videos]
        for index, video in enumerate(batch):
            if not _is_video(video):
                raise _not_a_video(video, f"video {index}" if several else "a video")
        states: list[Any] = [None] * len(batch)
        with torch.inference_mode():
            for owners, pixels in self._pixel_batches(batch, several):
                embeddings = self.model(pixels.to(self.device)).to(self.device)  # a client answers on the CPU
                for index in sorted(set(owners)):
                    rows = [row for row, owner in enumerate(owners) if owner == index]
                    states[index] = self._advance(embeddings[rows[0] : rows[-1] + 1], states[index])
            for index, state in enumerate(states):
                if state is None:
                    raise InputValueError(
                        f"{f'video {index}' if several else 'the video'} has no frames; at least one is needed"
                    )
            vectors = _to_unit_rows(torch.stack([self.head.pool(state) for state in states]))
        return vectors if several else vectors[0]

    def _advance(self, embeddings: Tensor, state: Any) -> Any:
        state = self.head(embeddings, state)
        if isinstance(self.head, SequenceTransformer) and len(state) > self.head.max_frames:
            raise InputValueError(
                f"a video has more than {self.head.max_frames} frames, which is how many positions this checkpoint's "
                "seqTransf head knows; sample fewer"
            )
        return state

    def _pixel_batches(self, videos: Sequence[Iterable[Any]], several: bool) -> Iterator[tuple[list[int], Tensor]]:
        """Frames of all videos in full batches, each with the index of the video every frame belongs to."""
        owners: list[int] = []
        rows = FrameRows(FRAMES_AT_ONCE, self.config.resolution)
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
                    owners, rows = [], FrameRows(FRAMES_AT_ONCE, self.config.resolution)
        if owners:
            yield owners, rows.pixel_values()


def load_tower(
    model_name: str, modality: str, weights: Reference | None, device: torch.device, folder: Path = OPERATOR_FOLDER
) -> nn.Module:
    """The tower of one modality in evaluation mode; the same object for the same file, modality and device.

    Arguments are those of :meth:`TextEncoder.load`, beside ``modality``, ``'text'`` or ``'video'``, and the operator's
    ``folder``.
    """
    path = locate(weights, model_name, folder)
    key = (model_name, check_modality(modality), str(device))
    return _shared(key, path, lambda: _build_tower(model_name, modality, path, device))


def load_head(model_name: str, weights: Reference | None, device: torch.device, folder: Path = OPERATOR_FOLDER) -> Head:
    """The pooling head of a checkpoint in evaluation mode, shared like the towers."""
    path = locate(weights, model_name, folder)
    width = get_model(model_name).config.embed_dim
    return _shared((model_name, "head", str(device)), path, lambda: _build_head(width, path, device))  # type: ignore[return-value]


def check_modality(modality: str) -> str:
    """``modality`` itself; UnknownNameError when it is neither 'text' nor 'video'."""
    if modality not in MODALITIES:
        raise UnknownNameError(f"unknown modality {modality!r}; it must be {' or '.join(map(repr, MODALITIES))}")
    return modality


_modules: weakref.WeakValueDictionary[tuple, nn.Module] = weakref.WeakValueDictionary()
_modules_lock = threading.Lock()


def _shared(key: tuple, path: Path, build: Callable[[], nn.Module]) -> nn.Module:
    """One module per file as it is now: a file that was replaced or rewritten is another one."""
    status = path.stat()
    key = (*key, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    with _modules_lock:
        module = _modules.get(key)
        if module is None:
            module = _modules[key] = build()
        return module


def _build_tower(model_name: str, modality: str, path: Path, device: torch.device) -> nn.Module:
    tensors = read_state_dict(path)
    check_shape(tensors, model_name, path)
    sim_header(tensors, path)  # refuses a checkpoint that has no vectors
    report_unused(unknown(tensors), path)
    config = get_model(model_name).config
    with torch.device("meta"):  # no memory and no initialisation for what is about to be replaced
        tower = VisionTower(config) if modality == "video" else TextTower(config)
    assign(tower, tower_state(tensors, modality), path)
    return tower.requires_grad_(False).eval().to(device)


def _build_head(width: int, path: Path, device: torch.device) -> Head:
    tensors = read_state_dict(path)
    kind = sim_header(tensors, path)
    state = {name: tensor for name, tensor in tensors.items() if name.startswith(HEAD)}
    head: Head
    with torch.device("meta"):
        if kind == "meanP":
            head = MeanPooling()
        elif kind == "seqLSTM":
            head = SequenceLSTM(width)
            if others := {name for name in state if name.startswith("lstm_visual.")} - head.state_dict().keys():
                raise CheckpointError(f"{path} has another LSTM head than CLIP4Clip's: {', '.join(sorted(others))}")
        else:
            layers = {name.split(".")[2] for name in state if name.startswith("transformerClip.resblocks.")}
            if not layers:
                raise CheckpointError(f"{path} has a seqTransf head without any transformerClip.resblocks")
            positions = state.get("frame_position_embeddings.weight", torch.empty(1, 0)).shape[0]
            head = SequenceTransformer(width, len(layers), positions)
    assign(head, state, path)
    logger.info("%s: %s head", path, kind)
    return head.requires_grad_(False).eval().to(device)


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


def _to_unit_rows(embeddings: Tensor) -> np.ndarray:
    vectors = F.normalize(embeddings.float(), dim=-1).cpu().numpy()
    if not np.allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-4):  # so written that NaN fails too
        raise CheckpointError(
            "the model gave a vector that is not finite or has no direction: its checkpoint is damaged"
        )
    return vectors
