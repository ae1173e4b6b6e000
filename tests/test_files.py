"""Files are written completely or not at all, through links and into devices, and keep their modes and owners."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import file_size_limit
from typer.testing import CliRunner

from clip4clip.cli import app
from clip4clip.encoder import EncoderSpec
from clip4clip.files import atomic_write, check_folder_writable, check_writable, is_regular, remove_partial_files
from clip4clip.library.embed import embed_library
from clip4clip.operators import Clip4clip
from clip4clip.training import VideoTextModel
from clip4clip.training.checkpoint import save_checkpoint
from clip4clip.video import FrameSampling
from clip4clip.weights.identity import find_checkpoint

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes, links and pipes of POSIX")


def write(path: Path, content: str = "new") -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for before in (None, "old"):
        if before:
            path.write_text(before)
        with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
            temporary.write_text("half" * (1 // 0))
        assert names(tmp_path) == (["file"] if before else [])
    write(path)
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file"]


@posix
def test_a_link_is_followed_and_the_temporary_file_has_the_mode_of_the_old_one(tmp_path: Path) -> None:
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.parent.mkdir()
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to("folder/target")
    with atomic_write(link) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        temporary.unlink()  # some writers delete the file and create a new one
        temporary.write_text("new")
        temporary.chmod(0o644)
    assert (link.readlink(), target.read_text()) == (Path("folder/target"), "new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    dangling = tmp_path / "dangling"
    dangling.symlink_to("folder/other")
    write(dangling)
    assert (tmp_path / "folder" / "other").read_text() == "new"
    write(dangling, "newer")
    assert dangling.is_symlink()
    with atomic_write(link, replace_link=True) as temporary:
        temporary.write_text("own")
    assert not link.is_symlink()
    assert (link.read_text(), target.read_text()) == ("own", "new")


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may change owners")
def test_the_owner_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.chown(path, 1234, 5678)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 5678)


@posix
def test_links_in_a_circle_are_an_error_and_are_not_replaced(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.symlink_to(second)
    second.symlink_to(first)
    with pytest.raises(OSError, match="symbolic links"):
        write(first)
    assert first.is_symlink()
    assert second.is_symlink()


@posix
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    write(pipe)
    reader.join()
    assert received == ["new"]
    assert pipe.is_fifo()
    assert names(tmp_path) == ["pipe"]


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="/dev/fd")
def test_an_open_file_descriptor_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with path.open("r+") as file:
        write(Path(f"/dev/fd/{file.fileno()}"))
        assert file.read() == "new"  # the same file, not another one under its name
    read, written = os.pipe()
    write(Path(f"/dev/fd/{written}"))
    os.close(written)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["open", "replace"])
def test_a_file_that_cannot_be_replaced_is_written_to(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The folder may belong to another user, or the file may be a mount point of a container.
    def refuse(path: Path, *args: Any, **kwargs: Any) -> Any:
        if Path(path).parent == tmp_path:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return original(path, *args, **kwargs)

    (tmp_path / "old").write_text("old")
    owner = {"open": os, "replace": Path}[step]
    original = getattr(owner, step)
    monkeypatch.setattr(owner, step, refuse)
    write(tmp_path / "old")
    assert (tmp_path / "old").read_text() == "new"
    with pytest.raises(PermissionError):
        write(tmp_path / "new")
    assert names(tmp_path) == ["old"]


def test_checking_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "new")
    check_folder_writable(tmp_path / "a" / "b")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"
    with pytest.raises(FileNotFoundError, match="none"):
        check_writable(tmp_path / "none" / "file")
    with pytest.raises(OSError, match="file"):
        check_folder_writable(tmp_path / "file" / "folder")


def test_temporary_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    for name in (".a[1].npz.123.456", ".a1.npz.123.456"):
        (tmp_path / name).touch()
    remove_partial_files([tmp_path / "a[1].npz"])
    assert names(tmp_path) == [".a1.npz.123.456"]
    assert is_regular(tmp_path / "new")


def test_the_error_of_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with file_size_limit(1000), pytest.raises(OSError, match=r"big\.txt"):
        write(tmp_path / "big.txt", "x" * 10_000)
    assert names(tmp_path) == []


@pytest.fixture
def writers(tiny_checkpoint: Path, drawings: Path) -> dict[str, Callable[[Path], object]]:
    """Suffix to a function that writes such a file, for every file that a user can name."""
    tiny = ["-m", "tiny", "-w", str(tiny_checkpoint)]

    def run(*arguments: object) -> None:
        assert CliRunner().invoke(app, [*map(str, arguments), *tiny]).exit_code == 0

    def evaluate(option: str) -> Callable[[Path], object]:
        return lambda path: run("eval", drawings / "eval.csv", "--videos", drawings, "-n", 1, option, path)

    return {
        ".npz": lambda path: run("embed-text", "a", "-o", path),
        ".json": evaluate("--json"),
        ".png": evaluate("--histogram"),
        ".safetensors": lambda path: save_checkpoint(
            VideoTextModel.load(find_checkpoint(tiny_checkpoint, "tiny")), path
        ),
        ".onnx": lambda path: Clip4clip("tiny", "text", tiny_checkpoint, "cpu").save_model("onnx", path),
        ".parquet": lambda path: embed_library(
            sorted((drawings / "eval").iterdir())[: 2 if path.is_symlink() else 1],
            path,
            encoder=EncoderSpec(model_name="tiny", weights=tiny_checkpoint),
            sampling=FrameSampling(frames=1),
        ),
    }


@posix
@pytest.mark.parametrize("ending", [".npz", ".json", ".png", ".safetensors", ".onnx", ".parquet"])
def test_every_writer_follows_links_and_keeps_modes(
    ending: str, writers: dict[str, Callable[[Path], object]], tmp_path: Path
) -> None:
    target, link = tmp_path / "elsewhere" / f"target{ending}", tmp_path / f"link{ending}"
    target.parent.mkdir()
    writers[ending](target)
    assert stat.S_IMODE(target.stat().st_mode) & 0o400
    if ending != ".parquet":  # an existing table is read first
        target.write_bytes(b"old")
    target.chmod(0o600)
    before = target.read_bytes()
    link.symlink_to(target)
    writers[ending](link)
    assert link.is_symlink()
    assert target.read_bytes() != before
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["elsewhere", link.name]


def test_training_checks_first_whether_it_can_write(tmp_path: Path) -> None:
    from clip4clip import TrainingError
    from clip4clip.training import TrainingConfig, train

    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="file/run cannot be written to"):
        train(TrainingConfig("none.csv", "none", tmp_path / "file" / "run", device="cpu"))
