"""The contrastive loss, compared with transformers and with results by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clip4clip.config import MODELS
from clip4clip.training import VideoTextModel, contrastive_loss
from clip4clip.weights.identity import find_checkpoint


def test_loss_is_that_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = MODELS["tiny"].config
    tower = {"num_hidden_layers": 2, "hidden_act": "quick_gelu"}
    text = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1, "eos_token_id": 49407, **tower}
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2, **tower}
    vision |= {"image_size": config.resolution, "patch_size": config.patch_size}
    theirs = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=config.embed_dim)
    ).eval()
    theirs.save_pretrained(tmp_path)
    ours = VideoTextModel.load(find_checkpoint(tmp_path, "tiny"))
    ids = torch.randint(1, 49000, (6, 9))
    ids[:, 0], ids[:, -1] = 49406, 49407
    pixels = torch.randn(6, 3, 32, 32)
    vectors = ours(ids, pixels, torch.ones(6, dtype=torch.int64))
    expected = theirs(input_ids=ids, pixel_values=pixels, return_loss=True).loss
    torch.testing.assert_close(contrastive_loss(*vectors), expected, atol=1e-5, rtol=0)


def test_loss_of_two_pairs_is_that_worked_out_by_hand() -> None:
    text, video = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    # Similarities: (0.6, 0) and (0.8, 1); rows are texts.
    rows = np.log(1 + np.exp(-0.6)) + np.log(1 + np.exp(-0.2))
    columns = np.log(1 + np.exp(0.2)) + np.log(1 + np.exp(-1.0))
    assert contrastive_loss(text, video, torch.tensor(1.0)).item() == pytest.approx((rows + columns) / 4, abs=1e-6)
