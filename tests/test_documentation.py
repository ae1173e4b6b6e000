"""The documentation says what the code says: errors, limits, files, environment variables; and its lines are short."""

from __future__ import annotations

import ast
import builtins
import functools
import re
import runpy
from collections import defaultdict
from pathlib import Path

import pytest
from constants import REPOSITORY
from snippets import PAGES

from clip4clip import errors

PACKAGE = REPOSITORY / "clip4clip"
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "million": 10**6, "billion": 10**9}
ERRORS = {
    name: error for name, error in vars(errors).items() if isinstance(error, type) and issubclass(error, Exception)
}


def page(name: str) -> str:
    return (REPOSITORY / "docs" / name).read_text("utf-8")


@functools.cache
def constants() -> dict[str, list[ast.expr]]:
    """The values of all constants of the package's modules, by name."""
    values = defaultdict(list)
    for file in PACKAGE.rglob("*.py"):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign) and node.value:
                targets = [node.target]
            else:
                continue
            for target in targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=True))
                for name, value in pairs:
                    if isinstance(name, ast.Name) and name.id.isupper():
                        values[name.id].append(value)
    return values


def numbers(value: ast.expr) -> list[float]:
    """The numbers of a constant, its sums and products computed; empty for what is no number."""
    if isinstance(value, ast.Tuple):
        return [number for element in value.elts for number in numbers(element)]
    if isinstance(value, ast.Call):
        return [number for keyword in value.keywords for number in numbers(keyword.value)]
    if isinstance(value, ast.Constant) and isinstance(value.value, int | float):
        return [value.value]
    if isinstance(value, ast.BinOp):
        return [eval(compile(ast.Expression(value), "", "eval"), {})]
    return []


def figures(text: str) -> list[float]:
    """The numbers of a table's cell, in their units; remarks in brackets are left out."""
    text = re.sub(r"\(.*?\)", "", text)
    text = re.sub(r"(\d+) × (\d+)", lambda match: str(int(match[1]) * int(match[2])), text)
    found = re.findall(rf"(\d[\d,]*(?:\.\d+)?)(?: ({'|'.join(UNITS)}))?", text)
    return [float(number.replace(",", "")) * UNITS.get(unit, 1) for number, unit in found]


LIMITS = re.findall(r"^\| (.+?) \| (.+?) \|.*\| `(\w+)` \|$", page("limits.md"), re.MULTILINE)


@pytest.mark.parametrize(("limit", "figure", "name"), LIMITS, ids=[name for _, _, name in LIMITS])
def test_limit_is_the_constant_of_the_code(limit: str, figure: str, name: str) -> None:
    values = constants().get(name)
    assert values, f"docs/limits.md names {name} ({limit}), but the package has no such constant"
    if numeric := [numbers(value) for value in values if numbers(value)]:
        assert any(figures(figure)[: len(value)] == value for value in numeric), (limit, figure, numeric)


def test_troubleshooting_has_a_section_for_every_error() -> None:
    sections = dict(re.findall(r"^### `(\w+)`\n\nAlso (?:a|an) (.+?)\. ", page("troubleshooting.md"), re.MULTILINE))
    assert sections.keys() == ERRORS.keys() - {"Clip4clipError"}
    for name, others in sections.items():
        for other in re.findall(r"`(\w+)`", others):
            assert issubclass(ERRORS[name], ERRORS.get(other) or getattr(builtins, other)), f"{name} is no {other}"


def test_the_tables_of_models_are_what_the_package_knows_about_them() -> None:
    """If this fails: python docs/render_models.py."""
    render = runpy.run_path(str(REPOSITORY / "docs" / "render_models.py"))["render"]
    assert render(page("models.md")) == page("models.md")


def test_every_environment_variable_of_the_code_is_documented() -> None:
    documented = "".join(path.read_text("utf-8") for path in PAGES)
    code = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    assert {name for name in re.findall(r'"(CLIP4CLIP_\w+)"', code) if name not in documented} == set()


def test_files_that_the_design_names_exist() -> None:
    rows = re.findall(r"^\|.*\|$", page("design.md"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\S+/\S*)`", row)}
    assert named
    assert sorted(name for name in named if not (REPOSITORY / name).exists()) == []


PROSE = [path for path in PAGES if path.name != "README.md"]
PROSE += [REPOSITORY / name for name in ("CONTRIBUTING.md", "SECURITY.md")]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_lines_are_short(path: Path) -> None:
    """Rows of tables, and lines of code, commands and their output, may be longer: Markdown cannot break them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")] == []
