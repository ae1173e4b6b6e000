"""Filters, run on a local index and on a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from index_rows import ids, random_rows

from clip4clip import VideoIndexError
from clip4clip.index.filters import parse_date
from clip4clip.retrieval import VideoIndex


def test_filters_are_milvus_expressions(index: VideoIndex) -> None:
    index.add(random_rows(30))
    query = random_rows(30)[7]["vector"]
    assert len(index.search(vector=query, limit=30)) == 30
    hits = index.search(vector=query, limit=30, filter='duration < 10 and path like "/videos/%"')
    assert sorted(ids(hits)) == sorted(f"v{number}" for number in range(10))
    assert hits[0].id == "v7"
    assert index.search(vector=query, filter='id == "none"') == []
    with pytest.raises(VideoIndexError, match="says: "):
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


def test_an_invalid_date_is_rejected_with_an_example(search_dated: Callable[[str], list[str]]) -> None:
    for text, problem in {
        'modified > "yesterday"': 'compares modified with "yesterday", which is not a date',
        'modified > "2025-13-01"': "which is not a date",
        'modified > "9999-12-31"': "which is out of range",
        r'modified > "\x"': "which is not a date",
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


def test_syntax_unknown_to_the_grammar_is_passed_to_milvus(index: VideoIndex) -> None:
    index.add(random_rows(3))
    query = random_rows(3)[0]["vector"]
    for text in ('id like "v%" && !(duration > 1)', "duration not in [2,]", "duration < 1 || duration == 1.0"):
        assert sorted(ids(index.search(vector=query, filter=text))) == ["v0", "v1"]
    for text in ("duration >", "a.b", "duration", 'path =~ "x"', "1"):
        with pytest.raises(VideoIndexError, match="says: "):
            index.search(vector=query, filter=text)
    if index.address.is_local:
        with pytest.raises(VideoIndexError, match="says: the filter is nested too deeply, it has too many brackets"):
            index.search(vector=query, filter="(" * 2000 + "duration > 1" + ")" * 2000)
    else:
        assert len(index.search(vector=query, filter="(" * 400 + "0 < duration < 2" + ")" * 400)) == 1


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
