"""Values and errors as parts of a message."""

from __future__ import annotations

import pytest

from clip4clip.errors import brief, first_line, printable


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("é 猫 😀", "é 猫 😀"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\u2028c", "a\\nb\\u2028c"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_characters_that_a_terminal_would_obey_are_escaped(text: str, escaped: str) -> None:
    assert printable(text) == escaped


def test_chosen_characters_are_not_escaped() -> None:
    assert printable("a\nb\tc", keep="\n") == "a\nb\\tc"


def test_a_long_value_is_shortened() -> None:
    assert brief("short") == "'short'"
    assert len(brief("x" * 10_000)) == len(brief(b"x" * 10_000)) == 120


def test_an_error_becomes_one_line() -> None:
    assert first_line(ValueError("first\nsecond")) == "first"
    assert first_line(ValueError()) == "ValueError"
