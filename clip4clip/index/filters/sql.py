"""Render a filter as SQL for the table ``rows`` of the local engine.

Values and the names of JSON keys are parameters. Only a name of ASCII letters, digits and ``_`` becomes a part of the
SQL, because SQLite uses an index on a JSON key only for a path that is a literal.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..values import NUMBER_FIELDS, REAL_FIELDS, TEXT_FIELDS
from .tree import (
    EXACT_INTEGER,
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
    Remainder,
    Value,
    Wildcard,
    is_index,
    prefix_range,
)

COLUMNS = (*TEXT_FIELDS, *NUMBER_FIELDS)


class _Sql(NamedTuple):
    """SQL with ``?`` for each parameter."""

    text: str
    parameters: tuple[Any, ...] = ()


_NEVER = _Sql("0")


def to_sql(condition: Condition) -> tuple[str, list[Any]]:
    """Return a condition for ``SELECT … FROM rows WHERE …`` and its parameters.

    It is true for the rows that match, and false or NULL for the others. Strings in the JSON of ``fields`` must not be
    escaped beyond what JSON requires (``ensure_ascii=False``).
    """
    sql = _render(condition)
    return sql.text, list(sql.parameters)


def json_path(name: str, *keys: str | int) -> str:
    """Return a path of SQLite's JSON functions.

    Args:
        name: key of the JSON object.
        keys: keys of objects and indexes of lists inside; no key may have a quote, a backslash or a control character,
            which paths cannot express in all versions of SQLite.
    """
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f'."{key}"' for key in (name, *keys))


def index_expression(name: str) -> str | None:
    """Return the expression to create an index on, so that filters on a JSON field use it; None for an odd name."""
    return f"json_extract(fields, '{json_path(name)}')" if _is_literal((name,)) else None


def _sql(template: str, *parts: Any) -> _Sql:
    """Return SQL with each ``{}`` replaced by SQL, or by a parameter for any other value."""
    fragments = [part if isinstance(part, _Sql) else _Sql("?", (part,)) for part in parts]
    parameters = itertools.chain.from_iterable(fragment.parameters for fragment in fragments)
    return _Sql(template.format(*(fragment.text for fragment in fragments)), tuple(parameters))


def _render(condition: Condition) -> _Sql:
    if isinstance(condition, Not):
        return _sql("({} IS NOT TRUE)", _render(condition.condition))
    if isinstance(condition, And | Or):
        word = "AND" if isinstance(condition, And) else "OR"
        return _join(word, [_render(part) for part in condition.conditions])
    return _render_leaf(condition)


def _join(word: str, parts: Sequence[_Sql]) -> _Sql:
    if len(parts) == 1:
        return parts[0]
    return _sql("(" + f" {word} ".join(["{}"] * len(parts)) + ")", *parts)


def _render_leaf(leaf: Leaf) -> _Sql:
    operand = _Operand(leaf.field)
    if isinstance(leaf, Comparison):
        return _compare(operand, leaf.operator, leaf.value)
    if isinstance(leaf, Membership):
        return _find_in_list(operand, leaf.values)
    if isinstance(leaf, Match):
        return _match(operand, leaf)
    if isinstance(leaf, Presence):
        return operand.presence
    if isinstance(leaf, Contains):
        return _contain(operand, leaf)
    return _divide(operand, leaf)


class _Operand:
    """A column, or a value in the JSON of ``fields``.

    Attributes:
        value: SQL for the value; NULL if there is none.
        column: name of the column; None for a JSON value.
        kinds: kinds of values that it can have.
    """

    def __init__(self, field: Field) -> None:
        self.column = field.name if field.name in COLUMNS else None
        self.kinds = {"string", "number", "boolean"}
        self._keys = (field.name, *field.keys)
        if self.column is None:
            self.value = _json_value(self._keys, "json_extract", "value")
            return
        self.kinds = {"string" if self.column in TEXT_FIELDS else "number"} if not field.keys else set()
        self.value = _Sql(f'rows."{self.column}"')
        if self.column == "video":
            self.value = _Sql("(SELECT videos.name FROM videos WHERE videos.number = rows.video)")

    @property
    def type(self) -> _Sql:
        """SQL for the type of a JSON value; NULL if there is none."""
        return _json_value(self._keys, "json_type", "type")

    @property
    def presence(self) -> _Sql:
        if self.column is None:
            return _sql("({} IS NOT NULL)", self.type)
        return _sql("({} IS NOT NULL)", self.value) if self.kinds else _NEVER

    def restrict(self, condition: _Sql, kind: str, is_needed: bool = True) -> _Sql:
        """Return a condition that is true for values of one kind only.

        Args:
            condition: condition on ``value``.
            kind: ``string`` or ``number``.
            is_needed: whether a JSON value of another kind could fulfil the condition, because SQLite has 1 for true,
                text for lists and objects, and an order between numbers and text.
        """
        if self.column is not None or not is_needed:
            return condition
        if kind == "string":
            return _sql("({} AND {} = 'text')", condition, self.type)
        return _sql("({} AND {} IN ('integer', 'real'))", condition, self.type)


def _json_value(keys: Sequence[str | int], function: str, column: str) -> _Sql:
    """Return SQL for a value in ``fields``, or for its type.

    Args:
        keys: keys that lead to it. As on a Milvus server, an index also is a key of an object, and the other way round.
        function: function of SQLite that takes a path.
        column: column of ``json_each`` that has the same.
    """
    if _is_literal(keys):
        return _Sql(f"{function}(rows.fields, '{json_path(*keys)}')")  # type: ignore[arg-type]
    if any(isinstance(key, str) and _ODD.search(key) for key in keys):
        return _walk(keys, column)
    variants = itertools.product(
        *([int(key), str(key)] if depth and is_index(key) else [key] for depth, key in enumerate(keys))
    )
    values = [_sql(function + "(rows.fields, {})", json_path(*variant)) for variant in variants]  # type: ignore[arg-type]
    return values[0] if len(values) == 1 else _sql(f"coalesce({', '.join(['{}'] * len(values))})", *values)


_LITERAL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ODD = re.compile(r'["\\\x00-\x1f]')


def _is_literal(keys: Sequence[str | int]) -> bool:
    return all(isinstance(key, str) and _LITERAL.fullmatch(key) for key in keys)


def _walk(keys: Sequence[str | int], column: str) -> _Sql:
    """Return SQL for a value whose keys cannot be written as a path."""
    tables = ["json_each(rows.fields) AS k0"]
    for level in range(len(keys) - 1):
        inner = f"CASE WHEN k{level}.type IN ('object', 'array') THEN k{level}.value END"
        tables.append(f"json_each({inner}) AS k{level + 1}")
    conditions = " AND ".join(f"CAST(k{level}.key AS TEXT) = {{}}" for level in range(len(keys)))
    query = f"(SELECT k{len(keys) - 1}.{column} FROM {', '.join(tables)} WHERE {conditions})"  # noqa: S608  no keys in it
    return _sql(query, *map(str, keys))


def _compare(operand: _Operand, operator: str, value: Value) -> _Sql:
    if value.kind not in operand.kinds:
        return _Sql("1") if operator == "!=" else _NEVER
    if operator == "!=":
        return _sql("({} IS NOT TRUE)", _compare(operand, "==", value))
    if isinstance(value.value, bool):
        return _sql("({} = {})", operand.type, _Sql("'true'" if value.value else "'false'"))
    if isinstance(value.value, str):
        if operand.column == "video" and operator == "==":
            return _find_video(_sql("(videos.name = {})", value.value))
        is_needed = operator != "==" or value.value[:1] in ("{", "[")
        return operand.restrict(
            _sql(f"({{}} {_SIGNS[operator]} {{}})", operand.value, value.value), "string", is_needed
        )
    return _compare_number(operand, _SIGNS[operator], value.value)


_SIGNS = {"==": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def _compare_number(operand: _Operand, sign: str, number: float) -> _Sql:
    """Compare as a Milvus server does: integers with integers exactly, all others as floats."""
    template = f"({{}} {sign} {{}})"
    if operand.column in REAL_FIELDS:
        return _sql(template, operand.value, float(number))
    if abs(number) < EXACT_INTEGER or (operand.column and isinstance(number, int)):
        is_needed = number in (0, 1) if sign == "=" else not (sign == "<" and number <= 0)
        return operand.restrict(_sql(template, operand.value, _constant(operand, number)), "number", is_needed)
    as_float = _sql(f"(CAST({{}} AS REAL) {sign} {{}})", operand.value, float(number))
    if isinstance(number, float):
        return operand.restrict(as_float, "number")
    exactly = _sql(template, operand.value, number)
    return _sql("(CASE {} WHEN 'integer' THEN {} WHEN 'real' THEN {} END)", operand.type, exactly, as_float)


def _constant(operand: _Operand, number: float) -> Any:
    """Return a number; a float for JSON is read from JSON, as the stored ones are, so that both are rounded equally."""
    if operand.column or isinstance(number, int):
        return number
    return _sql("json_extract({}, '$')", repr(number))


def _find_in_list(operand: _Operand, values: Sequence[Value]) -> _Sql:
    groups = {kind: [v.value for v in values if v.kind == kind] for kind in ("string", "number", "boolean")}
    parts = [_find_among(operand, kind, group) for kind, group in groups.items() if group and kind in operand.kinds]
    return _join("OR", parts) if parts else _NEVER


def _find_among(operand: _Operand, kind: str, values: list[Any]) -> _Sql:
    """Return SQL for a value that is equal to one of several values of one kind."""
    if kind == "boolean" or len(values) == 1:
        return _join("OR", [_compare(operand, "==", Value(value)) for value in dict.fromkeys(values)])
    if kind == "string" and operand.column == "video":
        return _find_video(_among(_Sql("videos.name"), values))
    if kind == "string":
        is_needed = any(value[:1] in ("{", "[") for value in values)
        return operand.restrict(_among(operand.value, values), "string", is_needed)
    small = [value for value in values if abs(value) < EXACT_INTEGER]
    large = [value for value in values if abs(value) >= EXACT_INTEGER]
    parts = []
    if small:
        is_needed = any(value in (0, 1) for value in small)
        parts.append(operand.restrict(_among(operand.value, small), "number", is_needed))
    if large:
        parts.append(_find_large(operand, large))
    return _join("OR", parts)


def _find_video(condition: _Sql) -> _Sql:
    """Return SQL for rows whose video fulfils a condition. It finds the video first, and its rows by an index."""
    return _sql("(rows.video IN (SELECT videos.number FROM videos WHERE {}))", condition)


def _among(value: _Sql, values: list[Any]) -> _Sql:
    return _sql("({} IN (SELECT value FROM json_each({})))", value, json.dumps(values, ensure_ascii=False))


def _find_large(operand: _Operand, values: list[float]) -> _Sql:
    """Return SQL for a number that is equal to one of those of 2**53 and more, compared as by ``_compare_number``."""
    as_float = _sql("CAST({} AS REAL)", operand.value)
    equals_any = _among(as_float, [float(value) for value in values])
    if operand.column in REAL_FIELDS:
        return equals_any
    integers, floats = ([v for v in values if isinstance(v, type_)] for type_ in (int, float))
    of_integers = _sql("({} OR {})", _among(operand.value, integers), _among(as_float, floats))
    if operand.column:
        return of_integers
    return _sql("(CASE {} WHEN 'integer' THEN {} WHEN 'real' THEN {} END)", operand.type, of_integers, equals_any)


def _match(operand: _Operand, match: Match) -> _Sql:
    if "string" not in operand.kinds:
        return _NEVER
    pattern = match.pattern
    if all(isinstance(part, str) for part in pattern):
        return _compare(operand, "==", Value("".join(map(str, pattern))))
    if pattern == (Wildcard.TEXT,):
        return operand.presence if operand.column else _sql("({} = 'text')", operand.type)
    if len(pattern) == 2 and isinstance(pattern[0], str) and pattern[1] is Wildcard.TEXT:
        return _match_prefix(operand, pattern[0])
    glob = "".join(_GLOB[part] if isinstance(part, Wildcard) else part.translate(_GLOB_ESCAPES) for part in pattern)
    return operand.restrict(_sql("({} GLOB {})", operand.value, glob), "string")


_GLOB = {Wildcard.TEXT: "*", Wildcard.CHARACTER: "?"}
_GLOB_ESCAPES = str.maketrans({"*": "[*]", "?": "[?]", "[": "[[]"})


def _match_prefix(operand: _Operand, prefix: str) -> _Sql:
    """Compare with the smallest and the largest string with the prefix, faster than GLOB and able to use an index."""
    smallest, above = prefix_range(prefix)
    if above is None:
        return operand.restrict(_sql("({} >= {})", operand.value, smallest), "string")
    condition = _sql("({} >= {} AND {} < {})", operand.value, smallest, operand.value, above)
    return operand.restrict(condition, "string", prefix[0] in "{[")


def _contain(operand: _Operand, leaf: Contains) -> _Sql:
    """Return SQL for a list that contains values; numbers are below 2**53."""
    if operand.column:
        return _NEVER
    elements = _sql("json_each(CASE {} WHEN 'array' THEN {} END)", operand.type, operand.value)
    parts = []
    for kind, types in (("string", "'text'"), ("number", "'integer', 'real'")):
        values = {value.value for value in leaf.values if value.kind == kind}
        if values:
            among = _sql("type IN (" + types + ") AND {}", _among(_Sql("value"), sorted(values)))
            count = _sql("(SELECT count(DISTINCT value) FROM {} WHERE {})", elements, among)
            parts.append(_sql("({} >= {})", count, len(values) if leaf.needs_all else 1))
    for boolean in sorted({value.value for value in leaf.values if value.kind == "boolean"}):
        type_ = _Sql("'true'" if boolean else "'false'")
        parts.append(_sql("EXISTS (SELECT 1 FROM {} WHERE type = {})", elements, type_))
    return _join("AND" if leaf.needs_all else "OR", parts)


def _divide(operand: _Operand, leaf: Remainder) -> _Sql:
    if "number" not in operand.kinds:
        return _NEVER
    value = operand.value
    bounds = _sql(f"{{}} > {-EXACT_INTEGER} AND {{}} < {EXACT_INTEGER}", value, value)
    return operand.restrict(_sql("({} AND {} % {} = {})", bounds, value, leaf.divisor, leaf.remainder), "number")
