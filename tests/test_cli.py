from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from clip4clip import InputValueError, TextEncoder, VideoEncoder, __version__
from clip4clip.cli import app
from clip4clip.video import read_frames

REPOSITORY = Path(__file__).parent.parent
# `tiny` is a model name of these tests alone, so a process of its own has to be told of it.
WITH_TINY = """
import sys
from clip4clip.cli import main
from clip4clip.config import CLIPConfig
from clip4clip.config import MODELS, Model
towers = dict(patch_size=16, vision_width=128, vision_layers=2, text_width=64, text_layers=2)
MODELS["tiny"] = Model(CLIPConfig(embed_dim=64, resolution=32, **towers), hub="hf://owner/tiny")
main()
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def process(*arguments: object, code: str = WITH_TINY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((), ["demo", "embed-text", "embed-video", "eval", "train", "synthetic", "install-operators"]),
        (("demo",), ["--out", "--clips", "--device", "clip_vit_tiny_demo", "drawings", "Example:"]),
        (("eval",), ["--videos", "--captions", "--json", "--histogram", "--model", "--weights", "Example:"]),
        (("train",), ["--init", "--resume", "--skip-bad", "--head", "--freeze-layers", "torchrun", "Example:"]),
        (("synthetic",), ["--train", "--eval", "--seed", "Example:"]),
        (("embed-text",), ["--model", "--weights", "--device", "--output", "--json", "Example:"]),
        (
            ("embed-video",),
            [
                "--frames",
                "--seek",
                "keyframe",
                "--model",
                "--weights",
                "--device",
                "--output",
                "--json",
                "Ctrl-C",
                "Example:",
            ],
        ),
        (("install-operators",), ["--towhee-home", "--force", "TOWHEE_HOME"]),
    ],
)
def test_help_teaches(command: tuple[str, ...], words: list[str]) -> None:
    shown = run(*command, "--help").stdout
    assert [word for word in words if word not in shown] == []


def test_version() -> None:
    assert run("--version").stdout.strip() == __version__


@pytest.mark.parametrize("start", [["-m", "clip4clip"], [str(REPOSITORY / "clip4clip.py")]])
def test_every_way_to_start_it(start: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *start, "--version"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.strip() == __version__


def test_texts_as_a_table(tiny_checkpoint: Path) -> None:
    shown = run("embed-text", "a dog", "[red]a cat", "-m", "tiny", "-w", tiny_checkpoint).stdout
    assert "a dog" in shown
    assert "[red]a cat" in shown
    assert "1.000000" in shown


def test_texts_as_json_lines(tiny_checkpoint: Path) -> None:
    lines = run("embed-text", "a dog", "ein Küken", "-m", "tiny", "-w", tiny_checkpoint, "--json").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["text"] for row in rows] == ["a dog", "ein Küken"]
    expected = TextEncoder.load("tiny", tiny_checkpoint, "cpu")(["a dog", "ein Küken"])
    np.testing.assert_allclose([row["vector"] for row in rows], expected, atol=1e-6)


def test_texts_as_a_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "vectors.npz"
    assert run("embed-text", "a dog", "b", "-m", "tiny", "-w", tiny_checkpoint, "-o", output).exit_code == 0
    with np.load(output, allow_pickle=False) as file:
        assert file["texts"].tolist() == ["a dog", "b"]
        np.testing.assert_array_equal(file["vectors"], TextEncoder.load("tiny", tiny_checkpoint, "cpu")(["a dog", "b"]))
    assert list(tmp_path.iterdir()) == [output]


def test_videos_as_a_file_and_a_bad_one_named(tiny_checkpoint: Path, tmp_path: Path, bigbuckbunny: Path) -> None:
    bad, output = tmp_path / "bad.mp4", tmp_path / "vectors.npz"
    bad.write_text("no video")
    result = run(
        "embed-video", bad, bigbuckbunny, "gone.mp4", "-n", 3, "-m", "tiny", "-w", tiny_checkpoint, "-o", output
    )
    assert result.exit_code == 1
    assert "bad.mp4: not a video file" in result.stderr.replace("\n", "")
    assert "gone.mp4: there is no such file" in result.stderr.replace("\n", "")
    assert "2 of 3 videos failed" in result.stderr
    with np.load(output, allow_pickle=False) as file:
        assert file["paths"].tolist() == [str(bigbuckbunny)]
        expected = VideoEncoder.load("tiny", tiny_checkpoint, "cpu")(read_frames(bigbuckbunny, 3))
        np.testing.assert_array_equal(file["vectors"], [expected])


def test_the_folder_of_the_output_is_checked_before_the_work(tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = run("embed-text", "a", "-m", "tiny", "-w", tiny_checkpoint, "-o", tmp_path / "no" / "such.npz")
    assert result.exit_code == 2
    assert "--output" in result.stderr
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed-text", "a", "-m", "vit"], "unknown model 'vit'; the models are clip_vit_b32, clip_vit_b16"),
        (["embed-text", "a", "-m", "tiny", "-w", "nowhere.pt"], "no checkpoint at nowhere.pt"),
        (["embed-text", "a", "-m", "tiny", "-w", "nowhere.pt", "-d", "cuda:99"], "device 'cuda:99' does not exist"),
        (["demo", "--out", "/dev/null/no", "-d", "cuda:99"], "device 'cuda:99' does not exist"),
        (["eval", "nowhere.csv", "--videos", "."], "no table at nowhere.csv"),
        (["embed-video", "a.mp4", "--seek", "fast"], "'fast' is not one of 'exact', 'keyframe'"),
        (["train", "nowhere.csv", "--videos", ".", "--out", "run"], "no table at nowhere.csv"),
        (["synthetic", "/dev/null/no", "--train", "1", "--eval", "0"], "/dev/null/no"),
    ],
)
def test_an_error_is_a_sentence_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = process(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_keeps_what_is_done(tiny_checkpoint: Path, bigbuckbunny: Path, tmp_path: Path) -> None:
    # The others are pipes that nobody writes to: there the process waits for the signal.
    names = [tmp_path / f"{number}.mp4" for number in range(5)]
    for name in names[:2]:
        name.symlink_to(bigbuckbunny)
    for name in names[2:]:
        os.mkfifo(name)
    output = tmp_path / "vectors.npz"
    command = [sys.executable, "-c", WITH_TINY, "embed-video", *map(str, names), "-n", "2", "-m", "tiny"]
    command += ["-w", str(tiny_checkpoint), "-o", str(output)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        wait_until_blocked_on(names[2], running)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "stopped: 2 of 5 videos are done" in errors
    with np.load(output, allow_pickle=False) as file:
        assert file["paths"].tolist() == [str(name) for name in names[:2]]


def test_evaluation_as_a_table_as_json_and_as_a_picture(tiny_checkpoint: Path, drawings: Path, tmp_path: Path) -> None:
    figures, picture = tmp_path / "figures.json", tmp_path / "ranks.png"
    arguments = ["eval", drawings / "eval.csv", "--videos", drawings, "-n", 2, "-m", "tiny", "-w", tiny_checkpoint]
    result = run(*arguments, "--json", figures, "--histogram", picture)
    assert result.exit_code == 0
    for word in ("24 sentences, 24 videos", "R@1", "R@5", "R@10", "MdR", "MnR", "text → video", "video → text"):
        assert word in result.stdout
    written = json.loads(figures.read_text("utf-8"))
    assert (written["pairs"], written["videos"], written["failed"]) == (24, 24, {})
    assert f"{written['text_to_video']['mean_rank']:.1f}" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(run(*arguments, "--json", "-").stdout) == written


def test_evaluation_lists_what_it_missed(tiny_checkpoint: Path, drawings: Path, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("video,sentence\neval/0-000000.mp4,a\ngone,b\n")
    result = run("eval", table, "--videos", drawings, "-n", 2, "-m", "tiny", "-w", tiny_checkpoint)
    assert result.exit_code == 1
    assert "missed" in result.stderr
    assert "gone: there is no such file" in result.stderr.replace("\n", "")
    assert "1 of 2 videos failed and count as misses" in result.stderr


def test_evaluation_checks_its_outputs_before_the_work(drawings: Path, tmp_path: Path) -> None:
    for option in ("--json", "--histogram"):
        result = run("eval", drawings / "eval.csv", "--videos", drawings, option, tmp_path / "no" / "such")
        assert result.exit_code == 2
        assert option in result.stderr
    picture = tmp_path / "ranks.bmp"
    result = run("eval", drawings / "eval.csv", "--videos", drawings, "-w", "nowhere.pt", "--histogram", picture)
    assert isinstance(result.exception, InputValueError)
    assert "ranks.bmp" in str(result.exception)


@pytest.mark.parametrize("option", ["--seed", "--workers"])
def test_impossible_numbers_are_refused(option: str, tmp_path: Path) -> None:
    for command in (["synthetic", tmp_path], ["train", "pairs.csv", "--videos", tmp_path, "--out", tmp_path]):
        result = run(*command, option, -1)
        assert result.exit_code == 2
        assert option in result.stderr


def test_one_of_torchruns_processes_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    from clip4clip.training import trainer

    monkeypatch.setattr(trainer, "train", lambda *_: trainer.TrainingResult(3, True, None))
    for rank, told in (("0", "wrote out/last.safetensors after 3 steps"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert run("train", "pairs.csv", "--videos", "videos", "--out", "out").stderr.strip() == told


def test_training_with_a_bad_pair_and_without_it(drawings: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text((drawings / "train.csv").read_text("utf-8") + "gone.mp4,a dog\n", "utf-8")
    arguments = ["train", table, "--videos", drawings, "--out", tmp_path / "run", "-m", "tiny", "--epochs", 1]
    arguments += ["--init", tiny_checkpoint, "--batch-size", 24, "-n", 2, "--workers", 0, "-d", "cpu"]
    refused = process(*arguments)
    assert refused.returncode == 2
    assert "1 of 49 pairs" in refused.stderr
    assert "--skip-bad" in refused.stderr
    assert not (tmp_path / "run").exists()
    held_out = tmp_path / "held_out.csv"
    held_out.write_text((drawings / "eval.csv").read_text("utf-8") + "lost.mp4,a cat\n", "utf-8")
    done = process(*arguments, "--skip-bad", "--eval-pairs", held_out)
    assert done.returncode == 1, done.stderr
    assert "25 sentences, 25 videos" in done.stdout
    assert "after 2 steps" in done.stderr
    assert re.search("epoch 1: .* %; 1 of 25 videos failed", done.stderr)
    assert "missed" in done.stderr
    assert "1 of 25 videos failed and count as misses" in done.stderr
    assert (tmp_path / "run/best.safetensors").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_keeps_the_clips_that_are_drawn(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clip4clip", "synthetic", str(tmp_path), "--train", "3000", "--eval", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        while running.poll() is None and len(list(tmp_path.glob("train/0-*.mp4"))) < 4:
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the processes that draw, too
        _, errors = running.communicate(timeout=60)
    assert running.returncode not in (0, None)
    assert "Traceback" not in errors
    clips = list((tmp_path / "train").iterdir())
    assert 4 <= len(clips) < 3000
    assert all(not clip.name.startswith(".") for clip in clips)


def wait_until_blocked_on(pipe: Path, running: subprocess.Popen) -> None:
    """Returns when the process has opened ``pipe`` for reading and waits for its first byte."""
    while running.poll() is None:
        try:
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody reads yet
            time.sleep(0.05)
        else:
            return
