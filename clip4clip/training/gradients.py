"""Compute the gradients of a batch, in one part or several, and in full or half precision."""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputValueError
from .data import Batch
from .loss import global_loss


def resolve_precision(name: str | None, device: torch.device) -> torch.dtype:
    """Return the dtype to compute in.

    Args:
        name: one of :data:`clip4clip.training.config.PRECISIONS`; None for the best one on the device.
        device: device to train on.

    Raises:
        InputValueError: the device cannot train in this precision.
    """
    if name is None:
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    supported = ["float32", "bfloat16"] if device.type == "cpu" else ["float32", "bfloat16", "float16"]
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        supported.remove("bfloat16")
    if name not in supported:
        raise InputValueError(f"the device {device} cannot train in {name}; it can in {', '.join(supported)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def compute_gradients(
    model: nn.Module, batch: Batch, scaler: torch.amp.GradScaler, dtype: torch.dtype = torch.float32, parts: int = 1
) -> float:
    """Add the gradients of a whole batch, over all processes, to the parameters.

    Args:
        model: a :class:`clip4clip.training.VideoTextModel`, perhaps wrapped by DistributedDataParallel.
        batch: this process's share of the batch, on any device.
        scaler: scales the loss, for float16.
        dtype: precision of autocast; float32 for none.
        parts: number of parts to compute the batch in. The gradients do not depend on it.

    Returns:
        The loss.
    """
    device = next(model.parameters()).device
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    batch = Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))
    if parts > 1:
        return _compute_in_parts(model, split_batch(batch, parts), scaler, autocast)
    with autocast:
        vectors = model(*batch)
    loss = global_loss(*vectors)
    scaler.scale(loss).backward()
    return loss.item()


def _compute_in_parts(
    model: nn.Module, parts: list[Batch], scaler: torch.amp.GradScaler, autocast: torch.autocast
) -> float:
    """Compute the gradients of a batch with the activations of one part in memory at a time.

    First compute the vectors of all parts without a graph, then the gradient of the loss with respect to these vectors,
    then the gradients of the parameters part by part (Gao et al., Scaling Deep Contrastive Learning Batch Size under
    Memory Limited Setup, arXiv 2101.06983).
    """
    with torch.no_grad(), autocast:
        vectors = [model(*part) for part in parts]
    text = torch.cat([each[0] for each in vectors]).requires_grad_()
    video = torch.cat([each[1] for each in vectors]).requires_grad_()
    scale = vectors[0][2].detach().requires_grad_()
    loss = global_loss(text, video, scale)
    scaler.scale(loss).backward()
    size = len(text) // len(parts)
    for number, part in enumerate(parts):
        rows = slice(number * size, (number + 1) * size)
        gradients = [text.grad[rows], video.grad[rows], scale.grad / len(parts)]  # type: ignore[index, operator]
        with _synchronised_if(model, number == len(parts) - 1):
            with autocast:
                part_vectors = model(*part)
            torch.autograd.backward(part_vectors, gradients)
    return loss.item()


def _synchronised_if(model: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[None]:
    """Let processes exchange their gradients once, with the last part of a batch."""
    if isinstance(model, DistributedDataParallel) and not is_last:
        return model.no_sync()
    return contextlib.nullcontext()


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch into parts with the same number of pairs."""
    counts = batch.counts.chunk(parts)
    pixels = batch.pixels.split([int(part.sum()) for part in counts])
    return [Batch(*part) for part in zip(batch.ids.chunk(parts), pixels, counts, strict=True)]
