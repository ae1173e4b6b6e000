"""The optimizer of the paper: AdamW with two learning rates, a linear warm-up and half a cosine."""

from __future__ import annotations

import math

import torch
from torch import nn

from .config import TrainingConfig
from .model import VideoTextModel


def build_optimizer(model: VideoTextModel, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters.

    CLIP's and the head's parameters have learning rates of their own. Biases, norms and the scale of the logits have no
    weight decay.
    """
    head = set(model.head.parameters())
    groups = []
    for is_head, lr in ((False, config.lr), (True, config.new_lr)):
        for is_matrix in (True, False):
            parameters = [
                parameter
                for parameter in model.parameters()
                if parameter.requires_grad and (parameter in head) == is_head and (parameter.ndim > 1) == is_matrix
            ]
            if parameters:
                decay = config.weight_decay if is_matrix else 0.0
                groups.append({"params": parameters, "lr": lr, "highest_lr": lr, "weight_decay": decay})
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)


def set_learning_rate(optimizer: torch.optim.Optimizer, fraction: float) -> None:
    """Set every learning rate to a fraction of its highest value."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest_lr"] * fraction


def learning_rate_fraction(step: int, steps: int, warmup: float) -> float:
    """Return the fraction of the highest learning rate in a step: a linear rise, then half a cosine.

    Args:
        step: number of the step, from 0.
        steps: number of all steps.
        warmup: fraction of the steps in which the rate rises.
    """
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def update_parameters(
    model: VideoTextModel, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, max_grad_norm: float
) -> None:
    """Make a step of the optimizer with the gradients of the parameters, and clear them."""
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    model.clamp_logit_scale()
