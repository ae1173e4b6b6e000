"""The commands that manage the videos of an index."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from index_rows import random_rows

from clip4clip.retrieval import VideoIndex

Run = Callable[..., tuple[int, str, str]]
NOON = datetime.fromisoformat("2025-06-01T12:00").timestamp()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: files ``old/v0.mp4`` to ``old/v3.mp4``, and ``videos.db`` with these and three others.

    The file of v4 is gone, its id is "own"; v5 is behind a URL, and v6 was in a folder that is gone.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    paths = [str(tmp_path / "old" / f"v{number}.mp4") for number in range(5)]
    paths += ["https://example.org/v5.mp4", str(tmp_path / "gone" / "sub" / "v6.mp4")]
    for path in paths[:4]:
        Path(path).touch()
    with VideoIndex("videos.db") as index:
        index.add(
            row | {"path": path, "id": "own" if number == 4 else path, "mtime": int((NOON + 86400 * number) * 1e9)}
            for number, (row, path) in enumerate(zip(random_rows(len(paths)), paths, strict=True))
        )
    return tmp_path


def stored(folder: Path) -> list[str]:
    """The names of the videos in the index."""
    with VideoIndex(folder / "videos.db") as index:
        return sorted(Path(hit.path).stem for hit in index.videos())


def test_list_prints_a_line_for_each_video(library: Path, run_main: Run) -> None:
    code, printed, errors = run_main("list")
    assert (code, errors) == (0, "7 videos\n")
    lines = printed.splitlines()
    assert lines[0] == f"2025-06-01 12:00     0:00  {library / 'old' / 'v0.mp4'}"
    assert lines[4] == f"2025-06-05 12:00     0:04  {library / 'old' / 'v4.mp4'} (own)"
    assert lines[5].endswith("     0:05  https://example.org/v5.mp4")
    assert run_main("list", "--filter", "duration == 2")[1:] == (f"{lines[2]}\n", "1 video\n")
    options = ["--since", "2025-06-02", "--until", "2025-06-03", "--filter", "duration > 0"]
    assert run_main("list", *options)[1].splitlines() == lines[1:3]
    printed = run_main("list", "--json", "--filter", "duration == 4")[1]
    assert json.loads(printed) == {
        "id": "own",
        "path": str(library / "old" / "v4.mp4"),
        "video": "own",
        "start": None,
        "end": None,
        "duration": 4.0,
        "mtime": int((NOON + 86400 * 4) * 1e9),
    }


def test_list_shows_missing_videos_and_the_folders_that_do_not_exist(library: Path, run_main: Run) -> None:
    code, printed, errors = run_main("list", "--missing")
    assert code == 0
    assert [line.split(maxsplit=3)[3] for line in printed.splitlines()] == [
        f"{library / 'old' / 'v4.mp4'} (own)",
        f"{library / 'gone' / 'sub' / 'v6.mp4'}",
    ]
    assert "2 videos missing\n" in errors
    assert f"1 in {library / 'gone'}, a folder that does not exist. Is its disk mounted?" in errors
    assert str(library / "old") not in errors
    printed = run_main("list", "--missing", "--json", "--until", "2025-06-05")[1]
    assert [json.loads(line)["id"] for line in printed.splitlines()] == ["own"]


def test_paths_are_printed_without_control_characters(library: Path, run_main: Run) -> None:
    with VideoIndex("videos.db") as index:
        index.add([random_rows(1)[0] | {"path": "/a\x1b[31m\n.mp4"}])
    assert run_main("list", "--filter", 'id == "v0"')[1].endswith(r"  /a\x1b[31m\n.mp4 (v0)" + "\n")


@pytest.fixture
def with_segments(library: Path) -> Path:
    """The library, with a video ``/long.mp4`` of three segments."""
    with VideoIndex("videos.db") as index:
        index.add(
            row
            | {"id": f"/long.mp4#t={start},{start + 15}", "video": "/long.mp4", "path": "/long.mp4"}
            | {"start": start, "end": start + 15, "duration": 3725.0}
            for row, start in zip(random_rows(3, start=20), (0, 745, 3700), strict=True)
        )
    return library


def test_a_video_that_is_cut_is_one_line_and_with_segments_one_for_each(with_segments: Path, run_main: Run) -> None:
    code, printed, errors = run_main("list", "--filter", "duration > 3600")
    assert (code, errors) == (0, "1 video\n")
    assert printed == f"{'':16} {'1:02:05':>8}  /long.mp4, 3 segments\n"
    assert run_main("list")[2] == "8 videos\n"
    code, printed, errors = run_main("list", "--segments", "--filter", "start >= 745")
    assert (code, errors) == (0, "2 segments of 1 video\n")
    assert printed.splitlines() == [f"{'':16} 12:25–12:40  /long.mp4", f"{'':16} 1:01:40–1:01:55  /long.mp4"]
    row = json.loads(run_main("list", "--segments", "--json", "--filter", "start == 745")[1])
    assert row == {"id": "/long.mp4#t=745,760", "path": "/long.mp4", "video": "/long.mp4"} | {
        "start": 745.0,
        "end": 760.0,
        "duration": 3725.0,
    }
    assert json.loads(run_main("list", "--json", "--filter", "start == 745")[1])["segments"] == 1


def test_a_video_is_deleted_with_its_segments_and_a_filter_deletes_single_ones(
    with_segments: Path, run_main: Run
) -> None:
    errors = run_main("delete", "--filter", "start > 3600", "--yes")[2]
    assert "  /long.mp4 1:01:40–1:01:55\n" in errors
    assert "1 segment of 1 video removed; 8 videos in collection 'videos' of ./videos.db" in errors
    errors = run_main("delete", "/long.mp4#t=0,15", "own", "--yes")[2]
    assert "1 segment of 2 videos removed; 7 videos in" in errors
    errors = run_main("delete", "/long.mp4", "--yes")[2]
    assert "1 video removed; 6 videos in" in errors
    lines = dict(line.split(maxsplit=1) for line in run_main("info")[1].splitlines())
    assert (lines["videos"], lines["vectors"]) == ("6", "6 of 128 numbers")


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_list_ends_when_its_reader_does(library: Path) -> None:
    with VideoIndex("videos.db") as index:
        index.add(row | {"path": "/" + "long" * 100} for row in random_rows(500))
    with subprocess.Popen(
        [sys.executable, "-m", "clip4clip", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_info_describes_the_index(library: Path, run_main: Run) -> None:
    code, printed, _ = run_main("info")
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert lines["index"] == str(library / "videos.db")
    assert lines["model"] == "clip_vit_tiny_demo with the weights 06445998e193e11d"
    assert lines["sampling"] == "12 frames, seek 'auto', segments 'auto', every 1 s"
    assert (lines["videos"], lines["vectors"]) == ("7", "7 of 128 numbers")
    assert lines["fields"] == "duration (number), mtime (number)"
    summary = json.loads(run_main("info", "--json")[1])
    assert (summary["videos"], summary["dim"], summary["fields"]["mtime"]) == (7, 128, ["number"])
    assert summary["sampling"] == {"frames": 12, "seek": "auto", "segments": "auto", "every": 1.0}
    assert summary["bytes"] > 7 * 128 * 4


def test_delete_removes_videos_by_id_or_path(library: Path, run_main: Run, error_of: Callable[..., str]) -> None:
    code, printed, errors = run_main("delete", "own", "old/v0.mp4", library / "old" / "v1.mp4", "own", "--yes")
    assert (code, printed) == (0, "")
    assert "3 videos removed; 4 videos in collection 'videos' of ./videos.db" in errors
    assert stored(library) == ["v2", "v3", "v5", "v6"]
    assert (library / "old" / "v0.mp4").exists()
    errors = error_of("delete", "old/v2.mp4", "nothing", "--yes")
    assert "the index has no video with the id 'nothing'; nothing was removed" in errors
    assert stored(library) == ["v2", "v3", "v5", "v6"]


def test_delete_removes_missing_videos_and_those_that_meet_a_filter(
    library: Path, run_main: Run, error_of: Callable[..., str]
) -> None:
    assert "there are no such videos" in run_main("delete", "--missing", "--filter", "duration < 4", "--yes")[2]
    errors = run_main("delete", "--missing", "--filter", "duration < 6", "--yes")[2]
    assert f"  {library / 'old' / 'v4.mp4'}\n" in errors
    assert "1 video removed; 6 videos in" in errors
    errors = run_main("delete", "--missing", "--yes")[2]
    assert f"1 in {library / 'gone'}, a folder that does not exist" in errors
    assert stored(library) == ["v0", "v1", "v2", "v3", "v5"]
    assert "2 videos removed" in run_main("delete", "--filter", "duration in [1, 5]", "--yes")[2]
    assert stored(library) == ["v0", "v2", "v3"]
    for condition in ("not (camera == 1)", "duration ="):
        error_of("delete", "--filter", condition, "--yes")
    assert stored(library) == ["v0", "v2", "v3"]


def test_without_a_terminal_and_without_yes_nothing_is_changed(
    library: Path, error_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (library / "new").mkdir()
    (library / "new" / "v0.mp4").touch()
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        for command in (["delete", "--filter", "duration < 100"], ["relocate", "old", "new"]):
            errors = error_of(*command)
            assert f"  {library / 'old' / 'v0.mp4'}" in errors
            assert "error nothing was changed, as there is no terminal to ask on: add --yes" in errors
    assert stored(library) == ["v0", "v1", "v2", "v3", "v4", "v5", "v6"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, 7), (b"y\n", 0, 2), (None, 130, 7)])
def test_on_a_terminal_the_command_asks(answer: bytes | None, code: int, left: int, library: Path) -> None:
    import pty

    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "clip4clip", "delete", "--filter", "duration < 5"]
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True)
    os.close(terminal)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(controller, 1000)
    if answer is not None:
        os.write(controller, answer)
    # A signal between the question and the read of its answer does not end the read: Ctrl-C is pressed again.
    for _ in range(30):
        if answer is None:
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
            break
    assert process.returncode == code
    os.close(controller)
    assert b"Remove 5 videos from the index? Their files stay." in shown
    assert len(stored(library)) == left


def test_a_question_shows_ten_videos_and_counts_the_others(library: Path, run_main: Run) -> None:
    with VideoIndex("videos.db") as index:
        index.add(random_rows(1500))
    errors = run_main("delete", "--filter", 'id like "v%"', "--yes")[2]
    assert len([line for line in errors.splitlines() if line.startswith("  /videos/v")]) == 10
    assert "  and 1,490 more\n" in errors
    assert "1,500 videos removed; 7 videos in" in errors


def test_relocate_changes_paths_and_says_what_it_does_not_change(
    library: Path, run_main: Run, error_of: Callable[..., str]
) -> None:
    old, new = library / "old", library / "new"
    assert "none of the 5 videos below old is in new" in error_of("relocate", "old", "new", "--yes")
    (old / "v3.mp4").unlink()
    old.rename(new)
    with VideoIndex("videos.db") as index:
        index.add([random_rows(1, start=9)[0] | {"path": str(new / "v2.mp4")}])
    code, printed, errors = run_main("relocate", "old", "new", "--yes")
    assert (code, printed) == (0, "")
    assert f"  {old / 'v0.mp4'} → {new / 'v0.mp4'}\n" in errors
    assert f"2 videos will not change, as there is no file at the new path, such as {new / 'v3.mp4'}" in errors
    assert f"1 video will not change, as the index already has a video at the new path, such as {new / 'v2.mp4'}" in (
        errors
    )
    assert "2 videos relocated\n" in errors
    with VideoIndex("videos.db") as index:
        assert {hit.path for hit in index.videos("duration < 3")} == {
            str(new / "v0.mp4"),
            str(new / "v1.mp4"),
            str(old / "v2.mp4"),
        }
    errors = run_main("relocate", "old", "new", "--force", "--yes")[2]
    assert "no file" not in errors
    assert "2 videos relocated\n" in errors
    assert "the index has no video below gone2" in error_of("relocate", "gone2", "new", "--yes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--uri", "none.db"], "no index at none.db: create it with `clip4clip index`"),
        (["info", "--uri", "none.db"], "no index at none.db"),
        (["relocate", "a", "b", "--uri", "none.db"], "no index at none.db"),
        (["delete", "a", "--uri", "none.db"], "no index at none.db"),
        (["list", "--segments", "--missing"], "cannot be combined with --missing"),
        (["delete"], "give either ids, or --filter, --missing or both"),
        (["delete", "a", "--missing"], "give either ids, or --filter, --missing or both"),
        (["delete", "--filter", " "], "give either ids, or --filter, --missing or both"),
        (["list", "--collection", "none"], "there is no collection 'none' in"),
        (["list", "--since", "soon"], "since is 'soon', which is not a date"),
        (["relocate", "old", "old/"], "the old and the new folder are the same"),
        (["relocate", "", "new"], "the old folder is empty"),
    ],
)
def test_invalid_arguments_are_errors(
    arguments: list[str], message: str, library: Path, error_of: Callable[..., str]
) -> None:
    assert message in error_of(*arguments)
    assert not (library / "none.db").exists()
