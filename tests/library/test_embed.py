"""Folders, tables and lists of videos to a Parquet table of vectors, and what is left of it after a kill."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from clip4clip import LibraryError, UnknownNameError, VideoEncoder
from clip4clip.cli import app
from clip4clip.library import embed as library
from clip4clip.library import local_engine
from clip4clip.library.embed import Report, embed_library
from clip4clip.library.sources import Video, list_videos
from clip4clip.library.table import TableSpec, TableWriter, count_rows, read_rows
from clip4clip.video import read_frames
from clip4clip.weights.identity import identify

DEMO = "clip_vit_tiny_demo"


@pytest.fixture
def clips(drawings: Path, tmp_path: Path) -> Path:
    """A folder with ten of the drawn clips, two of them in a folder below."""
    folder = tmp_path / "clips"
    (folder / "below").mkdir(parents=True)
    for number, clip in enumerate(sorted((drawings / "eval").iterdir())[:10]):
        shutil.copy(clip, folder / ("below" if number > 7 else ".") / f"{number}.mp4")
    return folder


def embed(source: Any, output: Path, **options: Any) -> Report:
    return embed_library(source, output, model_name=DEMO, **options)


def table_of(path: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_rows(path)}


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# Listing


def test_a_folder_is_searched_to_its_ends_for_videos_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MOV", "deep/er/c.webm", "notes.txt", ".hidden.mp4", ".trash/d.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"123")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.mp4")
    found = list_videos(tmp_path)
    assert [Path(video.path).relative_to(tmp_path).as_posix() for video in found] == [
        "a.MOV",
        "b.mp4",
        "deep/er/c.webm",
    ]
    assert all(video.id == video.path and video.size == 3 for video in found)
    assert found[0].mtime == (tmp_path / "a.MOV").stat().st_mtime_ns


def test_the_tables_of_the_tutorial_and_of_msrvtt_are_understood(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(2):
        (tmp_path / "videos" / f"video{number}.mp4").touch()
    table = tmp_path / "msrvtt.csv"
    table.write_text(
        "id,video_path,sentence\nv0,videos/video0.mp4,a\nv1,./videos/video1.mp4,b\nv1,videos/video1.mp4,c\n"
    )
    assert [(video.id, video.path) for video in list_videos(table)] == [
        (f"v{number}", str(tmp_path / "videos" / f"video{number}.mp4")) for number in range(2)
    ]
    (tmp_path / "jsfusion.csv").write_text("\ufeffkey,video_id,sentence\nret0,video1,a\nret1,video0,b\n", "utf-8")
    found = list_videos(tmp_path / "jsfusion.csv", tmp_path / "videos")
    assert [(video.id, Path(video.path).name) for video in found] == [
        ("video1", "video1.mp4"),
        ("video0", "video0.mp4"),
    ]


def test_a_list_has_paths_and_urls_and_each_video_once(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    listing = tmp_path / "list.txt"
    listing.write_text(f"# mine\n\na.mp4\nhttps://example.org/b.mp4?x=1\n{tmp_path}/a.mp4\n./x/../a.mp4\nnone.mp4\n")
    found = list_videos(listing)
    assert [video.path for video in found] == [
        f"{tmp_path}/a.mp4",
        "https://example.org/b.mp4?x=1",
        f"{tmp_path}/none.mp4",
    ]
    assert [video.size for video in found] == [0, None, None]
    assert list_videos([str(tmp_path / "a.mp4")]) == found[:1]


def test_tables_of_tabs_and_of_json_are_libraries_too(tmp_path: Path) -> None:
    (tmp_path / "a, b.mp4").touch()
    rows = [{"id": 7, "path": "a, b.mp4", "other": None}, {"id": "w", "path": "https://example.org/b.mp4"}]
    for name, text in (
        ("v.tsv", "id\tpath\n7\ta, b.mp4\nw\thttps://example.org/b.mp4\n"),
        ("v.json", json.dumps(rows)),
        ("v.jsonl", "\n".join(map(json.dumps, rows))),
    ):
        (tmp_path / name).write_text(text)
        assert [(video.id, video.path) for video in list_videos(tmp_path / name)] == [
            ("7", str(tmp_path / "a, b.mp4")),
            ("w", "https://example.org/b.mp4"),
        ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"path": 5}]', "item 1: it names no video, but has 5"),
        ("a.json", '[{"id": "a"}]', "item 1: it names no video, but has None"),
        ("a.json", '[{"path": "a\\ud800"}]', r"item 1: 'a\\ud800' is not valid text"),
        ("a.jsonl", '{"id": "\\ud800", "path": "a"}', r"line 1: '\\ud800' is not valid text"),
        ("a.csv", "video,sentence\n,b\n", "line 2: it names no video"),
        ("a.csv", "file,sentence\na,b\n", "needs a header with one of the columns path, video_path"),
        ("a.csv", "id,path\n1,a.mp4\n1,b.mp4\n", "is the name of two videos"),
        ("a.csv", "id,path\n", "names no video"),
        ("a.txt", "# nothing\n", "names no video"),
        ("a.txt", "a\0b\n", "is no path"),
        ("a.txt", b"\xff\xfe\x00", "is text in UTF-16; save it as UTF-8. Expected a folder of videos"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LibraryError, match=message):
        list_videos(tmp_path / name)


def test_an_empty_folder_and_no_folder_are_different_things(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="no videos in"):
        list_videos(tmp_path)
    (tmp_path / "list.txt").write_text("a.mp4")
    with pytest.raises(LibraryError, match=r"no folder of videos at .*none"):
        list_videos(tmp_path / "list.txt", tmp_path / "none")
    with pytest.raises(LibraryError, match="no library at"):
        list_videos(tmp_path / "none")


# Embedding


def test_every_column_is_what_the_files_are(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.parquet"
    report = embed(clips, output)
    assert (report.videos, report.embedded, report.kept, report.failed) == (10, 10, 0, {})
    schema = pq.read_schema(output)
    assert schema.field("vector").type == pa.list_(pa.float32(), 128)
    names = "id path vector duration frame_count model fingerprint size mtime error"
    assert schema.names == names.split()
    encoder = VideoEncoder.load(DEMO)
    rows = list(read_rows(output))
    assert [row["id"] for row in rows] == [video.id for video in list_videos(clips)]
    for row in rows:
        path = Path(row["path"])
        assert (row["size"], row["mtime"]) == (path.stat().st_size, path.stat().st_mtime_ns)
        assert (row["frame_count"], row["duration"], row["error"]) == (16, pytest.approx(2.0), None)
        assert (row["model"], row["fingerprint"]) == (DEMO, identify(None, DEMO).fingerprint)
        np.testing.assert_allclose(row["vector"], encoder(read_frames(path)), atol=1e-6)
    assert files_in(tmp_path)[-1] == "vectors.parquet"  # and nothing beside it


def test_again_it_does_what_is_new_and_changed_alone(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.parquet"
    embed(clips, output)
    before = output.read_bytes()
    again = embed(clips, output)
    assert (again.embedded, again.kept) == (0, 10)
    assert output.read_bytes() == before
    shutil.copy(clips / "1.mp4", clips / "new.mp4")
    shutil.copy(clips / "2.mp4", clips / "3.mp4")  # changes size and time
    (clips / "4.mp4").unlink()
    third = embed(clips, output)
    assert (third.videos, third.embedded, third.kept) == (10, 2, 8)
    rows = table_of(output)
    assert len(rows) == count_rows(output) == 11  # what vanished stays in a table; see VideoIndex.sync
    np.testing.assert_allclose(rows[str(clips / "3.mp4")]["vector"], rows[str(clips / "2.mp4")]["vector"], atol=1e-6)


def test_bad_files_have_rows_that_say_why_and_stop_nobody(clips: Path, tmp_path: Path) -> None:
    (clips / "0text.mp4").write_text("this is not a video")
    (clips / "5empty.mp4").touch()
    good = (clips / "1.mp4").read_bytes()
    (clips / "6half.mp4").write_bytes(good[: len(good) // 2])
    output = tmp_path / "vectors.parquet"
    report = embed(clips, output)
    bad = {str(clips / name) for name in ("0text.mp4", "5empty.mp4", "6half.mp4")}
    assert set(report.failed) == bad
    rows = table_of(output)
    assert {name for name, row in rows.items() if row["error"]} == bad
    assert {name for name, row in rows.items() if row["vector"] is None} == bad
    assert len(rows) == 13
    # They are not tried again, until they change or are asked for.
    assert embed(clips, output).embedded == 0
    assert embed(clips, output, retry_failed=True).embedded == 3
    (clips / "5empty.mp4").write_bytes(good)
    assert embed(clips, output).embedded == 1
    assert table_of(output)[str(clips / "5empty.mp4")]["error"] is None


def test_names_that_no_file_can_have_stop_nobody(clips: Path, tmp_path: Path) -> None:
    names = ["~nobody-of-this-name/a.mp4", "x" * 300 + ".mp4", "clips/0.mp4"]
    (tmp_path / "list.txt").write_text("\n".join(names))
    report = embed(tmp_path / "list.txt", tmp_path / "v.parquet")
    assert (report.videos, report.embedded, len(report.failed)) == (3, 3, 2)
    assert table_of(tmp_path / "v.parquet")[str(clips / "0.mp4")]["error"] is None


def test_a_folder_that_cannot_be_listed_is_told_and_stops_nobody(
    clips: Path, tmp_path: Path, unlistable: Callable[[Path], None]
) -> None:
    unlistable(clips / "below")
    with pytest.raises(LibraryError, match="below cannot be listed: Permission denied"):
        list_videos(clips)
    report = embed(clips, tmp_path / "v.parquet")
    assert (report.videos, report.embedded, list(report.unlisted)) == (8, 8, [str(clips / "below")])
    done = CliRunner().invoke(app, ["embed", str(clips), "-o", str(tmp_path / "v.parquet"), "-m", DEMO])
    assert done.exit_code == 1
    assert "below cannot be listed: Permission denied" in done.output
    assert "8 of 8 videos are in" in done.output


def test_a_name_that_stands_for_another_file_is_embedded_anew(clips: Path, tmp_path: Path) -> None:
    shutil.copy2(clips / "0.mp4", clips / "same.mp4")  # in size and time
    table = tmp_path / "videos.csv"
    for path, embedded in (("clips/0.mp4", 1), ("clips/0.mp4", 0), ("clips/same.mp4", 1), ("clips/same.mp4", 0)):
        table.write_text(f"id,path\na,{path}\n")
        assert embed(table, tmp_path / "v.parquet").embedded == embedded
        assert table_of(tmp_path / "v.parquet")["a"]["path"] == str(tmp_path / path)


def test_names_that_are_no_text_fail_and_odd_ones_do_not(clips: Path, tmp_path: Path) -> None:
    odd = clips / "a b 'c' \"d\" #é % 你好 <b>.mp4"
    shutil.copy(clips / "1.mp4", odd)
    listed = [odd]
    if sys.platform == "linux":
        broken = os.fsdecode(os.fsencode(clips) + b"/\xff.mp4")
        shutil.copy(clips / "1.mp4", broken)
        listed.append(Path(broken))
    report = embed(listed, tmp_path / "vectors.parquet")
    assert len(report.failed) == len(listed) - 1
    assert all("its name is not UTF-8" in reason for reason in report.failed.values())
    assert table_of(tmp_path / "vectors.parquet")[str(odd)]["error"] is None


def test_dates_that_do_not_fit_into_a_table_stop_nobody(clips: Path, tmp_path: Path) -> None:
    for name, seconds in (("0.mp4", 10413792000), ("1.mp4", -631152000)):  # the years 2300 and 1950
        os.utime(clips / name, (seconds, seconds))
    late = (clips / "0.mp4").stat().st_mtime_ns
    output = tmp_path / "v.parquet"
    assert embed(clips, output).failed == {}
    rows = table_of(output)
    assert rows[str(clips / "0.mp4")]["mtime"] == min(late, 2**63 - 1)
    assert rows[str(clips / "1.mp4")]["mtime"] == (clips / "1.mp4").stat().st_mtime_ns < 0
    assert all(row["vector"] is not None for row in rows.values())
    assert embed(clips, output).embedded == 0


def test_a_crash_in_the_middle_of_a_decoder_is_a_row_too(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith("3\x1b.mp4"):
            raise ZeroDivisionError("a fault\n\x1bof a library")
        return read_frames(path, *arguments, **options)

    monkeypatch.setattr(local_engine, "read_frames", read)
    (clips / "3.mp4").rename(clips / "3\x1b.mp4")
    report = embed(clips, tmp_path / "vectors.parquet")
    assert report.failed == {f"{clips}/3\x1b.mp4": rf"{clips}/3\x1b.mp4: ZeroDivisionError: a fault\n\x1bof a library"}


def test_a_table_holds_vectors_of_one_recipe(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.parquet"
    embed(clips, output)
    kept = output.read_bytes()
    with pytest.raises(LibraryError, match=r"was made with .*12 frames, seek exact, not with .*4 frames"):
        embed(clips, output, frames=4)
    with pytest.raises(LibraryError, match="seek keyframe"):
        embed(clips, output, seek="keyframe")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "theirs.parquet")
    with pytest.raises(
        LibraryError, match=r"is not a table of vectors: .*Expected a Parquet table as `clip4clip embed` writes it"
    ):
        embed(clips, tmp_path / "theirs.parquet")
    os.mkfifo(tmp_path / "pipe.parquet")  # which would be waited for
    with pytest.raises(LibraryError, match=r"no table of vectors at .*pipe\.parquet"):
        list(read_rows(tmp_path / "pipe.parquet"))
    with pytest.raises(LibraryError, match="expected the name of a file in a folder that exists"):
        embed(clips, tmp_path / "none" / "v.parquet")
    with pytest.raises(UnknownNameError, match="'local' or 'ray'"):
        embed(clips, output, engine="spark")
    assert output.read_bytes() == kept


def test_two_processes_cannot_write_one_table(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.parquet"
    with (
        TableWriter(output, TableSpec(identify(None, DEMO), 128, 12, "exact")),
        pytest.raises(LibraryError, match="another process is writing"),
    ):
        embed(clips, output)
    assert embed(clips, output).embedded == 10


def test_a_writer_that_begins_as_another_ends_disturbs_it_not(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, recipe = tmp_path / "vectors.parquet", TableSpec(identify(None, DEMO), 128, 12, "exact")
    refused: list[str] = []

    def remove(*given: Any, **options: Any) -> None:
        try:
            TableWriter(output, recipe).close()
        except LibraryError as error:
            refused.append(str(error))
        rmdir(*given, **options)

    rmdir = os.rmdir
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", remove)  # the last step of the first: its folder of parts, empty by now
        assert embed(clips, output).embedded == 10
    assert refused == [f"another process is writing {output}: wait until it has ended"]
    assert embed(clips, output).kept == 10
    assert not Path(f"{output}.parts").exists()


@pytest.mark.parametrize("name", ["v.csv", "v.npz", "v"])
def test_a_table_is_parquet_by_its_name(name: str, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match=r"is written as Parquet, so its name must end in \.parquet"):
        embed(clips, tmp_path / name, weights="nowhere.pt")  # before the work
    assert list(tmp_path.iterdir()) == [clips]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_pipes_are_neither_written_nor_waited_for(clips: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "v.parquet"
    os.mkfifo(pipe)
    with pytest.raises(LibraryError, match="is not a regular file"):
        embed(clips, pipe)
    with pytest.raises(LibraryError, match="no table of vectors at"):
        TableSpec.of(pipe)


def test_a_vector_that_is_none_is_not_read(tmp_path: Path) -> None:
    recipe = TableSpec(identify(None, DEMO), 128, 12, "exact")
    row = {"id": "a", "path": "a", "model": DEMO, "fingerprint": "0", "vector": np.full(128, 0.5, np.float32)}
    with TableWriter(tmp_path / "v.parquet", recipe) as table:
        table.add([row])
        table.finish()
    with pytest.raises(LibraryError, match="whose norm is not 1"):
        list(read_rows(tmp_path / "v.parquet"))
    (tmp_path / "w.parquet").write_bytes((tmp_path / "v.parquet").read_bytes()[:-9])
    with pytest.raises(LibraryError, match="is not a table of vectors"):
        list(read_rows(tmp_path / "w.parquet"))


def test_memory_holds_no_more_than_a_few_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    handed = 0

    def decode(video: Video, *_: object) -> Any:
        decoded.append(video.id)
        assert len(decoded) - handed <= 3 * local_engine.VIDEOS_AT_ONCE
        return local_engine._Decoded(video, [np.zeros((112, 112, 3), np.uint8)], local_engine.VideoInfo(), None)

    monkeypatch.setattr(local_engine, "_decode", decode)
    videos = (Video(str(number), str(number), None, None) for number in range(200))
    for row in local_engine.embed_videos(videos, VideoEncoder.load(DEMO)):
        assert row["id"] == str(handed)
        handed += 1
    assert handed == 200


# Stopping


def test_ctrl_c_keeps_every_video_that_was_done(clips: Path, tmp_path: Path) -> None:
    def stop(items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 5:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        embed(clips, tmp_path / "vectors.parquet", track=stop)
    report = embed(clips, tmp_path / "vectors.parquet")
    assert (report.embedded, report.kept) == (5, 5)
    assert list(table_of(tmp_path / "vectors.parquet")) == [video.id for video in list_videos(clips)]


# Embeds a library, and waits for its end as soon as it has written a part.
KILLED = """
import sys, threading
from clip4clip.retrieval import library, local_engine, table
library.PART_VIDEOS = 8
decode, add = local_engine._decode, table.TableWriter.add
def noted(video, *rest):
    with open(sys.argv[3], "a") as log:
        print(video.id, file=log)
    return decode(video, *rest)
