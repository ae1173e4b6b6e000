"""The contenders of benchmarks/embed.py: this project, and other libraries with the same weights."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from clip4clip import TextEncoder, VideoEncoder
from clip4clip.config import CLIPConfig, get_model
from clip4clip.preprocess import MEAN, STD
from clip4clip.runtime.placement import available_cores
from clip4clip.tokenizer import VOCAB_SIZE, default_tokenizer

Call = Callable[[], np.ndarray]
State = dict[str, Tensor]

TORCH, BFLOAT16 = "clip4clip, torch", "clip4clip, torch bfloat16"
DEFAULT, INT8 = "clip4clip", "clip4clip, int8"  # ONNX Runtime, the default on a CPU
TOWHEE, OPEN_CLIP, OPENVINO = "towhee.models", "open_clip", "OpenVINO"
TRANSFORMERS, PADDED = "transformers", "transformers, padded"
ONNX, ONNX_INT8 = "ONNX Runtime", "ONNX Runtime, int8"
ALONE = ", one by one"


class Contender:
    """A library that embeds.

    Each method prepares a task and returns a call that does it, or None for a task that the contender cannot do.
    """

    name: str

    def text_network(self, captions: list[str]) -> Call | None:  # noqa: ARG002
        """Prepare the task from token ids to embeddings."""
        return None

    def text(self, captions: list[str]) -> Call | None:  # noqa: ARG002
        """Prepare the task from strings to unit vectors."""
        return None

    def video_network(self, pixels: np.ndarray) -> Call | None:  # noqa: ARG002
        """Prepare the task from pixel values to embeddings."""
        return None

    def video(self, videos: list[np.ndarray]) -> Call | None:  # noqa: ARG002
        """Prepare the task from raw frames to unit vectors, one for each video."""
        return None


class Clip4clipContender(Contender):
    """This project, with one of its runtimes."""

    def __init__(self, name: str, model_name: str, weights: Path, runtime: str, precision: str) -> None:
        self.name = name
        self.texts = TextEncoder.load(model_name, weights, "cpu", runtime, precision)
        self.videos = VideoEncoder.load(model_name, weights, "cpu", runtime, precision)

    def text_network(self, captions: list[str]) -> Call:
        batches: list[np.ndarray] = []

        def record(ids: np.ndarray) -> np.ndarray:
            batches.append(ids)
            return self.texts.model(ids)

        TextEncoder(record, self.texts.config)(captions)  # type: ignore[arg-type]
        # The encoder sorts captions by length; the call returns them in the original order.
        lengths = [len(default_tokenizer(self.texts.config.vocab_size).encode(caption)) for caption in captions]
        rows = np.argsort(np.argsort(lengths, kind="stable"), kind="stable")
        return lambda: np.concatenate([self.texts.model(ids) for ids in batches])[rows]

    def text(self, captions: list[str]) -> Call:
        argument: Any = captions if len(captions) > 1 else captions[0]
        return lambda: np.atleast_2d(self.texts(argument))

    def video_network(self, pixels: np.ndarray) -> Call:
        return lambda: self.videos.model(pixels)

    def video(self, videos: list[np.ndarray]) -> Call:
        return lambda: self.videos(videos)


@dataclass
class Peer(Contender):
    """Another library, described by its parts.

    Attributes:
        ids: maps captions to token ids, padded as the library does it; None if its tokenizer has another vocabulary.
        embed_text: maps token ids to embeddings.
        embed_frames: maps pixel values to embeddings; None if another contender of the same library embeds the frames.
        network_ids: like ``ids``, for tasks of the network only.
    """

    name: str
    resolution: int
    ids: Callable[[list[str]], np.ndarray] | None
    embed_text: Callable[[np.ndarray], np.ndarray]
    embed_frames: Callable[[np.ndarray], np.ndarray] | None
    network_ids: Callable[[list[str]], np.ndarray]

    def text_network(self, captions: list[str]) -> Call:
        ids = self.network_ids(captions)
        return lambda: self.embed_text(ids)

    def text(self, captions: list[str]) -> Call | None:
        ids = self.ids
        return ids and (lambda: unit(self.embed_text(ids(captions))))

    def video_network(self, pixels: np.ndarray) -> Call | None:
        embed = self.embed_frames
        return embed and (lambda: embed(pixels))

    def video(self, videos: list[np.ndarray]) -> Call | None:
        embed = self.embed_frames

        def call() -> np.ndarray:
            pixels = preprocess_with_pillow([frame for video in videos for frame in video], self.resolution)
            return pooled(embed(pixels), videos)  # type: ignore[misc]

        return embed and call


class OneByOne(Contender):
    """Another library that gets captions one at a time, so that it need not pad them."""

    def __init__(self, peer: Contender) -> None:
        self.name, self._peer = peer.name + ALONE, peer

    def text_network(self, captions: list[str]) -> Call | None:
        return self._one_after_the_other([self._peer.text_network([caption]) for caption in captions])

    def text(self, captions: list[str]) -> Call | None:
        return self._one_after_the_other([self._peer.text([caption]) for caption in captions])

    @staticmethod
    def _one_after_the_other(calls: list[Call | None]) -> Call | None:
        return None if None in calls else lambda: np.concatenate([call() for call in calls])  # type: ignore[misc]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def pooled(embeddings: np.ndarray, videos: Sequence[np.ndarray]) -> np.ndarray:
    """Pool the frame embeddings of videos to one unit vector for each video."""
    ends = np.cumsum([len(video) for video in videos])[:-1]
    return unit(np.stack([frames.mean(0) for frames in np.split(unit(embeddings), ends)]))


def preprocess_with_pillow(frames: Sequence[np.ndarray], resolution: int) -> np.ndarray:
    """Preprocess frames with Pillow and torch, one by one, as the transforms of all other libraries do."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    rows = []
    for frame in frames:
        image = Image.fromarray(frame)
        short = min(image.size)
        wide, high = (int(resolution * side / short) for side in image.size)
        left, top = round((wide - resolution) / 2), round((high - resolution) / 2)
        image = image.resize((wide, high), Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + resolution, top + resolution))
        rows.append(torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255).sub(mean).div(std))
    return torch.stack(rows).numpy()


