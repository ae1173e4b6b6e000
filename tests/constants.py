"""Paths, names and model configurations that several test files use. Import from here, not from conftest.py."""

from __future__ import annotations

from pathlib import Path

from clip4clip.config import CLIPConfig

REPOSITORY = Path(__file__).parent.parent
DEMO_MODEL = "clip_vit_tiny_demo"  # the model whose weights are in the package
QUICK_GELU = '{"model_cfg": {"quick_gelu": true}}'  # an open_clip_config.json that states OpenAI's activation
TINY = CLIPConfig(
    embed_dim=64, resolution=32, patch_size=16, vision_width=128, vision_layers=2, text_width=64, text_layers=2
)
# Registers TINY as the model `tiny` in a process of its own.
WITH_TINY = f"""
from clip4clip.config import MODELS, CLIPConfig, ImageConfig, Model
MODELS["tiny"] = Model({TINY!r}, hub="hf://owner/tiny")
"""
