"""Write a tower as an ONNX file: in a precision, optionally with a pooling head, and compared with torch."""

from __future__ import annotations

import itertools
import logging
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch

from ..errors import ExportError, UnknownNameError
from ..files import atomic_write
from ..model import MeanPooling, PoolingHead, SequenceLSTM, SequenceTransformer, TextTower, VisionTower
from ..threads import fork_safe
from .normalize import l2_normalize
from .onnx_layers import write_model
from .onnx_smoothing import smoothed_tensors, tensors_of
from .onnx_towers import text_graph, vision_graph

logger = logging.getLogger(__name__)

HEAD_NAMES: dict[type, str] = {MeanPooling: "meanP", SequenceLSTM: "seqLSTM", SequenceTransformer: "seqTransf"}

# For each precision, the least cosine and the largest difference between the unit vectors of a graph and of torch.
TOLERANCES = {"float32": (0.999999, 1e-4), "float16": (0.999, 1e-2), "int8": (0.99, 0.1)}
WARN_BELOW_COSINE = 0.999
CHECKED_ROWS = 3  # captions or frames of the comparison
SMOOTHING_ROWS, SMOOTHING_PATCHES = 12, 600  # captions or frames that are searched for outliers; limit of their patches


@fork_safe
def save_tower(
    tower: TextTower | VisionTower,
    path: Path,
    head: PoolingHead | None = None,
    precision: str = "float32",
    external_data: bool = False,
) -> None:
    """Write a tower as an ONNX graph, after comparing the vectors of ONNX Runtime and torch.

    Until they agree, the graph is in a folder beside the file, see :func:`unfinished_prefix`, and an existing file is
    not changed.

    Args:
        tower: on the CPU, float32.
        path: the file.
        head: pools what a :class:`VisionTower` returns: the graph then takes the frames of one video and returns its
            unit vector.
        precision: ``'float32'``, ``'float16'``, or ``'int8'``. In int8, linear layers have 8-bit weights with a scale
            for each column, and 8-bit inputs whose scale is computed at run time (dynamic quantisation). The input and
            the output of the graph are float32 in any precision.
        external_data: write the tensors to ``<path>.data``, which can be mapped into memory.

    Raises:
        CheckpointError: the tower returns embeddings that are zero or not finite.
        ExportError: ONNX Runtime and torch differ by more than :data:`TOLERANCES` allow.
        UnknownNameError: the precision is unknown.
        OSError: the file cannot be written.
    """
    if precision not in TOLERANCES:
        raise UnknownNameError(f"unknown precision {precision!r} of a graph; it must be one of {', '.join(TOLERANCES)}")
    model = _build_model(tower, head, precision)
    path = path.resolve()  # replace the target of a link, not the link
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=unfinished_prefix(path)) as folder:
        unfinished = Path(folder) / path.name  # the final name, because the graph names the file of its tensors
        write_model(model, unfinished, external_data)
        del model  # before ONNX Runtime loads the tensors, too
        _compare_with_torch(tower, head, unfinished, precision)
        for file in sorted(Path(folder).iterdir(), key=lambda file: file == unfinished):  # the graph last
            with atomic_write(path.parent / file.name) as target:
                shutil.move(file, target)


def unfinished_prefix(path: Path) -> str:
    """Return the prefix of the names of the folders in which a graph file is prepared."""
    return f".{path.name}.making-"


def _build_model(tower: TextTower | VisionTower, head: PoolingHead | None, precision: str) -> onnx.ModelProto:
    quantised = precision == "int8"
    tensors = smoothed_tensors(tower, _smoothing_inputs(tower)) if quantised else tensors_of(tower)
    if isinstance(tower, TextTower):
        model = text_graph(tower.config, tensors, quantised)
    elif head is None:
        model = vision_graph(tower.config, tensors, quantised=quantised)
    else:
        model = vision_graph(tower.config, tensors | tensors_of(head), HEAD_NAMES[type(head)], quantised)
    return _to_float16(model) if precision == "float16" else model


def _to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
    OnnxModel(model).topological_sort()
    return model


@torch.inference_mode()
def _compare_with_torch(tower: TextTower | VisionTower, head: PoolingHead | None, path: Path, precision: str) -> None:
    """Raise ExportError if the unit vectors of a graph file are too far from those of torch."""
    from .onnx_backend import create_session, run_session

    inputs = _example_inputs(tower, CHECKED_ROWS)
    embeddings = tower(torch.from_numpy(inputs))
    if head is not None:
        embeddings = head.pool(head(embeddings))[None]
    expected = l2_normalize(embeddings.numpy())
    vectors = run_session(create_session(path), inputs).reshape(expected.shape)
    vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    cosine, difference = (vectors * expected).sum(-1).min(), np.abs(vectors - expected).max()
    min_cosine, max_difference = TOLERANCES[precision]
    is_close = cosine >= min_cosine and difference <= max_difference  # False for NaN, too
    if not is_close:
        raise ExportError(
            f"the vectors of {path.name} in {precision} are too far from those of torch: cosine {cosine:.6f} (at least "
            f"{min_cosine}), difference {difference:.1e} (at most {max_difference:.0e})"
        )
    if cosine < WARN_BELOW_COSINE:
        logger.warning(
            "%s: vectors of this checkpoint in %s have a cosine of only %.4f to those in float32; %s or more is usual. "
            "Choose another precision if that is too far",
            path.name,
            precision,
            cosine,
            WARN_BELOW_COSINE,
        )


def _smoothing_inputs(tower: TextTower | VisionTower) -> np.ndarray:
    """Return inputs that are searched for outliers. Frames of many patches are few: those of ViT-L/14 take long."""
    if isinstance(tower, TextTower):
        return _example_inputs(tower, SMOOTHING_ROWS)
    return _example_inputs(tower, max(2, min(SMOOTHING_ROWS, SMOOTHING_PATCHES // tower.grid**2)))


def _example_inputs(tower: TextTower | VisionTower, count: int) -> np.ndarray:
    """Return token ids of captions of different lengths, or pixel values of frames. They never change."""
    random, config = np.random.default_rng(0), tower.config
    if isinstance(tower, VisionTower):
        return random.normal(size=(count, 3, config.resolution, config.resolution)).astype(np.float32)
    ids = random.integers(0, config.vocab_size - 2, (count, min(12, config.context_length)))
    for row, eot in zip(ids, itertools.cycle((3, 7, ids.shape[1] - 1)), strict=False):
        row[eot], row[eot + 1 :] = config.vocab_size - 1, 0
    return ids
