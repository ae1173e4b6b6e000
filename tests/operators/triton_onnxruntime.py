"""A substitute for Triton's backend ``onnxruntime``, which is only part of NVIDIA's images.

The server's Python backend runs it. Like NVIDIA's, it completes a configuration with the names, types and dimensions of
the graph's tensors. If all their first dimensions are free and ``max_batch_size`` is not set, it sets it to 4. It runs
the requests that the scheduler batches as one batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton

TYPES = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
DEFAULT_MAX_BATCH_SIZE = 4


def session(folder: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


class TritonPythonModel:
    """An instance of a model: the interface that Triton's Python backend calls."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        graph = session(Path(triton.get_model_dir()))
        inputs, outputs = graph.get_inputs(), graph.get_outputs()
        if not config.as_dict()["max_batch_size"] and all(not isinstance(t.shape[0], int) for t in inputs + outputs):
            config.set_max_batch_size(DEFAULT_MAX_BATCH_SIZE)
        batched = config.as_dict()["max_batch_size"] > 0
        for add, tensors in ((config.add_input, inputs), (config.add_output, outputs)):
            for tensor in tensors:
                dims = [size if isinstance(size, int) else -1 for size in tensor.shape]
                add({"name": tensor.name, "data_type": TYPES[tensor.type], "dims": dims[1:] if batched else dims})
        return config

    def initialize(self, arguments: dict[str, str]) -> None:
        self.session = session(Path(arguments["model_repository"]) / arguments["model_version"])
        self.outputs = [tensor.name for tensor in self.session.get_outputs()]
        self.batched = json.loads(arguments["model_config"])["max_batch_size"] > 0

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        feeds = [{tensor.name(): tensor.as_numpy() for tensor in request.inputs()} for request in requests]
        if not self.batched:
            return [self.answer(self.session.run(self.outputs, feed)) for feed in feeds]
        together = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        ends = np.cumsum([len(next(iter(feed.values()))) for feed in feeds])[:-1]
        parts = [np.split(values, ends) for values in self.session.run(self.outputs, together)]
        return [self.answer(arrays) for arrays in zip(*parts, strict=True)]

    def answer(self, arrays: Sequence[np.ndarray]) -> Any:
        tensors = [
            triton.Tensor(name, np.ascontiguousarray(array)) for name, array in zip(self.outputs, arrays, strict=True)
        ]
        return triton.InferenceResponse(tensors)
