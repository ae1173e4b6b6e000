"""Compare what is known about a network with the networks of the models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import MODELS, CLIPConfig, ImageConfig
from ..errors import CheckpointError

HOW_TO_DESCRIBE = (
    "Put its configuration (open_clip_config.json or config.json) beside it, or register its network: "
    "clip4clip.register_model with a CLIPConfig."
)


@dataclass(frozen=True)
class Fact:
    """A value of a field of :class:`clip4clip.config.CLIPConfig`, and the name of its source, for messages."""

    value: Any
    source: str


def check_network(facts: Mapping[str, Fact], config: CLIPConfig, model_name: str) -> None:
    """Reject facts that differ from the network of a model.

    Args:
        facts: what is known, by field.
        config: the network of the model.
        model_name: the name of the model, for the message.

    Raises:
        CheckpointError: the message lists every difference with its source, and says what to do.
    """
    known = {name: fact.value for name, fact in facts.items()}
    differences = find_differences(known, vars(config))
    if not differences:
        return
    sources: dict[str, list[str]] = {}
    for name, phrase in differences.items():
        sources.setdefault(facts[name].source, []).append(phrase)
    (first, phrases), *others = sources.items()
    listed = f"{first} describes a different network than {model_name}: {'; '.join(phrases)}."
    listed += "".join(f" So does {source}: {'; '.join(phrases)}." for source, phrases in others)
    if fitting := find_models(known):
        hint = f"It fits model_name={' or '.join(map(repr, fitting))}."
    elif find_missing(known, known):
        hint = HOW_TO_DESCRIBE
    else:
        hint = "Leave out the name to load the network as it is."
    raise CheckpointError(f"{listed} {hint}")


def find_differences(facts: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, str]:
    """Return a phrase for each field whose value is another than expected. Fields with no expected value are ignored.

    Args:
        facts: values of some fields of :class:`clip4clip.config.CLIPConfig`.
        expected: the same.
    """
    return {
        name: f"{name} is {show(value, expected[name])}, not {show(expected[name], value)}"
        for name, value in facts.items()
        if name in expected and value != expected[name]
    }


def find_models(facts: Mapping[str, Any]) -> list[str]:
    """Return the names of models whose networks have these values, one name for each network."""
    names: dict[CLIPConfig, str] = {}
    for name, model in MODELS.items():
        if model.config and not model.aligned_with and not find_differences(facts, vars(model.config)):
            names.setdefault(model.config, name)
    return list(names.values())


def find_missing(shape: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """Return the fields, but for the images, without which the network of a checkpoint is not known.

    Args:
        shape: what its tensors show.
        known: what is known.
    """
    return [name for name in hidden_fields(shape) if name not in known and name != "image"]


def hidden_fields(shape: Mapping[str, Any]) -> list[str]:
    """Return the fields that the vectors of a checkpoint depend on, and that its tensors do not show."""
    hidden = ["activation", "norm_eps"]
    if "vision_width" in shape:
        hidden += ["vision_head_width", "rotary", "image", "pooling"]
        hidden += ["pooling_heads"] if shape.get("pooling") == "attention" else []
    if "text_width" in shape:
        hidden += ["text_head_width"]
    return hidden


def show(value: Any, other: Any) -> str:
    """Return a value for a message; of images, only what differs from the other value."""
    if not (isinstance(value, ImageConfig) and isinstance(other, ImageConfig)):
        return str(value)
    return ", ".join(f"{name} {item}" for name, item in vars(value).items() if item != vars(other)[name])