def with_arrays(function: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    @torch.inference_mode()
    def call(array: np.ndarray) -> np.ndarray:
        return function(torch.from_numpy(array)).numpy()

    return call


@dataclass
class Setup:
    """The weights and the folder that every contender is built from."""

    model_name: str
    state: State
    folder: Path
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> CLIPConfig:
        return get_model(self.model_name).config

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    def unpadded(self, captions: list[str]) -> np.ndarray:
        return default_tokenizer(self.config.vocab_size)(captions, self.config.context_length)

    def padded(self, captions: list[str]) -> np.ndarray:
        ids = self.unpadded(captions)
        return np.pad(ids, ((0, 0), (0, self.config.context_length - ids.shape[1])))

    def ours(self, name: str, runtime: str, precision: str = "float32") -> Contender:
        return Clip4clipContender(name, self.model_name, self.weights, runtime, precision)

    def hugging_face(self) -> Any:
        """Return transformers' model, which is built once."""
        if "hugging face" not in self.cache:
            self.cache["hugging face"] = hugging_face_model(self.config, self.state)
        return self.cache["hugging face"]

    def transformers(self, name: str) -> Contender:
        text, frames = hugging_face_towers(self.hugging_face())
        ids = self.padded if name == PADDED else self.unpadded
        embed_frames = None if name == PADDED else with_arrays(frames)
        return Peer(name, self.config.resolution, ids, with_arrays(text), embed_frames, ids)

    def towhee_models(self) -> Contender:
        from towhee.models import clip4clip
        from towhee.models.clip.simple_tokenizer import SimpleTokenizer

        config = self.config
        model = towhee_model(config)
        # Not strict: a checkpoint does not contain its attention masks.
        model.load_state_dict(
            {f"clip.{name}": tensor for name, tensor in self.state.items()}, strict=False, assign=True
        )
        tokenizer = SimpleTokenizer()

        def ids(captions: list[str]) -> np.ndarray:
            rows = [
                clip4clip.convert_tokens_to_id(tokenizer, caption, config.context_length)[0] for caption in captions
            ]
            return np.stack(rows)

        return Peer(
            TOWHEE,
            config.resolution,
            ids if config.vocab_size == VOCAB_SIZE else None,
            with_arrays(lambda ids: model.get_sequence_output(ids, shaped=True)[:, 0]),
            with_arrays(lambda pixels: model.get_visual_output(pixels, torch.ones(1, len(pixels)), shaped=True)[0]),
            self.padded,
        )

    def open_clip(self) -> Contender:
        import open_clip

        config = self.config
        model = open_clip_model(config)
        model.load_state_dict(self.state, assign=True)
        tokenizer = open_clip.get_tokenizer("ViT-B-32-quickgelu")
        return Peer(
            OPEN_CLIP,
            config.resolution,
            (lambda captions: tokenizer(captions).numpy()) if config.vocab_size == VOCAB_SIZE else None,
            with_arrays(model.encode_text),
            with_arrays(model.encode_image),
            self.padded,
        )

    def graph(self, modality: str, precision: str = "float32") -> Path:
        """Return the graph that torch exports from transformers' model, for int8 quantised dynamically. Made once."""
        path = self.folder / f"plain-{modality}-{precision}.onnx"
        if not path.exists() and precision == "int8":
            quantise(self.graph(modality), path)
        elif not path.exists():
            export_onnx(hugging_face_towers(self.hugging_face())[modality == "video"], modality, self.config, path)
        return path

    def onnxruntime(self, name: str, precision: str = "float32") -> Contender:
        text, frames = (onnx_session(self.graph(modality, precision)) for modality in ("text", "video"))
        return Peer(name, self.config.resolution, self.unpadded, text, frames, self.unpadded)

    def openvino(self) -> Contender:
        import openvino

        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": available_cores(),
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        text, frames = (
            core.compile_model(core.read_model(self.graph(modality)), "CPU", settings) for modality in ("text", "video")
        )

        def embed(model: Any) -> Callable[[np.ndarray], np.ndarray]:
            return lambda array: model(array)[0]

        return Peer(OPENVINO, self.config.resolution, self.unpadded, embed(text), embed(frames), self.unpadded)


def towhee_model(config: CLIPConfig) -> Any:
    """Return the model of the published code, untrained, in the shape of a configuration."""
    from towhee.models import clip4clip

    return clip4clip.CLIP4Clip(
        embed_dim=config.embed_dim,
        image_resolution=config.resolution,
        vision_layers=config.vision_layers,
        vision_width=config.vision_width,
        vision_patch_size=config.patch_size,
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        transformer_width=config.text_width,
        transformer_heads=config.text_width // 64,
        transformer_layers=config.text_layers,
    ).eval()


def open_clip_model(config: CLIPConfig) -> Any:
    """Return open_clip's own model, untrained, in the shape of a configuration."""
    import open_clip
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    return open_clip.CLIP(
        config.embed_dim,
        CLIPVisionCfg(
            layers=config.vision_layers,
            width=config.vision_width,
            patch_size=config.patch_size,
            image_size=config.resolution,
        ),
        CLIPTextCfg(
            width=config.text_width,
            heads=config.text_width // 64,
            layers=config.text_layers,
            context_length=config.context_length,
            vocab_size=config.vocab_size,
        ),
        quick_gelu=True,
    ).eval()


def hugging_face_config(config: CLIPConfig, activation: str = "quick_gelu") -> Any:
    """Return transformers' configuration for the shape of a configuration."""
    from transformers import CLIPConfig as HuggingFaceConfig

    def tower(width: int, layers: int) -> dict[str, Any]:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 64,
            "projection_dim": config.embed_dim,
            "hidden_act": activation,
        }

    text = {
        "max_position_embeddings": config.context_length,
        "vocab_size": config.vocab_size,
        "bos_token_id": config.vocab_size - 2,
        "eos_token_id": config.vocab_size - 1,
    }
    return HuggingFaceConfig(
        text_config=tower(config.text_width, config.text_layers) | text,
        vision_config=tower(config.vision_width, config.vision_layers)
        | {"image_size": config.resolution, "patch_size": config.patch_size},
        projection_dim=config.embed_dim,
    )


