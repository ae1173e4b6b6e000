"""The training run: CLIP4Clip's protocol (arXiv 2104.08860, section 4.2), on one process or on many."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ..errors import Clip4clipError, InputValueError, PairsError, TrainingError, UnknownNameError
from ..evaluation.evaluate import Evaluation, Track, evaluate
from ..evaluation.pairs import Pair, find_bad, read_pairs
from ..files import atomic_write, check_folder_writable, remove_partial_files
from ..model import SequenceTransformer
from ..runtime.placement import resolve_device
from ..video.sampling import FrameSampling
from .data import Batch, Batches, VideoTextDataset, collate
from .model import VideoTextModel, encoders, global_loss, save_checkpoint, save_tensors

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAST, BEST, RESUME, LOG = "last.safetensors", "best.safetensors", "resume.safetensors", "log.jsonl"
SAMPLE_OF_BAD = 10  # how many bad pairs are listed


@dataclass(frozen=True)
class TrainingConfig:
    """All that decides on a run. The defaults are the paper's for fine-tuning on MSR-VTT.

    Attributes:
        pairs: table of the training pairs, see :func:`clip4clip.evaluation.pairs.read_pairs`.
        videos: folder that its videos are relative to.
        out: folder that gets ``last.safetensors``, ``best.safetensors`` (by text→video R@1), ``resume.safetensors``,
            ``log.jsonl`` and, with tensorboard installed, ``tensorboard/``.
        model: a model name.
        init: checkpoint to begin with; None for the default of the model; ``'random'`` for an untrained network.
        head: ``'meanP'``, ``'seqLSTM'``, ``'seqTransf'``; None for the one that the checkpoint has.
        captions: ``MSRVTT_data.json``, where ``pairs`` has no sentences.
        eval_pairs: table of pairs to evaluate on after every epoch.
        eval_videos: folder of its videos; None for ``videos``.
        skip_bad: go on without the pairs that cannot be used, instead of refusing to begin.
        epochs: how often every pair is seen.
        batch_size: pairs in a step, over all processes.
        accumulate: parts that a process computes its batch in, one after the other. The result does not depend on it,
            but memory does (arXiv 2101.06983): a batch's loss is always over all its pairs.
        lr: highest learning rate of CLIP's parameters.
        new_lr: highest learning rate of the head's parameters, also where ``init`` brings the head.
        weight_decay: of AdamW, on matrices alone.
        warmup: part of all steps in which the learning rate rises, before it falls along a cosine.
        max_grad_norm: gradients are scaled to this norm at most.
        freeze_layers: CLIP4Clip's ``freeze_layer_num``: embeddings and this many first layers of both towers stay as
            they are. None is 0, as in the paper's commands, or -1, nothing, for an untrained network.
        frames: how many of each video, one at random of each of as many equal parts.
        max_words: token ids of a sentence.
        seed: decides on initialisation, order and frames; at least 0.
        device: as for :meth:`clip4clip.TextEncoder.load`.
        precision: ``'float32'``, or ``'bfloat16'`` or ``'float16'`` autocast; None for bfloat16 on a CUDA device that
            has it and float32 elsewhere.
        recompute: gradient checkpointing.
        workers: processes that decode; 0 for none; None for one per core, 8 at most.
        save_every: steps between two states to resume from.
        save_dtype: ``'float32'`` or ``'float16'``, of the checkpoints.
    """

    pairs: str | os.PathLike[str]
    videos: str | os.PathLike[str]
    out: str | os.PathLike[str]
    model: str = "clip_vit_b32"
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
            raise InputValueError(f"max_words must be at least 3, for a token and its two marks, not {self.max_words}")
        for name, allowed in (("precision", (None, *PRECISIONS)), ("save_dtype", ("float32", "float16"))):
            if getattr(self, name) not in allowed:
                raise UnknownNameError(
                    f"unknown {name} {getattr(self, name)!r}; it must be one of {', '.join(filter(None, allowed))}"
                )


# What may differ between a run and its resumption without another result.
# The pairs themselves are compared, not where they are.
_FREE = {"pairs", "videos", "captions", "out", "eval_pairs", "eval_videos", "skip_bad"}
_FREE |= {"accumulate", "device", "workers", "recompute", "save_every", "save_dtype"}


@dataclass
class TrainingResult:
    """How a run ended.

    Attributes:
        steps: how many were made, those before a resumption included.
        finished: whether that is all of them; if not, it was stopped and can be resumed.
        evaluation: after the last epoch, if there was one.
    """

    steps: int
    finished: bool
    evaluation: Evaluation | None


def train(config: TrainingConfig, resume: bool = False, progress: bool = True) -> TrainingResult:
    """Trains, evaluates after every epoch, and keeps the best and the last checkpoint.

    Under ``torchrun`` every process takes its part of each batch; the result is that of one process with the same
    batch. Ctrl-C and SIGTERM end the run after the step at hand and keep its state. The same call with ``resume`` goes
    on from the last state kept, to the same weights that an uninterrupted run has.

    Processes decode, and where they are spawned (macOS, Windows) each reads the calling script again: call this under
    ``if __name__ == "__main__":``, or with ``workers=0``.

    Args:
        config: see :class:`TrainingConfig`.
        resume: go on with the run in ``config.out``.
        progress: show progress bars on standard error.

    Raises:
        PairsError: for a bad table or, unless ``skip_bad``, bad pairs; before anything is trained.
        TrainingError: when ``out`` holds another run, or none to resume, or cannot be written to, as on a full disk; or
            the loss is not finite.
        Clip4clipError: otherwise, for names, devices and checkpoints as when an encoder is loaded.
    """
    with _processes(config.device) as (rank, world, device):
        try:
            return _Run(config, resume, progress and rank == 0, rank, world, device).run()
        except Clip4clipError:
            raise
        except OSError as error:
            raise TrainingError(
                f"training in {os.fspath(config.out)} stopped: {error}. Once it can be written to, "
                "resume the run (--resume), or start it again if it has no state yet"
            ) from error


class _Run:
    def __init__(
        self, config: TrainingConfig, resume: bool, progress: bool, rank: int, world: int, device: torch.device
    ) -> None:
        self.config, self.rank, self.world, self.device = config, rank, world, device
        self.out = Path(config.out)
        self.console = Console(stderr=True, quiet=not progress)
        self.is_main = rank == 0
        if config.batch_size % (world * config.accumulate):
            raise InputValueError(
                f"batch_size {config.batch_size} cannot be shared by {world} processes in {config.accumulate} parts"
            )
        self.dtype = _precision(config.precision, device)
        self.state_file = self.out / RESUME
        if resume and not self.state_file.is_file():
            raise TrainingError(f"{self.out} holds no run to resume: there is no {RESUME}")
        if not resume and self.state_file.exists():
            raise TrainingError(f"{self.out} holds a run already: resume it, or choose another folder")
        self.resume = resume
        if self.is_main:
            try:
                check_folder_writable(self.out)
            except OSError as error:
                raise TrainingError(f"{self.out} cannot be written to: {error.strerror}") from error
        self.pairs = self._check(read_pairs(config.pairs, config.videos, config.captions), config.pairs)
        self.eval_pairs = (
            read_pairs(config.eval_pairs, config.eval_videos or config.videos, config.captions)
            if config.eval_pairs
            else []
        )
        if self.is_main and self.eval_pairs:
            self._check_evaluation(self.eval_pairs)
        if len(self.pairs) < config.batch_size:
            raise TrainingError(
                f"{config.pairs} has {len(self.pairs)} usable pairs, fewer than one batch of {config.batch_size}: "
                "choose a smaller batch_size"
            )

    def _check(self, pairs: list[Pair], table: str | os.PathLike[str]) -> list[Pair]:
        bad, message = self._find_bad(pairs, table)
        if bad and not self.config.skip_bad:
            raise PairsError(f"{message}\nmend them, or go on without them with skip_bad (--skip-bad)")
        if bad and self.is_main:
            logger.warning("%s\ngoing on without them", message)
        return [pair for index, pair in enumerate(pairs) if index not in bad]

    def _check_evaluation(self, pairs: list[Pair]) -> None:
        bad, message = self._find_bad(pairs, self.config.eval_pairs)
        if len(bad) == len(pairs):
            raise PairsError(f"{message}\nname the folder of their videos with eval_videos (--eval-videos)")
        if bad:
            logger.warning("%s\na video that cannot be decoded is a miss in every evaluation", message)

    def _find_bad(self, pairs: list[Pair], table: str | os.PathLike[str] | None) -> tuple[dict[int, str], str]:
        """What is wrong with which pair, by its index, and the sentence that says so."""
        with self._progress() as bar:
            bad = find_bad(pairs, lambda done, total: bar.track(done, total, description="looking at all videos"))
        listed = "\n".join(f"  {problem}" for problem in list(bad.values())[:SAMPLE_OF_BAD])
        more = f"\n  and {len(bad) - SAMPLE_OF_BAD} more" if len(bad) > SAMPLE_OF_BAD else ""
        return bad, f"{len(bad)} of {len(pairs)} pairs of {table} cannot be used:\n{listed}{more}"

    def run(self) -> TrainingResult:
        config = self.config
        torch.manual_seed(config.seed)
        model = VideoTextModel.load(config.model, config.init, config.head)
        if isinstance(model.head, SequenceTransformer) and config.frames > model.head.max_frames:
            raise InputValueError(
                f"a seqTransf head takes at most {model.head.max_frames} frames of a video, not {config.frames}"
            )
        untrained = config.init == "random"
        model.freeze_below((-1 if untrained else 0) if config.freeze_layers is None else config.freeze_layers)
        if config.recompute:
            model.recompute_activations()
        self.model = model.to(self.device)
        self.parallel: nn.Module = (
            DistributedDataParallel(model, [self.device] if self.device.type == "cuda" else None)
            if self.world > 1
            else model
        )
        self.optimizer = _optimizer(model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        batches = Batches(len(self.pairs), config.batch_size, config.seed, self.rank, self.world)
        self.steps_per_epoch, self.step, self.ended, self.best = len(batches), 0, 0, -math.inf
        self.total = config.epochs * self.steps_per_epoch
        if self.resume:
            self._restore()
        elif self.is_main:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / LOG).unlink(missing_ok=True)
        if self.is_main:
            remove_partial_files(self.out / name for name in (LAST, BEST, RESUME))
        dataset = VideoTextDataset(self.pairs, model.config, config.frames, config.max_words, config.seed)
        loader = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=min(os.cpu_count() or 1, 8) if config.workers is None else config.workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_signals,
        )
        with _Log(self.out, self.step, self.is_main) as log, _stop_requests() as stop, self._progress() as bar:
            task = bar.add_task("training", total=self.total, completed=self.step)
            evaluation = None
            while self.ended < config.epochs:
                batches.begin_at(self.ended, self.step - self.ended * self.steps_per_epoch)
                began = time.perf_counter()
                for batch in loader:
                    loss = self._train_step(batch)
                    self.step += 1
                    now = time.perf_counter()
                    rate, began = config.batch_size / (now - began), now
                    log.write(
                        self.step,
                        {
                            "loss": loss,
                            "lr": self.optimizer.param_groups[0]["lr"],
                            "logit_scale": self.model.logit_scale.exp().item(),
                            "videos_per_second": rate,
                        },
                    )
                    bar.update(
                        task,
                        completed=self.step,
                        description=f"epoch {self.ended + 1}/{config.epochs}  loss {loss:.4f}  {rate:.0f} videos/s",
                    )
                    if self._any(stop.is_set()):
                        self._save_state()
                        return TrainingResult(self.step, False, None)
                    if self.step % config.save_every == 0 and self.step % self.steps_per_epoch:
                        self._save_state()
                evaluation = self._end_epoch(log, bar, stop)
                if self.ended < config.epochs and self._any(stop.is_set()):
                    return TrainingResult(self.step, False, None)
        return TrainingResult(self.step, True, evaluation)

    def _train_step(self, batch: Batch) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest_lr"] * self._schedule()
        loss = _backward(self.parallel, batch, self.device, self.dtype, self.scaler, self.config.accumulate)
        if not math.isfinite(loss):
            raise TrainingError(f"the loss of step {self.step + 1} is {loss}: try a lower learning rate")
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.clamp_logit_scale()
        return loss

    def _schedule(self) -> float:
        """Part of the highest learning rate at this step: a linear rise, then half a cosine."""
        rising = self.config.warmup * self.total
        if self.step < rising:
            return (self.step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (self.step - rising) / (self.total - rising)))

    def _end_epoch(self, log: _Log, bar: Progress, stop: threading.Event) -> Evaluation | None:
        """Keeps the checkpoints and evaluates. A stop during the evaluation leaves all of it to a resumption."""
        evaluation, dtype = None, PRECISIONS[self.config.save_dtype]
        if self.is_main:
            save_checkpoint(self.model, self.out / LAST, dtype)
        if self.is_main and self.eval_pairs:
            self._save_state()  # a kill during the evaluation costs none of the steps before it
            with contextlib.suppress(_StoppedError):
                evaluation = self._evaluate(bar, stop)
        if self._any(self.is_main and bool(self.eval_pairs) and evaluation is None):  # the others wait here
            return None
        self.ended += 1
        if evaluation is not None and evaluation.text_to_video.recall_at_1 > self.best:
            self.best = evaluation.text_to_video.recall_at_1
            save_checkpoint(self.model, self.out / BEST, dtype)
        self._save_state()
        if evaluation is not None:
            self._tell(evaluation, log)
        if self.world > 1:
            torch.distributed.barrier()  # none ends before all is kept
        return evaluation

    def _evaluate(self, bar: Progress, stop: threading.Event) -> Evaluation:
        self.model.eval()
        evaluation = evaluate(
            self.eval_pairs,
            *encoders(self.model, self.device),
            sampling=FrameSampling(self.config.frames),
            track=_tracker(bar, stop),
        )
        self.model.train()
        return evaluation

    def _tell(self, evaluation: Evaluation, log: _Log) -> None:
        log.write(self.step, evaluation.to_dict())
        missed = f"; {len(evaluation.failed)} of {evaluation.videos} videos failed" if evaluation.failed else ""
        self.console.print(
            f"epoch {self.ended}: text→video R@1 {evaluation.text_to_video.recall_at_1:.1f} %, "
            f"video→text R@1 {evaluation.video_to_text.recall_at_1:.1f} %{missed}",
            highlight=False,
        )

    def _identity(self) -> dict[str, Any]:
        """What a run must have in common with the one it goes on with."""
        found = {name: value for name, value in dataclasses.asdict(self.config).items() if name not in _FREE}
        lines = "\n".join(f"{pair.video}\t{pair.sentence}" for pair in self.pairs)
        found["pairs"] = f"{len(self.pairs)} pairs, {hashlib.sha256(lines.encode()).hexdigest()[:16]}"
        return {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in found.items()}

    def _save_state(self) -> None:
        if not self.is_main:
            return
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        about = {
            "step": self.step,
            "ended": self.ended,
            "best": self.best,
            "scaler": self.scaler.state_dict(),
            "run": self._identity(),
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_tensors(tensors, self.state_file, {"clip4clip": json.dumps(about)})

    def _restore(self) -> None:
        try:
            with safe_open(self.state_file, framework="pt") as file:
                about = json.loads((file.metadata() or {})["clip4clip"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            was, run = about["run"], self._identity()
            if differs := [name for name in run if run[name] != was.get(name)]:
                raise TrainingError(
                    f"{self.out} holds another run, in which "
                    + "; ".join(f"{name} was {was.get(name)!r}, not {run[name]!r}" for name in differs)
                )
            self.model.load_state_dict(
                {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
            )
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                if name.startswith("optimizer."):
                    _, index, key = name.split(".")
                    state.setdefault(int(index), {})[key] = tensor
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})
            self.scaler.load_state_dict(about["scaler"])
            self.step, self.best = about["step"], about["best"]
            # States of earlier versions do not tell whether the epoch of their last step was ended: once more, then.
            self.ended = about.get("ended", (self.step - 1) // self.steps_per_epoch)
        except Clip4clipError:
            raise
        except Exception as error:
            # The file is of another version, or damaged: its parsers raise all kinds of errors.
            raise TrainingError(f"{self.state_file} cannot be resumed from: {error}") from error

    def _any(self, flag: bool) -> bool:
        """Whether any process was asked to stop: all of them have to stop after the same step."""
        if self.world == 1:
            return flag
        told = torch.tensor(float(flag), device=self.device)
        torch.distributed.all_reduce(told)
        return bool(told.item())

    def _progress(self) -> Progress:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
        return Progress(*columns, MofNCompleteColumn(), TimeRemainingColumn(), console=self.console, transient=True)


def _backward(
    model: nn.Module,
    batch: Batch,
    device: torch.device,
    dtype: torch.dtype,
    scaler: torch.amp.GradScaler,
    accumulate: int,
) -> float:
    """Adds the gradients of the loss of a whole batch, over all processes, and gives the loss.

    In several parts: first the vectors of all parts without their graphs, then the gradient of the loss by these
    vectors, then part by part the gradients of the parameters (Gao et al., Scaling Deep Contrastive Learning Batch
    Size under Memory Limited Setup, arXiv 2101.06983).
    """
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    batch = Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))
    if accumulate == 1:
        with autocast:
            vectors = model(*batch)
        loss = global_loss(*vectors)
        scaler.scale(loss).backward()
        return loss.item()
    parts = _split(batch, accumulate)
    with torch.no_grad(), autocast:
        found = [model(*part) for part in parts]
    text, video = (torch.cat(each).requires_grad_() for each in list(zip(*found, strict=True))[:2])
    scale = found[0][2].detach().requires_grad_()
    loss = global_loss(text, video, scale)
    scaler.scale(loss).backward()
    size = len(text) // accumulate
    for number, part in enumerate(parts):
        last = number == accumulate - 1
        # Processes exchange their gradients once, with the last part.
        waits = model.no_sync() if isinstance(model, DistributedDataParallel) and not last else contextlib.nullcontext()
        rows = slice(number * size, (number + 1) * size)
        with waits:
            with autocast:
                vectors = model(*part)
            torch.autograd.backward(vectors, [text.grad[rows], video.grad[rows], scale.grad / accumulate])  # type: ignore[index, operator]
    return loss.item()


def _split(batch: Batch, parts: int) -> list[Batch]:
    counts = batch.counts.chunk(parts)
    pixels = batch.pixels.split([int(part.sum()) for part in counts])
    return [Batch(*part) for part in zip(batch.ids.chunk(parts), pixels, counts, strict=True)]


def _optimizer(model: VideoTextModel, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW with one group for each learning rate, with and without decay: none of biases, norms and the scale."""
    new = set(model.head.parameters())
    groups = []
    for is_new, lr in ((False, config.lr), (True, config.new_lr)):
        for decays in (True, False):
            parameters = [
                parameter
                for parameter in model.parameters()
                if parameter.requires_grad and (parameter in new) == is_new and (parameter.ndim > 1) == decays
            ]
            if parameters:
                decay = config.weight_decay if decays else 0.0
                groups.append({"params": parameters, "lr": lr, "highest_lr": lr, "weight_decay": decay})
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)


