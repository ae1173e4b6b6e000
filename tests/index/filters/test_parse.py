"""The filter language: its grammar, its dates, and its errors. Some tests run on a local index and on a server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
from filter_model import make_database, parse, select
from hypothesis import given
from hypothesis import strategies as st
from index_rows import ids, random_rows

from clip4clip import VideoIndexError
from clip4clip.index.filters.parse import parse_date, parse_filter, quote
from clip4clip.index.filters.tree import And, Comparison, Field, Match, Membership, Not, Or, Remainder, Value, Wildcard
from clip4clip.retrieval import VideoIndex


def test_filters_are_milvus_expressions(index: VideoIndex) -> None:
    index.add(random_rows(30))
    query = random_rows(30)[7]["vector"]
    assert len(index.search(vector=query, limit=30)) == 30
    hits = index.search(vector=query, limit=30, filter='duration < 10 and path like "/videos/%"')
    assert sorted(ids(hits)) == sorted(f"v{number}" for number in range(10))
    assert hits[0].id == "v7"
    assert index.search(vector=query, filter='id == "none"') == []
    with pytest.raises(VideoIndexError, match="invalid at character 11: expected a field or a value"):
        index.search(vector=query, filter="duration <")


HOUR = 3600 * 10**9
JUNE = 1748728800 * 10**9  # midnight of 2025-06-01 in Berlin


@pytest.fixture
def search_dated(index: VideoIndex, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[str]]]:
    """A function from a filter to the ids it finds. v1, v2 and v3 were changed on 2025-06-01, v5 has no time."""
    if not hasattr(time, "tzset"):
        pytest.skip("the time zone of a process cannot be changed on Windows")
    rows = random_rows(6)
    for row, mtime in zip(rows, (JUNE - 1, JUNE, JUNE + HOUR, JUNE + 24 * HOUR - 1, JUNE + 24 * HOUR), strict=False):
        row["mtime"] = mtime
    index.add(rows)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield lambda text: sorted(ids(index.search(vector=rows[0]["vector"], filter=text)))
    time.tzset()


DATES = {
    'modified > "2025-06-01"': "4",
    'modified >= "2025-06-01"': "1234",
    'modified < "2025-06-01"': "0",
    'modified <= "2025-06-01"': "0123",
    'modified == "2025-06-01"': "123",
    'modified != "2025-06-01"': "04",
    '"2025-06-01" < modified': "4",
    '"2025-06-01" <= modified < "2025-06-02"': "123",
    'modified in ["2025-06-01", "2025-05-31"]': "0123",
    'modified not in ["2025-06-01"]': "04",
    "(modified) > ('2025-06-01T00:30')": "234",
    'modified >= "2025-06-01 01:00"': "234",
    'modified == "2025-06-01T01:00:00"': "2",
    'modified < "2025-06-01T00:00:00.000001"': "01",
    'modified >= "2025-05-31T22:00:00Z"': "1234",
    'modified >= "2025-06-01T01:00:00+02:00"': "234",
    'modified >= "2025-06-01T01:00:00Z"': "34",
    'modified < "9000-01-01"': "01234",
    'modified > "1600-01-01"': "01234",
    'duration < 4 and modified > "2025-06-01" or id == "v0"': "0",
    'id != "v5" and not (modified > "2025-06-01")': "0123",
    "exists modified": "01234",
    f"mtime > {JUNE}": "234",
    "exists duration": "012345",
}


def test_comparisons_with_dates_select_the_right_videos(search_dated: Callable[[str], list[str]]) -> None:
    for text, numbers in DATES.items():
        assert search_dated(text) == [f"v{number}" for number in numbers], text


def parse_dated(text: str) -> object:
    """Parse a filter for an index with dates, whose fields are not known."""
    return parse_filter(text, lambda name, kind: None, list)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone of a process cannot be changed on Windows")
def test_dates_become_conditions_on_mtime(monkeypatch: pytest.MonkeyPatch) -> None:
    mtimes = (JUNE - 1, JUNE, JUNE + HOUR, JUNE + 24 * HOUR - 1, JUNE + 24 * HOUR, None)
    database = make_database(
        [{"id": f"v{i}", "path": "x", "duration": float(i), "mtime": mtime} for i, mtime in enumerate(mtimes)]
    )
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        for text, numbers in DATES.items():
            condition = parse_filter(text, lambda name, kind: None, list)
            assert condition
            assert select(database, condition) == [f"v{number}" for number in numbers], text
    time.tzset()


def test_an_invalid_date_is_rejected_with_an_example(search_dated: Callable[[str], list[str]]) -> None:
    for text, problem in {
        'modified > "yesterday"': 'compares modified with "yesterday", which is not a date',
        'modified > "2025-13-01"': "which is not a date",
        'modified > "9999-12-31"': "which is out of range",
        r'modified > "\\x"': "which is not a date",
        'modified > "2025-06-01" > duration': "compares other values in one chain with modified",
        "modified > 3": "compares modified with 3",
        "modified > duration": "compares modified with an expression",
        'modified like "2025%"': "compares modified by like",
        "modified + 1 > 3": "uses modified outside of a comparison",
        "json_contains(modified, 1)": "uses modified outside of a comparison",
        'modified in "2025-06-01"': "looks for modified in something other than a list",
    }.items():
        with pytest.raises(VideoIndexError, match=problem) as caught:
            search_dated(text)
        assert 'write modified > "2025-06-01"' in str(caught.value)


def test_a_stored_field_called_modified_is_not_treated_as_a_date(index: VideoIndex) -> None:
    row = random_rows(1)[0]
    index.add([row | {"modified": "in spring", "mtime": JUNE}])
    assert ids(index.search(vector=row["vector"], filter='modified == "in spring"')) == ["v0"]


def test_the_same_syntax_works_and_is_rejected_on_both_engines(index: VideoIndex) -> None:
    index.add(random_rows(3))
    query = random_rows(3)[0]["vector"]
    for text in ('id like "v%" && !(duration > 1)', "duration not in [2,]", "duration < 1 || duration == 1.0"):
        assert sorted(ids(index.search(vector=query, filter=text))) == ["v0", "v1"]
    for text in ("duration >", "a.b", "duration", 'path =~ "x"', "1"):
        with pytest.raises(VideoIndexError, match="the filter is invalid at character"):
            index.search(vector=query, filter=text)
    assert len(index.search(vector=query, filter="(" * 2000 + "0 < duration < 2" + ")" * 2000)) == 1
    with pytest.raises(VideoIndexError, match="the filter is nested too deeply"):
        index.search(vector=query, filter="not (" * 2000 + "duration > 1" + ")" * 2000)


def test_a_date_spans_the_unit_that_it_names() -> None:
    second = 10**9
    for text, begin, end in (
        ("2025-05-31T22:00:00Z", JUNE, JUNE + second),
        ("2025-06-01T00:00+02:00", JUNE, JUNE + 60 * second),
        (" 2025-06-01 00:00:00.25+02:00", JUNE + second // 4, JUNE + second // 4 + 1000),
    ):
        assert parse_date(text) == (begin, end)
    for text in ("", "yesterday", "2025-13-01", "2025-06-01T", "9999-12-31"):
        with pytest.raises(ValueError, match="which is"):
            parse_date(text)


INVALID = {
    "duration <": """11: expected a field or a value, but the filter ends here
  duration <
            ^""",
    'a == 1 and b == "x" c': """21: expected a comparison, such as < or ==, or and, or, not 'c'
  a == 1 and b == "x" c
                      ^""",
    "a = 1": "3: unexpected '=': write == to compare",
    "a <> 1": "4: <> is not a comparison: write !=",
    "a.b == 1": "2: unexpected '.': write a[\"b\"] for the key b of the field a",
    "a == null": "6: expected a field or a value: to find rows without a field, write: duration is null",
    'a == "x': '6: the string that begins with " does not end',
    r'a == "\v"': r"7: \v is not an escape: write \\ for a backslash",
    r'a == "\ud800"': r"7: \ud800 is not a character",
    r'a == "\u0000"': "6: the string has the character U+0000, which cannot be stored",
    "a == 0x10": "6: 0x10 is neither a number nor a name",
    "a == 010": "6: write 10 without zeros before it",
    "a == 1e400": "6: the number 1e400 is out of range",
    "a == 1e99999999999": "6: the number 1e99999999999 is out of range",
    "a > 9223372036854775808": "5: this is the integer 9223372036854775808, which does not fit into 64 bits",
    "a": "1: a is a field and not a condition",
    "not a": "5: a is a field and not a condition",
    "1 == 1": "1: expected a comparison of a field with a value",
    "a == b": "6: two fields cannot be compared",
    "a < b < 3": "5: a chain of comparisons can have one field only",
    "a < true": "3: true can be compared by == and != only",
    "a == [1]": "6: expected a value",
    "(a == 1": "8: expected and, or or a closing bracket, but the filter ends here",
    "a in [1, 2": "11: expected a comma or a closing bracket, but the filter ends here",
    "a in (1)": "7: expected a list after in",
    "a in [b]": "7: expected a value",
    "1 in [1]": "1: expected a field before in",
    "a like 5": "8: expected a string after like",
    "a is 5": "6: expected null or not null after is",
    "a not b": "7: expected in or like after not",
    "exists 1": "8: expected a field",
    "$meta == 1": "7: expected a key in square brackets",
    "a[x] == 1": "3: expected a key",
    "a[1.5] == 1": "3: expected a key, or the index of an element",
    'a[""] == 1': "3: a key cannot be empty",
    "a[0][0][0][0] == 1": "1: a has more than 3 indexes",
    "a / 0 == 1": "3: a division by zero",
    "a % 0 == 1": "3: expected a whole number greater than 0 after %",
    "1 / a == 1": "3: a field can stand before / only",
    "a * 0 == 1": "3: a product with 0",
    "a + b == 1": "3: two fields cannot be computed with each other",
    'a == "x" + "y"': "10: only numbers and fields can be computed with",
    "a % 2 < 1": "7: a remainder can be compared by == and != only",
    "a + 1 in [2]": "1: expected a field before in",
    "len(a) == 1": "1: there is no function len: the functions are json_contains",
    "json_contains(a)": "1: json_contains takes a field and a value",
    "json_contains_any(a, [])": "22: expected a list with one value or more",
    "json_contains(a, 9007199254740993)": "18: numbers of 2**53 and more cannot be looked for",
    'path like "C:\\\\videos\\\\%"': r'11: \% is the character % and not a wildcard: write "C:\\videos\\\\%"',
}


def test_an_invalid_filter_is_rejected_with_its_position() -> None:
    for text, message in INVALID.items():
        with pytest.raises(VideoIndexError) as caught:
            parse(text)
        assert str(caught.value).startswith(f"the filter is invalid at character {message}"), text


def test_the_caret_stands_below_its_character_in_a_terminal() -> None:
    for text, column in (('"名前" == é x', 12), ("a\n== 1 x", 7), ('"e\u0301" == a x', 9)):
        with pytest.raises(VideoIndexError) as caught:
            parse(text)
        _, line, caret = str(caught.value).split("\n")
        assert caret == " " * (column + 2) + "^"
        assert line.endswith("x")


def test_a_long_filter_is_cut_around_the_position() -> None:
    text = "a == 1 and " * 30 + "b b" + " and a == 1" * 30
    with pytest.raises(VideoIndexError) as caught:
        parse(text)
    message, line, caret = str(caught.value).split("\n")
    assert message.startswith("the filter is invalid at character 333: ")
    assert line[len(caret) - 1 :].startswith("b and a == 1")
    assert line.startswith("  …")
    assert line.endswith("…")
    assert len(line) < 80


def test_limits_are_errors() -> None:
    for text, message in {
        "a == 1" + " " * 65_536: "the filter has 65,542 characters, but at most 65,536 are possible",
        " or ".join(["a == 1"] * 301): "character 3001: at most 300 conditions are possible",
        f"a in [{','.join('1' * 10_001)}]": "the list has 10,001 values, but at most 10,000 are possible",
        f"a in [{','.join([str(2**53)] * 101)}]": "the list has more than 100 numbers of 2",
        "not " * 13 + "a == 1": "nested too deeply: at most 12 levels",
        f'a like "{"x" * 10_001}"': "the pattern has 10,001 characters, but at most 10,000 are possible",
        "a" + '["k"]' * 21 + " == 1": "a has 21 keys, but at most 20 are possible",
        "a == " + "1" * 401: "this number has more than 400 characters",
        "a" + " * 1e300" * 20 + " == 1": "the result has too many digits",
        "a * 1e300 == 1e-300": None,
        "a / 1e300 == 1e300": "the result is out of range",
        "not " * 12 + "a == 1": None,
    }.items():
        if message is None:
            parse(text)
        else:
            with pytest.raises(VideoIndexError, match=message):
                parse(text)
    dates = ", ".join(['"2025-06-01"'] * 301)
    with pytest.raises(
        VideoIndexError, match="the filter has 602 conditions, of which a date takes two, but at most 600"
    ):
        parse_dated(f"modified in [{dates}]")


A = Field("a")


def test_arithmetic_is_solved_for_the_field() -> None:
    for text, expected in {
        "a + 1 == 3": Comparison(A, "==", Value(2)),
        "size / 1000 > 5": Comparison(Field("size"), ">", Value(5000)),
        "5 < 2 * a": Comparison(A, ">", Value(2.5)),
        "a + 0.1 == 0.3": Comparison(A, "==", Value(0.2)),
        "1 - a / 2 <= 0": Comparison(A, ">=", Value(2)),
        "a == ----3 + 1": Comparison(A, "==", Value(4)),
        "-a > 3": Comparison(A, "<", Value(-3)),
        "a > -(2 + 3) * 2": Comparison(A, ">", Value(-10)),
        "a == 7 / 2": Comparison(A, "==", Value(3.5)),
        "a == -7 % 4": Comparison(A, "==", Value(-3)),
        "a * 3 == 1": Comparison(A, "==", Value(1 / 3)),
        "a - 9223372036854775807 == 0": Comparison(A, "==", Value(2**63 - 1)),
        "a % 4 == 1": Remainder(A, 4, 1),
        "a % 4 * 2 - 1 == -3": Remainder(A, 4, -1),
        "a % 4 == 1.5": Membership(A, ()),
        "a % 4 != 4": Not(Membership(A, ())),
    }.items():
        assert parse(text) == expected, text


def test_operators_bind_as_in_milvus() -> None:
    one, two, three = (Comparison(Field(name), "==", Value(1)) for name in "abc")
    for text, expected in {
        "a == 1 or b == 1 and c == 1": Or((one, And((two, three)))),
        "a == 1 || (b == 1 OR c == 1)": Or((one, two, three)),
        "NOT a == 1 && b == 1": And((Not(one), two)),
        "!(a == 1 and b == 1)": Not(And((one, two))),
        "0 < a <= 2": And((Comparison(A, ">", Value(0)), Comparison(A, "<=", Value(2)))),
        "a not like 'x%'": Not(Match(A, ("x", Wildcard.TEXT))),
        r"a like '\\%\\\\_%%'": Match(A, ("%\\", Wildcard.CHARACTER, Wildcard.TEXT)),
        "$meta['a']['b'][0] == 1": Comparison(Field("a", ("b", 0)), "==", Value(1)),
    }.items():
        assert parse(text) == expected, text


def test_a_blank_filter_is_no_condition() -> None:
    for text in ("", " ", "\n"):
        assert parse_filter(text, lambda name, kind: None, list) is None


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_quoted_text_is_read_back(text: str) -> None:
    assert parse(f"a == {quote(text)}") == Comparison(A, "==", Value(text))


@given(st.text("ab 01.\"'\\\\[](),=<>!&|+-*/%_{}$mnotrilke\n😀", max_size=30))
def test_any_text_is_a_filter_or_an_error_of_this_package(text: str) -> None:
    with contextlib.suppress(VideoIndexError):
        parse_dated(text)
