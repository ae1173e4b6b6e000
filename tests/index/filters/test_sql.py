"""Filters as SQL: the same rows as a model in plain Python, and nothing that a user types becomes SQL."""

from __future__ import annotations

import json
import re
import sqlite3
from random import Random

import pytest
from filter_model import FIELDS, KEYS, STRINGS, make_database, matching, parse, random_filter, random_row, select
from hypothesis import given, settings
from hypothesis import strategies as st

from clip4clip.index.filters.parse import quote
from clip4clip.index.filters.sql import COLUMNS, index_expression, json_path, to_sql

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_a_random_filter_finds_the_rows_of_the_model(seed: int) -> None:
    random = Random(seed)
    rows = [random_row(random, number) for number in range(20)]
    database = make_database(rows)
    for _ in range(10):
        text = random_filter(random)
        condition = parse(text)
        assert select(database, condition) == matching(rows, condition), text


@settings(max_examples=100, deadline=None)
@given(TEXT, TEXT, st.sampled_from([*FIELDS, *KEYS]))
def test_any_key_and_any_value_are_found_and_never_become_sql(key: str, value: str, other: str) -> None:
    rows = [
        {"id": "a", "path": "x", key: value, "nested": {key: {other: value}}},
        {"id": "b", "path": "x", "nested": {key: {other + "x": value}}},
    ]
    database = make_database([row for row in rows if key not in (*COLUMNS, "nested")])
    for field in (f"$meta[{quote(key)}]", f"nested[{quote(key)}][{quote(other)}]"):
        for text in (f"{field} == {quote(value)}", f"{field} in [{quote(value)}, 'x']", f"exists {field}"):
            sql, _ = to_sql(parse(text))
            assert re.fullmatch(r"[\w\s().,?'$\"=<>%*]+", sql, re.ASCII)
            found = select(database, parse(text))
            assert found == (["a"] if database.execute("SELECT 1 FROM rows").fetchone() else []), text


def test_a_pattern_takes_all_characters_but_two_literally() -> None:
    texts = [*STRINGS, "A", "a\n\nb", "aéb", "a/b", "[!a]", "a]b", "[1]", "x[1]", "x1"]
    rows = [{"id": str(number), "path": text, "name": text} for number, text in enumerate(texts)]
    database = make_database(rows)
    for pattern in (
        "a_b",
        "a%b",
        "%b",
        "_",
        "a*%",
        "a?%_",
        "[%",
        "%[!a]%",
        "A%",
        r"a\%_",
        r"%\\%",
        "%\n%",
        "%",
        "",
        "😀%",
    ):
        for field in ("name", "path"):
            condition = parse(f"{field} like {quote(pattern)}")
            assert select(database, condition) == matching(rows, condition), pattern
    assert select(database, parse('name like "a_b"')) == sorted(
        str(number) for number, text in enumerate(texts) if re.fullmatch("a.b", text, re.DOTALL)
    )


def test_values_that_look_alike_in_sqlite_are_told_apart() -> None:
    values = [1, 1.0, True, "1", "true", [1], {"k": 1}, "[1]", '{"k":1}', 0, False, "", None, "null"]
    values += [2**53, 2**53 + 1, 2.0**53, 2**62 + 1, 2.0**62]
    rows = [{"id": f"{number:02}", "path": "x", "m": value, "n": {"m": value}} for number, value in enumerate(values)]
    database = make_database(rows)
    literals = ["1", "1.0", "0", "true", "false", '"1"', '"true"', '""', '"[1]"', quote('{"k":1}')]
    literals += [
        str(2**53),
        str(2**53 + 1),
        "9007199254740992.0",
        str(2**62),
        str(2**62 + 1),
        "4.611686018427387904e18",
    ]
    for literal in literals:
        for field in ("m", 'n["m"]'):
            texts = [f"{field} == {literal}", f"{field} != {literal}", f'{field} in [{literal}, "y", 3]']
            if literal not in ("true", "false"):
                texts += [f"{field} {sign} {literal}" for sign in ("<", "<=", ">", ">=")]
            for condition in map(parse, texts):
                assert select(database, condition) == matching(rows, condition), condition


@pytest.mark.parametrize("field", ["m", "size", 'm["q\\""]'])
def test_thousands_of_values_and_conditions_fit_into_one_query(field: str) -> None:
    rows = [{"id": str(number), "path": "x", "size": number, "m": number} for number in range(4)]
    rows += [{"id": "n", "path": "x", "m": {'q"': 2}}]
    database = make_database(rows)
    for text in (
        f"{field} in [{', '.join(map(str, range(2, 10_000)))}]",
        f"{field} in [{', '.join(map(quote, map(str, range(8000))))}, 2, 3]",
        " or ".join(f"{field} == {number}" for number in range(2, 302)),
    ):
        condition = parse(text)
        assert select(database, condition) == matching(rows, condition) != []
        assert len(to_sql(condition)[1]) < 1300


def test_the_deepest_filter_fits_into_the_parser_of_sqlite() -> None:
    database = make_database([{"id": "v0", "path": "x", "n": 1}])
    for leaf in ('m["q\\""]["k"] in [1, 9007199254740993, "[", true]', 'json_contains_any(m["q\\""], ["x", 1, true])'):
        condition = leaf
        for level in range(12):
            condition = f"(n == {level % 2} {('or', 'and')[level % 2]} {condition})"
        assert select(database, parse(condition)) == []
        negated = leaf
        for _ in range(6):
            negated = f"not (n == 1 and {negated})"
        assert select(database, parse(negated)) == []


def test_an_index_on_a_json_field_is_used() -> None:
    database = make_database([])
    database.execute(f"CREATE INDEX cameras ON rows(collection, {index_expression('camera')})")
    for text in ('camera == "x"', "camera > 5", 'camera in ["x", "y"]', 'camera like "x%"', "camera == 5"):
        sql, parameters = to_sql(parse(text))
        plan = database.execute(
            f"EXPLAIN QUERY PLAN SELECT number FROM rows WHERE collection = ? AND {sql}", [1, *parameters]
        )
        assert "INDEX cameras (collection=? AND <expr>" in str(plan.fetchall()), text
    assert index_expression("it's") is None
    assert index_expression('a"b') is None


def test_a_condition_on_a_column_has_a_plain_form() -> None:
    for text, expected in {
        "duration < 60": ('(rows."duration" < ?)', [60.0]),
        'path like "/a/%"': ('(rows."path" >= ? AND rows."path" < ?)', ["/a/", "/a0"]),
        "not (size == 5)": ('((rows."size" = ?) IS NOT TRUE)', [5]),
        'camera == "x"': ("(json_extract(rows.fields, '$.\"camera\"') = ?)", ["x"]),
        'id == "x"': ('(rows."id" = ?)', ["x"]),
        "duration == 'x'": ("0", []),
    }.items():
        assert to_sql(parse(text)) == expected


def test_a_path_leads_to_a_nested_value() -> None:
    document = json.dumps({"a b": {"c.d": [{"é": 5}]}}, ensure_ascii=False)
    path = json_path("a b", "c.d", 0, "é")
    assert path == '$."a b"."c.d"[0]."é"'
    assert sqlite3.connect(":memory:").execute("SELECT json_extract(?, ?)", (document, path)).fetchone() == (5,)