def hugging_face_model(config: CLIPConfig, state: State) -> Any:
    """Return transformers' CLIP with the tensors of a state dict; only the two projections are copies."""
    from transformers import CLIPModel

    with torch.device("meta"):
        model = CLIPModel(hugging_face_config(config))
    tensors = {
        "logit_scale": state["logit_scale"],
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.embeddings.position_ids": torch.arange(config.context_length)[None],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(len(state["visual.positional_embedding"]))[None],
    }
    parts = {
        "ln_final": "text_model.final_layer_norm",
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
    }
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    names |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for prefix, tower, layers in (("", "text", config.text_layers), ("visual.", "vision", config.vision_layers)):
        for number in range(layers):
            block, layer = f"{prefix}transformer.resblocks.{number}", f"{tower}_model.encoder.layers.{number}"
            parts |= {f"{block}.{source}": f"{layer}.{target}" for source, target in names.items()}
            for kind in ("weight", "bias"):
                for letter, third in zip("qkv", state[f"{block}.attn.in_proj_{kind}"].chunk(3), strict=True):
                    tensors[f"{layer}.self_attn.{letter}_proj.{kind}"] = third
    for source, target in parts.items():
        tensors |= {f"{target}.{kind}": state[f"{source}.{kind}"] for kind in ("weight", "bias")}
    for name in ("text_model", "vision_model"):  # buffers that are not part of a state dict
        getattr(model, name).embeddings.position_ids = tensors.pop(f"{name}.embeddings.position_ids")
    model.load_state_dict(tensors, assign=True)
    return model.eval()


