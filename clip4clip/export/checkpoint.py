"""Write a checkpoint as a folder that another library loads."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .. import __version__
from ..config import image_model, is_text_tower
from ..errors import ExportError, InputValueError, UnknownNameError, WeightsNotFoundError, first_line
from ..model import INITIAL_LOGIT_SCALE
from ..progress import Track, no_progress
from ..runtime.torch_backend import build_tower
from ..weights.checkpoint import read_state_dict
from ..weights.hub import HOW_TO_SUPPLY_WEIGHTS, WEIGHTS_SOURCES
from ..weights.identity import Checkpoint, find_checkpoint
from ..weights.locate import Reference
from ..weights.metadata import Metadata, read_metadata, to_metadata
from . import DTYPES, LIBRARIES, hugging_face, open_clip
from .folder import atomic_folder, check_folder
from .model_card import model_card
from .target import Target


@dataclass(frozen=True)
class Exported:
    """What :func:`export_checkpoint` has written.

    Attributes:
        folder: the folder.
        checkpoint: the checkpoint that is in it.
        files: names of its files.
        code: Python code that loads it with the other library.
        notes: what the folder does not have, each a sentence.
    """

    folder: Path
    checkpoint: Checkpoint
    files: tuple[str, ...]
    code: str
    notes: tuple[str, ...]


def export_checkpoint(
    weights: Reference | None,
    library: str,
    folder: str | os.PathLike[str],
    *,
    model_name: str | None = None,
    dtype: str = "float32",
    drop_head: bool = False,
    force: bool = False,
    track: Track = no_progress,
) -> Exported:
    """Write the two towers of a checkpoint as a folder that transformers or open_clip loads.

    The other library then returns the same vectors for texts and frames, and has its own preprocessing and tokenizer
    from the folder. Neither library has heads for videos: a video's vector is the mean of its normalised frame vectors.

    Args:
        weights: a file, a folder, ``hf://owner/repo[@revision][/file]``, or None for the default weights of the model.
        library: ``'transformers'`` or ``'open_clip'``.
        folder: the folder to write. It appears when it is complete.
        model_name: key of :data:`clip4clip.config.MODELS`; None reads the network from ``weights``.
        dtype: number format of the weights: ``'float32'``, ``'float16'`` or ``'bfloat16'``.
        drop_head: export the towers of a checkpoint with a seqLSTM or seqTransf head without that head.
        force: replace the files of an earlier export in the folder.
        track: progress callback; see :data:`clip4clip.progress.Track`.

    Raises:
        UnknownNameError: the library, the dtype or the model is unknown.
        WeightsNotFoundError, CheckpointError: see :func:`clip4clip.weights.identity.find_checkpoint`.
        ExportError: the library has no such network; the checkpoint has a head and ``drop_head`` is not set; the folder
            holds files and ``force`` is not set; or it cannot be written.
    """
    for name, value, names in (("library", library, LIBRARIES), ("dtype", dtype, DTYPES)):
        if value not in names:
            raise UnknownNameError(f"unknown {name} {value!r}; it must be one of {', '.join(names)}")
    if not os.fspath(folder):
        raise InputValueError("the name of the folder must not be empty")
    folder, target = Path(folder), _TARGETS[library]
    check_folder(folder, _ALL_FILES, force)
    checkpoint = _find(weights, model_name)
    _check_network(checkpoint, library, target, drop_head)
    if folder.resolve() in (checkpoint.path.parent.resolve(), checkpoint.path.resolve().parent):  # it may be a link
        raise ExportError(f"{folder} is the folder of the checkpoint, which would be replaced; choose another folder")
    files = target.files(checkpoint.config, dtype)
    scale = _logit_scale(checkpoint)
    notes = _notes(checkpoint, has_scale=scale is not None)
    tensors = _convert(checkpoint, torch.tensor(INITIAL_LOGIT_SCALE) if scale is None else scale, target, dtype, track)
    metadata = _metadata(checkpoint)
    files["README.md"] = model_card(metadata, library, target.code(folder.absolute().name), notes)
    try:
        with atomic_folder(folder, _ALL_FILES, last=target.weights) as temporary:
            _write(temporary, files, tensors, target.weights, metadata)
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{folder} cannot be written: {first_line(error)}") from error
    return Exported(folder, checkpoint, tuple(sorted([*files, target.weights])), target.code(str(folder)), notes)


def _write(
    folder: Path, files: Mapping[str, str], tensors: dict[str, Tensor], weights: str, metadata: Metadata
) -> None:
    """Write all files of the folder, and wait until they are on the disk."""
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8", newline="\n")
    mode = (folder / "README.md").stat().st_mode
    save_file(tensors, folder / weights, to_metadata(metadata))
    for path in folder.iterdir():
        path.chmod(mode)  # some versions of safetensors write files that only their owner can read
        with path.open("rb+") as file:
            os.fsync(file.fileno())


_TARGETS = {"transformers": hugging_face.TARGET, "open_clip": open_clip.TARGET}
# The files that an export may write, whichever the library.
_ALL_FILES = (
    "README.md",
    hugging_face.WEIGHTS,
    "config.json",
    "preprocessor_config.json",
    open_clip.WEIGHTS,
    open_clip.CONFIGURATION,
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def _find(weights: Reference | None, model_name: str | None) -> Checkpoint:
    if model_name is not None and is_text_tower(model_name):
        vision = image_model(model_name)
        raise ExportError(
            f"{model_name} is a text tower that other libraries load from its own weights; export the model of its "
            f"vision tower, {vision}"
        )
    try:
        return find_checkpoint(weights, model_name)
    except WeightsNotFoundError as error:
        message = str(error).replace(HOW_TO_SUPPLY_WEIGHTS, f"Name the checkpoint to export: {WEIGHTS_SOURCES}.")
        raise WeightsNotFoundError(message) from error


def _check_network(checkpoint: Checkpoint, library: str, target: Target, drop_head: bool) -> None:
    """Reject what the library does not have, by name."""
    if obstacles := target.find_obstacles(checkpoint.config):
        other = next((name for name, each in _TARGETS.items() if not each.find_obstacles(checkpoint.config)), None)
        hint = f". {other} has them: export it with library={other!r} (--to {other})" if other else ""
        raise ExportError(f"{library} has no CLIP with {' and '.join(obstacles)}, as {checkpoint.path} needs{hint}")
    if checkpoint.head != "meanP" and not drop_head:
        raise ExportError(
            f"{checkpoint.path} has a {checkpoint.head} head, which {library} does not have: its vectors of videos "
            "cannot be computed there. To export only the towers, whose vectors of texts and frames stay the same, "
            "pass drop_head (--drop-head)"
        )


def _logit_scale(checkpoint: Checkpoint) -> Tensor | None:
    scale = read_state_dict(checkpoint.path).get("logit_scale")
    is_number = scale is not None and scale.numel() == 1 and scale.is_floating_point()
    return scale.float().reshape(()) if scale is not None and is_number else None


def _convert(
    checkpoint: Checkpoint, logit_scale: Tensor, target: Target, dtype: str, track: Track
) -> dict[str, Tensor]:
    """Return the tensors of both towers under the names of the library."""
    tensors = {"logit_scale": logit_scale}
    for modality, prefix in (("text", ""), ("video", "visual.")):
        tower = build_tower(checkpoint, modality)
        tensors |= {prefix + name: tensor for name, tensor in tower.state_dict().items()}
    renamed = target.rename(checkpoint.config, tensors)
    converted = {}
    for name, tensor in track(renamed.items(), len(renamed), "converting"):
        converted[name] = tensor.to(getattr(torch, dtype)).contiguous()
        if not converted[name].isfinite().all():
            raise ExportError(f"{name} of {checkpoint.path} has numbers that {dtype} cannot hold: choose another dtype")
    return converted


def _metadata(checkpoint: Checkpoint) -> Metadata:
    """Return what the exported weights say about themselves: that they have no head, and how they were trained."""
    own = read_metadata(checkpoint.path)
    if own is None:
        return Metadata(checkpoint.model_name, checkpoint.config, "meanP")
    # The evaluation was one with the head.
    recall = own.recall_at_1 if checkpoint.head == "meanP" else None
    return Metadata(
        checkpoint.model_name, checkpoint.config, "meanP", own.settings, own.step, own.epoch, recall, __version__
    )


def _notes(checkpoint: Checkpoint, has_scale: bool) -> tuple[str, ...]:
    notes = []
    if not has_scale:
        notes.append(
            "The checkpoint has no logit_scale, so similarities are scaled by "
            f"{math.exp(INITIAL_LOGIT_SCALE):.1f}, as in an untrained CLIP."
        )
    if checkpoint.head != "meanP":
        notes.append(
            f"The {checkpoint.head} head stays behind. The mean of the frame vectors, which takes its place, gives "
            "videos other vectors than the head does."
        )
    return tuple(notes)
