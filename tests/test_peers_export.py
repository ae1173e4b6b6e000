"""Exported folders, loaded by open_clip. It needs torchvision, so these tests run with the extra ``peers``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fine_tuned import CAPTIONS, FRAMES, NETWORKS, PERCEPTION_ENCODER, TIMM_NAME, TIMM_SIZES, fine_tune
from PIL import Image

from clip4clip import TextEncoder, VideoEncoder
from clip4clip.config import CLIPConfig
from clip4clip.export import export_checkpoint
from clip4clip.preprocess import pixel_values
from clip4clip.tokenizer import default_tokenizer
from clip4clip.weights.open_clip_configuration import PERCEPTION_ENCODERS

open_clip = pytest.importorskip("open_clip")
pytest.importorskip("torchvision")


@pytest.fixture(scope="module", autouse=True)
def small_perception_encoder() -> Iterator[None]:
    """A network of timm like those of the Perception Encoder, but small."""
    from timm.models import register_model
    from timm.models.eva import vit_pe_core_tiny_patch16_384

    def vit_pe_core_toy_patch8_32(pretrained: bool = False, **arguments: Any) -> Any:
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 8}
        return vit_pe_core_tiny_patch16_384(pretrained, **sizes, ref_feat_shape=(4, 4), **arguments)

    vit_pe_core_toy_patch8_32.__module__ = "timm.models.eva"
    register_model(vit_pe_core_toy_patch8_32)
    PERCEPTION_ENCODERS[TIMM_NAME] = TIMM_SIZES
    yield
    del PERCEPTION_ENCODERS[TIMM_NAME]


# The smallest network of timm: its vision tower in its real size, beside a small text tower.
TINY_PERCEPTION_ENCODER = replace(
    PERCEPTION_ENCODER, resolution=384, patch_size=16, vision_width=192, vision_layers=12, vision_head_width=64,
    vision_mlp_width=768,
)  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [*NETWORKS.values(), pytest.param(TINY_PERCEPTION_ENCODER, marks=pytest.mark.slow)],
    ids=[*NETWORKS, "tiny perception"],
)
def test_open_clip_computes_the_same_vectors(config: CLIPConfig, random_state: Callable, tmp_path: Path) -> None:
    path = fine_tune(config, tmp_path / "tuned.safetensors", random_state)
    exported = export_checkpoint(path, "open_clip", tmp_path / "out")
    loaded: dict[str, Any] = {}
    exec(exported.code, loaded)  # open_clip loads strictly: no tensor is missing or left over
    model, preprocess, tokenizer = loaded["model"].eval(), loaded["preprocess"], loaded["tokenizer"]

    ids = default_tokenizer(config.vocab_size)(CAPTIONS, config.context_length)
    theirs = tokenizer(CAPTIONS)
    for row, other, end in zip(ids.tolist(), theirs.tolist(), ids.argmax(-1), strict=True):
        assert other[: end + 1] == row[: end + 1]
    pixels = torch.stack([preprocess(Image.fromarray(frame)) for frame in FRAMES])
    ours = pixel_values(FRAMES, config.resolution, config.image)
    np.testing.assert_allclose(pixels.numpy(), ours, atol=1e-6)

    with torch.inference_mode():
        texts, frames = model.encode_text(theirs), model.encode_image(pixels)
    encoders = (
        TextEncoder.load(weights=path, device="cpu", runtime="torch")(CAPTIONS),
        VideoEncoder.load(weights=path, device="cpu", runtime="torch")([[frame] for frame in FRAMES]),
    )
    for vectors, reference in zip(encoders, (texts, frames), strict=True):
        expected = F.normalize(reference, dim=-1).numpy()
        assert (vectors * expected).sum(-1).min() >= 0.99999
        assert np.abs(vectors - expected).max() <= 1e-4
    assert model.logit_scale.item() == pytest.approx(1.0, abs=0.2)
