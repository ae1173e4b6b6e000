"""Which kinds of values the fields of a collection hold, so that filters can be checked before they are run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .collection import CollectionInfo
from .filters import MTIME_FIELD, quote, translate_filter

SAMPLE_ROWS = 100
# Kinds of the fields in the rows of a table, for use while no video of the index has a value in them.
TABLE_KINDS = dict.fromkeys(("duration", "frame_count", "size", MTIME_FIELD), "number")
# Filters for the rows that have a value of that kind in a field. Lists and objects have no such filter.
KIND_FILTERS = {
    "string": '{0} >= ""',
    "number": "{0} > 0 or {0} <= 0",
    "boolean": "{0} == true or {0} == false",
}

Query = Callable[[str, list[str], int], list[dict[str, Any]]]


class FieldKinds:
    """Looks up the kinds of values in fields, and remembers those that it has seen.

    Args:
        query: (filter, names of fields, number of rows) to rows of the collection that match.
    """

    def __init__(self, query: Query) -> None:
        self._query = query
        self._seen: dict[str, set[str]] = {}  # of fields that are not in the collection's schema

    def translate(self, text: str, info: CollectionInfo, strict: bool = False) -> str:
        """Return a filter for Milvus; see :func:`clip4clip.index.filters.translate_filter`."""
        return translate_filter(
            text,
            functools.partial(self._find, info),
            functools.partial(self._names, info),
            has_dates=info.spec is not None,
            strict=strict,
        )

    def _names(self, info: CollectionInfo) -> set[str]:
        """Return the fields that a sample of rows has, other than vectors; empty for a collection without rows."""
        rows = self._query("", ["$meta"], SAMPLE_ROWS)
        if not rows:
            return set()
        return {name for row in rows for name in row if row[name] is not None} | info.kinds.keys() - info.dims.keys()

    def _find(self, info: CollectionInfo, name: str, kind: str | None) -> set[str] | None:
        """Return the kinds of values in a field; None if they cannot be known.

        Only a sample of the rows is looked at. But if any row has a value of the kind ``kind``, that kind is returned.
        """
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
        return {_kind_of(row[name]) for row in rows if row.get(name) is not None}


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "list" if isinstance(value, list) else "object"
