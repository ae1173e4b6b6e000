"""Captions and frames to vectors: this project beside its peers, on the same random weights, inputs and threads.

Each row is one piece of work. In every round each contender does it once, in an order of its own, for long enough that
short work is repeated; ratios are taken within a round. Every vector is compared with that of transformers in float32:
who gives another one is told so, and the exit code is 1. Peers that are not installed are left out and named.

The peers are what their users have: towhee.models as the published operator calls it, which builds a tokenizer at each
call and pads to the context; transformers' CLIPModel, padded and not; open_clip, which always pads; and ONNX Runtime
and OpenVINO on what torch's exporter makes of transformers' model. transformers, ONNX Runtime and OpenVINO get their
ids from this project's tokenizer, the others from their own. All that torch computes is computed in inference mode.

    pip install -c <(grep -v -e '^torch' -e '^torchmetrics' constraints.txt) -e '.[bench]'
    python benchmarks/embed.py --json docs/embed.json --plot docs/embed.png
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn

from clip4clip import TextEncoder, VideoEncoder
from clip4clip.config import CLIPConfig, get_model
from clip4clip.device import cores
from clip4clip.frames import MEAN, STD, pixel_values
from clip4clip.model import random_state_dict
from clip4clip.tokenizer import VOCAB_SIZE, default_tokenizer

Call = Callable[[], np.ndarray]
State = dict[str, Tensor]
Rows = dict[str, dict[str, dict[str, Any]]]  # by title and contender
Lines = list[list[str]]

TORCH, BFLOAT16 = "clip4clip, torch", "clip4clip, torch bfloat16"
DEFAULT, INT8 = "clip4clip", "clip4clip, int8"  # computed by ONNX Runtime, as on any CPU where it is installed
TOWHEE, OPEN_CLIP, OPENVINO = "towhee.models", "open_clip", "OpenVINO"
TRANSFORMERS, PADDED = "transformers", "transformers, padded"
ONNX, ONNX_INT8 = "ONNX Runtime", "ONNX Runtime, int8"
ALONE, GRAPH_KEPT = ", one by one", ", graph kept"
PRODUCTS = {"torch": "products alone, torch", "onnxruntime": "products alone, ONNX Runtime"}
READING = {"sum": "reading alone, sum", "product": "reading alone, matrix × vector"}

# The least cosine to transformers in float32. Rounded to 8 bits, random weights lose a little more than trained ones.
LEAST = {INT8: 0.998, ONNX_INT8: 0.998, BFLOAT16: 0.999}
LEAST_FLOAT32 = 0.99999

REST = 0.02  # seconds before each measurement, in which the threads of the one before go to sleep
FRAME = (720, 1280)
WORDS = ("dog", "horse", "kids", "grass", "people", "house", "car", "green", "small", "play", "watch", "near", "the")


# The contenders


class Contender:
    """What does the work. Each method gives a call, with all that comes before it done; None for what it cannot do."""

    name: str

    def text_network(self, captions: list[str]) -> Call | None:  # noqa: ARG002
        """Token ids to embeddings."""
        return None

    def text(self, captions: list[str]) -> Call | None:  # noqa: ARG002
        """Strings to unit vectors."""
        return None

    def video_network(self, pixels: np.ndarray) -> Call | None:  # noqa: ARG002
        """Pixels to embeddings."""
        return None

    def video(self, videos: list[np.ndarray]) -> Call | None:  # noqa: ARG002
        """Raw frames to unit vectors, one for each video."""
        return None


class Ours(Contender):
    def __init__(self, name: str, model_name: str, weights: Path, runtime: str, precision: str) -> None:
        self.name = name
        self.texts = TextEncoder.load(model_name, weights, "cpu", runtime, precision)
        self.videos = VideoEncoder.load(model_name, weights, "cpu", runtime, precision)

    def text_network(self, captions: list[str]) -> Call:
        batches: list[np.ndarray] = []

        def kept(ids: np.ndarray) -> np.ndarray:
            batches.append(ids)
            return self.texts.model(ids)

        TextEncoder(kept, self.texts.config)(captions)  # type: ignore[arg-type]
        # The encoder orders captions by length.
        lengths = [len(default_tokenizer(self.texts.config.vocab_size).encode(caption)) for caption in captions]
        places = np.argsort(np.argsort(lengths, kind="stable"), kind="stable")
        return lambda: np.concatenate([self.texts.model(ids) for ids in batches])[places]

    def text(self, captions: list[str]) -> Call:
        given: Any = captions if len(captions) > 1 else captions[0]
        return lambda: np.atleast_2d(self.texts(given))

    def video_network(self, pixels: np.ndarray) -> Call:
        return lambda: self.videos.model(pixels)

    def video(self, videos: list[np.ndarray]) -> Call:
        return lambda: self.videos(videos)


@dataclass
class Peer(Contender):
    """A peer by its parts.

    Attributes:
        ids: captions to token ids as it pads them; None if its tokenizer has not the model's vocabulary.
        embed_text: token ids to embeddings.
        embed_frames: pixels to embeddings; None to leave the frames to another one of the same kind.
        network_ids: as ids, for the network alone.
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
            pixels = one_by_one([frame for video in videos for frame in video], self.resolution)
            return pooled(embed(pixels), videos)  # type: ignore[misc]

        return embed and call


