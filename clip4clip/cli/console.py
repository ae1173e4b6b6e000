"""Print to the terminal, with the control characters in texts, such as file names, escaped."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment

from ..errors import printable


class SafeConsole(Console):
    """A console that shows control characters in texts as escapes. Its own styles and cursor movements work."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as :class:`rich.console.Console` does, with control characters in texts escaped."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text, keep="\t\n"), segment.style)


out, err = SafeConsole(emoji=False), SafeConsole(stderr=True, emoji=False)


def plain(value: object) -> str:
    """Return a value as one line of text that rich prints as it is, without reading it as markup."""
    return escape(printable(str(value)))
