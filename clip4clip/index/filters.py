"""Check the filter of a search, its field names and kinds of values, and translate its dates for Milvus."""

from __future__ import annotations

import ast
import difflib
import logging
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

from ..errors import MissingExtraError, VideoIndexError

try:
    from lark import Lark, Token, Tree
    from lark.exceptions import UnexpectedInput
except ImportError as error:  # pragma: no cover
    raise MissingExtraError("a filter needs lark: pip install 'towhee-clip4clip[retrieval]'") from error

logger = logging.getLogger(__name__)

DATE_FIELD = "modified"  # the name that a filter uses for MTIME_FIELD, which holds nanoseconds since 1970
MTIME_FIELD = "mtime"
DATE_EXAMPLE = f'{DATE_FIELD} > "2025-06-01"'
MAX_INTEGER = 2**63 - 1

# Accepts more than any one version of Milvus does. A filter that does not match is passed on: Milvus reports the error.
_GRAMMAR = r"""
    ?start: conjunction (_OR conjunction)*
    ?conjunction: negation (_AND negation)*
    ?negation: _NOT negation | condition
    ?condition: sum
        | sum (COMPARE sum)+        -> comparison
        | sum IN sum                -> membership
        | sum _NOT IN sum           -> exclusion
        | sum LIKE sum              -> match
        | sum _IS _NOT? _NULL       -> presence
        | _EXISTS sum               -> presence
    ?sum: operand | operand ((_SIGN | _ARITHMETIC) operand)+ -> arithmetic
    ?operand: _SIGN operand -> signed
        | "(" start ")"     -> parenthesis
        | STRING | NUMBER | BOOLEAN | field | path | call | list | typed | template
    field: NAME | META "[" STRING "]"
    path: field ("[" (STRING | NUMBER) "]")+
    call: NAME "(" [start ("," start)*] ")"
    list: "[" [start ("," start)* ","?] "]"
    typed: NAME STRING
    template: "{" NAME "}"

    _OR.2: /or\b/i | "||"
    _AND.2: /and\b/i | "&&"
    _NOT.2: /not\b/i | /!(?!=)/
    IN.2: /in\b/i
    LIKE.2: /like\b/i
    _IS.2: /is\b/i
    _NULL.2: /null\b/i
    _EXISTS.2: /exists\b/i
    BOOLEAN.2: /(true|false)\b/i
    COMPARE: /[=!<>]=|[<>]/
    _SIGN: /[-+~]/
    _ARITHMETIC.2: /\*\*|<<|>>|[*\/%^]|&(?!&)|\|(?!\|)/
    META: "$meta"
    NAME: /[^\W\d]\w*/
    STRING: /"(\\.|[^"\\])*"|'(\\.|[^'\\])*'/s
    NUMBER: /0[xX][0-9a-fA-F]+|(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?/
    %ignore /\s+/
"""
_parser = Lark(_GRAMMAR, parser="lalr", propagate_positions=True)

_TOKEN_KINDS = {"STRING": "string", "NUMBER": "number", "BOOLEAN": "boolean"}
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_CONDITIONS = ("comparison", "membership", "exclusion", "match", "presence")

# Takes a field and the kind that it is compared with, or None. Returns the kinds of the values that videos have in the
# field: an empty set if no video has the field, None if the kinds cannot be known.
Lookup = Callable[[str, "str | None"], "set[str] | None"]


def translate_filter(
    text: str, lookup: Lookup, names: Callable[[], Iterable[str]], has_dates: bool = True, strict: bool = False
) -> str:
    """Return a filter in the syntax of Milvus. Only comparisons of ``modified`` with dates are changed.

    A date means the whole day; a date with a time means the whole minute, second or microsecond. ``==`` is true within
    it, ``>`` after its end, and ``>=`` from its beginning.

    Args:
        text: the filter.
        lookup: function that returns the kinds of values in a field.
        names: function that returns the fields that videos have, for messages; empty for an index without videos.
        has_dates: whether ``modified`` means the time in ``mtime``.
        strict: raise an error for a field that no video has, rather than log a warning.

    Raises:
        VideoIndexError: a field is compared with a value of another kind, a date is invalid, or an integer has more
            than 64 bits.
    """
    try:
        tree: Any = _parser.parse(text)
    except UnexpectedInput:
        return text  # Milvus reports the error, or understands more than this grammar
    if isinstance(tree, Token):
        return text
    _check_integers(tree)
    # If videos have a field of their own that is called "modified", the name means that field.
    if has_dates and any(map(_is_date_field, tree.find_data("field"))) and lookup(DATE_FIELD, None):
        has_dates = False
    edits: list[tuple[int, int, str]] = []  # start, end, replacement
    translated: set[int] = set()  # id() of the nodes in these edits
    for node in tree.iter_subtrees():
        operands = [_unwrap(child) for child in node.children]
        if node.data in _CONDITIONS and has_dates and any(map(_is_date_field, operands)):
            edits.append((node.meta.start_pos, node.meta.end_pos, _translate_dates(node, operands, text)))
            translated.update(map(id, operands))
        elif node.data in _CONDITIONS and node.data != "presence":
            for field, operator, value in _comparisons(node, operands):
                _check_kind(field, operator, value, lookup)
        elif node.data == "arithmetic":
            for field in filter(_is_field, operands):
                if not (has_dates and _is_date_field(field)):
                    _check_number(field, lookup)
    if has_dates and any(_is_date_field(node) and id(node) not in translated for node in tree.find_data("field")):
        raise _date_error(f"uses {DATE_FIELD} outside of a comparison")
    _check_names(tree, lookup, names, has_dates, strict)
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    return text


