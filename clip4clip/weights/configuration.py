"""Find out which network a checkpoint file holds: from the file, the configuration beside it, and the model's name.

The shapes of the tensors show the sizes of a network, but not its activation, attention heads, epsilon, or the images
it was trained with. Nothing of this is guessed in silence: see docs/checkpoints.md.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import CLIPConfig, ImageConfig, get_config
from ..errors import CheckpointError, InputValueError, first_line
from ..log import warn_once
from .comparison import (
    HOW_TO_DESCRIBE,
    Fact,
    check_network,
    find_differences,
    find_missing,
    find_models,
    hidden_fields,
    show,
)
from .hugging_face_configuration import is_image_processor_of_clip, parse_hugging_face, parse_image_processor
from .json_section import MAX_CONFIG_BYTES, UnsupportedNetworkError, read_json
from .metadata import read_metadata
from .open_clip_configuration import parse_open_clip

VOCAB_SIZE = CLIPConfig.vocab_size  # of CLIP's tokenizer, which is not imported: it needs regex

logger = logging.getLogger(__name__)

# Of configuration files in a folder or hub repository.
CONFIG_NAMES = ("open_clip_config.json", "config.json", "preprocessor_config.json", "processor_config.json")
MAX_LINKS = 40  # symbolic links followed from a checkpoint to its file, as many as Linux follows
HEAD_BYTES = 2**22  # read from the start of a checkpoint; they hold the names of its tensors

# The name of torch's GELU in the pickle of a TorchScript archive.
_GELU_MODULE = re.compile(rb"torch\.nn\.modules\.activation(\.___torch_mangle_\d+)?\nGELU\n")
# A buffer of OpenAI's archives.
_OPENAI_NAME = re.compile(rb"input_resolution")
# A tensor's name in a checkpoint of CLIP4Clip's training.
_CLIP4CLIP_NAME = re.compile(rb"\bclip\.(visual|transformer|token_embedding)\.")
# Other programs may have the same names by chance, so a network that only they state is warned about.
_ABOUT_PREFIX = "(clip.…, as CLIP4Clip's training writes them; saved without this prefix, they say nothing)"
# What a configuration of transformers contains, and hardly one of another program.
_HUGGING_FACE_KEY = re.compile(rb'"(model_type|hidden_act|vision_config|text_config|image_mean)"')

# What the code of OpenAI and of CLIP4Clip computes, whatever the sizes.
_OPENAI: dict[str, Any] = {
    "activation": "quick_gelu",
    "norm_eps": 1e-5,
    "vision_head_width": 64,
    "text_head_width": 64,
    "pooling": "token",
    "rotary": False,
    "image": ImageConfig(),
}
# What the Perception Encoder's code computes with attention pooling, which no other family of this package has.
_PERCEPTION_ENCODER: dict[str, Any] = {
    **_OPENAI,
    "activation": "gelu",
    "pooling": "attention",
    "pooling_heads": 8,
    "rotary": True,
    "image": ImageConfig((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", "squash"),
}


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


def check_configurations(configurations: Iterable[Configuration], model_name: str | None) -> None:
    """Reject a network that differs from a model, before its checkpoint is downloaded.

    Args:
        configurations: what the configuration files say.
        model_name: key of :data:`clip4clip.config.MODELS`; None if any network is welcome.

    Raises:
        CheckpointError: a configuration differs from the model, or from another configuration.
        UnknownNameError: there is no such model.
    """
    facts = _merge(_Source(str(configuration.path), configuration.facts) for configuration in configurations)
    if model_name is not None:
        check_network(facts, get_config(model_name), model_name)


def resolve_config(
    file: Path, shape: Mapping[str, Any], configurations: Iterable[Configuration], model_name: str | None
) -> CLIPConfig:
    """Return the network of a checkpoint file.

    What the tensors do not show is said, in this order, by the metadata of our own training, the configuration files,
    hints in the file, or the name of the model. Two of these must never contradict each other.

    Args:
        file: the checkpoint.
        shape: what its tensors show, see :func:`clip4clip.weights.state_dict.infer_config`.
        configurations: what the configuration files say.
        model_name: key of :data:`clip4clip.config.MODELS`; None if the caller passed none.

    Raises:
        CheckpointError: two sources contradict each other, or none says something that the tensors do not show.
        UnknownNameError: there is no such model.
    """
    sources = [_Source(str(file), dict(shape))]
    if (metadata := read_metadata(file)) is not None:
        sources.append(_Source(f"the metadata of {file}", vars(metadata.config)))
    sources += [_Source(str(configuration.path), configuration.facts) for configuration in configurations]
    facts = _merge(sources)
    if metadata is None:
        # Of a network that is described, the names show the activation only: who wrote them may have changed the rest.
        hints = _read_hints(file, shape)
        said = {k: v for k, v in hints.facts.items() if k == "activation" or k not in facts}
        is_only_source = "activation" in said and "activation" not in facts and model_name is None
        facts = _merge([*sources, _Source(hints.name, said)])
        if is_only_source and _ABOUT_PREFIX in hints.name:
            warn_once(
                logger,
                f"{file} does not state its network, and no configuration beside it ({', '.join(CONFIG_NAMES[:2])}) "
                "does. Its tensors are named as by CLIP4Clip's training (clip.…), so QuickGELU is assumed. If another "
                "program trained it, with GELU, its vectors are wrong.",
            )
    known = {name: fact.value for name, fact in facts.items()}
    if model_name is not None:
        check_network(facts, get_config(model_name), model_name)
        known = _complete_by_name(file, shape, known, model_name)
    else:
        known = _complete_without_name(file, shape, known)
        if metadata is None and known.get("vocab_size", VOCAB_SIZE) != VOCAB_SIZE:
            fitting = find_models(known)
            raise CheckpointError(
                f"{file} has a vocabulary of {known['vocab_size']:,} tokens, and CLIP's tokenizer has {VOCAB_SIZE:,}: "
                "its own tokenizer is not known."
                + (f" If it is {' or '.join(fitting)}, pass this name as model_name (--model)." if fitting else "")
            )
    try:
        return CLIPConfig(**known)
    except InputValueError as error:
        raise CheckpointError(f"{file} describes an impossible network: {error}") from error


@dataclass(frozen=True)
class _Source:
    """Something that says facts about a network: its name for messages, and the facts."""

    name: str
    facts: Mapping[str, Any]


def _merge(sources: Iterable[_Source]) -> dict[str, Fact]:
    """Return all facts, each with the first source that says it.

    Raises:
        CheckpointError: two sources contradict each other.
    """
    facts: dict[str, Fact] = {}
    for source in sources:
        known = {name: fact.value for name, fact in facts.items()}
        if differences := find_differences(source.facts, known):
            others = dict.fromkeys(facts[name].source for name in differences)
            raise CheckpointError(
                f"{source.name} contradicts {' and '.join(others)}: {'; '.join(differences.values())}. "
                "Keep the one that belongs to the weights."
            )
        facts |= {name: Fact(value, source.name) for name, value in source.facts.items() if name not in facts}
    return facts


def _complete_by_name(file: Path, shape: Mapping[str, Any], known: dict[str, Any], model_name: str) -> dict[str, Any]:
    """Return all fields, what is not known as the model has it. Warn if that may be wrong."""
    config = vars(get_config(model_name))
    assumed = {name: config[name] for name in hidden_fields(shape) if name not in known}
    # Of the fields other than the activation, OpenAI's values are those of nearly all networks of this shape.
    if "activation" in assumed or any(value != _OPENAI.get(name) for name, value in assumed.items()):
        listed = ", ".join(f"{name} {show(value, None)}" for name, value in assumed.items() if name != "image")
        warn_once(
            logger,
            f"{file} does not state these properties of its network, and no configuration beside it "
            f"({', '.join(CONFIG_NAMES[:2])}) does, so those of {model_name} are assumed: {listed or 'its images'}. "
            "If it was trained with others, as with GELU instead of QuickGELU, its vectors are wrong.",
        )
    return {**config, **known}


def _complete_without_name(file: Path, shape: Mapping[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return all fields of the network in a checkpoint.

    Raises:
        CheckpointError: something is not known.
    """
    if missing := find_missing(shape, known):
        advice = HOW_TO_DESCRIBE
        if models := find_models(known):
            listed = " or ".join(f"{name} ({get_config(name).activation})" for name in models)
            advice = (
                "Put its configuration beside it, or pass the name of the model that it is as model_name (--model): "
                f"{listed}."
            )
        raise CheckpointError(
            f"{file} does not state these properties of its network, and no configuration beside it "
            f"({', '.join(CONFIG_NAMES[:2])}) does: {', '.join(missing)}. {advice}"
        )
    if "image" not in known:
        warn_once(
            logger,
            f"no configuration beside {file} (preprocessor_config.json, open_clip_config.json) says which images its "
            "network takes: those of OpenAI's CLIP are assumed.",
        )
    return known


def _read_hints(file: Path, shape: Mapping[str, Any]) -> _Source:
    """Return what a checkpoint file says by the names in it.

    Checkpoints of CLIP4Clip's training, OpenAI's archive and the Perception Encoder were written by code that computes
    one network only. Other TorchScript archives with GELU refer to torch's class of that name.
    """
    name = f"the naming of the tensors in {file}"
    if shape.get("pooling") == "attention":
        return _Source(name, _PERCEPTION_ENCODER)
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                with archive.open(next(name for name in names if name.endswith("/data.pkl"))) as content:
                    head = content.read(HEAD_BYTES)
            if any(name.endswith("/constants.pkl") for name in names) and _GELU_MODULE.search(head):
                return _Source(name, {"activation": "gelu"})
        else:
            with file.open("rb") as content:
                head = content.read(HEAD_BYTES)
    except Exception:  # a damaged file is reported when its tensors are read
        return _Source(name, {})
    if _OPENAI_NAME.search(head):
        return _Source(name, _OPENAI)
    if _CLIP4CLIP_NAME.search(head):
        return _Source(f"{name} {_ABOUT_PREFIX}", _OPENAI)
    return _Source(name, {})
