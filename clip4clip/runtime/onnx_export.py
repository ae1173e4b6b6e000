"""A tower to an ONNX file: in a precision, with a pooling head if it is wanted, and checked."""

from __future__ import annotations

import functools
import itertools
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from ..errors import ExportError, UnknownNameError
from ..files import atomic_write
from ..model import MeanPooling, SequenceLSTM, SequenceTransformer, TextTower, VisionTower
from ..threads import fork_safe
from .onnx_graph import save, text_graph, vision_graph
from .tower import l2_normalize

logger = logging.getLogger(__name__)

PooledBy = MeanPooling | SequenceLSTM | SequenceTransformer
HEAD_NAMES = {MeanPooling: "meanP", SequenceLSTM: "seqLSTM", SequenceTransformer: "seqTransf"}

# How far the unit vectors of a graph may be from torch's, as the least cosine and the largest difference of a number.
TOLERANCE = {"float32": (0.999999, 1e-4), "float16": (0.999, 1e-2), "int8": (0.99, 0.1)}
USUAL = 0.999  # a lower cosine is warned about
SMALLEST = 1e-30  # in place of a weight of zero
SEEN = 12  # captions or frames in which outliers are looked for


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
        ExportError: when the two differ by more than ``TOLERANCE`` allows. A cosine below ``USUAL`` is a warning.
        UnknownNameError: for another precision.
        OSError: when the file cannot be written.
    """
    if precision not in TOLERANCE:
        raise UnknownNameError(f"unknown precision {precision!r} of a graph; it must be one of {', '.join(TOLERANCE)}")
    quantised = precision == "int8"
    tensors = _smoothed(tower) if quantised else _tensors(tower)
    if isinstance(tower, TextTower):
        model = text_graph(tower.config, tensors, quantised)
    elif head is None:
        model = vision_graph(tower.config, tensors, quantised=quantised)
    else:
        tensors |= _tensors(head)
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
            with atomic_write(path.parent / made.name) as place:
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


def _tensors(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def _smoothed(tower: TextTower | VisionTower) -> dict[str, np.ndarray]:
    """Return the tensors of a tower that gives the same vectors, but whose linear layers get inputs without outliers.

    In 8 bits a row has one scale. In trained models a few channels are up to a hundred times larger than the others,
    which are left with hardly a level then. Such a channel is divided by a power of two, so that nothing is rounded,
    where it is made, and multiplied by it in the weights that take it (SmoothQuant, arXiv 2211.10438).
    """
    tensors = _tensors(tower)
    for (block, layer), largest in _largest_inputs(tower).items():
        divisor = _divisor(largest, tensors[block + layer])
        tensors[block + layer] = tensors[block + layer] * divisor
        for made in (f"{block}{_MAKERS[layer]}{kind}" for kind in ("weight", "bias")):
            rows = len(tensors[made]) - len(divisor)  # queries and keys, before the values
            tensors[made] = (tensors[made].T / np.pad(divisor, (rows, 0), constant_values=1)).T
        if layer == "mlp.c_proj.weight":
            tensors[f"{block}mlp.gelu.divisor"] = divisor
    return tensors


# Each linear layer's weight, and whose weight and bias make its input.
_MAKERS = {
    "attn.in_proj_weight": "ln_1.",
    "attn.out_proj.weight": "attn.in_proj_",
    "mlp.c_fc.weight": "ln_2.",
    "mlp.c_proj.weight": "mlp.c_fc.",
}


@torch.inference_mode()
def _largest_inputs(tower: TextTower | VisionTower) -> dict[tuple[str, str], np.ndarray]:
    """Block and weight of each linear layer to the largest magnitude of each channel of its input (random inputs)."""
    found: dict[tuple[str, str], np.ndarray] = {}

    def note(block: str, weight: str, rows: torch.Tensor) -> None:
        found[block, weight] = rows.abs().flatten(0, -2).amax(0).numpy()

    hooks = []
    block: Any  # mypy takes its modules for tensors
    for number, block in enumerate(tower.transformer.resblocks):
        of_block = functools.partial(note, f"transformer.resblocks.{number}.")
        in_proj = functools.partial(of_block, "attn.in_proj_weight")  # which is no module of its own
        hooks.append(block.ln_1.register_forward_hook(lambda _, __, rows, note=in_proj: note(rows)))
        for layer in ("attn.out_proj", "mlp.c_fc", "mlp.c_proj"):
            taken = functools.partial(of_block, f"{layer}.weight")
            hooks.append(block.get_submodule(layer).register_forward_pre_hook(lambda _, rows, note=taken: note(*rows)))
    try:
        tower(torch.from_numpy(_example(tower, SEEN)))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _divisor(largest: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A power of two for each channel of an input: 1, but for those that stand out against their weights."""
    with np.errstate(divide="ignore", invalid="ignore"):  # a channel or a weight that is zero
        ratio = np.sqrt(largest / np.maximum(np.abs(weight).max(0), SMALLEST))
        power = np.exp2(np.floor(np.log2(ratio / np.median(ratio))))
    return np.maximum(np.nan_to_num(power, nan=1, posinf=1), 1)


@torch.inference_mode()
def _check(tower: TextTower | VisionTower, head: PooledBy | None, path: Path, precision: str) -> None:
    from .onnx_backend import load, run

    inputs = _example(tower)
    embeddings = tower(torch.from_numpy(inputs))
    if head is not None:
        embeddings = head.pool(head(embeddings))[None]
    expected = l2_normalize(embeddings.numpy())
    found = run(load(path), inputs).reshape(expected.shape)
    found = found / np.linalg.norm(found, axis=-1, keepdims=True)
    cosine, difference = (found * expected).sum(-1).min(), np.abs(found - expected).max()
    least, most = TOLERANCE[precision]
    if not (cosine >= least and difference <= most):  # so written that NaN fails too
        raise ExportError(
            f"{path.name} gives other vectors than its model: cosine {cosine:.6f}, difference {difference:.1e}; "
            f"{least} and {most:.0e} are due in {precision}"
        )
    if cosine < USUAL:
        logger.warning(
            "%s: vectors of this checkpoint in %s have a cosine of %.4f to those in float32; %s or more is usual. "
            "Choose another precision if that is too far",
            path.name,
            precision,
            cosine,
            USUAL,
        )


def _example(tower: TextTower | VisionTower, count: int = 3) -> np.ndarray:
    """Token ids of captions of several lengths, or pixels of frames; always the same."""
    random, config = np.random.default_rng(0), tower.config
    if isinstance(tower, VisionTower):
        return random.normal(size=(count, 3, config.resolution, config.resolution)).astype(np.float32)
    ids = random.integers(0, config.vocab_size - 2, (count, min(12, config.context_length)))
    for row, end in zip(ids, itertools.cycle((3, 7, ids.shape[1] - 1)), strict=False):
        row[end], row[end + 1 :] = config.vocab_size - 1, 0
    return ids
