"""The command line. It has no logic of its own: every command calls a function of the package."""

from .app import app as app
from .app import main as main

__all__ = ["app", "main"]
