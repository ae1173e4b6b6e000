"""The command line as a whole: help, errors, exit codes, and optional packages that are missing."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from constants import DEMO_MODEL, REPOSITORY
from typer.main import get_command
from typer.testing import Result

from clip4clip import __version__
from clip4clip.cli import app
from clip4clip.cli.app import COMMANDS


def test_version(run: Callable[..., Result]) -> None:
    assert run("--version").stdout.strip() == __version__


@pytest.mark.parametrize("start", [["-m", "clip4clip"], [str(REPOSITORY / "clip4clip.py")]])
def test_the_command_line_starts_as_a_module_and_as_a_file(start: list[str], tmp_path: Path) -> None:
    command = [sys.executable, *start]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == __version__
    failed = subprocess.run([*command, "search"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("error Invalid value for TEXT: give one of a text, --video and --like")


# Help


def test_without_a_command_the_help_is_printed(run: Callable[..., Result]) -> None:
    result = run()
    assert result.exit_code == 2
    assert result.stdout.strip() == run("--help").stdout.strip()


def test_help_lists_every_command(run: Callable[..., Result]) -> None:
    printed = run("--help").stdout
    assert sorted(get_command(app).commands) == sorted(COMMANDS)  # type: ignore[attr-defined]
    assert [name for name in COMMANDS if f" {name} " not in printed] == []


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", [80, 120])
def test_help_prints_each_example_on_a_line_of_its_own(
    name: str, columns: int, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    examples = [line for line in inspect.cleandoc(COMMANDS[name].__doc__ or "").splitlines() if line.startswith("    ")]
    assert examples
    printed = [line.rstrip() for line in run(name, "--help").stdout.splitlines()]
    for example in examples:
        assert f" {example}" in printed
    assert any(line.strip() == "Examples:" for line in printed)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("demo", ["clip_vit_tiny_demo", "drawings"]),
        ("eval", ["R@1", "R@5", "R@10", "MdR", "MnR", "miss", "exit code is then 1"]),
        ("eval-moments", ["R@1", "IoU", "mAP", "Ctrl-C", "30 seconds", "--segments", "exit code is then 1"]),
        ("train", ["Ctrl-C", "--resume", "torchrun"]),
        ("embed-text", ["@FILE"]),
        ("embed-video", ["Ctrl-C", "`clip4clip embed`", "`clip4clip index FOLDER`", "exit code is then 1"]),
        ("embed", ["Ctrl-C", "`clip4clip embed-video`", "`clip4clip index FOLDER`", "exit code is then 1"]),
        ("index", ["`clip4clip embed`", "can be resumed"]),
        ("install-operators", ["$TOWHEE_HOME"]),
    ],
)
def test_help_says_what_a_user_must_know(command: str, words: list[str], run: Callable[..., Result]) -> None:
    printed = re.sub(r"[\s│]+", " ", run(command, "--help").stdout)
    assert [word for word in words if word not in printed] == []


def test_help_imports_nothing_heavy_and_nothing_that_windows_lacks(
    run_without: Callable[..., list[tuple[list[str], str, str]]],
) -> None:
    heavy = ["torch", "towhee", "numpy", "av", "PIL", "pyarrow", "pymilvus", "fastapi", "onnxruntime", "ray"]
    windows_lacks = ["fcntl", "pwd", "grp", "resource", "termios"]
    commands = [["--help"], *([name, "--help"] for name in COMMANDS)]
    for command, printed, errors in run_without([*heavy, *windows_lacks], commands, REPOSITORY):
        assert "Usage:" in printed, (command, errors)
        assert errors == "exit 0\n"


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed-text", "a", "-m", "vit"], "unknown model 'vit'; the models are clip_vit_b32, clip_vit_b16"),
        (["embed-text", "a", "-w", ""], "no checkpoint: its path is empty"),
        (["embed-text", "a", "-m", "tiny", "-w", "nowhere.pt"], "no checkpoint at nowhere.pt"),
        (["embed-text", "a", "-m", "tiny", "-w", "nowhere.pt", "-d", "cuda:99"], "device 'cuda:99' does not exist"),
        (["demo", "--out", "file/no", "-d", "cuda:99"], "device 'cuda:99' does not exist"),
        (["synthetic", "file/no", "--train", "1", "--eval", "0"], "file"),
        (["install-operators", "--towhee-home", "file"], "file"),
        (["no-such-command"], "No such command 'no-such-command'"),
        (["embed-text"], "Missing argument"),
        (["embed", "."], "Missing option '--output'"),
        (["search", "a", "--no-such-option"], "--no-such-option"),
    ],
)
def test_an_error_is_a_sentence_and_exit_code_2(
    arguments: list[str], message: str, error_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert message in error_of(*arguments)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("one.mp4", None, "one.mp4 is a video"),
        ("v.csv", b"PAR1\x15\x04\xff", "v.csv is a Parquet file"),
        ("v.npz", b"PK\3\4\xff", "v.npz is a ZIP archive"),
        ("v.pkl", b"\x80\x04\x95", "v.pkl is a Python pickle"),
        ("v.jsonl", b"\x93NUMPY\x01", "v.jsonl is a NumPy array"),
        ("v.csv", "video,sentence\na,b\n".encode("utf-16"), "v.csv is text in UTF-16; save it as UTF-8"),
    ],
)
def test_a_file_of_the_wrong_kind_is_named_and_what_is_expected(
    name: str, content: bytes | None, kind: str, error_of: Callable[..., str], bigbuckbunny: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(bigbuckbunny.read_bytes() if content is None else content)
    for command, expected in (
        (["embed", path, "-o", tmp_path / "w.parquet", "-m", "tiny"], "Expected a folder of videos"),
        (["eval", path, "--videos", tmp_path], "Expected a table of videos and sentences"),
        (["train", path, "--videos", tmp_path, "--out", tmp_path / "run"], "Expected a table of videos and sentences"),
    ):
        errors = error_of(*command)
        assert kind in errors
        assert expected in errors
    errors = error_of("index", path, "--uri", tmp_path / "v.db")
    assert f"{path} is not a table of vectors: " in errors
    assert "Expected a Parquet table as `clip4clip embed` writes it" in errors


# Optional packages

WITH_DEMO_MODEL = ["-m", DEMO_MODEL, "-d", "cpu"]
EMBED_TEXT = ["embed-text", "a", *WITH_DEMO_MODEL, "--runtime", "onnxruntime"]
EMBED = ["embed", "v.csv", "-o", "w.parquet", *WITH_DEMO_MODEL]
EMBED_ON_RAY = [*EMBED, "--engine", "ray"]
INDEX, SEARCH, SERVE = (
    ["index", "v.parquet", "--uri", "v.db"],
    ["search", "a", "--uri", "v.db"],
    ["serve", "--uri", "v.db"],
)
INDEX_ON_SERVER, SEARCH_ON_SERVER, SERVE_SERVER = (
    [*command[:-1], "http://127.0.0.1:1"] for command in (INDEX, SEARCH, SERVE)
)
TAG, DUPLICATES, MCP = (
    ["tag", "v.db", "--labels", "labels.txt"],
    ["duplicates", "v.db"],
    ["mcp", "--uri", "v.db"],
)
TAG_TABLE, DUPLICATES_OF_TABLE = ["tag", "v.parquet", *TAG[2:]], ["duplicates", "v.parquet"]
EVALUATE = ["eval", "none.csv", "--videos", ".", "--histogram", "x.png", *WITH_DEMO_MODEL]
# Package, the extra that installs it, and the commands that need it.
NEEDED = [
    ("pyarrow", "retrieval", [EMBED, INDEX, TAG_TABLE, DUPLICATES_OF_TABLE]),
    ("lark", "retrieval", []),  # only for a filter
    ("psutil", "retrieval", [INDEX, SEARCH, SERVE, TAG, DUPLICATES]),
    ("pymilvus", "milvus", [INDEX_ON_SERVER, SEARCH_ON_SERVER, SERVE_SERVER]),
    ("fastapi", "retrieval", [SERVE]),
    ("starlette", "retrieval", [SERVE]),
    ("uvicorn", "retrieval", [SERVE]),
    ("python_multipart", "retrieval", [SERVE]),
    ("mcp", "mcp", [MCP]),
    ("onnx", "onnx", [EMBED_TEXT]),
    ("onnxruntime", "onnx", [EMBED_TEXT]),
    ("ray", "ray", [EMBED_ON_RAY]),
    ("matplotlib", "plot", [EVALUATE]),
    ("tensorboard", "train", []),
]
# Optional packages, and commands that need no others. Most end with an error of their own.
SUFFICIENT: list[tuple[list[str], list[list[str]]]] = [
    (
        [],
        [
            ["embed-video", "none.mp4", *WITH_DEMO_MODEL, "--runtime", "torch"],
            ["train", "none.csv", "--videos", ".", "--out", "run"],
            ["synthetic", "drawings", "--train", "0", "--eval", "0"],
            ["install-operators", "--towhee-home", "home"],
            ["demo", "--out", ".", "-d", "cuda:99"],
        ],
    ),
    (["onnx", "onnxruntime"], [EMBED_TEXT]),
    (["pyarrow"], [EMBED, TAG_TABLE, DUPLICATES_OF_TABLE]),
    (["psutil"], [SEARCH, TAG, DUPLICATES]),
    (["psutil", "mcp", "starlette", "uvicorn", "python_multipart"], [MCP]),
    (["psutil", "pyarrow"], [INDEX]),
    (["psutil", "fastapi", "starlette", "uvicorn", "python_multipart"], [["serve", "--uri", "none.db"]]),
    (["matplotlib"], [EVALUATE]),
]


def is_missed_late(package: str, command: list[str]) -> bool:
    """Whether a command misses a package only after fastapi is imported, which takes long."""
    return command in (SERVE, SERVE_SERVER) and package != "fastapi"


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with what the commands above read."""
    (tmp_path / "v.csv").write_text("video,sentence\nnone.mp4,a\n")
    (tmp_path / "labels.txt").write_text("a\nb\n")
    (tmp_path / "v.db").touch()
    (tmp_path / "v.parquet").touch()
    return tmp_path


