"""The command ``search``: its arguments, the conditions that they become, and what it makes of the results."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from clips import X264, write
from constants import DEMO_MODEL
from index_rows import random_rows

from clip4clip import IndexUnavailableError
from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search"], "give one of a text, --video and --like"),
        (["search", "a", "--video", "a.mp4"], "give one of a text, --video and --like"),
        (["search", "--like", "/a", "--video", "a.mp4"], "give one of a text, --video and --like"),
        (["search", "--like", " "], "the id of a video must not be empty"),
        (["search", "a", "--at", "5"], "--at: it needs --like ID"),
        (["search", "--like", "/a", "--at", "12:3x"], "'12:3x' is not a time: expected seconds, such as 750, or"),
        (["search", "@two.txt"], "expected one sentence, but got several lines"),
        (["search", "--video", ""], "the name of a video must not be empty"),
        (["search", "a", "--uri", "none.db"], "no index at none.db: create it with `clip4clip index`"),
        (["search", "a", "--per-video", "0"], "--per-video: '0' is neither a number from 1 nor the word all"),
        (["search", "a", "--per-video", "-1"], "--per-video: '-1' is neither a number from 1 nor the word all"),
        (["search", "a", "--min-score", "2"], "--min-score"),
        (["search", "a", "--json", "--csv"], "give either --json or --csv"),
        (["search", "a", "--exact"], "--exact: it needs --clips FOLDER"),
        (["search", "a", "--padding", "1"], "--padding: it needs --clips FOLDER or --edl FILE.edl"),
        (["search", "a", "--edl-rate", "25"], "--edl-rate: it needs --edl FILE.edl"),
        (["search", "a", "--clips", "two.txt"], "two.txt is a file; expected a folder"),
        (["search", "a", "--edl", "a.txt"], "its name must end in .edl"),
        (["search", "a", "--edl", "a.edl", "--edl-rate", "fast"], "'fast': the frame rate of an edit list must be"),
    ],
)
def test_invalid_arguments_are_errors(
    arguments: list[str], message: str, error_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.txt").write_text("a\nb\n")
    assert message in error_of(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["two.txt"]


def test_options_select_rows(
    run_main: Callable[..., tuple[int, str, str]], error_of: Callable[..., str], tmp_path: Path
) -> None:
    day = 86_400 * 10**9
    with VideoIndex(tmp_path / "v.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        index.add(row | {"video": "one", "mtime": number * day} for number, row in enumerate(random_rows(4)))

    def found(*options: str) -> list[str]:
        code, printed, errors = run_main("search", "a red square", "--json", "--uri", tmp_path / "v.db", *options)
        assert code == 0, errors
        return sorted(json.loads(line)["id"] for line in printed.splitlines())

    assert len(found()) == 1
    assert len(found("--per-video", "2")) == 2
    assert found("--per-video", "all") == ["v0", "v1", "v2", "v3"]
    assert found("--per-video", "all", "--since", "1970-01-02T12:00Z") == ["v2", "v3"]
    assert found("--per-video", "all", "--since", "1970-01-02T00:00Z", "--until", "1970-01-03T00:00Z") == ["v1", "v2"]
    assert found("--per-video", "all", "--since", "1970-01-02T12:00Z", "--filter", "duration > 2") == ["v3"]
    errors = error_of("search", "a", "--since", "last week", "--uri", tmp_path / "v.db")
    assert "since is 'last week', which is not a date: expected a date such as \"2025-06-01\"" in errors


def test_videos_of_the_index_are_found_that_are_like_a_moment_of_another_one(
    run_main: Callable[..., tuple[int, str, str]], error_of: Callable[..., str], tmp_path: Path
) -> None:
    rows = random_rows(4)
    rows[0] |= {"id": "first", "video": "/a", "start": 0.0, "end": 740.0, "vector": rows[2]["vector"]}
    rows[1] |= {"id": "second", "video": "/a", "start": 740.0, "end": 760.0, "vector": rows[3]["vector"]}
    with VideoIndex(tmp_path / "v.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        index.add(rows)

    def found(*options: str) -> list[str]:
        code, printed, errors = run_main("search", "--json", "--uri", tmp_path / "v.db", *options)
        assert code == 0, errors
        return [json.loads(line)["id"] for line in printed.splitlines()]

    assert sorted(found("--like", "/a")) == ["v2", "v3"]
    for time, best in {"3.5": "v2", "0:12:30": "v3", "12:30.": "v3", "750": "v3"}.items():
        assert found("--like", "/a", "--at", time, "-k", "1") == [best], time
    assert found("--like", "/a", "--at", "750", "--filter", "duration < 3") == ["v2"]
    assert "the index has no video with the id '/b'" in error_of("search", "--like", "/b", "--uri", tmp_path / "v.db")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the index ``v.db``: two moments of one video, a whole video, and a moment of a missing one."""
    folder = tmp_path_factory.mktemp("library")
    write(folder / "long, 1.mp4", count=80, sound=True, **X264)
    write(folder / "short.mkv", count=20, **X264)
    places = [
        ("long, 1.mp4", 1.25, 3.5),
        ("long, 1.mp4", 5.0, 7.5),
        ("short.mkv", None, None),
        ("gone.mp4", 3600.0, 3661.5),
    ]
    rows = []
    for row, (name, start, end) in zip(random_rows(4), places, strict=True):
        video = str(folder / name)
        segment = {} if start is None else {"start": start, "end": end}
        rows.append(row | {"id": f"{name} {start}", "path": video, "video": video, "duration": 80.5, **segment})
    with VideoIndex(folder / "v.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        index.add(rows)
    return folder


@pytest.fixture
def search_library(run_main: Callable[..., tuple[int, str, str]], library: Path) -> Callable[..., tuple[int, str, str]]:
    def search(*options: object) -> tuple[int, str, str]:
        return run_main("search", "a red square", "--per-video", "all", "--uri", library / "v.db", *options)

    return search


def test_the_table_has_the_times_of_moments(search_library: Callable[..., tuple[int, str, str]], library: Path) -> None:
    code, printed, errors = search_library()
    assert code == 0, errors
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[2:5]] for line in printed.splitlines() if line[0] in "│┃"]
    assert rows[0] == ["score", "time", "video"]
    assert sorted(row[1:] for row in rows[1:]) == sorted(
        [
            ["0:01–0:03", str(library / "long, 1.mp4")],
            ["0:05–0:07", str(library / "long, 1.mp4")],
            ["0:00–1:20", str(library / "short.mkv")],
            ["1:00:00–1:01:01", str(library / "gone.mp4")],
        ]
    )
    scores = [float(row[0]) for row in rows[1:]]
    assert scores == sorted(scores, reverse=True)


