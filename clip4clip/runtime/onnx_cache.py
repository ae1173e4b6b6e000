"""Cache the ONNX graphs of towers: each is built from a checkpoint once. Loading one does not need torch."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
from filelock import FileLock

from ..cache import cache_folder
from ..errors import CacheError, first_line
from ..weights.identity import inspect_checkpoint, tower_digest
from .onnx_backend import DAMAGED_GRAPH_ERRORS, create_session

logger = logging.getLogger(__name__)

GRAPH_VERSION = 3  # increase it when the content of graphs changes: cached ones are then rebuilt


@dataclass(frozen=True)
class CachedGraph:
    """The graph of a tower in the cache.

    Attributes:
        model_name: key of :data:`clip4clip.config.MODELS`.
        modality: ``'text'`` or ``'video'``.
        checkpoint: the file that the graph is built from.
        precision: key of :data:`clip4clip.runtime.onnx_export.TOLERANCES`.
        path: the graph file, in a folder named after the model and the digest of the tower.
    """

    model_name: str
    modality: str
    checkpoint: Path
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
            CheckpointError, ExportError: see :func:`cached_graph`.
        """
        with contextlib.suppress(*DAMAGED_GRAPH_ERRORS):
            return create_session(self.path, device, threads)
        try:
            self._remove_if_damaged()
            rebuilt = cached_graph(self.model_name, self.modality, self.checkpoint, self.precision)
            if rebuilt.path != self.path:
                raise CacheError("the checkpoint now has other weights, or CLIP4CLIP_CACHE now names another folder")
            return create_session(self.path, device, threads)
        except (OSError, *DAMAGED_GRAPH_ERRORS) as error:
            raise CacheError(
                f"{self.path} cannot be loaded and cannot be rebuilt from {self.checkpoint}: {first_line(error)}"
            ) from error

    def _remove_if_damaged(self) -> None:
        with _locked(self.path):
            try:
                create_session(self.path)  # another process may have rebuilt it meanwhile
            except DAMAGED_GRAPH_ERRORS as error:
                logger.warning("rebuilding a cached graph that cannot be loaded: %s", first_line(error))
                self.path.unlink(missing_ok=True)


def cached_graph(model_name: str, modality: str, checkpoint: Path, precision: str = "float32") -> CachedGraph:
    """Return the graph of a checkpoint's tower. The first process that needs it builds it; others wait.

    Args:
        model_name: key of :data:`clip4clip.config.MODELS`.
        modality: ``'text'`` or ``'video'``.
        checkpoint: the checkpoint file.
        precision: key of :data:`clip4clip.runtime.onnx_export.TOLERANCES`.

    Raises:
        CacheError: the graph cannot be written, or the checkpoint was replaced meanwhile.
        CheckpointError: the file is not a checkpoint of the model, or its head is not supported.
        ExportError: the graph and torch disagree.
    """
    inspect_checkpoint(checkpoint, model_name)  # rejects a checkpoint of another model
    folder = cache_folder() / f"graphs-{GRAPH_VERSION}" / f"{model_name}-{tower_digest(checkpoint, modality)}"
    graph = CachedGraph(model_name, modality, checkpoint, precision, folder / f"{modality}-{precision}.onnx")
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
            f"cannot write {graph.path}, the graph built from {checkpoint}: {error}. Set CLIP4CLIP_CACHE to a writable "
            "folder with enough space, or choose the runtime 'torch', which does not need one"
        ) from error
    return graph


def _build(graph: CachedGraph) -> None:
    from .onnx_export import save_tower, unfinished_prefix
    from .torch_backend import build_tower

    # The lock is held, so these belong to processes that were killed.
    for unfinished in graph.path.parent.glob(f"{unfinished_prefix(graph.path)}*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    tower = build_tower(graph.model_name, graph.modality, graph.checkpoint)
    if not graph.path.parent.name.endswith(tower_digest(graph.checkpoint, graph.modality)):
        raise CacheError(f"{graph.checkpoint} was replaced while it was read; load it again")
    save_tower(tower, graph.path, precision=graph.precision, external_data=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time change a graph; others wait. The lock of a process that dies is released."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock"), mode=0o666):
        yield
