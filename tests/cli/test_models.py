"""The command ``models``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from constants import TINY

from clip4clip.cli.options import complete_model
from clip4clip.config import MODELS, Model
from clip4clip.model_facts import FACTS

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("width", [80, 200])
def test_the_table_has_all_models_and_fits_the_terminal(
    width: int, run_main: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.delitem(MODELS, "tiny")
    code, printed, _ = run_main("models")
    assert code == 0
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= width
    rows = {words[0]: words for words in map(str.split, printed.splitlines()) if words and words[0] in MODELS}
    assert list(rows) == list(FACTS)
    row = {"1024", "1,791", "Apache-2.0", "47.6", "50.9", "78.4"}
    assert row <= set(rows["pe_core_b16"])
    assert ("PE-Core-B/16" in rows["pe_core_b16"]) == (width == 200)
    assert rows["clip_vit_tiny_demo"][-1] == "yes"  # it comes with the package


def test_each_fact_that_could_not_be_checked_has_a_footnote(run_main: Run) -> None:
    _, printed, _ = run_main("models")
    notes = dict(re.findall(r"^\[(\d)\] (.*)$", printed, re.M))
    marks = dict(re.findall(r"^ (\w+) \[(\d)\]", printed, re.M))
    assert {name: notes[mark] for name, mark in marks.items()} == {
        name: facts.unverified for name, facts in FACTS.items() if facts.unverified
    }


def test_one_model_is_described_in_full(run_main: Run) -> None:
    _, printed, _ = run_main("models", "clip4clip_webvid150k")
    assert re.search(r"^licence +not stated$", printed, re.M)
    assert re.search(r"^weights +hf://Searchium-ai/clip4clip-webvid150k@[0-9a-f]{40}$", printed, re.M)
    assert re.search(r"^here +\S.*safetensors$", run_main("models", "clip_vit_tiny_demo")[1], re.M)
    assert "R@1 50.7, where clip_vit_b32 has 37.2" in printed
    assert re.search(r"^aligned with +clip_vit_b32$", run_main("models", "clip_vit_b32_mclip")[1], re.M)


def test_json_has_an_object_for_each_model(run_main: Run) -> None:
    code, printed, _ = run_main("models", "--json")
    rows = {row["name"]: row for row in map(json.loads, printed.splitlines())}
    assert code == 0
    assert list(rows) == list(MODELS)
    assert rows["clip_vit_b32_laion2b"]["config"]["activation"] == "gelu"
    assert rows["clip_vit_b32"]["coco_r5"] == 55.9
    assert Path(rows["clip_vit_tiny_demo"]["path"]).is_file()


def test_a_registered_model_is_listed_with_what_is_known(run_main: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "own", Model(TINY, weights="/nowhere/own.bin"))
    monkeypatch.setitem(MODELS, "unknown", Model(None, weights="hf://owner/model"))
    _, printed, _ = run_main("models")
    assert re.search(r"^ own +64 *$", printed, re.M)
    assert re.search(r"^ unknown *$", printed, re.M)
    _, printed, _ = run_main("models", "unknown")
    assert re.search(r"^weights +hf://owner/model$", printed, re.M)
    assert re.search(r"^here +no$", printed, re.M)


def test_an_unknown_name_is_an_error_that_suggests_another(error_of: Callable[..., str]) -> None:
    assert "did you mean clip_vit_b32" in error_of("models", "clip_vit_b-32")


def test_the_list_needs_no_framework(
    run_without: Callable[..., list[tuple[list[str], str, str]]], tmp_path: Path
) -> None:
    ((_, printed, errors),) = run_without(["torch", "towhee", "onnxruntime"], [["models"]], tmp_path)
    assert "pe_core_b16" in printed
    assert errors.endswith("exit 0\n")


def test_the_shell_completes_names_of_models() -> None:
    assert complete_model("clip_vit_b32_") == [name for name in MODELS if name.startswith("clip_vit_b32_")]
