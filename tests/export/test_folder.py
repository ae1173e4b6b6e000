"""Folders that exist: nobody finds new weights beside old files, or old weights beside new ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip4clip.export.folder import atomic_folder

REPLACEABLE = ["config", "tokens", "weights"]


def write(folder: Path, content: str) -> None:
    for name in REPLACEABLE:
        (folder / name).write_text(content)


@pytest.mark.parametrize("blocked", ["config", "other"])
def test_a_folder_that_cannot_be_replaced_has_no_weights(tmp_path: Path, blocked: str) -> None:
    def replace() -> None:
        with atomic_folder(tmp_path, REPLACEABLE, "weights") as new:
            write(new, "new")
            (new / "other").write_text("new")

    write(tmp_path, "old")
    (tmp_path / "config").unlink()
    (tmp_path / blocked / "file").mkdir(parents=True)  # can neither be removed nor replaced like a file
    with pytest.raises(OSError, match=blocked):
        replace()
    assert {path.name for path in tmp_path.iterdir()} <= {"config", "tokens", "other"}


def test_other_files_stay(tmp_path: Path) -> None:
    write(tmp_path, "old")
    with atomic_folder(tmp_path, ["config", "weights"], "weights") as new:
        (new / "weights").write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"tokens": "old", "weights": "new"}
