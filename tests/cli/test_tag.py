"""The command ``tag``: its arguments, its tables, and the fields that it stores."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from constants import DEMO_MODEL
from index_rows import random_rows

from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with ``labels.txt`` and an index ``v.db`` of 25 segments of five videos."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    with VideoIndex("v.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        index.add(
            row | {"video": f"/v/{number % 5}", "path": f"/v/{number % 5}", "start": number * 60.0, "end": number + 1e4}
            for number, row in enumerate(random_rows(25))
        )
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["v.parquet", "--store"], "--store: it needs an index, and v.parquet is a table"),
        (["v.db", "--store", "-o", "a.csv"], "--store: give either --output or --store"),
        (["v.db", "-o", "a.txt"], "a.txt: its name must end in .parquet or .csv"),
        (["v.db", "-o", "none/a.csv"], "the folder none does not exist"),
        (["none.db"], "no index at none.db: create it with `clip4clip index`"),
        (["none.parquet"], "no table of vectors at none.parquet"),
        (["v.db", "--labels", "none.txt"], "none.txt: No such file or directory"),
        (["v.db", "--labels", "v.db"], "v.db is not text in UTF-8"),
        (["v.db", "--template", "a video"], "the template must have {} once"),
        (["v.db", "--min-score", "2"], "--min-score"),
    ],
)
def test_invalid_arguments_are_errors(arguments: list[str], message: str, error_of: Callable[..., str]) -> None:
    labels = [] if "--labels" in arguments else ["--labels", "labels.txt"]
    assert message in error_of("tag", *arguments, *labels)


def test_the_first_labels_are_printed(folder: Path, run_main: Run) -> None:
    code, printed, errors = run_main("tag", "v.db", "--labels", "labels.txt")
    assert code == 0, errors
    assert printed.count("/v/") == 20
    assert "0:00–2:46:40" in printed
    assert "the first 20 are shown: --output writes all to a table" in errors
    assert sorted(path.suffix for path in folder.iterdir() if path.name.startswith("labels")) == [".txt"]


@pytest.mark.usefixtures("folder")
def test_both_kinds_of_tables_have_a_row_for_each_label(run_main: Run) -> None:
    for name in ("a.csv", "a.parquet"):
        code, printed, errors = run_main("tag", "v.db", "-l", "labels.txt", "--top", 2, "-o", name)
        assert (code, printed) == (0, ""), errors
        assert f"50 labels are in {name}" in errors
    rows = pq.read_table("a.parquet").to_pylist()
    with open("a.csv", encoding="utf-8", newline="") as file:  # noqa: PTH123
        texts = [*csv.DictReader(file)]
    assert texts == [{name: str(value) for name, value in row.items()} for row in rows]
    assert [*rows[0]] == ["id", "video", "path", "start", "end", "label", "score"]
    assert {row["label"] for row in rows} == {"red", "green", "blue"}


@pytest.mark.usefixtures("folder")
def test_stored_labels_can_be_searched_for(run_main: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIP4CLIP_URI", "v.db")
    for changed in (25, 0):
        code, printed, errors = run_main("tag", "--labels", "labels.txt", "--store")
        assert (code, printed) == (0, ""), errors
        assert f"{changed} changed of 25 in v.db" in errors
    counts = []
    for label in ("red", "green", "blue"):
        code, printed, errors = run_main("list", "--segments", "--filter", f'label == "{label}"')
        assert code == 0, errors
        counts.append(len(printed.splitlines()))
    assert sum(counts) == 25
    assert "label (string), label_score (number), labels (list)" in run_main("info")[1]


@pytest.mark.usefixtures("folder")
def test_ctrl_c_keeps_what_was_stored(run_main: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    update = VideoIndex.store_tags

    def interrupted(self: VideoIndex, tagged: object) -> int:
        def first() -> object:
            for number, row in enumerate(tagged):  # type: ignore[arg-type, var-annotated]
                if number == 7:
                    raise KeyboardInterrupt
                yield row

        return update(self, first())  # type: ignore[arg-type]

    monkeypatch.setattr(VideoIndex, "store_tags", interrupted)
    code, _, errors = run_main("tag", "v.db", "--labels", "labels.txt", "--store")
    assert code == 130
    assert "stopped: stored labels are kept; run the same command to resume" in errors
    monkeypatch.setattr(VideoIndex, "store_tags", update)
    assert "18 changed of 25 in v.db" in run_main("tag", "v.db", "--labels", "labels.txt", "--store")[2]
