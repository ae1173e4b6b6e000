"""Read the sentences of a command from its arguments, from files and from standard input."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import typer

PARAMETER = "TEXT"  # the name of the argument in error messages


def read_texts(arguments: list[str]) -> list[str]:
    """Return all sentences of the arguments.

    Args:
        arguments: sentences; ``@FILE`` and ``-`` are replaced by the lines of a file and of standard input. A sentence
            that begins with ``\\@`` or ``\\-`` loses the backslash.

    Raises:
        BadParameter: a file cannot be read, is empty or is not UTF-8, or a sentence is empty.
    """
    texts: list[str] = []
    for argument in arguments:
        if argument == "-" or argument.startswith("@"):
            texts += _read_lines(argument)
        else:
            texts.append(argument.removeprefix("\\") if argument.startswith(("\\@", "\\-")) else argument)
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise typer.BadParameter(f"text {number} of {len(texts)} is empty", param_hint=PARAMETER)
        if re.search("[\ud800-\udfff]", text):  # how Python passes bytes of the command line that are not UTF-8
            raise typer.BadParameter(f"text {number} of {len(texts)} is not UTF-8: {text}", param_hint=PARAMETER)
    return texts


def _read_lines(argument: str) -> list[str]:
    """Return the lines that ``@FILE`` or ``-`` stands for, without empty ones at the end."""
    name = "standard input" if argument == "-" else argument[1:]
    if not name:
        raise typer.BadParameter("expected the name of a file after @", param_hint=PARAMETER)
    try:
        content = sys.stdin.buffer.read() if argument == "-" else Path(name).read_bytes()
        # Universal newlines, and no others: str.splitlines would also split at U+2028.
        text = io.StringIO(content.decode("utf-8-sig"), newline=None).read().rstrip()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(
            f"{name} is not text in UTF-8; expected one sentence per line", param_hint=PARAMETER
        ) from error
    except OSError as error:
        hint = f"; for a sentence that begins with @ write \\{argument}" if argument != "-" else ""
        raise typer.BadParameter(f"{name} cannot be read: {error.strerror}{hint}", param_hint=PARAMETER) from error
    if not text:
        raise typer.BadParameter(f"{name} is empty; expected one sentence per line", param_hint=PARAMETER)
    return text.split("\n")
