"""Read an untrusted JSON object key by key: the types are checked, and no key is ignored by accident."""

from __future__ import annotations

import functools
import json
import math
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import printable

MAX_CONFIG_BYTES = 2**20  # of a configuration file; those of CLIPs have a few kilobytes
MAX_INTEGER = 2**31 - 1  # in a configuration
COLOUR_TOLERANCE = 1e-7  # rounding in float32
MAX_KEY_CHARACTERS = 100  # that a message shows


class UnsupportedNetworkError(ValueError):
    """A configuration is valid, but describes a network or images that this package does not compute."""


def read_json(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> Any:
    """Return the content of a JSON file of at most this size.

    Raises:
        FileNotFoundError: there is nothing with this path. A broken symbolic link is an ``OSError`` of another kind.
        OSError, ValueError, RecursionError: it is not a file that can be read, or not JSON, or too large.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a named pipe would block
            raise ValueError("it is not a file")
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise OSError("it is a link to a file that does not exist") from error
        raise
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes, the limit")
    return json.loads(content.decode("utf-8-sig"), parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class Section:
    """A JSON object of a configuration file. Its methods remember which keys were read.

    Args:
        values: the object.
        name: where it stands in the file, such as ``'model_cfg.text_cfg'``; "" for the whole file.

    Raises:
        ValueError: the values are not an object, or, in the methods, a value has the wrong type.
    """

    def __init__(self, values: Any, name: str = "") -> None:
        if not isinstance(values, dict):
            raise ValueError(f"{name or 'its content'} is {_shown(values)}, not an object")
        self.values: dict[str, Any] = values
        self._name = name
        self._read: set[str] = set()

    def path(self, key: str) -> str:
        """Return where a key stands in the file, for messages."""
        key = printable(key[:MAX_KEY_CHARACTERS])
        return f"{self._name}.{key}" if self._name else key

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of any type; the default if it is missing or null."""
        self._read.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def section(self, key: str) -> Section | None:
        """Return an object inside of this one, or None if it is missing or null."""
        value = self.get(key)
        return None if value is None else Section(value, self.path(key))

    def integer(self, key: str, default: int, maximum: int = MAX_INTEGER) -> int:
        """Return a positive whole number."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= maximum:
            limit = f" of at most {maximum:,}" if maximum < MAX_INTEGER else ""
            raise self._wrong(key, f"a positive whole number{limit}")
        return value

    def number(self, key: str, default: float) -> float:
        """Return a finite number."""
        return self._number(key, self.get(key, default), "a number")

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        """Return a string."""
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def side(self, key: str, default: int) -> int:
        """Return the side of a square, which may be written as one number or as two."""
        value = self.get(key)
        if isinstance(value, list) and len(value) == 2:
            if value[0] != value[1]:
                raise UnsupportedNetworkError(f"{self.path(key)} is {_shown(value)}: only squares are supported")
            value = value[0]
        return Section({key: value}, self._name).integer(key, default)

    def colours(self, key: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
        """Return three numbers, one for each colour; the default if they only differ from it by rounding."""
        value = self.get(key, list(default))
        if not isinstance(value, list) or len(value) != 3:
            raise self._wrong(key, "three numbers")
        red, green, blue = (self._number(key, item, "three numbers") for item in value)
        colours = (red, green, blue)
        is_default = all(map(functools.partial(math.isclose, abs_tol=COLOUR_TOLERANCE), colours, default))
        return default if is_default else colours

    def check_others(self, harmless: Collection[str], neutral: Mapping[str, tuple[tuple, str]]) -> None:
        """Reject keys that were not read, unless they are known to change nothing.

        Args:
            harmless: keys that may have any value.
            neutral: the values of a key that change nothing, and what others would mean. Null always changes nothing.

        Raises:
            UnsupportedNetworkError: a key is unknown, or has a value that is not neutral.
        """
        for key, value in self.values.items():
            if key in self._read or key in harmless or value is None:
                continue
            if key not in neutral:
                raise UnsupportedNetworkError(
                    f"{self.path(key)} is {_shown(value)}, and the meaning of this key is unknown"
                )
            values, meaning = neutral[key]
            if not any(type(value) is type(accepted) and value == accepted for accepted in values):
                raise UnsupportedNetworkError(f"{self.path(key)} is {_shown(value)}: {meaning}")

    def _number(self, key: str, value: Any, expected: str) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or abs(value) > 1e9
            or not math.isfinite(value)
        ):
            raise self._wrong(key, expected)
        return float(value)

    def _wrong(self, key: str, expected: str) -> ValueError:
        return ValueError(f"{self.path(key)} must be {expected}, not {_shown(self.values.get(key))}")


def _shown(value: Any) -> str:
    """Return a value as JSON, shortened."""
    text = json.dumps(value, default=str) if not isinstance(value, dict | list) else repr(value)[:200]
    return text if len(text) <= 60 else f"{text[:57]}..."
