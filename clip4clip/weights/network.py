"""Refuse checkpoints of another network, by their configuration and by traces in the file."""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import find_mismatches
from ..errors import CheckpointError, first_line
from ..log import warn_once

# What a folder or a hub repository may call its configuration and its checkpoint, the latter best first.
CONFIG_NAMES = ("config.json", "open_clip_config.json")
MAX_LINKS = 40  # from a checkpoint to its file, as many as Linux follows
HEAD_BYTES = 2**22  # of a checkpoint: its tensors' names lie within
_GELU_MODULE = re.compile(rb"torch\.nn\.modules\.activation(\.___torch_mangle_\d+)?\nGELU\n")  # in TorchScript


@dataclass(frozen=True)
class _Description:
    """What a configuration says of a network.

    Attributes:
        path: of the configuration.
        activations: of its towers, ``'quick_gelu'``, ``'gelu'``, ….
        sizes: fields of :class:`clip4clip.config.CLIPConfig`.
    """

    path: Path
    activations: frozenset[str]
    sizes: dict[str, int]


def read_configurations(folders: Iterable[Path], strict: bool) -> list[_Description]:
    """What the configurations of a CLIP say, in the first of the folders that has one.

    ``strict``: one that cannot be read is an error, because the folders are those of a model.
    """
    for folder in folders:
        found = []
        for name, describe in zip(CONFIG_NAMES, (_describe_hugging_face, _describe_open_clip), strict=True):
            path = folder / name
            try:
                config = json.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, RecursionError) as error:
                if strict:
                    raise _not_a_configuration(path, error) from error
                continue
            try:
                description = describe(path, config)
            except (AttributeError, TypeError) as error:
                if strict:
                    raise _not_a_configuration(path, error) from error
                continue
            if description is not None:
                found.append(description)
        if found:
            return found
    return []


def _not_a_configuration(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is not a model's configuration: {first_line(error)}")


def _describe_hugging_face(path: Path, config: dict[str, Any]) -> _Description | None:
    kind = config.get("model_type")  # timm's config.json has none
    if kind is None or "clip" not in kind:
        return None
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    if kind == "clip_text_model":
        text = config
    if kind == "clip_vision_model":
        vision = config
    towers = [tower for tower in (text, vision) if tower] or [config]
    sizes = {
        "embed_dim": config.get("projection_dim"),
        "resolution": vision.get("image_size"),
        "patch_size": vision.get("patch_size"),
        "vision_width": vision.get("hidden_size"),
        "vision_layers": vision.get("num_hidden_layers"),
        "context_length": text.get("max_position_embeddings"),
        "vocab_size": text.get("vocab_size"),
        "text_width": text.get("hidden_size"),
        "text_layers": text.get("num_hidden_layers"),
    }
    activations = frozenset(str(tower.get("hidden_act", "quick_gelu")) for tower in towers)
    return _Description(path, activations, _only_int(sizes))


def _describe_open_clip(path: Path, config: dict[str, Any]) -> _Description | None:
    model = config.get("model_cfg")
    if model is None:
        return None
    text, vision = model.get("text_cfg") or {}, model.get("vision_cfg") or {}
    sizes = {
        "embed_dim": model.get("embed_dim"),
        "resolution": vision.get("image_size"),
        "patch_size": vision.get("patch_size"),
        "vision_width": vision.get("width"),
        "vision_layers": vision.get("layers"),
        "context_length": text.get("context_length"),
        "vocab_size": text.get("vocab_size"),
        "text_width": text.get("width"),
        "text_layers": text.get("layers"),
    }
    return _Description(path, frozenset(["quick_gelu" if model.get("quick_gelu") else "gelu"]), _only_int(sizes))


def _only_int(sizes: dict[str, Any]) -> dict[str, int]:
    return {name: value for name, value in sizes.items() if isinstance(value, int)}


def configuration_folders(file: Path) -> list[Path]:
    """Where the configuration of a file may lie, the likeliest first.

    That is beside it, at the root of its snapshot in the Hugging Face cache, and the same for what it is a link to.
    """
    links = [file.absolute()]
    while links[-1].is_symlink() and len(links) < MAX_LINKS:
        links.append(links[-1].parent / links[-1].readlink())
    folders: list[Path] = []
    for link in links:
        folders += [link.parent, *(up for up in link.parents if up.parent.name == "snapshots")]
    return list(dict.fromkeys(folders))


def check_network(descriptions: list[_Description], file: Path | None, model_name: str) -> None:
    """Refuse a checkpoint whose activation is another one than CLIP's, which no tensor's shape would betray.

    Args:
        descriptions: what its configurations say. Their sizes count as long as there is no file.
        file: the checkpoint, if it is there.
        model_name: key of :data:`clip4clip.config.MODELS`.

    Raises:
        CheckpointError: with all that is wrong.
    """
    own = _activation_in(file) if file is not None else None
    if own == "gelu":
        descriptions = [_Description(file, frozenset([own]), {})]  # type: ignore[arg-type]
    elif own is None and file is not None and not descriptions:
        warn_once(
            f"{file} does not tell the activation of its network, and no configuration (config.json, "
            "open_clip_config.json) beside it does: QuickGELU is assumed, as in OpenAI's CLIP. If it was trained with "
            "GELU, as many of open_clip's models are, its vectors are wrong."
        )
    for description in descriptions:
        wrong = [
            f"the activation is {name}, not QuickGELU" for name in sorted(description.activations - {"quick_gelu"})
        ]
        sizes = description.sizes if file is None else {}
        if wrong and file is not None:
            from .checkpoint import observed_config, read_state_dict  # which bring torch along

            with contextlib.suppress(CheckpointError):
                sizes = observed_config(read_state_dict(file))
        others, hint = find_mismatches(sizes, model_name)
        if wrong or others:
            raise CheckpointError(
                f"{description.path} describes another network than {model_name}: {'; '.join(wrong + others)}."
                + (" Its vectors would be wrong." if wrong else hint)
            )


def _activation_in(file: Path) -> str | None:
    """The activation that a checkpoint file itself tells: ``'quick_gelu'``, ``'gelu'``, or None when it does not.

    CLIP4Clip's training runs, whose names begin with ``clip.``, have QuickGELU, and so has OpenAI's archive. Another
    TorchScript archive names torch's GELU where it has it.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                with archive.open(next(name for name in names if name.endswith("/data.pkl"))) as content:
                    head = content.read(HEAD_BYTES)
            if any(name.endswith("/constants.pkl") for name in names):
                return "gelu" if _GELU_MODULE.search(head) else "quick_gelu"
        else:
            with file.open("rb") as content:
                head = content.read(HEAD_BYTES)
    except Exception:  # a damaged file is reported where its tensors are read
        return None
    return "quick_gelu" if re.search(rb"\bclip\.(visual|transformer|token_embedding)\.", head) else None
