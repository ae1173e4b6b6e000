"""The logit scale of checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from constants import DEMO_MODEL
from safetensors.torch import load_file, save_file

from clip4clip.weights.identity import find_checkpoint
from clip4clip.weights.logit_scale import read_logit_scale


def test_the_demo_model_records_its_scale() -> None:
    assert read_logit_scale(find_checkpoint(None, DEMO_MODEL)) == pytest.approx(44, abs=1)


@pytest.mark.parametrize("value", [None, torch.tensor([1.0, 2.0]), torch.tensor(4), torch.tensor(float("nan"))])
def test_without_a_valid_scale_there_is_none(value: torch.Tensor | None, tmp_path: Path) -> None:
    tensors = load_file(find_checkpoint(None, DEMO_MODEL).path)
    del tensors["clip.logit_scale"]
    save_file(tensors if value is None else tensors | {"clip.logit_scale": value}, tmp_path / "a.safetensors")
    assert read_logit_scale(find_checkpoint(tmp_path / "a.safetensors", DEMO_MODEL)) is None
