"""The training loop: CLIP4Clip's protocol (arXiv 2104.08860, section 4.2), in one process or in many."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from torch.utils.data import DataLoader

from ..config import DEFAULT_MODEL
from ..errors import Clip4clipError, InputValueError, TrainingError
from ..evaluation.evaluate import Evaluation, evaluate
from ..evaluation.pairs import Pair
from ..files import check_folder_writable, remove_partial_files
from ..model import SequenceTransformer
from ..progress import Track
from ..video.sampling import FrameSampling
from ..weights.identity import find_checkpoint
from ..weights.metadata import Setting
from .check import read_evaluation_pairs, read_training_pairs
from .checkpoint import save_checkpoint
from .config import TrainingConfig
from .data import Batch, EpochBatchSampler, VideoTextDataset, collate
from .distributed import Process, join_processes
from .gradients import compute_gradients, resolve_precision
from .log import LOG, TrainingLog
from .model import VideoTextModel, encoders
from .optimizer import build_optimizer, learning_rate_fraction, set_learning_rate, update_parameters
from .signals import StoppedError, ignore_signals, stop_on_signals, track_until_stopped
from .state import STATE, TrainingState, describe_run

LAST, BEST = "last.safetensors", "best.safetensors"
MAX_WORKERS = 8  # processes that decode, unless the configuration asks for more


@dataclass
class TrainingResult:
    """How a run ended.

    Attributes:
        steps: number of steps made, including those before the run was resumed.
        finished: whether the run made all its steps. If not, it was stopped and can be resumed.
        evaluation: evaluation after the last epoch; None without one.
    """

    steps: int
    finished: bool
    evaluation: Evaluation | None


def train(
    config: TrainingConfig, resume: bool = False, progress: Callable[[], Progress] | None = None
) -> TrainingResult:
    """Train a model, evaluate it after every epoch, and keep the best and the last checkpoint.

    Under ``torchrun`` every process takes its share of each batch; the result is that of one process with the same
    batch. Ctrl-C and SIGTERM end the run after the current step and save its state. The same call with ``resume``
    continues from the last saved state, and ends with the weights of an uninterrupted run.

    Videos are decoded in processes. Where these are spawned (macOS, Windows), each imports the calling script again:
    call this function under ``if __name__ == "__main__":``, or with ``workers=0``.

    Args:
        config: settings of the run.
        resume: continue the run in ``config.out``.
        progress: function that makes the progress bars, for example the class :class:`rich.progress.Progress`. They are
            shown in the first process only; their console also prints a line after each evaluation. None shows nothing.

    Raises:
        PairsError: the table is malformed or, without ``skip_bad``, has pairs that cannot be used. This is found before
            the training starts.
        TrainingError: ``out`` contains another run, contains no run to resume, or cannot be written to, for example
            because the disk is full; or the loss is not finite.
        Clip4clipError: a name, a device or a checkpoint is invalid, as in :meth:`clip4clip.TextEncoder.load`.
    """
    with join_processes(config.device) as process:
        try:
            return _train(config, resume, process, progress if progress and process.is_first else _no_bars)
        except Clip4clipError:
            raise
        except OSError as error:
            raise TrainingError(
                f"training in {os.fspath(config.out)} stopped: {error}. When the folder is writable "
                "again, resume the run (--resume), or start it again if it has no saved state"
            ) from error


def _no_bars() -> Progress:
    return Progress(console=Console(quiet=True), disable=True)


def _train(config: TrainingConfig, resume: bool, process: Process, make_bars: Callable[[], Progress]) -> TrainingResult:
    if config.batch_size % (process.count * config.accumulate):
        raise InputValueError(
            f"batch_size {config.batch_size} cannot be shared by {process.count} processes in "
            f"{config.accumulate} parts; it must be a multiple of {process.count * config.accumulate}"
        )
    dtype = resolve_precision(config.precision, process.device)
    _check_output(Path(config.out), resume, process)
    with make_bars() as bars:
        track = track_until_stopped(bars, threading.Event())
        pairs = read_training_pairs(config, track, process.is_first)
        eval_pairs = read_evaluation_pairs(config, track, process.is_first)
    if len(pairs) < config.batch_size:
        raise TrainingError(
            f"{config.pairs} has {len(pairs)} usable pairs, fewer than one batch of {config.batch_size}: "
            "choose a smaller batch_size"
        )
    return _TrainingRun(config, pairs, eval_pairs, process, dtype).run(resume, make_bars)


def _check_output(out: Path, resume: bool, process: Process) -> None:
    state_file = out / STATE
    if resume and not state_file.is_file():
        raise TrainingError(f"{out} holds no run to resume: there is no {STATE}")
    if not resume and state_file.exists():
        raise TrainingError(f"{out} holds a run already: resume it, or choose another folder")
    if process.is_first:
        try:
            check_folder_writable(out)
        except OSError as error:
            raise TrainingError(f"{out} cannot be written to: {error.strerror}") from error


def _load_model(config: TrainingConfig) -> tuple[VideoTextModel, dict[str, Setting]]:
    """Return the model to train, and the settings of its checkpoints that depend on it."""
    settings: dict[str, Setting] = {}
    if config.init == "random":
        model = VideoTextModel.untrained(config.model or DEFAULT_MODEL, config.head)
        settings["init"] = "random"
    else:
        checkpoint = find_checkpoint(config.init, config.model)
        model = VideoTextModel.load(checkpoint, config.head)
        reference = None if config.init is None else os.fspath(config.init)
        # No path: checkpoints are published, and they should not tell the names of folders and users.
        is_public = reference is None or reference.startswith("hf://")
        settings |= {"init": reference if is_public else "a file", "init_fingerprint": checkpoint.fingerprint}
    if isinstance(model.head, SequenceTransformer) and config.frames > model.head.max_frames:
        raise InputValueError(
            f"a seqTransf head takes at most {model.head.max_frames} frames of a video, not {config.frames}"
        )
    frozen = config.freeze_layers
    if frozen is None:
        frozen = -1 if config.init == "random" else 0
    model.freeze_below(frozen)
    if config.recompute:
        model.recompute_activations()
    return model, settings | {"freeze_layers": frozen, "max_words": min(config.max_words, model.config.context_length)}


class _TrainingRun:
    """A run in this process, from its first to its last step."""

    def __init__(
        self,
        config: TrainingConfig,
        pairs: Sequence[Pair],
        eval_pairs: Sequence[Pair],
        process: Process,
        dtype: torch.dtype,
    ) -> None:
        self.config, self.eval_pairs, self.process, self.dtype = config, eval_pairs, process, dtype
        self.out = Path(config.out)
        self.description = describe_run(config, pairs)
        torch.manual_seed(config.seed)
        self.model, settings = _load_model(config)
        self.model.to(process.device)
        others = {name: value for name, value in self.description.items() if name not in ("model", "head")}
        self.settings = others | {"recipe": "clip4clip train", "precision": str(dtype).removeprefix("torch.")}
        self.settings |= settings
        self.parallel_model = process.parallelise(self.model)
        optimizer = build_optimizer(self.model, config)
        scaler = torch.amp.GradScaler(process.device.type, enabled=self.dtype == torch.float16)
        self.state = TrainingState(self.model, optimizer, scaler)
        self.sampler = EpochBatchSampler(len(pairs), config.batch_size, config.seed, process.rank, process.count)
        self.steps_per_epoch = len(self.sampler)
        self.steps = config.epochs * self.steps_per_epoch
        self.loader = DataLoader(
            VideoTextDataset(pairs, self.model.config, config.frames, config.max_words, config.seed),
            batch_sampler=self.sampler,
            collate_fn=collate,
            num_workers=min(os.cpu_count() or 1, MAX_WORKERS) if config.workers is None else config.workers,
            pin_memory=process.device.type == "cuda",
            worker_init_fn=ignore_signals,
        )

    def run(self, resume: bool, make_bars: Callable[[], Progress]) -> TrainingResult:
        """Make the remaining steps, until the last one or a signal."""
        self._prepare_output(resume)
        state, epochs = self.state, self.config.epochs
        evaluation = None
        with (
            TrainingLog(self.out, state.step, self.process.is_first) as log,
            stop_on_signals() as stop,
            make_bars() as bars,
        ):
            bar = bars.add_task("training", total=self.steps, completed=state.step)
            while state.epochs_ended < epochs:
                if not self._train_epoch(log, bars, bar, stop):
                    return TrainingResult(state.step, False, None)
                evaluation = self._end_epoch(log, bars, stop)
                if state.epochs_ended < epochs and self.process.any(stop.is_set()):
                    return TrainingResult(state.step, False, None)
        return TrainingResult(state.step, True, evaluation)

    def _prepare_output(self, resume: bool) -> None:
        """Load the state to resume from, or begin with an empty log."""
        if resume:
            self.state.load(self.out / STATE, self.description)
        elif self.process.is_first:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / LOG).unlink(missing_ok=True)
        if self.process.is_first:
            remove_partial_files(self.out / name for name in (LAST, BEST, STATE))

    def _train_epoch(self, log: TrainingLog, bars: Progress, bar: TaskID, stop: threading.Event) -> bool:
        """Make the remaining steps of the current epoch.

        Returns:
            False when the run was stopped; its state is saved then.
        """
        state, epoch = self.state, self.state.epochs_ended
        self.sampler.begin_at(epoch, state.step - epoch * self.steps_per_epoch)
        start = time.perf_counter()
        for batch in self.loader:
            loss = self._train_step(batch)
            state.step += 1
            end = time.perf_counter()
            speed, start = self.config.batch_size / (end - start), end
            values = {
                "loss": loss,
                "lr": state.optimizer.param_groups[0]["lr"],
                "logit_scale": self.model.logit_scale.exp().item(),
                "videos_per_second": speed,
            }
            log.write(state.step, values)
            description = f"epoch {epoch + 1}/{self.config.epochs}  loss {loss:.4f}  {speed:.0f} videos/s"
            bars.update(bar, completed=state.step, description=description)
            if self.process.any(stop.is_set()):
                self._save_state()
                return False
            if state.step % self.config.save_every == 0 and state.step % self.steps_per_epoch:
                self._save_state()
        return True

    def _train_step(self, batch: Batch) -> float:
        state, config = self.state, self.config
        set_learning_rate(state.optimizer, learning_rate_fraction(state.step, self.steps, config.warmup))
        loss = compute_gradients(self.parallel_model, batch, state.scaler, self.dtype, config.accumulate)
        if not math.isfinite(loss):
            raise TrainingError(f"the loss of step {state.step + 1} is {loss}: try a lower learning rate")
        update_parameters(self.model, state.optimizer, state.scaler, config.max_grad_norm)
        return loss

    def _end_epoch(self, log: TrainingLog, bars: Progress, stop: threading.Event) -> Evaluation | None:
        """Save the checkpoints and evaluate. A run that is stopped during the evaluation evaluates when resumed."""
        evaluates = self.process.is_first and bool(self.eval_pairs)
        dtype: torch.dtype = getattr(torch, self.config.save_dtype)
        evaluation = None
        progress: dict[str, Any] = {"step": self.state.step, "epoch": self.state.epochs_ended + 1}
        if self.process.is_first:
            save_checkpoint(self.model, self.out / LAST, dtype, self.settings, **progress)
        if evaluates:
            self._save_state()  # a kill during the evaluation then costs none of the steps before it
            with contextlib.suppress(StoppedError):
                evaluation = self._evaluate(track_until_stopped(bars, stop))
        if self.process.any(evaluates and evaluation is None):  # the other processes wait here
            return None
        self.state.epochs_ended += 1
        if evaluation is not None:
            progress["recall_at_1"] = recall = evaluation.text_to_video.recall_at_1
            names = [LAST, BEST] if recall > self.state.best_recall else [LAST]
            self.state.best_recall = max(recall, self.state.best_recall)
            for name in names:
                save_checkpoint(self.model, self.out / name, dtype, self.settings, **progress)
        self._save_state()
        if evaluation is not None:
            log.write(self.state.step, evaluation.to_dict())
            bars.console.print(f"epoch {self.state.epochs_ended}: {_summary(evaluation)}", highlight=False)
        self.process.wait_for_all()  # no process ends before all files are written
        return evaluation

    def _evaluate(self, track: Track) -> Evaluation:
        self.model.eval()
        evaluation = evaluate(
            self.eval_pairs,
            *encoders(self.model, self.process.device),
            sampling=FrameSampling(self.config.frames),
            track=track,
        )
        self.model.train()
        return evaluation

    def _save_state(self) -> None:
        if self.process.is_first:
            self.state.save(self.out / STATE, self.description)


def _summary(evaluation: Evaluation) -> str:
    failures = f"; {len(evaluation.failed)} of {evaluation.videos} videos failed" if evaluation.failed else ""
    return (
        f"text→video R@1 {evaluation.text_to_video.recall_at_1:.1f} %, "
        f"video→text R@1 {evaluation.video_to_text.recall_at_1:.1f} %{failures}"
    )
