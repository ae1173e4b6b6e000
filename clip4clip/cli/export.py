"""The command ``export``: write a checkpoint in the format of another library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..export import Dtype, Library
from .console import err, out, plain
from .options import complete_model, parse_path
from .output import print_summary
from .progress import progress_bars


def export(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|FOLDER|hf://…", help="The checkpoint. Default: the weights of --model.", show_default=False
        ),
    ] = None,
    *,
    to: Annotated[Library, typer.Option("--to", help="The library that is to load the folder.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", parser=parse_path, metavar="FOLDER", help="Folder to write."),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete_model,
            help="Name of the model; `clip4clip models` lists them. Default: the network in the checkpoint.",
        ),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Number format of the weights.")] = Dtype.float32,
    drop_head: Annotated[
        bool,
        typer.Option(
            "--drop-head",
            help="Export a checkpoint with a seqLSTM or seqTransf head without that head, which no other library has.",
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace the files of an earlier export in the folder, its README.md included."),
    ] = False,
) -> None:
    """Write a checkpoint as a folder that transformers or open_clip loads.

    The folder has the weights of both towers, the configuration, the
    preprocessing and the tokenizer, and a short model card. The other library
    then returns the same vectors for texts and frames.

    Examples:
        clip4clip export run/best.safetensors --to transformers -o my_clip
        clip4clip export --model clip_vit_tiny_demo --to open_clip -o demo_clip
    """
    if checkpoint is None and model is None:
        raise typer.BadParameter("name a checkpoint, or a model with --model", param_hint="FILE|FOLDER|hf://…")
    from ..export import export_checkpoint

    with progress_bars() as progress:
        exported = export_checkpoint(
            checkpoint,
            to.value,
            output,
            model_name=model,
            dtype=dtype.value,
            drop_head=drop_head,
            force=force,
            track=progress.track,
        )
    for note in exported.notes:
        print_summary(f"note: {note}")
    source = exported.checkpoint
    err.print(
        f"wrote {plain(source.model_name)}, {dtype.value}, as {len(exported.files)} files in {plain(output)}. "
        "Load it with:",
        highlight=False,
        soft_wrap=True,
    )
    out.print(exported.code.rstrip("\n"), highlight=False, soft_wrap=True, markup=False)
