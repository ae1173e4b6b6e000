"""Log messages that must not be repeated."""

from __future__ import annotations

import functools
import logging

logger = logging.getLogger(__name__)


@functools.lru_cache(maxsize=1024)
def warn_once(message: str) -> None:
    """Log a warning. A message that was logged in this process before is not repeated."""
    logger.warning("%s", message)
