"""Placing the operators in Towhee's folder."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clip4clip import InstallError
from clip4clip.cli import app
from clip4clip.operators.install import OPERATORS, install_operators


def folder(home: Path, operator: str) -> Path:
    return home / "operators" / operator / "versions" / "main"


def test_all_operators_are_placed_and_returned(tmp_path: Path) -> None:
    placed = install_operators(tmp_path)
    names = ["video-text-embedding/clip4clip", "video-decode/ffmpeg"]
    names += ["ann-insert/milvus-client", "ann-search/milvus-client"]
    assert placed == [folder(tmp_path, name) / "__init__.py" for name in names]
    for path in placed:
        ast.parse(path.read_text())
        assert [entry.name for entry in path.parent.iterdir()] == ["__init__.py"]


def test_placing_again_replaces_an_older_file(tmp_path: Path) -> None:
    first, second, *_ = install_operators(tmp_path)
    fresh = first.read_text()
    first.write_text(fresh.splitlines()[0] + "\nold = True\n")
    install_operators(tmp_path)
    assert first.read_text() == fresh
    assert second.exists()


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_foreign_operator_is_replaced_only_with_force(operator: str, tmp_path: Path) -> None:
    theirs = folder(tmp_path, operator) / "__init__.py"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs = True\n")
    with pytest.raises(InstallError, match=r"did not place it: .*--force"):
        install_operators(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [theirs]
    assert theirs.read_text() == "theirs = True\n"
    install_operators(tmp_path, force=True)
    assert "clip4clip" in theirs.read_text()


def test_a_foreign_operator_for_the_legacy_loader_is_not_replaced(tmp_path: Path) -> None:
    theirs = folder(tmp_path, "video-text-embedding/clip4clip") / "clip4clip.py"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("class Clip4clip: ...\n")
    with pytest.raises(FileExistsError):
        install_operators(tmp_path)


def test_a_hub_download_is_replaced_and_the_targets_of_its_links_are_not(tmp_path: Path) -> None:
    blob = tmp_path / "files" / "abc"
    blob.parent.mkdir()
    blob.write_text("theirs = True\n")
    link = folder(tmp_path, "video-decode/ffmpeg") / "__init__.py"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    install_operators(tmp_path, force=True)
    assert blob.read_text() == "theirs = True\n"
    assert not link.is_symlink()


def test_a_checkpoint_beside_the_operator_is_not_changed(tmp_path: Path) -> None:
    checkpoint = folder(tmp_path, "video-text-embedding/clip4clip") / "pytorch_model.bin.1"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    install_operators(tmp_path)
    install_operators(tmp_path, force=True)
    assert checkpoint.read_bytes() == b"weights"


def test_the_command_uses_towhee_home_and_lists_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWHEE_HOME", str(tmp_path / "from_environment"))
    output = CliRunner().invoke(app, ["install-operators"]).stdout
    for name in OPERATORS:
        assert f"placed {folder(tmp_path / 'from_environment', name) / '__init__.py'}" in output
    CliRunner().invoke(app, ["install-operators", "--towhee-home", str(tmp_path / "named")])
    assert folder(tmp_path / "named", "video-decode/ffmpeg").is_dir()


def test_the_default_is_the_towhee_folder_in_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOWHEE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert install_operators()[0].is_relative_to(tmp_path / ".towhee")


def test_the_command_raises_install_error_for_a_foreign_operator(tmp_path: Path) -> None:
    theirs = folder(tmp_path, "video-decode/ffmpeg") / "__init__.py"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs = True\n")
    result = CliRunner().invoke(app, ["install-operators", "--towhee-home", str(tmp_path)])
    assert isinstance(result.exception, InstallError)


def test_a_placed_operator_without_the_package_says_how_to_install_it(tmp_path: Path) -> None:
    install_operators(tmp_path)
    program = "import sys; sys.modules['clip4clip'] = None; from towhee import ops\n"
    for operator in OPERATORS:
        namespace, name = operator.replace("-", "_").split("/")
        program += f"try: ops.{namespace}.{name}().get_op()\nexcept Exception as error: print(error)\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "TOWHEE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    messages = done.stdout.splitlines()
    assert len(messages) == len(OPERATORS), done.stdout
    for message in messages:
        assert "needs the package towhee-clip4clip" in message
        assert sys.executable in message
