"""The code blocks of README.md and docs/*.md, as the tests run them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

REPOSITORY = Path(__file__).parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


class Snippet(NamedTuple):
    """A fenced code block; one without a language shows commands, each after ``$``, and what they print."""

    page: str
    line: int  # of its fence
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """The commands of a shell's block, without their remarks, and the lines that each one shows."""
        lines = self.code.splitlines()
        starts = [number for number, line in enumerate(lines) if self.language or line.startswith("$ ")]
        assert starts[:1] == [0], f"{self}: what is shown needs the command that prints it, after '$ '"
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            yield re.sub(r"\s+# .*", "", lines[start].removeprefix("$ ")), lines[start + 1 : end]


def snippets(page: Path) -> list[Snippet]:
    """All code blocks of a page, in their order."""
    name = page.relative_to(REPOSITORY).as_posix()
    blocks = [token for token in MarkdownIt().parse(page.read_text("utf-8")) if token.type in ("fence", "code_block")]
    return [Snippet(name, block.map[0] + 1, block.info.strip(), block.content) for block in blocks if block.map]


def code_with(page: str, text: str, replaced: Sequence[tuple[str, str]] = ()) -> str:
    """The code of the one block of a page that has a text, with other things put in the place of some."""
    (code,) = (snippet.code for snippet in snippets(REPOSITORY / page) if text in snippet.code)
    for old, new in replaced:
        assert old in code, f"{page} has no {old!r}"
        code = code.replace(old, new)
    return code
