"""Identify a checkpoint: which network it holds, and what its vectors can be compared with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..config import (
    DEFAULT_MODEL,
    MODELS,
    CLIPConfig,
    get_config,
    get_model,
    image_model,
    is_text_tower,
    network_name,
)
from ..errors import CheckpointError
from .comparison import Fact, check_network
from .configuration import resolve_config
from .inspection import inspect_file
from .locate import Reference, locate
from .metadata import Metadata, read_metadata

# Fields of a configuration that change the vectors, although no tensor shows them.
_HIDDEN_FIELDS = (
    "vision_head_width",
    "text_head_width",
    "activation",
    "norm_eps",
    "pooling",
    "pooling_heads",
    "rotary",
    "image",
)
_DEFAULTS = asdict(CLIPConfig())


@dataclass(frozen=True)
class Identity:
    """What has to be equal for two vectors to be comparable: the fingerprint. The name tells people which model it is.

    Attributes:
        model: key of :data:`clip4clip.config.MODELS`, or what :func:`clip4clip.config.network_name` returns for
            weights that were loaded without a name.
        fingerprint: 16 hexadecimal digits, see :class:`Checkpoint`.
    """

    model: str = field(compare=False)
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.model} with the weights {self.fingerprint}"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file and the network in it.

    Attributes:
        path: the file; of a sharded checkpoint, its index.
        model_name: key of :data:`clip4clip.config.MODELS`, or what :func:`clip4clip.config.network_name` returns for
            weights that were loaded without a name.
        config: the network.
        head: ``'meanP'``, ``'seqLSTM'`` or ``'seqTransf'``.
        fingerprint: 16 hexadecimal digits that depend on the weights
            (:func:`clip4clip.weights.fingerprint.compute_fingerprint`) and on what the network does with them.
        is_default: whether these are the default weights of the model, because the caller chose none.
    """

    path: Path
    model_name: str
    config: CLIPConfig
    head: str
    fingerprint: str
    is_default: bool = False

    @property
    def identity(self) -> Identity:
        """What its vectors can be compared with."""
        return Identity(self.model_name, self.fingerprint)


def find_checkpoint(
    weights: Reference | None = None, model_name: str | None = None, folder: Path | None = None
) -> Checkpoint:
    """Find a checkpoint, download it if necessary, and tell which network is in it.

    Args:
        weights: a file, a folder, ``hf://owner/repo[@revision][/file]``, or None for the default weights of the model
            (docs/checkpoints.md).
        model_name: key of :data:`clip4clip.config.MODELS`. None reads the network from the weights and what lies
            beside them; without weights it is :data:`clip4clip.config.DEFAULT_MODEL`. If the model has the vision tower
            of another one, the result is the checkpoint of that one, with its published weights.
        folder: the operator's own folder, if Towhee loaded it from one.

    Raises:
        UnknownNameError: there is no such model.
        WeightsNotFoundError: there is no such file; the message lists what was tried.
        CheckpointError: the file cannot be read, holds another network than the model's, or does not say enough about
            its network.
    """
    if weights is None and model_name is None:
        model_name = DEFAULT_MODEL
    is_aligned = is_text_tower(model_name)
    if model_name is not None and is_aligned:
        weights, model_name = None, image_model(model_name)
    located = locate(weights, model_name, folder, published=is_aligned)
    inspection = inspect_file(located.path)
    metadata = read_metadata(located.path)
    if metadata is not None and metadata.head != inspection.head:
        raise CheckpointError(
            f"the metadata of {located.path} contradicts its tensors: the head is {metadata.head}, and the tensors are "
            f"those of {inspection.head}"
        )
    network = model_name if model_name is not None and get_model(model_name).config else None
    if located.is_trusted and network is not None:
        config = get_config(network)
        check_shape(inspection.shape, config, network, located.path)
    else:
        config = resolve_config(located.path, inspection.shape, metadata, located.configurations, network)
    return Checkpoint(
        located.path,
        model_name or _find_name(metadata, config),
        config,
        inspection.head,
        _fingerprint(inspection.fingerprint, config),
        is_default=weights is None,
    )


def identify(weights: Reference | None = None, model_name: str | None = None) -> Identity:
    """Return what the vectors of a checkpoint can be compared with; see :func:`find_checkpoint`."""
    return find_checkpoint(weights, model_name).identity


def check_shape(shape: Mapping[str, Any], config: CLIPConfig, model_name: str, path: Path) -> None:
    """Reject a checkpoint whose tensors do not have the shapes of a network.

    Args:
        shape: see :func:`clip4clip.weights.state_dict.infer_config`.
        config: the network.
        model_name: its name, for the message.
        path: the file, for the message.

    Raises:
        CheckpointError: a shape differs; the message lists every difference.
    """
    check_network({name: Fact(value, str(path)) for name, value in shape.items()}, config, model_name)


def network_digest(config: CLIPConfig) -> str:
    """Return what a network does with its weights that their shapes do not show, as text; "" for OpenAI's networks."""
    values = asdict(config)
    if config.pooling != "attention":
        values["pooling_heads"] = _DEFAULTS["pooling_heads"]  # not used
    hidden = {name: values[name] for name in _HIDDEN_FIELDS if values[name] != _DEFAULTS[name]}
    return json.dumps(hidden, sort_keys=True) if hidden else ""


def _find_name(metadata: Metadata | None, config: CLIPConfig) -> str:
    """Return the name of the model that a trained checkpoint says it was trained from, or else that of its network."""
    model = MODELS.get(metadata.model_name) if metadata else None
    if metadata and model and model.config == config:
        return metadata.model_name
    return network_name(config)


def _fingerprint(weights: str, config: CLIPConfig) -> str:
    """Return the fingerprint of weights in a network."""
    hidden = network_digest(config)
    return hashlib.sha256(f"{weights} {hidden}".encode()).hexdigest()[:16] if hidden else weights
