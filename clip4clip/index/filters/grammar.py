"""Parse the text of a filter. The language is that of Milvus's expressions, in part, and equal on every engine."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import FilterError, MissingExtraError
from .arithmetic import MIRRORED, Computed, compute, negate, solve, to_number
from .errors import InvalidPartError, point_at
from .tree import (
    And,
    Chain,
    Comparison,
    Contains,
    Draft,
    Exclusion,
    Field,
    Match,
    Membership,
    Not,
    Or,
    Pattern,
    Presence,
    Rejected,
    Remainder,
    Value,
    Wildcard,
    is_index,
    is_large,
    iterate_leaves,
)

try:
    from lark import Lark, Token, v_args
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken, VisitError
    from lark.visitors import Transformer_NonRecursive
except ImportError as error:  # pragma: no cover
    raise MissingExtraError("a filter needs lark: pip install 'towhee-clip4clip[retrieval]'") from error

MAX_CHARACTERS = 65_536
MAX_CONDITIONS = 300  # SQLite may be built for 999 parameters, and for expressions of 1,000 levels
MAX_DEPTH = 12  # levels of and, or, not; the parser of SQLite has a stack of 100 entries, and a level takes up to 3
MAX_VALUES = 10_000  # of one list
MAX_LARGE_VALUES = 100  # of one list: numbers of 2**53 and more, each of which is a condition of its own on a server
MAX_KEYS = 20  # of one field
MAX_INDEXES = 3  # of one field
MAX_PATTERN = 10_000  # characters; SQLite takes 50,000 bytes

_GRAMMAR = r"""
    ?start: conjunction (_OR conjunction)+ -> disjunction
        | conjunction
    ?conjunction: negation (_AND negation)+
        | negation
    ?negation: _NOT negation -> inversion
        | condition
    ?condition: sum
        | sum (COMPARE sum)+        -> comparison
        | sum _IN sum               -> membership
        | sum _NOT _IN sum          -> exclusion
        | sum _LIKE sum             -> match
        | sum _NOT _LIKE sum        -> mismatch
        | sum _IS _NULL             -> absence
        | sum _IS _NOT _NULL        -> presence
        | _EXISTS sum               -> presence
    ?sum: product ((PLUS | MINUS) product)+ -> arithmetic
        | product
    ?product: operand (ARITHMETIC operand)+ -> arithmetic
        | operand
    ?operand: MINUS operand -> negative
        | PLUS operand      -> positive
        | "(" start ")"
        | STRING -> string
        | NUMBER -> number
        | BOOLEAN -> boolean
        | field | list
        | NAME "(" [start ("," start)*] ")" -> call
    field: NAME key*
        | META key+ -> meta_field
    key: "[" (STRING | NUMBER) "]"
    list: "[" [start ("," start)* [","]] "]"

    _OR.2: /or\b/i | "||"
    _AND.2: /and\b/i | "&&"
    _NOT.2: /not\b/i | /!(?!=)/
    _IN.2: /in\b/i
    _LIKE.2: /like\b/i
    _IS.2: /is\b/i
    _NULL.2: /null\b/i
    _EXISTS.2: /exists\b/i
    BOOLEAN.2: /(true|false)\b/i
    COMPARE: /[=!<>]=|[<>]/
    PLUS: "+"
    MINUS: "-"
    ARITHMETIC: /[*\/%]/
    META: "$meta"
    NAME: /[^\W\d]\w*/
    STRING: /"(\\.|[^"\\])*"|'(\\.|[^'\\])*'/s
    NUMBER: /([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?(?!\w)/
    %ignore /\s+/
"""


@dataclass(frozen=True)
class _List:
    items: tuple[Any, ...]


@dataclass(frozen=True)
class _Part:
    """A part of the text and its meaning: a field, a value, a list, a computation or a condition."""

    meaning: Any
    position: int
    depth: int = 0


_CONDITIONS = (Comparison, Remainder, Membership, Match, Presence, Contains, Not, And, Or, Rejected)
_VALUE_WORDS = 'a value, such as 60, "text" or true'


@functools.lru_cache(maxsize=256)
def parse_text(text: str) -> Draft:
    """Return the tree of a filter, whose dates, kinds and names are not checked yet.

    Raises:
        FilterError: the filter is invalid; the message shows where.
    """
    if len(text) > MAX_CHARACTERS:
        raise FilterError(f"the filter has {len(text):,} characters, but at most {MAX_CHARACTERS:,} are possible")
    try:
        try:
            condition = _to_condition(_builder.transform(_parser.parse(text)))
        except VisitError as error:
            raise error.orig_exc from None
        _check_count(condition)
        return condition
    except InvalidPartError as error:
        raise point_at(text, error.position, error.problem) from None
    except UnexpectedCharacters as error:
        position = error.pos_in_stream or 0
        raise point_at(text, position, _explain_character(text, position)) from None
    except UnexpectedToken as error:
        start = len(text.rstrip()) if error.token.type == "$END" else error.token.start_pos
        raise point_at(text, start, _explain_token(text, error)) from None


def _check_count(condition: Draft) -> None:
    """Raise InvalidPartError at the first condition beyond the limit."""
    leaves = itertools.islice(iterate_leaves(condition), MAX_CONDITIONS, None)
    for leaf in leaves:
        raise InvalidPartError(
            leaf.field.position, f"at most {MAX_CONDITIONS} conditions are possible, but in takes a long list"
        )


def _to_condition(part: _Part) -> Draft:
    """Return a condition, or raise InvalidPartError if the part is something else."""
    meaning = part.meaning
    if isinstance(meaning, _CONDITIONS):
        return meaning
    if isinstance(meaning, Field):
        hint = f"write a condition, such as {meaning} == true or exists {meaning}"
        raise InvalidPartError(part.position, f"{meaning} is a field and not a condition: {hint}")
    raise InvalidPartError(part.position, "this is a value and not a condition: compare it with a field")


def _to_field(part: _Part, words: str) -> Field:
    if not isinstance(part.meaning, Field):
        raise InvalidPartError(part.position, f"expected a field {words}")
    return part.meaning


def _to_value(part: _Part) -> Value:
    if not isinstance(part.meaning, Value):
        raise InvalidPartError(part.position, f"expected {_VALUE_WORDS}")
    return part.meaning


def _to_values(part: _Part) -> tuple[Value, ...]:
    if len(part.meaning.items) > MAX_VALUES:
        raise InvalidPartError(
            part.position, f"the list has {len(part.meaning.items):,} values, but at most {MAX_VALUES:,} are possible"
        )
    values = tuple(map(_to_value, part.meaning.items))
    if sum(map(is_large, values)) > MAX_LARGE_VALUES:
        problem = f"the list has more than {MAX_LARGE_VALUES} numbers of 2**53 and more"
        raise InvalidPartError(part.position, problem)
    return values


@v_args(meta=True)
class _Builder(Transformer_NonRecursive[Any, Any]):
    """Build the tree of a filter. It does not recurse, so that thousands of brackets are no error."""

    def disjunction(self, meta: Any, parts: list[_Part]) -> _Part:
        return self._join(Or, meta, parts)

    def conjunction(self, meta: Any, parts: list[_Part]) -> _Part:
        return self._join(And, meta, parts)

    def _join(self, kind: type[And] | type[Or], meta: Any, parts: list[_Part]) -> _Part:
        conditions: list[Any] = []
        for condition in map(_to_condition, parts):
            conditions += condition.conditions if type(condition) is kind else [condition]
        return _nested(kind(tuple(conditions)), meta, parts)

    def inversion(self, meta: Any, parts: list[_Part]) -> _Part:
        return _nested(Not(_to_condition(parts[0])), meta, parts)  # type: ignore[arg-type]

    def comparison(self, meta: Any, parts: list[Any]) -> _Part:
        steps = [_compare(*step) for step in zip(parts[::2], parts[1::2], parts[2::2], strict=False)]
        if len(steps) == 1:
            return _Part(steps[0], meta.start_pos)
        fields = [field for step in steps for field in _fields_of(step)]
        if len(set(fields)) == 1:
            return _Part(Chain(tuple(steps)), meta.start_pos)
        problem = "a chain of comparisons can have one field only: join two comparisons by and"
        return _Part(
            Rejected(tuple(fields), "compares other values in one chain with {}", fields[1].position, problem),
            meta.start_pos,
        )

    def membership(self, meta: Any, parts: list[_Part]) -> _Part:
        return _Part(_membership(*parts), meta.start_pos)

    def exclusion(self, meta: Any, parts: list[_Part]) -> _Part:
        return _Part(Exclusion(_membership(*parts)), meta.start_pos)  # type: ignore[arg-type]

    def match(self, meta: Any, parts: list[_Part]) -> _Part:
        return _Part(_match(*parts), meta.start_pos)

    def mismatch(self, meta: Any, parts: list[_Part]) -> _Part:
        return _Part(Not(_match(*parts)), meta.start_pos)

    def presence(self, meta: Any, parts: list[_Part]) -> _Part:
        return _Part(_presence(*parts), meta.start_pos)

    def absence(self, meta: Any, parts: list[_Part]) -> _Part:
        return _Part(Not(_presence(*parts)), meta.start_pos)

    def call(self, meta: Any, children: list[Any]) -> _Part:
        name, *parts = children
        return _Part(_call(name, [part for part in parts if part is not None]), meta.start_pos)

    def arithmetic(self, meta: Any, parts: list[Any]) -> _Part:
        meaning = parts[0].meaning
        for operator, part in zip(parts[1::2], parts[2::2], strict=False):
            try:
                meaning = compute(meaning, str(operator), part.meaning)
            except ValueError as error:
                raise InvalidPartError(operator.start_pos, str(error)) from None
        return _Part(meaning, meta.start_pos)

    def negative(self, meta: Any, parts: list[Any]) -> _Part:
        try:
            return _Part(negate(parts[1].meaning), meta.start_pos)
        except ValueError as error:
            raise InvalidPartError(meta.start_pos, str(error)) from None

    def positive(self, meta: Any, parts: list[Any]) -> _Part:
        if isinstance(parts[1].meaning, Value) and parts[1].meaning.kind == "number":
            return _Part(parts[1].meaning, meta.start_pos)
        raise InvalidPartError(meta.start_pos, "expected a number after +")

    def string(self, meta: Any, tokens: list[Token]) -> _Part:
        return _Part(Value(unquote(tokens[0], meta.start_pos), str(tokens[0])), meta.start_pos)

    def number(self, meta: Any, tokens: list[Token]) -> _Part:
        try:
            return _Part(to_number(str(tokens[0])), meta.start_pos)
        except ValueError as error:
            raise InvalidPartError(meta.start_pos, str(error)) from None

    def boolean(self, meta: Any, tokens: list[Token]) -> _Part:
        return _Part(Value(tokens[0].lower() == "true", str(tokens[0])), meta.start_pos)

    def field(self, meta: Any, parts: list[Any]) -> _Part:
        name, *keys = parts
        return _Part(_make_field(str(name), keys, meta.start_pos), meta.start_pos)

    def meta_field(self, meta: Any, parts: list[Any]) -> _Part:
        _, name, *keys = parts
        if isinstance(name, int):
            raise InvalidPartError(meta.start_pos, 'expected the name of a field, as in $meta["camera"]')
        return _Part(_make_field(name, keys, meta.start_pos), meta.start_pos)

    def key(self, _meta: Any, tokens: list[Any]) -> str | int:
        token = tokens[0]
        if token.type == "STRING":
            key = unquote(token, token.start_pos)
            if not key:
                raise InvalidPartError(token.start_pos, "a key cannot be empty")
            return key
        if not re.fullmatch(r"0|[1-9][0-9]{0,8}", token):
            raise InvalidPartError(token.start_pos, "expected a key, or the index of an element: 0, 1, 2, …")
        return int(token)

    def list(self, meta: Any, parts: list[Any]) -> _Part:
        return _Part(_List(tuple(part for part in parts if part is not None)), meta.start_pos)


def _nested(condition: Any, meta: Any, parts: list[_Part]) -> _Part:
    depth = 1 + max(part.depth for part in parts)
    if depth > MAX_DEPTH:
        problem = f"the filter is nested too deeply: at most {MAX_DEPTH} levels of and, or, not are possible"
        raise InvalidPartError(meta.start_pos, problem)
    return _Part(condition, meta.start_pos, depth)


def _make_field(name: str, keys: list[str | int], position: int) -> Field:
    if len(keys) > MAX_KEYS:
        raise InvalidPartError(position, f"{name} has {len(keys)} keys, but at most {MAX_KEYS} are possible")
    if sum(map(is_index, keys)) > MAX_INDEXES:
        raise InvalidPartError(position, f"{name} has more than {MAX_INDEXES} indexes")
    return Field(name, tuple(keys), position)


def _fields_of(condition: Any) -> list[Field]:
    return list(condition.fields) if isinstance(condition, Rejected) else [condition.field]


def _compare(left: _Part, operator: Any, right: _Part) -> Any:
    """Return the comparison of two parts, of which one has a field and the other one is a value."""
    sides = [left.meaning, right.meaning]
    has_field = [isinstance(side, Field | Computed) for side in sides]
    if all(has_field):
        fields = tuple(side if isinstance(side, Field) else side.field for side in sides)
        problem = "two fields cannot be compared: one side must be a value"
        return Rejected(fields, "compares {} with an expression", right.position, problem)
    if not any(has_field):
        part = next((part for part in (left, right) if not isinstance(part.meaning, Value)), left)
        raise InvalidPartError(part.position, "expected a comparison of a field with a value")
    field, value, sign = (left, right, str(operator)) if has_field[0] else (right, left, MIRRORED[operator])
    constant = _to_value(value)
    if isinstance(field.meaning, Computed):
        try:
            return solve(field.meaning, sign, constant)
        except ValueError as error:
            raise InvalidPartError(operator.start_pos, str(error)) from None
    if constant.kind == "boolean" and sign not in ("==", "!="):
        raise InvalidPartError(operator.start_pos, f"{constant.text} can be compared by == and != only")
    return Comparison(field.meaning, sign, constant)


def _membership(field: _Part, values: _Part) -> Membership | Rejected:
    name = _to_field(field, "before in")
    if isinstance(values.meaning, _List):
        return Membership(name, _to_values(values))
    problem = "expected a list after in, such as [1, 2]"
    return Rejected((name,), "looks for {} in something other than a list", values.position, problem)


def _match(field: _Part, pattern: _Part) -> Match:
    name, value = _to_field(field, "before like"), pattern.meaning
    if not isinstance(value, Value) or not isinstance(value.value, str):
        raise InvalidPartError(pattern.position, 'expected a string after like, such as "front%"')
    return Match(name, _parse_pattern(value.value, pattern.position), value)


def _presence(field: _Part) -> Presence:
    return Presence(_to_field(field, "whose presence is checked"))


def _call(name: Any, parts: Sequence[_Part]) -> Contains:
    function = name.lower()
    if function not in _FUNCTIONS:
        known = ", ".join(_FUNCTIONS)
        raise InvalidPartError(name.start_pos, f"there is no function {name}: the functions are {known}")
    example = _FUNCTIONS[function]
    if len(parts) != 2 or not isinstance(parts[0].meaning, Field):
        raise InvalidPartError(name.start_pos, f"{function} takes a field and a value: write {example}")
    field, argument = parts
    if function == "json_contains":
        return Contains(field.meaning, (_to_element(argument),))
    if not isinstance(argument.meaning, _List) or not argument.meaning.items:
        raise InvalidPartError(argument.position, f"expected a list with one value or more: write {example}")
    _to_values(argument)  # checks their number
    elements = tuple(map(_to_element, argument.meaning.items))
    return Contains(field.meaning, elements, needs_all=function.endswith("all"))


def _to_element(part: _Part) -> Value:
    """Return a value to look for in a list."""
    value = _to_value(part)
    if is_large(value):
        raise InvalidPartError(part.position, "numbers of 2**53 and more cannot be looked for in a list")
    return value


_FUNCTIONS = {
    "json_contains": 'json_contains(tags, "a")',
    "json_contains_any": 'json_contains_any(tags, ["a", "b"])',
    "json_contains_all": 'json_contains_all(tags, ["a", "b"])',
}

_ESCAPE = re.compile(r"\\(?:(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPES = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "r": "\r", "t": "\t"}


def unquote(literal: str, position: int) -> str:
    """Return the text of a string literal.

    Raises:
        InvalidPartError: the literal has an escape that is not in ``_ESCAPE`` and ``_ESCAPES``, or a character that
            cannot be stored.
    """

    def unescape(match: re.Match[str]) -> str:
        where = position + 1 + match.start()
        if match[1]:
            code = int(match[1][1:], 16)
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF or (match[1][0] == "x" and code > 0x7F):
                raise InvalidPartError(where, f"{match[0]} is not a character: write the character itself")
            return chr(code)
        if match[2] not in _ESCAPES:
            raise InvalidPartError(where, f"{match[0]} is not an escape: write \\\\ for a backslash")
        return _ESCAPES[match[2]]

    text = _ESCAPE.sub(unescape, literal[1:-1])
    if "\0" in text:
        raise InvalidPartError(position, "the string has the character U+0000, which cannot be stored")
    return text


def _parse_pattern(text: str, position: int) -> Pattern:
    """Return the parts of a pattern, in which a backslash before ``%``, ``_`` or a backslash takes away its meaning."""
    if len(text) > MAX_PATTERN:
        problem = f"the pattern has {len(text):,} characters, but at most {MAX_PATTERN:,} are possible"
        raise InvalidPartError(position, problem)
    pattern: list[str | Wildcard] = []
    for match in re.finditer(r"\\([\\%_])|([%_])|([^\\%_]+|\\)", text):
        literal = match[1] or match[3]
        if match[2]:
            wildcard = Wildcard(match[2])
            if wildcard is not Wildcard.TEXT or pattern[-1:] != [wildcard]:
                pattern.append(wildcard)
        elif pattern and isinstance(pattern[-1], str):
            pattern[-1] += literal
        else:
            pattern.append(literal)
    _check_windows_path(text, position)
    return tuple(pattern)


def _check_windows_path(text: str, position: int) -> None:
    r"""Reject ``C:\videos\%``, which would mean the percent sign, and was hardly meant so."""
    if re.match(r"([A-Za-z]:|\\)\\", text) and re.search(r"(?<!\\)(\\\\)*\\%$", text):
        example = text[:-1].replace("\\", "\\\\") + "\\\\%"
        raise InvalidPartError(position, f'\\% is the character % and not a wildcard: write "{example}"')


_HINTS = {
    "=": "write == to compare",
    "&": "write and",
    "|": "write or",
    ".": 'write a["b"] for the key b of the field a',
}


def _explain_character(text: str, position: int) -> str:
    character = text[position]
    if character in "\"'":
        return f"the string that begins with {character} does not end"
    number = re.match(r"\d\w*", text[position:])
    if number:
        return f"{number[0]} is neither a number nor a name"
    hint = _HINTS.get(character)
    return f"unexpected {character!r}" + (f": {hint}" if hint else "")


# What a parser's state accepts, by the first terminal that it has.
_EXPECTATIONS = (
    ("NAME", "expected a field or a value"),
    ("COMPARE", "expected a comparison, such as < or ==, or and, or"),
    ("_NULL", "expected null or not null after is"),
    ("LSQB", "expected a key in square brackets"),
    ("STRING", 'expected a key, such as "city", or an index, such as 0'),
    ("_IN", "expected in or like after not"),
    ("COMMA", "expected a comma or a closing bracket"),
    ("RSQB", "expected a closing bracket"),
    ("RPAR", "expected and, or"),
    ("_OR", "expected and, or"),
)


def _explain_token(text: str, error: Any) -> str:
    accepted = {*(error.accepts or error.expected)}
    expectation = next((words for terminal, words in _EXPECTATIONS if terminal in accepted), "expected something else")
    if "RPAR" in accepted and "NAME" not in accepted:
        expectation += " or a closing bracket"
    if error.token.type == "$END":
        return f"{expectation}, but the filter ends here"
    if error.token.type == "_NULL":
        return f"{expectation}: to find rows without a field, write: duration is null"
    if text[error.token.start_pos - 1 : error.token.start_pos + 1] == "<>":
        return "<> is not a comparison: write !="
    return f"{expectation}, not {error.token[:40]!r}"


_parser: Any = Lark(_GRAMMAR, parser="lalr", lexer="basic", propagate_positions=True, maybe_placeholders=False)
_builder = _Builder()
