"""The tasks of benchmarks/embed.py: captions, frames, lower bounds for their time, and the start of a process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from embed_contenders import (
    DEFAULT,
    INT8,
    ONNX,
    ONNX_INT8,
    OPEN_CLIP,
    OPENVINO,
    TORCH,
    TOWHEE,
    TRANSFORMERS,
    Call,
    Contender,
    OneByOne,
    Setup,
    onnx_session,
    pooled,
    preprocess_with_pillow,
    unit,
    with_arrays,
)
from peer_models import hugging_face_towers
from PIL import Image

from clip4clip.config import CLIPConfig

# The figures of a row by contender: "cosine", and lists over the rounds, "milliseconds" and perhaps "megabytes".
Figures = dict[str, dict[str, Any]]

TEXT_NETWORK = "one caption of {} ids, network alone"
TEXT_STRING = "one caption of 10 ids, string to vector"
MANY_STRING = "{} captions of mixed length, strings to vectors"
MANY_NETWORK = "{} captions of mixed length, network alone"
FRAMES_NETWORK, FRAMES_RAW = "{} frames, network alone", "{} frames of 720p, raw pixels to vector"
VIDEOS_RAW = "8 videos of {} frames of 720p, raw pixels to vectors"
COLD = "start of a process to the first caption's vector"

GRAPH_KEPT = ", graph kept"
KEPT, FIRST_TIME, KEPT_INT8 = DEFAULT + GRAPH_KEPT, f"{DEFAULT}, first time", INT8 + GRAPH_KEPT
PRODUCTS = {"torch": "products alone, torch", "onnxruntime": "products alone, ONNX Runtime"}
READING = {"sum": "reading alone, sum", "product": "reading alone, matrix × vector"}

BRIEF_CAPTIONS, BRIEF_FLOP = 8, 40e9  # captions, and the FLOP of all frames, of a brief report

FRAME = (720, 1280)
WORDS = ("dog", "horse", "kids", "grass", "people", "house", "car", "green", "small", "play", "watch", "near", "the")


@dataclass
class Row:
    """One task.

    Attributes:
        title: title of the row in the report.
        calls: call of each contender that does the task, by its name.
        expected: correct unit vectors.
        rounds: number of rounds.
    """

    title: str
    calls: dict[str, Call]
    expected: np.ndarray
    rounds: int


def caption_of(ids: int, seed: int = 0) -> str:
    """Return a caption with this many token ids, start and end marks included."""
    return " ".join(random.Random(f"{seed}/{ids}").choices(WORDS, k=ids - 2))


def mixed_captions(count: int, longest: int = 77) -> list[str]:
    """Return captions as long as those of videos: mostly 7 to 17 ids, a few longer."""
    lengths = np.random.default_rng(0).lognormal(np.log(11), 0.45, count).round().clip(4, longest).astype(int)
    return [caption_of(length, seed) for seed, length in enumerate(lengths.tolist())]


def drawn_video(frames: int, seed: int = 0) -> np.ndarray:
    """Return frames of 720p, full of coloured blobs."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (frames, 9, 16, 3), dtype=np.uint8)
    size = FRAME[::-1]
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in small])


