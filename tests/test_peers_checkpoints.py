"""Folders and files that open_clip and peft wrote load by their path alone. These tests need the extra ``peers``."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clip4clip import CheckpointError, TextEncoder, VideoEncoder
from clip4clip.config import CLIPConfig, ImageConfig
from clip4clip.model import TextTower, VisionTower
from clip4clip.preprocess import crop_frame, pixel_values
from clip4clip.tokenizer import default_tokenizer
from clip4clip.weights.families import to_openai_names
from clip4clip.weights.json_section import UnsupportedNetworkError
from clip4clip.weights.open_clip_configuration import parse_open_clip
from clip4clip.weights.state_dict import infer_config

open_clip = pytest.importorskip("open_clip")
pytest.importorskip("torchvision")
from open_clip.push_to_hf_hub import save_for_hf  # noqa: E402
from open_clip.transform import PreprocessCfg, image_transform_v2  # noqa: E402

CAPTIONS = ["a dog", "kids feeding and playing with the horse", "ein Hund läuft 😀 über 12 Straßen"]
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 45, 60, 3), dtype=np.uint8)
VISION = {"image_size": 32, "patch_size": 16, "width": 128, "layers": 2}
TEXT = {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
PERCEPTION_ENCODER = {"timm_model_name": "vit_pe_core_tiny_patch16_384", "timm_pool": "map", "timm_proj": None}
PERCEPTION_ENCODER |= {"image_size": 384, "timm_model_pretrained": False}
# What differs from these in open_clip's configuration of a model, and in how it takes images.
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "GELU": ({}, {}),
    "QuickGELU": ({"quick_gelu": True}, {"interpolation": "bilinear"}),
    "custom text": ({"custom_text": True, "init_logit_bias": -10.0}, {"resize_mode": "squash"}),
    "heads, MLP, mean": ({"vision_cfg": VISION | {"head_width": 32, "mlp_ratio": 3.5, "pool_type": "avg"}}, {}),
    "epsilon": (
        {"vision_cfg": VISION | {"norm_kwargs": {"eps": 0.1}}, "text_cfg": TEXT | {"norm_kwargs": {"eps": 0.1}}},
        {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)},
    ),
    "Perception Encoder": (
        {"vision_cfg": PERCEPTION_ENCODER, "custom_text": True},
        {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear", "resize_mode": "squash"},
    ),
}


def assert_same_vectors(ours: np.ndarray, theirs: torch.Tensor) -> None:
    reference = F.normalize(theirs, dim=-1).numpy()
    assert (ours * reference).sum(-1).min() >= 0.99999
    assert np.abs(ours - reference).max() <= 1e-4


def create(model_cfg: dict[str, Any], **images: Any) -> Any:
    """Return a random model of open_clip, made from a configuration as open_clip itself reads it."""
    torch.manual_seed(0)
    content = json.loads(json.dumps(model_cfg))
    custom = content.pop("custom_text", False)
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**content).eval()
    open_clip.model.set_model_preprocess_cfg(model, images)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim and not name.endswith("head.bias"):
                parameter += 0.05 * torch.randn(parameter.shape)
    return model


def save(model: Any, model_cfg: dict[str, Any], folder: Path) -> None:
    tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
    save_for_hf(model, tokenizer, model_cfg, str(folder), safe_serialization=True)  # type: ignore[arg-type]


def preprocess(model: Any) -> torch.Tensor:
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return torch.stack([transform(Image.fromarray(frame)) for frame in FRAMES])


@pytest.mark.parametrize("kind", MODELS)
@torch.inference_mode()
def test_a_folder_of_open_clip_loads_by_its_path_alone(kind: str, tmp_path: Path) -> None:
    changes, images = MODELS[kind]
    model_cfg = {"embed_dim": 48, "vision_cfg": VISION, "text_cfg": TEXT} | changes
    model = create(model_cfg, **asdict_image() | images | {"size": model_cfg["vision_cfg"]["image_size"]})
    save(model, model_cfg, tmp_path)
    ids = torch.from_numpy(open_clip.SimpleTokenizer(context_length=32)(CAPTIONS).numpy())
    file = tmp_path / "open_clip_model.safetensors"
    assert_same_vectors(TextEncoder.load(None, file, "cpu", "torch")(CAPTIONS), model.encode_text(ids))
    embeddings = F.normalize(model.encode_image(preprocess(model)), dim=-1)
    assert_same_vectors(VideoEncoder.load(None, tmp_path, "cpu", "torch")(FRAMES), embeddings.mean(0))


def asdict_image() -> dict[str, Any]:
    image = ImageConfig()
    return {"mean": image.mean, "std": image.std, "interpolation": "bicubic", "resize_mode": "shortest"}


def all_configurations() -> dict[str, dict[str, Any]]:
    folder = Path(open_clip.__file__).parent / "model_configs"
    return {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}


@pytest.mark.slow
def test_every_model_of_open_clip_is_described_as_open_clip_builds_it_or_is_refused() -> None:
    supported = {}
    for name, model_cfg in all_configurations().items():
        with contextlib.suppress(UnsupportedNetworkError):
            supported[name] = parse_open_clip({"model_cfg": model_cfg})
    assert {"ViT-B-32", "ViT-B-32-quickgelu", "ViT-H-14", "ViT-bigG-14", "PE-Core-B-16"} <= supported.keys()
    assert not [name for name in supported if name.startswith(("RN", "coca", "convnext", "EVA", "roberta", "ViTamin"))]
    assert not [
        name for name in supported if "SigLIP" in name or "CLIPA" in name or "Mobile" in name or "bigG-14-448" in name
    ]
    for name, facts in supported.items():
        config = CLIPConfig(**facts)
        with torch.device("meta"):
            model = open_clip.create_model(name, pretrained=None, device="meta")
            ours = {f"visual.{key}": value for key, value in VisionTower(config).state_dict().items()}
            ours |= TextTower(config).state_dict()
        sizes = infer_config(ours)
        assert sizes.items() <= vars(config).items(), name
        assert sizes == infer_config(as_ours(model.state_dict())), name
        assert_same_blocks(config, model)


def as_ours(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state.pop("visual.trunk.head.bias", None)  # on the device meta it has no numbers
    return to_openai_names(state)


def assert_same_blocks(config: CLIPConfig, model: Any) -> None:
    """Compare what the shapes do not show."""
    text = getattr(model, "text", model)
    gelu = {"quick_gelu": open_clip.transformer.QuickGELU, "gelu": torch.nn.GELU}[config.activation]
    towers = [(text, config.text_width // config.text_head_width)]
    if hasattr(model.visual, "trunk"):
        trunk = model.visual.trunk
        assert trunk.blocks[0].attn.num_heads == config.vision_width // config.vision_head_width
        assert trunk.attn_pool.num_heads == config.pooling_heads
        assert (trunk.norm.eps, type(trunk.blocks[0].mlp.act)) == (config.norm_eps, torch.nn.GELU)
    else:
        towers.append((model.visual, config.vision_width // config.vision_head_width))
        assert model.visual.pool_type == {"token": "tok", "mean": "avg"}[config.pooling]
    for tower, heads in towers:
        block = tower.transformer.resblocks[0]
        assert block.attn.num_heads == heads
        assert isinstance(block.mlp.gelu, gelu)
        assert block.ln_1.eps == config.norm_eps


SIZES = [(64, 48), (48, 64), (32, 32), (33, 31), (101, 97), (1, 40), (1, 1), (333, 224), (127, 64), (65, 32)]


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_equal_those_of_open_clip(mode: str, interpolation: str) -> None:
    images = {"mean": (0.5, 0.25, 0.1), "std": (0.5, 0.25, 0.3), "interpolation": interpolation}
    image = ImageConfig(images["mean"], images["std"], interpolation, {"shortest": "crop"}.get(mode, mode))  # type: ignore[arg-type]
    random = np.random.default_rng(1)
    for resolution in (32, 97):
        theirs = image_transform_v2(PreprocessCfg(size=resolution, resize_mode=mode, **images), is_train=False)  # type: ignore[arg-type]
        for width, height in [*SIZES, *random.integers(1, 300, (12, 2)).tolist()]:
            if max(width, height) > 60 * min(width, height):
                continue
            frame = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            expected = theirs(Image.fromarray(frame)).numpy()
            np.testing.assert_array_equal(pixel_values([frame], resolution, image)[0], expected)
            cropped = crop_frame(frame, resolution, image)
            np.testing.assert_array_equal(pixel_values([cropped], resolution, image)[0], expected)


@torch.inference_mode()
def test_a_merged_adapter_of_peft_is_read_and_an_unmerged_one_is_refused(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import CLIPConfig as HuggingFaceConfig
    from transformers import CLIPModel

    sizes = {"num_hidden_layers": 1, "num_attention_heads": 1, "hidden_size": 64, "intermediate_size": 128}
    config = HuggingFaceConfig(
        projection_dim=32, text_config=sizes, vision_config=sizes | {"image_size": 32, "patch_size": 16}
    )
    torch.manual_seed(0)
    model = peft.get_peft_model(CLIPModel(config).eval(), peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_()
    ids = torch.from_numpy(default_tokenizer()(CAPTIONS))
    theirs = model.get_text_features(input_ids=ids)
    theirs = getattr(theirs, "pooler_output", theirs)  # transformers 5 returns more than the features
    model.save_pretrained(tmp_path / "adapter")
    torch.save(model.state_dict(), tmp_path / "unmerged.pt")
    for path in (tmp_path / "adapter" / "adapter_model.safetensors", tmp_path / "unmerged.pt"):
        with pytest.raises(CheckpointError, match=r"it holds adapters \(LoRA\).*merge_and_unload"):
            TextEncoder.load("clip_vit_b32", path, "cpu")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert_same_vectors(TextEncoder.load(None, tmp_path / "merged", "cpu", "torch")(CAPTIONS), theirs)
