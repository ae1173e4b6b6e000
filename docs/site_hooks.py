"""Hooks for MkDocs: pages that are made from the code, and files of the repository that lie outside docs/.

``mkdocs.yml`` names this file. Run ``mkdocs build --strict``; it needs the extra ``docs``.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click
from typer.main import get_command

from clip4clip.cli import app

REPOSITORY = Path(__file__).parent.parent
# Files of the repository that become pages of the site. The key is the page.
REPOSITORY_PAGES = {"contributing.md": "CONTRIBUTING.md", "security.md": "SECURITY.md", "changelog.md": "CHANGELOG.md"}
# Files of the repository that pages link to. They are copied to the site.
REPOSITORY_FILES = ("examples/find_videos.ipynb", "examples/text_video_retrieval.py")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the files from outside docs/."""
    files.append(File.generated(config, "reference/commands.md", content=command_reference()))
    files.append(File.generated(config, "reference/modules.md", content=module_list()))
    for page, source in REPOSITORY_PAGES.items():
        text = (REPOSITORY / source).read_text("utf-8")
        # These pages lie beside those of docs/ in the site.
        files.append(File.generated(config, page, content=text.replace("](docs/", "](")))
    for name in REPOSITORY_FILES:
        files.append(File.generated(config, name, abs_src_path=str(REPOSITORY / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Point links that leave docs/, which are right in the repository, to the copies in the site."""
    markdown = markdown.replace("](../examples/", "](examples/")
    for target, source in REPOSITORY_PAGES.items():
        for link in (f"]({source}", f"](../{source}"):
            markdown = markdown.replace(link, f"]({target}")
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Tidy docstrings up: drop Sphinx's roles, and turn names of pages into links."""
    html = re.sub(r":(?:class|func|meth|mod|attr|data):<code>(?:~[\w.]*\.(?=\w+</code>))?", "<code>", html)
    if page.file.src_uri.startswith("reference/"):
        html = re.sub(r"(?<![\w/])docs/(\w+)\.md", r'<a href="../\1.html">\1</a>', html)
    return html


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that loads anything from another host."""
    tag = re.compile(r"<(?:link|script|img|iframe|source)\b[^>]*?\b(?:href|src)=[\"']?(?:https?:)?//[^>]*>")
    style = re.compile(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"';]*")
    for pattern, suffix in ((tag, "*.html"), (style, "*.css")):
        for path in Path(config.site_dir).rglob(suffix):
            if match := pattern.search(path.read_text("utf-8")):
                raise PluginError(f"{path} loads something from another host: {match[0][:200]}")


def command_reference() -> str:
    """Return the page on the command line, in Markdown: every command with its arguments and options."""
    command = get_command(app)
    context = typer.Context(command, info_name="clip4clip")
    text = get_docs_for_click(obj=command, ctx=context, name="clip4clip", title="Commands")
    # Typer cuts the summaries in its list of commands short. The page's table of contents is the better list.
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n?", "", text)
    # Indented lines after a heading, such as "Examples:", are commands.
    text = re.sub(r"^(\w.*):\n((?: {4}.*\n)+)", _command_block, text, flags=re.MULTILINE)
    return text.replace(
        "# Commands\n",
        "# Commands\n\nThis page is made from the code. `clip4clip COMMAND --help` prints the same in a shell. "
        "[How commands end](../how_to.md#use-exit-codes-in-scripts) lists the exit codes.\n",
        1,
    )


def _command_block(match: re.Match[str]) -> str:
    return f"**{match[1]}**:\n\n```bash\n{textwrap.dedent(match[2])}```\n"


def module_list() -> str:
    """Return the page on modules, in Markdown: every file of the package, and the first sentence of its docstring."""
    package = REPOSITORY / "clip4clip"
    lines = ["# Modules", "", "This page is made from the code. [Design](../design.md) says why it is built this way."]
    for folder in sorted({path.parent for path in package.rglob("*.py")}):
        lines += [
            "",
            f"## `{folder.relative_to(REPOSITORY).as_posix()}/`",
            "",
            "| file | what it does |",
            "| --- | --- |",
        ]
        for path in sorted(folder.glob("*.py")):
            text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
            summary = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", " ".join(text.split("\n\n")[0].split()))
            summary = summary.replace("``", "`").replace("|", "\\|")
            lines.append(f"| `{path.name}` | {summary} |")
    return "\n".join(lines) + "\n"
