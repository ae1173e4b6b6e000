"""The contrastive loss, of one process and over the batches of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(text: Tensor, video: Tensor, scale: Tensor) -> Tensor:
    """Return the symmetric cross-entropy over the similarities of a batch (arXiv 2104.08860, equations 8 to 10).

    Args:
        text: (B, D) unit vectors of the sentences.
        video: (B, D) unit vectors of the videos; row i belongs to sentence i.
        scale: factor of the similarities, a scalar.
    """
    logits = scale * text @ video.T
    targets = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def global_loss(text: Tensor, video: Tensor, scale: Tensor) -> Tensor:
    """Return :func:`contrastive_loss` over the batches of all processes together, the same number in each process.

    Gradients flow back to the process that computed a vector. DistributedDataParallel averages them over the processes,
    which gives the gradients of one process with the whole batch.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        gathered: Tensor = _GatherRows.apply(torch.stack([text, video], dim=1))
        text, video = gathered.unbind(dim=1)
    return contrastive_loss(text, video, scale)


class _GatherRows(torch.autograd.Function):
    """Concatenate the rows (B, …) of all processes. A row gets its gradients from the losses of all processes."""

    @staticmethod
    def forward(_: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(gradient)
        return gradient.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]
