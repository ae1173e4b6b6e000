"""The commands ``embed-video`` and ``embed``: outputs, failures, Ctrl-C and a full disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from constants import WITH_TINY
from typer.testing import Result

from clip4clip import VideoEncoder
from clip4clip.library import embed
from clip4clip.video import read_frames


def test_videos_are_written_to_a_file_and_a_bad_one_is_named(
    run: Callable[..., Result], tiny_checkpoint: Path, tmp_path: Path, bigbuckbunny: Path
) -> None:
    bad, output = tmp_path / "bad.mp4", tmp_path / "vectors.npz"
    bad.write_text("no video")
    result = run(
        "embed-video", bad, bigbuckbunny, "gone.mp4", "-n", 3, "-m", "tiny", "-w", tiny_checkpoint, "-o", output
    )
    assert result.exit_code == 1
    assert "bad.mp4: unsupported or corrupt video" in result.stderr.replace("\n", "")
    assert "gone.mp4: there is no such file" in result.stderr.replace("\n", "")
    assert "2 of 3 videos failed" in result.stderr
    with np.load(output, allow_pickle=False) as file:
        assert file["paths"].tolist() == [str(bigbuckbunny)]
        expected = VideoEncoder.load("tiny", tiny_checkpoint, "cpu")(read_frames(bigbuckbunny, 3))
        np.testing.assert_array_equal(file["vectors"], [expected])


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_keeps_the_vectors_that_are_done(tiny_checkpoint: Path, bigbuckbunny: Path, tmp_path: Path) -> None:
    # The last three are pipes that nobody writes to: the process waits for the signal there.
    names = [tmp_path / f"{number}.mp4" for number in range(5)]
    for name in names[:2]:
        name.symlink_to(bigbuckbunny)
    for name in names[2:]:
        os.mkfifo(name)
    output = tmp_path / "vectors.npz"
    program = f"{WITH_TINY}\nfrom clip4clip.cli import main\nmain()\n"
    command = [sys.executable, "-c", program, "embed-video", *map(str, names), "-n", "2", "-m", "tiny"]
    command += ["-w", str(tiny_checkpoint), "-o", str(output)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_until_blocked_on(names[2], process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "stopped: 2 of 5 videos are done" in errors
    with np.load(output, allow_pickle=False) as file:
        assert file["paths"].tolist() == [str(name) for name in names[:2]]


def wait_until_blocked_on(pipe: Path, process: subprocess.Popen) -> None:
    """Return when the process has opened a pipe for reading and waits for its first byte."""
    while process.poll() is None:
        try:
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody reads yet
            time.sleep(0.05)
        else:
            return


def test_an_empty_name_of_a_video_is_an_error(error_of: Callable[..., str]) -> None:
    assert "the name of a video must not be empty" in error_of("embed-video", "a.mp4", "")


def test_a_library_that_does_not_exist_is_an_error(error_of: Callable[..., str], tmp_path: Path) -> None:
    errors = error_of("embed", tmp_path / "none", "-o", tmp_path / "v.parquet", "-m", "tiny")
    assert f"no library at {tmp_path / 'none'}: expected a folder of videos" in errors


def test_embed_on_a_full_disk_says_how_to_resume(
    error_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = str(tmp_path / "v.parquet.parts" / "part-000003.parquet")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), part)

    monkeypatch.setattr(embed, "embed_library", fail)
    errors = error_of("embed", tmp_path, "-o", tmp_path / "v.parquet")
    assert f"{part}: {os.strerror(errno.ENOSPC)}. Finished videos are kept" in errors
    assert "run the same command to resume" in errors


def test_another_error_of_the_system_does_not_promise_that_embed_can_be_resumed(
    error_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "v.parquet")

    monkeypatch.setattr(embed, "embed_library", fail)
    errors = error_of("embed", tmp_path, "-o", tmp_path / "v.parquet")
    assert errors.endswith(f"error v.parquet: {os.strerror(errno.EACCES)}\n")
