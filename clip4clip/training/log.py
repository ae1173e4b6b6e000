"""The log of a run: ``log.jsonl``, and the same numbers for TensorBoard."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import atomic_write

logger = logging.getLogger(__name__)

LOG = "log.jsonl"


class TrainingLog:
    """Write one line of ``log.jsonl`` for each step and each evaluation, and the same numbers for TensorBoard.

    Args:
        folder: output folder of the run.
        step: last step of the state that the run resumes from, 0 for a new run. Later lines are removed, because the
            run makes these steps again.
        enabled: whether to write at all; False for all processes but the first.
    """

    def __init__(self, folder: Path, step: int, enabled: bool) -> None:
        self._file, self._tensorboard = None, None
        if not enabled:
            return
        path = folder / LOG
        if path.exists():
            _remove_lines_after(path, step)
        self._file = path.open("a", encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.info("no TensorBoard scalars: pip install 'towhee-clip4clip[train]'")
            return
        try:
            self._tensorboard = SummaryWriter(folder / "tensorboard", purge_step=step + 1)
        except BaseException:  # a full disk
            self._file.close()
            raise

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._file, self._tensorboard):
            if file is not None:
                # A full disk was reported by the write that failed; closing fails once more.
                with contextlib.suppress(OSError):
                    file.close()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append the values of a step, which may be nested."""
        if self._file is not None:
            print(json.dumps({"step": step, **values}), file=self._file, flush=True)
        if self._tensorboard is not None:
            for name, value in _scalars(values):
                self._tensorboard.add_scalar(name, value, step)


def _remove_lines_after(path: Path, step: int) -> None:
    lines = [line for line in path.read_text("utf-8").splitlines() if _step_of(line) <= step]
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _step_of(line: str) -> float:
    """Return the step of a log line; infinity for a line that is incomplete because the process was killed."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _scalars(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested values with their paths, such as ``text_to_video/recall_at_1``."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield prefix + name, value
