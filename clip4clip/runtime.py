"""Towers and heads of checkpoints, by the runtime that is to compute them; none is imported before it is needed."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .config import get_model
from .device import Placement
from .errors import UnknownNameError
from .tower import Head, MeanPooling, Tower
from .weights import OPERATOR_FOLDER, Reference, file_state, inspect, locate

MODALITIES = ("text", "video")
USUAL_ROWS = {"text": 1, "video": 12}  # of a call: a caption, the frames of a video


def check_modality(modality: str) -> str:
    """``modality`` itself; UnknownNameError when it is neither 'text' nor 'video'."""
    if modality not in MODALITIES:
        raise UnknownNameError(f"unknown modality {modality!r}; it must be {' or '.join(map(repr, MODALITIES))}")
    return modality


def load_tower(
    model_name: str, modality: str, weights: Reference | None, where: Placement, folder: Path = OPERATOR_FOLDER
) -> Tower:
    """The tower of one modality; the same object for the same file, modality and placement.

    Args:
        model_name: key of :data:`clip4clip.config.MODELS`.
        modality: ``'text'`` or ``'video'``.
        weights: as for :func:`clip4clip.weights.locate`, like ``folder``.
        where: it is computed.
        folder: the operator's.

    Raises:
        UnknownNameError: for an unknown model or modality.
        WeightsNotFoundError: see :func:`clip4clip.weights.locate`.
        CheckpointError: when the file is no checkpoint of the model, or its tower gives no vectors.
        CacheError, ExportError: of onnxruntime, see :func:`clip4clip.onnx_cache.kept_graph`.
        DeviceError: of onnxruntime, see :func:`clip4clip.onnx_runtime.load`.
    """
    path = locate(weights, model_name, folder)
    key = (model_name, check_modality(modality), where)

    def build() -> Tower:
        if where.runtime == "onnxruntime":
            from .onnx_cache import kept_graph, load_kept
            from .onnx_runtime import OnnxTower

            graph = kept_graph(model_name, modality, path, where.precision)
            load = functools.partial(load_kept, graph, model_name, modality, path, where)
            return OnnxTower(load, where.device, rows=USUAL_ROWS[modality])
        from .torch_runtime import load_tower

        return load_tower(model_name, modality, path, where)

    return _shared(key, path, build)


def load_head(model_name: str, weights: Reference | None, where: Placement, folder: Path = OPERATOR_FOLDER) -> Head:
    """The pooling head of a checkpoint, shared like the towers. ``seqLSTM`` and ``seqTransf`` are computed by torch.

    Raises:
        UnknownNameError, WeightsNotFoundError: see :func:`clip4clip.weights.locate`.
        CheckpointError: when the file is no checkpoint of the model, or has a head that is not understood.
    """
    path = locate(weights, model_name, folder)
    if inspect(path, model_name).head == "meanP":
        return MeanPooling()
    from .torch_runtime import load_head

    device = where.device if where.runtime == "torch" else "cpu"
    return _shared((model_name, "head", device), path, lambda: load_head(get_model(model_name).config, path, device))


_loaded: weakref.WeakValueDictionary[tuple, Any] = weakref.WeakValueDictionary()
_loading = threading.Lock()


def _shared(key: tuple, path: Path, build: Callable[[], Any]) -> Any:
    """One object per file as it is now: a file that was replaced or rewritten is another one."""
    key = (*key, file_state(path))
    with _loading:
        found = _loaded.get(key)
        if found is None:
            found = _loaded[key] = build()
        return found
