"""The graphs that ONNX Runtime computes: each made from a checkpoint once, and kept. With it torch is not needed."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
from filelock import FileLock

from ..cache import cache_folder
from ..errors import CacheError, first_line
from ..weights.identity import inspect_checkpoint, tower_digest
from .onnx_backend import DAMAGED, load
from .placement import Placement

logger = logging.getLogger(__name__)

GRAPHS = 3  # counted up when what is in a graph changes: those that are kept are then made anew


def cached_graph(model_name: str, modality: str, path: Path, precision: str = "float32") -> Path:
    """The graph file of a checkpoint's tower, made by whichever process comes first.

    It lies in :func:`clip4clip.cache.cache_folder` under the model's name and the digest of the tower.

    Args:
        model_name: key of :data:`clip4clip.config.MODELS`.
        modality: ``'text'`` or ``'video'``.
        path: of the checkpoint.
        precision: one of :data:`clip4clip.runtime.onnx_export.TOLERANCE`.

    Raises:
        CacheError: when there is no room for it, or the checkpoint is replaced meanwhile.
        CheckpointError: when the file is no checkpoint of the model, or its tower gives no vectors.
        ExportError: when the graph gives other vectors than torch.
    """
    inspect_checkpoint(path, model_name)  # refuses another model
    folder = cache_folder() / f"graphs-{GRAPHS}" / f"{model_name}-{tower_digest(path, modality)}"
    graph = folder / f"{modality}-{precision}.onnx"
    if graph.is_file():
        return graph
    try:
        with _alone(graph):
            if not graph.is_file():
                logger.info("making %s, once", graph)
                _make(model_name, modality, path, precision, graph)
    except OSError as error:
        raise CacheError(
            f"{graph}, which is made from {path} once, cannot be kept: {error}. Set CLIP4CLIP_CACHE to a folder with "
            "room, or choose the runtime 'torch', which needs none"
        ) from error
    return graph


def load_cached_graph(
    graph: Path, model_name: str, modality: str, path: Path, where: Placement, threads: int
) -> onnxruntime.InferenceSession:
    """A kept graph, ready to run; made anew, once, when its files are damaged or gone.

    Args:
        graph: that :func:`cached_graph` gave for the arguments after it.
        model_name: as there, like the two after it.
        modality: of the tower.
        path: of the checkpoint.
        where: it is computed.
        threads: of each run on a CPU.

    Raises:
        CacheError: when it cannot be made anew, or not be loaded then either.
        DeviceError: see :func:`clip4clip.runtime.onnx_backend.load`.
        CheckpointError, ExportError: see :func:`cached_graph`.
    """
    with contextlib.suppress(*DAMAGED):
        return load(graph, where.device, threads)
    try:
        _remove_damaged(graph)
        if cached_graph(model_name, modality, path, where.precision) != graph:
            raise CacheError("there are other weights in it now, or CLIP4CLIP_CACHE is another folder")
        return load(graph, where.device, threads)
    except (OSError, *DAMAGED) as error:
        raise CacheError(f"{graph} cannot be loaded, nor be made anew from {path}: {first_line(error)}") from error


def _remove_damaged(graph: Path) -> None:
    with _alone(graph):
        try:
            load(graph)  # another process may have made it anew by now
        except DAMAGED as error:
            logger.warning("a kept graph cannot be loaded and is made anew: %s", first_line(error))
            graph.unlink(missing_ok=True)


def _make(model_name: str, modality: str, path: Path, precision: str, graph: Path) -> None:
    from .onnx_export import save_tower, unfinished
    from .torch_backend import build_tower

    for left in graph.parent.glob(f"{unfinished(graph)}*"):  # by a process that was killed: no other one is at it now
        shutil.rmtree(left, ignore_errors=True)
    tower = build_tower(model_name, modality, path)
    if not graph.parent.name.endswith(tower_digest(path, modality)):
        raise CacheError(f"{path} was replaced while it was read; load it again")
    save_tower(tower, graph, precision=precision, tensors_beside=True)


@contextlib.contextmanager
def _alone(graph: Path) -> Iterator[None]:
    """One process at a time changes a graph; the others wait. A process that dies lets go."""
    graph.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(graph.with_name(f".{graph.name}.lock"), mode=0o666):
        yield
