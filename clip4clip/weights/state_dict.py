"""The tensors of a CLIP under OpenAI's names: which network they describe, and which of them a tower or head needs."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..log import warn_once
from .families import shorten

logger = logging.getLogger(__name__)

# How the names of the tensors begin.
VISION_PREFIX = "visual."
TEXT_PREFIXES = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
HEAD_PREFIXES = ("lstm_visual.", "transformerClip.", "frame_position_embeddings.")
# Of tensors that no vector depends on: the scale of the loss, sizes in OpenAI's archives, the state of a training.
HARMLESS_PREFIXES = (
    "logit_bias",
    "input_resolution",
    "context_length",
    "vocab_size",
    "optimizer.",
    "scheduler.",
    "epoch",
    "step",
    "global_step",
    "loss.",
    "criterion.",
    "classifier.",
)

_QUERY_PROJECTION = re.compile(r"(.*\.attn\.)q_proj\.(weight|bias)")


def infer_config(tensors: Mapping[str, Tensor]) -> dict[str, int | str]:
    """Return the fields of :class:`~clip4clip.config.CLIPConfig` that the tensors show, as values that JSON has."""

    def size(name: str, dim: int) -> int | None:
        tensor = tensors.get(name)
        return tensor.shape[dim] if tensor is not None and tensor.ndim > dim else None

    def count_layers(prefix: str) -> int:
        return len({name.split(".")[prefix.count(".")] for name in tensors if name.startswith(prefix)})

    fields: dict[str, int | str | None] = {}
    if "visual.conv1.weight" in tensors:
        patch_size, positions = size("visual.conv1.weight", 3), size("visual.positional_embedding", 0)
        fields |= {
            "embed_dim": size("visual.proj", 1),
            "resolution": math.isqrt(positions - 1) * patch_size if positions and patch_size else None,
            "patch_size": patch_size,
            "vision_width": size("visual.conv1.weight", 0),
            "vision_layers": count_layers("visual.transformer.resblocks."),
            "vision_mlp_width": size("visual.transformer.resblocks.0.mlp.c_fc.weight", 0),
            "pooling": "attention" if "visual.attn_pool.probe" in tensors else None,
        }
    if "token_embedding.weight" in tensors:
        fields |= {
            "embed_dim": size("text_projection", 1) or fields.get("embed_dim"),
            "context_length": size("positional_embedding", 0),
            "vocab_size": size("token_embedding.weight", 0),
            "text_width": size("token_embedding.weight", 1),
            "text_layers": count_layers("transformer.resblocks."),
            "text_mlp_width": size("transformer.resblocks.0.mlp.c_fc.weight", 0),
        }
    return {name: value for name, value in fields.items() if value is not None}


def sim_header(tensors: Iterable[str], path: Path) -> str:
    """Return which head a checkpoint has, by the names of its tensors: ``'meanP'``, ``'seqLSTM'`` or ``'seqTransf'``.

    Raises:
        CheckpointError: it has a ``tightTransf`` head, which compares each video with each text and has no vectors.
    """
    modules = {name.split(".")[0] for name in tensors}
    if "transformerClip" in modules:
        return "seqTransf"
    if "lstm_visual" in modules:
        return "seqLSTM"
    if modules & {"cross", "similarity_dense"}:
        raise CheckpointError(
            f"{path} was trained with the tightTransf head, which scores each pair of a text and a video together: "
            "a video has no vector of its own. Use a checkpoint trained with meanP, seqLSTM or seqTransf."
        )
    return "meanP"


def tower_state(tensors: Mapping[str, Tensor], modality: str) -> dict[str, Tensor]:
    """Return the tensors of one tower, ``'text'`` or ``'video'``, under the names of :mod:`clip4clip.model`."""
    if modality == "video":
        state = {
            name.removeprefix(VISION_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(VISION_PREFIX)
        }
    else:
        state = {name: tensor for name, tensor in tensors.items() if name.startswith(TEXT_PREFIXES)}
    return _stack_projections(state)


def head_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the pooling head, under the names of :mod:`clip4clip.model`."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith(HEAD_PREFIXES)}


def _stack_projections(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace separate projections of queries, keys and values by OpenAI's single ``in_proj``, in place."""
    for name in list(state):
        match = _QUERY_PROJECTION.fullmatch(name)
        if match is None:
            continue
        prefix, kind = match.groups()
        projections = [state.pop(f"{prefix}{part}_proj.{kind}", None) for part in "qkv"]
        if _can_stack(projections):  # otherwise in_proj is reported as missing
            state[f"{prefix}in_proj_{kind}"] = torch.cat(projections)  # type: ignore[arg-type]
    return state


def _can_stack(projections: list[Tensor | None]) -> bool:
    """Return whether all are floating-point tensors of one shape, none of them larger than its data in the file."""
    return all(
        projection is not None
        and projection.is_floating_point()
        and projection.ndim > 0
        and projection.shape == projections[0].shape  # type: ignore[union-attr]
        and projection.nbytes <= projection.untyped_storage().nbytes()
        for projection in projections
    )


def assign(module: torch.nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Make the tensors of a state dict the parameters of a module, in float32. Float32 tensors are not copied.

    Args:
        module: the module whose parameters are replaced.
        state: tensors by name.
        path: the checkpoint file, for messages.

    Raises:
        CheckpointError: a tensor is missing, has a different shape, or does not hold floats; or there is one that the
            module does not have, because then it would not compute the network of the checkpoint.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in state]
    if missing:
        raise CheckpointError(f"{path} lacks {len(missing)} of {len(expected)} tensors: {shorten(missing)}")
    wrong = [
        f"{name} is {tuple(state[name].shape)} {state[name].dtype}, not {tuple(tensor.shape)} of floats"
        for name, tensor in expected.items()
        if state[name].shape != tensor.shape or not state[name].is_floating_point()
    ]
    if wrong:
        raise CheckpointError(f"{path} has {len(wrong)} tensors of the wrong shape or type: {shorten(wrong)}")
    unused = state.keys() - expected.keys()
    if unknown := sorted(name for name in unused if not name.startswith(HEAD_PREFIXES)):
        raise CheckpointError(
            f"{path} is of another network: it has {len(unknown)} tensors that this one does not: {shorten(unknown)}"
        )
    report_unused(unused, path)
    module.load_state_dict({name: state[name].float().contiguous() for name in expected}, assign=True)


def report_unknown(tensors: Iterable[str], path: Path) -> None:
    """Report the tensors that belong neither to a tower nor to a head, and warn if vectors may depend on some."""
    prefixes = (VISION_PREFIX, "logit_scale", *TEXT_PREFIXES, *HEAD_PREFIXES)
    unknown = [name for name in tensors if not name.startswith(prefixes)]
    report_unused(unknown, path)
    if suspicious := sorted(name for name in unknown if not name.startswith(HARMLESS_PREFIXES)):
        warn_once(
            logger,
            f"{path} has tensors that no CLIP has, and that are not used: {shorten(suspicious)}. If its network "
            "computes vectors with them, those of this package are wrong.",
        )


def report_unused(names: Iterable[str], path: Path) -> None:
    """Log, at level info, the names of the tensors of a checkpoint that are not used."""
    if unused := sorted(names):
        logger.info("%s: not used: %s", path, ", ".join(unused))