class FunctionModule(nn.Module):
    """A module that calls a function with a model and the inputs, for torch's exporter."""

    def __init__(self, model: nn.Module, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.model, inputs)


def hugging_face_towers(model: Any) -> tuple[FunctionModule, FunctionModule]:
    """Return modules for token ids to embeddings, and for pixel values to embeddings."""
    return (
        FunctionModule(model, lambda m, ids: m.text_projection(m.text_model(input_ids=ids).pooler_output)),
        FunctionModule(model, lambda m, pixels: m.visual_projection(m.vision_model(pixel_values=pixels).pooler_output)),
    )


def export_onnx(tower: FunctionModule, modality: str, config: CLIPConfig, path: Path) -> None:
    example = torch.zeros(2, 3, config.resolution, config.resolution)
    dynamic = {0: "batch"}
    if modality == "text":
        example, dynamic = torch.tensor([[0, 1, 2, config.vocab_size - 1]] * 2), {0: "batch", 1: "length"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower.eval(),
            (example,),
            str(path),
            input_names=["inputs"],
            output_names=["embeddings"],
            dynamic_axes={"inputs": dynamic, "embeddings": {0: "batch"}},
            dynamo=False,  # the newer exporter needs another package
        )


def quantise(path: Path, output: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # it recommends to simplify the graph first
    quantize_dynamic(
        path, output, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
    )
    logging.disable(logging.NOTSET)


def onnx_session(model: Path | bytes) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda array: session.run(None, {name: array})[0]


def build_contenders(setup: Setup, console: Console) -> tuple[dict[str, Contender], dict[str, str]]:
    """Build the contenders whose packages are installed; also return why the others cannot be built, by name."""
    builders: dict[str, tuple[str, Callable[[], Contender]]] = {
        TORCH: ("torch", lambda: setup.ours(TORCH, "torch")),
        BFLOAT16: ("torch", lambda: setup.ours(BFLOAT16, "torch", "bfloat16")),
        DEFAULT: ("onnxruntime onnx", lambda: setup.ours(DEFAULT, "onnxruntime")),
        INT8: ("onnxruntime onnx", lambda: setup.ours(INT8, "onnxruntime", "int8")),
        TOWHEE: ("towhee.models.clip4clip", setup.towhee_models),
        PADDED: ("transformers", lambda: setup.transformers(PADDED)),
        TRANSFORMERS: ("transformers", lambda: setup.transformers(TRANSFORMERS)),
        OPEN_CLIP: ("open_clip", setup.open_clip),
        ONNX: ("onnxruntime onnx", lambda: setup.onnxruntime(ONNX)),
        ONNX_INT8: ("onnxruntime onnx", lambda: setup.onnxruntime(ONNX_INT8, "int8")),
        OPENVINO: ("openvino onnx", setup.openvino),
    }
    built: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    for name, (modules, build) in builders.items():
        console.print(f"building {name}", highlight=False)
        try:
            for module in modules.split():
                importlib.import_module(module)
        except (ImportError, RuntimeError) as error:  # the latter from a torchvision for another torch
            missing[name] = str(error).splitlines()[0]
        else:
            built[name] = build()
    return built, missing
