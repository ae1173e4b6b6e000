"""The command ``index``: invalid arguments, and what it says about the videos of a folder."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from constants import DEMO_MODEL
from library_tables import write_scenes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "none", "--uri", "v.db"], "no folder or table at none"),
        (["index", ".", "--uri", "v.sqlite"], "is not an index: expected a name that ends in .db"),
    ],
)
def test_invalid_arguments_are_errors(
    arguments: list[str], message: str, error_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in error_of(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_decoded_is_listed_once(
    run_main: Callable[..., tuple[int, str, str]], drawings: Path, tmp_path: Path
) -> None:
    folder, address = tmp_path / "clips", ["--uri", tmp_path / "v.db", "-m", DEMO_MODEL]
    folder.mkdir()
    shutil.copy2(min((drawings / "eval").iterdir()), folder / "a.mp4")
    (folder / "bad.mp4").write_text("not a video")
    code, printed, errors = run_main("index", folder, *address)
    assert (code, printed) == (1, "")
    assert f"failed {folder / 'bad.mp4'}: unsupported or corrupt video" in errors
    assert f"1 added, 0 changed, 0 removed, 0 unchanged; 1 videos in collection 'videos' of {tmp_path}" in errors
    code, _, errors = run_main("index", folder, *address)
    assert code == 0
    assert "bad.mp4" not in errors
    assert "0 removed, 1 unchanged, 1 failed before (--retry-failed tries them again); 1 videos" in errors
    code, _, errors = run_main("index", folder, *address, "--retry-failed")
    assert code == 1
    assert f"failed {folder / 'bad.mp4'}: unsupported or corrupt video" in errors


def test_segments_are_counted_beside_the_videos(
    run_main: Callable[..., tuple[int, str, str]], drawings: Path, tmp_path: Path
) -> None:
    folder, address = tmp_path / "clips", ["--uri", tmp_path / "v.db", "-m", DEMO_MODEL]
    folder.mkdir()
    shutil.copy2(min((drawings / "eval").iterdir()), folder / "a.mp4")
    write_scenes(folder / "long.mp4", (1, 20), (None, 10), (2, 20))
    code, _, errors = run_main("index", folder, *address)
    assert code == 0
    assert "2 added, 0 changed, 0 removed, 0 unchanged; 2 videos with 3 segments in collection 'videos'" in errors
    code, _, errors = run_main("index", folder, *address, "--segments", "10")
    assert code == 2
    assert "made with: 12 frames, seek 'auto', segments 'auto', every 1 s." in errors
    assert "made with: 12 frames, seek 'auto', segments of 10 s, every 1 s." in errors
    other = ["--uri", tmp_path / "w.db", "-m", DEMO_MODEL]
    assert "2 videos with 9 segments in" in run_main("index", folder, *other, "--segments", "10", "--every", "1")[2]


def test_the_hint_about_a_moved_folder_is_a_command_that_keeps_its_vectors(
    run_main: Callable[..., tuple[int, str, str]], drawings: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "my videos", tmp_path / "new"
    old.mkdir()
    for number, clip in enumerate(sorted((drawings / "eval").iterdir())[:2]):
        shutil.copy2(clip, old / f"{number}.mp4")
    address = ["--uri", str(tmp_path / "v.db"), "--collection", "own"]
    assert run_main("index", old, *address, "-m", DEMO_MODEL)[0] == 0
    old.rename(new)
    code, _, errors = run_main("index", new, *address)
    assert code == 0
    assert "0 added, 0 changed, 0 removed, 0 unchanged, 2 left out; 2 videos in collection 'own'" in errors
    [hint] = [line for line in errors.splitlines() if line.startswith("moved from ")]
    assert hint.startswith(f"moved from {old} to {new}, it seems, and left out: 2. Run `")
    command = shlex.split(hint.split("`")[1])
    assert command == ["clip4clip", "relocate", str(old), str(new), *address]
    assert run_main(*command[1:], "--yes")[0] == 0
    assert "0 removed, 2 unchanged; 2 videos" in run_main("index", new, *address)[2]

    new.rename(old)
    assert "2 added, 0 changed, 0 removed, 0 unchanged; 4" in run_main("index", old, *address, "--embed-moved")[2]
    (old / "sub").mkdir()
    (old / "0.mp4").rename(old / "sub" / "0.mp4")
    assert "0 removed, 1 moved within the folder, 1 unchanged; 4 videos" in run_main("index", old, *address)[2]
