"""The kinds of values in the fields of a collection, to check filters before they are run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..collection import CollectionInfo
from ..values import NUMBER_FIELDS, kind_of
from .parse import parse_filter, quote
from .tree import Condition

SAMPLE_ROWS = 100
# Kinds of the fields that come from a table, used as long as no video in the index has a value in them.
TABLE_KINDS = dict.fromkeys(NUMBER_FIELDS, "number")
# Filters for the rows that have a value of a kind in a field. There is no such filter for lists and objects.
KIND_FILTERS = {
    "string": '{0} >= ""',
    "number": "{0} > 0 or {0} <= 0",
    "boolean": "{0} == true or {0} == false",
}

Query = Callable[[str, list[str], int], list[dict[str, Any]]]


class FieldKinds:
    """Look up the kinds of values in fields, and remember those that were seen.

    Args:
        query: function that takes a filter, names of fields and a number of rows, and returns matching rows.
    """

    def __init__(self, query: Query) -> None:
        self._query = query
        self._seen: dict[str, set[str]] = {}  # of fields that are not in the collection's schema

    def parse(self, text: str, info: CollectionInfo, *, strict: bool = False, warn: bool = True) -> Condition | None:
        """Return the tree of a filter; see :func:`clip4clip.index.filters.parse.parse_filter`.

        Args:
            text: the filter.
            info: metadata of the collection.
            strict: raise an error for a field that no row has.
            warn: otherwise, log a warning about such a field.
        """
        return parse_filter(
            text,
            functools.partial(self._find_kinds, info),
            functools.partial(self._find_names, info) if strict or warn else set,
            has_dates=info.spec is not None,
            strict=strict,
        )

    def _find_names(self, info: CollectionInfo) -> set[str]:
        """Return the names of the fields in a sample of rows, except vectors; empty if there are no rows."""
        rows = self._query("", ["$meta"], SAMPLE_ROWS)
        if not rows:
            return set()
        declared = info.kinds.keys() - info.dims.keys()
        if info.spec is not None:
            declared -= {"video"}  # of most videos it is the id
        return {name for row in rows for name in row if row[name] is not None} | declared

    def _find_kinds(self, info: CollectionInfo, name: str, kind: str | None) -> set[str] | None:
        """Return the kinds of values in a field; None if they cannot be known.

        Only a sample of the rows is read. However, ``kind`` is always found if any row has a value of that kind.
        """
        if name in info.dims:
            return set()  # a vector is not a field for filters
        if name in info.kinds:
            declared = info.kinds[name]
            return None if declared is None else {declared}
        if not info.is_dynamic:
            return None
        seen = self._seen.get(name, set())
        if kind in seen or (kind is None and seen):
            return seen
        field = f"$meta[{quote(name)}]"
        kinds = self._sample(name, f"exists {field}")
        if kinds and kind in KIND_FILTERS and kind not in kinds:
            kinds |= self._sample(name, KIND_FILTERS[kind].format(field)) & {kind}
        self._seen[name] = seen | kinds
        if not kinds and info.spec is not None and name in TABLE_KINDS:
            return {TABLE_KINDS[name]}
        return kinds

    def _sample(self, name: str, filter: str) -> set[str]:  # noqa: A002
        rows = self._query(filter, [name], SAMPLE_ROWS)
        return {kind_of(row[name]) for row in rows if row.get(name) is not None}
