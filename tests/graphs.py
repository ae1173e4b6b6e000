"""ONNX graphs, heads and captions for the tests of the runtime."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from constants import TINY

from clip4clip.config import CLIPConfig
from clip4clip.model import TextTower, VisionTower
from clip4clip.weights.state_dict import tower_state

CAPTIONS = ["a dog", "kids feeding and playing with the horse", "", "dog " * 100, "ein Hund läuft 😀 über 12 Straßen"]
RUNTIMES = ["torch", "onnxruntime"]
HEADS = ["meanP", "seqLSTM", "seqTransf"]
State = dict[str, torch.Tensor]

_PLAIN = replace(TINY, resolution=48, vision_layers=3, text_layers=3, vocab_size=512)
# Networks that differ from OpenAI's in one thing each, and one like the Perception Encoder.
NETWORKS = {
    "gelu": replace(_PLAIN, activation="gelu"),
    "heads": replace(_PLAIN, vision_head_width=32, text_head_width=8),
    "MLPs": replace(_PLAIN, vision_mlp_width=3 * 128, text_mlp_width=100),
    "epsilon": replace(_PLAIN, norm_eps=0.1),
    "mean": replace(_PLAIN, pooling="mean"),
    "attention": replace(_PLAIN, pooling="attention", pooling_heads=4, norm_eps=0.1),
    "rotary": replace(_PLAIN, rotary=True),
    "perception": replace(
        _PLAIN, activation="gelu", vision_head_width=32, pooling="attention", pooling_heads=8, rotary=True
    ),
}


def run_graph(path: Path, inputs: np.ndarray) -> np.ndarray:
    """Run a graph in a plain session, as other programs do."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


def tower_of(config: CLIPConfig, modality: str, state: State) -> TextTower | VisionTower:
    """Return a tower with the weights of a state dict under OpenAI's names."""
    tower = TextTower(config) if modality == "text" else VisionTower(config)
    tower.load_state_dict(tower_state(state, modality))
    return tower


def random_inputs(config: CLIPConfig, modality: str, count: int) -> np.ndarray:
    """Return pixel values, or token ids of captions of different lengths with random ids behind the EOT token."""
    random = np.random.default_rng(1)
    if modality == "video":
        return random.normal(size=(count, 3, config.resolution, config.resolution)).astype(np.float32)
    ids = random.integers(0, config.vocab_size - 1, (count, 12))
    ids[np.arange(count), random.integers(1, 12, count)] = config.vocab_size - 1
    return ids


def compute(tower: TextTower | VisionTower, inputs: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return tower(torch.from_numpy(inputs)).numpy()


def normalised(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def head_state(kind: str) -> State:
    """Return random tensors of a head for embeddings of 64 numbers."""
    random = torch.Generator().manual_seed(1)
    if kind == "seqLSTM":
        shapes = {name: tensor.shape for name, tensor in torch.nn.LSTM(64, 64).state_dict().items()}
        return {f"lstm_visual.{name}": 0.2 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
    if kind == "seqTransf":
        from clip4clip.model import SequenceTransformer

        shapes = {name: tensor.shape for name, tensor in SequenceTransformer(64, 2, 77).state_dict().items()}
        return {name: 0.2 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
    return {}


DAMAGES = ["empty", "truncated", "not a graph", "no tensors", "tensors truncated", "no file", "no cache"]


def damage(graph: Path, kind: str) -> None:
    """Damage the files of a cached graph in one of the ways of ``DAMAGES``."""
    if kind == "no cache":
        shutil.rmtree(graph.parents[2])
        return
    data = graph.with_name(f"{graph.name}.data")
    path, content = {
        "empty": (graph, b""),
        "truncated": (graph, graph.read_bytes()[:1000]),
        "not a graph": (graph, b"rubbish" * 1000),
        "no tensors": (data, None),
        "tensors truncated": (data, data.read_bytes()[:-1]),
        "no file": (graph, None),
    }[kind]
    path.unlink()  # a running process may have mapped it, so it must not be overwritten
    if content is not None:
        path.write_bytes(content)
