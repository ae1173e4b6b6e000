"""Load the towers and heads of checkpoints, in the chosen runtime. Encoders of one file share them."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnknownNameError
from ..log import warn_once
from ..weights.identity import Checkpoint
from ..weights.inspection import file_state
from ..weights.locate import Reference
from ..weights.multilingual import find_text_model
from .placement import Placement, resolve_placement
from .tower import Head, MeanPooling, Tower

if TYPE_CHECKING:
    from .multilingual import MultilingualTower

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


def load_tower(checkpoint: Checkpoint, modality: str, placement: Placement) -> Tower:
    """Load a tower of a checkpoint. The same file, network, modality and placement give the same object.

    Args:
        checkpoint: the checkpoint.
        modality: ``'text'`` or ``'video'``.
        placement: what computes the tower.

    Raises:
        UnknownNameError: the modality is unknown.
        CheckpointError: the file has changed, and is not a checkpoint of this network any more.
        CacheError, ExportError: with onnxruntime, see :func:`clip4clip.runtime.onnx_cache.cached_graph`.
        DeviceError: with onnxruntime, see :func:`clip4clip.runtime.onnx_backend.create_session`.
    """
    check_modality(modality)
    build = _load_onnx_tower if placement.runtime == "onnxruntime" else _load_torch_tower
    return _load_once(
        (checkpoint.config, modality, placement),
        checkpoint.path,
        functools.partial(build, checkpoint, modality, placement),
    )


def _load_torch_tower(checkpoint: Checkpoint, modality: str, placement: Placement) -> Tower:
    from .torch_backend import load_tower

    return load_tower(checkpoint, modality, placement)


def _load_onnx_tower(checkpoint: Checkpoint, modality: str, placement: Placement) -> Tower:
    from .onnx_backend import OnnxTower
    from .onnx_cache import cached_graph

    graph = cached_graph(checkpoint, modality, placement.precision)
    create_session = functools.partial(graph.create_session, placement.device)
    return OnnxTower(create_session, placement.device, TYPICAL_BATCH_SIZE[modality])


def load_head(checkpoint: Checkpoint, placement: Placement) -> Head:
    """Load the pooling head of a checkpoint. The same file and device give the same object.

    torch computes ``seqLSTM`` and ``seqTransf``, whatever computes the tower.

    Raises:
        CheckpointError: the head has the wrong shape.
    """
    if checkpoint.head == "meanP":
        return MeanPooling()
    from .torch_backend import load_head

    device = placement.device if placement.runtime == "torch" else "cpu"
    key = (checkpoint.config, "head", device)
    return _load_once(key, checkpoint.path, lambda: load_head(checkpoint, device))


def load_text_model(
    model_name: str,
    weights: Reference | None = None,
    device: str | None = None,
    runtime: str | None = None,
    precision: str = "float32",
    compiled: bool = False,
) -> MultilingualTower:
    """Load the text tower of a model that is only one, with its tokenizer. The same arguments give the same object.

    Args:
        model_name: key of :data:`clip4clip.config.MODELS`.
        weights: as for :func:`clip4clip.weights.multilingual.find_text_model`.
        device: a device of torch; None for the best one available.
        runtime: ``'torch'`` or None.
        precision: one that torch has on the device.
        compiled: not supported.

    Raises:
        UnknownNameError: the runtime or the precision is not supported, or there is no such model.
        DeviceError: torch does not have the device on this machine.
        MissingExtraError: transformers is not installed.
        WeightsNotFoundError, CheckpointError: see :func:`clip4clip.weights.multilingual.find_text_model`.
    """
    if runtime not in (None, "torch") or compiled:
        raise UnknownNameError(
            f"{model_name} runs only with torch, and cannot be compiled: leave out runtime and compiled"
        )
    placement = resolve_placement(device, "torch", precision)
    files = find_text_model(weights, model_name)
    logger.info("%s: text from %s", model_name, files.weights)

    def load() -> MultilingualTower:
        from .multilingual import load_text_tower

        return load_text_tower(files, placement)

    tower: MultilingualTower = _load_once((files.digest(), placement), files.weights, load)
    return tower


_loaded: weakref.WeakValueDictionary[tuple, Any] = weakref.WeakValueDictionary()
# The modality and the checkpoint of each encoder.
_weights_in_use: weakref.WeakKeyDictionary[Any, tuple[str, Checkpoint]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()  # for both


def _load_once(key: tuple, path: Path, load: Callable[[], Any]) -> Any:
    """Return the object for a key and the current content of a file; load it if it is not in memory."""
    key = (*key, file_state(path))
    with _lock:
        loaded = _loaded.get(key)
        if loaded is None:
            loaded = _loaded[key] = load()
        return loaded


def report_weights(encoder: Any, modality: str, checkpoint: Checkpoint) -> None:
    """Log which weights an encoder has.

    Warn if encoders of one model have different weights in this process, unless the caller chose all of them.

    Args:
        encoder: a newly loaded encoder. It is compared with later ones as long as it lives.
        modality: ``'text'`` or ``'video'``.
        checkpoint: its checkpoint.
    """
    logger.info("%s: %s", checkpoint.model_name, _describe(modality, checkpoint))
    with _lock:
        others = list(_weights_in_use.values())
        _weights_in_use[encoder] = modality, checkpoint
    for other_modality, other in others:
        if other.model_name != checkpoint.model_name or other.fingerprint == checkpoint.fingerprint:
            continue
        # A caller may compare two checkpoints by two encoders of one modality, one of them with the default weights.
        allowed_defaults = 1 if other_modality == modality else 0
        if other.is_default + checkpoint.is_default <= allowed_defaults:
            continue
        warn_once(
            logger,
            f"two encoders of {checkpoint.model_name} have different weights, so their vectors cannot be compared: "
            f"{_describe(other_modality, other)}, and {_describe(modality, checkpoint)}. "
            "Pass the same weight_path to both.",
        )


def loaded_checkpoint(encoder: Any) -> Checkpoint | None:
    """Return the checkpoint that an encoder was loaded from; None for a text tower that is aligned with another."""
    with _lock:
        entry = _weights_in_use.get(encoder)
    return entry[1] if entry else None


def _describe(modality: str, checkpoint: Checkpoint) -> str:
    return f"{modality} from {checkpoint.path} (fingerprint {checkpoint.fingerprint})"
