"""What a trained checkpoint says about itself: read from and written to the metadata of a safetensors file.

Nothing in this module imports torch: only the header of a file is read.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .. import __version__
from ..config import HEADS, CLIPConfig, ImageConfig
from ..errors import CheckpointError, InputValueError, brief, printable

KEY = "clip4clip"  # of the metadata, beside those that other programs write
# A higher number means that a field of CLIPConfig was added, and that its value changes the vectors of this checkpoint.
FORMAT = 1
MAX_HEADER_BYTES = 2**22  # the header of the largest CLIP has a tenth of it
MAX_METADATA_CHARACTERS = 2**16
MAX_SETTINGS, MAX_TEXT = 100, 200  # settings, and characters of a setting or a name

Setting = str | int | float | bool | None


@dataclass(frozen=True)
class Metadata:
    """What a checkpoint that was trained with this package says about itself.

    Attributes:
        model_name: name of the model that was trained: a key of :data:`clip4clip.config.MODELS`, which need not exist
            here, or a name from :func:`clip4clip.config.network_name`.
        config: the network.
        head: ``'meanP'``, ``'seqLSTM'`` or ``'seqTransf'``.
        settings: how it was trained. They hold no paths.
        step: number of steps that were made.
        epoch: number of epochs that were completed.
        recall_at_1: text→video R@1 of the evaluation of this checkpoint, in percent; None if there was none.
        version: version of this package.
    """

    model_name: str
    config: CLIPConfig
    head: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    step: int | None = None
    epoch: int | None = None
    recall_at_1: float | None = None
    version: str = __version__


def to_metadata(metadata: Metadata) -> dict[str, str]:
    """Return the metadata of a safetensors file that :func:`read_metadata` reads."""
    # Torch's own format is named because some versions of transformers refuse a file that does not.
    return {"format": "pt", KEY: json.dumps({"format": FORMAT, **asdict(metadata)})}


def read_metadata(path: str | os.PathLike[str]) -> Metadata | None:
    """Return what a checkpoint file says about itself, or None if it says nothing or is not a safetensors file.

    The file is untrusted: the sizes of its header and of the metadata are limited, and all values are checked.

    Raises:
        CheckpointError: the metadata is invalid, was written by a later version of this package, or is too large. It
            is never ignored then, because the vectors of a network that is taken for a similar one are wrong.
        OSError: the file cannot be opened.
    """
    text = _read_text(Path(path))
    if text is None:
        return None
    try:
        if len(text) > MAX_METADATA_CHARACTERS:
            raise ValueError(f"it has {len(text):,} characters, more than {MAX_METADATA_CHARACTERS:,}")
        content = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(content, dict) or "format" not in content:
            return None  # the state of a run has this key, too
        if content["format"] != FORMAT or isinstance(content["format"], bool):
            raise ValueError(
                f"its format is {brief(content['format'])}, and this version of the package reads {FORMAT}: "
                "upgrade towhee-clip4clip"
            )
        return _parse(content)
    except (ValueError, RecursionError, InputValueError) as error:
        raise CheckpointError(
            f"{path} has metadata of {KEY} that cannot be read: {printable(str(error)) or type(error).__name__}"
        ) from error


def _read_text(path: Path) -> str | None:
    """Return our value of the metadata of a safetensors file; None if the file is another or has none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if file.read(1) != b"{":
            return None
        if length > MAX_HEADER_BYTES:
            size = path.stat().st_size
            if length + 8 > size:  # the reader of the tensors says what is wrong
                return None
            raise CheckpointError(
                f"{path} cannot be read as a checkpoint: its header has {length:,} bytes; {MAX_HEADER_BYTES:,} are "
                "read at most"
            )
        header = b"{" + file.read(length - 1)
    try:
        metadata = json.loads(header)["__metadata__"]
        text = metadata[KEY]
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return text if isinstance(text, str) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


def _parse(content: dict[str, Any]) -> Metadata:
    """Return checked metadata. Unknown keys are ignored.

    Raises:
        ValueError, InputValueError: a value is missing or invalid.
    """
    name, head, version = (_check(content, key, str) for key in ("model_name", "head", "version"))
    for key, text in (("model_name", name), ("version", version)):
        if not 0 < len(text) <= MAX_TEXT or printable(text) != text:
            raise ValueError(f"{key} is {brief(text)}")
    if head not in HEADS:
        raise ValueError(f"head is {brief(head)}, not one of {', '.join(HEADS)}")
    recall = content.get("recall_at_1")
    if recall is not None and not (_is_number(recall) and 0 <= recall <= 100):
        raise ValueError(f"recall_at_1 is {brief(recall)}, not a percentage")
    return Metadata(
        model_name=name,
        config=_parse_config(_check(content, "config", dict)),
        head=head,
        settings=_parse_settings(content.get("settings")),
        step=_parse_count(content, "step"),
        epoch=_parse_count(content, "epoch"),
        recall_at_1=recall,
        version=version,
    )


def _parse_config(content: dict[str, Any]) -> CLIPConfig:
    image = _check(content, "image", dict)
    colours: dict[str, Any] = {name: _check(image, name, list) for name in ("mean", "std")}
    for name, values in colours.items():
        if not all(map(_is_number, values)):
            raise ValueError(f"{name} is {brief(values)}, not a list of numbers")
        colours[name] = tuple(values)
    colours |= {name: _check(image, name, str) for name in ("interpolation", "resize")}
    values = {}
    # The annotations are strings, as those of all modules: "int", "int | None", "float", "str", "bool", "ImageConfig".
    types = {"int": int, "float": float, "str": str, "bool": bool}
    for item in fields(CLIPConfig):
        if item.name != "image":
            values[item.name] = _check(content, item.name, types[str(item.type).split()[0]])
    return CLIPConfig(**values, image=ImageConfig(**colours))


def _parse_settings(content: Any) -> dict[str, Setting]:
    """Return the settings that can be shown: they are information, and nothing depends on them."""
    if not isinstance(content, dict):
        return {}
    settings = {}
    for name, value in list(content.items())[:MAX_SETTINGS]:
        is_text = isinstance(value, str) and len(value) <= MAX_TEXT and printable(value) == value
        is_scalar = value is None or isinstance(value, bool) or _is_number(value)
        if len(name) <= MAX_TEXT and printable(name) == name and (is_text or is_scalar):
            settings[name] = value
    return settings


def _parse_count(content: dict[str, Any], key: str) -> int | None:
    count = content.get(key)
    if count is not None and not (isinstance(count, int) and _is_number(count) and count >= 0):
        raise ValueError(f"{key} is {brief(count)}, not a count")
    return count


def _check(content: dict[str, Any], key: str, expected: type) -> Any:
    """Return a value of a type. A float may be a whole number, but nothing else may be a bool."""
    value = content.get(key)
    is_expected = _is_number(value) if expected is float else type(value) is expected
    if not is_expected:
        raise ValueError(f"{key} is {brief(value)}, not of the type {expected.__name__}")
    return expected(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
