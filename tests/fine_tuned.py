"""Small networks of every kind, fine-tuned by one step and saved as a training run saves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from clip4clip.config import CLIPConfig, ImageConfig
from clip4clip.training import VideoTextModel, contrastive_loss
from clip4clip.training.checkpoint import save_checkpoint
from clip4clip.weights.state_dict import tower_state

CAPTIONS = ["a dog", "kids feeding and playing with the horse", "dog " * 100, "ein Hund läuft 😀 über 12 Straßen"]
# The heights and widths of frames that all libraries crop alike: their halves are rounded in different ways.
FRAMES = [
    np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for height, width in ((32, 32), (64, 48), (48, 96), (200, 100))
]

_SIZES = {"embed_dim": 64, "resolution": 32, "patch_size": 16, "vision_width": 128, "vision_layers": 2}
_SIZES |= {"text_width": 64, "text_layers": 2}
OPENAI = CLIPConfig(**_SIZES)
PART_OF_VOCABULARY = CLIPConfig(**_SIZES, vocab_size=1024, context_length=48)
UNUSUAL = CLIPConfig(
    **_SIZES | {"embed_dim": 40},
    vision_head_width=16,
    text_head_width=32,
    vision_mlp_width=200,
    text_mlp_width=75,
    activation="gelu",
    norm_eps=0.01,
    image=ImageConfig((0.5, 0.25, 0.5), (0.5, 0.5, 1.0), "bilinear", "squash"),
)
MEAN_POOLING = CLIPConfig(**_SIZES, activation="gelu", pooling="mean")
# Of the vision tower timm must have the network, see clip4clip.weights.open_clip_configuration.PERCEPTION_ENCODERS.
PERCEPTION_ENCODER = CLIPConfig(
    **_SIZES | {"patch_size": 8},
    context_length=32,
    vision_head_width=16,
    activation="gelu",
    pooling="attention",
    rotary=True,
    image=ImageConfig((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", "squash"),
)
# All of them, by the ids of the tests.
NETWORKS = {
    "openai": OPENAI,
    "unusual": UNUSUAL,
    "vocabulary": PART_OF_VOCABULARY,
    "mean": MEAN_POOLING,
    "perception": PERCEPTION_ENCODER,
}
TIMM_NAME = "vit_pe_core_toy_patch8_32"
TIMM_SIZES = (32, 8, 128, 2, 8)


def fine_tune(config: CLIPConfig, path: Path, random_state: Callable, head: str = "meanP") -> Path:
    """Train random weights for one step, save them, and return the path."""
    model = VideoTextModel(config, head)
    state = random_state(config)
    model.text.load_state_dict(tower_state(state, "text"))
    model.vision.load_state_dict(tower_state(state, "video"))
    model.logit_scale.data.fill_(1.0)
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(0, config.vocab_size - 1, (3, 8))
    ids[:, -1] = config.vocab_size - 1
    pixels = torch.randn(3, 3, config.resolution, config.resolution)
    contrastive_loss(*model(ids, pixels, torch.tensor([1, 1, 1]))).backward()
    for parameter in model.parameters():
        parameter.data -= 0.1 * parameter.grad if parameter.grad is not None else 0
    save_checkpoint(model, path, settings={"recipe": "a test", "lr": 0.1}, step=1, epoch=1, recall_at_1=50.0)
    return path
