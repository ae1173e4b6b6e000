"""The Typer application: all commands, the options before a command, and the reporting of errors."""

from __future__ import annotations

import inspect
import io
import logging
import sys
import threading
from collections.abc import Callable
from typing import Annotated, NoReturn, cast

import typer
from rich.logging import RichHandler
from rich.markup import escape

from .. import __version__
from ..errors import Clip4clipError, printable
from .console import err, out
from .demo import demo
from .duplicates import duplicates
from .embed import embed, embed_text, embed_video
from .eval_moments import eval_moments
from .evaluate import evaluate
from .export import export
from .index import index
from .mcp import mcp
from .models import models
from .operators import install_operators
from .option_groups import expand_option_groups
from .progress import INTERRUPTED
from .search import search
from .serve import serve
from .synthetic import synthetic
from .tag import tag
from .train import train
from .videos import delete, info, list_videos, relocate

FAILED = 2  # exit code of a command that failed

# In the order of `clip4clip --help`.
COMMANDS: dict[str, Callable[..., None]] = {
    "embed-text": embed_text,
    "embed-video": embed_video,
    "embed": embed,
    "index": index,
    "search": search,
    "tag": tag,
    "serve": serve,
    "mcp": mcp,
    "list": list_videos,
    "info": info,
    "delete": delete,
    "relocate": relocate,
    "duplicates": duplicates,
    "models": models,
    "demo": demo,
    "install-operators": install_operators,
    "eval": evaluate,
    "eval-moments": eval_moments,
    "train": train,
    "export": export,
    "synthetic": synthetic,
}

# The extra of this distribution that installs each optional package.
EXTRAS = {
    **dict.fromkeys(("pyarrow", "lark", "psutil", "fastapi", "starlette", "uvicorn"), "retrieval"),
    "python_multipart": "retrieval",
    **dict.fromkeys(("pymilvus", "grpc"), "milvus"),
    **dict.fromkeys(("onnx", "onnxruntime"), "onnx"),
    "mcp": "mcp",
    "ray": "ray",
    "matplotlib": "plot",
    "tensorboard": "train",
}

# Base class of the errors that Typer raises for an invalid command line. Typer exports BadParameter, but not its base.
# Up to Typer 0.25 it belongs to the package click, since 0.26 to a private copy of click in Typer.
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__base__)


def help_text(command: Callable[..., None]) -> str:
    """Return the docstring of a command in a form that Typer wraps well.

    Each paragraph becomes one line, which Typer wraps to the width of the terminal. A paragraph with indented lines,
    such as the examples, keeps its lines.
    """
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(text if "\n " in text else text.replace("\n", " ") for text in paragraphs)


app = typer.Typer(
    help="Find videos by describing them. Text and video are embedded in one vector space (CLIP4Clip).",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _command in COMMANDS.items():
    app.command(_name, help=help_text(_command))(expand_option_groups(_command))


def _print_version(is_requested: bool) -> None:
    if is_requested:
        out.print(__version__, highlight=False)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def set_up(
    context: typer.Context,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also print which checkpoint and pooling head are used.")
    ] = False,
    version: Annotated[  # noqa: ARG001  its callback does the work
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Set up logging for the command that follows. Without a command, print the help and exit with code 2."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(FAILED)
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=err, show_path=False, show_time=False)],
    )


def main() -> None:
    """Run the command line. Errors of this package and of the system are printed as a sentence, with exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for a terminal that cannot show all characters
    threading.excepthook = _report_thread_error
    try:
        sys.exit(app(standalone_mode=False))
    except UsageError as error:
        hint = f". See: {error.ctx.command_path} --help" if error.ctx else ""
        _fail(error.format_message().rstrip(".") + hint)
    except typer.Abort:
        _fail("stopped", INTERRUPTED)
    except (Clip4clipError, OSError) as error:
        _fail(_message_of(error))
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        extra = f"[{EXTRAS[package]}]" if package in EXTRAS else ""
        _fail(f"{error}. This command needs it: pip install 'towhee-clip4clip{extra}'")


def _report_thread_error(failure: threading.ExceptHookArgs) -> None:
    """Print an OSError in a thread, such as TensorBoard's on a full disk, like one in the main thread."""
    if isinstance(failure.exc_value, OSError):
        _print_error(_message_of(failure.exc_value))
    else:
        threading.__excepthook__(failure)


def _message_of(error: Exception) -> str:
    """Return the message of an error. For an OSError: the file and what is wrong with it, without the error number."""
    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, str):
        return f"{printable(error.filename)}: {error.strerror}"
    return str(error)


def _print_error(message: str) -> None:
    err.print(f"[red]error[/] {escape(message)}", highlight=False, soft_wrap=True)


def _fail(message: str, code: int = FAILED) -> NoReturn:
    _print_error(message)
    sys.exit(code)
