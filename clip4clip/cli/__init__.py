"""The command line: ``clip4clip COMMAND``.

Commands have no logic of their own. They read options, call the package, and print the result.
:mod:`clip4clip.cli.app` lists all commands. Commands on one subject share a file.
"""

from .app import app as app
from .app import main as main

__all__ = ["app", "main"]
