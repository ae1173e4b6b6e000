"""The settings of a training run, and their checks."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from ..config import image_model, is_text_tower
from ..errors import InputValueError, UnknownNameError

PRECISIONS = ("float32", "bfloat16", "float16")
SAVE_DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of a training run. The defaults are the paper's for fine-tuning on MSR-VTT.

    Attributes:
        pairs: table of the training pairs, see :func:`clip4clip.evaluation.pairs.read_pairs`.
        videos: folder that the names of the videos are relative to.
        out: output folder. It gets ``last.safetensors``, ``best.safetensors`` (by text→video R@1),
            ``resume.safetensors``, ``log.jsonl`` and, with tensorboard installed, ``tensorboard/``.
        model: model name, a key of :data:`clip4clip.config.MODELS`; None for the network of ``init`` or, without it,
            ``clip_vit_b32``.
        init: checkpoint to start from; None for the model's default; ``'random'`` for an untrained network.
        head: ``'meanP'``, ``'seqLSTM'`` or ``'seqTransf'``; None for the head of the checkpoint.
        captions: ``MSRVTT_data.json``, for a table of pairs without sentences.
        eval_pairs: table of pairs to evaluate on after every epoch; None for no evaluation.
        eval_videos: folder of the videos of ``eval_pairs``; None for ``videos``.
        skip_bad: leave out pairs that cannot be used, instead of refusing to train.
        epochs: number of times that every pair is seen.
        batch_size: number of pairs in a step, over all processes.
        accumulate: number of parts in which each process computes its share of a batch, one after the other, to save
            memory. The loss is always over the whole batch, so the result does not depend on this (arXiv 2101.06983).
        lr: highest learning rate of CLIP's parameters.
        new_lr: highest learning rate of the head's parameters, also of a head that comes with ``init``.
        weight_decay: weight decay of AdamW; applies to matrices only.
        warmup: fraction of all steps in which the learning rate rises. After that it falls along a cosine.
        max_grad_norm: largest norm of the gradient; longer gradients are scaled down to it.
        freeze_layers: do not train the embeddings and this many first layers of both towers (CLIP4Clip's
            ``freeze_layer_num``); -1 trains everything. None is 0, as in the paper's commands, or -1 for an untrained
            network.
        frames: number of frames of a video. The video is cut into as many equal parts, and one frame is drawn at random
            from each.
        max_words: largest number of token ids of a sentence, start and end marks included.
        seed: seed of the initialisation, the order of the pairs and the frames; at least 0.
        device: torch device, see :meth:`clip4clip.TextEncoder.load`.
        precision: ``'float32'``, or ``'bfloat16'`` or ``'float16'`` for autocast; None for bfloat16 on a CUDA device
            that supports it, and float32 elsewhere.
        recompute: use gradient checkpointing.
        workers: number of processes that decode; 0 decodes in this process; None for one per core, at most 8.
        save_every: number of steps between two saved states.
        save_dtype: number format of the checkpoints, ``'float32'`` or ``'float16'``.

    Raises:
        InputValueError: a number is out of its range.
        UnknownNameError: ``precision`` or ``save_dtype`` is unknown.
    """

    pairs: str | os.PathLike[str]
    videos: str | os.PathLike[str]
    out: str | os.PathLike[str]
    model: str | None = None
    init: str | None = None
    head: str | None = None
    captions: str | os.PathLike[str] | None = None
    eval_pairs: str | os.PathLike[str] | None = None
    eval_videos: str | os.PathLike[str] | None = None
    skip_bad: bool = False
    epochs: int = 5
    batch_size: int = 128
    accumulate: int = 1
    lr: float = 1e-7
    new_lr: float = 1e-4
    weight_decay: float = 0.2
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    freeze_layers: int | None = None
    frames: int = 12
    max_words: int = 32
    seed: int = 42
    device: str | None = None
    precision: str | None = None
    recompute: bool = False
    workers: int | None = None
    save_every: int = 100
    save_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_trainable(self.model)
        for name in ("epochs", "batch_size", "accumulate", "frames", "save_every"):
            if getattr(self, name) < 1:
                raise InputValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.seed < 1 << 63:
            raise InputValueError(f"seed must be from 0 to 2**63 - 1, not {self.seed}")
        if self.workers is not None and self.workers < 0:
            raise InputValueError(f"workers must be at least 0, not {self.workers}")
        for name in ("lr", "new_lr", "weight_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputValueError(f"{name} must be a number from 0 to 1, not {getattr(self, name)}")
        if not 0 <= self.max_grad_norm < math.inf:
            raise InputValueError(f"max_grad_norm must be a number of at least 0, not {self.max_grad_norm}")
        if not 0 <= self.warmup < 1:
            raise InputValueError(f"warmup must be a number from 0 to 1 (exclusive), not {self.warmup}")
        if self.max_words < 3:
            raise InputValueError(
                f"max_words must be at least 3 (start mark, one token, end mark), not {self.max_words}"
            )
        for name, names in (("precision", PRECISIONS), ("save_dtype", SAVE_DTYPES)):
            value = getattr(self, name)
            if value not in names and not (name == "precision" and value is None):
                raise UnknownNameError(f"unknown {name} {value!r}; it must be one of {', '.join(names)}")


def check_trainable(model_name: str | None) -> None:
    """Reject a model that is only a text tower, made for the vectors of another model.

    Raises:
        UnknownNameError: the model is only a text tower, or does not exist.
    """
    if is_text_tower(model_name):
        raise UnknownNameError(
            f"{model_name} cannot be trained: it is only a text tower, made for the vectors of "
            f"{image_model(str(model_name))}, and would not fit those of a trained model. Train that one instead"
        )