class OneByOne(Contender):
    """A peer that is given captions one at a time, so that it need not pad them."""

    def __init__(self, peer: Contender) -> None:
        self.name, self._peer = peer.name + ALONE, peer

    def text_network(self, captions: list[str]) -> Call | None:
        return self._all([self._peer.text_network([caption]) for caption in captions])

    def text(self, captions: list[str]) -> Call | None:
        return self._all([self._peer.text([caption]) for caption in captions])

    @staticmethod
    def _all(calls: list[Call | None]) -> Call | None:
        return None if None in calls else lambda: np.concatenate([call() for call in calls])  # type: ignore[misc]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def pooled(embeddings: np.ndarray, videos: Sequence[np.ndarray]) -> np.ndarray:
    """Frame embeddings of videos to their unit vectors."""
    ends = np.cumsum([len(video) for video in videos])[:-1]
    return unit(np.stack([frames.mean(0) for frames in np.split(unit(embeddings), ends)]))


def one_by_one(frames: Sequence[np.ndarray], resolution: int) -> np.ndarray:
    """Frames to pixels, by Pillow and torch, as the transforms of all peers do it."""
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


def on_arrays(function: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    @torch.inference_mode()
    def call(array: np.ndarray) -> np.ndarray:
        return function(torch.from_numpy(array)).numpy()

    return call


@dataclass
class Given:
    """What every contender is built from."""

    model_name: str
    state: State
    folder: Path
    made: dict[str, Any] = field(default_factory=dict)

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
        return Ours(name, self.model_name, self.weights, runtime, precision)

    def hugging_face(self) -> Any:
        """transformers' model, once."""
        if "hugging face" not in self.made:
            self.made["hugging face"] = hugging_face_model(self.config, self.state)
        return self.made["hugging face"]

    def transformers(self, name: str) -> Contender:
        text, frames = hugging_face_towers(self.hugging_face())
        ids = self.padded if name == PADDED else self.unpadded
        embed_frames = None if name == PADDED else on_arrays(frames)
        return Peer(name, self.config.resolution, ids, on_arrays(text), embed_frames, ids)

    def towhee_models(self) -> Contender:
        from towhee.models import clip4clip
        from towhee.models.clip.simple_tokenizer import SimpleTokenizer

        config = self.config
        model = clip4clip.CLIP4Clip(
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
        # Not strict: its masks are no part of a checkpoint.
        model.load_state_dict({f"clip.{name}": one for name, one in self.state.items()}, strict=False, assign=True)
        tokenizer = SimpleTokenizer()

        def ids(captions: list[str]) -> np.ndarray:
            rows = [clip4clip.convert_tokens_to_id(tokenizer, one, config.context_length)[0] for one in captions]
            return np.stack(rows)

        return Peer(
            TOWHEE,
            config.resolution,
            ids if config.vocab_size == VOCAB_SIZE else None,
            on_arrays(lambda ids: model.get_sequence_output(ids, shaped=True)[:, 0]),
            on_arrays(lambda pixels: model.get_visual_output(pixels, torch.ones(1, len(pixels)), shaped=True)[0]),
            self.padded,
        )

    def open_clip(self) -> Contender:
        import open_clip
        from open_clip.model import CLIPTextCfg, CLIPVisionCfg

        config = self.config
        model = open_clip.CLIP(
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
        model.load_state_dict(self.state, assign=True)
        tokenizer = open_clip.get_tokenizer("ViT-B-32-quickgelu")
        return Peer(
            OPEN_CLIP,
            config.resolution,
            (lambda captions: tokenizer(captions).numpy()) if config.vocab_size == VOCAB_SIZE else None,
            on_arrays(model.encode_text),
            on_arrays(model.encode_image),
            self.padded,
        )

    def graph(self, modality: str, precision: str = "float32") -> Path:
        """What torch's exporter makes of transformers' model, and its dynamic quantisation; once."""
        path = self.folder / f"plain-{modality}-{precision}.onnx"
        if not path.exists() and precision == "int8":
            quantise(self.graph(modality), path)
        elif not path.exists():
            export(hugging_face_towers(self.hugging_face())[modality == "video"], modality, self.config, path)
        return path

    def onnxruntime(self, name: str, precision: str = "float32") -> Contender:
        text, frames = (session(self.graph(modality, precision)) for modality in ("text", "video"))
        return Peer(name, self.config.resolution, self.unpadded, text, frames, self.unpadded)

    def openvino(self) -> Contender:
        import openvino

        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": cores(),
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        text, frames = (
            core.compile_model(core.read_model(self.graph(modality)), "CPU", settings) for modality in ("text", "video")
        )

        def embed(model: Any) -> Callable[[np.ndarray], np.ndarray]:
            return lambda array: model(array)[0]

        return Peer(OPENVINO, self.config.resolution, self.unpadded, embed(text), embed(frames), self.unpadded)


def hugging_face_model(config: CLIPConfig, state: State) -> Any:
    """transformers' CLIP with the tensors of a state dict, which are not copied but for the two projections."""
    from transformers import CLIPConfig as HuggingFaceConfig
    from transformers import CLIPModel

    shape = {"projection_dim": config.embed_dim}
    with torch.device("meta"):
        model = CLIPModel(
            HuggingFaceConfig(
                text_config={
                    "hidden_size": config.text_width,
                    "intermediate_size": 4 * config.text_width,
                    "num_hidden_layers": config.text_layers,
                    "num_attention_heads": config.text_width // 64,
                    "max_position_embeddings": config.context_length,
                    "vocab_size": config.vocab_size,
                    "bos_token_id": config.vocab_size - 2,
                    "eos_token_id": config.vocab_size - 1,
                    **shape,
                },
                vision_config={
                    "hidden_size": config.vision_width,
                    "intermediate_size": 4 * config.vision_width,
                    "num_hidden_layers": config.vision_layers,
                    "num_attention_heads": config.vision_width // 64,
                    "image_size": config.resolution,
                    "patch_size": config.patch_size,
                    **shape,
                },
                **shape,
            )
        )
    theirs = {
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
            parts |= {f"{block}.{mine}": f"{layer}.{other}" for mine, other in names.items()}
            for kind in ("weight", "bias"):
                for part, third in zip("qkv", state[f"{block}.attn.in_proj_{kind}"].chunk(3), strict=True):
                    theirs[f"{layer}.self_attn.{part}_proj.{kind}"] = third
    for mine, other in parts.items():
        theirs |= {f"{other}.{kind}": state[f"{mine}.{kind}"] for kind in ("weight", "bias")}
    for name in ("text_model", "vision_model"):  # buffers that no state dict has
        getattr(model, name).embeddings.position_ids = theirs.pop(f"{name}.embeddings.position_ids")
    model.load_state_dict(theirs, assign=True)
    return model.eval()


class Part(nn.Module):
    """What a function makes of a model and inputs, as a module, which torch's exporter wants."""

    def __init__(self, model: nn.Module, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.model, inputs)


def hugging_face_towers(model: Any) -> tuple[Part, Part]:
    """Token ids to embeddings, and pixels to embeddings."""
    return (
        Part(model, lambda m, ids: m.text_projection(m.text_model(input_ids=ids).pooler_output)),
        Part(model, lambda m, pixels: m.visual_projection(m.vision_model(pixel_values=pixels).pooler_output)),
    )


def export(tower: Part, modality: str, config: CLIPConfig, path: Path) -> None:
    example = torch.zeros(2, 3, config.resolution, config.resolution)
    free = {0: "batch"}
    if modality == "text":
        example, free = torch.tensor([[0, 1, 2, config.vocab_size - 1]] * 2), {0: "batch", 1: "length"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower.eval(),
            (example,),
            str(path),
            input_names=["inputs"],
            output_names=["embeddings"],
            dynamic_axes={"inputs": free, "embeddings": {0: "batch"}},
            dynamo=False,  # the newer exporter needs one package more
        )


def quantise(path: Path, to: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # which would advise to simplify the graph first
    quantize_dynamic(path, to, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8)
    logging.disable(logging.NOTSET)


def session(model: Path | bytes) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.log_severity_level = 3
    made = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = made.get_inputs()[0].name
    return lambda array: made.run(None, {name: array})[0]


def contenders(given: Given, console: Console) -> tuple[dict[str, Contender], dict[str, str]]:
    """Those whose packages are there, and why the others are not."""
    builders: dict[str, tuple[str, Callable[[], Contender]]] = {
        TORCH: ("torch", lambda: given.ours(TORCH, "torch")),
        BFLOAT16: ("torch", lambda: given.ours(BFLOAT16, "torch", "bfloat16")),
        DEFAULT: ("onnxruntime onnx", lambda: given.ours(DEFAULT, "onnxruntime")),
        INT8: ("onnxruntime onnx", lambda: given.ours(INT8, "onnxruntime", "int8")),
        TOWHEE: ("towhee.models.clip4clip", given.towhee_models),
        PADDED: ("transformers", lambda: given.transformers(PADDED)),
        TRANSFORMERS: ("transformers", lambda: given.transformers(TRANSFORMERS)),
        OPEN_CLIP: ("open_clip", given.open_clip),
        ONNX: ("onnxruntime onnx", lambda: given.onnxruntime(ONNX)),
        ONNX_INT8: ("onnxruntime onnx", lambda: given.onnxruntime(ONNX_INT8, "int8")),
        OPENVINO: ("openvino onnx", given.openvino),
    }
    built: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    for name, (modules, build) in builders.items():
        console.print(f"building {name}", highlight=False)
        try:
            for module in modules.split():
                importlib.import_module(module)
        except (ImportError, RuntimeError) as error:  # torchvision raises the latter beside another torch than its own
            missing[name] = str(error).splitlines()[0]
        else:
            built[name] = build()
    return built, missing


# The work


@dataclass
class Row:
    """One piece of work.

    Attributes:
        calls: of each contender.
        expected: unit vectors.
        rounds: how many times each does it.
    """

    title: str
    calls: dict[str, Call]
    expected: np.ndarray
    rounds: int


def caption_of(ids: int, seed: int = 0) -> str:
    """So many ids with the marks at both ends."""
    return " ".join(random.Random(f"{seed}/{ids}").choices(WORDS, k=ids - 2))


def mixed_captions(count: int) -> list[str]:
    """As long as captions of videos are: most of them 7 to 17 ids, a few longer."""
    lengths = np.random.default_rng(0).lognormal(np.log(11), 0.45, count).round().clip(4, 77).astype(int)
    return [caption_of(length, seed) for seed, length in enumerate(lengths.tolist())]


def drawn_video(frames: int, seed: int = 0) -> np.ndarray:
    """Frames of 720p full of coloured blobs."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (frames, 9, 16, 3), dtype=np.uint8)
    size = FRAME[::-1]
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC)) for one in small])


TEXT_NETWORK = "one caption of {} ids, network alone"
TEXT_STRING = "one caption of 10 ids, string to vector"
MANY_STRING = "{} captions of mixed length, strings to vectors"
MANY_NETWORK = "{} captions of mixed length, network alone"
FRAMES_NETWORK, FRAMES_RAW = "{} frames, network alone", "{} frames of 720p, raw pixels to vector"
VIDEOS_RAW = "8 videos of {} frames of 720p, raw pixels to vectors"
COLD = "start of a process to the first caption's vector"


class Work:
    """The rows, in the order in which they are shown, each made when it is due.

    Args:
        given: the weights.
        built: the contenders.
        short: little work, once.
        rounds: how many times each does it otherwise.
    """

    def __init__(self, given: Given, built: dict[str, Contender], short: bool, rounds: int) -> None:
        self.given, self.built, self.short, self.rounds = given, built, short, rounds
        self.frames, self.captions = (3, 8) if short else (12, 64)
        self.embed_text, self.embed_frames = map(on_arrays, hugging_face_towers(given.hugging_face()))

    def rows(self) -> dict[str, Callable[[str], Row]]:
        """By title: what makes the row of that title."""
        longest = self.given.config.context_length
        made: dict[str, Callable[[str], Row]] = {TEXT_STRING: lambda title: self._strings(title, [caption_of(10)])}
        for ids in (10, longest) if self.short else (5, 10, 30, longest):
            made[TEXT_NETWORK.format(ids)] = lambda title, ids=ids: self._ids(title, [caption_of(ids)])
        mixed = mixed_captions(self.captions)
        made[MANY_STRING.format(self.captions)] = lambda title: self._strings(title, mixed)
        made[MANY_NETWORK.format(self.captions)] = lambda title: self._ids(title, mixed)
        made[FRAMES_NETWORK.format(self.frames)] = self._pixels
        made[FRAMES_RAW.format(self.frames)] = lambda title: self._videos(title, 1, self.rounds)
        if not self.short:
            made[VIDEOS_RAW.format(self.frames)] = lambda title: self._videos(title, 8, self.rounds // 3 + 1)
        return made

    def _contenders(self, captions: list[str]) -> list[Contender]:
        some = [self.built[name] for name in (TRANSFORMERS, ONNX, ONNX_INT8, OPENVINO) if name in self.built]
        return [*self.built.values(), *(map(OneByOne, some) if len(captions) > 1 else [])]

    def _expected(self, captions: list[str]) -> np.ndarray:
        return unit(np.concatenate([self.embed_text(self.given.unpadded([caption])) for caption in captions]))

    def _strings(self, title: str, captions: list[str]) -> Row:
        calls = {one.name: one.text(captions) for one in self._contenders(captions)}
        return Row(title, _those(calls), self._expected(captions), self.rounds)

    def _ids(self, title: str, captions: list[str]) -> Row:
        calls = {one.name: one.text_network(captions) for one in self._contenders(captions)}
        if title == TEXT_NETWORK.format(10) and not self.short:
            calls |= reading(text_bytes(self.given.config))
        return Row(title, _those(calls), self._expected(captions), self.rounds)

    def _pixels(self, title: str) -> Row:
        pixels = pixel_values(drawn_video(self.frames), self.given.config.resolution)
        calls = {one.name: one.video_network(pixels) for one in self.built.values()}
        if not self.short:
            calls |= products(self.given.config, self.frames)
        return Row(title, _those(calls), unit(self.embed_frames(pixels)), self.rounds)

    def _videos(self, title: str, count: int, rounds: int) -> Row:
        videos = [drawn_video(self.frames, seed) for seed in range(count)]
        pixels = [one_by_one(video, self.given.config.resolution) for video in videos]
        expected = np.concatenate([pooled(self.embed_frames(one), [one]) for one in pixels])
        calls = {one.name: one.video(videos) for one in self.built.values()}
        return Row(title, _those(calls), expected, rounds)


def _those(calls: dict[str, Call | None]) -> dict[str, Call]:
    return {name: call for name, call in calls.items() if call is not None}


# What bounds it


def flop(tokens: int, width: int, layers: int, one_in_last: bool) -> float:
    """Of the products in a transformer for one row of tokens; of the last layer perhaps for one token alone."""
    attention = 4 * tokens * width  # for each query
    block = tokens * (24 * width**2 + attention)
    last = tokens * 4 * width**2 + 20 * width**2 + attention  # keys and values of all, the rest of one
    return layers * block if not one_in_last else (layers - 1) * block + last


def frame_flop(config: CLIPConfig, one_in_last: bool) -> float:
    patches, width = (config.resolution // config.patch_size) ** 2, config.vision_width
    ends = 2 * patches * width * 3 * config.patch_size**2 + 2 * width * config.embed_dim
    return flop(patches + 1, width, config.vision_layers, one_in_last) + ends


def text_flop(config: CLIPConfig, ids: int, one_in_last: bool) -> float:
    return flop(ids, config.text_width, config.text_layers, one_in_last) + 2 * config.text_width * config.embed_dim


def text_bytes(config: CLIPConfig, width: int = 4) -> int:
    """Of the weights that each caption needs: all but the token embeddings, in so many bytes for each number."""
    return width * (12 * config.text_layers * config.text_width**2 + config.text_width * config.embed_dim)


def block_shapes(config: CLIPConfig) -> list[tuple[int, int]]:
    """Of the four products of a block of the vision tower, in an order in which one can feed the next."""
    width = config.vision_width
    return [(width, width), (width, 4 * width), (4 * width, width), (width, 3 * width)]


def products(config: CLIPConfig, frames: int) -> dict[str, Call | None]:
    """The four products of a block of the vision tower for all tokens of the frames, and nothing else."""
    tokens = frames * ((config.resolution // config.patch_size) ** 2 + 1)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(wide, high, generator=generator) / wide**0.5 for wide, high in block_shapes(config)]
    x = torch.randn(tokens, config.vision_width, generator=generator)

    @torch.inference_mode()
    def by_torch() -> np.ndarray:
        y = x
        for weight in transposed:
            y = F.linear(y, weight)
        return y.numpy()

    transposed = [weight.T.contiguous() for weight in weights]
    calls: dict[str, Call | None] = {PRODUCTS["torch"]: by_torch}
    if find_spec("onnxruntime") and find_spec("onnx"):
        from onnx import TensorProto, helper, numpy_helper

        kept = [numpy_helper.from_array(weight.numpy(), f"weight{number}") for number, weight in enumerate(weights)]
        nodes = [helper.make_node("MatMul", [f"x{n}", f"weight{n}"], [f"x{n + 1}"]) for n in range(len(weights))]
        first = helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["tokens", config.vision_width])
        last = helper.make_tensor_value_info(f"x{len(nodes)}", TensorProto.FLOAT, ["tokens", weights[-1].shape[1]])
        graph = helper.make_graph(nodes, "products", [first], [last], kept)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        run = session(model.SerializeToString())
        calls[PRODUCTS["onnxruntime"]] = lambda: run(x.numpy())
    return calls


def products_flop(config: CLIPConfig, frames: int) -> float:
    tokens = frames * ((config.resolution // config.patch_size) ** 2 + 1)
    return sum(2 * tokens * wide * high for wide, high in block_shapes(config))


def reading(size: int) -> dict[str, Call | None]:
    """As many bytes as the weights have, read by all threads, in two ways."""
    rows = torch.ones(size // 4 // 1024, 1024)
    one = torch.ones(1024)
    return {READING["sum"]: lambda: rows.sum().numpy(), READING["product"]: lambda: torch.mv(rows, one).numpy()}


# The figures


def measure(call: Call, seconds: float) -> float:
    """Milliseconds: the median of as many calls as fill the time; the first one counts only if it is the only one."""
    time.sleep(REST)
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[1:] or times)


def cosines(found: np.ndarray, expected: np.ndarray) -> float:
    return float((unit(found.astype(np.float64)) * expected).sum(-1).min())


def least_of(name: str) -> float:
    return LEAST.get(name.removesuffix(ALONE).removesuffix(GRAPH_KEPT), LEAST_FLOAT32)


def figures(row: Row, seconds: float, times: bool) -> dict[str, dict[str, Any]]:
    """For each contender its least cosine, and milliseconds in each round."""
    found: dict[str, dict[str, Any]] = {}
    for name, call in row.calls.items():
        vectors = call()
        bound = name in (*PRODUCTS.values(), *READING.values())
        found[name] = {} if bound else {"cosine": cosines(vectors, row.expected)}
    for number in range(row.rounds if times else 0):
        order = list(row.calls)
        random.Random(number).shuffle(order)
        for name in order:
            found[name].setdefault("milliseconds", []).append(round(measure(row.calls[name], seconds), 3))
    return found


def ratio(row: dict[str, dict[str, Any]], over: str, under: str, key: str = "milliseconds") -> list[float]:
    """Quartiles of what one takes over what another takes, round by round."""
    pairs = zip(row[over][key], row[under][key], strict=True)
    return quartiles([one / other for one, other in pairs])


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def base_of(row: dict[str, dict[str, Any]]) -> str:
    return next(name for name in (DEFAULT, DEFAULT + GRAPH_KEPT, TORCH) if name in row)


def cells_of(row: dict[str, dict[str, Any]], name: str) -> list[str]:
    """Of one contender in a row: milliseconds, times clip4clip's, megabytes, cosine."""
    own = row[name]
    low, middle, high = quartiles(own["milliseconds"])
    first, times, third = ratio(row, name, base_of(row))
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    cells = [f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})", f"{times:.2f} ({first:.2f}–{third:.2f})"]
    if "megabytes" in own:
        cells.append(f"{statistics.median(own['megabytes']):.0f}")
    return [*cells, f"{own['cosine']:.6f}" if "cosine" in own else "–"]


def lines_of(row: dict[str, dict[str, Any]]) -> Lines:
    megabytes = ["peak MB"] if any("megabytes" in own for own in row.values()) else []
    header = ["contender", "ms", "times clip4clip's", *megabytes, "least cosine"]
    return [header, *([name, *cells_of(row, name)] for name in row)]


def cosine_lines(rows: Rows) -> Lines:
    """All rows in one."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    cells = [[f"{row[name]['cosine']:.6f}" if name in row else "–" for row in rows.values()] for name in names]
    return [["contender", *rows], *([name, *cell] for name, cell in zip(names, cells, strict=True))]


def table_of(title: str, lines: Lines) -> Table:
    table = Table(*lines[0], title=title, title_justify="left")
    table.columns[0].no_wrap = True
    for line in lines[1:]:
        table.add_row(*line, style="bold" if line[0].startswith(DEFAULT) else None)
    return table


def markdown_of(title: str, lines: Lines) -> str:
    table = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return f"\n**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in table)


# Cold start


COLD_REPORT = """
import json, re, resource, sys
from pathlib import Path
status = Path("/proc/self/status")  # getrusage knows the peak of the parent, too, on Linux
if status.exists():
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) / 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
print(json.dumps({"megabytes": peak, "vector": [float(number) for number in vector]}), flush=True)
"""
COLD_OURS = """
from clip4clip import TextEncoder
vector = TextEncoder.load(MODEL, FOLDER + "/model.safetensors", "cpu", {runtime!r}, {precision!r})(CAPTION)
"""
KEPT, FIRST_TIME, KEPT_INT8 = DEFAULT + GRAPH_KEPT, f"{DEFAULT}, first time", INT8 + GRAPH_KEPT
COLD_PROGRAMS = {
    KEPT: COLD_OURS.format(runtime="onnxruntime", precision="float32"),
    FIRST_TIME: COLD_OURS.format(runtime="onnxruntime", precision="float32"),
    KEPT_INT8: COLD_OURS.format(runtime="onnxruntime", precision="int8"),
    TORCH: COLD_OURS.format(runtime="torch", precision="float32"),
    TOWHEE: """
import torch
from towhee.models import clip4clip
from towhee.models.clip.simple_tokenizer import SimpleTokenizer
model = clip4clip.create_model(MODEL, 77, True, FOLDER + "/pytorch_model.bin.1", "cpu").eval()
ids = clip4clip.convert_tokens_to_id(SimpleTokenizer(), CAPTION, 77)
with torch.inference_mode():
    vector = model.get_sequence_output(torch.from_numpy(ids))[0, 0]
""",
    # The text tower alone, and ids ready made: it has no vocabulary without a download.
    TRANSFORMERS: """
import torch
from transformers import CLIPTextModelWithProjection
model = CLIPTextModelWithProjection.from_pretrained(FOLDER + "/hugging-face").eval()
with torch.inference_mode():
    vector = model(torch.tensor([IDS])).text_embeds[0]
""",
    OPEN_CLIP: """
import torch, open_clip
model = open_clip.create_model("ViT-B-32-quickgelu", FOLDER + "/model.safetensors").eval()
with torch.inference_mode():
    vector = model.encode_text(open_clip.get_tokenizer("ViT-B-32-quickgelu")([CAPTION]))[0]
""",
}


def cold_start(given: Given, built: dict[str, Contender], rounds: int) -> dict[str, dict[str, Any]]:
    """Each in a process of its own; the files were all read shortly before."""
    needs = {KEPT: DEFAULT, FIRST_TIME: DEFAULT, KEPT_INT8: INT8}
    programs = {name: code for name, code in COLD_PROGRAMS.items() if needs.get(name, name) in built}
    torch.save({f"clip.{name}": tensor for name, tensor in given.state.items()}, given.folder / "pytorch_model.bin.1")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    given.hugging_face().save_pretrained(given.folder / "hugging-face")
    caption = caption_of(10)
    ids = given.unpadded([caption])
    expected = unit(on_arrays(hugging_face_towers(given.hugging_face())[0])(ids))
    names = {"MODEL": given.model_name, "FOLDER": str(given.folder), "CAPTION": caption, "IDS": ids[0].tolist()}
    start = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    found: dict[str, dict[str, Any]] = {name: {"milliseconds": [], "megabytes": []} for name in programs}
    for number in range(-1, rounds):  # once more than is counted, so that all files have been read
        order = list(programs)
        random.Random(number).shuffle(order)
        for name in order:
            with tempfile.TemporaryDirectory(dir=given.folder) as empty:
                environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
                if name == FIRST_TIME:
                    environment["CLIP4CLIP_CACHE"] = empty
                one = run_cold(start + programs[name] + COLD_REPORT, environment)
            found[name]["cosine"] = cosines(np.array([one.pop("vector")]), expected)
            for key, value in one.items() if number >= 0 else ():
                found[name][key].append(round(value, 1))
    return found


def run_cold(program: str, environment: dict[str, str]) -> dict[str, Any]:
    begun = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-c", program]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        line = child.stdout.readline()  # type: ignore[union-attr]
        milliseconds = 1e3 * (time.perf_counter() - begun)
        _, errors = child.communicate()
    if child.returncode:
        raise RuntimeError(f"a cold start failed: {errors[-2000:]}")
    return {"milliseconds": milliseconds, **json.loads(line)}


# What it must show


def roofline(config: CLIPConfig, rows: Rows) -> list[dict[str, Any]]:
    """For each of ours, and for frames its peers, how often its time holds that of the products or of reading alone."""
    found: list[dict[str, Any]] = []
    frames, captions = rows.get(FRAMES_NETWORK.format(12), {}), rows.get(TEXT_NETWORK.format(10), {})
    products_by = fastest(frames, PRODUCTS.values())
    if products_by:
        rate = products_flop(config, 12) / statistics.median(frames[products_by]["milliseconds"]) / 1e6
        for name in frames:
            if "cosine" in frames[name] and least_of(name) == LEAST_FLOAT32:
                work = 12 * frame_flop(config, one_in_last=name.startswith(DEFAULT))
                times = [one * products_flop(config, 12) / work for one in ratio(frames, name, products_by)]
                found.append(bound(f"12 frames, {name}", f"{work / 1e9:.1f} GFLOP", rate, "GFLOP/s", times))
        work = text_flop(config, 10, one_in_last=True)
        for name in (TORCH, DEFAULT):
            if name in captions:
                times = [one / (work / rate / 1e6) for one in quartiles(captions[name]["milliseconds"])]
                found.append(bound(f"one caption of 10 ids, {name}", f"{work / 1e9:.2f} GFLOP", rate, "GFLOP/s", times))
    reading_by = fastest(captions, READING.values())
    if reading_by:
        rate = text_bytes(config) / statistics.median(captions[reading_by]["milliseconds"]) / 1e6
        for name, width in {TORCH: 4, DEFAULT: 4, BFLOAT16: 2, INT8: 1}.items():
            if name in captions:
                times = [one * 4 / width for one in ratio(captions, name, reading_by)]
                size = f"{text_bytes(config, width) / 1e6:.0f} MB of weights"
                found.append(bound(f"one caption of 10 ids, {name}", size, rate, "GB/s", times))
    return found


def bound(work: str, size: str, rate: float, unit: str, times: list[float]) -> dict[str, Any]:
    return {"work": work, "size": size, "rate": rate, "unit": unit, "times": times}


def fastest(row: dict[str, dict[str, Any]], names: Iterable[str]) -> str | None:
    there = [name for name in names if "milliseconds" in row.get(name, {})]
    return min(there, key=lambda name: statistics.median(row[name]["milliseconds"]), default=None)


@dataclass
class Bar:
    """What must be shown.

    Attributes:
        text: what is compared.
        row: its title.
        over: the contender whose figure stands over the line; None for the best peer.
        under: the one below.
        least: what the quotient must be.
        most: or must not exceed.
        key: of which figure.
    """

    text: str
    row: str
    over: str | None
    under: str
    least: float | None = None
    most: float | None = None
    key: str = "milliseconds"


BARS = (
    Bar("one caption of 10 ids, string to vector, float32, against towhee.models", TEXT_STRING, TOWHEE, DEFAULT, 15),
    Bar("one caption of 10 ids, string to vector, int8, against towhee.models", TEXT_STRING, TOWHEE, INT8, 30),
    Bar(
        "one caption of 10 ids, network alone, float32, against towhee.models",
        TEXT_NETWORK.format(10),
        TOWHEE,
        DEFAULT,
        7,
    ),
    Bar("one caption of 10 ids, network alone, int8, against towhee.models", TEXT_NETWORK.format(10), TOWHEE, INT8, 12),
    Bar(
        "one caption of 10 ids, network alone, float32, against transformers",
        TEXT_NETWORK.format(10),
        TRANSFORMERS,
        DEFAULT,
        2.5,
    ),
    Bar(
        "64 captions, strings to vectors, float32, against the best peer",
        MANY_STRING.format(64),
        None,
        DEFAULT,
        1.5,
    ),
    Bar("64 captions, network alone, float32, against the best peer", MANY_NETWORK.format(64), None, DEFAULT, 1.5),
    Bar("12 frames, float32, against towhee.models", FRAMES_NETWORK.format(12), TOWHEE, DEFAULT, 1.2),
    Bar("12 frames, int8, against towhee.models", FRAMES_NETWORK.format(12), TOWHEE, INT8, 1.6),
    Bar(
        "12 frames of 720p, float32, against Pillow one by one and transformers",
        FRAMES_RAW.format(12),
        TRANSFORMERS,
        DEFAULT,
        1.4,
    ),
    Bar("cold start to the first caption's vector against towhee.models", COLD, TOWHEE, KEPT, 4),
    Bar("peak memory until then, of towhee.models'", COLD, KEPT, TOWHEE, most=0.5, key="megabytes"),
)


def best_peer(row: dict[str, dict[str, Any]]) -> str | None:
    """The fastest of the others that computes in float32."""
    peers = [name for name in row if not name.startswith(DEFAULT) and least_of(name) == LEAST_FLOAT32]
    return fastest(row, peers)


def bars(rows: Rows, bounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those whose rows were measured, each with what was found."""
    shown: list[dict[str, Any]] = []
    for bar in BARS:
        row = rows.get(bar.row, {})
        over = bar.over or best_peer(row)
        if over in row and bar.under in row:
            text = bar.text if bar.over else f"{bar.text}, {over}"
            shown.append({"text": text, **judged(ratio(row, over, bar.under, bar.key), bar.least, bar.most)})
    for one in bounds:
        if one["work"] == f"12 frames, {DEFAULT}":
            shown.append(
                {"text": "12 frames, float32, of what its products take alone", **judged(one["times"], most=1.15)}
            )
    return shown


def judged(times: list[float], least: float | None = None, most: float | None = None) -> dict[str, Any]:
    met = (least is None or times[1] >= least) and (most is None or times[1] <= most)
    return {"bar": f"≥ {least}" if least is not None else f"≤ {most}", "times": times, "met": met}


def summary_of(bounds: list[dict[str, Any]], shown: list[dict[str, Any]]) -> dict[str, Lines]:
    """Two tables: what bounds it, and what it must show."""

    def spread(times: list[float]) -> str:
        return f"{times[1]:.2f} ({times[0]:.2f}–{times[2]:.2f})"

    first = [["work", "size", "at", "times that"]]
    first += [[one["work"], one["size"], f"{one['rate']:.0f} {one['unit']}", spread(one["times"])] for one in bounds]
    second = [["what is shown", "bar", "found", ""]]
    second += [[one["text"], one["bar"], spread(one["times"]), "met" if one["met"] else "missed"] for one in shown]
    return {"What bounds it": first, "Bars": second}


# The picture


PANELS = {
    TEXT_STRING: "one caption of 10 ids, string to vector",
    TEXT_NETWORK.format(10): "the same, network alone",
    MANY_STRING.format(64): "64 captions, strings to vectors",
    FRAMES_NETWORK.format(12): "12 frames, network alone",
    FRAMES_RAW.format(12): "12 frames of 720p, raw pixels to vector",
    COLD: "start of a process to the first vector",
}


def plot(rows: Rows, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {title: rows[row] for row, title in PANELS.items() if row in rows}
    lines = (len(panels) + 1) // 2
    figure, grid = pyplot.subplots(lines, 2, figsize=(11, 3.9 * lines), layout="constrained")
    for axes, (title, row) in zip(grid.flat, panels.items(), strict=False):
        medians = {
            name: statistics.median(own["milliseconds"])
            for name, own in row.items()
            if "cosine" in own and name != PADDED
        }
        names = sorted(medians, key=lambda name: -medians[name])
        colours = ["#d1495b" if name.startswith(DEFAULT) else "#b8c0c8" for name in names]
        bars = axes.barh(names, [medians[name] for name in names], color=colours, height=0.72)
        base = medians[base_of(row)]
        labels = [f" {written(medians[name])}  ({medians[name] / base:.1f}×)" for name in names]
        axes.bar_label(bars, labels, fontsize=8)
        axes.set_title(title, fontsize=10.5, loc="left")
        axes.set_xlim(0, 1.3 * max(medians.values()))
        axes.set_xticks([])
        axes.tick_params(axis="y", length=0, labelsize=8.5)
        for name, label in zip(names, axes.get_yticklabels(), strict=True):
            label.set_fontweight("bold" if name.startswith(DEFAULT) else "normal")
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    for axes in list(grid.flat)[len(panels) :]:
        axes.remove()
    figure.savefig(path, dpi=130)


def written(milliseconds: float) -> str:
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 100 else f"{milliseconds:.1f} ms"


def versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "onnxruntime", "onnx", "openvino", "transformers", "open_clip_torch", "towhee.models"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def wrong(rows: Rows) -> list[str]:
    """Who gave other vectors than it should."""
    return [
        f"{name} gives other vectors: {title}: cosine {own['cosine']:.6f}, {least_of(name)} is due"
        for title, row in rows.items()
        for name, own in row.items()
        if "cosine" in own and not own["cosine"] >= least_of(name)  # so written that NaN is wrong, too
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="clip_vit_b32", help="the shape of the random weights")
    parser.add_argument("--rounds", type=int, default=7, help="with 0 what --json holds is shown, and nothing measured")
    parser.add_argument("--seconds", type=float, default=0.4, help="for which short work is repeated in each round")
    parser.add_argument(
        "--only", default="", help="rows whose title contains this; of the others the figures in --json are kept"
    )
    parser.add_argument("--short", action="store_true", help="little work, once, to see that all vectors are right")
    parser.add_argument("--markdown", action="store_true", help="also print the tables as Markdown")
    parser.add_argument("--json", type=Path, help="written after each row")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    if not arguments.rounds and not arguments.json:
        parser.error("--rounds 0 shows what --json holds: say which")
    return arguments


def report_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is known before anything is measured."""
    if not arguments.rounds:
        return json.loads(arguments.json.read_text("utf-8"))
    rows: Rows = {}
    if arguments.only and arguments.json and arguments.json.exists():
        kept = json.loads(arguments.json.read_text("utf-8"))
        rows = kept["rows"] if kept["model"] == arguments.model else {}
    return {
        "model": arguments.model,
        "threads": cores(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "versions": versions(),
        "rows": rows,
    }


def write(report: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def measure_rows(arguments: argparse.Namespace, report: dict[str, Any], console: Console, folder: Path) -> None:
    """Puts the rows into the report."""
    os.environ["CLIP4CLIP_CACHE"] = str(folder / "cache")  # graphs of random weights are of no use to anybody
    given = Given(arguments.model, random_state_dict(get_model(arguments.model).config), folder)
    save_file(given.state, given.weights)
    built, missing = contenders(given, console)
    report["not installed"] = list(missing)
    for name, why in missing.items():
        console.print(f"{name}: not installed ({why})", highlight=False)

    def keep(title: str, row: dict[str, dict[str, Any]]) -> None:
        report["rows"][title] = row
        if not arguments.short:
            console.print(table_of(title, lines_of(row)), highlight=False)
        if arguments.json:
            write(report, arguments.json)

    for title, make in Work(given, built, arguments.short, arguments.rounds).rows().items():
        if arguments.only in title:
            keep(title, figures(make(title), arguments.seconds, times=not arguments.short))
    if not arguments.short and arguments.only in COLD and arguments.model == "clip_vit_b32":
        keep(COLD, cold_start(given, built, (arguments.rounds + 1) // 2))


def main() -> int:
    arguments = parse()
    console = Console(width=150)
    torch.set_num_threads(cores())
    if find_spec("transformers") is None:
        print("transformers gives the vectors that all are compared with: pip install transformers", file=sys.stderr)
        return 2
    report = report_of(arguments)
    rows: Rows = report["rows"]
    if arguments.rounds:
        with tempfile.TemporaryDirectory(prefix="clip4clip-embed-") as temporary:
            measure_rows(arguments, report, console, Path(temporary))
    if arguments.short:
        tables = {"Least cosine to transformers in float32": cosine_lines(rows)}
    else:
        report["bounds"] = roofline(get_model(report["model"]).config, rows)
        report["bars"] = bars(rows, report["bounds"])
        tables = summary_of(report["bounds"], report["bars"])
    for title, lines in tables.items():
        if len(lines) > 1:
            console.print(table_of(title, lines), highlight=False)
    if arguments.markdown and not arguments.short:
        for title, lines in ({title: lines_of(row) for title, row in rows.items()} | tables).items():
            print(markdown_of(title, lines))
    if arguments.json:
        write(report, arguments.json)
    if arguments.plot:
        plot(rows, arguments.plot)
    failures = wrong(rows)
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