# Blocks one package after the other. Only this package is imported again, as imports of the others take long.
BLOCK_IN_TURN = """
import json, sys
for package, commands in json.loads(sys.argv[1]):
    blocked = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == package}
    for name in [*blocked, *(name for name in sys.modules if name.partition(".")[0] == "clip4clip")]:
        del sys.modules[name]
    sys.modules[package] = None
    from clip4clip.cli import main
    for command in commands:
        sys.argv[1:] = command
        print("#", package, *command, file=sys.stderr, flush=True)
        try:
            main()
        except SystemExit as end:
            print("exit", end.code or 0, file=sys.stderr, flush=True)
    del sys.modules[package]
    sys.modules.update(blocked)
"""


def test_a_command_without_its_optional_package_names_the_extra(inputs: Path) -> None:
    cases = [
        (package, extra, [command for command in commands if not is_missed_late(package, command)])
        for package, extra, commands in NEEDED
    ]
    arguments = json.dumps([(package, commands) for package, _, commands in cases])
    done = subprocess.run(
        [sys.executable, "-c", BLOCK_IN_TURN, arguments],
        capture_output=True,
        text=True,
        cwd=inputs,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outputs = iter(re.split("^# ", done.stderr, flags=re.M)[1:])
    for package, extra, commands in cases:
        for command in commands:
            errors = next(outputs)
            assert errors.startswith(" ".join([package, *command]))
            assert f"pip install 'towhee-clip4clip[{extra}]'" in errors, errors
            assert errors.endswith("exit 2\n"), errors
    assert next(outputs, None) is None


RunWithout = Callable[..., list[tuple[list[str], str, str]]]


@pytest.mark.slow
def test_the_page_without_an_optional_package_names_the_extra(inputs: Path, run_without: RunWithout) -> None:
    late = [(*case, command) for *case, commands in NEEDED for command in commands if is_missed_late(case[0], command)]
    assert len(late) == 5
    for package, extra, command in late:
        [(_, _, errors)] = run_without([package], [command], inputs)
        assert f"pip install 'towhee-clip4clip[{extra}]'" in errors, errors
        assert errors.endswith("exit 2\n"), errors


@pytest.mark.slow
@pytest.mark.parametrize(("packages", "commands"), SUFFICIENT, ids=[" ".join(packages) for packages, _ in SUFFICIENT])
def test_a_command_works_without_the_optional_packages_that_it_does_not_need(
    packages: list[str], commands: list[list[str]], inputs: Path, run_without: RunWithout
) -> None:
    blocked = [package for package, _, _ in NEEDED if package not in packages]
    for command, _, errors in run_without(blocked, commands, inputs):
        assert "Traceback" not in errors, errors
        assert "pip install" not in errors, (command, errors)
        assert re.search(r"^exit [012]$", errors, re.M), errors
