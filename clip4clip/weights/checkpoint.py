"""A checkpoint file to a checked state dict.

Every family of checkpoints ends up under one set of names, OpenAI's (``visual.conv1.weight``, ``text_projection``, …).
Tensors stay mapped from their file wherever its format allows, so that what a tower does not need is never read.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import find_mismatches
from ..errors import CheckpointError, first_line
from ..threads import fork_safe
from .torchscript import is_torchscript, read_torchscript

logger = logging.getLogger(__name__)

# How the names of the text tower's and of the heads' tensors begin.
_TEXT = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
HEAD = ("lstm_visual.", "transformerClip.", "frame_position_embeddings.")

FINGERPRINT_VALUES = 64  # of each tensor

# What a checkpoint may hold beside its numbers; a CLIP has a few hundred tensors. Reading takes a second at most then.
MAX_TENSORS = 10_000
MAX_NUMBERS = 2**30  # of a tensor: a few bytes in a file may stand for any number of them
MAX_PICKLE = 2**20  # bytes that name and place the tensors
LEGACY_PICKLES = 5  # before the numbers of a file from before PyTorch 1.6


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint file under OpenAI's names (see the table in docs/checkpoints.md).

    No code from the file is run. Hugging Face names its query, key and value projections apart: they stay so here
    (``….attn.q_proj.weight``) until :func:`tower_state` stacks those that are needed.

    Raises:
        CheckpointError: when the file is truncated, damaged or no checkpoint at all.
    """
    try:
        tensors = _read_file(path)
        if huge := [name for name, tensor in tensors.items() if tensor.numel() > MAX_NUMBERS]:
            raise ValueError(f"more than {MAX_NUMBERS:,} numbers, which is the limit, are in {_some(huge)}")
    except Exception as error:
        # The file is untrusted and its parsers raise all kinds of errors: each means the same to the caller.
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {first_line(error)}") from error
    tensors = _strip(tensors, "module.")
    tensors = {name.removeprefix("clip."): tensor for name, tensor in tensors.items()}
    if any(name.startswith(("text_model.", "vision_model.")) for name in tensors):
        tensors = _from_hugging_face(tensors)
    if "token_embedding.weight" not in tensors and "visual.conv1.weight" not in tensors:
        some = ", ".join(itertools.islice(tensors, 5)) or "none at all"
        raise CheckpointError(f"{path} holds no CLIP with a vision transformer; its tensors are: {some}")
    return tensors


def check_shape(tensors: Mapping[str, Tensor], model_name: str, path: Path) -> None:
    """Refuses a checkpoint whose network, as read off its tensors, is not the one its name promises."""
    wrong, hint = find_mismatches(observed_config(tensors), model_name)
    if wrong:
        raise CheckpointError(f"{path} is not a {model_name}: {'; '.join(wrong)}.{hint}")


