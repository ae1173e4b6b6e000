"""ONNX graphs, heads and captions for the tests of the runtime."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import torch

CAPTIONS = ["a dog", "kids feeding and playing with the horse", "", "dog " * 100, "ein Hund läuft 😀 über 12 Straßen"]
RUNTIMES = ["torch", "onnxruntime"]
HEADS = ["meanP", "seqLSTM", "seqTransf"]
State = dict[str, torch.Tensor]


def run_graph(path: Path, inputs: np.ndarray) -> np.ndarray:
    """Run a graph in a plain session, as other programs do."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]


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
