"""Sentences from arguments, files and standard input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import Result

from clip4clip import TextEncoder
from clip4clip.cli.texts import read_texts


def test_lines_of_a_file_and_of_standard_input_are_texts(
    run: Callable[..., Result], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    file, output = tmp_path / "q.txt", tmp_path / "v.npz"
    file.write_bytes("\ufeffein Küken\r\n a dog \nline\u2028one\n\n".encode())
    arguments = ["embed-text", f"@{file}", "-", r"\@b", r"\-c", r"\d", "-m", "tiny", "-w", tiny_checkpoint]
    result = run(*arguments, "-o", output, stdin="from\nhere")
    assert result.exit_code == 0, result.output
    with np.load(output) as arrays:
        texts = ["ein Küken", " a dog ", "line\u2028one", "from", "here", "@b", "-c", r"\d"]
        assert arrays["texts"].tolist() == texts
        vectors = TextEncoder.load("tiny", tiny_checkpoint, "cpu")(texts)
        np.testing.assert_array_equal(arrays["vectors"], vectors)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["@none.txt"], "none.txt cannot be read: No such file or directory; .* write \\\\@none.txt"),
        (["a", ""], "text 2 of 2 is empty"),
        (["@gap.txt"], "text 2 of 3 is empty"),
        (["@latin.txt"], "latin.txt is not text in UTF-8"),
        (["@"], "expected the name of a file after @"),
        (["@empty.txt"], "empty.txt is empty"),
        (["\udcff"], "text 1 of 1 is not UTF-8: \udcff"),
    ],
)
def test_texts_that_cannot_be_read_are_errors(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gap.txt").write_text("a\n\nb\n")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"K\xfcken\n")
    with pytest.raises(typer.BadParameter, match=message):
        read_texts(arguments)


@pytest.mark.parametrize("command", ["embed-text", "search", "demo"])
def test_every_command_that_takes_texts_checks_them(
    command: str, error_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gap.txt").write_text("a\n\nb\n")
    assert "text 1 of 1 is empty" in error_of(command, " ")
    assert r"text 1 of 1 is not UTF-8: \udcff" in error_of(command, "\udcff")
    assert "text 2 of 3 is empty" in error_of(command, "@gap.txt")
    assert f"clip4clip {command} --help" in error_of(command, "@none.txt")
