"""``ops.video_text_embedding.clip4clip``: embed text or frames."""

from __future__ import annotations

import copy
import functools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from towhee import accelerate
from towhee.operator import NNOperator
from towhee.runtime.runtime_conf import get_accelerator

from ..config import MODELS, get_model
from ..encoder import FRAMES_AT_ONCE, TOKENS_AT_ONCE, TextEncoder, VideoEncoder
from ..errors import ExportError, InputValueError, UnknownNameError, first_line
from ..runtime.load import check_modality, load_head, load_tower, resolve_weights, warn_if_weights_differ
from ..runtime.placement import Placement, check_onnx, resolve_placement
from ..runtime.tower import Tower
from ..weights.locate import locate

if TYPE_CHECKING:
    from ..training.data import VideoTextDataset
    from .trainer import Clip4clipTrainer

SHORTEST = 2  # ids of a caption: its begin and its end


class Clip4clip(NNOperator):
    """``ops.video_text_embedding.clip4clip``: text or frames to an L2-normalised vector.

    Args:
        model_name: ``'clip_vit_b32'``, ``'clip_vit_b16'``, or ``'clip_vit_tiny_demo'``, trained on drawings for trials.
        modality: ``'text'`` or ``'video'``; only this tower is built and read.
        weight_path: a checkpoint file; a folder (a Hugging Face snapshot); ``hf://owner/repo[@revision][/file]``;
            or None for the default of the model, searched for in the order of docs/checkpoints.md.
        device: ``'cpu'``, ``'cuda:1'``, ``'mps'``, …. None follows the device that Towhee configures for the node, and
            without one takes the best there is.
        runtime: ``'torch'``, ``'onnxruntime'``, or None for the faster one of those that are installed.
        precision: ``'float32'``, ``'float16'``, ``'bfloat16'`` or ``'int8'``;
            :func:`clip4clip.runtime.placement.resolve_placement` tells where there is which.
        compiled: by ``torch.compile``: the first calls take a minute, the others less than without.
        folder: the operator's own, when Towhee loads it from a folder.

    Raises:
        UnknownNameError, WeightsNotFoundError, CheckpointError, DeviceError, MissingExtraError, CacheError,
            ExportError: see :mod:`clip4clip.errors`.
    """

    supported_formats: ClassVar[list[str]] = ["onnx"]
    _trainer: Clip4clipTrainer | None

    def __init__(
        self,
        model_name: str,
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
        config = get_model(model_name).config
        check_modality(modality)
        if device is None and self._device_id >= 0:
            device = f"cuda:{self._device_id}"
        # Where Towhee has the tower served, its device is the server's business, and only a head is computed here.
        served = get_accelerator() is not None
        where = Placement("torch", "cpu") if served else resolve_placement(device, runtime, precision, compiled)
        self._where = where
        self._model_name, self._modality = model_name, modality
        # Of a text tower that is served nothing is loaded here, so its checkpoint need not be on this machine.
        weights = None if served and modality == "text" else resolve_weights(weight_path, model_name, modality, folder)
        self._find_checkpoint = functools.partial(
            locate, weight_path if weights is None else weights.path, model_name, folder
        )
        # One tensor in, one tensor out. Of a tower that is served a client stands here.
        self.model = accelerate(load_tower)(model_name, modality, weights and weights.path, where)
        tower = self.model if isinstance(self.model, Tower) else _ServedTower(self.model)
        self._encoder: TextEncoder | VideoEncoder
        if modality == "text" or weights is None:
            self._encoder = TextEncoder(tower, config)
        else:
            self._encoder = VideoEncoder(tower, load_head(model_name, weights.path, where), config)
        if weights is not None:
            warn_if_weights_differ(self._encoder, weights)

    def __call__(self, data: Any) -> np.ndarray:
        """Unit vectors, float32: (512,) for one text or one video, (n, 512) for a list of n; 128 for the demo model.

        Args:
            data: what :class:`~clip4clip.TextEncoder` or :class:`~clip4clip.VideoEncoder` takes, by modality.

        Raises:
            InputTypeError, InputValueError: for what cannot be understood; nothing of it is embedded.
            CheckpointError, WeightsNotFoundError, CacheError: as for :class:`~clip4clip.TextEncoder`.
        """
        return self._encoder(data)

    @staticmethod
    def supported_model_names() -> list[str]:
        """The values ``model_name`` may have."""
        return list(MODELS)

    def save_model(
        self,
        model_type: str = "onnx",
        output_file: str | os.PathLike[str] = "default",
        *,
        pooled: bool = False,
        precision: str = "float32",
    ) -> bool:
        """Writes this operator's tower as an ONNX graph, number of inputs and, for text, their length free.

        ``ids``, int64 (batch, length), or ``pixel_values``, float32 (frames, 3, R, R), to ``embeddings``, float32,
        not normalised. ONNX Runtime's answers are compared with torch's before the file is put in its place; until then
        the one that was there stays. Towhee calls it where a pipeline is made for Triton; then Triton's
        ``config.pbtxt`` of the model is told how large batches may be.

        Args:
            model_type: ``'onnx'``, one of ``supported_formats``.
            output_file: of the graph; ``'default'`` for ``<model_name>-<modality>.onnx`` in the current folder.
            pooled: of video: the frames are those of one video, and the graph gives its ``vector``, (D,), of norm 1.
            precision: ``'float32'``, ``'float16'`` or ``'int8'``; see :func:`clip4clip.runtime.onnx_export.save_tower`.

        Returns:
            True.

        Raises:
            UnknownNameError: for another format or precision.
            InputValueError: for ``pooled`` where there is nothing to pool, or a folder that is not there.
            MissingExtraError: without onnx and onnxruntime, see the extra ``onnx``.
            WeightsNotFoundError: when the checkpoint that this operator was made from is not there any more.
            CheckpointError: when it cannot be read, or the tower gives no vectors.
            ExportError: when the graph gives other vectors, or the file cannot be written: its name is a folder's, the
                folder is not writable, the disk is full.
        """
        if model_type not in self.supported_formats:
            raise UnknownNameError(f"unknown format {model_type!r}; it must be {self.supported_formats[0]!r}")
        if pooled and self._modality != "video":
            raise InputValueError("pooled=True is for video: of a text there is nothing to pool")
        to = Path(f"{self._model_name}-{self._modality}.onnx" if output_file == "default" else output_file)
        if not to.parent.is_dir():
            raise InputValueError(f"{to} cannot be written: there is no folder {to.parent}")
        check_onnx()
        from ..model import MeanPooling
        from ..runtime.onnx_export import save_tower
        from ..runtime.torch_backend import TorchHead, TorchTower, build_head, build_tower

        head = None
        if isinstance(self.model, TorchTower):  # it may have been trained since it was loaded
            tower: Any = copy.deepcopy(self.model.module).cpu().float()
            if pooled:
                given = self._encoder.head  # type: ignore[union-attr]
                head = copy.deepcopy(given.module).cpu() if isinstance(given, TorchHead) else MeanPooling()
        else:
            path = self._find_checkpoint()
            tower = build_tower(self._model_name, self._modality, path)
            head = build_head(tower.config.embed_dim, path) if pooled else None
        try:
            save_tower(tower, to, head, precision)
            if not pooled:
                _allow_batches(to, TOKENS_AT_ONCE // SHORTEST if self._modality == "text" else FRAMES_AT_ONCE)
        except OSError as error:
            raise ExportError(f"{to} cannot be written: {first_line(error)}") from error
        return True

    def train(
        self,
        training_config: Any = None,
        train_dataset: VideoTextDataset | None = None,
        eval_dataset: VideoTextDataset | None = None,
        resume_checkpoint_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Fine-tunes both towers and the head through Towhee's trainer; from then on this operator uses the result.

        Other operators on the same checkpoint stay as they are. ``<output_dir>/final_epoch/model.safetensors`` is the
        ``weight_path`` for new ones. A second call goes on from where the first one ended, up to its ``epoch_num``.

        Args:
            training_config: ``towhee.trainer.training_config.TrainingConfig``, or None for its defaults.
            train_dataset: pairs to train with.
            eval_dataset: pairs to evaluate on.
            resume_checkpoint_path: a folder ``epoch_N`` of an earlier run to go on from. Towhee restores weights, epoch
                and learning rate from it, not the state of the optimizer.
            **kwargs: ``train_dataloader``, ``eval_dataloader`` and ``model_card``, as in Towhee.

        Raises:
            MissingExtraError: without what Towhee's trainer needs, see the extra ``towhee-train``.
            InputTypeError, InputValueError, TrainingError: see
                :class:`clip4clip.operators.trainer.Clip4clipTrainer`.
        """
        super().train(training_config, train_dataset, eval_dataset, resume_checkpoint_path, **kwargs)
        from ..training.model import encoders

        # A copy: training may go on, this operator must not change under its callers' hands.
        device = self._where.device if self._where.runtime == "torch" else "cpu"
        model = copy.deepcopy(self.trainer.model).requires_grad_(False).eval().to(device)
        self._encoder = encoders(model, device)[0 if self._modality == "text" else 1]
        self.model = self._encoder.model

    def setup_trainer(
        self,
        training_config: Any = None,
        train_dataset: VideoTextDataset | None = None,
        eval_dataset: VideoTextDataset | None = None,
        **others: Any,
    ) -> None:
        """Makes ``self.trainer``, or gives it what it is to go on with; arguments are those of :meth:`train`."""
        from ..training.model import VideoTextModel
        from .trainer import Clip4clipTrainer

        if self._trainer is None:
            model = VideoTextModel.load(self._model_name, self._find_checkpoint())
            self._trainer = Clip4clipTrainer(model, training_config, train_dataset, eval_dataset, **others)
            return
        super().setup_trainer(training_config, train_dataset, eval_dataset, **others)
        self._trainer.check()
        if training_config is not None:
            self._trainer.lr_value = training_config.lr  # else it goes on with what the run before ended with


class _ServedTower(Tower):
    """A tower that Towhee has served elsewhere: its client takes tensors and gives tensors."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        import torch

        return np.asarray(self._client(torch.from_numpy(inputs)), np.float32)


def _allow_batches(model: Path, rows: int) -> None:
    """Has Triton take the encoder's largest batch, if this model lies in a repository for Triton.

    There it is ``<name>/<version>/model.onnx``, and Towhee has written ``<name>/config.pbtxt`` before it asks for the
    model. Unless the pipeline says how large batches may be, that file does not, and Triton completes it with 4: it
    would refuse twelve frames.
    """
    config = model.absolute().parent.parent / "config.pbtxt"
    text = config.read_text("utf-8") if model.parent.name.isdecimal() and config.is_file() else ""
    if text and "max_batch_size" not in text:
        config.write_text(re.sub(r"^backend:.*\n", rf"\g<0>max_batch_size: {rows}\n", text, flags=re.M), "utf-8")
