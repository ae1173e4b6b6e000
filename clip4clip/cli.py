"""The command line. Every command hands over to a function of the package."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from . import __version__
from .errors import Clip4clipError

if TYPE_CHECKING:
    import numpy as np

app = typer.Typer(
    help="Find videos by a sentence: text and video to vectors in one space (CLIP4Clip).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out, err = Console(), Console(stderr=True)

ModelOption = Annotated[str, typer.Option("--model", "-m", help="clip_vit_b32 or clip_vit_b16.")]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="FILE|FOLDER|hf://OWNER/REPO[@REV][/FILE]",
        help="Checkpoint. Without it: pytorch_model.bin.1 beside the operator, or else the default on the hub.",
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", "-d", help="cpu, cuda:1, mps, … Without it: the best there is.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE.npz", help="Write vectors (float32, n×512) and names here, instead of printing."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, with the whole vector.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also say which weights, head and tensors are used.")
    ] = False,
    version: Annotated[  # noqa: ARG001  its callback does the work
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=err, show_path=False, show_time=False)],
    )


@app.command()
def embed_text(
    texts: Annotated[list[str], typer.Argument(metavar='"TEXT"…', help="Sentences, each in quotes.")],
    model: ModelOption = "clip_vit_b32",
    weights: WeightsOption = None,
    device: DeviceOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn sentences into vectors.

    Example: clip4clip embed-text "kids feeding and playing with the horse" -o query.npz
    """
    _check_output(output)
    from .encoder import TextEncoder

    with err.status(f"loading {model}"):
        encoder = TextEncoder.load(model, weights, device)
    _give("text", texts, encoder(texts), output, as_json)


@app.command()
def embed_video(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Video files or http(s) URLs.")],
    frames: Annotated[
        int, typer.Option("--frames", "-n", min=1, help="Frames to take from each video, spread evenly.")
    ] = 12,
    model: ModelOption = "clip_vit_b32",
    weights: WeightsOption = None,
    device: DeviceOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn videos into vectors, one for each.

    A file that cannot be read is reported at the end and the others go on; the exit code is then 1.
    Ctrl-C keeps what is done.

    Example: clip4clip embed-video holiday.mp4 party.mov -o videos.npz
    """
    _check_output(output)
    import numpy as np

    from .encoder import VideoEncoder
    from .video import read_frames

    with err.status(f"loading {model}"):
        encoder = VideoEncoder.load(model, weights, device)
    vectors: dict[str, np.ndarray] = {}
    failed: dict[str, str] = {}
    with _progress() as progress, _interruptible() as stopped:
        task = progress.add_task("embedding", total=len(files))
        for file in files:
            progress.update(task, description=Path(file).name)
            try:
                vectors[file] = encoder(read_frames(file, frames))
            except Clip4clipError as error:
                failed[file] = str(error)
            progress.advance(task)
            if stopped.is_set():
                break
    if vectors:
        _give("path", list(vectors), np.stack(list(vectors.values())), output, as_json)
    for message in failed.values():
        err.print(f"[red]failed[/] {_plain(message)}", highlight=False)
    if stopped.is_set():
        err.print(f"stopped: {len(vectors)} of {len(files)} videos are done", highlight=False)
        raise typer.Exit(130)
    if failed:
        err.print(f"{len(failed)} of {len(files)} videos failed", highlight=False)
        raise typer.Exit(1)


@app.command()
def install_operators(
    towhee_home: Annotated[
        Path | None,
        typer.Option("--towhee-home", metavar="FOLDER", help="Without it: $TOWHEE_HOME, or else ~/.towhee."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an operator that this command did not place.")
    ] = False,
) -> None:
    """Place both operators where Towhee looks first, so that its pipelines find them offline.

    These are ops.video_text_embedding.clip4clip and ops.video_decode.ffmpeg.
    """
    from .install import install_operators as install

    for path in install(towhee_home, force):
        out.print(f"placed {path}", highlight=False, soft_wrap=True, markup=False)


def main() -> None:
    """Runs the command line; an error of the package becomes one sentence and the exit code 2."""
    try:
        app()
    except Clip4clipError as error:
        err.print(f"[red]error[/] {_plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)


def _give(kind: str, names: list[str], vectors: np.ndarray, output: Path | None, as_json: bool) -> None:
    if output is not None:
        import numpy as np

        fresh = output.with_name(f".{output.name}.{os.getpid()}")
        try:
            with fresh.open("wb") as file:
                np.savez(file, **{"vectors": vectors, f"{kind}s": np.array(names)})  # type: ignore[arg-type]
            fresh.replace(output)
        finally:
            fresh.unlink(missing_ok=True)
        err.print(f"wrote {len(names)} vectors to {output}", highlight=False, markup=False)
    if as_json:
        for name, vector in zip(names, vectors, strict=True):
            print(json.dumps({kind: name, "vector": vector.tolist()}, ensure_ascii=False))
    elif output is None:
        table = Table(kind, f"vector (first 4 of {vectors.shape[1]})", "norm")
        for name, vector in zip(names, vectors, strict=True):
            first = "  ".join(f"{value:+.4f}" for value in vector[:4])
            table.add_row(_plain(name), first, f"{float((vector**2).sum() ** 0.5):.6f}")
        out.print(table)


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    return Progress(*columns, MofNCompleteColumn(), TimeRemainingColumn(), console=err, transient=True)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C ends the block and sets the event.

    The event has to be asked now and then: an exception from a signal is lost where it strikes in a callback from C.
    """
    stopped = threading.Event()

    def stop(*_: object) -> None:
        stopped.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    except KeyboardInterrupt:
        stopped.set()
    finally:
        signal.signal(signal.SIGINT, before)


def _check_output(output: Path | None) -> None:
    """Before the work, not after it."""
    if output is not None and not output.parent.is_dir():
        raise typer.BadParameter(f"the folder {output.parent} does not exist", param_hint="--output")


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
