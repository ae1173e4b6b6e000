"""Random rows and filters, the meaning of a filter in plain Python, and a database with the local engine's tables.

The tests of the filter language compare the three of SQL, Milvus's expressions and this model.
"""

from __future__ import annotations

import json
import operator
import re
import sqlite3
from collections.abc import Sequence
from random import Random
from typing import Any

from clip4clip.index.filters.parse import parse_filter, quote
from clip4clip.index.filters.sql import COLUMNS, to_sql
from clip4clip.index.filters.tree import (
    And,
    Comparison,
    Condition,
    Contains,
    Field,
    Leaf,
    Match,
    Membership,
    Not,
    Or,
    Presence,
    Wildcard,
)

Row = dict[str, Any]

SCHEMA = """
CREATE TABLE videos(number INTEGER PRIMARY KEY AUTOINCREMENT, collection INTEGER, name TEXT, UNIQUE(collection, name));
CREATE TABLE rows(
    number INTEGER PRIMARY KEY AUTOINCREMENT, collection INTEGER, id TEXT, video INTEGER, path TEXT, start REAL,
    "end" REAL, duration REAL, frame_count INTEGER, size INTEGER, mtime INTEGER, fields TEXT, UNIQUE(collection, id)
);
"""
STORED_COLUMNS = tuple(name for name in COLUMNS if name != "video")

STRINGS = ["", "a", "ab", "abc", "a%b", "a_b", "axb", "AXB", "a*b", "a?b", "a[b]", "[1]", "{}", '{"k":1}', "1", "true"]
STRINGS += [
    'say "hi"',
    "it's",
    "a\\b",
    "\\",
    "a\nb",
    "a\tb",
    "a\x01b",
    "ä",
    "a😀b",
    "😀",
    "a\U0010ffff",
    "\U0010ffff",
    "\ud7ff",
]
STRINGS += ["%", "_", "x\\%", "--", "' OR 1=1 --", "null", " "]
NUMBERS = [0, 1, 2, 3, 5, 7, -1, -7, 60, 0.0, 1.0, 1.5, 2.5, -2.5, 0.1, 0.30000000000000004, 1e300, -1e-300, 1e15]
NUMBERS += [
    2**53,
    2**53 + 1,
    -(2**53) - 1,
    2**53 * 1.0,
    2**62,
    2**62 - 1,
    2.0**62,
    2.0**63,
    2**63 - 1,
    -(2**63) + 1,
    1 - 2**62,
]
KEYS = ["k", "z", "0", "1", "a b", "a.b", "a/b", "a~1b", 'q"q', "b\\s", "n\nl", "é", "😀", "it's", "$", "[0]", "00"]
FIELDS = [
    "m",
    "n",
    "tags",
    "flag",
    "odd name",
    "a/b",
    "a~0b",
    'q"q',
    "b\\s",
    "n\nl",
    "é",
    "😀",
    "end2",
    "in",
    "0",
    "x.y",
    "key",
    "value",
]


def random_value(random: Random, depth: int = 0) -> Any:
    """Return a value of any kind of JSON, except null."""
    draw = random.random()
    if draw < 0.35:
        return random.choice(NUMBERS)
    if draw < 0.65:
        return random.choice(STRINGS)
    if draw < 0.75:
        return random.random() < 0.5
    if depth == 2:
        return 1
    items = [None if random.random() < 0.1 else random_value(random, depth + 1) for _ in range(random.randrange(4))]
    return items if draw < 0.87 else dict(zip(random.sample(KEYS, len(items)), items, strict=True))


def random_row(random: Random, number: int) -> Row:
    """Return a row as the index stores it, without its vector; its fields have values of any kinds."""
    row: Row = {"id": f"v{number}", "path": f"/a/{random.choice(STRINGS) or 'x'}"}
    row["video"] = random.choice([row["id"], "v1", "ab", "a%b"])
    for name, values in {
        "start": [0.0, 1.5, 2.5, 60.0],
        "end": [0.0, 1.5, 2.5, 60.0],
        "duration": [0.0, 0.1, 1.0, 2.5, 59.9, 60.0, 1e300],
        "frame_count": [0, 1, 2, 5, 7],
        "size": [0, 1, 5, 2**53 + 1, 2**62 + 1],
        "mtime": [0, 2**53, 2**53 + 1, 1748728800 * 10**9, 2**63 - 1],
    }.items():
        if random.random() < 0.6:
            row[name] = random.choice(values)
    for name in random.sample(FIELDS, random.randrange(5)):
        row[name] = random_value(random)
    if random.random() < 0.7:
        row["m"] = random_value(random)
    return row


