"""Tables in every format, and files that are not tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip4clip import PairsError
from clip4clip.evaluation import tables
from clip4clip.evaluation.tables import read_table


def read(path: Path) -> tuple:
    return read_table(path, PairsError, "a table")


def test_rows_come_with_their_location(tmp_path: Path) -> None:
    csv, lines, array = (tmp_path / f"a.{extension}" for extension in ("csv", "jsonl", "json"))
    csv.write_text('a,b\n1,"x\ny"\n2,\n', "utf-8")
    lines.write_text('{"a": 1}\n\n{"a": 2}\n', "utf-8")
    array.write_text('\n[{"a": 1}, {"a": 2}]', "utf-8")
    assert read(csv) == (
        ["a", "b"],
        [({"a": "1", "b": "x\ny"}, f"{csv}, line 3"), ({"a": "2", "b": ""}, f"{csv}, line 4")],
    )
    assert read(lines) == (None, [({"a": 1}, f"{lines}, line 1"), ({"a": 2}, f"{lines}, line 3")])
    assert read(array) == (None, [({"a": 1}, f"{array}, item 1"), ({"a": 2}, f"{array}, item 2")])


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.csv", b"PAR1\xff\xff", "a Parquet file"),
        ("a.csv", b"\x93NUMPY\xff", "a NumPy array"),
        ("a.csv", b"\xff\xfea\0", "text in UTF-16; save it as UTF-8"),
        ("a.mp4", b"\0\0\0\x20ftyp\xff", "a video"),
        ("a.jsonl", b"\xfa\xfb", "not UTF-8 text"),
    ],
)
def test_a_file_that_is_not_text_is_named_by_its_kind(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PairsError) as raised:
        read(tmp_path / name)
    assert str(raised.value) == f"{tmp_path / name} is {kind}. Expected a table"


def test_a_table_that_is_too_large_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("video,sentence\n")
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 10)
    with pytest.raises(PairsError, match=r"a\.csv is larger than the limit of 10 bytes"):
        read(tmp_path / "a.csv")
