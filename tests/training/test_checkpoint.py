"""Checkpoints in half precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from clip4clip import TextEncoder
from clip4clip.training import VideoTextModel
from clip4clip.training.checkpoint import save_checkpoint
from clip4clip.weights.identity import find_checkpoint


def test_float16_checkpoints_are_half_as_large_and_load(mini_checkpoint: Path, tmp_path: Path) -> None:
    model = VideoTextModel.load(find_checkpoint(mini_checkpoint, "mini"))
    half, full = tmp_path / "half.safetensors", tmp_path / "full.safetensors"
    save_checkpoint(model, half, torch.float16)
    save_checkpoint(model, full)
    assert 0.49 < half.stat().st_size / full.stat().st_size < 0.52
    vectors = [TextEncoder.load("mini", path, "cpu")("a dog") for path in (half, full)]
    assert np.dot(*vectors) > 0.9999