def test_a_table_of_whole_videos_has_their_lengths(search_library: Callable[..., tuple[int, str, str]]) -> None:
    printed = search_library("--filter", 'path like "%short%"')[1]
    assert "length" in printed
    assert "1:20" in printed
    assert "–" not in printed


def test_json_and_csv_have_the_same_exact_values(search_library: Callable[..., tuple[int, str, str]]) -> None:
    lines = search_library("--json")[1].splitlines()
    objects = [json.loads(line) for line in lines]
    assert [*objects[0]][:6] == ["id", "score", "video", "path", "start", "end"]
    assert sorted((row["start"], row["end"]) for row in objects if row["start"] is not None) == [
        (1.25, 3.5),
        (5.0, 7.5),
        (3600.0, 3661.5),
    ]
    code, printed, errors = search_library("--csv")
    assert code == 0, errors
    rows = [*csv.DictReader(io.StringIO(printed))]
    assert [*rows[0]][:6] == ["id", "score", "video", "path", "start", "end"]
    texts = [{name: "" if value is None else str(value) for name, value in row.items()} for row in objects]
    assert rows == texts


def test_clips_and_edit_lists_leave_out_what_is_gone(
    search_library: Callable[..., tuple[int, str, str]], library: Path, tmp_path: Path
) -> None:
    code, printed, errors = search_library("--clips", tmp_path / "clips", "--edl", tmp_path / "a.edl", "--json")
    assert code == 1
    assert len(printed.splitlines()) == 4
    assert f"3 of 4 results are in {tmp_path / 'a.edl'}, at 10 frames a second" in errors
    assert f"3 of 4 clips are in {tmp_path / 'clips'}" in errors
    assert errors.count(f"failed {library / 'gone.mp4'}: there is no such file") == 2
    names = sorted(path.name[3:] for path in (tmp_path / "clips").iterdir())
    assert names == ["long, 1 0.01-0.03.mp4", "long, 1 0.05-0.07.mp4", "short.mkv"]
    assert "00:00:05:00 00:00:07:05" in (tmp_path / "a.edl").read_text("utf-8")


