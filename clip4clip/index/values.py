"""Check and convert the values that callers store in an index or search it with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np

from ..errors import InputTypeError, InputValueError, brief, first_line

MAX_STRING_BYTES = 65_535  # Milvus's limit for a string
MAX_LIMIT = 16_384  # Milvus's limit for the number of results
REQUIRED_FIELDS = ("id", "path", "vector", "model", "fingerprint")
COLLECTION_WIDE_FIELDS = ("model", "fingerprint", "error")  # equal in all rows, so not stored with each row


def check_text(value: Any, what: str) -> str:
    """Return a string that can be stored, unchanged.

    Args:
        value: any value.
        what: name of the value, for the message.

    Raises:
        InputTypeError: the value is not a string.
        InputValueError: the string is not valid Unicode.
    """
    if not isinstance(value, str):
        raise InputTypeError(f"{what} must be a string, not {brief(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputValueError(f"{what} must be valid Unicode, not {brief(value)}: {error.reason}") from None
    return value


def check_limit(limit: Any) -> int:
    """Return the limit of results as an int; raise InputValueError unless it is a whole number from 1 to 16,384."""
    if isinstance(limit, bool) or not (isinstance(limit, int | np.integer) and 0 < limit <= MAX_LIMIT):
        raise InputValueError(f"limit must be a whole number from 1 to {MAX_LIMIT:,}, not {brief(limit)}")
    return int(limit)


def check_output_fields(names: Sequence[str]) -> None:
    """Raise InputTypeError or InputValueError if the value is not a list of names."""
    if isinstance(names, str):
        raise InputTypeError(f"output_fields must be a list of names, not the string {brief(names)}")
    for name in names:
        check_text(name, "a name in output_fields")


def to_vector(vector: Any, dim: int | None, what: str) -> np.ndarray:
    """Return a vector as float32 of shape (dim,).

    Args:
        vector: array or sequence of numbers.
        dim: expected length; None for any.
        what: name of the vector, for the message.

    Raises:
        InputTypeError: the vector is not numbers.
        InputValueError: the vector has another shape, is all zeros, or is not finite.
    """
    try:
        array = np.asarray(vector)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(f"{what} must be numbers, not {brief(vector)}: {first_line(error)}") from error
    if array.dtype.kind not in "fiu":
        raise InputTypeError(f"{what} must be numbers, not {brief(vector)}")
    if array.ndim != 1 or len(array) != (dim or len(array)):
        raise InputValueError(f"{what} has shape {array.shape}; this index has vectors of shape ({dim or 'n'},)")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all() or not array.any():
        raise InputValueError(f"{what} is not finite, or all zeros")
    return array


def to_stored_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a row that is stored: its id, path, vector, and other fields that are not None.

    Args:
        row: row with the keys ``REQUIRED_FIELDS``, and any others.

    Raises:
        InputTypeError: the vector is not numbers, or the name of a field is not a string.
        InputValueError: a key is missing, or a value cannot be stored.
    """
    if missing := {*REQUIRED_FIELDS} - row.keys():
        raise InputValueError(f"a row has no {', '.join(sorted(missing))}: {brief(dict(row))}")
    for name in ("id", "path", "model", "fingerprint"):
        if not isinstance(row[name], str) or not 0 < len(check_text(row[name], name).encode()) <= MAX_STRING_BYTES:
            raise InputValueError(f"{name} must be a string of 1 to {MAX_STRING_BYTES} bytes, not {brief(row[name])}")
    vector = to_vector(row["vector"], None, f"the vector of {brief(row['id'])}")
    names = [check_text(name, f"a field of {brief(row['id'])}") for name in row if name not in COLLECTION_WIDE_FIELDS]
    fields = {
        name: _to_json_value(row[name], name, row["id"]) for name in names if name != "vector" and row[name] is not None
    }
    return fields | {"vector": vector}


def _to_json_value(value: Any, name: str, row_id: str) -> Any:
    """Return a value in a form that JSON and Milvus can hold: NumPy values as Python values, dates as strings."""
    try:
        text = json.dumps(value, default=_to_json_type, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputValueError(
            f"the field {name} of {brief(row_id)} cannot be stored, {first_line(error)}: {brief(value)}"
        ) from error
    value = json.loads(text)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InputValueError(
            f"the field {name} of {brief(row_id)} cannot be stored, it has more than 64 bits: {brief(value)}"
        )
    return value


def _to_json_type(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not a type of JSON")
