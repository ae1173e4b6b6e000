"""Load the towers and heads of checkpoints, in the chosen runtime. Encoders of one file share them."""

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
TYPICAL_BATCH_SIZE = {"text": 1, "video": 12}  # one caption, the frames of one video


def check_modality(modality: str) -> str:
    """Return the modality if it is known.

    Raises:
        UnknownNameError: it is neither ``'text'`` nor ``'video'``.
    """
    if modality not in MODALITIES:
        raise UnknownNameError(f"unknown modality {modality!r}; it must be {' or '.join(map(repr, MODALITIES))}")
    return modality


@dataclass(frozen=True)
class Weights:
    """The checkpoint of an encoder.

    Attributes:
        model_name: key of :data:`clip4clip.config.MODELS`.
        modality: ``'text'`` or ``'video'``.
        path: the checkpoint file.
        fingerprint: see :func:`clip4clip.weights.fingerprint.compute_fingerprint`.
        is_default: whether these are the model's default weights, because the caller chose none.
    """

    model_name: str
    modality: str
    path: Path
    fingerprint: str
    is_default: bool

    def __str__(self) -> str:
        return f"{self.modality} from {self.path} (fingerprint {self.fingerprint})"


def resolve_weights(weights: Reference | None, model_name: str, modality: str, folder: Path | None = None) -> Weights:
    """Find the checkpoint to load, and log which one it is.

    Args:
        weights: as for :func:`clip4clip.weights.locate.locate`.
        model_name: key of :data:`clip4clip.config.MODELS`.
        modality: ``'text'`` or ``'video'``.
        folder: as for :func:`clip4clip.weights.locate.locate`.

    Raises:
        UnknownNameError: the model or the modality is unknown.
        WeightsNotFoundError: see :func:`clip4clip.weights.locate.locate`.
        CheckpointError: the file is not a checkpoint of the model, or its head does not give each text and each video
            a vector of its own.
    """
    check_modality(modality)
    path = locate(weights, model_name, folder)
    fingerprint = inspect_checkpoint(path, model_name).fingerprint
    resolved = Weights(model_name, modality, path, fingerprint, is_default=weights is None)
    logger.info("%s: %s", model_name, resolved)
    return resolved


def load_tower(model_name: str, modality: str, path: Path, placement: Placement) -> Tower:
    """Load a tower of a checkpoint. The same file, modality and placement give the same object.

    Args:
        model_name: key of :data:`clip4clip.config.MODELS`.
        modality: ``'text'`` or ``'video'``.
        path: the checkpoint file.
        placement: what computes the tower.

    Raises:
        UnknownNameError: the model or the modality is unknown.
        CheckpointError: see :func:`resolve_weights`.
        CacheError, ExportError: with onnxruntime, see :func:`clip4clip.runtime.onnx_cache.cached_graph`.
        DeviceError: with onnxruntime, see :func:`clip4clip.runtime.onnx_backend.create_session`.
    """
    check_modality(modality)
    build = _load_onnx_tower if placement.runtime == "onnxruntime" else _load_torch_tower
    return _load_once(
        (model_name, modality, placement), path, functools.partial(build, model_name, modality, path, placement)
    )


def _load_torch_tower(model_name: str, modality: str, path: Path, placement: Placement) -> Tower:
    from .torch_backend import load_tower

    return load_tower(model_name, modality, path, placement)


def _load_onnx_tower(model_name: str, modality: str, path: Path, placement: Placement) -> Tower:
    from .onnx_backend import OnnxTower
    from .onnx_cache import cached_graph

    graph = cached_graph(model_name, modality, path, placement.precision)
    create_session = functools.partial(graph.create_session, placement.device)
    return OnnxTower(create_session, placement.device, TYPICAL_BATCH_SIZE[modality])


def load_head(model_name: str, path: Path, placement: Placement) -> Head:
    """Load the pooling head of a checkpoint. The same file and device give the same object.

    torch computes ``seqLSTM`` and ``seqTransf``, whatever computes the tower.

    Raises:
        CheckpointError: the file is not a checkpoint of the model, or its head is not supported.
    """
    if inspect_checkpoint(path, model_name).head == "meanP":
        return MeanPooling()
    from .torch_backend import load_head

    device = placement.device if placement.runtime == "torch" else "cpu"
    return _load_once((model_name, "head", device), path, lambda: load_head(get_model(model_name).config, path, device))


_loaded: weakref.WeakValueDictionary[tuple, Any] = weakref.WeakValueDictionary()
_weights_in_use: weakref.WeakKeyDictionary[Any, Weights] = weakref.WeakKeyDictionary()  # by encoder
_lock = threading.Lock()  # for both


def _load_once(key: tuple, path: Path, load: Callable[[], Any]) -> Any:
    """Return the object for a key and the current content of a file; load it if it is not in memory."""
    key = (*key, file_state(path))
    with _lock:
        loaded = _loaded.get(key)
        if loaded is None:
            loaded = _loaded[key] = load()
        return loaded


def warn_if_weights_differ(encoder: Any, weights: Weights) -> None:
    """Warn if encoders of one model have different weights in this process, unless the caller chose all of them.

    Args:
        encoder: a newly loaded encoder. It is compared with later ones as long as it lives.
        weights: its checkpoint.
    """
    with _lock:
        others = list(_weights_in_use.values())
        _weights_in_use[encoder] = weights
    for other in others:
        if other.model_name != weights.model_name or other.fingerprint == weights.fingerprint:
            continue
        # A caller may compare two checkpoints by two encoders of one modality, one of them with the default weights.
        allowed_defaults = 1 if other.modality == weights.modality else 0
        if other.is_default + weights.is_default <= allowed_defaults:
            continue
        warn_once(
            logger,
            f"two encoders of {weights.model_name} have different weights, so their vectors cannot be compared: "
            f"{other}, and {weights}. Pass the same weight_path to both.",
        )
