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
from peer_models import (
    State,
    has_towhee_network,
    has_transformers_network,
    hugging_face_model,
    hugging_face_towers,
    open_clip_model,
    open_clip_state,
    towhee_model,
)
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from clip4clip import TextEncoder, VideoEncoder
from clip4clip.config import CLIPConfig, get_model
from clip4clip.runtime.placement import available_cores
from clip4clip.tokenizer import VOCAB_SIZE, default_tokenizer

Call = Callable[[], np.ndarray]

TORCH, BFLOAT16 = "clip4clip, torch", "clip4clip, torch bfloat16"
DEFAULT, INT8 = "clip4clip", "clip4clip, int8"  # ONNX Runtime, the default on a CPU
TOWHEE, OPEN_CLIP, OPENVINO = "towhee.models", "open_clip", "OpenVINO"
TRANSFORMERS, PADDED = "transformers", "transformers, padded"
ONNX, ONNX_INT8 = "ONNX Runtime", "ONNX Runtime, int8"
ALONE = ", one by one"
NETWORKS_OF_TRANSFORMERS = (TRANSFORMERS, PADDED, ONNX, ONNX_INT8, OPENVINO)  # the last three run its exported network


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
        config: shape of the model.
        ids: maps captions to token ids, padded as the library does it; None if its tokenizer has another vocabulary.
        embed_text: maps token ids to embeddings.
        embed_frames: maps pixel values to embeddings; None if another contender of the same library embeds the frames.
        network_ids: like ``ids``, for tasks of the network only.
    """

    name: str
    config: CLIPConfig
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
            pixels = preprocess_with_pillow([frame for video in videos for frame in video], self.config)
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


def preprocess_with_pillow(frames: Sequence[np.ndarray], config: CLIPConfig) -> np.ndarray:
    """Preprocess frames with Pillow and torch, one by one, as the transforms of all other libraries do."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.image.mean, config.image.std))
    interpolation = Image.Resampling[config.image.interpolation.upper()]
    resolution = config.resolution
    rows = []
    for frame in frames:
        image = Image.fromarray(frame)
        wide, high = resolution, resolution
        if config.image.resize == "crop":
            short = min(image.size)
            wide, high = (int(resolution * side / short) for side in image.size)
        left, top = round((wide - resolution) / 2), round((high - resolution) / 2)
        image = image.resize((wide, high), interpolation)
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

    def open_clip_model(self) -> Any:
        """Return open_clip's model, which is built once."""
        if "open_clip" not in self.cache:
            model = open_clip_model(self.config)
            model.load_state_dict(open_clip_state(self.config, self.state), assign=True)
            self.cache["open_clip"] = model
        return self.cache["open_clip"]

    def reference(self) -> tuple[Callable[[list[str]], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
        """Return functions for captions to embeddings, and for pixel values to embeddings, of the reference.

        It is transformers in float32, one caption at a time; or open_clip, for a network that transformers lacks.
        """
        if has_transformers_network(self.config):
            text, frames = map(with_arrays, hugging_face_towers(self.hugging_face()))
            return lambda captions: np.concatenate([text(self.unpadded([each])) for each in captions]), frames
        model = self.open_clip_model()
        text = with_arrays(model.encode_text)
        return lambda captions: text(self.padded(captions)), with_arrays(model.encode_image)

    def transformers(self, name: str) -> Contender:
        text, frames = hugging_face_towers(self.hugging_face())
        ids = self.padded if name == PADDED else self.unpadded
        embed_frames = None if name == PADDED else with_arrays(frames)
        return Peer(name, self.config, ids, with_arrays(text), embed_frames, ids)

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
            config,
            ids if config.vocab_size == VOCAB_SIZE else None,
            with_arrays(lambda ids: model.get_sequence_output(ids, shaped=True)[:, 0]),
            with_arrays(lambda pixels: model.get_visual_output(pixels, torch.ones(1, len(pixels)), shaped=True)[0]),
            self.padded,
        )

    def open_clip(self) -> Contender:
        import open_clip

        config, model = self.config, self.open_clip_model()
        tokenizer = open_clip.SimpleTokenizer(context_length=config.context_length)
        return Peer(
            OPEN_CLIP,
            config,
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
        return Peer(name, self.config, self.unpadded, text, frames, self.unpadded)

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

        return Peer(OPENVINO, self.config, self.unpadded, embed(text), embed(frames), self.unpadded)


def export_onnx(tower: nn.Module, modality: str, config: CLIPConfig, path: Path) -> None:
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


def build_contenders(
    setup: Setup, console: Console, names: Sequence[str] = ()
) -> tuple[dict[str, Contender], dict[str, str]]:
    """Build the contenders whose packages are installed and which have the network.

    Args:
        setup: the weights.
        console: where progress is shown.
        names: the contenders to build; empty for all.

    Returns:
        The contenders by name, and why the others cannot be built, by name.
    """
    builders: dict[str, tuple[str, Callable[[], Contender]]] = {
        TORCH: ("torch", lambda: setup.ours(TORCH, "torch")),
        BFLOAT16: ("torch", lambda: setup.ours(BFLOAT16, "torch", "bfloat16")),
        DEFAULT: ("onnxruntime onnx", lambda: setup.ours(DEFAULT, "onnxruntime")),
        INT8: ("onnxruntime onnx", lambda: setup.ours(INT8, "onnxruntime", "int8")),
        TOWHEE: ("towhee.models.clip4clip", setup.towhee_models),
        PADDED: ("transformers", lambda: setup.transformers(PADDED)),
        TRANSFORMERS: ("transformers", lambda: setup.transformers(TRANSFORMERS)),
        OPEN_CLIP: ("open_clip timm", setup.open_clip),
        ONNX: ("onnxruntime onnx transformers", lambda: setup.onnxruntime(ONNX)),
        ONNX_INT8: ("onnxruntime onnx transformers", lambda: setup.onnxruntime(ONNX_INT8, "int8")),
        OPENVINO: ("openvino onnx transformers", setup.openvino),
    }
    built: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    for name, (modules, build) in builders.items():
        if names and name not in names:
            continue
        console.print(f"building {name}", highlight=False)
        if name == TOWHEE and not has_towhee_network(setup.config):
            missing[name] = "it does not have this network"
        elif name in NETWORKS_OF_TRANSFORMERS and not has_transformers_network(setup.config):
            missing[name] = "transformers does not have this network"
        elif reason := _import_error(modules):
            missing[name] = f"not installed ({reason})"
        else:
            built[name] = build()
    return built, missing


def _import_error(modules: str) -> str:
    try:
        for module in modules.split():
            importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # the latter from a torchvision for another torch
        return str(error).splitlines()[0]
    return ""
