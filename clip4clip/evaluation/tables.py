"""Read tables: CSV, TSV, JSON Lines, or a JSON array of objects."""

from __future__ import annotations

import csv
import json
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
    if table.stat().st_size > MAX_TABLE_BYTES:
        raise error(f"{table} is larger than the limit of {MAX_TABLE_BYTES:,} bytes")
    extension = table.suffix.lower()
    try:
        if extension == ".json" or extension in JSON_LINES:
            return None, list(_read_json(table, error))
        with table.open(encoding="utf-8-sig", newline="") as file:
            # Tables with tabs are often written without quotes: a stray one must not swallow the lines after it.
            dialect: dict[str, Any] = {"delimiter": "\t", "strict": True} if extension == ".tsv" else {}
            reader = csv.DictReader(file, **dialect)
            columns = list(reader.fieldnames or ())
            return columns, [(row, f"{table}, line {reader.line_num}") for row in reader]
    except UnicodeDecodeError as reason:
        raise not_text(table, error, accepted) from reason
    except (OSError, csv.Error, RecursionError) as reason:
        raise error(f"{table} cannot be read: {reason}. Expected {accepted}") from reason


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
        rows = _array_items(table, file.read(), error) if is_array else _parsed_lines(table, file, error)
        for row, location in rows:
            if not isinstance(row, Mapping):
                raise error(f"{location}: expected an object with keys, not {brief(row)}")
            yield row, location


def _array_items(table: Path, text: str, error: type[Clip4clipError]) -> Iterator[tuple[Any, str]]:
    try:
        items = json.loads(text)
    except ValueError as reason:
        raise error(f"{table} is not JSON: {reason}") from reason
    for number, item in enumerate(items, 1):
        yield item, f"{table}, item {number}"


def _parsed_lines(table: Path, lines: Iterable[str], error: type[Clip4clipError]) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            location = f"{table}, line {number}"
            try:
                yield json.loads(line), location
            except ValueError as reason:
                raise error(f"{location}: it is not JSON: {reason}. Expected one object in each line") from reason
