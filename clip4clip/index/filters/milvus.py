"""Render a filter as an expression of a Milvus server, true for the same rows as the SQL of the local engine."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ...errors import FilterError
from .parse import quote
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
    Pattern,
    Presence,
    Remainder,
    Value,
    Wildcard,
    is_large,
    prefix_range,
)

SCHEMA_FIELDS = ("id", "path", "video")  # strings that all rows have; other fields are dynamic


def to_milvus(condition: Condition | None, schema_fields: Collection[str] = SCHEMA_FIELDS) -> str:
    """Return a condition in the syntax of Milvus 2.3 and later; an empty string for None.

    Args:
        condition: condition from :func:`clip4clip.index.filters.parse.parse_filter`.
        schema_fields: fields of the collection's schema; all others are looked up in its dynamic field.

    Raises:
        FilterError: a server cannot evaluate the condition.
    """
    return "" if condition is None else _Renderer(schema_fields).render(condition)


class _Renderer:
    def __init__(self, schema_fields: Collection[str]) -> None:
        self._schema_fields = schema_fields
        self._texts = SCHEMA_FIELDS if {*SCHEMA_FIELDS} <= {*schema_fields} else ()

    def render(self, condition: Condition) -> str:
        """Return a condition, in brackets where it needs them."""
        if isinstance(condition, Not):
            return f"(not {self.render(condition.condition)})"
        if isinstance(condition, And | Or):
            return _join("and" if isinstance(condition, And) else "or", map(self.render, condition.conditions))
        return self._render_leaf(condition)

    def _render_leaf(self, leaf: Leaf) -> str:
        name = self._name(leaf.field)
        if leaf.field.name in self._texts:
            return self._render_text(name, leaf)
        if isinstance(leaf, Comparison):
            return f"({name} {leaf.operator} {_literal(leaf.value.value)})"
        if isinstance(leaf, Membership):
            return _find_in_list(name, leaf.values)
        if isinstance(leaf, Match):
            return _match(name, leaf)
        if isinstance(leaf, Presence):
            return f"({_always(name) if self._is_plain(leaf.field) else f'exists {name}'})"
        if isinstance(leaf, Contains):
            return _contain(name, leaf)
        bounds = f"{name} > -{EXACT_INTEGER} and {name} < {EXACT_INTEGER}"
        return f"({bounds} and {name} % {leaf.divisor} == {leaf.remainder})"

    def _render_text(self, name: str, leaf: Leaf) -> str:
        """Return a condition on a string field. A server refuses those that compare it with another kind."""
        if leaf.field.keys or isinstance(leaf, Contains | Remainder):
            return f"({_never(name)})"
        if isinstance(leaf, Presence):
            return f"({_always(name)})"
        if isinstance(leaf, Membership):
            return _find_in_list(name, [value for value in leaf.values if value.kind == "string"])
        if isinstance(leaf, Match):
            return _match(name, leaf)
        if leaf.value.kind != "string":
            return f"({_always(name) if leaf.operator == '!=' else _never(name)})"
        return f"({name} {leaf.operator} {_literal(leaf.value.value)})"

    def _is_plain(self, field: Field) -> bool:
        return field.name in self._schema_fields and not field.keys

    def _name(self, field: Field) -> str:
        """Return a field as Milvus writes it. Names in brackets may have any characters."""
        name = field.name if field.name in self._schema_fields else f"$meta[{quote(field.name)}]"
        if field.name in self._texts:
            return name
        return name + "".join(f"[{key}]" if isinstance(key, int) else f"[{quote(key)}]" for key in field.keys)


def _join(word: str, parts: Any) -> str:
    return "(" + f" {word} ".join(parts) + ")"


def _never(name: str) -> str:
    return f"{name} in []"


def _always(name: str) -> str:
    return f"{name} not in []"


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return quote(value) if isinstance(value, str) else repr(value)


def _list(values: Sequence[Any]) -> str:
    return "[" + ", ".join(map(_literal, values)) + "]"


def _find_in_list(name: str, values: Sequence[Value]) -> str:
    """Return a condition with one list for each type, because a server cannot read a list of several types.

    A server compares a large integer in a list in another way than by ``==``.
    """
    small = [value.value for value in values if not is_large(value)]
    groups = [[value for value in small if type(value) is type_] for type_ in (str, int, float, bool)]
    parts = [f"{name} in {_list(group)}" for group in groups if group]
    parts += [f"{name} == {_literal(value.value)}" for value in values if is_large(value)]
    return _join("or", parts or [_never(name)])


def _match(name: str, match: Match) -> str:
    pattern = match.pattern
    if all(isinstance(part, str) for part in pattern):
        return f"({name} == {quote(''.join(map(str, pattern)))})"
    prefix = "".join(part for part in pattern[:-1] if isinstance(part, str))
    if pattern == (prefix, Wildcard.TEXT) or pattern == (Wildcard.TEXT,):
        # not by like: versions differ in which characters of a prefix are wildcards and escapes
        smallest, above = prefix_range(prefix)
        upper = f" and {name} < {quote(above)}" if above else ""
        return f"({name} >= {quote(smallest)}{upper})"
    if Wildcard.CHARACTER in pattern:
        raise FilterError(
            f"the filter has the pattern {quote(_to_pattern(pattern))}, but a Milvus server cannot find any one "
            r"character by _: write \\_ for the character _ itself"
        )
    return f"({name} like {quote(_to_pattern(pattern))})"


def _to_pattern(pattern: Pattern) -> str:
    """Return the text of a pattern. Milvus 2.3 refuses one with % inside, later versions find it."""
    return "".join(part.value if isinstance(part, Wildcard) else part.translate(_PATTERN_ESCAPES) for part in pattern)


_PATTERN_ESCAPES = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_"})


def _contain(name: str, leaf: Contains) -> str:
    """Return a condition with floats for all numbers: in a list, a server compares an integer with integers only."""
    numbers = [float(v.value) for v in leaf.values if v.kind == "number"]
    groups: list[Any] = [[v.value for v in leaf.values if v.kind == "string"], numbers]
    groups.append([v.value for v in leaf.values if v.kind == "boolean"])
    function = "json_contains_all" if leaf.needs_all else "json_contains_any"
    parts = [f"{function}({name}, {_list(group)})" for group in groups if group]
    return _join("and" if leaf.needs_all else "or", parts)