def _precision(name: str | None, device: torch.device) -> torch.dtype:
    if name is None:
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    can = ["float32", "bfloat16"] if device.type == "cpu" else ["float32", "bfloat16", "float16"]
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        can.remove("bfloat16")
    if name not in can:
        raise InputValueError(f"the device {device} cannot train in {name}; it can in {', '.join(can)}")
    return PRECISIONS[name]


@contextlib.contextmanager
def _processes(device: str | None) -> Iterator[tuple[int, int, torch.device]]:
    """Rank, number of processes and device of this one: what torchrun says, or 0, 1 and the device asked for."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1, torch.device(resolve_device(device))
        return
    if device is None and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    place = torch.device(resolve_device(device or "cpu"))
    if place.type == "cuda":
        torch.cuda.set_device(place)
    # The longest that one process works while the others wait is an evaluation.
    torch.distributed.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timedelta(hours=12))
    try:
        yield torch.distributed.get_rank(), world, place
    finally:
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, the first time. A second Ctrl-C ends the process at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # where signals cannot be handled
        yield stop
        return

    def on_signal(number: int, _: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _StoppedError(Exception):
    """Raised within an evaluation when the run was asked to stop."""


def _tracker(bar: Progress, stop: threading.Event) -> Track:
    """Progress bars that go away when their work is done, and notice the request to stop."""

    def track(items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
        task = bar.add_task(what, total=total)
        try:
            for item in bar.track(items, total, task_id=task):
                if stop.is_set():
                    raise _StoppedError
                yield item
        finally:
            bar.remove_task(task)

    return track


def _leave_signals(_: int) -> None:
    """For processes that decode: a signal to the whole group is for the one that trains, and it still needs them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Log:
    """``log.jsonl``, one line for each step and each evaluation, and the same scalars for TensorBoard."""

    def __init__(self, folder: Path, step: int, is_main: bool) -> None:
        self._file, self._board = None, None
        if not is_main:
            return
        path = folder / LOG
        if path.exists():  # what came after the state that is resumed from comes again
            lines = [line for line in path.read_text("utf-8").splitlines() if _step_of(line) <= step]
            with atomic_write(path) as fresh:
                fresh.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        self._file = path.open("a", encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.info("no TensorBoard scalars: pip install 'towhee-clip4clip[train]'")
        else:
            self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._file, self._board):
            if file is not None:
                with contextlib.suppress(OSError):  # of what is written, which has been reported
                    file.close()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        if self._file is not None:
            print(json.dumps({"step": step, **values}), file=self._file, flush=True)
        if self._board is not None:
            for name, value in _flat(values):
                self._board.add_scalar(name, value, step)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # cut off by a kill


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield prefix + name, value
