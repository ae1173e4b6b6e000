"""Tables of vectors: written in parts, by one process at a time, and read again."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from constants import DEMO_MODEL
from library_tables import demo_spec, embed, rows_by_id
from typer.testing import CliRunner

from clip4clip import LibraryError
from clip4clip.cli import app
from clip4clip.encoder import EncoderSpec
from clip4clip.library.embed import embed_library
from clip4clip.library.segments import segment_id
from clip4clip.library.table import TableSpec, TableWriter, count_rows, read_rows
from clip4clip.weights.identity import identify


def row_of(video: str, start: float | None = None, end: float | None = None, **columns: Any) -> dict[str, Any]:
    """A row of a video or of a segment; the columns that are not given are null."""
    row_id = video if start is None or end is None else segment_id(video, start, end)
    row = {"id": row_id, "video": video, "path": video, "start": start, "end": end, "uniform": False}
    return {**row, "model": DEMO_MODEL, "fingerprint": "0", **columns}


def test_a_table_cannot_be_written_by_two_processes(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.parquet"
    with (
        TableWriter(output, demo_spec()),
        pytest.raises(LibraryError, match="another process is writing"),
    ):
        embed(clips, output)
    assert embed(clips, output).processed == 10


def test_a_writer_that_starts_while_another_finishes_does_not_disturb_it(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "vectors.parquet"
    errors: list[str] = []

    def open_and_remove(*arguments: Any, **options: Any) -> None:
        try:
            TableWriter(output, demo_spec()).close()
        except LibraryError as error:
            errors.append(str(error))
        rmdir(*arguments, **options)

    rmdir = os.rmdir
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", open_and_remove)  # the last step of the first writer: it removes its folder of parts
        assert embed(clips, output).processed == 10
    assert errors == [f"another process is writing {output}: wait until it has ended"]
    assert embed(clips, output).unchanged == 10
    assert not Path(f"{output}.parts").exists()


@pytest.mark.parametrize("name", ["v.csv", "v.npz", "v"])
def test_the_name_of_a_table_must_end_in_parquet(name: str, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match=r"is written as Parquet, so its name must end in \.parquet"):
        embed_library(
            clips, tmp_path / name, EncoderSpec(DEMO_MODEL, "nowhere.pt")
        )  # before the weights are looked for
    assert list(tmp_path.iterdir()) == [clips]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_pipes_are_neither_written_nor_waited_for(clips: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "v.parquet"
    os.mkfifo(pipe)
    with pytest.raises(LibraryError, match="is not a regular file"):
        embed(clips, pipe)
    with pytest.raises(LibraryError, match="no table of vectors at"):
        TableSpec.read(pipe)


def test_a_damaged_table_and_a_vector_without_norm_1_are_not_read(tmp_path: Path) -> None:
    row = row_of("a", vector=np.full(128, 0.5, np.float32))
    with TableWriter(tmp_path / "v.parquet", demo_spec()) as table:
        table.add([row])
        table.finish()
    with pytest.raises(LibraryError, match="whose norm is not 1"):
        list(read_rows(tmp_path / "v.parquet"))
    (tmp_path / "w.parquet").write_bytes((tmp_path / "v.parquet").read_bytes()[:-9])
    with pytest.raises(LibraryError, match="is not a table of vectors"):
        list(read_rows(tmp_path / "w.parquet"))


STEPS_OF_MERGING = {
    "write": (pq.ParquetWriter, "write_table"),
    "replace": (Path, "replace"),
    "rmtree": (shutil, "rmtree"),
}


@pytest.mark.parametrize("step", STEPS_OF_MERGING)
def test_killed_while_parts_are_merged_nothing_is_lost(
    step: str, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "vectors.parquet"
    embed(clips, output)
    shutil.copy(clips / "1.mp4", clips / "new.mp4")

    def die(*_: object, **__: object) -> None:
        raise SystemError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(*STEPS_OF_MERGING[step], die)
        with pytest.raises(SystemError):
            embed(clips, output)
    report = embed(clips, output)
    assert report.processed == (0 if step == "rmtree" else 1)
    assert count_rows(output) == len(rows_by_id(output)) == 11


def test_a_folder_is_not_accepted_as_a_table(clips: Path) -> None:
    for folder in (".", "/", str(clips)):
        done = CliRunner().invoke(app, ["embed", str(clips), "-o", folder, "-m", DEMO_MODEL])
        assert done.exit_code == 2
        assert "is a folder" in re.sub(r"[│\s]+", " ", done.output)
        with pytest.raises(
            LibraryError, match="cannot be written: expected the name of a file in a folder that exists"
        ):
            TableWriter(folder, demo_spec())


def test_the_metadata_of_a_table_is_the_specification_as_json(tmp_path: Path) -> None:
    table = tmp_path / "v.parquet"
    with TableWriter(table, demo_spec()) as writer:
        writer.add([row_of("a", error="no such file")])
        writer.finish()
    record = json.loads(pq.read_schema(table).metadata[b"clip4clip"])
    model = {"model": DEMO_MODEL, "fingerprint": identify(None, DEMO_MODEL).fingerprint}
    sampling = {"frames": 12, "seek": "auto", "segments": "auto", "every": 1.0}
    assert record == {"model": model, "dim": 128, **sampling}
    assert TableSpec.read(table) == demo_spec()


def write_part(table: Path, *rows: dict[str, Any]) -> None:
    """Add a part, as a run does that is killed afterwards."""
    with TableWriter(table, demo_spec()) as writer:
        writer.add(list(rows))


def test_new_rows_of_a_video_replace_all_old_ones(tmp_path: Path) -> None:
    table = tmp_path / "v.parquet"
    vector = np.eye(128, dtype=np.float32)[0]
    write_part(table, *(row_of("a", start, start + 5.0, vector=vector) for start in range(0, 20, 5)))
    write_part(table, row_of("b", vector=vector), row_of("c", error="cut off"))
    with TableWriter(table, demo_spec()) as writer:
        writer.finish()
    write_part(table, row_of("a", 0.0, 5.0, vector=vector), row_of("a", 5.0, 9.0, uniform=True))
    write_part(
        table, row_of("b", error="cut off"), row_of("c", 0.0, 5.0, vector=vector), row_of("c", 5.0, 9.5, vector=vector)
    )
    write_part(table, row_of("b", error="gone"))
    with TableWriter(table, demo_spec()) as writer:
        assert {video.id: video.failed for video in writer.videos().values()} == {"a": False, "b": True, "c": False}
        writer.finish()
        assert writer.contents({"a", "b", "c"}) == (3, {"b": "gone"})
        assert writer.contents({"a", "d"}) == (1, {})
    ids = [row["id"] for row in read_rows(table)]
    assert ids == ["a#t=0,5", "a#t=5,9", "c#t=0,5", "c#t=5,9.5", "b"]
    assert [row["id"] for row in read_rows(table) if row["vector"] is None] == ["a#t=5,9", "b"]


def test_videos_of_more_rows_than_are_read_at_once_are_merged(tmp_path: Path) -> None:
    table = tmp_path / "v.parquet"
    for length in (2500, 2300):
        write_part(table, *(row_of("a", float(start), start + 1.0) for start in range(length)), row_of("b", error="no"))
    with TableWriter(table, demo_spec()) as writer:
        assert len(writer.videos()) == 2
        writer.finish()
    assert [row["start"] for row in read_rows(table)] == [*range(2300), None]
