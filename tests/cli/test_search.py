"""The command ``search``: its arguments, and the conditions that they become."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from constants import DEMO_MODEL
from index_rows import random_rows

from clip4clip.encoder import EncoderSpec
from clip4clip.retrieval import VideoIndex


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search"], "give either a text or --video"),
        (["search", "a", "--video", "a.mp4"], "give either a text or --video"),
        (["search", "@two.txt"], "expected one sentence, but got several lines"),
        (["search", "--video", ""], "the name of a video must not be empty"),
        (["search", "a", "--uri", "none.db"], "no index at none.db: create it with `clip4clip index`"),
        (["search", "a", "--per-video", "0"], "--per-video: '0' is neither a number from 1 nor the word all"),
        (["search", "a", "--per-video", "-1"], "--per-video: '-1' is neither a number from 1 nor the word all"),
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