def test_exact_clips_have_the_length_of_their_moments(
    search_library: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    options = ("--filter", 'path like "%long%"', "--clips", tmp_path, "--exact", "--padding", "0.5")
    code, _, errors = search_library(*options)
    assert code == 0, errors
    lengths = []
    for path in tmp_path.iterdir():
        with av.open(str(path)) as file:
            lengths.append(file.duration / av.time_base)
    assert sorted(lengths) == pytest.approx([3.25, 3.5], abs=0.11)
    code, _, errors = search_library(*options)
    assert code == 1
    assert errors.count("this file exists already") == 2


def test_without_results_nothing_is_written(
    search_library: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, printed, errors = search_library(
        "--filter", "duration > 99", "--clips", tmp_path / "a", "--edl", tmp_path / "a.edl"
    )
    assert (code, printed) == (0, "")
    assert "no videos were found" in errors
    assert [*tmp_path.iterdir()] == []


def test_a_sentence_about_nothing_in_the_index_is_probably_not_here(
    run_main: Callable[..., tuple[int, str, str]], drawings_table: Path, captions: dict[str, str], tmp_path: Path
) -> None:
    with VideoIndex(tmp_path / "v.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        index.add(drawings_table)

    def search(sentence: str, *options: object) -> tuple[str, str]:
        code, printed, errors = run_main("search", sentence, "--uri", tmp_path / "v.db", "-k", 1, *options)
        assert code == 0, errors
        return printed, errors

    printed, errors = search("a dog jumps into the water", "--json")
    score = json.loads(printed)["score"]
    assert json.loads(printed)["probably_here"] is False
    assert f"probably not here: the best score is {score:.3f}, and what is here mostly scores 0." in errors
    printed, errors = search(next(iter(captions)), "--json")
    assert json.loads(printed)["probably_here"] is True
    assert "probably" not in errors
    assert "probably_here" in search(next(iter(captions)), "--csv")[0]
    printed, errors = search("a dog jumps into the water", "--min-score", score + 0.01)
    assert printed == ""
    assert errors.startswith(f"no videos were found\nprobably not here: the best score is {score:.3f}")
    for narrow in (["--filter", "duration > 0"], ["--since", "2020-01-01"], ["--until", "2100-01-01"]):
        printed, errors = search("a dog jumps into the water", "--json", *narrow)
        assert "probably_here" not in json.loads(printed)  # it may be elsewhere in the index
        assert errors == ""
    assert search("a dog jumps into the water", "--min-score", score - 0.01, "--json")[0]


def test_an_error_in_the_calibration_leaves_what_was_found(
    run_main: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with VideoIndex(tmp_path / "v.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        index.add(random_rows(2))

    def fail(_: VideoIndex) -> None:
        raise IndexUnavailableError("the index is away")

    monkeypatch.setattr(VideoIndex, "calibration", fail)
    code, printed, errors = run_main("search", "a star", "--uri", tmp_path / "v.db", "--json")
    assert (code, len(printed.splitlines())) == (0, 2)
    assert caplog.messages == ["it is unknown whether this is here at all: the index is away"]
    monkeypatch.setattr("clip4clip.cli.search.MAX_CALIBRATED_ROWS", 1)
    code, printed, errors = run_main("search", "a star", "--uri", tmp_path / "v.db", "--json")
    assert (code, len(printed.splitlines()), errors) == (0, 2, "")


def test_without_a_cache_a_search_does_not_say_whether_it_is_here(
    run_main: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with VideoIndex(tmp_path / "v.db", encoder=EncoderSpec(DEMO_MODEL)) as index:
        index.add(random_rows(2))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIP4CLIP_CACHE", str(tmp_path / "file"))
    code, printed, errors = run_main("search", "a red star", "--uri", tmp_path / "v.db", "--json")
    assert code == 0
    assert "probably" not in printed + errors
