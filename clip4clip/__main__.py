"""``python -m clip4clip`` is the command line."""

from .cli import main

main()
