"""Check and convert the values that callers store in an index or search it with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np

from ..errors import InputTypeError, InputValueError, brief, first_line

MAX_STRING_BYTES = 65_535  # Milvus's limit for a string
MAX_LIMIT = 16_384  # Milvus's limit for the number of results
MIN_INT64, MAX_INT64 = -(1 << 63), (1 << 63) - 1
REQUIRED_FIELDS = frozenset(("id", "path", "vector", "model", "fingerprint"))
COLLECTION_WIDE_FIELDS = frozenset(("model", "fingerprint", "error"))  # equal in all rows, so not stored with each row
TAG_SCORE = "label_score"  # only tags have it
TAG_FIELDS = ("label", TAG_SCORE, "labels")  # of a vector that was compared with labels; they depend on it
TAG_TEMPLATE = "a video of {}."

# Fields whose values have the same type in all rows.
TEXT_FIELDS = ("id", "path", "video")
REAL_FIELDS = ("start", "end", "duration")
INTEGER_FIELDS = ("frame_count", "size", "mtime")
NUMBER_FIELDS = (*REAL_FIELDS, *INTEGER_FIELDS)


def kind_of(value: Any) -> str:
    """Return the kind of a stored value, by the name that messages about filters use."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "list" if isinstance(value, list) else "object"


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


def is_unicode(text: str) -> bool:
    """Return whether a string is valid Unicode. Names of files may have bytes that are not."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def check_limit(limit: Any) -> int:
    """Return the limit of results as an int; raise InputValueError unless it is a whole number from 1 to 16,384."""
    if isinstance(limit, bool) or not (isinstance(limit, int | np.integer) and 0 < limit <= MAX_LIMIT):
        raise InputValueError(f"limit must be a whole number from 1 to {MAX_LIMIT:,}, not {brief(limit)}")
    return int(limit)


def check_per_video(number: Any) -> None:
    """Raise InputValueError unless the value is None or a whole number from 1."""
    if number is not None and (isinstance(number, bool) or not (isinstance(number, int | np.integer) and number > 0)):
        raise InputValueError(f"per_video must be a whole number from 1, not {brief(number)}")


def check_min_score(score: Any, kind: str = "a cosine similarity") -> None:
    """Raise InputTypeError or InputValueError unless the value is None or a number from -1 to 1.

    Args:
        score: any value.
        kind: what scores are, for the message.
    """
    if score is None:
        return
    if isinstance(score, bool) or not isinstance(score, int | float | np.integer | np.floating):
        raise InputTypeError(f"min_score must be a number, not {brief(score)}")
    if not -1 <= score <= 1:
        raise InputValueError(f"min_score must be {kind} from -1 to 1, not {brief(score)}")


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


def to_vectors(vectors: Sequence[Any], dim: int | None, names: Sequence[str]) -> np.ndarray:
    """Return vectors as float32 of shape (n, dim). Faster than :func:`to_vector` for each one.

    Args:
        vectors: arrays or sequences of numbers; at least one.
        dim: expected length; None for the length of the first one.
        names: ids of their rows, for the message.

    Raises:
        InputTypeError: a vector is not numbers.
        InputValueError: a vector has another shape, is all zeros, or is not finite.
    """
    if dim is None:
        dim = len(to_vector(vectors[0], None, f"the vector of {brief(names[0])}"))
    shape = (dim,)
    if all(type(vector) is np.ndarray and vector.shape == shape and vector.dtype.kind in "fiu" for vector in vectors):
        with np.errstate(over="ignore"):
            array = np.stack(vectors).astype(np.float32, copy=False)
        if np.isfinite(array).all() and array.any(axis=1).all():
            return array
    # This also finds the invalid one.
    checked = [
        to_vector(vector, dim, f"the vector of {brief(name)}") for vector, name in zip(vectors, names, strict=True)
    ]
    return np.stack(checked)


def to_stored_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a row that is stored: id, path, video, vector, and the other fields that are not None.

    ``video`` is the row's id unless the row has another one. NumPy values become Python values, dates become strings.
    The vector is not checked: see :func:`to_vectors`.

    Args:
        row: row with the keys ``REQUIRED_FIELDS``, and any others.

    Raises:
        InputTypeError: the name of a field is not a string, or a known field has a value of the wrong type.
        InputValueError: a key is missing, or a value cannot be stored.
    """
    if not row.keys() >= REQUIRED_FIELDS:
        raise InputValueError(f"a row has no {', '.join(sorted(REQUIRED_FIELDS - row.keys()))}: {brief(dict(row))}")
    row_id = _check_name(row["id"], "id")
    stored: dict[str, Any] = {"id": row_id, "path": _check_name(row["path"], "path"), "video": row_id}
    _check_name(row["model"], "model")
    _check_name(row["fingerprint"], "fingerprint")
    for name, value in row.items():
        if value is None or name in _OTHER_KEYS or (name == "uniform" and not value):  # it is False in most rows
            continue
        if type(name) is not str or not name.isascii():
            check_text(name, f"a field of {brief(row_id)}")
        stored[name] = _CONVERSIONS.get(name, _to_json_value)(value, name, row_id)
    stored["vector"] = row["vector"]
    return stored


