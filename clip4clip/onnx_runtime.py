"""Towers computed by ONNX Runtime."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from .device import PROVIDERS, cores
from .tower import Tower

IDLE = 0.25  # of the cores' time at most, where each computes rows of its own


class OnnxTower(Tower):
    """A tower of a graph file.

    A CPU computes a batch in one of two ways. All cores compute each operator together, and wait for each other after
    it: best for one row, or few. Or the rows are shared out, and each core computes its own from beginning to end: best
    where that keeps all of them busy. Each way has the weights in memory once, from its first use on.

    Args:
        path: of the graph.
        device: ``'cpu'``, ``'cuda:1'`` or ``'openvino'``.
        rows: that most calls have; what these need is loaded at once.
    """

    def __init__(self, path: Path, device: str = "cpu", rows: int = 1) -> None:
        self._path, self._device, self._cores = path, device, cores()
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}
        self._loading = threading.Lock()
        self._workers = ThreadPoolExecutor(self._cores, thread_name_prefix="clip4clip-onnx")
        self._session(1 if self._to_share_out(rows) else self._cores)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        inputs = np.asarray(inputs)  # Towhee's users give tensors
        if not self._to_share_out(len(inputs)):
            return run(self._session(self._cores), inputs)
        session, shares = self._session(1), np.array_split(inputs, min(len(inputs), self._cores))
        return np.concatenate(list(self._workers.map(functools.partial(run, session), shares)))

    def _to_share_out(self, rows: int) -> bool:
        turns = -(-rows // self._cores)
        return self._device == "cpu" and rows >= (1 - IDLE) * turns * self._cores

    def _session(self, threads: int) -> onnxruntime.InferenceSession:
        """The one whose runs have so many threads."""
        with self._loading:
            if threads not in self._sessions:
                self._sessions[threads] = load(self._path, self._device, threads)
            return self._sessions[threads]


def load(path: Path, device: str = "cpu", threads: int = 1) -> onnxruntime.InferenceSession:
    """A graph, ready to run; on a CPU each run has so many threads."""
    kind, _, number = device.partition(":")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: a warning of its optimiser is nobody's business
    options.intra_op_num_threads = threads
    given: dict[str, Any] = {"device_id": int(number)} if kind == "cuda" else {}
    providers = [(PROVIDERS[kind], given), *(["CPUExecutionProvider"] if kind != "cpu" else [])]
    return onnxruntime.InferenceSession(path, options, providers=providers)


def run(session: onnxruntime.InferenceSession, inputs: np.ndarray) -> np.ndarray:
    """What a graph of one input and one output makes of an array."""
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]
