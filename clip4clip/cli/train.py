"""The command ``train``: fine-tune a model on pairs of a video and a sentence."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .console import err, plain
from .options import MAX_FRAMES, DeviceOption, ModelOption, PairsOptions, parse_path
from .output import exit_if_videos_failed, print_evaluation
from .progress import INTERRUPTED, make_progress


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(PairsOptions):
    """The fields of :class:`clip4clip.training.TrainingConfig` under the same names and with the same defaults."""

    out: Annotated[
        Path,
        typer.Option(
            "--out",
            parser=parse_path,
            metavar="FOLDER",
            help="Folder for last.safetensors, log.jsonl, what --resume needs and, with --eval-pairs, "
            "best.safetensors.",
        ),
    ]
    eval_pairs: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="PAIRS",
            help="Table of pairs to evaluate on after every epoch; best.safetensors is the best checkpoint by text → "
            "video R@1.",
        ),
    ] = None
    eval_videos: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FOLDER",
            help="Folder of the videos of --eval-pairs. Default: the folder of --videos.",
        ),
    ] = None
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out pairs that cannot be used, instead of refusing to train.")
    ] = False
    model: ModelOption = None
    init: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|FOLDER|hf://…|random",
            help="Weights to start from; random for an untrained network. Default: the weights of the model.",
        ),
    ] = None
    head: Annotated[
        str | None,
        typer.Option(help="How to pool the frames: meanP, seqLSTM or seqTransf. Default: as in the weights of --init."),
    ] = None
    epochs: Annotated[int, typer.Option(min=1, help="Number of passes over all pairs.")] = 5
    batch_size: Annotated[int, typer.Option(min=1, help="Number of pairs in a step, over all processes.")] = 128
    accumulate: Annotated[
        int,
        typer.Option(
            min=1, help="Number of parts to compute each batch in. More parts give the same result with less memory."
        ),
    ] = 1
    lr: Annotated[float, typer.Option(help="Peak learning rate of the parameters of CLIP.")] = 1e-7
    new_lr: Annotated[float, typer.Option(help="Peak learning rate of the parameters of the head.")] = 1e-4
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW; applies to matrices only.")] = 0.2
    warmup: Annotated[
        float, typer.Option(help="Fraction (at least 0, below 1) of all steps in which the learning rate rises.")
    ] = 0.1
    max_grad_norm: Annotated[
        float, typer.Option(help="Largest norm of the gradient; a larger gradient is scaled down to it.")
    ] = 1.0
    freeze_layers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Do not train the embeddings and the first N layers of both towers; -1 trains everything. "
            "Default: 0, as in the paper, or -1 for --init random.",
        ),
    ] = None
    frames: Annotated[
        int,
        typer.Option(
            "--frames",
            "-n",
            min=1,
            max=MAX_FRAMES,
            help="Number of frames per video. Training divides a video into as many equal parts and draws a frame from "
            "each; evaluation takes evenly spaced frames.",
        ),
    ] = 12
    max_words: Annotated[
        int, typer.Option(help="Maximum number of token ids per sentence, start and end marks included.")
    ] = 32
    seed: Annotated[
        int, typer.Option(min=0, help="Seed for the initial weights, the order of the pairs and the choice of frames.")
    ] = 42
    device: DeviceOption = None
    precision: Annotated[
        str | None,
        typer.Option(
            help="Number format to compute in: float32, bfloat16 or float16. Default: bfloat16 on a GPU that supports "
            "it, else float32."
        ),
    ] = None
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Use gradient checkpointing: less memory, a third more computation.")
    ] = False
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of processes that decode; 0 decodes in the training process. Default: one for each CPU core, "
            "at most 8.",
        ),
    ] = None
    save_every: Annotated[
        int, typer.Option(min=1, metavar="STEPS", help="Number of steps between two saved states.")
    ] = 100
    save_dtype: Annotated[str, typer.Option(help="Number format of the checkpoints: float32 or float16.")] = "float32"


def train(
    options: TrainingOptions,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in the folder of --out.")] = False,
) -> None:
    r"""Fine-tune on pairs of a video and a sentence, as in the CLIP4Clip paper.

    All videos are checked first. A bad training pair stops the command, unless
    --skip-bad is set. A bad video of --eval-pairs counts as a miss and is listed
    at the end, and the exit code is then 1.

    Ctrl-C saves the state after the current step. The same command with
    --resume continues from it.

    Examples:
        clip4clip train MSRVTT_train.9k.csv --videos MSRVTT/videos/all \
            --out run --eval-pairs MSRVTT_JSFUSION_test.csv

    On the 8 GPUs of a machine:
        torchrun --nproc-per-node 8 -m clip4clip train …
    """
    from ..training import TrainingConfig
    from ..training import train as run_training

    result = run_training(TrainingConfig(**vars(options)), resume, make_progress)
    is_main_process = os.environ.get("RANK", "0") == "0"  # torchrun starts this command once for each process
    if not result.finished:
        if is_main_process:
            err.print(
                f"stopped after step {result.steps}; run the same command with --resume to continue", highlight=False
            )
        raise typer.Exit(INTERRUPTED)
    if is_main_process:
        checkpoint = plain(options.out / "last.safetensors")
        err.print(f"wrote {checkpoint} after {result.steps} steps", highlight=False, soft_wrap=True)
    if result.evaluation is not None:
        print_evaluation(result.evaluation)
        exit_if_videos_failed(result.evaluation)
