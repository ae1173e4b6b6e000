"""Print and write the results of commands: tables, JSON, CSV, files and failures."""

from __future__ import annotations

import csv
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.table import Table

from ..errors import printable
from ..files import atomic_write, check_writable, is_regular
from .console import err, out, plain

if TYPE_CHECKING:
    import numpy as np

    from ..evaluation.evaluate import Evaluation
    from ..evaluation.moments import MomentEvaluation
    from .options import VectorOutputOptions


def check_output(output: Path | None, ending: str | None, option: str = "--output") -> None:
    """Check, before the work begins, that its result can be written.

    Args:
        output: file to write; None for none.
        ending: ending that the name of a regular file must have; None for any.
        option: option that names the file, for the message.

    Raises:
        BadParameter: the file cannot be written, or its name has another ending.
    """
    if output is None:
        return
    problem = None
    if output.is_dir():
        problem = f"{output} is a folder; expected the name of a file"
    elif not output.parent.is_dir():
        problem = f"the folder {output.parent} does not exist"
    elif ending and is_regular(output) and output.suffix.lower() != ending:
        if output.name.lower() == ending:
            problem = f"{output} is only an ending; expected a name in front of it, such as vectors{ending}"
        else:
            problem = f"{output} would be written as {ending}, so its name must end in {ending}"
    else:
        try:
            check_writable(output)
        except OSError as error:
            problem = f"{output} cannot be written: {error.strerror}"
    if problem:
        raise typer.BadParameter(problem, param_hint=option)


def write_output(output: Path, write: Callable[[Path], object]) -> None:
    """Write a file. If that fails, write it to a temporary folder, as the result may have taken hours.

    Args:
        output: file to write.
        write: function that writes the content to a path.

    Raises:
        OSError: ``output`` cannot be written. The message names the file in the temporary folder.
    """
    try:
        with atomic_write(output) as temporary:
            write(temporary)
    except OSError as error:
        rescued = Path(tempfile.mkdtemp(prefix="clip4clip-"), output.name)
        write(rescued)
        raise OSError(f"{output} cannot be written: {error.strerror or error}. The result is in {rescued}") from error


def check_figures_output(output: Path | None) -> None:
    """Check, before the work begins, that figures can be written where ``--json`` says. Raises BadParameter."""
    check_output(None if str(output) == "-" else output, ".json", "--json")


def output_figures(figures: dict[str, Any], print_table: Callable[[], object], output: Path | None) -> None:
    """Print figures, and write them to a file as well.

    Args:
        figures: all figures, ready for JSON.
        print_table: function that prints them as a table.
        output: JSON file to write; None for none, ``-`` to print JSON instead of the table.
    """
    if str(output) == "-":
        print_json(figures)
        return
    print_table()
    if output is not None:
        text = json.dumps(figures, indent=2) + "\n"
        write_output(output, lambda path: path.write_text(text, "utf-8"))


def output_vectors(kind: str, names: list[str], vectors: np.ndarray, options: VectorOutputOptions) -> None:
    """Write vectors to a file, print them as JSON, or print the first numbers of each as a table.

    Args:
        kind: what the names are, ``'text'`` or ``'path'``. It is the key in JSON; its plural is the array in the file.
        names: names of the n vectors.
        vectors: (n, D) float32.
        options: which of the three to do. A file and JSON can be combined.
    """
    if options.output is not None:
        _write_vectors(kind, names, vectors, options.output)
    if options.as_json:
        for name, vector in zip(names, vectors, strict=True):
            print_json({kind: name, "vector": vector.tolist()})
    elif options.output is None:
        table = Table(kind, f"vector (first 4 of {vectors.shape[1]})", "norm")
        for name, vector in zip(names, vectors, strict=True):
            first = "  ".join(f"{value:+.4f}" for value in vector[:4])
            table.add_row(plain(name), first, f"{float((vector**2).sum() ** 0.5):.6f}")
        out.print(table)


def _write_vectors(kind: str, names: list[str], vectors: np.ndarray, output: Path) -> None:
    import numpy as np

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **{"vectors": vectors, f"{kind}s": np.array(names)})  # type: ignore[arg-type]

    write_output(output, write)
    err.print(f"wrote {len(names)} vector{'s' * (len(names) != 1)} to {plain(output)}", highlight=False, soft_wrap=True)


def print_json(value: dict[str, Any]) -> None:
    """Print one line of JSON, in ASCII if it has control characters or characters that the terminal cannot show."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
        is_safe = printable(text) == text
    except UnicodeEncodeError:
        is_safe = False
    print(text if is_safe else json.dumps(value))


def print_csv(rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> None:
    """Print rows as CSV with a header. A terminal gets control characters as escapes, a file or pipe as they are.

    Args:
        rows: each with its values by column. None becomes an empty field; a list or an object becomes JSON.
        columns: the first columns. The others follow in the order in which the rows name them.
    """
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        is_nested = {name: isinstance(value, list | tuple | dict) for name, value in row.items()}
        writer.writerow(
            {name: json.dumps(value, ensure_ascii=False) if is_nested[name] else value for name, value in row.items()}
        )
    print(printable(text.getvalue(), keep="\n\t") if sys.stdout.isatty() else text.getvalue(), end="")


def print_summary(text: str) -> None:
    """Print what a command has done on standard error."""
    err.print(text, highlight=False, markup=False, soft_wrap=True)


def list_failures(failures: Mapping[str, str], label: str = "failed") -> None:
    """Print the message of each failure on standard error.

    Args:
        failures: error message of each failed video or folder, by its name.
        label: word in front of each message.
    """
    for message in failures.values():
        err.print(f"[red]{label}[/] {escape(message)}", highlight=False, soft_wrap=True)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the metrics of an evaluation as a table."""
    table = Table(
        "", "R@1", "R@5", "R@10", "MdR", "MnR", title=f"{evaluation.pairs} sentences, {evaluation.videos} videos"
    )
    for name, metrics in (("text → video", evaluation.text_to_video), ("video → text", evaluation.video_to_text)):
        recalls = metrics.recall_at_1, metrics.recall_at_5, metrics.recall_at_10
        table.add_row(name, *(f"{value:.1f}" for value in (*recalls, metrics.median_rank, metrics.mean_rank)))
    out.print(table)


def exit_if_videos_failed(evaluation: Evaluation | MomentEvaluation) -> None:
    """List the videos that an evaluation could not decode. If there are any, end the command with exit code 1."""
    list_failures(evaluation.failed, "missed")
    if evaluation.failed:
        print_summary(f"{len(evaluation.failed)} of {evaluation.videos} videos failed and count as misses")
        raise typer.Exit(1)