def add_and_wait(self, rows):
    add(self, rows)
    print("part", flush=True)
    threading.Event().wait()
local_engine._decode, table.TableWriter.add = noted, add_and_wait
library.embed_library(sys.argv[1], sys.argv[2], model_name="clip_vit_tiny_demo", workers=1)
"""


def run_killed(arguments: list[Any]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "part\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL


def test_killed_several_times_it_goes_on_and_loses_one_part_at_most(drawings: Path, tmp_path: Path) -> None:
    folder, output, log = tmp_path / "clips", tmp_path / "vectors.parquet", tmp_path / "log"
    folder.mkdir()
    for copy in range(2):
        for clip in (drawings / "eval").iterdir():
            shutil.copy(clip, folder / f"{copy}-{clip.name}")
    parts = tmp_path / "vectors.parquet.parts"
    for round_ in range(1, 4):
        run_killed([folder, output, log])
        with TableWriter(output, TableSpec(identify(None, DEMO), 128, 12, "exact")) as table:
            assert len(table.known()) == 8 * round_
    report = embed(folder, output)
    assert (report.kept, report.embedded) == (24, 24)
    assert len(table_of(output)) == count_rows(output) == 48
    assert not parts.exists()
    whole = tmp_path / "whole.parquet"
    embed(folder, whole)
    for name, row in table_of(whole).items():
        np.testing.assert_allclose(row["vector"], table_of(output)[name]["vector"], atol=1e-6)
    # What was decoded twice was on its way when the kill came: at most a part, and three batches in memory.
    decoded = log.read_text().split()
    assert len(decoded) - len(set(decoded)) <= 3 * (8 + 24)


@pytest.mark.parametrize("moment", ["write", "replace", "rmtree"])
def test_killed_while_the_parts_are_put_together_nothing_is_lost(
    moment: str, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "vectors.parquet"
    embed(clips, output)
    shutil.copy(clips / "1.mp4", clips / "new.mp4")

    def die(*_: object, **__: object) -> None:
        raise SystemError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(
            *{"write": (pq.ParquetWriter, "write_table"), "replace": (Path, "replace"), "rmtree": (shutil, "rmtree")}[
                moment
            ],
            die,
        )
        with pytest.raises(SystemError):
            embed(clips, output)
    report = embed(clips, output)
    assert report.embedded == (0 if moment == "rmtree" else 1)
    assert count_rows(output) == len(table_of(output)) == 11


# The command


def test_ctrl_c_while_a_part_is_written_loses_none_of_it(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: TableWriter, rows: list[dict[str, Any]]) -> None:
        monkeypatch.setattr(TableWriter, "add", add)
        raise KeyboardInterrupt

    add = TableWriter.add
    monkeypatch.setattr(library, "PART_VIDEOS", 5)
    monkeypatch.setattr(TableWriter, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed(clips, tmp_path / "v.parquet")
    report = embed(clips, tmp_path / "v.parquet")
    assert (report.kept, report.embedded) == (5, 5)


def test_a_folder_is_no_table(clips: Path) -> None:
    for folder in (".", "/", str(clips)):
        done = CliRunner().invoke(app, ["embed", str(clips), "-o", folder, "-m", DEMO])
        assert done.exit_code == 2
        assert "is a folder" in re.sub(r"[│\s]+", " ", done.output)
        with pytest.raises(
            LibraryError, match="cannot be written: expected the name of a file in a folder that exists"
        ):
            TableWriter(folder, TableSpec(identify(None, DEMO), 128, 12, "exact"))


def test_the_command_tells_what_it_did_and_lists_what_failed(clips: Path, tmp_path: Path) -> None:
    (clips / "bad.mp4").write_text("not a video")
    command = ["embed", str(clips), "-o", str(tmp_path / "v.parquet"), "-m", DEMO]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "10 of 11 videos are in" in result.stderr
    assert f"failed {clips / 'bad.mp4'}: unsupported or corrupt video" in result.stderr
    (clips / "bad.mp4").unlink()
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    assert "0 looked at now" in result.stderr
    assert "10 known before" in result.stderr


def test_ctrl_c_on_the_command_says_that_it_goes_on(drawings: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "clips", tmp_path / "v.parquet"
    folder.mkdir()
    for copy in range(2):
        for clip in (drawings / "eval").iterdir():
            (folder / f"{copy}-{clip.name}").symlink_to(clip)
    # After ten videos the command waits for the signal.
    code = """
from clip4clip import cli
tracker = cli._tracker
def waiting(progress, stopped):
    def track(*given):
        for number, item in enumerate(tracker(progress, stopped)(*given), 1):
            yield item
            if number == 10:
                print("reached", flush=True)
                stopped.wait()
    return track
cli._tracker = waiting
cli.main()
"""
    command = [sys.executable, "-c", code, "embed", folder, "-o", output, "-m", DEMO, "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "reached\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert "stopped: finished videos are kept; run the same command to resume" in said
    assert "Traceback" not in said
    report = embed(folder, output)
    assert (report.kept, report.embedded) == (10, 38)
    assert report.videos == len(table_of(output)) == 48
