"""Errors that show a position in the text of a filter."""

from __future__ import annotations

import unicodedata

from ...errors import FilterError

WINDOW = 72  # columns of a filter that a message shows


class InvalidPartError(Exception):
    """A part of a filter is invalid. :func:`point_at` turns it into an error for the caller.

    Args:
        position: where the part begins in the text.
        problem: what is wrong, and what to write.
    """

    def __init__(self, position: int, problem: str) -> None:
        super().__init__(problem)
        self.position, self.problem = position, problem


def point_at(text: str, position: int, problem: str) -> FilterError:
    """Return an error with a caret below a position in the text.

    Args:
        text: the filter; of a long one, only the part around the position is shown.
        position: index of a character, or the length of the text.
        problem: what is wrong there.
    """
    start = _start_of_window(text, position)
    before, after = text[start:position], text[position:]
    shown = ("…" if start else "") + _printable(before)
    caret = sum(map(_width, shown)) * " " + "^"
    rest, width = [], len(caret)
    for character in _printable(after):
        width += _width(character)
        if width > WINDOW:
            rest.append("…")
            break
        rest.append(character)
    line = shown + "".join(rest)
    return FilterError(f"the filter is invalid at character {position + 1}: {problem}\n  {line}\n  {caret}")


def _start_of_window(text: str, position: int) -> int:
    """Return the first character to show: two thirds of the window lie before the position."""
    if sum(map(_width, _printable(text))) <= WINDOW:
        return 0
    width, start = 0, position
    while start > 0 and width + _width(text[start - 1]) <= WINDOW * 2 // 3:
        start -= 1
        width += _width(text[start])
    return start


def _printable(text: str) -> str:
    """Return a text of the same length, with a space for each line break and control character."""
    return "".join(
        " " if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") else character for character in text
    )


def _width(character: str) -> int:
    """Return the number of columns that a terminal uses for a character."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
