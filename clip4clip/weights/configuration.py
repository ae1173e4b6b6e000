"""Find out which network a checkpoint file holds: from the file, the configuration beside it, and the model's name.

The shapes of the tensors show the sizes of a network, but not its activation, attention heads, epsilon, or the images
it was trained with. Nothing of this is guessed in silence: see docs/checkpoints.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import CLIPConfig, get_config
from ..errors import CheckpointError, InputValueError
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
from .configuration_files import CONFIG_NAMES, Configuration
from .hints import OPENAI, read_hints
from .metadata import Metadata

VOCAB_SIZE = CLIPConfig.vocab_size  # of CLIP's tokenizer, which is not imported: it needs regex

logger = logging.getLogger(__name__)


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
    file: Path,
    shape: Mapping[str, Any],
    metadata: Metadata | None,
    configurations: Iterable[Configuration],
    model_name: str | None,
) -> CLIPConfig:
    """Return the network of a checkpoint file.

    What the tensors do not show is said, in this order, by the metadata of our own training, the configuration files,
    hints in the file, or the name of the model. Two of these must never contradict each other.

    Args:
        file: the checkpoint.
        shape: what its tensors show, see :func:`clip4clip.weights.state_dict.infer_config`.
        metadata: what it says about itself, see :func:`clip4clip.weights.metadata.read_metadata`.
        configurations: what the configuration files say.
        model_name: key of :data:`clip4clip.config.MODELS`; None if the caller passed none.

    Raises:
        CheckpointError: two sources contradict each other, or none says something that the tensors do not show.
        UnknownNameError: there is no such model.
    """
    sources = [_Source(str(file), dict(shape))]
    if metadata is not None:
        sources.append(_Source(f"the metadata of {file}", vars(metadata.config)))
    sources += [_Source(str(configuration.path), configuration.facts) for configuration in configurations]
    facts = _merge(sources)
    if metadata is None:
        # Of a network that is described, by a file or by the model's name, the names of the tensors show the activation
        # only: who wrote them may have changed the rest.
        hints = read_hints(file, shape)
        described = {**(vars(get_config(model_name)) if model_name else {}), **{k: f.value for k, f in facts.items()}}
        said = {k: v for k, v in hints.facts.items() if k == "activation" or described.get(k, v) == v}
        is_only_source = "activation" in said and "activation" not in facts and model_name is None
        facts = _merge([*sources, _Source(hints.source, said)])
        if is_only_source and not hints.is_certain:
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
    if "activation" in assumed or any(value != OPENAI.get(name) for name, value in assumed.items()):
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
