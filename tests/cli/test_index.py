"""Invalid arguments of the commands ``index``, ``search`` and ``serve``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "none", "--uri", "v.db"], "no folder or table at none"),
        (["search"], "give either a text or --video"),
        (["search", "a", "--video", "a.mp4"], "give either a text or --video"),
        (["search", "@two.txt"], "expected one sentence, but got several lines"),
        (["search", "--video", ""], "the name of a video must not be empty"),
        (["search", "a", "--uri", "none.db"], "no index at none.db: create it with `clip4clip index`"),
        (["serve", "--user", "me"], "--user and --password go together"),
        (["serve", "--user", "me", "--password", ""], "--user and --password must not be empty"),
    ],
)
def test_invalid_arguments_are_errors(
    arguments: list[str], message: str, error_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.txt").write_text("a\nb\n")
    assert message in error_of(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["two.txt"]
