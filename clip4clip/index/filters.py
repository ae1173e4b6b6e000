"""Filters of a search: wrong kinds, unknown fields and dates are dealt with here, all else is up to Milvus."""

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

DATE_FIELD = "modified"  # what a filter calls the time in STORED_AS, nanoseconds since 1970
STORED_AS = "mtime"
DATE_EXAMPLE = f'{DATE_FIELD} > "2025-06-01"'
MAX_INTEGER = 2**63 - 1

# Wider than what any one Milvus understands. What is not even in here is for Milvus to answer.
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

_KINDS = {"STRING": "string", "NUMBER": "number", "BOOLEAN": "boolean"}  # of tokens
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}

# Kinds of values that the videos of an index have in a field, given the kind that it is compared with, if any; empty
# when no video has the field, None when that cannot be known.
Lookup = Callable[[str, str | None], "set[str] | None"]


def translate_filter(
    text: str, lookup: Lookup, names: Callable[[], Iterable[str]], has_dates: bool = True, strict: bool = False
) -> str:
    """Return a filter as Milvus understands it: as it is, but for comparisons of ``modified`` with dates.

    A date stands for the whole day, a date-time for the whole minute, second or microsecond that it names: ``==`` is
    true within it, ``>`` after it, ``>=`` from its beginning on.

    Args:
        text: the filter.
        lookup: which kinds of values a field has.
        names: the fields that videos have, for a message; empty for an index without videos.
        has_dates: whether ``modified`` is the time in ``mtime``.
        strict: refuse a field that no video has, rather than warn.

    Raises:
        VideoIndexError: for a field that is compared with a value of another kind, what is not a date, and an integer
            of more than 64 bits.
    """
    try:
        tree: Any = _parser.parse(text)
    except UnexpectedInput:
        return text  # Milvus says what is wrong, or knows more than we do
    if isinstance(tree, Token):
        return text
    for token in (child for node in tree.iter_subtrees() for child in node.children if isinstance(child, Token)):
        if token.type == "NUMBER" and token.isdecimal() and len(token.lstrip("0")) > 19:
            raise VideoIndexError(f"the filter has the integer {_shown(token)}, which does not fit into 64 bits")
    # A field of the name that somebody has added is theirs.
    dates = has_dates and any(map(_is_date, tree.find_data("field"))) and not lookup(DATE_FIELD, None)
    edits: list[tuple[int, int, str]] = []
    edited: set[int] = set()
    fields: dict[str, None] = {}
    for node in tree.iter_subtrees():
        if node.data in ("comparison", "membership", "exclusion", "match", "presence"):
            operands = [_inner(child) for child in node.children]
            if dates and any(_is_date(each) for each in operands):
                edits.append((node.meta.start_pos, node.meta.end_pos, _on_dates(node, operands, text)))
                edited.update(map(id, operands))
            elif node.data != "presence":
                for field, operator, value in _comparisons(node, operands):
                    _check_kind(field, operator, value, lookup)
        elif node.data == "arithmetic":
            for each in map(_inner, node.children):
                if _is_field(each) and not (dates and _is_date(each)):
                    _check_number(each, lookup)
    for node in tree.find_data("field"):
        if dates and _is_date(node):
            fields[STORED_AS] = None
            if id(node) not in edited:
                raise _not_a_date(f"uses {DATE_FIELD} in another way than to compare it")
        else:
            fields[_name(node)] = None
    for name in fields:
        if lookup(name, None) == set():
            known = {*names()}
            _unknown(name, known | {DATE_FIELD} if has_dates and STORED_AS in known else known, strict)
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    return text


def parse_date(text: str) -> tuple[int, int]:
    """Return the beginning and the end of a day, minute, second or microsecond, in nanoseconds since 1970.

    Args:
        text: ``2025-06-01``, ``2025-06-01 14:30``, ``2025-06-01T14:30:05`` or ``…05.25``, each in the local time zone
            or with one, such as ``Z`` or ``+02:00``.

    Raises:
        ValueError: for anything else.
    """
    given = text.strip().replace(" ", "T", 1)
    for form, unit in _DATE_FORMS.items():
        for zone in ("", "%z"):
            try:
                begin = datetime.strptime(given, form + zone)
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


def _inner(node: Any) -> Any:
    """A part of the filter without the parentheses around it."""
    while isinstance(node, Tree) and node.data == "parenthesis":
        node = node.children[0]
    return node


def _is_field(node: Any) -> bool:
    return isinstance(node, Tree) and node.data == "field"


def _is_date(node: Any) -> bool:
    return _is_field(node) and _name(node) == DATE_FIELD


def _name(field: Any) -> str:
    token = field.children[-1]
    return _unquoted(token) if token.type == "STRING" else str(token)


def _unquoted(token: str) -> str:
    try:
        return str(ast.literal_eval(token))
    except (ValueError, SyntaxError):
        return token[1:-1]


def _kind(node: Any) -> str | None:
    """The kind of a value; None for what only Milvus knows."""
    if isinstance(node, Token):
        return _KINDS.get(node.type)
    return "number" if node.data in ("arithmetic", "signed") else None


