"""Read the configuration beside a checkpoint, and reject a checkpoint of a different network."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import CLIPConfig, find_mismatches, get_config
from ..errors import CheckpointError, first_line
from ..log import warn_once

logger = logging.getLogger(__name__)

MAX_LINKS = 40  # symbolic links followed from a checkpoint to its file, as many as Linux follows
HEAD_BYTES = 2**22  # read from the start of a checkpoint; they hold the names of its tensors
# The name of torch's GELU in the pickle of a TorchScript archive.
_GELU_MODULE = re.compile(rb"torch\.nn\.modules\.activation(\.___torch_mangle_\d+)?\nGELU\n")
# A tensor's name in a checkpoint of CLIP4Clip's training.
_CLIP4CLIP_NAME = re.compile(rb"\bclip\.(visual|transformer|token_embedding)\.")


@dataclass(frozen=True)
class NetworkConfiguration:
    """What a configuration file says about a network.

    Attributes:
        path: the configuration file, or the checkpoint itself if it names its activation.
        activations: those of the towers, such as ``'quick_gelu'`` or ``'gelu'``.
        sizes: values of some fields of :class:`clip4clip.config.CLIPConfig`.
    """

    path: Path
    activations: frozenset[str]
    sizes: dict[str, int]


def read_configurations(folders: Iterable[Path], strict: bool) -> list[NetworkConfiguration]:
    """Return the CLIP configurations in the first folder that has any.

    Args:
        folders: searched in this order.
        strict: whether an unreadable file is an error. Otherwise it is ignored: the folders may not belong to a model.

    Raises:
        CheckpointError: ``strict`` is set and a file is not the configuration of a model.
    """
    for folder in folders:
        configurations = [_read_configuration(folder / name, strict) for name in CONFIG_NAMES]
        if present := [configuration for configuration in configurations if configuration is not None]:
            return present
    return []


def _read_configuration(path: Path, strict: bool) -> NetworkConfiguration | None:
    """Return what a file says about a CLIP, or None if it is missing or belongs to a different kind of model."""
    try:
        return _PARSERS[path.name](path, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, AttributeError, TypeError) as error:
        if strict:
            raise CheckpointError(f"{path} is not a model's configuration: {first_line(error)}") from error
        return None


def _parse_hugging_face(path: Path, config: dict[str, Any]) -> NetworkConfiguration | None:
    model_type = config.get("model_type")  # missing in timm's config.json
    if model_type is None or "clip" not in model_type:
        return None
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    if model_type == "clip_text_model":
        text = config
    if model_type == "clip_vision_model":
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
    return NetworkConfiguration(path, activations, _only_integers(sizes))


def _parse_open_clip(path: Path, config: dict[str, Any]) -> NetworkConfiguration | None:
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
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    return NetworkConfiguration(path, frozenset([activation]), _only_integers(sizes))


def _only_integers(sizes: dict[str, Any]) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if isinstance(size, int)}


_PARSERS: dict[str, Callable[[Path, dict[str, Any]], NetworkConfiguration | None]] = {
    "config.json": _parse_hugging_face,
    "open_clip_config.json": _parse_open_clip,
}
CONFIG_NAMES = tuple(_PARSERS)  # of configuration files in a folder or hub repository


def configuration_folders(file: Path) -> list[Path]:
    """Return the folders that may hold the configuration of a checkpoint file, the likeliest first.

    These are the folder of the file and the root of its snapshot in the Hugging Face cache. If the file is a symbolic
    link, the same folders of its target follow.
    """
    links = [file.absolute()]
    while links[-1].is_symlink() and len(links) < MAX_LINKS:
        links.append(links[-1].parent / links[-1].readlink())
    folders: list[Path] = []
    for link in links:
        folders += [link.parent, *(parent for parent in link.parents if parent.parent.name == "snapshots")]
    return list(dict.fromkeys(folders))


def check_configurations(configurations: Iterable[NetworkConfiguration], model_name: str) -> None:
    """Reject a network with a different activation or different sizes, before its checkpoint is downloaded.

    Args:
        configurations: what the configuration files say.
        model_name: key of :data:`clip4clip.config.MODELS`.

    Raises:
        CheckpointError: a configuration differs from the model; the message lists every difference.
    """
    for configuration in configurations:
        _check_configuration(configuration, configuration.sizes, model_name)


def resolve_config(
    file: Path, shape: Mapping[str, Any], configurations: list[NetworkConfiguration], model_name: str | None
) -> CLIPConfig:
    """Return the network of a checkpoint."""
    if model_name is None:
        return CLIPConfig(**shape)
    config = get_config(model_name)
    mismatches, hint = find_mismatches(shape, config)
    if mismatches:
        raise CheckpointError(f"{file} is not a {model_name}: {'; '.join(mismatches)}.{hint}")
    check_activation(file, configurations, model_name)
    return config


def check_activation(file: Path, configurations: list[NetworkConfiguration], model_name: str) -> None:
    """Reject a checkpoint file whose network has an activation other than QuickGELU.

    The shapes of the tensors do not show the activation. The file itself takes precedence over the configurations. If
    neither names the activation, a warning says that QuickGELU is assumed.

    Args:
        file: the checkpoint.
        configurations: what the configuration files say. Their sizes are ignored, as the tensors show the real ones.
        model_name: key of :data:`clip4clip.config.MODELS`.

    Raises:
        CheckpointError: the activation differs; the message also lists the sizes that differ.
    """
    activation = _activation_in(file)
    if activation == "gelu":
        configurations = [NetworkConfiguration(file, frozenset([activation]), {})]
    elif activation is None and not configurations:
        warn_once(
            logger,
            f"{file} does not state the activation of its network, and no configuration beside it (config.json, "
            "open_clip_config.json) does: QuickGELU is assumed, as in OpenAI's CLIP. If it was trained with GELU, as "
            "many of open_clip's models are, its vectors are wrong.",
        )
    for configuration in configurations:
        sizes = _infer_sizes(file) if configuration.activations - {"quick_gelu"} else {}
        _check_configuration(configuration, sizes, model_name)


def _check_configuration(configuration: NetworkConfiguration, sizes: dict[str, int], model_name: str) -> None:
    activations = sorted(configuration.activations - {"quick_gelu"})
    mismatches, hint = find_mismatches(sizes, get_config(model_name))
    if not activations and not mismatches:
        return
    wrong = [f"the activation is {name}, not QuickGELU" for name in activations] + mismatches
    consequence = " Its vectors would be wrong." if activations else hint
    raise CheckpointError(
        f"{configuration.path} describes a different network than {model_name}: {'; '.join(wrong)}.{consequence}"
    )


def _infer_sizes(file: Path) -> dict[str, int]:
    """Return the sizes of the network in a checkpoint file; none if it cannot be read."""
    from .checkpoint import read_state_dict  # these modules import torch
    from .state_dict import infer_config

    with contextlib.suppress(CheckpointError):
        return infer_config(read_state_dict(file))
    return {}


def _activation_in(file: Path) -> str | None:
    """Return the activation that a checkpoint file itself names: ``'quick_gelu'``, ``'gelu'``, or None for neither.

    Checkpoints of CLIP4Clip's training and OpenAI's TorchScript archive have QuickGELU. Other TorchScript archives with
    GELU refer to torch's class of that name.
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
    except Exception:  # a damaged file is reported when its tensors are read
        return None
    return "quick_gelu" if _CLIP4CLIP_NAME.search(head) else None
