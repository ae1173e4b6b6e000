"""Log messages that must not be repeated."""

from __future__ import annotations

import functools
import logging


@functools.lru_cache(maxsize=1024)
def warn_once(logger: logging.Logger, message: str) -> None:
    """Log a warning. A message that was logged in this process before is not repeated."""
    logger.warning("%s", message)
