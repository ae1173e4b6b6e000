"""The benchmarks of embedding, GPUs and the index: they run, their results are right, and they report wrong ones."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu
import index_data
import index_report
import index_work
import numpy as np
import pytest
import torch
from constants import DEMO_MODEL, REPOSITORY
from embed_models import brief_lines
from embed_report import check_bars, wrong_vectors
from embed_work import TEXT_STRING, frame_flop, text_bytes, text_flop
from gpu_work import CHECKED, MODELS, Network
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


def test_flop_and_bytes_are_those_worked_out_by_hand() -> None:
    config = get_model("clip_vit_b32").config
    assert 12 * frame_flop(config, one_in_last=False) / 1e9 == pytest.approx(105.8, abs=0.05)
    assert text_bytes(config) / 1e6 == pytest.approx(152, abs=0.5)
    large = get_model("clip_vit_l14").config
    assert frame_flop(large, one_in_last=False) / 1e9 == pytest.approx(162.0, abs=0.05)
    small = replace(config, vision_width=64, vision_layers=1, vision_mlp_width=96, embed_dim=8, pooling="attention")
    tokens, width = 50, 64
    patches, projections, attention = 49 * 3 * 32**2 * width, 4 * tokens * width**2, 2 * tokens**2 * width
    pool = 2 * tokens * width**2 + 2 * width**2 + 8 * width**2 + 2 * tokens * width  # keys and values, the query's rest
    products = patches + projections + attention + 2 * tokens * width * 96 + pool + width * 8
    assert frame_flop(small, one_in_last=True) == 2 * products  # the pooling needs all tokens of the last layer
    narrow = replace(config, text_width=64, text_layers=2, text_mlp_width=96, embed_dim=8)
    assert text_bytes(narrow) == 4 * (2 * (4 * 64**2 + 2 * 64 * 96) + 64 * 8)
    assert text_flop(narrow, 5, one_in_last=False) == 2 * (2 * 5 * (4 * 64**2 + 2 * 64 * 96 + 2 * 5 * 64) + 64 * 8)


def test_several_models_are_compared_by_the_ratios_within_each_round() -> None:
    times = {"clip4clip": [10.0, 20.0, 10.0], "clip4clip, int8": [5.0, 10.0, 5.0], "open_clip": [30.0, 60.0, 40.0]}
    row = {name: {"milliseconds": each, "cosine": 0.9996 if "int8" in name else 1.0} for name, each in times.items()}
    _, line = brief_lines({"some_model": {"rows": {"one caption": row}}})
    assert line[:4] == ["some_model", "one caption", "10.0", "0.50 (0.50–0.50)"]
    assert line[4:] == ["–", "3.00 (3.00–3.50)", "–", "1.000000", "0.99960"]


def test_the_median_of_the_rounds_decides_whether_a_bar_is_met() -> None:
    rounds = {"towhee.models": [200.0, 300.0, 310.0], "clip4clip": [20.0, 20.0, 20.0], "clip4clip, int8": [10.0] * 3}
    row = {name: {"milliseconds": times, "cosine": 1.0} for name, times in rounds.items()}
    checked = check_bars({TEXT_STRING: row}, [])
    assert [(bar["times"][1], bar["met"]) for bar in checked] == [(15.0, True), (30.0, True)]


# GPUs

TINY_ON_CPU = ["--device", "cpu", "--tiny", "--no-compiled", "--rounds", "1", "--seconds", "0", "--deadline", "3600"]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: with more, tiny operations wait long for a busy core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_gpu_is_compared_with_the_cpu_in_every_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gpu.json"
    assert gpu.main([*TINY_ON_CPU, "--no-peers", "--json", str(path)]) == 0
    report = json.loads(path.read_text("utf-8"))
    checked = {(row["network"], row["modality"], row["precision"]) for row in report["parity"] if row["met"]}
    assert checked == set(itertools.product(MODELS, ("text", "video"), ("float32", "float16", "bfloat16")))
    trained = {(row["network"], row["precision"]) for row in report["training"] if row["met"]}
    assert trained == set(itertools.product(MODELS, ("float32", "bfloat16")))
    assert {row["network"] for row in report["speed"]} == MODELS.keys()
    for row in report["speed"]:
        assert row["contenders"]["clip4clip"]["rows per second"] > 0
    assert report["skipped"]["clip4clip, compiled"] == "--no-compiled"
    assert report["device"]["versions"].keys() >= {"python", "torch", "numpy"}
    assert "PE-Core-B/16" in capsys.readouterr().out


@pytest.mark.usefixtures("one_thread")
def test_a_gpu_with_other_vectors_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {modality: np.eye(count, 32) for modality, count in CHECKED.items()}
    monkeypatch.setattr(Network, "expected", other)
    assert gpu.main([*TINY_ON_CPU, "--no-peers"]) == 1
    failures = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("parity: ") for line in failures) == 18
    assert any(line.startswith("speed: ViT-B/32, 3 frames, float16") and "clip4clip gives" in line for line in failures)
    assert not any(line.startswith("training: ") for line in failures)


def test_what_a_deadline_leaves_unchecked_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([*TINY_ON_CPU, "--deadline", "0", "--json", str(tmp_path / "gpu.json")]) == 1
    assert "training of ViT-L/14 was not checked: too little time was left" in capsys.readouterr().err
    assert json.loads((tmp_path / "gpu.json").read_text("utf-8"))["speed"] == []


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_peers_are_measured_on_the_same_device_with_the_same_vectors(tmp_path: Path) -> None:
    assert gpu.main([*TINY_ON_CPU, "--json", str(tmp_path / "gpu.json")]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    for row in report["speed"]:
        has_transformers = "transformers" in row["contenders"]
        assert has_transformers == (row["network"] != "PE-Core-B/16")
        if has_transformers:
            assert row["contenders"]["transformers"]["cosine"] > 0.9999


@pytest.mark.slow
def test_the_check_of_a_gpu_needs_no_other_package_of_this_project() -> None:
    absent = ["av", "filelock", "ftfy", "huggingface_hub", "onnx", "onnxruntime", "platformdirs", "pydantic", "regex"]
    absent += ["rich", "towhee", "transformers", "typer", "wrapt"]
    program = f"""
import sys
sys.modules |= dict.fromkeys({absent!r})
sys.path.insert(0, {str(REPOSITORY / "benchmarks")!r})
import gpu
sys.exit(gpu.main({TINY_ON_CPU!r}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
