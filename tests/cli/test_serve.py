"""Invalid arguments of the command ``serve``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--user", "me"], "--user and --password go together"),
        (["serve", "--user", "me", "--password", ""], "--user and --password must not be empty"),
    ],
)
def test_invalid_arguments_are_errors(
    arguments: list[str], message: str, error_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in error_of(*arguments)
    assert list(tmp_path.iterdir()) == []