def random_filter(random: Random, depth: int = 0) -> str:
    """Return a valid filter, which a Milvus server can evaluate too."""
    draw = random.random()
    if depth < 3 and draw < 0.35:
        parts = [random_filter(random, depth + 1) for _ in range(random.choice([2, 2, 3]))]
        return "(" + f" {random.choice(['and', 'or', '&&', '||', 'AND', 'Or'])} ".join(parts) + ")"
    if depth < 3 and draw < 0.45:
        return f"{random.choice(['not ', '!', 'NOT '])}({random_filter(random, depth + 1)})"
    return _random_leaf(random, _random_field(random))


def _random_field(random: Random) -> str:
    draw = random.random()
    if draw < 0.25:
        return random.choice(COLUMNS)
    name = random.choice(FIELDS) if random.random() < 0.5 else "m"
    text = name if re.fullmatch(r"[a-z]\w*", name) and name != "in" else f"$meta[{quote(name)}]"
    for _ in range(random.choice([0, 0, 0, 1, 1, 2])):
        text += f"[{random.choice([0, 1, 2])}]" if random.random() < 0.4 else f"[{quote(random.choice(KEYS))}]"
    return text


def _random_literal(random: Random) -> str:
    draw = random.random()
    if draw < 0.55:
        return repr(random.choice(NUMBERS))
    return quote(random.choice(STRINGS)) if draw < 0.9 else random.choice(["true", "False"])


def _random_leaf(random: Random, field: str) -> str:
    draw, literal = random.random(), _random_literal(random)
    literals = [_random_literal(random) for _ in range(random.choice([0, 1, 2, 4]))]
    number = repr(random.choice(NUMBERS))
    if draw < 0.4:
        sign = random.choice(
            ["==", "!="] if literal.lower() in ("true", "false") else ["==", "!=", "<", "<=", ">", ">="]
        )
        return f"{field} {sign} {literal}" if random.random() < 0.8 else f"{literal} {sign} {field}"
    if draw < 0.45:
        return f"{random.choice(NUMBERS)!r} < {field} <= {number}"
    if draw < 0.6:
        return f"{field} {random.choice(['in', 'not in', 'NOT IN'])} [{', '.join(literals)}]"
    if draw < 0.7:
        pattern = re.sub(r"[\\%_]", r"\\\g<0>", random.choice(STRINGS)) + random.choice(["%", "%", ""])
        return f"{field} {random.choice(['like', 'not like'])} {quote(pattern)}"
    if draw < 0.8:
        return random.choice([f"exists {field}", f"{field} is null", f"{field} is not null"])
    if draw < 0.9:
        elements = [element for element in literals if not _is_large(element)] or ["1"]
        function = random.choice(["json_contains_any", "json_contains_all"])
        return random.choice(
            [f"json_contains({field}, {elements[0]})", f"{function}({field}, [{', '.join(elements)}])"]
        )
    small, divisor = random.choice(["2", "0.5", "10", "-4"]), random.choice([1, 2, 3, 7, 2**40])
    return random.choice(
        [
            f"{field} % {divisor} {random.choice(['==', '!='])} {random.choice([-1, 0, 1, 2])}",
            f"{field} {random.choice('+-*/')} {small} {random.choice(['<', '>=', '==', '!='])} {number}",
            f"{number} > {small} {random.choice('+-*')} {field}",
        ]
    )


def _is_large(literal: str) -> bool:
    try:
        return abs(float(literal)) >= 2**53
    except ValueError:
        return False


