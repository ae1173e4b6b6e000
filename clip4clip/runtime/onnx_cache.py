"""Cache the ONNX graphs of towers: each is built from a checkpoint once. Loading one does not need torch."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
from filelock import FileLock

from ..cache import cache_folder
from ..errors import CacheError, CheckpointError, first_line
from ..weights.identity import Checkpoint, network_digest
from ..weights.inspection import tower_digest
from .onnx_backend import DAMAGED_GRAPH_ERRORS, create_session

logger = logging.getLogger(__name__)

GRAPH_VERSION = 4  # increase it when the content of graphs changes: cached ones are then rebuilt


@dataclass(frozen=True)
class CachedGraph:
    """The graph of a tower in the cache.

    Attributes:
        checkpoint: what the graph is built from.
        modality: ``'text'`` or ``'video'``.
        precision: key of :data:`clip4clip.runtime.onnx_export.TOLERANCES`.
        path: the graph file, in a folder named after the model and the digest of the tower.
    """

    checkpoint: Checkpoint
    modality: str
    precision: str
    path: Path

    def create_session(self, device: str, threads: int) -> onnxruntime.InferenceSession:
        """Load the graph. If its files are missing or damaged, rebuild it once.

        Args:
            device: ``'cpu'``, ``'cuda:1'`` or ``'openvino'``.
            threads: number of threads of each run on a CPU.

        Raises:
            CacheError: the graph cannot be loaded and cannot be rebuilt.
            DeviceError: see :func:`clip4clip.runtime.onnx_backend.create_session`.
            ExportError: see :func:`cached_graph`.
        """
        with contextlib.suppress(*DAMAGED_GRAPH_ERRORS):
            return create_session(self.path, device, threads)
        try:
            self._remove_if_damaged()
            rebuilt = cached_graph(self.checkpoint, self.modality, self.precision)
            if rebuilt.path != self.path:
                raise CacheError("the checkpoint now has other weights, or CLIP4CLIP_CACHE now names another folder")
            return create_session(self.path, device, threads)
        except (OSError, CheckpointError, *DAMAGED_GRAPH_ERRORS) as error:
            raise CacheError(
                f"{self.path} cannot be loaded and cannot be rebuilt from {self.checkpoint.path}: {first_line(error)}"
            ) from error

    def _remove_if_damaged(self) -> None:
        with _locked(self.path):
            try:
                create_session(self.path)  # another process may have rebuilt it meanwhile
            except DAMAGED_GRAPH_ERRORS as error:
                logger.warning("rebuilding a cached graph that cannot be loaded: %s", first_line(error))
                self.path.unlink(missing_ok=True)


def cached_graph(checkpoint: Checkpoint, modality: str, precision: str = "float32") -> CachedGraph:
    """Return the graph of a checkpoint's tower. The first process that needs it builds it; others wait.

    Args:
        checkpoint: the checkpoint.
        modality: ``'text'`` or ``'video'``.
        precision: key of :data:`clip4clip.runtime.onnx_export.TOLERANCES`.

    Raises:
        CacheError: the graph cannot be written, or the checkpoint was replaced meanwhile.
        CheckpointError: the file is not a checkpoint of the model, or its head is not supported.
        ExportError: the graph and torch disagree.
    """
    folder = cache_folder() / f"graphs-{GRAPH_VERSION}" / _folder_name(checkpoint, modality)
    graph = CachedGraph(checkpoint, modality, precision, folder / f"{modality}-{precision}.onnx")
    if graph.path.is_file():
        return graph
    try:
        with _locked(graph.path):
            if not graph.path.is_file():
                logger.info("building %s, once", graph.path)
                _build(graph)
    except CacheError:
        raise
    except OSError as error:
        raise CacheError(
            f"cannot write {graph.path}, the graph built from {checkpoint.path}: {error}. Set CLIP4CLIP_CACHE to a "
            "writable folder with enough space, or choose the runtime 'torch', which does not need one"
        ) from error
    return graph


def _folder_name(checkpoint: Checkpoint, modality: str) -> str:
    """Return a name that is the same only for the same numbers in the same network."""
    hidden = hashlib.sha256(network_digest(checkpoint.config).encode()).hexdigest()[:8]
    return f"{checkpoint.model_name}-{tower_digest(checkpoint.path, modality)}-{hidden}"


def _build(graph: CachedGraph) -> None:
    from .onnx_export import save_tower, unfinished_prefix
    from .torch_backend import build_tower

    # The lock is held, so these belong to processes that were killed.
    for unfinished in graph.path.parent.glob(f"{unfinished_prefix(graph.path)}*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    tower = build_tower(graph.checkpoint, graph.modality)
    if graph.path.parent.name != _folder_name(graph.checkpoint, graph.modality):
        raise CacheError(f"{graph.checkpoint.path} was replaced while it was read; load it again")
    save_tower(tower, graph.path, precision=graph.precision, external_data=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time change a graph; others wait. The lock of a process that dies is released."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock"), mode=0o666):
        yield