def _check_name(value: Any, name: str) -> str:
    """Return a string of limited length; raise InputTypeError or InputValueError for any other value."""
    if type(value) is str and value.isascii() and 0 < len(value) <= MAX_STRING_BYTES:
        return value
    if not isinstance(value, str) or not 0 < len(check_text(value, name).encode()) <= MAX_STRING_BYTES:
        raise InputValueError(f"{name} must be a string of 1 to {MAX_STRING_BYTES} bytes, not {brief(value)}")
    return str(value)


def _to_video(value: Any, name: str, row_id: str) -> str:
    return _check_name(value, f"the field {name} of {brief(row_id)}")


def _to_seconds(value: Any, name: str, row_id: str) -> float:
    if type(value) is not float or not math.isfinite(value):
        value = _to_json_value(value, name, row_id)
        if type(value) not in (float, int):
            raise InputTypeError(f"the field {name} of {brief(row_id)} must be a number of seconds, not {brief(value)}")
    return float(value)


def _to_whole_number(value: Any, name: str, row_id: str) -> int:
    if type(value) is not int or not MIN_INT64 <= value <= MAX_INT64:
        value = _to_json_value(value, name, row_id)
        if type(value) not in (float, int):
            raise InputTypeError(f"the field {name} of {brief(row_id)} must be a whole number, not {brief(value)}")
        if value != int(value):
            raise InputValueError(f"the field {name} of {brief(row_id)} must be a whole number, not {value}")
        value = _to_json_value(int(value), name, row_id)
    return int(value)


def _to_json_value(value: Any, name: str, row_id: str) -> Any:
    """Return a value in a form that JSON and Milvus can hold: NumPy values as Python values, dates as strings."""
    kind = type(value)
    if (
        (kind is str and value.isascii())
        or (kind is float and math.isfinite(value))
        or (kind is int and MIN_INT64 <= value <= MAX_INT64)
        or kind is bool
    ):
        return value
    try:
        text = json.dumps(value, default=_to_json_type, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        problem = "it is not finite" if kind is float else first_line(error)
        raise _cannot_be_stored(value, name, row_id, problem) from error
    value = json.loads(text)
    if type(value) is int and not MIN_INT64 <= value <= MAX_INT64:
        raise _cannot_be_stored(value, name, row_id, "it has more than 64 bits")
    return value


def _to_json_type(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not a type of JSON")


def _cannot_be_stored(value: Any, name: str, row_id: str, problem: str) -> InputValueError:
    return InputValueError(f"the field {name} of {brief(row_id)} cannot be stored, {problem}: {brief(value)}")


_OTHER_KEYS = frozenset(("id", "path", "vector")) | COLLECTION_WIDE_FIELDS
# The conversion of each known field. The fields of a user may have any value.
_CONVERSIONS: dict[str, Callable[[Any, str, str], Any]] = {
    "video": _to_video,
    **dict.fromkeys(REAL_FIELDS, _to_seconds),
    **dict.fromkeys(INTEGER_FIELDS, _to_whole_number),
}
