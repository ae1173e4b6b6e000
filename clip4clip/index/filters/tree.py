"""The tree that a filter is parsed into. Every condition is true or false for every row, never unknown."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

EXACT_INTEGER = 2**53  # a float holds all smaller whole numbers
KIND_BY_TYPE = {str: "string", bool: "boolean", int: "number", float: "number"}


@dataclass(frozen=True)
class Field:
    """A field of a row, or a value inside a JSON field.

    Attributes:
        name: name of the field.
        keys: names of keys and indexes of list elements that lead to the value; empty for the field itself.
        position: where the field begins in the text.
    """

    name: str
    keys: tuple[str | int, ...] = ()
    position: int = dataclasses.field(compare=False, repr=False, default=0)

    def __str__(self) -> str:
        return self.name + "".join(f"[{key}]" if isinstance(key, int) else f'["{key}"]' for key in self.keys)


@dataclass(frozen=True)
class Value:
    """A value in a filter.

    Attributes:
        value: string, number or boolean; an int fits into 64 bits, a float is finite.
        text: the value as the filter has it.
    """

    value: str | int | float | bool
    text: str = dataclasses.field(compare=False, repr=False, default="")

    @property
    def kind(self) -> str:
        return KIND_BY_TYPE[type(self.value)]


class Wildcard(enum.Enum):
    """A part of a pattern: any text, or any one character."""

    TEXT = "%"
    CHARACTER = "_"


Pattern: TypeAlias = "tuple[str | Wildcard, ...]"


@dataclass(frozen=True)
class Comparison:
    """True if the row has a value of the same kind in the field, and the comparison holds; ``!=`` negates ``==``.

    Attributes:
        field: the field.
        operator: one of ``== != < <= > >=``. Booleans are compared by ``==`` and ``!=`` only.
        value: the value.
        is_computed: whether the filter computes with the field, as ``size / 1000 > 5`` does.
    """

    field: Field
    operator: str
    value: Value
    is_computed: bool = dataclasses.field(compare=False, repr=False, default=False)


@dataclass(frozen=True)
class Remainder:
    """True if a number divided by ``divisor`` leaves ``remainder``. Decimals are cut off before the division.

    The remainder has the sign of the number. Numbers of 2**53 and above, or -2**53 and below, match nothing.
    """

    field: Field
    divisor: int
    remainder: int


@dataclass(frozen=True)
class Membership:
    """True if the field is equal to one of the values."""

    field: Field
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Match:
    """True if the field is a string that matches the pattern, upper and lower case being different.

    Attributes:
        field: the field.
        pattern: texts and wildcards; two texts do not follow each other.
        value: the pattern as the filter has it.
    """

    field: Field
    pattern: Pattern
    value: Value | None = dataclasses.field(compare=False, repr=False, default=None)


@dataclass(frozen=True)
class Presence:
    """True if the row has the field."""

    field: Field


@dataclass(frozen=True)
class Contains:
    """True if the field is a list that contains one of the values, or all of them."""

    field: Field
    values: tuple[Value, ...]
    needs_all: bool = False


@dataclass(frozen=True)
class Not:
    """True if the condition is false."""

    condition: Condition


@dataclass(frozen=True)
class And:
    """True if all conditions are true."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Or:
    """True if one of the conditions is true."""

    conditions: tuple[Condition, ...]


Leaf: TypeAlias = "Comparison | Remainder | Membership | Match | Presence | Contains"
Condition: TypeAlias = "Leaf | Not | And | Or"


@dataclass(frozen=True)
class Rejected:
    """A condition that is parsed, but is not part of the language. It gets another message if it is about dates.

    Attributes:
        fields: the fields in it.
        date_problem: what is wrong if one of the fields is a date.
        position: where it is wrong otherwise.
        problem: what is wrong otherwise.
    """

    fields: tuple[Field, ...]
    date_problem: str
    position: int
    problem: str

    @property
    def field(self) -> Field:
        return self.fields[0]


@dataclass(frozen=True)
class Chain(And):
    """A chain of comparisons with one field, such as ``0 < duration <= 60``."""


@dataclass(frozen=True)
class Exclusion(Not):
    """A condition with ``not in``."""


Draft: TypeAlias = "Condition | Rejected"


def iterate_leaves(condition: Any) -> Iterator[Any]:
    """Yield the conditions on single fields of a condition or a draft, from left to right."""
    if isinstance(condition, Not):
        yield from iterate_leaves(condition.condition)
    elif isinstance(condition, And | Or):
        for part in condition.conditions:
            yield from iterate_leaves(part)
    else:
        yield condition


def is_large(value: Value) -> bool:
    """Return whether a value is a number of which a float may hold only a neighbour."""
    return not isinstance(value.value, str | bool) and abs(value.value) >= EXACT_INTEGER


def is_index(key: str | int) -> bool:
    """Return whether a key can be the index of a list, as an int or as text."""
    return isinstance(key, int) or re.fullmatch(r"0|[1-9][0-9]{0,8}", key) is not None


def prefix_range(prefix: str) -> tuple[str, str | None]:
    """Return the smallest string with a prefix, and the smallest string above all of them; None if there is none.

    Strings are ordered by code point, as SQLite and Milvus order them.
    """
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index]) + 1
        if 0xD800 <= code <= 0xDFFF:
            code = 0xE000
        if code <= 0x10FFFF:
            return prefix, prefix[:index] + chr(code)
    return prefix, None
