"""A library embedded into a table: what it holds, what a second run does, and what a kill costs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from constants import DEMO_MODEL
from library_tables import demo_spec, embed, rows_by_id, write_scenes
from typer.testing import CliRunner

from clip4clip import LibraryError, VideoEncoder
from clip4clip.cli import app
from clip4clip.library import embed as embed_module
from clip4clip.library.local_engine import ReportPosition
from clip4clip.library.sources import Video, list_videos
from clip4clip.library.table import TableSpec, TableWriter, count_rows, read_rows
from clip4clip.video import FrameSampling, read_frames
from clip4clip.weights.identity import identify


def test_every_column_describes_the_files(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.parquet"
    report = embed(clips, output)
    assert (report.videos, report.segments, report.processed, report.unchanged) == (10, 10, 10, 0)
    assert report.failed == {}
    schema = pq.read_schema(output)
    assert schema.field("vector").type == pa.list_(pa.float32(), 128)
    names = "id video path start end vector duration frame_count uniform model fingerprint size mtime error"
    assert schema.names == names.split()
    encoder = VideoEncoder.load(DEMO_MODEL)
    rows = list(read_rows(output))
    assert [row["id"] for row in rows] == [video.id for video in list_videos(clips)]
    for row in rows:
        path = Path(row["path"])
        assert (row["size"], row["mtime"]) == (path.stat().st_size, path.stat().st_mtime_ns)
        assert (row["frame_count"], row["duration"], row["error"]) == (16, pytest.approx(2.0), None)
        assert (row["video"], row["start"], row["end"], row["uniform"]) == (row["id"], None, None, False)
        assert (row["model"], row["fingerprint"]) == (DEMO_MODEL, identify(None, DEMO_MODEL).fingerprint)
        np.testing.assert_allclose(row["vector"], encoder(read_frames(path)), atol=1e-6)
    assert not Path(f"{output}.parts").exists()


def test_a_second_run_embeds_only_new_and_changed_videos(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.parquet"
    embed(clips, output)
    before = output.read_bytes()
    again = embed(clips, output)
    assert (again.segments, again.processed, again.unchanged) == (10, 0, 10)
    assert output.read_bytes() == before
    shutil.copy(clips / "1.mp4", clips / "new.mp4")
    shutil.copy(clips / "2.mp4", clips / "3.mp4")  # changes size and time
    (clips / "4.mp4").unlink()
    third = embed(clips, output)
    assert (third.videos, third.processed, third.unchanged) == (10, 2, 8)
    rows = rows_by_id(output)
    assert len(rows) == count_rows(output) == 11  # rows of deleted videos are kept, unlike in VideoIndex.sync
    np.testing.assert_allclose(rows[str(clips / "3.mp4")]["vector"], rows[str(clips / "2.mp4")]["vector"], atol=1e-6)


def test_failed_videos_have_rows_that_say_why_and_do_not_stop_the_run(clips: Path, tmp_path: Path) -> None:
    (clips / "0text.mp4").write_text("this is not a video")
    (clips / "5empty.mp4").touch()
    good = (clips / "1.mp4").read_bytes()
    (clips / "6half.mp4").write_bytes(good[: len(good) // 2])
    output = tmp_path / "vectors.parquet"
    report = embed(clips, output)
    bad = {str(clips / name) for name in ("0text.mp4", "5empty.mp4", "6half.mp4")}
    assert set(report.failed) == bad
    rows = rows_by_id(output)
    assert {name for name, row in rows.items() if row["error"]} == bad
    assert {name for name, row in rows.items() if row["vector"] is None} == bad
    assert len(rows) == 13
    # They are tried again when they change, or on request.
    assert embed(clips, output).processed == 0
    assert embed(clips, output, retry_failed=True).processed == 3
    (clips / "5empty.mp4").write_bytes(good)
    assert embed(clips, output).processed == 1
    assert rows_by_id(output)[str(clips / "5empty.mp4")]["error"] is None


def test_impossible_file_names_do_not_stop_the_run(clips: Path, tmp_path: Path) -> None:
    names = ["~nobody-of-this-name/a.mp4", "x" * 300 + ".mp4", "clips/0.mp4"]
    (tmp_path / "list.txt").write_text("\n".join(names))
    report = embed(tmp_path / "list.txt", tmp_path / "v.parquet")
    assert (report.videos, report.processed, len(report.failed)) == (3, 3, 2)
    assert rows_by_id(tmp_path / "v.parquet")[str(clips / "0.mp4")]["error"] is None


def test_a_folder_that_cannot_be_listed_is_reported_and_does_not_stop_the_run(
    clips: Path, tmp_path: Path, unlistable: Callable[[Path], None]
) -> None:
    unlistable(clips / "below")
    with pytest.raises(LibraryError, match="below cannot be listed: Permission denied"):
        list_videos(clips)
    report = embed(clips, tmp_path / "v.parquet")
    assert (report.videos, report.processed, list(report.unlisted)) == (8, 8, [str(clips / "below")])
    done = CliRunner().invoke(app, ["embed", str(clips), "-o", str(tmp_path / "v.parquet"), "-m", DEMO_MODEL])
    assert done.exit_code == 1
    assert "below cannot be listed: Permission denied" in done.output
    assert "8 of 8 videos are in" in done.output


def test_an_id_that_names_another_file_is_embedded_again(clips: Path, tmp_path: Path) -> None:
    shutil.copy2(clips / "0.mp4", clips / "same.mp4")  # in size and time
    table = tmp_path / "videos.csv"
    for path, embedded in (("clips/0.mp4", 1), ("clips/0.mp4", 0), ("clips/same.mp4", 1), ("clips/same.mp4", 0)):
        table.write_text(f"id,path\na,{path}\n")
        assert embed(table, tmp_path / "v.parquet").processed == embedded
        assert rows_by_id(tmp_path / "v.parquet")["a"]["path"] == str(tmp_path / path)


def test_file_times_out_of_range_are_limited_and_do_not_stop_the_run(clips: Path, tmp_path: Path) -> None:
    for name, seconds in (("0.mp4", 10413792000), ("1.mp4", -631152000)):  # the years 2300 and 1950
        os.utime(clips / name, (seconds, seconds))
    late = (clips / "0.mp4").stat().st_mtime_ns
    output = tmp_path / "v.parquet"
    assert embed(clips, output).failed == {}
    rows = rows_by_id(output)
    assert rows[str(clips / "0.mp4")]["mtime"] == min(late, 2**63 - 1)
    assert rows[str(clips / "1.mp4")]["mtime"] == (clips / "1.mp4").stat().st_mtime_ns < 0
    assert all(row["vector"] is not None for row in rows.values())
    assert embed(clips, output).processed == 0


def test_a_table_of_other_vectors_is_rejected_and_left_alone(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.parquet"
    embed(clips, output)
    before = output.read_bytes()
    recipe = r"was made with .*12 frames, seek 'auto', segments 'auto', every 1 s, not with .*"
    with pytest.raises(LibraryError, match=recipe + "4 frames"):
        embed(clips, output, sampling=FrameSampling(frames=4))
    with pytest.raises(LibraryError, match=recipe + "12 frames, seek 'auto', segments of 10 s, every 1 s"):
        embed(clips, output, sampling=FrameSampling(segments=10, every=1))
    with pytest.raises(LibraryError, match="seek 'keyframe'"):
        embed(clips, output, sampling=FrameSampling(seek="keyframe"))
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(
        LibraryError, match=r"is not a table of vectors: .*Expected a Parquet table as `clip4clip embed` writes it"
    ):
        embed(clips, tmp_path / "other.parquet")
    os.mkfifo(tmp_path / "pipe.parquet")  # opening it would wait for a writer
    with pytest.raises(LibraryError, match=r"no table of vectors at .*pipe\.parquet"):
        list(read_rows(tmp_path / "pipe.parquet"))
    with pytest.raises(LibraryError, match="expected the name of a file in a folder that exists"):
        embed(clips, tmp_path / "none" / "v.parquet")
    assert output.read_bytes() == before


def test_ctrl_c_keeps_every_finished_video(clips: Path, tmp_path: Path) -> None:
    def stop(items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 5:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        embed(clips, tmp_path / "vectors.parquet", track=stop)
    report = embed(clips, tmp_path / "vectors.parquet")
    assert (report.processed, report.unchanged) == (5, 5)
    assert list(rows_by_id(tmp_path / "vectors.parquet")) == [video.id for video in list_videos(clips)]


@pytest.fixture
def long_videos(tmp_path: Path) -> Path:
    """A folder with two videos of several shots and one of a single scene that is not cut."""
    folder = tmp_path / "long"
    folder.mkdir()
    write_scenes(folder / "a.mp4", (1, 20), (2, 20), (4, 20))
    write_scenes(folder / "b.mp4", (1, 4))
    write_scenes(folder / "c.mp4", (5, 20), (None, 20))
    return folder


def times_by_video(table: Path) -> dict[str, list[tuple[float | None, float | None]]]:
    """Start and end of the rows of each video, by the name of its file."""
    times: dict[str, list[tuple[float | None, float | None]]] = {}
    for row in read_rows(table):
        times.setdefault(Path(row["video"]).name, []).append((row["start"], row["end"]))
    return times


def test_a_library_with_segments_counts_videos_and_segments(long_videos: Path, tmp_path: Path) -> None:
    output = tmp_path / "v.parquet"
    report = embed(long_videos, output)
    assert (report.videos, report.segments, report.processed, report.failed) == (3, 5, 3, {})
    times = times_by_video(output)
    assert list(times) == ["a.mp4", "b.mp4", "c.mp4"]
    assert [len(rows) for rows in times.values()] == [3, 1, 2]
    for row in read_rows(output):
        assert row["video"] == row["path"]
        assert row["size"] == Path(row["path"]).stat().st_size
    again = embed(long_videos, output)
    assert (again.segments, again.processed, again.unchanged) == (5, 0, 3)


def test_a_changed_video_with_fewer_segments_loses_its_old_ones(long_videos: Path, tmp_path: Path) -> None:
    output = tmp_path / "v.parquet"
    embed(long_videos, output)
    write_scenes(long_videos / "a.mp4", (2, 4))
    write_scenes(long_videos / "b.mp4", (1, 20), (2, 20))
    (long_videos / "c.mp4").write_text("not a video any more")
    report = embed(long_videos, output)
    assert (report.videos, report.segments, report.processed, len(report.failed)) == (3, 3, 3, 1)
    assert {name: len(rows) for name, rows in times_by_video(output).items()} == {"a.mp4": 1, "b.mp4": 2, "c.mp4": 1}
    write_scenes(long_videos / "c.mp4", (5, 20), (None, 20))
    assert embed(long_videos, output, retry_failed=True).segments == 4


def test_finished_videos_are_written_while_a_long_one_is_embedded(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_videos = embed_module.embed_videos
    positions: list[tuple[str, float, float | None]] = []
    written: list[int] = []

    def embed_all_and_report(
        videos: list[Video], report_position: ReportPosition, **options: Any
    ) -> Iterator[list[dict[str, Any]]]:
        yield from embed_videos(videos, **options)
        for seconds in (0.0, embed_module.PART_SECONDS):
            monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: start + seconds + 1)
            report_position(videos[0], 5.0, 100.0)
            written.append(sum(count_rows(part) for part in tmp_path.glob("*.parts/*")))

    start = time.monotonic()
    monkeypatch.setattr(embed_module, "embed_videos", embed_all_and_report)
    monkeypatch.setattr(time, "monotonic", lambda: start)
    embed(
        clips, tmp_path / "v.parquet", report_position=lambda video, *position: positions.append((video.id, *position))
    )
    assert written == [0, 10]
    assert positions == [(str(clips / "0.mp4"), 5.0, 100.0)] * 2


# Embeds a library, and after each part waits to be killed. Logs the videos that are decoded.
EMBED_ONE_PART = """
import sys, threading
from clip4clip.encoder import EncoderSpec
from clip4clip.library import embed, local_engine, table
embed.PART_ROWS = 8
read_sampled, add = local_engine.read_sampled, table.TableWriter.add
def read_and_log(path, *arguments, **options):
    with open(sys.argv[3], "a") as log:
        print(path, file=log)
    return read_sampled(path, *arguments, **options)
