"""A tower to an ONNX file: in a precision, with a pooling head if it is wanted, and checked."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch

from .errors import ExportError, UnknownNameError
from .files import whole_file
from .model import MeanPooling, SequenceLSTM, SequenceTransformer, TextTower, VisionTower
from .onnx_graph import save, text_graph, vision_graph
from .threads import fork_safe
from .tower import unit_rows

PooledBy = MeanPooling | SequenceLSTM | SequenceTransformer
HEAD_NAMES = {MeanPooling: "meanP", SequenceLSTM: "seqLSTM", SequenceTransformer: "seqTransf"}

# How far the unit vectors of a graph may be from torch's, as the least cosine and the largest difference of a number.
TOLERANCE = {"float32": (0.999999, 1e-4), "float16": (0.999, 1e-2), "int8": (0.999, 0.05)}


@fork_safe
def save_tower(
    tower: TextTower | VisionTower,
    path: Path,
    head: PooledBy | None = None,
    precision: str = "float32",
    tensors_beside: bool = False,
) -> None:
    """Writes a tower as an ONNX graph, and compares what ONNX Runtime makes of it with what torch makes.

    Until they agree it lies in a folder beside its place, see :func:`unfinished`: what was there before stays as it is.

    Args:
        tower: on the CPU, float32.
        path: of the file.
        head: of a :class:`VisionTower`: the graph then takes the frames of one video and gives its unit vector.
        precision: ``'float32'``; ``'float16'``; or ``'int8'``, whose linear layers have weights of 8 bits with a scale
            for each column, and inputs of 8 bits whose scale is found when it runs (dynamic quantisation). What goes in
            and what comes out stays float32.
        tensors_beside: puts the tensors into ``<path>.data``, whence they can be mapped.

    Raises:
        CheckpointError: when the tower gives no vectors.
        ExportError: when the two differ by more than ``TOLERANCE`` allows.
        UnknownNameError: for another precision.
        OSError: when the file cannot be written.
    """
    if precision not in TOLERANCE:
        raise UnknownNameError(f"unknown precision {precision!r} of a graph; it must be one of {', '.join(TOLERANCE)}")
    tensors = {name: tensor.detach().numpy() for name, tensor in tower.state_dict().items()}
    quantised = precision == "int8"
    if isinstance(tower, TextTower):
        model = text_graph(tower.config, tensors, quantised)
    elif head is None:
        model = vision_graph(tower.config, tensors, quantised=quantised)
    else:
        tensors |= {name: tensor.detach().numpy() for name, tensor in head.state_dict().items()}
        model = vision_graph(tower.config, tensors, HEAD_NAMES[type(head)], quantised)
    path = path.resolve()  # through a link, as anything is written
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=unfinished(path)) as folder:
        if precision == "float16":
            model = _halved(model)
        fresh = Path(folder) / path.name  # as it is to be called: a graph names the file of its tensors
        save(model, fresh, tensors_beside)
        del model  # before ONNX Runtime has the tensors in memory, too
        _check(tower, head, fresh, precision)
        for made in sorted(Path(folder).iterdir(), key=lambda made: made == fresh):  # the graph last
            with whole_file(path.parent / made.name) as place:
                shutil.move(made, place)


def unfinished(path: Path) -> str:
    """How the names of the folders begin in which the graph of a path is made."""
    return f".{path.name}.making-"


def _halved(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
    OnnxModel(model).topological_sort()
    return model


@torch.inference_mode()
def _check(tower: TextTower | VisionTower, head: PooledBy | None, path: Path, precision: str) -> None:
    from .onnx_runtime import load, run

    inputs = _example(tower)
    embeddings = tower(torch.from_numpy(inputs))
    if head is not None:
        embeddings = head.pool(head(embeddings))[None]
    expected = unit_rows(embeddings.numpy())
    found = run(load(path), inputs).reshape(expected.shape)
    found = found / np.linalg.norm(found, axis=-1, keepdims=True)
    cosine, difference = (found * expected).sum(-1).min(), np.abs(found - expected).max()
    least, most = TOLERANCE[precision]
    if not (cosine >= least and difference <= most):  # so written that NaN fails too
        raise ExportError(
            f"{path.name} gives other vectors than its model: cosine {cosine:.6f}, difference {difference:.1e}; "
            f"{least} and {most:.0e} are due in {precision}"
        )


def _example(tower: TextTower | VisionTower) -> np.ndarray:
    """Token ids of captions of several lengths, or pixels of frames; always the same."""
    random, config = np.random.default_rng(0), tower.config
    if isinstance(tower, VisionTower):
        return random.normal(size=(3, 3, config.resolution, config.resolution)).astype(np.float32)
    ids = random.integers(0, config.vocab_size - 2, (3, min(12, config.context_length)))
    for row, end in zip(ids, (3, 7, ids.shape[1] - 1), strict=True):
        row[end], row[end + 1 :] = config.vocab_size - 1, 0
    return ids
