"""Print for people: text from outside, such as a file name, never reaches the terminal as a command."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Control characters, line separators, marks that turn the direction of writing, and halves of characters.
_UNPRINTABLE = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_IN_LINES, _IN_NAMES = re.compile(f"[{_UNPRINTABLE}]"), re.compile(f"[\t\n{_UNPRINTABLE}]")


def printable(name: str) -> str:
    """Return a name in one line, with escapes such as ``\\x1b`` for what a terminal would obey or could not show."""
    return _IN_NAMES.sub(_escape, name)


class SafeConsole(Console):
    """A console that shows control characters in texts as escapes; its own styles and cursor movements work."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as :class:`rich.console.Console` does, with control characters in texts escaped."""
        for segment in super().render(renderable, options):
            if segment.control or not _IN_LINES.search(segment.text):
                yield segment
            else:
                yield Segment(_IN_LINES.sub(_escape, segment.text), segment.style)


def _escape(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]
