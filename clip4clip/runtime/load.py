"""Towers and heads of checkpoints, by the runtime that is to compute them; none is imported before it is needed."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import get_model
from ..errors import UnknownNameError
from ..log import warn_once
from ..weights.identity import file_state, inspect_checkpoint
from ..weights.locate import Reference, locate
from .placement import Placement
from .tower import Head, MeanPooling, Tower

logger = logging.getLogger(__name__)

MODALITIES = ("text", "video")
USUAL_ROWS = {"text": 1, "video": 12}  # of a call: a caption, the frames of a video


def check_modality(modality: str) -> str:
    """``modality`` itself; UnknownNameError when it is neither 'text' nor 'video'."""
    if modality not in MODALITIES:
        raise UnknownNameError(f"unknown modality {modality!r}; it must be {' or '.join(map(repr, MODALITIES))}")
    return modality


@dataclass(frozen=True)
class Weights:
    """The checkpoint that an encoder is made of.

    Attributes:
        model_name: key of :data:`clip4clip.config.MODELS`.
        modality: ``'text'`` or ``'video'``.
        path: of the file.
        fingerprint: see :func:`clip4clip.weights.fingerprint.compute_fingerprint`.
        chosen: by whoever made the encoder; else it is the model's default.
    """

    model_name: str
    modality: str
    path: Path
    fingerprint: str
    chosen: bool

    def __str__(self) -> str:
        return f"{self.modality} from {self.path} (fingerprint {self.fingerprint})"


def resolve_weights(weights: Reference | None, model_name: str, modality: str, folder: Path | None = None) -> Weights:
    """Return the checkpoint to load, and say so at level info.

    Args:
        weights: as for :func:`clip4clip.weights.locate.locate`, like ``folder``.
        model_name: key of :data:`clip4clip.config.MODELS`.
        modality: ``'text'`` or ``'video'``.
        folder: the operator's.

    Raises:
        UnknownNameError: for an unknown model or modality.
        WeightsNotFoundError: see :func:`clip4clip.weights.locate.locate`.
        CheckpointError: when the file is no checkpoint of the model, or its tower gives no vectors.
    """
    check_modality(modality)
    path = locate(weights, model_name, folder)
    found = Weights(model_name, modality, path, inspect_checkpoint(path, model_name).fingerprint, weights is not None)
    logger.info("%s: %s", model_name, found)
    return found


_in_use: weakref.WeakKeyDictionary[Any, Weights] = weakref.WeakKeyDictionary()


def warn_if_weights_differ(encoder: Any, weights: Weights) -> None:
    """Warn when another encoder of this process has other weights for the same model, and nobody chose both.

    Args:
        encoder: that has just been loaded; remembered as long as it lives.
        weights: its checkpoint.
    """
    with _loading:
        others = list(_in_use.values())
        _in_use[encoder] = weights
    for other in others:
        if other.model_name != weights.model_name or other.fingerprint == weights.fingerprint:
            continue
        if (other.chosen and weights.chosen) or (
            other.modality == weights.modality and (other.chosen or weights.chosen)
        ):
            continue
        warn_once(
            f"two encoders of {weights.model_name} have different weights, so their vectors cannot be compared: "
            f"{other}, and {weights}. Pass the same weight_path to both."
        )


def load_tower(model_name: str, modality: str, path: Path, where: Placement) -> Tower:
    """The tower of one modality; the same object for the same file, modality and placement.

    Args:
        model_name: key of :data:`clip4clip.config.MODELS`.
        modality: ``'text'`` or ``'video'``.
        path: of the checkpoint.
        where: it is computed.

    Raises:
        UnknownNameError: for an unknown model or modality.
        CheckpointError: when the file is no checkpoint of the model, or its tower gives no vectors.
        CacheError, ExportError: of onnxruntime, see :func:`clip4clip.runtime.onnx_cache.cached_graph`.
        DeviceError: of onnxruntime, see :func:`clip4clip.runtime.onnx_backend.load`.
    """
    key = (model_name, check_modality(modality), where)

    def build() -> Tower:
        if where.runtime == "onnxruntime":
            from .onnx_backend import OnnxTower
            from .onnx_cache import cached_graph, load_cached_graph

            graph = cached_graph(model_name, modality, path, where.precision)
            load = functools.partial(load_cached_graph, graph, model_name, modality, path, where)
            return OnnxTower(load, where.device, rows=USUAL_ROWS[modality])
        from .torch_backend import load_tower

        return load_tower(model_name, modality, path, where)

    return _shared(key, path, build)


def load_head(model_name: str, path: Path, where: Placement) -> Head:
    """The pooling head of a checkpoint, shared like the towers. ``seqLSTM`` and ``seqTransf`` are computed by torch.

    Raises:
        CheckpointError: when the file is no checkpoint of the model, or has a head that is not understood.
    """
    if inspect_checkpoint(path, model_name).head == "meanP":
        return MeanPooling()
    from .torch_backend import load_head

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
