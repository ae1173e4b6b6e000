"""Run the command line with ``python -m clip4clip``."""

from .cli import main

main()
