"""Texts with control characters, and terminals without Unicode."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from constants import WITH_TINY

CONTROL = "[\x00-\x09\x0b-\x1f\x7f-\x9f]"


@pytest.mark.skipif(sys.platform == "win32", reason="names that Windows does not have")
def test_file_names_never_reach_the_terminal_as_commands(
    tiny_checkpoint: Path, bigbuckbunny: Path, run_main: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    good, bad = tmp_path / "\x1b[31m[red]:dog:\n\x9b2J.mp4", tmp_path / "\x1b]0;own\x07[" / "].mp4"
    bad.parent.mkdir()
    good.symlink_to(bigbuckbunny)
    bad.write_text("no video")
    arguments = ["embed-video", good, bad, "-n", 1, "-m", "tiny", "-w", tiny_checkpoint]
    code, printed, errors = run_main(*arguments)
    assert code == 1
    for text, name in ((printed, r"\x1b[31m[red]:dog:\n\x9b2J.mp4"), (errors, r"\x1b]0;own\x07[/].mp4")):
        assert name in text
        assert not re.search(CONTROL, text)
    code, printed, _ = run_main(*arguments, "--json")
    assert json.loads(printed)["path"] == str(good)
    assert not re.search(CONTROL, printed)
    output = tmp_path / "\x1b[2J.npz"
    assert r"\x1b[2J.npz" in run_main("embed-text", "a", "-m", "tiny", "-w", tiny_checkpoint, "-o", output)[2]


def test_an_option_never_reaches_the_terminal_as_a_command(error_of: Callable[..., str]) -> None:
    assert r"--no-such-option\x1b[31m" in error_of("embed-text", "a", "--no-such-option\x1b[31m")


def test_a_terminal_without_unicode_gets_escapes(tiny_checkpoint: Path) -> None:
    code = f"""{WITH_TINY}
import sys
from clip4clip.cli import main
text = ["embed-text", "ü犬", "-m", "tiny", "-w", {str(tiny_checkpoint)!r}]
for arguments in (text, [*text, "--json"], ["embed", "--help"]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        assert not end.code
"""
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode("ascii").splitlines()
    assert any(r"\xfc\u72ac" in line for line in lines)
    assert [json.loads(line)["text"] for line in lines if line.startswith("{")] == ["ü犬"]