def _comparisons(node: Any, operands: list[Any]) -> Iterable[tuple[Any, str, Any]]:
    """The fields of a condition that are compared with values: field, operator, value."""
    if node.data == "comparison":
        for left, operator, right in zip(operands[::2], operands[1::2], operands[2::2], strict=False):
            if _is_field(left):
                yield left, str(operator), right
            elif _is_field(right):
                yield right, _FLIPPED.get(operator, str(operator)), left
    elif _is_field(operands[0]):
        values = _items(operands[2]) if node.data != "match" else operands[2:]
        for value in {_kind(each): each for each in values}.values():
            yield operands[0], str(operands[1]), value


def _items(node: Any) -> list[Any]:
    """The values in a list; nothing for a list that only Milvus knows."""
    is_list = isinstance(node, Tree) and node.data == "list"
    return [_inner(each) for each in node.children if each is not None] if is_list else []


def _check_kind(field: Any, operator: str, value: Any, lookup: Lookup) -> None:
    name, kind = _name(field), _kind(value)
    has = lookup(name, kind) if kind else None
    if not kind or not has or kind in has:
        return
    form = _form(name, operator.lower(), min(has), _shown(value))
    raise VideoIndexError(
        f"the filter compares {name}, which is {_either(has)}, with the {kind} {_shown(value)}: write {form}"
    )


def _check_number(field: Any, lookup: Lookup) -> None:
    name = _name(field)
    has = lookup(name, "number")
    if has and "number" not in has:
        raise VideoIndexError(f"the filter computes with {name}, which is {_either(has)} and not a number")


def _either(kinds: set[str]) -> str:
    return " or ".join(f"an {kind}" if kind == "object" else f"a {kind}" for kind in sorted(kinds))


def _shown(value: Any) -> str:
    """A value in a message."""
    if not isinstance(value, Token):
        return "of an expression"
    return value if len(value) <= 100 else f"{value[:100]}…"


def _form(name: str, operator: str, kind: str, literal: str) -> str:
    """How to compare a field of this kind, perhaps with the value that was meant."""
    meant = _unquoted(literal) if literal[:1] in ("'", '"') else literal
    if name == STORED_AS:
        return f"nanoseconds since 1970, or a date as in {DATE_EXAMPLE}"
    if kind == "object":
        return f'{name}["key"] == {literal}'
    if kind == "list":
        return f"json_contains({name}, {literal})"
    if kind == "string":
        value = f'"{meant}"'
    elif kind == "boolean":
        value = "true"
    else:
        value = meant if re.fullmatch(r"-?\d+(\.\d+)?", meant) else "60"
    return f"{name} in [{value}]" if operator == "in" else f"{name} {'==' if operator == 'like' else operator} {value}"


def _on_dates(node: Any, operands: list[Any], text: str) -> str:
    """A condition on ``modified`` as one on ``mtime``."""
    if node.data == "presence":
        start, end = node.meta.start_pos, node.meta.end_pos
        at = operands[0].meta
        return text[start : at.start_pos] + STORED_AS + text[at.end_pos : end]
    if node.data == "match":
        raise _not_a_date(f"compares {DATE_FIELD} by like")
    if node.data in ("membership", "exclusion"):
        if not _is_date(operands[0]) or (isinstance(operands[2], Token) or operands[2].data != "list"):
            raise _not_a_date(f"looks for {DATE_FIELD} in something else than a list")
        operator, word = ("==", " or ") if node.data == "membership" else ("!=", " and ")
        each = [_on_date(operator, value) for value in _items(operands[2])]
        return f"({word.join(each)})" if each else f"{STORED_AS} {'in' if operator == '==' else 'not in'} []"
    pairs: list[str] = []
    for left, operator, right in zip(operands[::2], operands[1::2], operands[2::2], strict=False):
        if _is_date(left):
            pairs.append(_on_date(str(operator), right))
        elif _is_date(right):
            pairs.append(_on_date(_FLIPPED.get(operator, str(operator)), left))
        else:
            raise _not_a_date(f"compares {DATE_FIELD} together with something else")
    return f"({' and '.join(pairs)})"


def _on_date(operator: str, value: Any) -> str:
    if _kind(value) != "string":
        raise _not_a_date(f"compares {DATE_FIELD} with {value if isinstance(value, Token) else 'an expression'}")
    try:
        start, end = parse_date(_unquoted(value))
    except ValueError as error:
        raise _not_a_date(f"compares {DATE_FIELD} with {_shown(value)}, {error}") from error
    return {
        "<": f"{STORED_AS} < {start}",
        "<=": f"{STORED_AS} < {end}",
        ">": f"{STORED_AS} >= {end}",
        ">=": f"{STORED_AS} >= {start}",
        "==": f"({STORED_AS} >= {start} and {STORED_AS} < {end})",
        "!=": f"({STORED_AS} < {start} or {STORED_AS} >= {end})",
    }[operator]


def _not_a_date(wrong: str) -> VideoIndexError:
    return VideoIndexError(
        f'the filter {wrong}: {DATE_FIELD} is a date, write {DATE_EXAMPLE} or "2025-06-01T14:30:00+02:00"'
    )


def _unknown(name: str, names: set[str], strict: bool) -> None:
    if not names:  # nor has the index any video
        return
    near = difflib.get_close_matches(name, names, 1)
    meant = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(sorted(names))}"
    message = f"no video of the index has the field {name} that the filter names: {meant}"
    if strict:
        raise VideoIndexError(message)
    logger.warning("%s", message)
