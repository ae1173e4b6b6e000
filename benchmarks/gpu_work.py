"""The work of benchmarks/gpu.py: networks and contenders, and how they are checked and measured."""

from __future__ import annotations

import importlib
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peer_models import (
    State,
    has_transformers_network,
    hugging_face_model,
    hugging_face_towers,
    open_clip_model,
    open_clip_state,
)
from torch import Tensor

from clip4clip.config import CLIPConfig, get_model
from clip4clip.model import MeanPooling, TextTower, VisionTower, random_state_dict
from clip4clip.runtime.torch_backend import TorchTower
from clip4clip.training.loss import contrastive_loss

MODELS = {"ViT-B/32": "clip_vit_b32", "ViT-L/14": "clip_vit_l14", "PE-Core-B/16": "pe_core_b16"}
MODALITIES = ("text", "video")
OURS, COMPILED, OPEN_CLIP, TRANSFORMERS = "clip4clip", "clip4clip, compiled", "open_clip", "transformers"
PEERS = {OPEN_CLIP: "open_clip timm", TRANSFORMERS: "transformers"}  # the modules that each needs
ARRAYS, NETWORK = "arrays to arrays", "network alone"

CHECKED = {"text": 16, "video": 4}  # captions and frames whose embeddings a CPU computes, too
LONGEST = 16  # token ids of a caption
PAIRS, FRAMES = 4, 2  # of a training step

# The least cosine to float32 on a CPU, and the largest difference of a number of the unit vectors.
PARITY_BARS = {"float32": (0.99999, 1e-4), "float16": (0.9999, 3e-3), "bfloat16": (0.999, 2e-2)}
# The largest relative difference of the loss, and the least cosine of all gradients together.
TRAINING_BARS = {"float32": (1e-4, 0.9999), "bfloat16": (2e-2, 0.98)}

Call = Callable[[np.ndarray], np.ndarray]
Function = Callable[[Tensor], Tensor]


@dataclass
class Network:
    """A network with random weights, its inputs, and its embeddings of some of them.

    Attributes:
        name: its name in the report.
        config: its shape.
        largest: size of the largest batch.
    """

    name: str
    config: CLIPConfig
    largest: int

    @cached_property
    def state(self) -> State:
        return random_state_dict(self.config)

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        """Token ids of captions with 4 to 16 ids, (B, L) int64, and pixel values, (B, 3, R, R) float32."""
        generator, config = np.random.default_rng(0), self.config
        count, length = max(self.largest, *CHECKED.values()), min(LONGEST, config.context_length)
        ids = generator.integers(1, config.vocab_size - 2, (count, length))
        ids[:, 0] = config.vocab_size - 2
        last = generator.integers(3, length, (count, 1))
        last[0] = length - 1  # the longest caption is in every batch
        ids = np.where(np.arange(length) < last, ids, 0)
        np.put_along_axis(ids, last, config.vocab_size - 1, axis=1)
        shape = (min(count, 64), 3, config.resolution, config.resolution)
        frames = generator.standard_normal(shape, np.float32)
        return {"text": ids, "video": np.resize(frames, (count, *shape[1:]))}

    @cached_property
    def expected(self) -> dict[str, np.ndarray]:
        """Unit vectors of the first inputs, computed in float32 on the CPU."""
        return {
            modality: unit(self.tower(modality, "cpu")(self.inputs[modality][: CHECKED[modality]]))
            for modality in MODALITIES
        }

    def module(self, modality: str) -> TextTower | VisionTower:
        """Return a tower in float32 on the CPU, which shares its tensors with the state dict."""
        with torch.device("meta"):
            module = TextTower(self.config) if modality == "text" else VisionTower(self.config)
        visual = {name.removeprefix("visual."): each for name, each in self.state.items() if name.startswith("visual.")}
        text = {name: self.state[name] for name in module.state_dict()} if modality == "text" else {}
        module.load_state_dict(text or visual, assign=True)
        return module.eval()

    def tower(self, modality: str, device: str, precision: str = "float32", compiled: bool = False) -> TorchTower:
        """Return a tower as an encoder loads it."""
        module = self.module(modality).requires_grad_(False).to(device, getattr(torch, precision))
        if device.startswith("cuda") and modality == "video":
            module = module.to(memory_format=torch.channels_last)
        return TorchTower(module, device, compiled)


def networks(tiny: bool, largest: int) -> list[Network]:
    """Return the networks to check, with a few small layers if they are to be tiny."""
    sizes: dict[str, Any] = {"embed_dim": 32, "resolution": 32, "patch_size": 8, "context_length": 24}
    sizes |= {
        "vocab_size": 64,
        "vision_width": 64,
        "vision_layers": 2,
        "vision_mlp_width": 128,
        "vision_head_width": 16,
    }
    sizes |= {"text_width": 32, "text_layers": 2, "text_mlp_width": 64, "text_head_width": 16, "pooling_heads": 4}
    return [
        Network(title, replace(get_model(name).config, **(sizes if tiny else {})), largest)
        for title, name in MODELS.items()
    ]


def unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def compare(embeddings: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Return the least cosine of the first embeddings to the expected unit vectors, and the largest difference."""
    vectors = unit(embeddings[: len(expected)])
    expected = expected[: len(vectors)]
    return float((vectors * expected).sum(-1).min()), float(np.abs(vectors - expected).max())


# Contenders


@dataclass
class Contender:
    """A library that embeds on the device.

    Attributes:
        name: its name in the report.
        functions: by modality, inputs on the device to embeddings there; empty for a compiled tower.
        calls: by modality, arrays to arrays.
    """

    name: str
    functions: dict[str, Function]
    calls: dict[str, Call]


def our_contender(network: Network, device: str, precision: str, compiled: bool = False) -> Contender:
    towers = {modality: network.tower(modality, device, precision, compiled) for modality in MODALITIES}
    functions: dict[str, Function] = {} if compiled else {modality: tower.module for modality, tower in towers.items()}
    return Contender(COMPILED if compiled else OURS, functions, dict(towers))


def peer_contender(name: str, network: Network, device: str, precision: str) -> Contender:
    """Return another library with the network, which gets captions padded as it asks for."""
    config, dtype = network.config, getattr(torch, precision)
    if name == TRANSFORMERS:
        towers = hugging_face_towers(hugging_face_model(config, network.state))
        text, frames = (each.requires_grad_(False).to(device, dtype) for each in towers)
    else:
        model = open_clip_model(config)
        model.load_state_dict(open_clip_state(config, network.state), assign=True)
        model = model.requires_grad_(False).to(device, dtype)
        text, frames = (lambda ids: model.encode_text(pad(ids, config.context_length))), model.encode_image
    functions = {"text": text, "video": frames}
    calls = {modality: partial(call_with_arrays, function, device, dtype) for modality, function in functions.items()}
    return Contender(name, functions, calls)


def pad(ids: Tensor, length: int) -> Tensor:
    return F.pad(ids, (0, length - ids.shape[1]))


@torch.inference_mode()
def call_with_arrays(function: Function, device: str, dtype: torch.dtype, inputs: np.ndarray) -> np.ndarray:
    tensor = torch.from_numpy(inputs).to(device)
    return function(tensor.to(dtype) if tensor.is_floating_point() else tensor).float().cpu().numpy()


def why_missing(name: str, network: Network) -> str:
    """Return why another library cannot embed with the network; "" if it can."""
    if name == TRANSFORMERS and not has_transformers_network(network.config):
        return "it does not have the network"
    try:
        for module in PEERS[name].split():
            importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # the latter from a torchvision for another torch
        return f"not installed: {str(error).splitlines()[0]}"
    return ""


# Parity and training


def check_parity(network: Network, device: str, precision: str) -> Iterator[dict[str, Any]]:
    """Compare the unit vectors of both towers on the device with those on the CPU in float32."""
    least, most = PARITY_BARS[precision]
    for modality in MODALITIES:
        inputs, expected = network.inputs[modality][: CHECKED[modality]], network.expected[modality]
        cosine, difference = compare(network.tower(modality, device, precision)(inputs), expected)
        yield {
            "network": network.name,
            "modality": modality,
            "precision": precision,
            "cosine": cosine,
            "difference": difference,
            "met": cosine >= least and difference <= most,
        }


@dataclass
class Step:
    """A training step: its loss, gradients by name, milliseconds, and the memory that it took beside the weights."""

    loss: float
    gradients: State
    milliseconds: float
    megabytes: float | None


def training_step(network: Network, device: str, precision: str = "float32") -> Step:
    """Compute the loss and the gradients of a small batch, as in training, from the same weights on every device."""
    towers = {modality: network.module(modality).to(device).train() for modality in MODALITIES}
    scale = network.state["logit_scale"].clone().to(device).requires_grad_()
    for tower in towers.values():
        tower.requires_grad_()
    ids = torch.from_numpy(network.inputs["text"][:PAIRS]).to(device)
    pixels = torch.from_numpy(network.inputs["video"][: PAIRS * FRAMES]).to(device)
    start, before = time.perf_counter(), reset_peak(device)
    with torch.autocast(torch.device(device).type, getattr(torch, precision), enabled=precision != "float32"):
        text = F.normalize(towers["text"](ids).float(), dim=-1)
        frames = towers["video"](pixels).float()
    head = MeanPooling()
    video = F.normalize(head.pool(head(frames.unflatten(0, (PAIRS, FRAMES)))), dim=-1)
    loss = contrastive_loss(text, video, scale.exp())
    loss.backward()
    synchronize(device)
    milliseconds = 1e3 * (time.perf_counter() - start)
    gradients = {f"{key}.{name}": each.grad for key, tower in towers.items() for name, each in tower.named_parameters()}
    return Step(loss.item(), gradients | {"scale": scale.grad}, milliseconds, peak_megabytes(device, before))


def check_training(network: Network, device: str, precision: str, expected: Step) -> dict[str, Any]:
    """Compare a training step on the device with the one on the CPU in float32."""
    most, least = TRAINING_BARS[precision]
    step = training_step(network, device, precision)
    difference = abs(step.loss - expected.loss) / expected.loss
    dot = own = other = 0.0
    for name, gradient in expected.gradients.items():
        a, b = gradient.double().flatten(), step.gradients[name].cpu().double().flatten()
        dot, own, other = dot + float(a @ b), own + float(b @ b), other + float(a @ a)
    cosine = dot / (own * other) ** 0.5
    return {
        "network": network.name,
        "precision": precision,
        "loss": step.loss,
        "expected loss": expected.loss,
        "difference": difference,
        "gradient cosine": cosine,
        "milliseconds": step.milliseconds,
        "megabytes": step.megabytes,
        "met": difference <= most and cosine >= least,
    }


# Speed


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def reset_peak(device: str) -> int:
    """Return the bytes that are in use on the device, and begin a new measurement of the most in use."""
    if not device.startswith("cuda"):
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def peak_megabytes(device: str, before: int) -> float | None:
    """Return how much more was in use at most; None for a device that does not say."""
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6 if device.startswith("cuda") else None


@dataclass(frozen=True)
class Case:
    """What is measured: a batch through one tower, ``'arrays to arrays'`` or ``'network alone'``."""

    network: Network
    modality: str
    batch: int
    precision: str
    kind: str

    def titles(self) -> dict[str, Any]:
        return {
            "network": self.network.name,
            "modality": self.modality,
            "batch": self.batch,
            "precision": self.precision,
            "kind": self.kind,
        }

    def call(self, contender: Contender, device: str) -> Callable[[], Any]:
        """Return a call that embeds the batch; of the network alone, inputs and output stay on the device."""
        inputs = self.network.inputs[self.modality][: self.batch]
        if self.kind == ARRAYS:
            return partial(contender.calls[self.modality], inputs)
        function = contender.functions[self.modality]
        tensor = torch.from_numpy(inputs).to(device)
        tensor = tensor.to(getattr(torch, self.precision)) if tensor.is_floating_point() else tensor
        return torch.inference_mode()(lambda: function(tensor))


@dataclass(frozen=True)
class Meter:
    """Measures calls on a device: in each round, the median of the calls that fill some seconds."""

    device: str
    rounds: int
    seconds: float

    def row(self, case: Case, contenders: list[Contender]) -> dict[str, Any]:
        """Measure a case: every contender once in each round, in random order.

        Returns:
            For each contender its milliseconds in each round, how many rows it embeds in a second, the seconds and the
            most memory of its first call (beside the weights), and the least cosine to float32 on the CPU.
        """
        calls = {contender.name: case.call(contender, self.device) for contender in contenders}
        figures = {name: self._check(case, call) for name, call in calls.items()}
        for number in range(self.rounds):
            for name in random.Random(number).sample(list(calls), len(calls)):
                figures[name]["milliseconds"].append(self._milliseconds(calls[name]))
        for own in figures.values():
            own["rows per second"] = 1e3 * case.batch / statistics.median(own["milliseconds"])
        return case.titles() | {"contenders": figures}

    def _check(self, case: Case, call: Callable[[], Any]) -> dict[str, Any]:
        """Compare the embeddings, and warm up."""
        before, start = reset_peak(self.device), time.perf_counter()
        embeddings = call()
        synchronize(self.device)
        first = time.perf_counter() - start
        megabytes = peak_megabytes(self.device, before)
        rows = embeddings.float().cpu().numpy() if isinstance(embeddings, Tensor) else embeddings
        cosine, _ = compare(rows, case.network.expected[case.modality])
        for _ in range(2):  # the second call of a compiled tower records its graph
            call()
        return {"milliseconds": [], "first seconds": first, "megabytes": megabytes, "cosine": cosine}

    def _milliseconds(self, call: Callable[[], Any]) -> float:
        times: list[float] = []
        while not times or sum(times) < self.seconds:
            start = time.perf_counter()
            call()
            synchronize(self.device)
            times.append(time.perf_counter() - start)
        return 1e3 * statistics.median(times)