def parse(text: str) -> Condition:
    """Return the tree of a filter, without checks of names and kinds."""
    condition = parse_filter(text, lambda name, kind: None, list, has_dates=False)
    assert condition is not None
    return condition


def make_database(rows: Sequence[Row]) -> sqlite3.Connection:
    """Return a database in memory with the rows as collection 1."""
    database = sqlite3.connect(":memory:")
    database.executescript(SCHEMA)
    for row in rows:
        video = row.get("video", row["id"])
        database.execute("INSERT OR IGNORE INTO videos(collection, name) VALUES (1, ?)", (video,))
        fields = {name: value for name, value in row.items() if name not in COLUMNS}
        text = json.dumps(fields, ensure_ascii=False) if fields else None
        columns = ", ".join(f'"{name}"' for name in STORED_COLUMNS)
        database.execute(
            f"INSERT INTO rows(collection, video, fields, {columns}) VALUES (1, "
            f"(SELECT number FROM videos WHERE collection = 1 AND name = ?), ?{', ?' * len(STORED_COLUMNS)})",
            (video, text, *map(row.get, STORED_COLUMNS)),
        )
    return database


def select(database: sqlite3.Connection, condition: Condition) -> list[str]:
    """Return the ids of the rows that match, sorted."""
    sql, parameters = to_sql(condition)
    found = database.execute(f"SELECT id FROM rows WHERE collection = ? AND {sql} ORDER BY id", [1, *parameters])
    return [id_ for (id_,) in found]


def matching(rows: Sequence[Row], condition: Condition) -> list[str]:
    """Return what :func:`select` should return."""
    return sorted(row["id"] for row in rows if is_true(condition, row))


def is_true(condition: Condition, row: Row) -> bool:
    """Return whether a row matches, as the documentation of the filter language says."""
    if isinstance(condition, Not):
        return not is_true(condition.condition, row)
    if isinstance(condition, And | Or):
        join = all if isinstance(condition, And) else any
        return join(is_true(part, row) for part in condition.conditions)
    try:
        value = _find(condition.field, {"video": row["id"]} | row)
    except LookupError:
        value = MISSING
    return _is_leaf_true(condition, value)


MISSING = object()


def _find(field: Field, row: Row) -> Any:
    value = row[field.name]
    for key in field.keys:
        if isinstance(value, list):
            if not re.fullmatch("0|[1-9][0-9]*", str(key)):
                raise LookupError
            value = value[int(key)]
        elif isinstance(value, dict):
            value = value[str(key)]
        else:
            raise LookupError
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "string" if isinstance(value, str) else "number" if isinstance(value, int | float) else "other"


def _is_leaf_true(leaf: Leaf, value: Any) -> bool:
    if isinstance(leaf, Presence):
        return value is not MISSING
    if isinstance(leaf, Comparison):
        if leaf.operator == "!=":
            return not _holds("==", value, leaf.value.value)
        return _holds(leaf.operator, value, leaf.value.value)
    if isinstance(leaf, Membership):
        return any(_holds("==", value, item.value) for item in leaf.values)
    if isinstance(leaf, Contains):
        join = all if leaf.needs_all else any
        return isinstance(value, list) and join(
            any(_holds("==", element, item.value) for element in value) for item in leaf.values
        )
    if isinstance(leaf, Match):
        pattern = "".join(_REGEX[part] if isinstance(part, Wildcard) else re.escape(part) for part in leaf.pattern)
        return isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL) is not None
    return _kind(value) == "number" and abs(value) < 2**53 and _remainder(int(value), leaf.divisor) == leaf.remainder


def _remainder(dividend: int, divisor: int) -> int:
    return abs(dividend) % divisor * (1 if dividend > 0 else -1)


_REGEX = {Wildcard.TEXT: ".*", Wildcard.CHARACTER: "."}
_OPERATORS = {"==": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def _holds(sign: str, left: Any, right: Any) -> bool:
    """Compare two values: numbers as floats, unless both are integers."""
    if _kind(left) != _kind(right):
        return False
    if float in (type(left), type(right)):
        left, right = float(left), float(right)
    return bool(_OPERATORS[sign](left, right))
