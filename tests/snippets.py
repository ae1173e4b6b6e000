"""The code blocks of README.md and docs/*.md, which tests run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from constants import REPOSITORY
from markdown_it import MarkdownIt

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


class Snippet(NamedTuple):
    """A fenced code block. One without a language shows commands, each after ``$ ``, and what they print.

    Attributes:
        page: path of the page in the repository.
        line: number of the line that opens the block.
        language: "python", "bash" or "".
        code: content of the block.
    """

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each command of a shell block, without its comment, and the lines it is shown to print."""
        lines = self.code.splitlines()
        starts = [number for number, line in enumerate(lines) if self.language or line.startswith("$ ")]
        assert starts[:1] == [0], f"{self}: the output needs the command that prints it, after '$ '"
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            yield re.sub(r"\s+# .*", "", lines[start].removeprefix("$ ")), lines[start + 1 : end]


def snippets(page: Path) -> list[Snippet]:
    """Return the code blocks of a page, in order."""
    name = page.relative_to(REPOSITORY).as_posix()
    blocks = [token for token in MarkdownIt().parse(page.read_text("utf-8")) if token.type in ("fence", "code_block")]
    return [Snippet(name, block.map[0] + 1, block.info.strip(), block.content) for block in blocks if block.map]


def code_with(page: str, text: str, replacements: Sequence[tuple[str, str]] = ()) -> str:
    """Return the code of the one block of a page that contains ``text``, after (old, new) replacements."""
    (code,) = (snippet.code for snippet in snippets(REPOSITORY / page) if text in snippet.code)
    for old, new in replacements:
        assert old in code, f"{page} has no {old!r}"
        code = code.replace(old, new)
    return code
