"""``ops.video_text_embedding.clip4clip``: embed text or video frames."""

from __future__ import annotations

import copy
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from towhee import accelerate
from towhee.operator import NNOperator
from towhee.runtime.runtime_conf import get_accelerator

from ..config import MODELS, get_config, get_model, is_text_tower
from ..encoder import TextEncoder, VideoEncoder
from ..errors import InputValueError, UnknownNameError
from ..runtime.load import check_modality, load_head, load_tower, report_weights
from ..runtime.placement import Placement, require_onnx, resolve_placement
from ..runtime.tower import Tower
from ..weights.identity import find_checkpoint

if TYPE_CHECKING:
    from ..training.data import VideoTextDataset
    from .trainer import Clip4clipTrainer


class Clip4clip(NNOperator):
    """``ops.video_text_embedding.clip4clip``: embed text or video frames as a unit vector.

    Args:
        model_name: ``'clip_vit_b32'`` or another key of :data:`clip4clip.config.MODELS` (see `clip4clip models`);
            ``'clip_vit_tiny_demo'`` is trained on drawings, for trials. None reads the network from ``weight_path``.
        modality: ``'text'`` or ``'video'``. Only the tower of this modality is loaded.
        weight_path: a checkpoint file; a folder (a Hugging Face snapshot); ``hf://owner/repo[@revision][/file]``;
            or None for the model's default. docs/checkpoints.md lists the places that are searched for the default.
        device: ``'cpu'``, ``'cuda:1'``, ``'mps'``, …; None for the device that Towhee configures for the node, else for
            the best one available.
        runtime: ``'torch'`` or ``'onnxruntime'``; None for the faster one of those that are installed.
        precision: ``'float32'``, ``'float16'``, ``'bfloat16'`` or ``'int8'``.
            :data:`clip4clip.runtime.placement.PRECISIONS` lists which runtime and device supports which.
        compiled: compile with ``torch.compile``: the first calls take a minute, later calls are faster.
        folder: the folder of the operator, if Towhee loads it from a folder.

    Raises:
        Clip4clipError: one of UnknownNameError, WeightsNotFoundError, CheckpointError, DeviceError,
            MissingExtraError, CacheError and ExportError; see :mod:`clip4clip.errors`.
    """

    supported_formats: list[str] = ["onnx"]  # noqa: RUF012  # Towhee's name; an instance can have none
    _trainer: Clip4clipTrainer | None

    def __init__(
        self,
        model_name: str | None,
        modality: str,
        weight_path: str | os.PathLike[str] | None = None,
        device: str | None = None,
        *,
        runtime: str | None = None,
        precision: str = "float32",
        compiled: bool = False,
        folder: Path | None = None,
    ) -> None:
        super().__init__()
        check_modality(modality)
        if device is None and self._device_id >= 0:
            device = f"cuda:{self._device_id}"
        self._requested_name = model_name
        self._encoder: TextEncoder | VideoEncoder
        if modality == "text" and is_text_tower(model_name):
            self._load_text_tower(str(model_name), weight_path, device, runtime, precision, compiled)
            return
        # If a server computes the tower, the device is the server's concern. Only a head is computed here.
        is_served = get_accelerator() is not None
        placement = Placement("torch", "cpu") if is_served else resolve_placement(device, runtime, precision, compiled)
        self._placement = placement
        self._modality = modality
        self._find_checkpoint = functools.partial(find_checkpoint, weight_path, model_name, folder)
        # A served text tower is not loaded here, so this machine need not have its checkpoint.
        is_known = model_name is not None and get_model(model_name).config is not None
        is_needed = not (is_known and is_served and modality == "text")
        checkpoint = self._find_checkpoint() if is_needed else None
        self._model_name = checkpoint.model_name if checkpoint else str(model_name)
        config = checkpoint.config if checkpoint else get_config(self._model_name)
        # Towhee exports and serves `model`: one tensor in, one tensor out. If it is served, this is a client.
        self.model = accelerate(load_tower)(checkpoint, modality, placement)
        tower = self.model if isinstance(self.model, Tower) else _ServedTower(self.model)
        if modality == "text" or checkpoint is None:
            self._encoder = TextEncoder(tower, config)
        else:
            self._encoder = VideoEncoder(tower, load_head(checkpoint, placement), config)
        if checkpoint is not None:
            report_weights(self._encoder, modality, checkpoint)

    def _load_text_tower(
        self,
        model_name: str,
        weights: str | os.PathLike[str] | None,
        device: str | None,
        runtime: str | None,
        precision: str,
        compiled: bool,
    ) -> None:
        """Load a model that is only a text tower, which Towhee can neither export nor serve."""
        if get_accelerator() is not None:
            raise UnknownNameError(f"the text tower of {model_name} cannot be served by Triton: run it in this process")
        self.supported_formats = []
        self._encoder = TextEncoder.load(model_name, weights, device, runtime, precision, compiled)
        self.model = self._encoder.model
        self._modality, self._model_name = "text", model_name

    def __call__(self, data: Any) -> np.ndarray:
        """Embed text or videos.

        Args:
            data: what :class:`~clip4clip.TextEncoder` or :class:`~clip4clip.VideoEncoder` takes, by modality.

        Returns:
            Unit vectors, float32: (D,) for one text or video, (n, D) for a list of n.

        Raises:
            InputTypeError, InputValueError: ``data`` is invalid. Then no part of it is embedded.
            CheckpointError, WeightsNotFoundError, CacheError: as for :class:`~clip4clip.TextEncoder`.
        """
        return self._encoder(data)

    @staticmethod
    def supported_model_names() -> list[str]:
        """Return the valid values of ``model_name``."""
        return list(MODELS)

    def save_model(
        self,
        model_type: str = "onnx",
        output_file: str | os.PathLike[str] = "default",
        *,
        pooled: bool = False,
        precision: str = "float32",
    ) -> bool:
        """Write the tower as an ONNX graph that takes any number of inputs and, for text, any length.

        The graph maps ``ids``, (batch, length) int64, or ``pixel_values``, (frames, 3, R, R) float32, to
        ``embeddings``, float32, not normalised. The vectors of ONNX Runtime and torch are compared before an existing
        file is replaced.

        Towhee calls this method when it builds a pipeline for Triton. Then the largest batch size is also written to
        the ``config.pbtxt`` of the model.

        Args:
            model_type: ``'onnx'``, one of ``supported_formats``.
            output_file: the graph file; ``'default'`` for ``<model_name>-<modality>.onnx`` in the current folder.
            pooled: only for video: the graph takes the frames of one video and returns its unit ``vector``, (D,).
            precision: ``'float32'``, ``'float16'`` or ``'int8'``; see :func:`clip4clip.runtime.onnx_export.save_tower`.

        Returns:
            True.

        Raises:
            UnknownNameError: unknown format or precision.
            InputValueError: ``pooled`` for text, or the folder of the file does not exist.
            MissingExtraError: onnx or onnxruntime is not installed; see the extra ``onnx``.
            WeightsNotFoundError: the checkpoint of this operator no longer exists.
            CheckpointError: the checkpoint cannot be read, or the tower returns embeddings that are zero or not finite.
            ExportError: the graph and torch disagree, or the file cannot be written, for example because it is a
                folder, its folder is not writable, or the disk is full.
        """
        if not self.supported_formats:
            raise UnknownNameError(
                f"the text tower of {self._model_name} cannot be exported as ONNX: run it in a process of its own"
            )
        if model_type not in self.supported_formats:
            raise UnknownNameError(f"unknown format {model_type!r}; it must be {self.supported_formats[0]!r}")
        if pooled and self._modality != "video":
            raise InputValueError("pooled=True is for video: a text has no frames to pool")
        path = Path(f"{self._model_name}-{self._modality}.onnx" if output_file == "default" else output_file)
        if not path.parent.is_dir():
            raise InputValueError(f"{path} cannot be written: there is no folder {path.parent}")
        require_onnx()
        from ..runtime.export import ExportSource, export

        head = self._encoder.head if pooled and isinstance(self._encoder, VideoEncoder) else None
        source = ExportSource(self._modality, self.model, head, self._find_checkpoint)
        export(source, path, precision, self._encoder.max_batch_size)
        return True

    def train(
        self,
        training_config: Any = None,
        train_dataset: VideoTextDataset | None = None,
        eval_dataset: VideoTextDataset | None = None,
        resume_checkpoint_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Fine-tune both towers and the head with Towhee's trainer. Afterwards this operator uses the result.

        Other operators with the same checkpoint do not change. ``<output_dir>/final_epoch/model.safetensors`` is a
        ``weight_path`` for new ones. A second call resumes where the first one ended, up to its ``epoch_num``.

        Args:
            training_config: ``towhee.trainer.training_config.TrainingConfig``, or None for its defaults.
            train_dataset: pairs to train on.
            eval_dataset: pairs to evaluate on.
            resume_checkpoint_path: folder ``epoch_N`` of an earlier run to resume from. Towhee restores weights, epoch
                and learning rate, but not the state of the optimizer.
            **kwargs: ``train_dataloader``, ``eval_dataloader`` and ``model_card``, as in Towhee.

        Raises:
            MissingExtraError: a package that Towhee's trainer needs is not installed; see the extra ``towhee-train``.
            InputTypeError, InputValueError, TrainingError: see
                :class:`clip4clip.operators.trainer.Clip4clipTrainer`.
        """
        super().train(training_config, train_dataset, eval_dataset, resume_checkpoint_path, **kwargs)
        from ..training.model import encoders

        # A copy, so that further training does not change this operator while other threads use it.
        device = self._placement.device if self._placement.runtime == "torch" else "cpu"
        model = copy.deepcopy(self.trainer.model).requires_grad_(False).eval().to(device)
        text_encoder, video_encoder = encoders(model, device)
        self._encoder = text_encoder if self._modality == "text" else video_encoder
        self.model = self._encoder.model

    def setup_trainer(
        self,
        training_config: Any = None,
        train_dataset: VideoTextDataset | None = None,
        eval_dataset: VideoTextDataset | None = None,
        **kwargs: Any,
    ) -> None:
        """Create ``self.trainer``, or update it for the next run. The arguments are those of :meth:`train`."""
        from ..training.config import check_trainable

        check_trainable(self._requested_name)
        from ..training.model import VideoTextModel
        from .trainer import Clip4clipTrainer

        if self._trainer is None:
            model = VideoTextModel.load(self._find_checkpoint())
            self._trainer = Clip4clipTrainer(model, training_config, train_dataset, eval_dataset, **kwargs)
            return
        super().setup_trainer(training_config, train_dataset, eval_dataset, **kwargs)
        self._trainer.check()
        if training_config is not None:
            self._trainer.lr_value = training_config.lr  # it would start with the last rate of the previous run


class _ServedTower(Tower):
    """A tower that a server computes. Towhee's client for it takes and returns tensors."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        import torch

        return np.asarray(self._client(torch.from_numpy(inputs)), np.float32)
