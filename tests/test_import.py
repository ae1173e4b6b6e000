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
    "milvus_lite",
    "pyarrow",
    "gradio",
    "ray",
}

# Who may import whom, from the top floor down. What is not named here is open to everybody: errors, and other packages.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"demo"},
    {"operators", "install", "retrieval.page"},
    {"retrieval.doors"},
    {"retrieval.uploads"},
    {"training.trainer", "training.towhee_trainer", "retrieval.index"},
    {"retrieval.library"},
    {"retrieval.ray_engine"},
    {"retrieval.local_engine"},
    {"retrieval.table", "retrieval.listing"},
    {"training.model", "training.data", "training.synthetic", "retrieval.evaluation"},
    {"encoder", "pairs", "retrieval.metrics"},
    {"runtime"},
    {"onnx_cache"},
    {"onnx_export"},
    {"torch_runtime", "onnx_runtime"},
    {"video"},
    {"timeline"},
    {"container"},
    {"device"},
    {"weights", "frames", "tokenizer", "tower"},
    {"model", "checkpoint", "onnx_graph"},
    {
        "config",
        "torchscript",
        "files",
        "threads",
        "terminal",
        "mp4",
        "tonemap",
        "retrieval.filters",
        "retrieval.workers",
    },
]
MODULES = set().union(*FLOORS)


def modules_after(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(' '.join(sys.modules), file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports anywhere, those of this package by their name in it with a dot in front."""
    found = set()
    folders = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            above = [*folders[: len(folders) + 1 - node.level], *([node.module] if node.module else [])]
            # What is imported from a package may be one of its modules.
            inner = [".".join([*above, alias.name]) for alias in node.names]
            found |= {f".{name}" for name in inner if name in MODULES} or {"." + ".".join(above)}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_importing_the_package_is_cheap() -> None:
    assert modules_after("import clip4clip") & HEAVY == set()


def test_help_needs_neither_torch_nor_towhee() -> None:
    loaded = modules_after(
        "from typer.testing import CliRunner; from clip4clip.cli import app; CliRunner().invoke(app, ['--help'])"
    )
    assert loaded & (HEAVY - {"typer", "rich"}) == set()


def test_the_python_face_does_not_need_towhee() -> None:
    assert "towhee" not in modules_after("from clip4clip import TextEncoder, VideoEncoder; import clip4clip.video")


def test_the_factory_is_there_by_its_name_and_brings_towhee_only_when_it_is_used() -> None:
    assert "towhee" not in modules_after("import clip4clip; dir(clip4clip); from clip4clip import *")
    program = "import clip4clip; first = dir(clip4clip); from clip4clip import clip4clip as factory"
    loaded = modules_after(f"{program}; assert 'clip4clip' in first; assert factory.supported_model_names()")
    assert "towhee" in loaded
    from clip4clip import clip4clip as factory
    from clip4clip.operators import clip4clip as operator

    assert factory is operator


def test_nothing_of_posix_is_needed_to_import_the_operators() -> None:
    assert "clip4clip.operators" in modules_after(
        "sys.modules |= dict.fromkeys(('fcntl', 'pwd', 'termios', 'resource'))\n"
        "import clip4clip; from clip4clip import TextEncoder, VideoEncoder; import clip4clip.operators"
    )


def test_every_public_name_is_there() -> None:
    for name in clip4clip.__all__:
        assert getattr(clip4clip, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Encoder'"):
        _ = clip4clip.Encoder  # type: ignore[attr-defined]


def test_every_error_says_when_it_is_raised_and_is_also_a_built_in_one() -> None:
    errors = [value for name, value in vars(clip4clip).items() if name.endswith("Error") and name != "Clip4clipError"]
    assert len(errors) == 18
    for error in errors:
        assert issubclass(error, clip4clip.Clip4clipError)
        assert issubclass(error, ValueError | TypeError | OSError | RuntimeError | ImportError)
        assert error.__doc__.startswith("Raised when")


def test_version_is_the_distributions() -> None:
    assert clip4clip.__version__ == version("towhee-clip4clip")


def test_towhee_is_imported_where_it_is_spoken_to() -> None:
    files = [module_of(path) for path in PACKAGE.rglob("*.py") if "towhee" in imports_of(path)]
    assert sorted(files) == ["demo", "operators", "training.towhee_trainer"]


def floor(module: str) -> int:
    return next((number for number, names in enumerate(FLOORS) if module in names), len(FLOORS))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    own = {name[1:] for name in imports_of(PACKAGE / f"{module.replace('.', '/')}.py") if name.startswith(".")}
    assert {name for name in own if floor(name) <= floor(module)} == set()


def test_every_module_has_its_floor() -> None:
    found = {module_of(path) for path in PACKAGE.rglob("*.py") if path.stem != "__init__"}
    assert found == MODULES | {"errors"}
