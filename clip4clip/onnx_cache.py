"""The graphs that ONNX Runtime computes: each made from a checkpoint once, and kept. With it torch is not needed."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import CacheError
from .weights import cache_folder, inspect

logger = logging.getLogger(__name__)

GRAPHS = 1  # counted up when what is in a graph changes: those that are kept are then made anew


def kept_graph(model_name: str, modality: str, path: Path, precision: str = "float32") -> Path:
    """The graph file of a checkpoint's tower, made by whichever process comes first.

    It lies in :func:`clip4clip.weights.cache_folder` under the model's name and the fingerprint of the weights.
    """
    folder = cache_folder() / f"graphs-{GRAPHS}" / f"{model_name}-{inspect(path, model_name).fingerprint}"
    graph = folder / f"{modality}-{precision}.onnx"
    if graph.is_file():
        return graph
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f".{graph.name}.lock"):
            if not graph.is_file():
                logger.info("making %s, once", graph)
                _make(model_name, modality, path, precision, graph)
    except OSError as error:
        raise CacheError(
            f"{graph}, which is made from {path} once, cannot be kept: {error}. Set CLIP4CLIP_CACHE to a folder with "
            "room for it, or choose the runtime 'torch', which needs none"
        ) from error
    return graph


def _make(model_name: str, modality: str, path: Path, precision: str, graph: Path) -> None:
    from .onnx_export import save_tower
    from .torch_runtime import build_tower

    with tempfile.TemporaryDirectory(dir=graph.parent, prefix=".making-") as folder:
        # Under the names that they are to have: a graph names the file of its tensors.
        fresh = Path(folder) / graph.name
        save_tower(build_tower(model_name, modality, path), fresh, precision=precision, tensors_beside=True)
        for made in sorted(Path(folder).iterdir(), key=lambda made: made == fresh):  # the graph last
            made.replace(graph.parent / made.name)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; the others wait. A process that dies lets go."""
    handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
