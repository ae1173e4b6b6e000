"""Every network of open_clip and timm, from a folder that open_clip has written: captions and frames to vectors.

These need torchvision, so these tests run with the extra ``peers``.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clip4clip import TextEncoder, VideoEncoder
from clip4clip.config import MODELS, ImageConfig

open_clip = pytest.importorskip("open_clip")
pytest.importorskip("torchvision")
from open_clip.push_to_hf_hub import save_for_hf  # noqa: E402

SMALL = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 48, "patch_size": 16, "width": 128, "layers": 3},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
# What differs from that.
RULES: dict[str, dict[str, Any]] = {
    "GELU": {},
    "QuickGELU": {"quick_gelu": True},
    "text tower": {"text_cfg": {"heads": 4, "mlp_ratio": 2.5, "context_length": 32}},
    "ViT-g": {"vision_cfg": {"width": 176, "head_width": 88, "mlp_ratio": 4.3637}},
    "ViT-bigG": {"vision_cfg": {"width": 208, "head_width": 104, "mlp_ratio": 4.9231}},
    "mean pooling": {"vision_cfg": {"pool_type": "avg"}},
    "epsilon": {"vision_cfg": {"norm_kwargs": {"eps": 0.1}}, "text_cfg": {"norm_kwargs": {"eps": 0.1}}},
    "Perception Encoder": {
        "vision_cfg": {"image_size": 384, "timm_model_name": "vit_pe_core_tiny_patch16_384", "timm_pool": "map"}
        | {"timm_proj": None},
        "custom_text": True,
    },
}
# Names of models, of the same networks in open_clip, and runtimes: graphs only where a rule is new, as they take long.
# test_peers.py has those of OpenAI's.
REAL_SIZE = {
    "clip_vit_b32_laion2b": ("ViT-B-32", ["torch", "onnxruntime"]),
    "clip_vit_b16_datacomp": ("ViT-B-16", ["torch"]),
    "clip_vit_l14_datacomp": ("ViT-L-14", ["torch"]),
    "clip_vit_l14_336": ("ViT-L-14-336-quickgelu", ["torch"]),
    "pe_core_b16": ("PE-Core-B-16", ["torch", "onnxruntime"]),
}


class OpenClip:
    """A network of open_clip with random weights, and the folder that it writes as for the hub.

    Args:
        name: of one of open_clip's configurations.
        image: how it preprocesses frames.
        folder: the folder to write.
    """

    def __init__(self, name: str, image: ImageConfig, folder: Path) -> None:
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(
            name,
            image_mean=image.mean,
            image_std=image.std,
            image_interpolation=image.interpolation,
            image_resize_mode={"crop": "shortest", "squash": "squash"}[image.resize],
        )
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)
        randomise(self.model)
        no_tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)  # as CLIP's is known
        save_for_hf(self.model, no_tokenizer, open_clip.get_model_config(name), str(folder), safe_serialization=True)

    @torch.inference_mode()
    def check(self, texts: TextEncoder, videos: VideoEncoder, count: int) -> None:
        """Compare the vectors of as many captions and frames."""
        captions = ["ein Hund läuft 😀 über 12 Straßen", "a dog", "dog " * 100][:count]
        frames = np.random.default_rng(0).integers(0, 256, (count, 90, 120, 3), dtype=np.uint8)
        assert_same_vectors(texts(captions), self.model.encode_text(self.tokenizer(captions)))
        pixels = torch.stack([self.preprocess(Image.fromarray(frame)) for frame in frames])
        assert_same_vectors(videos([[frame] for frame in frames]), self.model.encode_image(pixels))


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Give the layers weights as large as trained ones have, and biases that are not 0.

    In an untrained network, all tokens get about the same attention, and their positions hardly matter.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and name.endswith("weight") and "embedding" not in name:
            parameter.mul_(1.5 * parameter.shape[1] ** -0.5 / parameter.std())
        elif parameter.ndim in (1, 3) and name != "visual.trunk.head.bias":  # which is 0 in all Perception Encoders
            parameter.add_(0.3 * torch.randn(parameter.shape))


def assert_same_vectors(ours: np.ndarray, theirs: torch.Tensor) -> None:
    reference = F.normalize(theirs, dim=-1).numpy()
    assert (ours * reference).sum(-1).min() >= 0.99999
    assert np.abs(ours - reference).max() <= 1e-4


def load(folder: Path, runtime: str) -> tuple[TextEncoder, VideoEncoder]:
    arguments: dict[str, Any] = {"weights": folder, "device": "cpu", "runtime": runtime}
    return TextEncoder.load(**arguments), VideoEncoder.load(**arguments)


@pytest.mark.parametrize("rule", RULES)
def test_a_folder_of_open_clip_needs_no_name(rule: str, tmp_path: Path) -> None:
    config = SMALL | {key: value for key, value in RULES[rule].items() if not isinstance(value, dict)}
    for tower in ("vision_cfg", "text_cfg"):
        config[tower] = SMALL[tower] | RULES[rule].get(tower, {})  # type: ignore[operator]
    (tmp_path / "small.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "small.json")
    image = ImageConfig((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear", "squash")
    reference = OpenClip("small", image, tmp_path / "model")
    reference.check(*load(tmp_path / "model", "torch"), count=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL_SIZE)
def test_a_network_of_real_size_is_that_of_open_clip(name: str, tmp_path: Path) -> None:
    open_clip_name, runtimes = REAL_SIZE[name]
    reference = OpenClip(open_clip_name, MODELS[name].config.image, tmp_path)
    for runtime in runtimes:
        texts, videos = load(tmp_path, runtime)
        assert texts.config == videos.config == MODELS[name].config
        reference.check(texts, videos, count=1)
    (tmp_path / "open_clip_model.safetensors").unlink()
