"""Parse the filter of a search, check its field names and kinds of values, and resolve its dates."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

from ...errors import FilterError
from .arithmetic import MAX_INTEGER
from .errors import point_at
from .tree import (
    And,
    Chain,
    Comparison,
    Condition,
    Contains,
    Draft,
    Exclusion,
    Field,
    Leaf,
    Match,
    Membership,
    Not,
    Or,
    Presence,
    Rejected,
    Remainder,
    Value,
    iterate_leaves,
)

logger = logging.getLogger(__name__)

DATE_FIELD = "modified"  # the name that a filter uses for MTIME_FIELD, which holds nanoseconds since 1970
MTIME_FIELD = "mtime"
DATE_EXAMPLE = f'{DATE_FIELD} > "2025-06-01"'
MAX_RESOLVED_CONDITIONS = 600  # SQLite may be built for 999 parameters

# Takes a field and the kind that it is compared with, or None. Returns the kinds of the values that videos have in the
# field: an empty set if no video has the field, None if the kinds cannot be known.
Lookup = Callable[[str, "str | None"], "set[str] | None"]


def parse_filter(
    text: str, lookup: Lookup, names: Callable[[], Iterable[str]], has_dates: bool = True, strict: bool = False
) -> Condition | None:
    """Return the tree of a filter, checked, and with its dates as conditions on ``mtime``; None for a blank filter.

    A date means the whole day; a date with a time means the whole minute, second or microsecond. ``==`` is true within
    it, ``>`` after its end, and ``>=`` from its beginning.

    Args:
        text: the filter.
        lookup: function that returns the kinds of values in a field.
        names: function that returns the fields that videos have, for messages; empty for an index without videos.
        has_dates: whether ``modified`` means the time in ``mtime``.
        strict: raise an error for a field that no video has, rather than log a warning.

    Raises:
        FilterError: the filter is invalid, a field is compared with a value of another kind, or a date is invalid.
        MissingExtraError: lark is not installed.
    """
    if not text.strip():
        return None
    from .grammar import parse_text  # slow to import, and most searches have no filter

    draft = parse_text(text)
    # If videos have a field of their own that is called "modified", the name means that field.
    if has_dates and any(map(_is_date, _fields(draft))) and lookup(DATE_FIELD, None):
        has_dates = False
    condition = _resolve(draft, text, has_dates)
    if (count := sum(1 for _ in iterate_leaves(condition))) > MAX_RESOLVED_CONDITIONS:
        raise FilterError(
            f"the filter has {count} conditions, of which a date takes two, but at most {MAX_RESOLVED_CONDITIONS} are "
            "possible: write a range of dates"
        )
    for leaf in iterate_leaves(condition):
        _check_kinds(leaf, lookup)
    _check_names(condition, lookup, names, has_dates, strict)
    return condition


def _fields(draft: Draft) -> Iterable[Field]:
    for leaf in iterate_leaves(draft):
        yield from leaf.fields if isinstance(leaf, Rejected) else [leaf.field]


def _is_date(field: Field) -> bool:
    return field.name == DATE_FIELD


def _resolve(draft: Draft, text: str, has_dates: bool) -> Condition:
    """Return a parsed filter without its dates and chains; raise FilterError for what is not in the language."""
    if (
        isinstance(draft, Exclusion)
        and has_dates
        and isinstance(draft.condition, Membership)
        and _is_date(draft.condition.field)
    ):
        return _resolve_exclusion(draft.condition)
    if isinstance(draft, Not):
        return Not(_resolve(draft.condition, text, has_dates))
    if isinstance(draft, And | Or):
        kind = And if isinstance(draft, Chain) else type(draft)
        return kind(tuple(_resolve(part, text, has_dates) for part in draft.conditions))
    if has_dates and any(map(_is_date, draft.fields if isinstance(draft, Rejected) else [draft.field])):
        return _resolve_dates(draft)
    if isinstance(draft, Rejected):
        raise point_at(text, draft.position, draft.problem)
    return draft


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
    """Return a text as a string literal for a filter."""
    return '"' + text.translate(_ESCAPES) + '"'


_CONTROL_CHARACTERS = {code: f"\\u{code:04x}" for code in (*range(1, 32), 127)}
_ESCAPES = str.maketrans(_CONTROL_CHARACTERS | {"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


def _check_kinds(leaf: Leaf, lookup: Lookup) -> None:
    """Raise FilterError if videos have values in the field, but none of the kind that it is compared with."""
    if leaf.field.keys:
        return
    if isinstance(leaf, Remainder) or (isinstance(leaf, Comparison) and leaf.is_computed):
        _check_number(leaf.field, lookup)
    elif isinstance(leaf, Comparison):
        _check_kind(leaf.field, leaf.operator, leaf.value, lookup)
    elif isinstance(leaf, Membership):
        one_of_each_kind = {value.kind: value for value in leaf.values}
        for value in one_of_each_kind.values():
            _check_kind(leaf.field, "in", value, lookup)
    elif isinstance(leaf, Match) and leaf.value:
        _check_kind(leaf.field, "like", leaf.value, lookup)


def _check_kind(field: Field, operator: str, value: Value, lookup: Lookup) -> None:
    kinds = lookup(field.name, value.kind)
    if not kinds or value.kind in kinds:
        return
    literal = _short(value)
    raise FilterError(
        f"the filter compares {field.name}, which is {_alternatives(kinds)}, with the {value.kind} {literal}: write "
        + _example(field.name, operator, min(kinds), value)
    )


def _check_number(field: Field, lookup: Lookup) -> None:
    kinds = lookup(field.name, "number")
    if kinds and "number" not in kinds:
        raise FilterError(f"the filter computes with {field.name}, which is {_alternatives(kinds)} and not a number")


def _alternatives(kinds: set[str]) -> str:
    return " or ".join(f"an {kind}" if kind == "object" else f"a {kind}" for kind in sorted(kinds))


def _short(value: Value) -> str:
    """Return a value for a message."""
    return value.text if len(value.text) <= 100 else f"{value.text[:100]}…"


def _example(name: str, operator: str, kind: str, value: Value) -> str:
    """Return a correct comparison with a field of this kind, using the value in the filter where it fits."""
    content, literal = str(value.value), _short(value)
    if name == MTIME_FIELD:
        return f"nanoseconds since 1970, or a date as in {DATE_EXAMPLE}"
    if kind == "object":
        return f'{name}["key"] == {literal}'
    if kind == "list":
        return f"json_contains({name}, {literal})"
    if kind == "string":
        example = f'"{content[:100]}"'
    elif kind == "boolean":
        example = "true"
    else:
        example = content if re.fullmatch(r"-?\d{1,100}(\.\d{1,100})?", content) else "60"
    if operator == "in":
        return f"{name} in [{example}]"
    is_ordered = kind != "boolean" and operator != "like"
    return f"{name} {operator if is_ordered or operator == '!=' else '=='} {example}"


def _resolve_dates(leaf: Any) -> Condition:
    """Return a condition on ``modified`` as a condition on ``mtime``."""
    if isinstance(leaf, Rejected):
        raise _date_error(leaf.date_problem.format(DATE_FIELD))
    mtime = Field(MTIME_FIELD, (), leaf.field.position)
    if leaf.field.keys or isinstance(leaf, Contains | Remainder) or getattr(leaf, "is_computed", False):
        raise _date_error(f"uses {DATE_FIELD} outside of a comparison")
    if isinstance(leaf, Match):
        raise _date_error(f"compares {DATE_FIELD} by like")
    if isinstance(leaf, Presence):
        return Presence(mtime)
    if isinstance(leaf, Membership):
        return (
            Or(tuple(_resolve_date(mtime, "==", value) for value in leaf.values))
            if leaf.values
            else Membership(mtime, ())
        )
    return _resolve_date(mtime, leaf.operator, leaf.value)


def _resolve_exclusion(leaf: Membership) -> Condition:
    """Return ``modified not in [...]`` as a condition that, like ``!=``, is false for a row without a time."""
    mtime = Field(MTIME_FIELD, (), leaf.field.position)
    return (
        And(tuple(_resolve_date(mtime, "!=", value) for value in leaf.values))
        if leaf.values
        else Not(Membership(mtime, ()))
    )


def _resolve_date(mtime: Field, operator: str, value: Value) -> Condition:
    if value.kind != "string":
        raise _date_error(f"compares {DATE_FIELD} with {_short(value)}")
    try:
        start, end = parse_date(str(value.value))
    except ValueError as error:
        raise _date_error(f"compares {DATE_FIELD} with {_short(value)}, {error}") from error
    begins = Comparison(mtime, ">=", Value(start, str(start)))
    ends = Comparison(mtime, "<", Value(end, str(end)))
    before = Comparison(mtime, "<", Value(start, str(start)))
    after = Comparison(mtime, ">=", Value(end, str(end)))
    results: dict[str, Condition] = {
        "<": before,
        "<=": ends,
        ">": after,
        ">=": begins,
        "==": And((begins, ends)),
        "!=": Or((before, after)),
    }
    return results[operator]


def _date_error(problem: str) -> FilterError:
    return FilterError(
        f'the filter {problem}: {DATE_FIELD} is a date, write {DATE_EXAMPLE} or "2025-06-01T14:30:00+02:00"'
    )


def _check_names(
    condition: Condition, lookup: Lookup, names: Callable[[], Iterable[str]], has_dates: bool, strict: bool
) -> None:
    """Report the fields of a filter that no video has: as an error if ``strict``, else as a warning."""
    for name in dict.fromkeys(leaf.field.name for leaf in iterate_leaves(condition)):
        if lookup(name, None) != set():
            continue
        existing = {*names()}
        if not existing:  # the index has no videos
            continue
        if has_dates and MTIME_FIELD in existing:
            existing.add(DATE_FIELD)
        message = _unknown_field(name, existing)
        if strict:
            raise FilterError(message)
        logger.warning("%s", message)


def _unknown_field(name: str, existing: set[str]) -> str:
    similar = difflib.get_close_matches(name, existing, 1)
    hint = f"did you mean {similar[0]}?" if similar else f"the fields are {', '.join(sorted(existing))}"
    return f"the filter has the field {name}, but no video in the index does: {hint}"
