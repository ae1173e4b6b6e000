"""Towers computed by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from .device import PROVIDERS, cores
from .tower import Tower


class OnnxTower(Tower):
    """A tower of a graph file.

    Args:
        path: of the graph.
        device: ``'cpu'``, ``'cuda:1'`` or ``'openvino'``.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        kind, _, number = device.partition(":")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors: a warning of its optimiser is nobody's business
        options.intra_op_num_threads = cores()
        given: dict[str, Any] = {"device_id": int(number)} if kind == "cuda" else {}
        self._session = onnxruntime.InferenceSession(
            path, options, providers=[(PROVIDERS[kind], given), *(["CPUExecutionProvider"] if kind != "cpu" else [])]
        )
        self._input = self._session.get_inputs()[0].name

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: np.asarray(inputs)})[0]