def parse_date(text: str) -> tuple[int, int]:
    """Return the beginning and the end of a day, minute, second or microsecond, in nanoseconds since 1970.

    Args:
        text: ``2025-06-01``, ``2025-06-01 14:30``, ``2025-06-01T14:30:05`` or ``2025-06-01T14:30:05.25``, in the local
            time zone or followed by one, such as ``Z`` or ``+02:00``.

    Raises:
        ValueError: the text has another form, or the date is out of range.
    """
    text = text.strip().replace(" ", "T", 1)
    for form, unit in _DATE_FORMS.items():
        for zone in ("", "%z"):
            try:
                begin = datetime.strptime(text, form + zone)
            except ValueError:
                continue
            try:
                return _nanoseconds(begin), _nanoseconds(begin + unit)
            except (OverflowError, OSError, ValueError) as error:
                raise ValueError("which is out of range") from error
    raise ValueError("which is not a date")


_DATE_FORMS = {
    "%Y-%m-%d": timedelta(days=1),
    "%Y-%m-%dT%H:%M": timedelta(minutes=1),
    "%Y-%m-%dT%H:%M:%S": timedelta(seconds=1),
    "%Y-%m-%dT%H:%M:%S.%f": timedelta(microseconds=1),
}


def _nanoseconds(moment: datetime) -> int:
    since = moment.astimezone(timezone.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return max(-MAX_INTEGER, min(since // timedelta(microseconds=1) * 1000, MAX_INTEGER))


def quote(text: str) -> str:
    """Return a text as a string literal for a filter, with the only escapes that milvus-lite supports."""
    return '"' + text.translate(_ESCAPES) + '"'


_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


def _unwrap(node: Any) -> Any:
    """Return a node without the parentheses around it."""
    while isinstance(node, Tree) and node.data == "parenthesis":
        node = node.children[0]
    return node


def _is_field(node: Any) -> bool:
    return isinstance(node, Tree) and node.data == "field"


def _is_date_field(node: Any) -> bool:
    return _is_field(node) and _field_name(node) == DATE_FIELD


def _field_name(field: Any) -> str:
    token = field.children[-1]
    return _unquote(token) if token.type == "STRING" else str(token)


def _unquote(literal: str) -> str:
    try:
        return str(ast.literal_eval(literal))
    except (ValueError, SyntaxError):
        return literal[1:-1]


def _kind_of(node: Any) -> str | None:
    """Return the kind of a value, or None if only Milvus knows it."""
    if isinstance(node, Token):
        return _TOKEN_KINDS.get(node.type)
    return "number" if node.data in ("arithmetic", "signed") else None


def _check_integers(tree: Any) -> None:
    for node in tree.iter_subtrees():
        for token in node.children:
            is_integer = isinstance(token, Token) and token.type == "NUMBER" and token.isdecimal()
            if is_integer and len(token.lstrip("0")) > 19:
                raise VideoIndexError(f"the filter has the integer {_short(token)}, which does not fit into 64 bits")


def _comparisons(node: Any, operands: list[Any]) -> Iterable[tuple[Any, str, Any]]:
    """Yield field, operator and value for each field that a condition compares with a value."""
    if node.data == "comparison":
        for left, operator, right in _operator_pairs(operands):
            if _is_field(left):
                yield left, operator, right
            elif _is_field(right):
                yield right, _MIRRORED.get(operator, operator), left
    elif _is_field(operands[0]):
        values = operands[2:] if node.data == "match" else _list_items(operands[2])
        one_of_each_kind = {_kind_of(value): value for value in values}
        for value in one_of_each_kind.values():
            yield operands[0], str(operands[1]), value


def _operator_pairs(operands: list[Any]) -> Iterable[tuple[Any, str, Any]]:
    """Yield left side, operator and right side of each step of a comparison such as ``0 < duration <= 60``."""
    for left, operator, right in zip(operands[::2], operands[1::2], operands[2::2], strict=False):
        yield left, str(operator), right


def _list_items(node: Any) -> list[Any]:
    """Return the values of a list; an empty list for any other node, which only Milvus can check."""
    is_list = isinstance(node, Tree) and node.data == "list"
    return [_unwrap(item) for item in node.children if item is not None] if is_list else []


def _check_kind(field: Any, operator: str, value: Any, lookup: Lookup) -> None:
    """Raise VideoIndexError if videos have values in the field, but none of that kind."""
    name, kind = _field_name(field), _kind_of(value)
    kinds = lookup(name, kind) if kind else None
    if not kind or not kinds or kind in kinds:
        return
    example = _example(name, operator.lower(), min(kinds), _short(value))
    raise VideoIndexError(
        f"the filter compares {name}, which is {_alternatives(kinds)}, with the {kind} {_short(value)}: write {example}"
    )


def _check_number(field: Any, lookup: Lookup) -> None:
    name = _field_name(field)
    kinds = lookup(name, "number")
    if kinds and "number" not in kinds:
        raise VideoIndexError(f"the filter computes with {name}, which is {_alternatives(kinds)} and not a number")


def _alternatives(kinds: set[str]) -> str:
    return " or ".join(f"an {kind}" if kind == "object" else f"a {kind}" for kind in sorted(kinds))


def _short(value: Any) -> str:
    """Return a value for a message."""
    if not isinstance(value, Token):
        return "of an expression"
    return value if len(value) <= 100 else f"{value[:100]}…"


def _example(name: str, operator: str, kind: str, literal: str) -> str:
    """Return a correct comparison with a field of this kind, using the value in the filter where it fits."""
    content = _unquote(literal) if literal[:1] in ("'", '"') else literal
    if name == MTIME_FIELD:
        return f"nanoseconds since 1970, or a date as in {DATE_EXAMPLE}"
    if kind == "object":
        return f'{name}["key"] == {literal}'
    if kind == "list":
        return f"json_contains({name}, {literal})"
    if kind == "string":
        value = f'"{content}"'
    elif kind == "boolean":
        value = "true"
    else:
        value = content if re.fullmatch(r"-?\d+(\.\d+)?", content) else "60"
    return f"{name} in [{value}]" if operator == "in" else f"{name} {'==' if operator == 'like' else operator} {value}"


def _translate_dates(node: Any, operands: list[Any], text: str) -> str:
    """Return a condition on ``modified`` as a condition on ``mtime``."""
    if node.data == "presence":
        field = operands[0].meta
        return text[node.meta.start_pos : field.start_pos] + MTIME_FIELD + text[field.end_pos : node.meta.end_pos]
    if node.data == "match":
        raise _date_error(f"compares {DATE_FIELD} by like")
    if node.data in ("membership", "exclusion"):
        if not _is_date_field(operands[0]) or (isinstance(operands[2], Token) or operands[2].data != "list"):
            raise _date_error(f"looks for {DATE_FIELD} in something other than a list")
        operator, word = ("==", " or ") if node.data == "membership" else ("!=", " and ")
        conditions = [_translate_date(operator, value) for value in _list_items(operands[2])]
        empty = f"{MTIME_FIELD} {'in' if operator == '==' else 'not in'} []"
        return f"({word.join(conditions)})" if conditions else empty
    conditions = []
    for left, operator, right in _operator_pairs(operands):
        if _is_date_field(left):
            conditions.append(_translate_date(operator, right))
        elif _is_date_field(right):
            conditions.append(_translate_date(_MIRRORED.get(operator, operator), left))
        else:
            raise _date_error(f"compares other values in one chain with {DATE_FIELD}")
    return f"({' and '.join(conditions)})"


def _translate_date(operator: str, value: Any) -> str:
    if _kind_of(value) != "string":
        raise _date_error(f"compares {DATE_FIELD} with {value if isinstance(value, Token) else 'an expression'}")
    try:
        start, end = parse_date(_unquote(value))
    except ValueError as error:
        raise _date_error(f"compares {DATE_FIELD} with {_short(value)}, {error}") from error
    return {
        "<": f"{MTIME_FIELD} < {start}",
        "<=": f"{MTIME_FIELD} < {end}",
        ">": f"{MTIME_FIELD} >= {end}",
        ">=": f"{MTIME_FIELD} >= {start}",
        "==": f"({MTIME_FIELD} >= {start} and {MTIME_FIELD} < {end})",
        "!=": f"({MTIME_FIELD} < {start} or {MTIME_FIELD} >= {end})",
    }[operator]


def _date_error(problem: str) -> VideoIndexError:
    return VideoIndexError(
        f'the filter {problem}: {DATE_FIELD} is a date, write {DATE_EXAMPLE} or "2025-06-01T14:30:00+02:00"'
    )


def _check_names(tree: Any, lookup: Lookup, names: Callable[[], Iterable[str]], has_dates: bool, strict: bool) -> None:
    """Report the fields of a filter that no video has: as an error if ``strict``, else as a warning."""
    fields = dict.fromkeys(
        MTIME_FIELD if has_dates and _is_date_field(node) else _field_name(node) for node in tree.find_data("field")
    )
    for name in fields:
        if lookup(name, None) != set():
            continue
        existing = {*names()}
        if not existing:  # the index has no videos
            continue
        if has_dates and MTIME_FIELD in existing:
            existing.add(DATE_FIELD)
        message = _unknown_field(name, existing)
        if strict:
            raise VideoIndexError(message)
        logger.warning("%s", message)


def _unknown_field(name: str, existing: set[str]) -> str:
    similar = difflib.get_close_matches(name, existing, 1)
    hint = f"did you mean {similar[0]}?" if similar else f"the fields are {', '.join(sorted(existing))}"
    return f"the filter has the field {name}, but no video in the index does: {hint}"