def observed_config(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Those fields of :class:`~clip4clip.model.CLIPConfig` that the shapes in a state dict tell."""

    def size(name: str, dim: int) -> int | None:
        tensor = tensors.get(name)
        return tensor.shape[dim] if tensor is not None and tensor.ndim > dim else None

    def layers(prefix: str) -> int:
        return len({name.split(".")[prefix.count(".")] for name in tensors if name.startswith(prefix)})

    found: dict[str, int | None] = {}
    if "visual.conv1.weight" in tensors:
        patch, positions = size("visual.conv1.weight", 3), size("visual.positional_embedding", 0)
        found |= {
            "embed_dim": size("visual.proj", 1),
            "resolution": math.isqrt(positions - 1) * patch if positions and patch else None,
            "patch_size": patch,
            "vision_width": size("visual.conv1.weight", 0),
            "vision_layers": layers("visual.transformer.resblocks."),
        }
    if "token_embedding.weight" in tensors:
        found |= {
            "embed_dim": size("text_projection", 1) or found.get("embed_dim"),
            "context_length": size("positional_embedding", 0),
            "vocab_size": size("token_embedding.weight", 0),
            "text_width": size("token_embedding.weight", 1),
            "text_layers": layers("transformer.resblocks."),
        }
    return {name: value for name, value in found.items() if value is not None}


def tower_state(tensors: Mapping[str, Tensor], modality: str) -> dict[str, Tensor]:
    """The tensors of one tower, ``'text'`` or ``'video'``, under the names of :mod:`clip4clip.model`."""
    if modality == "video":
        state = {name.removeprefix("visual."): tensor for name, tensor in tensors.items() if name.startswith("visual.")}
    else:
        state = {name: tensor for name, tensor in tensors.items() if name.startswith(_TEXT)}
    return _stack_projections(state)


def sim_header(tensors: Iterable[str], path: Path) -> str:
    """``'meanP'``, ``'seqLSTM'`` or ``'seqTransf'``, by the names of a checkpoint's tensors.

    Raises:
        CheckpointError: for a ``tightTransf`` checkpoint, which compares each video with each text and has no vectors.
    """
    names = {name.split(".")[0] for name in tensors}
    if "transformerClip" in names:
        return "seqTransf"
    if "lstm_visual" in names:
        return "seqLSTM"
    if names & {"cross", "similarity_dense"}:
        raise CheckpointError(
            f"{path} was trained with the tightTransf head, which scores each pair of a text and a video together: "
            "there is no vector of a video alone. Use a checkpoint trained with meanP, seqLSTM or seqTransf."
        )
    return "meanP"


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that tell weights from others; the same for the same numbers in another kind of file.

    So that a mapped file need not be read through, each tensor counts by its name, its shape and 64 of its values.
    Another training changes them all; it is no seal against somebody who wants two checkpoints to look the same.
    """
    found = hashlib.sha256()
    for name, tensor in _numbers(tensors):
        places = np.linspace(0, tensor.numel() - 1, FINGERPRINT_VALUES).astype(np.int64)
        at = tuple(map(torch.from_numpy, np.unravel_index(places, tensor.shape))) if tensor.ndim else ...
        values = tensor.detach()[at].float().numpy()
        found.update(f"{name} {tuple(tensor.shape)} ".encode() + values.astype("<f4").tobytes())
    return found.hexdigest()[:16]


@fork_safe
def digest(tensors: Mapping[str, Tensor], modality: str) -> str:
    """32 hexadecimal digits of every number of a tower, ``'text'`` or ``'video'``, in float32."""
    found = hashlib.sha256()
    for name, tensor in _numbers(tensors):
        if name.startswith(_TEXT if modality == "text" else "visual."):
            found.update(f"{name} {tuple(tensor.shape)} ".encode())
            found.update(tensor.detach().float().contiguous().numpy().reshape(-1).view(np.uint8).data)
    return found.hexdigest()[:32]


def _numbers(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """The tensors of towers and head, sorted, with query, key and value apart as Hugging Face has them."""
    parts: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith(("visual.", *_TEXT, *HEAD)) or not tensor.is_floating_point() or not tensor.numel():
            continue
        if ".attn.in_proj_" in name and tensor.ndim:
            for part, third in zip("qkv", tensor.chunk(3), strict=False):
                parts[name.replace("in_proj_", f"{part}_proj.")] = third
        else:
            parts[name] = tensor
    return sorted(parts.items())


def assign(module: torch.nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Makes the tensors of ``state`` the parameters of ``module``, as float32, without a copy where they are float32.

    Raises:
        CheckpointError: naming what is missing, has another shape or is no floating-point tensor.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in state]
    if missing:
        raise CheckpointError(f"{path} lacks {len(missing)} of {len(expected)} tensors: {_some(missing)}")
    wrong = [
        f"{name} is {tuple(state[name].shape)} {state[name].dtype}, not {tuple(tensor.shape)} of floats"
        for name, tensor in expected.items()
        if state[name].shape != tensor.shape or not state[name].is_floating_point()
    ]
    if wrong:
        raise CheckpointError(f"{path} has {len(wrong)} tensors of the wrong shape or type: {_some(wrong)}")
    report_unused(state.keys() - expected.keys(), path)
    module.load_state_dict({name: state[name].float().contiguous() for name in expected}, assign=True)


def report_unused(names: Iterable[str], path: Path) -> None:
    """Says at level info which tensors of a checkpoint play no part."""
    if unused := sorted(names):
        logger.info("%s: not used: %s", path, ", ".join(unused))


def unknown(tensors: Iterable[str]) -> list[str]:
    """The names that belong to neither tower nor to a head."""
    return [name for name in tensors if not name.startswith(("visual.", "logit_scale", *_TEXT, *HEAD))]


def _read_file(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        start = file.read(64)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as checkpoint:
            if len(checkpoint.keys()) > MAX_TENSORS:
                raise ValueError(f"it holds {len(checkpoint.keys()):,} tensors; {MAX_TENSORS:,} are read at most")
            return {name: checkpoint.get_tensor(name) for name in checkpoint.keys()}  # noqa: SIM118  not a mapping
    if zipfile.is_zipfile(path):
        _check_zip(path)
        if is_torchscript(path):
            return read_torchscript(path)
        return _unpickle(path, mmap=True)
    if start.startswith(b"PK"):
        raise ValueError("the file is truncated")
    if start.startswith(b"\x80"):
        _check_pickles(path)
        return _unpickle(path, mmap=False)
    if start.startswith(b"version https://git-lfs"):
        raise ValueError("it is a Git LFS pointer, not the file it points to: run git lfs pull")
    raise ValueError(f"it is neither safetensors nor a PyTorch file, it begins with {start[:16]!r}")


def _unpickle(path: Path, mmap: bool) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        # torch's own message tells how to run the code after all.
        raise ValueError(
            "it is damaged, or asks for more than tensors, which would run code from it. "
            "If you trust it, save its state dict anew, best as safetensors"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, not a state dict")
    tensors = {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_nested or tensor.device.type != "cpu":
            raise ValueError(f"{name} is no plain tensor but {tensor.layout} on the device {tensor.device}")
    return tensors


def _check_zip(path: Path) -> None:
    """Refuses a zip that is no checkpoint, and one that was packed anew with compression.

    torch would map what is compressed as if it were not, and unpack all else to whatever size it has. The code of a
    TorchScript archive is compressed, and never read.
    """
    with zipfile.ZipFile(path) as archive:
        read = [entry for entry in archive.infolist() if not re.match(r"[^/]+/code/", entry.filename)]
    if not any(re.fullmatch(r"[^/]+/data\.pkl", entry.filename) for entry in read):
        raise ValueError("it is a zip file, but not one that PyTorch wrote: it has no data.pkl")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in read):
        raise ValueError("it is compressed, which PyTorch never does: save its state dict anew")
    if len(read) > MAX_TENSORS:
        raise ValueError(f"it holds {len(read):,} entries; {MAX_TENSORS:,} are read at most")
    if any(entry.file_size > MAX_PICKLE for entry in read if entry.filename.endswith(".pkl")):
        raise ValueError(_TOO_MANY)


_TOO_MANY = (
    f"what it holds beside its numbers is larger than {MAX_PICKLE:,} bytes, ten times what a CLIP needs: "
    "save its state dict without the rest"
)


def _check_pickles(path: Path) -> None:
    """Refuses a file from before PyTorch 1.6 that would keep its parser busy."""
    with path.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            for _, _, position in pickletools.genops(file):
                if (position or 0) > MAX_PICKLE:
                    raise ValueError(_TOO_MANY)


def _strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    if tensors and all(name.startswith(prefix) for name in tensors):
        return {name[len(prefix) :]: tensor for name, tensor in tensors.items()}
    return tensors


# Hugging Face's names, in the order they are replaced.
_HUGGING_FACE = (
    ("text_model.embeddings.token_embedding.", "token_embedding."),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.final_layer_norm.", "ln_final."),
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding.", "visual.conv1."),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.pre_layrnorm.", "visual.ln_pre."),
    ("vision_model.post_layernorm.", "visual.ln_post."),
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    (".self_attn.", ".attn."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
)


def _from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        if name == "text_projection.weight":
            name, tensor = "text_projection", tensor.T
        elif name == "visual_projection.weight":
            name, tensor = "visual.proj", tensor.T
        for theirs, ours in _HUGGING_FACE:
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    return renamed


def _can_stack(parts: list[Tensor | None]) -> bool:
    """Whether three tensors are alike, floats, and not larger than what the file holds of them."""
    return all(
        part is not None
        and part.is_floating_point()
        and part.ndim > 0
        and part.shape == parts[0].shape  # type: ignore[union-attr]
        and part.nbytes <= part.untyped_storage().nbytes()
        for part in parts
    )


_Q_PROJ = re.compile(r"(.*\.attn\.)q_proj\.(weight|bias)")


def _stack_projections(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value, kept apart by Hugging Face, as the one product of ``in_proj``."""
    for name in [name for name in state if _Q_PROJ.fullmatch(name)]:
        prefix, kind = _Q_PROJ.fullmatch(name).groups()  # type: ignore[union-attr]
        parts = [state.pop(f"{prefix}{part}_proj.{kind}", None) for part in "qkv"]
        if _can_stack(parts):  # otherwise in_proj is reported missing
            state[f"{prefix}in_proj_{kind}"] = torch.cat(parts)  # type: ignore[arg-type]
    return state


def _some(items: list[str], count: int = 5) -> str:
    return ", ".join(items[:count]) + (f" and {len(items) - count} more" if len(items) > count else "")