class Tasks:
    """The rows of the report, each prepared shortly before it is measured.

    Args:
        setup: the weights.
        contenders: the contenders by name.
        short: whether to make the tasks small.
        brief: whether there are few tasks.
        rounds: number of rounds of most rows.
    """

    def __init__(self, setup: Setup, contenders: dict[str, Contender], short: bool, brief: bool, rounds: int) -> None:
        self.setup, self.contenders, self.short, self.brief, self.rounds = setup, contenders, short, brief, rounds
        self.frames, self.captions = (3, 8) if short else (12, 64)
        self.embed_text, self.embed_frames = setup.reference()

    def rows(self) -> dict[str, Callable[[str], Row]]:
        """Return, by title, a function that prepares the row of that title."""
        if self.brief:
            return self._brief_rows()
        longest = self.setup.config.context_length
        rows: dict[str, Callable[[str], Row]] = {TEXT_STRING: lambda title: self._strings(title, [caption_of(10)])}
        for ids in (10, longest) if self.short else (5, 10, 30, longest):
            rows[TEXT_NETWORK.format(ids)] = lambda title, ids=ids: self._ids(title, [caption_of(ids)])
        mixed = mixed_captions(self.captions, longest)
        rows[MANY_STRING.format(self.captions)] = lambda title: self._strings(title, mixed)
        rows[MANY_NETWORK.format(self.captions)] = lambda title: self._ids(title, mixed)
        rows[FRAMES_NETWORK.format(self.frames)] = self._pixels
        rows[FRAMES_RAW.format(self.frames)] = lambda title: self._videos(title, 1, self.rounds)
        if not self.short:
            rows[VIDEOS_RAW.format(self.frames)] = lambda title: self._videos(title, 8, self.rounds // 3 + 1)
        return rows

    def _brief_rows(self) -> dict[str, Callable[[str], Row]]:
        """Return three rows of the network alone; large networks get few frames."""
        mixed = mixed_captions(BRIEF_CAPTIONS, self.setup.config.context_length)
        self.frames = max(1, min(self.frames, int(BRIEF_FLOP // frame_flop(self.setup.config, one_in_last=False))))
        return {
            TEXT_NETWORK.format(10): lambda title: self._ids(title, [caption_of(10)]),
            MANY_NETWORK.format(BRIEF_CAPTIONS): lambda title: self._ids(title, mixed),
            FRAMES_NETWORK.format(self.frames): self._pixels,
        }

    def _text_contenders(self, captions: list[str]) -> list[Contender]:
        names = () if self.brief or len(captions) == 1 else (TRANSFORMERS, ONNX, ONNX_INT8, OPENVINO)
        peers = [self.contenders[name] for name in names if name in self.contenders]
        return [*self.contenders.values(), *map(OneByOne, peers)]

    def _expected(self, captions: list[str]) -> np.ndarray:
        return unit(self.embed_text(captions))

    def _strings(self, title: str, captions: list[str]) -> Row:
        calls = {contender.name: contender.text(captions) for contender in self._text_contenders(captions)}
        return Row(title, _without_none(calls), self._expected(captions), self.rounds)

    def _ids(self, title: str, captions: list[str]) -> Row:
        calls = {contender.name: contender.text_network(captions) for contender in self._text_contenders(captions)}
        if title == TEXT_NETWORK.format(10) and not self.short and not self.brief:
            calls |= reading_calls(text_bytes(self.setup.config))
        return Row(title, _without_none(calls), self._expected(captions), self.rounds)

    def _pixels(self, title: str) -> Row:
        pixels = preprocess_with_pillow(drawn_video(self.frames), self.setup.config)
        calls = {contender.name: contender.video_network(pixels) for contender in self.contenders.values()}
        if not self.short and not self.brief:
            calls |= product_calls(self.setup.config, self.frames)
        return Row(title, _without_none(calls), unit(self.embed_frames(pixels)), self.rounds)

    def _videos(self, title: str, count: int, rounds: int) -> Row:
        videos = [drawn_video(self.frames, seed) for seed in range(count)]
        pixels = [preprocess_with_pillow(video, self.setup.config) for video in videos]
        expected = np.concatenate([pooled(self.embed_frames(video), [video]) for video in pixels])
        calls = {contender.name: contender.video(videos) for contender in self.contenders.values()}
        return Row(title, _without_none(calls), expected, rounds)


def _without_none(calls: dict[str, Call | None]) -> dict[str, Call]:
    return {name: call for name, call in calls.items() if call is not None}


# Lower bounds


def transformer_flop(tokens: int, width: int, mlp_width: int, layers: int, one_in_last: bool) -> float:
    """Return the FLOP of the matrix products of a transformer, optionally with only one token in the last layer.

    The width of the heads does not matter: all heads together have the width of the transformer.
    """
    attention = 4 * tokens * width  # of one query
    mlp = 4 * width * mlp_width
    block = tokens * (8 * width**2 + mlp + attention)
    last = tokens * 4 * width**2 + 4 * width**2 + mlp + attention  # keys and values of all tokens, the rest of one
    return layers * block if not one_in_last else (layers - 1) * block + last


def frame_flop(config: CLIPConfig, one_in_last: bool) -> float:
    """Return the FLOP of one frame; ``one_in_last`` only counts where the class token is all that is used."""
    patches = (config.resolution // config.patch_size) ** 2
    width, mlp_width = config.vision_width, config.vision_mlp_width
    one_in_last = one_in_last and config.pooling == "token"
    flop = transformer_flop(patches + 1, width, mlp_width, config.vision_layers, one_in_last)
    if config.pooling == "attention":  # the last layer of a transformer, for one query
        flop += transformer_flop(patches + 1, width, 4 * width, 1, one_in_last=True)
    return flop + 2 * patches * width * 3 * config.patch_size**2 + 2 * width * config.embed_dim


def text_flop(config: CLIPConfig, ids: int, one_in_last: bool) -> float:
    width = config.text_width
    flop = transformer_flop(ids, width, config.text_mlp_width, config.text_layers, one_in_last)
    return flop + 2 * width * config.embed_dim


def text_bytes(config: CLIPConfig, width: int = 4) -> int:
    """Return the bytes of the weights that every caption reads, all but the token embeddings.

    Args:
        config: shape of the model.
        width: bytes of a number.
    """
    block = 4 * config.text_width**2 + 2 * config.text_width * config.text_mlp_width
    return width * (config.text_layers * block + config.text_width * config.embed_dim)


def block_shapes(config: CLIPConfig) -> list[tuple[int, int]]:
    """Return the shapes of the four matrix products of a vision block, in an order in which each feeds the next."""
    width, mlp_width = config.vision_width, config.vision_mlp_width
    return [(width, width), (width, mlp_width), (mlp_width, width), (width, 3 * width)]


def products_flop(config: CLIPConfig, frames: int) -> float:
    tokens = frames * ((config.resolution // config.patch_size) ** 2 + 1)
    return sum(2 * tokens * wide * high for wide, high in block_shapes(config))


def product_calls(config: CLIPConfig, frames: int) -> dict[str, Call | None]:
    """Return calls that only compute the four matrix products of a vision block, for all tokens of the frames."""
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

        initializers = [
            numpy_helper.from_array(weight.numpy(), f"weight{number}") for number, weight in enumerate(weights)
        ]
        nodes = [helper.make_node("MatMul", [f"x{n}", f"weight{n}"], [f"x{n + 1}"]) for n in range(len(weights))]
        first = helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["tokens", config.vision_width])
        last = helper.make_tensor_value_info(f"x{len(nodes)}", TensorProto.FLOAT, ["tokens", weights[-1].shape[1]])
        graph = helper.make_graph(nodes, "products", [first], [last], initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        run = onnx_session(model.SerializeToString())
        calls[PRODUCTS["onnxruntime"]] = lambda: run(x.numpy())
    return calls


def reading_calls(size: int) -> dict[str, Call | None]:
    """Return calls that only read as many bytes as the weights have, with all threads, in two ways."""
    rows = torch.ones(size // 4 // 1024, 1024)
    vector = torch.ones(1024)
    return {READING["sum"]: lambda: rows.sum().numpy(), READING["product"]: lambda: torch.mv(rows, vector).numpy()}


def least_cosine(vectors: np.ndarray, expected: np.ndarray) -> float:
    return float((unit(vectors.astype(np.float64)) * expected).sum(-1).min())


# The start of a process


COLD_REPORT = """
import json, re, resource, sys
from pathlib import Path
status = Path("/proc/self/status")  # on Linux, getrusage includes the peak of the parent
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
    # Only the text tower, and prepared ids: its vocabulary would be a download.
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


def measure_cold_starts(setup: Setup, contenders: dict[str, Contender], rounds: int) -> Figures:
    """Measure the time and the peak memory of processes that embed one caption; their files are in the disk cache."""
    needs = {KEPT: DEFAULT, FIRST_TIME: DEFAULT, KEPT_INT8: INT8}
    programs = {name: code for name, code in COLD_PROGRAMS.items() if needs.get(name, name) in contenders}
    torch.save({f"clip.{name}": tensor for name, tensor in setup.state.items()}, setup.folder / "pytorch_model.bin.1")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    setup.hugging_face().save_pretrained(setup.folder / "hugging-face")
    caption = caption_of(10)
    ids = setup.unpadded([caption])
    expected = unit(with_arrays(hugging_face_towers(setup.hugging_face())[0])(ids))
    names = {"MODEL": setup.model_name, "FOLDER": str(setup.folder), "CAPTION": caption, "IDS": ids[0].tolist()}
    constants = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    figures: Figures = {name: {"milliseconds": [], "megabytes": []} for name in programs}
    for number in range(-1, rounds):  # round -1 only reads all files
        order = list(programs)
        random.Random(number).shuffle(order)
        for name in order:
            with tempfile.TemporaryDirectory(dir=setup.folder) as empty:
                environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
                if name == FIRST_TIME:
                    environment["CLIP4CLIP_CACHE"] = empty
                result = run_cold(constants + programs[name] + COLD_REPORT, environment)
            figures[name]["cosine"] = least_cosine(np.array([result.pop("vector")]), expected)
            for key, value in result.items() if number >= 0 else ():
                figures[name][key].append(round(value, 1))
    return figures


def run_cold(program: str, environment: dict[str, str]) -> dict[str, Any]:
    start = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-c", program]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        line = child.stdout.readline()  # type: ignore[union-attr]
        milliseconds = 1e3 * (time.perf_counter() - start)
        _, errors = child.communicate()
    if child.returncode:
        raise RuntimeError(f"a cold start failed: {errors[-2000:]}")
    return {"milliseconds": milliseconds, **json.loads(line)}
