"""Filters as expressions of a Milvus server, which finds the same rows as SQL does."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from filter_model import Row, make_database, matching, parse, random_filter, random_row, select
from servers import MilvusServer

from clip4clip import VideoIndexError
from clip4clip.index.filters.milvus import to_milvus


def test_expressions_have_only_what_milvus_understands() -> None:
    for text, expected in {
        "duration < 60": '($meta["duration"] < 60)',
        'path like "/a/%"': '(path >= "/a/" and path < "/a0")',
        "camera IS NULL": '(not (exists $meta["camera"]))',
        "exists id": "(id not in [])",
        "$meta['odd \"name\"']['k'][0] == 'it\\'s'": '($meta["odd \\"name\\""]["k"][0] == "it\'s")',
        'm in [1, 2.5, "x", true]': '($meta["m"] in ["x"] or $meta["m"] in [1] or $meta["m"] in [2.5] '
        'or $meta["m"] in [true])',
        "id in [1]": "(id in [])",
        "id != 1": "(id not in [])",
        "0 < m < 2 or not n == 'a\nb'": '((($meta["m"] > 0) and ($meta["m"] < 2)) or (not ($meta["n"] == "a\\nb")))',
        "json_contains(tags, 1)": '(json_contains_any($meta["tags"], [1.0]))',
        "size / 2 > 5": '($meta["size"] > 10)',
        'path like "%b"': '(path like "%b")',
        'path like "a%50\\\\%"': '(path like "a%50\\\\%")',
        "size % 2 == 1": '($meta["size"] > -9007199254740992 and $meta["size"] < 9007199254740992 '
        'and $meta["size"] % 2 == 1)',
    }.items():
        assert to_milvus(parse(text)) == expected
    assert to_milvus(None) == ""
    assert to_milvus(parse("age == 5 and exists age"), ["key", "age"]) == "((age == 5) and (age not in []))"


def test_a_wildcard_that_servers_do_not_have_is_rejected() -> None:
    with pytest.raises(VideoIndexError, match=r"cannot find any one character by _: write \\\\_ for the character _"):
        to_milvus(parse('path like "a_b%"'))
    assert to_milvus(parse(r'path like "a\\_b%"')) == '(path >= "a_b" and path < "a_c")'


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    random = Random(16)
    return [random_row(random, number) for number in range(300)]


@pytest.fixture(scope="module")
def search_server(milvus: MilvusServer, rows: list[Row]) -> Iterator[object]:
    """A function from an expression to the ids of the rows that a real server finds."""
    from pymilvus import DataType, MilvusClient

    client = MilvusClient(milvus.uri)
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    for name in ("id", "path", "video"):
        schema.add_field(name, DataType.VARCHAR, is_primary=name == "id", max_length=65_535)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.create_collection("filters", schema=schema, index_params=index, consistency_level="Strong")
    client.insert("filters", [row | {"vector": [1.0, 0.5]} for row in rows])
    client.load_collection("filters")
    assert len(client.query("filters", 'id != ""', output_fields=["id"], limit=1000)) == len(rows)

    def search(expression: str) -> list[str]:
        options = {"output_fields": ["id"], "limit": 1000, "consistency_level": "Eventually"}
        return sorted(row["id"] for row in client.query("filters", expression, **options))

    yield search
    client.drop_collection("filters")
    client.close()


def test_a_server_finds_the_same_rows_as_sql(search_server: object, rows: list[Row]) -> None:
    assert callable(search_server)
    random, database = Random(5), make_database(rows)
    selective = 0
    for _ in range(600):
        text = random_filter(random)
        condition = parse(text)
        found = search_server(to_milvus(condition))
        assert found == select(database, condition) == matching(rows, condition), text
        selective += 0 < len(found) < len(rows)
    assert selective > 150


def test_a_server_takes_the_largest_filters(search_server: object) -> None:
    assert callable(search_server)
    for text in (
        " and ".join(["m != 12345"] * 300),
        "not (" * 12 + "m != 12345" + ")" * 12,
        f"m not in [{', '.join(map(str, range(20_000, 29_000)))}]",
        f"m not in [{', '.join(str(2**60 + number) for number in range(100))}]",
        f"m != '{'x' * 65_000}'",
    ):
        assert len(search_server(to_milvus(parse(text)))) == 300