def add_and_wait(self, rows):
    add(self, rows)
    print("part", flush=True)
    threading.Event().wait()
local_engine.read_sampled, table.TableWriter.add = read_and_log, add_and_wait
embed.embed_library(sys.argv[1], sys.argv[2], EncoderSpec("clip_vit_tiny_demo"), workers=1)
"""


def embed_one_part_and_kill(*arguments: Path) -> None:
    command = [sys.executable, "-c", EMBED_ONE_PART, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "part\n"
        process.kill()


@pytest.mark.slow
def test_killed_several_times_it_resumes_and_loses_at_most_one_part(
    drawings: Path, drawings_table: Path, tmp_path: Path
) -> None:
    folder, output, log = tmp_path / "clips", tmp_path / "vectors.parquet", tmp_path / "log"
    folder.mkdir()
    for copy in range(2):
        for clip in (drawings / "eval").iterdir():
            shutil.copy(clip, folder / f"{copy}-{clip.name}")
    for kill in range(1, 4):
        embed_one_part_and_kill(folder, output, log)
        with TableWriter(output, demo_spec()) as table:
            assert len(table.videos()) == 8 * kill
    # Each kill loses at most the videos that are decoded and not yet in a part: three batches in memory.
    assert len(log.read_text().splitlines()) <= 3 * (8 + 24)
    report = embed(folder, output)
    assert (report.unchanged, report.processed) == (24, 24)
    rows = rows_by_id(output)
    assert len(rows) == count_rows(output) == 48
    assert not Path(f"{output}.parts").exists()
    whole = {Path(row["path"]).name: row["vector"] for row in read_rows(drawings_table)}
    for row in rows.values():
        name = Path(row["path"]).name.split("-", 1)[1]
        np.testing.assert_allclose(row["vector"], whole[name], atol=1e-6)


@pytest.mark.slow
def test_killed_in_a_library_with_segments_no_video_is_half_in_the_table(long_videos: Path, tmp_path: Path) -> None:
    for name in ("d.mp4", "e.mp4", "f.mp4"):
        shutil.copy(long_videos / "a.mp4", long_videos / name)
    output = tmp_path / "v.parquet"
    embed_one_part_and_kill(long_videos, output, tmp_path / "log")
    with TableWriter(output, demo_spec()) as table:
        before = len(table.videos())
    assert 0 < before < 6
    report = embed(long_videos, output)
    assert (report.unchanged, report.processed, report.segments) == (before, 6 - before, 14)
    embed(long_videos, tmp_path / "whole.parquet")
    rows, expected = rows_by_id(output), rows_by_id(tmp_path / "whole.parquet")
    assert rows.keys() == expected.keys()
    assert len(rows) == count_rows(output) == 15
    for row_id, row in rows.items():
        if row["vector"] is not None:
            np.testing.assert_allclose(row["vector"], expected[row_id]["vector"], atol=1e-6)


def test_an_interrupted_merge_of_parts_is_completed_by_the_next_run(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "vectors.parquet"
    monkeypatch.setattr(embed_module, "PART_ROWS", 4)

    def die(_: TableWriter) -> None:
        raise SystemError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(TableWriter, "finish", die)
        with pytest.raises(SystemError):
            embed(clips, output)
    assert not output.exists()
    report = embed(clips, output)
    assert (report.unchanged, report.processed, count_rows(output)) == (10, 0, 10)


def test_ctrl_c_while_a_part_is_written_loses_none_of_it(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: TableWriter, rows: list[dict[str, Any]]) -> None:
        monkeypatch.setattr(TableWriter, "add", add)
        raise KeyboardInterrupt

    add = TableWriter.add
    monkeypatch.setattr(embed_module, "PART_ROWS", 5)
    monkeypatch.setattr(TableWriter, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed(clips, tmp_path / "v.parquet")
    report = embed(clips, tmp_path / "v.parquet")
    assert (report.unchanged, report.processed) == (5, 5)


def test_the_command_reports_what_it_did_and_lists_failed_videos(clips: Path, tmp_path: Path) -> None:
    (clips / "bad.mp4").write_text("not a video")
    command = ["embed", str(clips), "-o", str(tmp_path / "v.parquet"), "-m", DEMO_MODEL]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "10 of 11 videos are in" in result.stderr
    assert f"failed {clips / 'bad.mp4'}: unsupported or corrupt video" in result.stderr
    (clips / "bad.mp4").unlink()
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    assert "(0 processed in " in result.stderr
    assert " 10 unchanged, 0 failed)" in result.stderr


def test_the_command_counts_the_segments_and_takes_another_way_to_cut(long_videos: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "v.parquet")
    command = ["embed", str(long_videos), "-m", DEMO_MODEL, "-o"]
    result = CliRunner().invoke(app, [*command, output])
    assert result.exit_code == 0
    assert f"3 of 3 videos are in {output}, with 5 segments (3 processed in" in result.stderr
    result = CliRunner().invoke(app, [*command, output, "--segments", "10"])
    assert "seek 'auto', segments 'auto', every 1 s, not with" in str(result.exception)
    other = str(tmp_path / "w.parquet")
    result = CliRunner().invoke(app, [*command, other, "--segments", "10", "--every", "1", "--seek", "exact"])
    assert result.exit_code == 0
    assert TableSpec.read(Path(other)).sampling == FrameSampling(12, "exact", 10, 1)
    assert times_by_video(Path(other))["a.mp4"][:2] == [(0, 10), (5, 15)]


# Runs the command line; after ten videos it waits for a signal.
STOP_AFTER_TEN = """
import threading
from clip4clip import cli
from clip4clip.library import embed
embed_videos = embed.embed_videos
def embed_ten_and_wait(videos, **options):
    for number, row in enumerate(embed_videos(videos, **options), 1):
        yield row
        if number == 10:
            print("reached", flush=True)
            threading.Event().wait()
embed.embed_videos = embed_ten_and_wait
cli.main()
"""


def test_ctrl_c_on_the_command_says_how_to_resume(drawings: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "clips", tmp_path / "v.parquet"
    folder.mkdir()
    for clip in (drawings / "eval").iterdir():
        (folder / clip.name).symlink_to(clip)
    command = [sys.executable, "-c", STOP_AFTER_TEN, "embed", folder, "-o", output, "-m", DEMO_MODEL, "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "reached\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "stopped: finished videos are kept; run the same command to resume" in errors
    assert "Traceback" not in errors
    report = embed(folder, output)
    assert (report.unchanged, report.processed) == (10, 14)
    assert report.videos == len(rows_by_id(output)) == 24
