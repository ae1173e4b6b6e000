"""Find and read the configuration files that belong to a checkpoint: those of open_clip and of transformers."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, first_line
from ..log import warn_once
from .comparison import find_differences
from .hugging_face_configuration import is_image_processor_of_clip, parse_hugging_face, parse_image_processor
from .json_section import MAX_CONFIG_BYTES, UnsupportedNetworkError, read_json
from .open_clip_configuration import parse_open_clip

logger = logging.getLogger(__name__)

# Of configuration files in a folder or hub repository.
CONFIG_NAMES = ("open_clip_config.json", "config.json", "preprocessor_config.json", "processor_config.json")
MAX_LINKS = 40  # symbolic links followed from a checkpoint to its file, as many as Linux follows

# What a configuration of transformers contains, and hardly one of another program.
_HUGGING_FACE_KEY = re.compile(rb'"(model_type|hidden_act|vision_config|text_config|image_mean)"')


@dataclass(frozen=True)
class Configuration:
    """What a file says about a network.

    Attributes:
        path: the file.
        facts: values of some fields of :class:`clip4clip.config.CLIPConfig`.
    """

    path: Path
    facts: dict[str, Any]


def find_configurations(file: Path, strict: bool) -> list[Configuration]:
    """Return the configurations that belong to a checkpoint file, wherever it links to.

    They lie in the folder of the file or, if there is none, at the root of its snapshot in the Hugging Face cache. If
    the file is a symbolic link, those of its target belong to it as well.

    Args:
        file: the checkpoint.
        strict: as for :func:`read_configurations`, for the folder of the file.

    Raises:
        CheckpointError: as for :func:`read_configurations`.
    """
    links = [file.absolute()]
    while links[-1].is_symlink() and len(links) < MAX_LINKS:
        target = links[-1].parent / links[-1].readlink()
        links.append(target.parent.resolve() / target.name)  # without "..": its parents are folders that hold it
    configurations: dict[Path, Configuration] = {}
    for link in links:
        folders = [link.parent, *(parent for parent in link.parents if parent.parent.name == "snapshots")]
        for configuration in read_configurations(dict.fromkeys(folders), strict and link == links[0]):
            configurations.setdefault(configuration.path.resolve(), configuration)
    return list(configurations.values())


def read_configurations(folders: Iterable[Path], strict: bool) -> list[Configuration]:
    """Return the CLIP configurations in the first folder that has any.

    Args:
        folders: searched in this order.
        strict: whether an unreadable file is an error. Otherwise a file that may well belong to another program is
            ignored. An ``open_clip_config.json`` never does.

    Raises:
        CheckpointError: a file describes a network that is not supported, or is not the configuration of a model.
    """
    for folder in folders:
        if configurations := _read_folder(folder, strict):
            return configurations
    return []


def _read_folder(folder: Path, strict: bool) -> list[Configuration]:
    contents = {name: content for name in CONFIG_NAMES if (content := _read_content(folder / name, strict)) is not None}
    configurations = []
    for name, parse in (("open_clip_config.json", parse_open_clip), ("config.json", parse_hugging_face)):
        if name in contents and (facts := _parse(parse, contents[name], folder / name, strict)) is not None:
            configurations.append(Configuration(folder / name, facts))
    images = {"preprocessor_config.json": contents.get("preprocessor_config.json")}
    if isinstance(contents.get("processor_config.json"), dict):  # transformers 5 writes the image processor into it
        images["processor_config.json"] = contents["processor_config.json"].get("image_processor")
    for name, content in images.items():
        # Without a CLIP's config.json beside it, it may belong to another model.
        if content is not None and (
            configurations or _parse(is_image_processor_of_clip, content, folder / name, False)
        ):
            facts = _parse(parse_image_processor, content, folder / name, strict=True)
            configurations.append(Configuration(folder / name, facts))
    return _prefer_open_clip(configurations)


def _prefer_open_clip(configurations: list[Configuration]) -> list[Configuration]:
    """Leave out the image processors of transformers that contradict open_clip's configuration beside them.

    Repositories of models that were trained with open_clip may have an image processor that can only crop.
    """
    first = next(iter(configurations), None)
    if first is None or first.path.name != "open_clip_config.json":
        return configurations
    kept = []
    for configuration in configurations:
        is_of_images = configuration.path.name in ("preprocessor_config.json", "processor_config.json")
        differences = find_differences(configuration.facts, first.facts) if is_of_images else {}
        if differences:
            warn_once(
                logger,
                f"{configuration.path} contradicts {first.path} beside it, which is used: "
                f"{'; '.join(differences.values())}.",
            )
        else:
            kept.append(configuration)
    return kept


def _read_content(path: Path, strict: bool) -> Any:
    """Return the content of a JSON file, or None if it is missing or belongs to another program."""
    try:
        return read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        if not strict and path.name != "open_clip_config.json" and not _may_be_configuration(path):
            return None
        raise CheckpointError(f"{path} is not a model's configuration: {first_line(error)}") from error


def _may_be_configuration(path: Path) -> bool:
    """Return whether a file that is not valid JSON, or not readable, looks like a configuration of transformers."""
    try:
        if not path.is_file():
            return path.is_symlink()
        with path.open("rb") as file:
            return _HUGGING_FACE_KEY.search(file.read(MAX_CONFIG_BYTES)) is not None
    except OSError:
        return True


def _parse(parse: Any, content: Any, path: Path, strict: bool) -> Any:
    """Return what a parser returns, and translate its errors."""
    try:
        return parse(content)
    except UnsupportedNetworkError as error:
        raise CheckpointError(f"{path} describes a network that is not supported: {error}.") from error
    except (ValueError, RecursionError) as error:
        may_be_foreign = path.name != "open_clip_config.json" and not (
            isinstance(content, dict) and "clip" in str(content.get("model_type"))[:100]
        )
        if may_be_foreign and not strict:
            return None
        raise CheckpointError(f"{path} is not a model's configuration: {first_line(error)}") from error
