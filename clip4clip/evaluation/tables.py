"""Read tables: CSV, TSV, JSON Lines, or a JSON array of objects."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import Clip4clipError, brief
from .video_folder import VIDEO_EXTENSIONS

MAX_TABLE_BYTES = 1 << 30
JSON_LINES = (".jsonl", ".ndjson")


def read_table(
    table: Path, error: type[Clip4clipError], accepted: str
) -> tuple[Sequence[str] | None, list[tuple[Mapping[str, Any], str]]]:
    """Read a table. The extension decides its format: .tsv, .jsonl, .ndjson or .json; CSV for all others.

    Args:
        table: a UTF-8 file.
        error: class of the errors to raise.
        accepted: description of the formats that the caller accepts, for error messages.

    Returns:
        The columns of CSV or TSV, None for JSON; and a list of each row and its location, such as ``a.csv, line 2``.
        The values of a CSV row are strings, or None for a missing field; fields beyond the columns are under the key
        None.

    Raises:
        Clip4clipError: the file is too large, is not text, or is malformed. The class is ``error``.
    """
    extension = table.suffix.lower()
    with explained_read_errors(table, error, accepted):
        if extension == ".json" or extension in JSON_LINES:
            return None, list(_read_json(table, error))
        with table.open(encoding="utf-8-sig", newline="") as file:
            return csv_rows(table, file, is_tsv=extension == ".tsv")


@contextlib.contextmanager
def explained_read_errors(table: Path, error: type[Clip4clipError], accepted: str) -> Iterator[None]:
    """Raise errors of the class ``error`` for a file that is too large, and for one that the block cannot read.

    Args:
        table: the file that the block reads.
        error: class of the errors to raise.
        accepted: description of the formats that the caller accepts, for error messages.
    """
    if table.stat().st_size > MAX_TABLE_BYTES:
        raise error(f"{table} is larger than the limit of {MAX_TABLE_BYTES:,} bytes")
    try:
        yield
    except UnicodeDecodeError as reason:
        raise not_text(table, error, accepted) from reason
    except (OSError, csv.Error, RecursionError) as reason:
        raise error(f"{table} cannot be read: {reason}. Expected {accepted}") from reason


def csv_rows(table: Path, lines: Iterable[str], is_tsv: bool) -> tuple[list[str], list[tuple[Mapping[str, Any], str]]]:
    """Return the columns of CSV or TSV, and each row with its location."""
    # Tables with tabs are often written without quotes: a stray one must not swallow the lines after it.
    dialect: dict[str, Any] = {"delimiter": "\t", "strict": True} if is_tsv else {}
    reader = csv.DictReader(lines, **dialect)
    columns = list(reader.fieldnames or ())
    return columns, [(row, f"{table}, line {reader.line_num}") for row in reader]


def is_text(value: Any) -> bool:
    """Return whether a value is a string of valid Unicode. JSON may contain lone surrogates."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def not_text(file: Path, error: type[Clip4clipError], accepted: str) -> Clip4clipError:
    """Return the error for a file that is not UTF-8 text; its message names the format that the file seems to have."""
    with file.open("rb") as opened:
        start = opened.read(4)
    if file.name.lower().endswith(VIDEO_EXTENSIONS):
        kind = "a video"
    else:
        kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "not UTF-8 text")
    return error(f"{file} is {kind}. Expected {accepted}")


# The first bytes of files that are often passed by mistake.
_MAGIC = {
    b"PAR1": "a Parquet file",
    b"PK\3\4": "a ZIP archive, as NumPy and PyTorch write it",
    b"\x80": "a Python pickle",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUM": "a NumPy array",
    b"\xff\xfe": "text in UTF-16; save it as UTF-8",
    b"\xfe\xff": "text in UTF-16; save it as UTF-8",
}


def _read_json(table: Path, error: type[Clip4clipError]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the objects of a JSON array or of JSON Lines, each with its location."""
    with table.open(encoding="utf-8-sig") as file:
        is_array = table.suffix.lower() == ".json" and file.read(4096).lstrip().startswith("[")
        file.seek(0)
        rows = array_items(table, file.read(), error) if is_array else parsed_lines(table, file, error)
        for row, location in rows:
            if not isinstance(row, Mapping):
                raise error(f"{location}: expected an object with keys, not {brief(row)}")
            yield row, location


def array_items(table: Path, text: str, error: type[Clip4clipError]) -> Iterator[tuple[Any, str]]:
    """Yield the items of a JSON array, each with its location."""
    try:
        items = json.loads(text)
    except ValueError as reason:
        raise error(f"{table} is not JSON: {reason}") from reason
    for number, item in enumerate(items, 1):
        yield item, f"{table}, item {number}"


def parsed_lines(table: Path, lines: Iterable[str], error: type[Clip4clipError]) -> Iterator[tuple[Any, str]]:
    """Yield the values of JSON Lines, each with its location."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            location = f"{table}, line {number}"
            try:
                yield json.loads(line), location
            except ValueError as reason:
                raise error(f"{location}: it is not JSON: {reason}. Expected one object in each line") from reason
