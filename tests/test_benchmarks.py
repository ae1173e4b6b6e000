"""The benchmarks of embedding and of the index: they run, their results are right, and they report wrong ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import index_data
import index_report
import index_work
import numpy as np
import pytest
from constants import DEMO_MODEL, REPOSITORY
from embed_report import check_bars, wrong_vectors
from embed_work import TEXT_STRING, frame_flop, text_bytes
from index_contenders import CONTENDERS, OURS, PRODUCT, Client, Numpy
from index_data import FILTERED, PER_VIDEO, PLAIN, DataSet, Result

from clip4clip.config import get_model

EMBED, INDEX = REPOSITORY / "benchmarks" / "embed.py", REPOSITORY / "benchmarks" / "index.py"


@pytest.mark.slow
def test_the_short_form_compares_the_vectors_of_all_installed_libraries(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, EMBED, "--short", "--model", DEMO_MODEL, "--json", report]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(report.read_text("utf-8"))["models"][DEMO_MODEL]["rows"]
    assert {"clip4clip, torch bfloat16", "clip4clip, int8"} <= rows["3 frames, network alone"].keys()
    cells = [[cell.strip() for cell in line.split("│")] for line in done.stdout.splitlines() if line.startswith("│")]
    printed = {line[1]: line[2:-1] for line in cells}
    for name in ("clip4clip", "clip4clip, torch", "transformers", "ONNX Runtime"):
        assert printed[name] == ["1.000000"] * len(rows)
    assert " ms" not in done.stdout  # the short form measures no times


@pytest.mark.slow
def test_the_short_form_measures_the_cost_of_reading_long_videos(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, REPOSITORY / "benchmarks" / "moments_cost.py", "--short", "--json", report]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    videos = json.loads(report.read_text("utf-8"))["videos"]
    [key_frames] = {(row["frames"], row["gap"]) for row in videos["h264, single"]["keyframe"].values()}
    assert key_frames == (450, 8)
    assert videos["h264, single"]["auto"]["2"]["frames"] == 1800
    assert videos["h264, 30"]["auto"]["2"]["gap"] == pytest.approx(2.4)


def test_a_contender_with_other_vectors_is_reported() -> None:
    right = {"clip4clip": {"cosine": 0.9999999}, "clip4clip, int8": {"cosine": 0.9991}, "products alone, torch": {}}
    assert wrong_vectors({"one": right}) == []
    assert [line.split(" gives")[0] for line in wrong_vectors({"one": {**right, "OpenVINO": {"cosine": 0.9991}}})] == [
        "OpenVINO"
    ]
    assert len(wrong_vectors({"one": {"open_clip": {"cosine": float("nan")}}})) == 1


def test_flop_and_bytes_of_vit_b32_are_those_worked_out_by_hand() -> None:
    config = get_model("clip_vit_b32").config
    assert 12 * frame_flop(config, one_in_last=False) / 1e9 == pytest.approx(105.8, abs=0.05)
    assert text_bytes(config) / 1e6 == pytest.approx(152, abs=0.5)


def test_the_median_of_the_rounds_decides_whether_a_bar_is_met() -> None:
    rounds = {"towhee.models": [200.0, 300.0, 310.0], "clip4clip": [20.0, 20.0, 20.0], "clip4clip, int8": [10.0] * 3}
    row = {name: {"milliseconds": times, "cosine": 1.0} for name, times in rounds.items()}
    checked = check_bars({TEXT_STRING: row}, [])
    assert [(bar["times"][1], bar["met"]) for bar in checked] == [(15.0, True), (30.0, True)]


# The index


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """1,000 clustered rows and four queries."""
    data = DataSet(tmp_path_factory.mktemp("data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_data, "BLOCK", 300)  # several blocks, the last one smaller
        data.make("clustered", 1000, 4)
    return data


def right_results(data: DataSet, mode: str, query: int) -> list[Result]:
    """Return the right answer to a query, found in the plainest way."""
    scores = data.scores(query, range(1000))
    rows = np.argsort(-scores).tolist()
    if mode == FILTERED:
        rows = [row for row in rows if data.durations[row] < index_data.FILTER_BELOW]
    if mode == PER_VIDEO:
        rows = list({row // 10: row for row in reversed(rows)}.values())
        rows.sort(key=lambda row: -scores[row])
    return [Result(row, scores[row]) for row in rows[:10]]


@pytest.mark.slow
def test_the_short_form_compares_the_index_with_exact_answers(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = subprocess.run([sys.executable, INDEX, "--short", "--json", report], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tables = json.loads(report.read_text("utf-8"))["tables"]
    assert [(table["kind"], table["rows"]) for table in tables] == [("clustered", 2000), ("random", 2000)]
    for table in tables:
        for name in (OURS, PRODUCT):
            own = table["contenders"][name]
            assert own["processes"].keys() == own["threads"].keys() == {PLAIN, FILTERED, PER_VIDEO}
            assert [each["recall"] for each in own["checked"].values()] == [1] * len(own["checked"])
        assert all(each["queries"] == 60 for each in table["contenders"][OURS]["checked"].values())
    assert "clip4clip" in done.stdout


@pytest.mark.parametrize("mode", [PLAIN, FILTERED, PER_VIDEO])
def test_right_answers_are_those_of_the_plainest_search(data: DataSet, mode: str) -> None:
    for query in range(4):
        judged = data.judge(mode, query, right_results(data, mode, query))
        assert judged.recall == 1
        assert judged.error < 1e-12


@pytest.mark.parametrize(
    ("mode", "change", "recall", "error"),
    [
        (PLAIN, lambda found: [*found[:9], Result(found[9].row, found[9].score - 0.01)], 1, 0.01),
        (PLAIN, lambda found: [*found[:9], found[8]], 0.9, None),
        (PLAIN, lambda found: found[:9], 0.9, float("inf")),
        (PLAIN, lambda found: [], 0, float("inf")),
    ],
)
def test_a_wrong_answer_is_noticed(
    data: DataSet, mode: str, change: Callable[[list[Result]], list[Result]], recall: float, error: float | None
) -> None:
    judged = data.judge(mode, 0, change(right_results(data, mode, 0)))
    assert judged.recall == pytest.approx(recall)
    if error is not None:
        assert judged.error == pytest.approx(error)


@pytest.mark.parametrize("mode", [FILTERED, PER_VIDEO])
def test_the_nearest_rows_are_no_answer_to_another_question(data: DataSet, mode: str) -> None:
    judged = [data.judge(mode, query, right_results(data, PLAIN, query)) for query in range(4)]
    assert max(each.recall for each in judged) < 1


def test_only_the_best_row_of_a_video_is_right(data: DataSet) -> None:
    for query in range(4):
        best, *others = right_results(data, PER_VIDEO, query)
        rows = np.arange(10) + best.row // 10 * 10
        second = rows[np.argsort(-data.scores(query, rows))[1]]
        changed = [Result(second, data.scores(query, [second])[0]), *others]
        assert data.judge(PER_VIDEO, query, changed).recall == pytest.approx(0.9)


def test_clustered_vectors_are_like_those_of_clip(data: DataSet) -> None:
    vectors = np.array(data.vectors)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(1000), abs=1e-6)
    largest = np.sort(np.abs(vectors.mean(0)))[::-1]
    assert largest[:2] == pytest.approx([0.5, 0.25], abs=0.01)
    assert largest[2] < 0.1
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    of_same_video = similarity.argmax(1) // 10 == np.arange(1000) // 10
    assert of_same_video.mean() > 0.9
    assert (data.durations < index_data.FILTER_BELOW).mean() == pytest.approx(0.1, abs=0.04)


class Inexact(Numpy):
    """Misses the nearest row of every search."""

    title = "inexact"
    is_exact = True

    def client(self) -> Client:
        search = super().client()
        return lambda vector, mode: search(vector, mode)[1:]


def test_the_benchmark_stops_if_an_exact_contender_misses_a_row(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTENDERS, "inexact", Inexact)
    options = index_work.Options(seconds=0, clients=0, check_all=True).to_json()
    runs = {
        name: [{**index_work.search(name, "", str(data.folder), options), "first": 0.1}]
        for name in (PRODUCT, "inexact")
    }
    summaries = index_report.summarise(runs)
    assert index_report.wrong_results({PRODUCT: summaries[PRODUCT]}) == []
    assert {mode: own["recall"] for mode, own in summaries[PRODUCT]["checked"].items()} == dict.fromkeys(Numpy.modes, 1)
    wrong = index_report.wrong_results(summaries)
    assert [line.split(": recall")[0] for line in wrong] == [f"inexact is wrong: {mode}" for mode in Numpy.modes]


def run_of(milliseconds: float) -> dict[str, Any]:
    """Return what a process reports that needs this time for each search."""
    return {
        "first": 0.2,
        "peak MB": 100.0,
        "one client": {mode: {"ms": [milliseconds] * 3} for mode in CONTENDERS[OURS].modes},
        "checked": {mode: {"queries": 3, "recall": 1.0, "error": 1e-7} for mode in CONTENDERS[OURS].modes},
    }


def test_ratios_to_the_product_are_taken_within_a_round() -> None:
    rounds = {OURS: [run_of(40), run_of(20), run_of(10)], PRODUCT: [run_of(10), run_of(20), run_of(10)]}
    times = index_report.summarise(rounds)[OURS]["one client"][PLAIN]
    assert (times["p50"], times["times the product"], times["searches"]) == (20, 1, 9)


@pytest.mark.parametrize(("milliseconds", "verdict"), [(14, "met"), (16, "MISSED")])
def test_the_median_ratio_decides_whether_the_index_is_fast_enough(milliseconds: float, verdict: str) -> None:
    summaries = index_report.summarise({OURS: [run_of(milliseconds)] * 3, PRODUCT: [run_of(10)] * 3})
    own = {**summaries[OURS], "rows per second": 30_000.0}
    bars = list(index_report.check_bars([{"kind": "clustered", "rows": 100_000, "contenders": {OURS: own}}]))
    assert [line[-1] for line in bars if line[0].startswith("10 nearest, times")] == [verdict]
    assert all(line[-1] == "met" for line in bars[1:] if not line[0].startswith("10 nearest, times"))


def test_memory_of_more_rows_follows_from_two_measurements() -> None:
    def measured(anonymous: float, mapped: float) -> dict[str, Any]:
        step = {"RssAnon": anonymous, "RssFile": mapped, "VmHWM": anonymous + mapped, "VmRSS": anonymous + mapped}
        return {"steps": {"start": {}, "last": step}, "files": {"videos.db": 2000.0, "videos.db-codes-1": mapped}}

    lines = list(index_report.memory_lines({100_000: measured(60, 100), 1_000_000: measured(150, 1000)}, 10_000_000))
    assert lines[-1][:3] == ["10,000,000, computed", "1,050", "10,000"]
