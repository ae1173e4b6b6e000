"""The processes of a run: one, or as many as torchrun starts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..runtime.placement import resolve_device

TIMEOUT = timedelta(hours=12)  # the other processes wait while the first one evaluates


@dataclass(frozen=True)
class Process:
    """This process among all processes of the run.

    Attributes:
        rank: number of this process, from 0.
        count: number of all processes.
        device: device that this process trains on.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files, evaluates and prints."""
        return self.rank == 0

    def parallelise(self, model: nn.Module) -> nn.Module:
        """Wrap a model so that all processes average its gradients. If there is only one process, return the model."""
        if self.count == 1:
            return model
        return DistributedDataParallel(model, [self.device] if self.device.type == "cuda" else None)

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is true in any process. All processes must call this together."""
        if self.count == 1:
            return flag
        total = torch.tensor(float(flag), device=self.device)
        torch.distributed.all_reduce(total)
        return bool(total.item())

    def wait_for_all(self) -> None:
        """Wait until every process has called this."""
        if self.count > 1:
            torch.distributed.barrier()


@contextlib.contextmanager
def join_processes(device: str | None) -> Iterator[Process]:
    """Join the process group that torchrun describes in the environment; without torchrun, run as one process.

    Args:
        device: requested device; None for this process's own GPU, or the best device without torchrun.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Process(0, 1, torch.device(resolve_device(device)))
        return
    if device is None and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    own_device = torch.device(resolve_device(device or "cpu"))
    if own_device.type == "cuda":
        torch.cuda.set_device(own_device)
    torch.distributed.init_process_group("nccl" if own_device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Process(torch.distributed.get_rank(), count, own_device)
    finally:
        torch.distributed.destroy_process_group()
