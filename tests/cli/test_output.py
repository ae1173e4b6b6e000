"""Vectors and failures, printed or written to files."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from clip4clip import TextEncoder
from clip4clip.cli.output import print_csv


def test_vectors_are_printed_as_a_table(run: Callable[..., Result], tiny_checkpoint: Path) -> None:
    printed = run("embed-text", "a dog", "[red]a cat", "-m", "tiny", "-w", tiny_checkpoint).stdout
    assert "a dog" in printed
    assert "[red]a cat" in printed
    assert "1.000000" in printed


def test_vectors_are_printed_as_json_lines(run: Callable[..., Result], tiny_checkpoint: Path) -> None:
    lines = run("embed-text", "a dog", "ein Küken", "-m", "tiny", "-w", tiny_checkpoint, "--json").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["text"] for row in rows] == ["a dog", "ein Küken"]
    expected = TextEncoder.load("tiny", tiny_checkpoint, "cpu")(["a dog", "ein Küken"])
    np.testing.assert_allclose([row["vector"] for row in rows], expected, atol=1e-6)


def test_vectors_are_written_to_a_file(run: Callable[..., Result], tiny_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.npz"
    assert run("embed-text", "a dog", "b", "-m", "tiny", "-w", tiny_checkpoint, "-o", output).exit_code == 0
    with np.load(output, allow_pickle=False) as file:
        assert file["texts"].tolist() == ["a dog", "b"]
        np.testing.assert_array_equal(file["vectors"], TextEncoder.load("tiny", tiny_checkpoint, "cpu")(["a dog", "b"]))
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="/dev/fd")
def test_vectors_are_written_to_a_pipe(run: Callable[..., Result], tiny_checkpoint: Path) -> None:
    read_end, write_end = os.pipe()
    result = run("embed-text", "a dog", "-m", "tiny", "-w", tiny_checkpoint, "-o", f"/dev/fd/{write_end}")
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        content = pipe.read()
    assert result.exit_code == 0, result.output
    with np.load(io.BytesIO(content)) as file:
        assert file["texts"].tolist() == ["a dog"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full")
def test_vectors_that_cannot_be_written_are_kept_in_a_temporary_folder(
    error_of: Callable[..., str], tiny_checkpoint: Path
) -> None:
    errors = error_of("embed-text", "a dog", "-m", "tiny", "-w", tiny_checkpoint, "-o", "/dev/full")
    rescued = re.search(r"error /dev/full cannot be written: No space left on device\. The result is in (\S+)", errors)
    assert rescued, errors
    with np.load(rescued[1]) as file:
        assert file["texts"].tolist() == ["a dog"]
    Path(rescued[1]).unlink()
    Path(rescued[1]).parent.rmdir()


def test_a_folder_that_does_not_exist_is_reported_before_the_work(error_of: Callable[..., str], tmp_path: Path) -> None:
    output = tmp_path / "no" / "such.npz"
    errors = error_of("embed-text", "a", "-m", "tiny", "-w", "nowhere.pt", "-o", output)
    assert "--output" in errors
    assert f"the folder {tmp_path / 'no'} does not exist" in errors
    assert not (tmp_path / "no").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc, where root cannot write either")
@pytest.mark.parametrize(
    "command",
    [
        ["embed-text", "a", "-o", "/proc/v.npz"],
        ["embed-video", "a.mp4", "-o", "/proc/v.npz"],
        ["embed", ".", "-o", "/proc/v.parquet"],
        ["eval", "a.csv", "--videos", ".", "--json", "/proc/v.json"],
        ["eval", "a.csv", "--videos", ".", "--histogram", "/proc/v.png"],
    ],
)
def test_an_output_that_cannot_be_written_is_reported_before_the_work(
    command: list[str], error_of: Callable[..., str]
) -> None:
    # The missing checkpoint would be reported when the work begins.
    errors = error_of(*command, "-m", "tiny", "-w", "nowhere.pt")
    assert re.search(r"/proc/v\.\w+ cannot be written: ", errors), errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed-text", "a", "-o", "v.csv"], "v.csv would be written as .npz, so its name must end in .npz"),
        (["embed-text", "a", "-o", "-"], "its name must end in .npz"),
        (["embed-video", "a.mp4", "-o", "v.parquet"], "its name must end in .npz"),
        (["embed", ".", "-o", "v.csv"], "v.csv would be written as .parquet, so its name must end in .parquet"),
        (["eval", "two.txt", "--videos", ".", "--json", "v.csv"], "would be written as .json"),
        (["embed-text", "a", "-o", ".npz"], ".npz is only an ending; expected a name in front of it"),
        (["embed", ".", "-o", ".PARQUET"], ".PARQUET is only an ending; expected a name in front of it"),
        (["embed-text", "a", "-o", "."], ". is a folder; expected the name of a file"),
    ],
)
def test_a_name_that_does_not_fit_the_format_is_an_error(
    arguments: list[str], message: str, error_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in error_of(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_csv_has_a_column_for_each_value_of_any_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_csv([{"id": 1, "start": None}, {"id": 'a,"b"\nc', "tags": ["ü", 1], "start": 0.1}], ["id", "start"])
    assert capsys.readouterr().out == 'id,start,tags\n1,,\n"a,""b""\nc",0.1,"[""ü"", 1]"\n'


def test_csv_on_a_terminal_has_no_control_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    print_csv([{"id": "\x1b[31m"}], ["id"])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_csv([{"id": "\x1b[31m"}], ["id"])
    assert capsys.readouterr().out == "id\n\x1b[31m\nid\n\\x1b[31m\n"
