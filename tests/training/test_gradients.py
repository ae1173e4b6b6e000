"""Gradients of a batch, in parts and with recomputed activations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clip4clip import InputValueError
from clip4clip.training import VideoTextModel
from clip4clip.training.data import Batch
from clip4clip.training.gradients import compute_gradients, resolve_precision
from clip4clip.weights.identity import find_checkpoint


def loss_and_gradients(model: VideoTextModel, batch: Batch, parts: int = 1) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = compute_gradients(model, batch, torch.amp.GradScaler("cpu", enabled=False), parts=parts)
    return loss, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]


@pytest.mark.parametrize("head", ["meanP", "seqLSTM", "seqTransf"])
def test_a_batch_in_parts_has_the_gradients_of_the_whole_batch(mini_checkpoint: Path, batch: Batch, head: str) -> None:
    model = VideoTextModel.load(find_checkpoint(mini_checkpoint, "mini"), head)
    loss, expected = loss_and_gradients(model, batch)
    for parts in (2, 4):
        loss_in_parts, gradients = loss_and_gradients(model, batch, parts)
        assert loss_in_parts == pytest.approx(loss, abs=1e-6)
        for name, gradient in expected.items():
            torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-4)


def test_recomputed_activations_give_the_same_gradients(mini_checkpoint: Path, batch: Batch) -> None:
    model = VideoTextModel.load(find_checkpoint(mini_checkpoint, "mini"))
    loss, expected = loss_and_gradients(model, batch)
    model.recompute_activations()
    loss_recomputed, gradients = loss_and_gradients(model, batch)
    assert loss_recomputed == pytest.approx(loss, abs=1e-7)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient)


def test_a_cpu_cannot_train_in_float16() -> None:
    assert resolve_precision(None, torch.device("cpu")) is torch.float32
    assert resolve_precision("bfloat16", torch.device("cpu")) is torch.bfloat16
    with pytest.raises(InputValueError, match="cpu cannot train in float16; it can in float32, bfloat16"):
        resolve_precision("float16", torch.device("cpu"))
