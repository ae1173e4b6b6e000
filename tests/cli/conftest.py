"""Run the command line: in this process, or in one of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from clip4clip.cli import app, main


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run a command in this process; errors of the package are raised."""

    def run_app(*arguments: object, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    return run_app


@pytest.fixture
def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process as it is installed. Returns exit code, standard output and standard error."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setenv("COLUMNS", "200")

    def run_installed(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clip4clip", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return run_installed


@pytest.fixture
def error_of(run_main: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Run a command that fails with exit code 2 and a sentence. Returns its standard error."""

    def run_failing(*arguments: object) -> str:
        code, _, errors = run_main(*arguments)
        assert code == 2, errors
        assert re.search("^error ", errors, re.M), errors
        assert "Traceback" not in errors
        assert "\x1b" not in errors
        return errors

    return run_failing


@pytest.fixture
def run_without() -> Callable[..., list[tuple[list[str], str, str]]]:
    """Run commands in a process where some packages cannot be imported.

    Returns each command with its standard output and its standard error, which ends with a line ``exit CODE``.
    """
    program = """
import json, sys
blocked, commands = json.loads(sys.argv[1])
sys.modules |= dict.fromkeys(blocked)  # an import then fails, and none of them is found
from clip4clip.cli import main
for command in commands:
    sys.argv[1:] = command
    print("\\0", flush=True)
    print("\\0", file=sys.stderr, flush=True)
    try:
        main()
    except SystemExit as end:
        print("exit", end.code or 0, file=sys.stderr, flush=True)
"""

    def run_all(packages: list[str], commands: list[list[str]], folder: object) -> list[tuple[list[str], str, str]]:
        done = subprocess.run(
            [sys.executable, "-c", program, json.dumps([packages, commands])],
            capture_output=True,
            text=True,
            cwd=str(folder),
            env={**os.environ, "COLUMNS": "200"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed, errors = (text.split("\0\n")[1:] for text in (done.stdout, done.stderr))
        return list(zip(commands, printed, errors, strict=True))

    return run_all
