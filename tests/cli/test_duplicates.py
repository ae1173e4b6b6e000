"""The command ``duplicates``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_tables import demo_spec

from clip4clip.index import duplicates
from clip4clip.library.table import TableWriter
from clip4clip.retrieval import VideoIndex

Run = Callable[..., tuple[int, str, str]]


def rows_of(
    name: str, vectors: np.ndarray, duration: float, size: int, times: tuple[float, ...] = ()
) -> list[dict[str, Any]]:
    """Return the rows of a video: of one vector, or of segments between these times in seconds."""
    path = f"/srv/{name}.mp4"
    same = {"id": path, "video": path, "path": path, "duration": duration, "size": size, "uniform": False}
    same |= {"model": demo_spec().model.model, "fingerprint": demo_spec().model.fingerprint}
    if not times:
        return [same | {"vector": vectors[0]}]
    ranges = zip(times[:-1], times[1:], vectors, strict=True)
    return [same | {"id": f"{path}#t={s},{e}", "start": s, "end": e, "vector": vector} for s, e, vector in ranges]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``vectors.parquet`` in the working directory: a film, a shorter copy of it, two equal clips and another clip."""
    monkeypatch.chdir(tmp_path)
    scenes = np.eye(8, 128, dtype=np.float32)
    rows = rows_of("film", scenes[:5], 100.0, 5_000_000, (0.0, 20.0, 35.0, 60.0, 70.0, 100.0))
    rows += rows_of("trimmed", scenes[1:5], 80.0, 2_000_000, (0.0, 15.0, 40.0, 50.0, 80.0))
    rows += rows_of("clip", scenes[6:], 10.0, 700_000) + rows_of("small\x1b", scenes[6:], 10.0, 100_000)
    rows += rows_of("other", scenes[7:], 10.0, 100_000)
    with TableWriter("vectors.parquet", demo_spec()) as writer:
        writer.add(rows)
        writer.finish()
    with VideoIndex("videos.db") as index:
        index.add("vectors.parquet")
    return tmp_path


@pytest.mark.parametrize("source", [["vectors.parquet"], []])
def test_groups_are_a_table_with_the_video_to_keep_first(source: list[str], table: Path, run_main: Run) -> None:
    code, printed, errors = run_main("duplicates", *source)
    assert code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    assert rows == [
        ["keep", "", "1:40", "5.0", "", "/srv/film.mp4"],
        ["part", "1.000", "1:20", "2.0", "0:00–1:20 = 0:20–1:40", "/srv/trimmed.mp4"],
        ["keep", "", "0:10", "0.7", "", "/srv/clip.mp4"],
        ["same", "1.000", "0:10", "0.1", "", r"/srv/small\x1b.mp4"],
    ]
    assert errors.strip() == "2 of 5 videos show what another one shows, 2.1 MB in all, in 2 groups"


def test_json_has_a_group_on_each_line_with_times_in_seconds(table: Path, run_main: Run) -> None:
    film, clips = (json.loads(line) for line in run_main("duplicates", "--json")[1].splitlines())
    assert film["kept"] == {"id": "/srv/film.mp4", "path": "/srv/film.mp4", "duration": 100.0, "size": 5_000_000}
    [trimmed] = film["duplicates"]
    assert (trimmed["is_part"], trimmed["score"], trimmed["covered"]) == (True, 1.0, 1.0)
    assert trimmed["times"] == [{"start": 0.0, "end": 80.0, "kept_start": 20.0, "kept_end": 100.0}]
    assert [each["video"]["path"] for each in clips["duplicates"]] == ["/srv/small\x1b.mp4"]


def test_csv_has_a_line_for_each_video(table: Path, run_main: Run) -> None:
    rows = [*csv.DictReader(io.StringIO(run_main("duplicates", "vectors.parquet", "--csv")[1]))]
    assert [(row["group"], row["relation"], row["path"]) for row in rows] == [
        ("1", "keep", "/srv/film.mp4"),
        ("1", "part", "/srv/trimmed.mp4"),
        ("2", "keep", "/srv/clip.mp4"),
        ("2", "same", "/srv/small\x1b.mp4"),
    ]
    assert (rows[0]["score"], rows[1]["score"], rows[1]["size"]) == ("", "1.0", "2000000")
    assert json.loads(rows[1]["times"])[0]["kept_start"] == 20.0


def test_without_duplicates_only_the_number_of_videos_is_printed(table: Path, run_main: Run) -> None:
    with VideoIndex("videos.db") as index:
        index.delete(["/srv/trimmed.mp4", "/srv/clip.mp4"])
    for options in ([], ["--json"]):
        code, printed, errors = run_main("duplicates", "videos.db", *options)
        assert (code, printed, errors.strip()) == (0, "", "no duplicates among 3 videos")


def test_usual_views_are_counted(table: Path, run_main: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MAX_COPIES", 0)
    errors = run_main("duplicates", "vectors.parquet")[2]
    assert "2 videos look like more than 0 others each, as those of a fixed camera do" in errors


def test_videos_of_very_usual_moments_are_counted(table: Path, run_main: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MAX_ALIKE", 0)
    errors = run_main("duplicates", "vectors.parquet")[2]
    assert "2 long videos consist mostly of moments that look like more than 0 others each" in errors


def test_ctrl_c_ends_the_command(table: Path, run_main: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(duplicates, "lengths_agree", interrupt)
    assert run_main("duplicates", "vectors.parquet") == (130, "", "\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.parquet"], "no table of vectors at none.parquet"),
        (["none.db"], "no index at none.db"),
        (["vectors.parquet", "--threshold", "1"], "1.0 is not above 0 and below 1"),
        (["--json", "--csv"], "give either --json or --csv"),
        (["--collection", "none"], "there is no collection 'none' in"),
    ],
)
def test_invalid_arguments_are_errors(
    arguments: list[str], message: str, table: Path, error_of: Callable[..., str]
) -> None:
    assert message in error_of("duplicates", *arguments)
