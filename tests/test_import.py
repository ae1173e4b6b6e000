"""What an import brings along, and which part of the package may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import clip4clip

PACKAGE = Path(clip4clip.__file__).parent
HEAVY = {
    "torch",
    "towhee",
    "numpy",
    "av",
    "PIL",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "ftfy",
    "rich",
    "typer",
    "pymilvus",
    "grpc",
    "pandas",
    "psutil",
    "pyarrow",
    "fastapi",
    "starlette",
    "uvicorn",
    "mcp",
    "ray",
}

POSIX_ONLY = {"fcntl", "pwd", "resource", "termios"}

# A wing is a folder or a file of the package. Each may import only the wings on the floors below it.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"demo_picture"},
    {"demo", "mcp_server", "operators", "retrieval", "web"},
    {"index"},
    {"library", "training"},
    {"evaluation"},
    {"encoder", "export", "video"},
    {"runtime"},
    {"weights", "model"},
    {"cache", "config", "errors", "files", "log", "model_facts", "preprocess", "progress", "threads", "tokenizer"},
]


def modules_after(code: str) -> set[str]:
    """Run a program in a process of its own, and return the names of the modules that are imported at its end."""
    program = f"import sys\n{code}\nprint(' '.join(sys.modules), file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Return what a file imports anywhere: packages by name, and wings of this package with a dot in front."""
    imported = set()
    folders = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            parents = [*folders[: len(folders) + 1 - node.level], *([node.module] if node.module else [])]
            imported |= {f".{[*parents, alias.name][0].split('.')[0]}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    return imported


def test_importing_the_package_is_cheap() -> None:
    assert modules_after("import clip4clip") & HEAVY == set()


def test_help_needs_neither_torch_nor_towhee() -> None:
    loaded = modules_after(
        "from typer.testing import CliRunner; from clip4clip.cli import app; CliRunner().invoke(app, ['--help'])"
    )
    assert loaded & (HEAVY - {"typer", "rich"}) == set()


def test_the_python_interface_does_not_need_towhee() -> None:
    assert "towhee" not in modules_after("from clip4clip import TextEncoder, VideoEncoder; import clip4clip.video")


def test_the_factory_of_the_operator_imports_towhee_only_when_it_is_used() -> None:
    assert "towhee" not in modules_after("import clip4clip; dir(clip4clip); from clip4clip import *")
    program = "import clip4clip; first = dir(clip4clip); from clip4clip import clip4clip as factory"
    loaded = modules_after(f"{program}; assert 'clip4clip' in first; assert factory.supported_model_names()")
    assert "towhee" in loaded
    from clip4clip import clip4clip as factory
    from clip4clip.operators import clip4clip as operator

    assert factory is operator


# Fills an index in a file, and searches it by a vector.
LOCAL_INDEX = """
import numpy as np
from clip4clip.retrieval import VideoIndex
vectors = np.eye(5, 128, dtype=np.float32)
model = {{"model": "clip_vit_tiny_demo", "fingerprint": "0" * 32}}
rows = [{{"id": f"v{{n}}", "path": "/v.mp4", "vector": vectors[n], "duration": n}} | model for n in range(5)]
with VideoIndex({uri!r}) as index:
    index.add(rows)
    assert index.search(vector=vectors[3], limit=1, filter="duration > 1")[0].id == "v3"
"""


def test_an_index_in_a_file_imports_no_client_of_a_server(tmp_path: Path) -> None:
    loaded = modules_after(LOCAL_INDEX.format(uri=str(tmp_path / "videos.db")))
    assert {"sqlite3", "numpy"} <= loaded
    assert loaded & {"pymilvus", "grpc", "pandas", "pyarrow", "fastapi", "towhee", "torch"} == set()


def test_no_file_imports_a_module_that_only_posix_has() -> None:
    files = {module_name(path): imports_of(path) & POSIX_ONLY for path in PACKAGE.rglob("*.py")}
    assert {name: imported for name, imported in files.items() if imported} == {}


def test_the_operators_can_be_imported_without_the_modules_that_only_posix_has() -> None:
    assert "clip4clip.operators" in modules_after(
        f"sys.modules |= dict.fromkeys({sorted(POSIX_ONLY)})\n"
        "import clip4clip; from clip4clip import TextEncoder, VideoEncoder; import clip4clip.operators"
    )


def test_every_public_name_can_be_imported() -> None:
    for name in clip4clip.__all__:
        assert getattr(clip4clip, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Encoder'"):
        _ = clip4clip.Encoder  # type: ignore[attr-defined]


def test_every_error_says_when_it_is_raised_and_derives_from_a_built_in_error() -> None:
    errors = [value for name, value in vars(clip4clip).items() if name.endswith("Error") and name != "Clip4clipError"]
    assert len(errors) == 19
    for error in errors:
        assert issubclass(error, clip4clip.Clip4clipError)
        assert issubclass(error, ValueError | TypeError | OSError | RuntimeError | ImportError)
        assert error.__doc__.startswith("Raised when")


def test_the_version_is_that_of_the_distribution() -> None:
    assert clip4clip.__version__ == version("towhee-clip4clip")


def test_only_the_operators_and_the_demo_import_towhee() -> None:
    files = [module_name(path) for path in PACKAGE.rglob("*.py") if "towhee" in imports_of(path)]
    assert sorted(files) == [
        "demo",
        "operators",
        "operators.decoding",
        "operators.embedding",
        "operators.milvus",
        "operators.trainer",
    ]


def wing_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor_of(wing: str) -> int:
    """Return the index of a wing's floor in :data:`FLOORS`; the lowest floor has the highest index."""
    return next(index for index, wings in enumerate(FLOORS) if wing in wings)


@pytest.mark.parametrize("wing", sorted(set().union(*FLOORS)))
def test_imports_point_down(wing: str) -> None:
    files = [path for path in PACKAGE.rglob("*.py") if wing_of(path) == wing]
    imported = {name[1:] for path in files for name in imports_of(path) if name.startswith(".")} - {wing, "__version__"}
    highest_allowed = floor_of(wing) + 1
    if floor_of(wing) == len(FLOORS) - 1:  # the files of the lowest floor may import each other
        highest_allowed -= 1
    assert {name for name in imported if floor_of(name) < highest_allowed} == set()


def test_every_wing_has_a_floor() -> None:
    wings = {wing_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert wings == set().union(*FLOORS)
