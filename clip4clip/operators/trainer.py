"""Train an operator through Towhee's trainer: Towhee's configuration and callbacks, our model, loss and batches."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import InputTypeError, InputValueError, MissingExtraError, TrainingError
from ..evaluation.metrics import RetrievalMetrics, ranks
from ..training.checkpoint import save_checkpoint
from ..training.data import Batch, EpochBatchSampler, VideoTextDataset, collate
from ..training.loss import contrastive_loss
from ..training.model import VideoTextModel


def _check_requirements() -> None:
    # Towhee runs pip when a package is missing, and fails an assertion when its version is wrong.
    for name, required in {"torchvision": None, "torchmetrics": "0.7.0", "ruamel.yaml": None}.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = None
        if installed is None or (required and installed != required):
            raise MissingExtraError(
                f"Towhee's trainer needs {name}{f' {required}' if required else ''}, but "
                f"{f'{installed} is installed' if installed else 'it is not installed'}: pip install "
                "'towhee-clip4clip[towhee-train]', or train with `clip4clip train`, which does not need it"
            )


_check_requirements()

from towhee.data.dataset.dataset import TowheeDataSet  # noqa: E402
from towhee.trainer.callback import EarlyStoppingCallback  # noqa: E402
from towhee.trainer.metrics import get_metric_by_name  # noqa: E402
from towhee.trainer.trainer import Trainer  # noqa: E402
from towhee.trainer.training_config import TrainingConfig  # noqa: E402

CHECKPOINT = "model.safetensors"


class Clip4clipTrainer(Trainer):
    """``towhee.trainer.Trainer`` for pairs of a video and a sentence.

    The loss is that of ``clip4clip train``; ``loss`` of the configuration is not used. ``epoch_metric`` is R@1 within
    the batch, and ``eval_epoch_metric`` is R@1 over the evaluation set, both from 0 to 1. Every checkpoint folder also
    gets ``model.safetensors`` under CLIP4Clip's names.

    Args:
        model: model to train.
        training_config: Towhee's configuration; None for its defaults.
        train_dataset: pairs to train with.
        eval_dataset: pairs to evaluate on, after every epoch by default; None for no evaluation.
        **others: ``train_dataloader``, ``eval_dataloader`` and ``model_card``, as in Towhee.

    Raises:
        InputTypeError: a data set is not a :class:`clip4clip.training.VideoTextDataset`.
        InputValueError: ``device_str`` is ``'cuda'``, which means DataParallel in Towhee.
        TrainingError: the training set has fewer pairs than a batch.
    """

    model: VideoTextModel
    configs: TrainingConfig
    train_dataset: VideoTextDataset | None
    eval_dataset: VideoTextDataset | None
    train_dataloader: DataLoader | None
    eval_dataloader: DataLoader | None

    def __init__(
        self,
        model: VideoTextModel,
        training_config: TrainingConfig | None = None,
        train_dataset: VideoTextDataset | None = None,
        eval_dataset: VideoTextDataset | None = None,
        **others: Any,
    ) -> None:
        super().__init__(model, training_config, train_dataset, eval_dataset, **others)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.check()
        self._vectors: tuple[Tensor, Tensor] | None = None
        self._evaluated: list[tuple[Tensor, Tensor]] = []
        self._recall: float | None = None  # text→video R@1 of these weights, in percent, if they were evaluated

    def check(self) -> None:
        """Check the data sets and the device; raise the errors that the class documents."""
        for name in ("train_dataset", "eval_dataset"):
            dataset = getattr(self, name)
            if isinstance(dataset, TowheeDataSet):
                dataset = dataset.dataset
                setattr(self, name, dataset)
            if dataset is not None and not isinstance(dataset, VideoTextDataset):
                raise InputTypeError(
                    f"{name} must be a clip4clip.training.VideoTextDataset, not {type(dataset).__name__}"
                )
        if self.configs.device_str == "cuda":
            raise InputValueError(
                "device_str='cuda' would split batches, and with them the loss; name one device, such as 'cuda:0', or "
                "train on several with torchrun -m clip4clip train"
            )

    def get_train_dataloader(self) -> DataLoader:
        """Return batches in the order of ``clip4clip train``. The last batch is left out if it is not full."""
        if self.train_dataloader is None:
            if self.train_dataset is None:
                raise InputValueError("there is no train_dataset to train with")
            size = self.configs.train_batch_size
            batches = _CurrentEpochSampler(self, len(self.train_dataset), size, self.configs.seed)
            if not len(batches):
                raise TrainingError(
                    f"train_dataset has {len(self.train_dataset)} pairs, fewer than one batch of {size}: "
                    "choose a smaller batch_size"
                )
            return self._loader(self.train_dataset, batch_sampler=batches)
        return self.train_dataloader

    def get_eval_dataloader(self) -> DataLoader | None:
        """Return batches of all pairs, in their order."""
        if self.eval_dataloader is None and self.eval_dataset is not None:
            return self._loader(self.eval_dataset, batch_size=self.configs.eval_batch_size)
        return self.eval_dataloader

    def _loader(self, dataset: VideoTextDataset, **batches: Any) -> DataLoader:
        workers, pin = self._get_num_workers(), self.configs.dataloader_pin_memory and torch.cuda.is_available()
        return DataLoader(dataset, collate_fn=collate, num_workers=workers, pin_memory=pin, **batches)

    def setup_before_train(self, num_training_steps: int, init_lr: float) -> None:  # noqa: ARG002
        """Prepare as Towhee does, but schedule the learning rate by steps. Towhee would count each pair as a step."""
        epochs = math.ceil(self.configs.epoch_num - self.epoch)
        super().setup_before_train(epochs * len(self.get_train_dataloader()), init_lr)

    def _create_optimizer(self, init_lr: float) -> None:
        super()._create_optimizer(init_lr)
        if not self.override_optimizer:
            for group in self.optimizer.param_groups:  # in which Towhee leaves the optimizer's own default
                group["lr"] = group["initial_lr"] = init_lr

    def _create_metric(self) -> None:
        self.metric, self.loss_metric = get_metric_by_name("MeanMetric"), get_metric_by_name("MeanMetric")
        self.metric.to(self.configs.device)
        self.loss_metric.to(self.configs.device)

    def _create_callbacks(self) -> None:
        early_stopping, self.configs.early_stopping = self.configs.early_stopping, None
        try:
            super()._create_callbacks()
        finally:
            self.configs.early_stopping = early_stopping
        if isinstance(early_stopping, dict):
            self.add_callback(_EarlyStopping(self.trainercontrol, **early_stopping))

    def train_step(self, model: VideoTextModel, inputs: Batch) -> dict[str, Any]:
        """Make one step of the optimizer, then clamp the scale of the logits."""
        self._recall = None
        logs = super().train_step(model, inputs)
        model.clamp_logit_scale()
        return logs

    def compute_loss(self, model: VideoTextModel, inputs: Batch) -> Tensor:
        """Return the loss of a batch, see :func:`clip4clip.training.contrastive_loss`."""
        text, video, scale = model(*inputs)
        self._vectors = text.detach(), video.detach()
        return contrastive_loss(text, video, scale)

    @torch.no_grad()
    def compute_metric(self, model: VideoTextModel, inputs: Batch) -> float:  # noqa: ARG002  Towhee's signature
        """Return R@1 for the vectors of the last loss: within the batch in training, over all batches in evaluation."""
        assert self._vectors is not None, "compute_loss comes first"  # noqa: S101  Towhee's loop calls it first
        text, video = self._vectors
        if model.training:
            self.metric.update((text @ video.T).argmax(1) == torch.arange(len(text), device=text.device))
            return self.metric.compute().item()
        self._evaluated.append((text.cpu(), video.cpu()))
        text, video = (torch.cat(each) for each in zip(*self._evaluated, strict=True))
        columns, matches = self._distinct_videos(len(text))
        text_ranks = ranks((text @ video[columns].T).numpy(), matches)
        return RetrievalMetrics.of(text_ranks, len(columns)).recall_at_1 / 100

    def _distinct_videos(self, count: int) -> tuple[list[int], list[int]]:
        """Find the different videos of the first ``count`` pairs.

        Returns:
            The index of the first pair of each video; and for each pair the position of its video in that list.
        """
        if self.eval_dataset is None:  # the caller passed a loader; its pairs are unknown
            return list(range(count)), list(range(count))
        pairs = self.eval_dataset.pairs[:count]
        first_pair: dict[Path, int] = {}
        for index, pair in enumerate(pairs):
            first_pair.setdefault(pair.path, index)
        column = {path: number for number, path in enumerate(first_pair)}
        return list(first_pair.values()), [column[pair.path] for pair in pairs]

    def evaluate(self, model: VideoTextModel, logs: dict[str, Any]) -> dict[str, Any]:
        """Add loss and R@1 over the evaluation set to ``logs``."""
        self._evaluated = []
        self.loss_metric.reset()
        logs = super().evaluate(model, logs)
        self._recall = 100 * logs["eval_epoch_metric"] if self._evaluated else None
        self._evaluated = []
        self.set_train_mode(model)
        return logs

    def save(self, path: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Save Towhee's files, to resume the training, and ``model.safetensors``, for every other use."""
        super().save(path, overwrite)
        config = self.configs
        settings: dict[str, Any] = {"recipe": "towhee.trainer.Trainer", "epochs": config.epoch_num, "seed": config.seed}
        settings |= {"batch_size": config.batch_size, "lr": config.lr, "optimizer": config.optimizer}
        settings["schedule"] = config.lr_scheduler_type
        known = {name: value for name, value in settings.items() if isinstance(value, str | int | float)}
        save_checkpoint(self.model, Path(path) / CHECKPOINT, settings=known, epoch=self.epoch, recall_at_1=self._recall)


class _CurrentEpochSampler(EpochBatchSampler):
    """The batches of the epoch that a Towhee trainer is in."""

    def __init__(self, trainer: Trainer, length: int, batch_size: int, seed: int) -> None:
        super().__init__(length, batch_size, seed)
        self._trainer = trainer

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        self.begin_at(self._trainer.epoch - 1, 0)
        return super().__iter__()


class _EarlyStopping(EarlyStoppingCallback):
    """Early stopping that works with NumPy 2; Towhee's uses a name that NumPy has removed."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best = -math.inf if self.monitor_op is np.greater else math.inf
        self.best_weights = None
