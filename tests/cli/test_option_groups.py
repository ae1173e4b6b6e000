"""Groups of options as parameters of a command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from clip4clip.cli.option_groups import expand_option_groups


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option("--width", "-w", help="Width in pixels.")] = 4
    name: Annotated[str | None, typer.Option(help="Name of the size.")] = None


@dataclass(frozen=True, kw_only=True)
class NamedFile:
    file: Annotated[Path, typer.Argument(help="File to read.")]
    must_exist: Annotated[bool, typer.Option("--must-exist", help="Refuse a missing file.")] = False


@dataclass(frozen=True, kw_only=True)
class LargeFile(NamedFile):
    limit: Annotated[int, typer.Option(help="Bytes at most.")]


received: list[Any] = []


def resize(
    *,
    scale: Annotated[float, typer.Option(help="Factor.")] = 1.0,
    size: Size,
    source: NamedFile,
) -> None:
    """Resize a file."""
    received.append((scale, size, source))


def invoke(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(expand_option_groups(resize))
    received.clear()
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_a_command_receives_each_group_as_one_value() -> None:
    assert invoke("a.mp4", "-w", "9", "--scale", "2", "--must-exist")[0] == 0
    assert received == [(2.0, Size(9, None), NamedFile(file=Path("a.mp4"), must_exist=True))]


def test_options_that_are_not_given_have_the_defaults_of_the_group() -> None:
    assert invoke("a.mp4")[0] == 0
    assert received == [(1.0, Size(), NamedFile(file=Path("a.mp4")))]


def test_a_field_without_a_default_is_required() -> None:
    code, output = invoke("--width", "9")
    assert (code, received) == (2, [])
    assert "file" in output.lower()


def test_help_lists_the_options_in_the_order_of_the_signature() -> None:
    output = invoke("--help")[1]
    texts = ["Resize a file.", "Factor.", "Width in pixels.", "Name of the size.", "Refuse a missing file."]
    assert sorted(map(output.index, texts)) == [output.index(text) for text in texts]


def test_a_group_can_extend_another() -> None:
    def read(group: LargeFile) -> None:
        received.append(group)

    app = typer.Typer()
    app.command()(expand_option_groups(read))
    received.clear()
    assert CliRunner().invoke(app, ["a.mp4", "--limit", "3"]).exit_code == 0
    assert received == [LargeFile(file=Path("a.mp4"), limit=3)]


def test_two_options_of_one_name_are_an_error() -> None:
    def read(one: Size, two: Size) -> None: ...

    with pytest.raises(ValueError, match="width"):
        expand_option_groups(read)
