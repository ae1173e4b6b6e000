from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from clip4clip import InputValueError, TextEncoder, VideoEncoder, __version__
from clip4clip.cli import app, main
from clip4clip.video import read_frames

REPOSITORY = Path(__file__).parents[2]
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
        (("embed-text",), ["--model", "--weights", "--device", "--output", "--json", "@FILE", "Examples:"]),
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
    assert "bad.mp4: unsupported or corrupt video" in result.stderr.replace("\n", "")
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
        _, errors = running.communicate()
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
    # After 20 clips the command waits for the signal.
    script = tmp_path / "script.py"
    script.write_text(
        """
import threading
from rich.progress import Progress
from clip4clip.cli import main
def track(self, items, total, description):
    for number, item in enumerate(items, 1):
        yield item
        if number == 20:
            print("reached", flush=True)
            threading.Event().wait()
Progress.track = track
if __name__ == "__main__":
    main()
"""
    )
    command = [sys.executable, script, "synthetic", tmp_path, "--train", "3000", "--eval", "0", "--workers", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as running:
        assert running.stdout.readline() == "reached\n"
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the processes that draw, too
        _, errors = running.communicate()
    assert running.returncode == 130, errors
    assert "Traceback" not in errors
    clips = list((tmp_path / "train").iterdir())
    assert len(clips) >= 20
    assert all(clip.suffix == ".mp4" and not clip.name.startswith(".") for clip in clips)
    assert not (tmp_path / "train.csv").exists()


def wait_until_blocked_on(pipe: Path, running: subprocess.Popen) -> None:
    """Returns when the process has opened ``pipe`` for reading and waits for its first byte."""
    while running.poll() is None:
        try:
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody reads yet
            time.sleep(0.05)
        else:
            return


# What is given and what is written


@pytest.fixture
def main_(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command as it is installed: exit code, standard output, standard error."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setenv("COLUMNS", "200")

    def run_main(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clip4clip", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run_main


def test_lines_of_a_file_and_of_standard_input_are_texts(tiny_checkpoint: Path, tmp_path: Path) -> None:
    listed, output = tmp_path / "q.txt", tmp_path / "v.npz"
    listed.write_bytes("\ufeffein Küken\r\n a dog \nline\u2028one\n\n".encode())
    arguments = ["embed-text", f"@{listed}", "-", r"\@b", r"\-c", r"\d", "-m", "tiny", "-w", tiny_checkpoint]
    result = CliRunner().invoke(app, [*map(str, arguments), "-o", str(output)], input="from\nhere")
    assert result.exit_code == 0, result.output
    with np.load(output) as file:
        texts = ["ein Küken", " a dog ", "line\u2028one", "from", "here", "@b", "-c", r"\d"]
        assert file["texts"].tolist() == texts
        np.testing.assert_array_equal(file["vectors"], TextEncoder.load("tiny", tiny_checkpoint, "cpu")(texts))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed-text", "@none.txt"], r"none.txt cannot be read: No such file or directory; .* write \@none.txt"),
        (["embed-text", "a", ""], "text 2 of 2 is empty"),
        (["embed-text", "@gap.txt"], "text 2 of 3 is empty"),
        (["embed-text", "@latin.txt"], "latin.txt is not text in UTF-8"),
        (["embed-text", "@"], "expected the name of a file after @"),
        (["embed-text", "@empty.txt"], "empty.txt is empty"),
        (["embed-text", "a", "-w", ""], "no checkpoint is named: the name is empty"),
        (["serve", "--user", "me", "--password", ""], "--user and --password must not be empty"),
        (["install-operators", "--towhee-home", "two.txt"], ": Not a directory"),
        (["embed-text", "\udcff"], r"text 1 of 1 is not UTF-8: \udcff"),
        (["search", " "], "text 1 of 1 is empty"),
        (["search", "\udcff"], r"text 1 of 1 is not UTF-8: \udcff"),
        (["search", "@gap.txt"], "text 2 of 3 is empty"),
        (["search", "@two.txt"], "expected one sentence, but got several lines"),
        (["search", "--video", ""], "the name of a video must not be empty"),
        (["demo", ""], "text 1 of 1 is empty"),
        (["embed-video", "a.mp4", ""], "the name of a video must not be empty"),
        (["embed", "", "-o", "v.parquet"], "must not be empty"),
        (["embed", ".", "-o", " "], "must not be empty"),
        (["index", ""], "must not be empty"),
        (["eval", "two.txt", "--videos", ""], "must not be empty"),
        (["train", "two.txt", "--videos", ".", "--out", ""], "must not be empty"),
        (["embed-text", "a", "-o", "v.csv"], "v.csv would be written as .npz, so its name must end in .npz"),
        (["embed-text", "a", "-o", "-"], "its name must end in .npz"),
        (["embed-video", "a.mp4", "-o", "v.parquet"], "its name must end in .npz"),
        (["embed", ".", "-o", "v.csv"], "v.csv would be written as .parquet, so its name must end in .parquet"),
        (["eval", "two.txt", "--videos", ".", "--json", "v.csv"], "would be written as .json"),
        (["embed-video", "a.mp4", "-n", "99999999999999999999"], "less than or equal to 10000"),
        (["index", ".", "-n", "99999999999999999999"], "less than or equal to 10000"),
        (["train", "two.txt", "--videos", ".", "--out", "run", "--lr", "1e38"], "lr must be a number from 0 to 1"),
        (["embed", "none", "-o", "v.parquet", "-m", "tiny"], "no library at none: expected a folder of videos"),
        (["index", "none", "--uri", "v.db"], "no folder or table at none"),
        (["embed-text", "a", "--no-such-option\x1b[31m"], r"--no-such-option\x1b[31m"),
        (["search", "a", "--uri", "none.db"], "no index at none.db: create it with `clip4clip index`"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    arguments: list[str],
    message: str,
    main_: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gap.txt").write_text("a\n\nb\n")
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"K\xfcken\n")
    code, _, errors = main_(*arguments)
    assert code == 2
    assert re.search(re.escape(message).replace(r"\ \.\*\ ", ".*"), errors), errors
    assert "\x1b" not in errors
    assert not (tmp_path / "v.csv").exists()


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
def test_files_of_a_wrong_kind_are_named_and_what_is_expected(
    name: str,
    content: bytes | None,
    kind: str,
    main_: Callable[..., tuple[int, str, str]],
    bigbuckbunny: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / name
    path.write_bytes(bigbuckbunny.read_bytes() if content is None else content)
    for command, expected in (
        (["embed", path, "-o", tmp_path / "w.parquet", "-m", "tiny"], "Expected a folder of videos"),
        (["eval", path, "--videos", tmp_path], "Expected a table of videos and sentences"),
        (["train", path, "--videos", tmp_path, "--out", tmp_path / "run"], "Expected a table of videos and sentences"),
    ):
        code, _, errors = main_(*command)
        assert (code, kind in errors, expected in errors) == (2, True, True), errors
    code, _, errors = main_("index", path, "--uri", tmp_path / "v.db")
    assert code == 2
    assert f"{path} is not a table of vectors: " in errors
    assert "Expected a Parquet table as `clip4clip embed` writes it" in errors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full")
def test_vectors_that_cannot_be_written_at_the_end_are_kept(
    main_: Callable[..., tuple[int, str, str]], tiny_checkpoint: Path
) -> None:
    code, _, errors = main_("embed-text", "a dog", "-m", "tiny", "-w", tiny_checkpoint, "-o", "/dev/full")
    assert code == 2
    kept = re.search(r"error /dev/full cannot be written: No space left on device\. The result is in (\S+)", errors)
    assert kept, errors
    with np.load(kept[1]) as file:
        assert file["texts"].tolist() == ["a dog"]
    Path(kept[1]).unlink()
    Path(kept[1]).parent.rmdir()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc, where root cannot write either")
def test_outputs_are_tried_before_the_work(main_: Callable[..., tuple[int, str, str]]) -> None:
    work = ["-m", "tiny", "-w", "nowhere.pt"]  # which is found out only when the work begins
    for command in (
        ["embed-text", "a", "-o", "/proc/v.npz", *work],
        ["embed-video", "a.mp4", "-o", "/proc/v.npz", *work],
        ["embed", ".", "-o", "/proc/v.parquet", *work],
        ["eval", "a.csv", "--videos", ".", "--json", "/proc/v.json", *work],
        ["eval", "a.csv", "--videos", ".", "--histogram", "/proc/v.png", *work],
    ):
        code, _, errors = main_(*command)
        assert code == 2
        assert re.search(r"/proc/v\.\w+ cannot be written: ", errors), errors
    code, _, errors = main_("train", "a.csv", "--videos", ".", "--out", "/proc/run")
    assert (code, "/proc/run cannot be written to: " in errors) == (2, True), errors


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="/dev/fd")
def test_vectors_go_into_a_pipe(tiny_checkpoint: Path) -> None:
    read, written = os.pipe()
    result = run("embed-text", "a dog", "-m", "tiny", "-w", tiny_checkpoint, "-o", f"/dev/fd/{written}")
    os.close(written)
    with os.fdopen(read, "rb") as pipe:
        content = pipe.read()
    assert result.exit_code == 0, result.output
    with np.load(io.BytesIO(content)) as file:
        assert file["texts"].tolist() == ["a dog"]


@pytest.mark.skipif(sys.platform == "win32", reason="names that Windows does not have")
def test_names_never_reach_the_terminal_as_commands(
    tiny_checkpoint: Path, bigbuckbunny: Path, main_: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    good, bad = tmp_path / "\x1b[31m[red]:dog:\n\x9b2J.mp4", tmp_path / "\x1b]0;own\x07[" / "].mp4"
    bad.parent.mkdir()
    good.symlink_to(bigbuckbunny)
    bad.write_text("no video")
    arguments = ["embed-video", good, bad, "-n", 1, "-m", "tiny", "-w", tiny_checkpoint]
    code, printed, errors = main_(*arguments)
    assert code == 1
    for said, name in ((printed, r"\x1b[31m[red]:dog:\n\x9b2J.mp4"), (errors, r"\x1b]0;own\x07[/].mp4")):
        assert name in said
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", said)
    code, printed, _ = main_(*arguments, "--json")
    assert json.loads(printed)["path"] == str(good)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", printed)
    output = tmp_path / "\x1b[2J.npz"
    assert r"\x1b[2J.npz" in main_("embed-text", "a", "-m", "tiny", "-w", tiny_checkpoint, "-o", output)[2]


def test_a_terminal_without_unicode_is_written_to_all_the_same(tiny_checkpoint: Path) -> None:
    code = WITH_TINY.replace(
        "main()",
        f"text = ['embed-text', 'ü犬', '-m', 'tiny', '-w', {str(tiny_checkpoint)!r}]\n"
        "for arguments in (text, [*text, '--json'], ['embed', '--help']):\n"
        "    sys.argv[1:] = arguments\n"
        "    try:\n        main()\n    except SystemExit as ended:\n        assert not ended.code\n",
    )
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


def test_sentences_may_be_cut_as_in_the_paper(tiny_checkpoint: Path, drawings: Path, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("video,sentence\neval/0-000000.mp4,a red dog runs\neval/0-000001.mp4,a red cat sleeps\n")
    arguments = ["eval", table, "--videos", drawings, "-n", 1, "-m", "tiny", "-w", tiny_checkpoint, "--json", "-"]
    whole, cut = (json.loads(run(*arguments, *option).stdout) for option in ((), ("--max-words", 4)))
    # Of start, "a", "red" and end alone the two sentences are the same, and share a rank.
    assert cut["text_to_video"]["mean_rank"] == 1.5
    assert whole != cut
    assert run(*arguments, "--max-words", 2).exit_code == 2


# Help


COMMANDS = ["embed-text", "embed-video", "embed", "index", "search", "serve", "demo", "install-operators", "eval"]
COMMANDS += ["train", "synthetic"]


def test_every_option_has_a_sentence_of_help() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert sorted(commands) == sorted(COMMANDS)
    for name, command in commands.items():
        for option in command.params:
            told = option.help or ""
            assert re.match(r"[A-Z]|cpu|clip_vit|float|exact|local|int8", told), f"{name} {option.name}: {told!r}"
            assert not re.match("Of |That |Gets ", told), f"{name} {option.name}: {told!r}"
            assert told.endswith((".", "there.")), f"{name} {option.name}: {told!r}"


def test_help_says_when_to_use_which_of_three_commands() -> None:
    for command, others in (
        ("embed-video", ["clip4clip embed,", "clip4clip index FOLDER"]),
        ("embed", ["clip4clip embed-video", "clip4clip index FOLDER"]),
        ("index", ["clip4clip embed,"]),
    ):
        shown = re.sub(r"\s+", " ", run(command, "--help").stdout)
        assert [words for words in others if words not in shown] == []


# What is not installed

BLOCKED = """
import json, sys
blocked, commands = json.loads(sys.argv[1])
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Finder())
from clip4clip.cli import main
for command in commands:
    sys.argv[1:] = command
    print("#", *command, flush=True)
    print("#", *command, file=sys.stderr, flush=True)
    try:
        main()
    except SystemExit as ended:
        print("exit", ended.code or 0, file=sys.stderr, flush=True)
"""


def blocked(packages: list[str], commands: list[list[str]], folder: Path) -> list[tuple[list[str], str, str]]:
    """Each command with its standard output and error, where these packages cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, json.dumps([packages, commands])],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed, errors = (re.split("^# .*\n", said, flags=re.M)[1:] for said in (done.stdout, done.stderr))
    return list(zip(commands, printed, errors, strict=True))


DEMO_MODEL = ["-m", "clip_vit_tiny_demo", "-d", "cpu"]
# What needs which package; all other commands do without.
SEARCHES = ["index", "search", "serve"]
NEEDED = {
    "pyarrow": ("retrieval", ["embed", *SEARCHES]),
    "pymilvus": ("retrieval", SEARCHES),
    "milvus_lite": ("retrieval", SEARCHES),
    "gradio": ("retrieval", ["serve"]),
    "starlette": ("retrieval", ["serve"]),
    "uvicorn": ("retrieval", ["serve"]),
    "onnx": ("onnx", ["embed-text"]),
    "onnxruntime": ("onnx", ["embed-text"]),
    "ray": ("ray", ["embed"]),
    "matplotlib": ("plot", ["eval"]),
    "tensorboard": ("train", []),
}


@pytest.mark.parametrize("package", NEEDED)
def test_without_an_extra_every_command_says_which_one_brings_it(package: str, tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("video,sentence\nnone.mp4,a\n")
    (tmp_path / "v.db").mkdir()
    (tmp_path / "v.parquet").touch()
    commands = [
        ["embed-text", "a", *DEMO_MODEL, "--runtime", "onnxruntime"],
        ["embed-video", "none.mp4", *DEMO_MODEL, "--runtime", "torch"],
        ["embed", "v.csv", "-o", "w.parquet", *DEMO_MODEL, *(["--engine", "ray"] if package == "ray" else [])],
        ["index", "v.parquet", "--uri", "v.db"],
        ["search", "a", "--uri", "v.db"],
        ["serve", "--uri", "none.db"],
        ["eval", "none.csv", "--videos", ".", "--histogram", "x.png", *DEMO_MODEL],
        ["train", "none.csv", "--videos", ".", "--out", "run"],
        ["synthetic", "drawings", "--train", "0", "--eval", "0"],
        ["install-operators", "--towhee-home", "home"],
        ["demo", "--out", ".", "-d", "cuda:99"],
    ]
    if package == "pyarrow":  # index and search look at the table or the index first
        commands = [command for command in commands if command[0] != "index"]
    extra, failing = NEEDED[package]
    for command, _, errors in blocked([package], commands, tmp_path):
        assert "Traceback" not in errors, errors
        assert re.search(r"^exit [012]$", errors, re.M), errors
        if command[0] in failing:
            assert f"pip install 'towhee-clip4clip[{extra}]'" in errors, errors
            assert "exit 2" in errors


def test_help_is_there_on_windows() -> None:
    # Windows has none of these modules.
    commands = [[command, "--help"] for command in COMMANDS]
    modules = ["fcntl", "pwd", "grp", "resource", "termios"]
    for command, printed, errors in blocked(modules, [["--help"], *commands], REPOSITORY):
        assert "Usage:" in printed, (command, errors)
        assert errors == "exit 0\n"


@pytest.mark.parametrize(
    ("seconds", "length"),
    [(0.9, "0:00"), (59.99, "0:59"), (61, "1:01"), (3599, "59:59"), (3600, "1:00:00"), (7220.5, "2:00:20")],
)
def test_lengths_are_written_as_hours_minutes_and_seconds(seconds: float, length: str) -> None:
    from clip4clip.retrieval import Hit

    assert Hit("a", "a.mp4", 1.0, {"duration": seconds}).length == length
