"""Every code block of README.md and docs/*.md is run as it stands, or is listed here with the reason why not.

The blocks of a page run in their order, in one folder. Blocks of Python that follow each other share a process, as its
imports take long, but no names. The demo model takes the place of ViT-B/32, whose weights are not here.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import clips
import pytest
from constants import DEMO_MODEL, REPOSITORY
from safetensors.torch import load_file, save_file
from servers import HttpServer, PageServer, serve_folder
from snippets import PAGES, Snippet, snippets

import clip4clip
from clip4clip.evaluation.pairs import read_pairs
from clip4clip.operators.install import install_operators

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the commands are for bash")
pytest.importorskip("pyarrow", reason="the pages need the extra retrieval")

ALL = [snippet for page in PAGES for snippet in snippets(page)]
NETWORK = "installs from the network"
# A command, or a line of a block of Python, and why it is not run here.
NOT_RUN = {
    "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e . && .venv/bin/clip4clip demo": NETWORK,
    "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[test]' && .venv/bin/python -m pytest": (
        "installs from the network, and is these tests"
    ),
    "pip install '.[onnx]'": NETWORK,
    "pip install '.[mcp]'": NETWORK,
    "pip install '.[triton]'": NETWORK,
    "pip install torch --index-url https://download.pytorch.org/whl/cpu": NETWORK,
    'clip4clip embed-text "a dog runs" --weights hf://Searchium-ai/clip4clip-webvid150k --json': "needs a download",
    "pip install 'tritonclient[http]'": NETWORK,
    "pip install '.[retrieval,multilingual]'": NETWORK,
    'clip4clip search "ein Hund im Schnee" -m clip_vit_b32_multilingual': "needs a download",
    "clip4clip serve -m clip_vit_b32_multilingual": "needs a download",
    'with VideoIndex("videos.db", encoder=EncoderSpec("clip_vit_b32_multilingual")) as index:': "needs a download",
    "clip4clip embed /shared/videos -o vectors.parquet --engine ray --address head:6379 --actors 8 --gpus 1": (
        "needs a cluster"
    ),
    "clip4clip embed many -o many.parquet -m clip_vit_tiny_demo": "takes minutes, and a kill: tests/library has both",
    "clip4clip synthetic drawings": "takes hours, with the two that follow: they make the demo model",
    "clip4clip train drawings/train.csv --videos drawings --out run --model clip_vit_tiny_demo --init random"
    " --epochs 12 --batch-size 96 --lr 1e-3 --frames 3 --max-words 48 --weight-decay 0.1 --warmup 0.05"
    " --save-dtype float16 --eval-pairs drawings/eval.csv": "takes hours",
    "python benchmarks/gpu.py --json gpu.json": "needs a GPU: test_benchmarks.py runs a small one on a CPU",
    "cp run/last.safetensors clip4clip/clip_vit_tiny_demo.safetensors": "replaces the demo model",
    "clip4clip synthetic drawings --train 480 --eval 50": "takes a minute, with the two that follow: .ci/run runs them",
    "clip4clip train drawings/train.csv --videos drawings --out small_run --model clip_vit_tiny_demo --init random"
    " --epochs 4 --batch-size 48 --lr 1e-3 --frames 3 --max-words 48 --eval-pairs drawings/eval.csv": "see above",
    "clip4clip eval drawings/eval.csv --videos drawings --model clip_vit_tiny_demo --weights"
    " small_run/last.safetensors": "see above",
    'op.train(TrainingConfig(output_dir="run", batch_size=32, lr=1e-6, epoch_num=5), pairs, held_out)': (
        "needs the extra towhee-train: operators/test_trainer.py runs it"
    ),
    "import open_clip": "needs the extra peers: test_peers_export.py does it",
    "    device_ids=[0], max_batch_size=512, batch_latency_micros=2000))": "one line of a pipeline, and needs a GPU",
    "tritonserver --model-repository models": "needs a Triton server: operators/test_triton.py starts one",
    "client = loop.run_until_complete(connect())": "needs a Triton server: operators/test_triton.py runs it with one",
}
# Which model embeds a library, where a page leaves it to the default.
SPEC = f'__import__("clip4clip").EncoderSpec("{DEMO_MODEL}")'
# What is put in the place of something that is not here, or takes long.
REPLACED = {
    "README.md": [
        ("cuda:1", "cpu"),
        ("cuda:2", "cpu"),
        (", 512)", ", 128)"),
        ("(512,)", "(128,)"),
        ('"videos", "vectors.parquet")', f'"videos", "vectors.parquet", {SPEC})'),
    ],
    "docs/export.md": [("run/best.safetensors", "demo_clip"), ("video.mp4", "holiday.mp4")],
    "docs/how_to.md": [("cuda:1", "cpu"), ('"videos", "vectors.parquet")', f'"videos", "vectors.parquet", {SPEC})')],
    "docs/python.md": [
        (", 512)", ", 128)"),
        ("(512,)", "(128,)"),
        ('"videos", "vectors.parquet")', f'"videos", "vectors.parquet", {SPEC})'),
    ],
    # An index that is not there yet.
    "docs/languages.md": [("clip4clip index ~/Videos", f"clip4clip index ~/Videos -m {DEMO_MODEL}")],
    "docs/library.md": [('VideoIndex("./videos.db")', 'VideoIndex("./cameras.db")')],
    "docs/models.md": [("(512,)", "(128,)")],
    "docs/moments.md": [('"videos", "shots.parquet", ', f'"videos", "shots.parquet", {SPEC}, ')],
    "docs/training.md": [
        ("--long 5", "--long 1"),
        ("clip4clip train MSRVTT", "clip4clip train --batch-size 3 --epochs 1 --workers 0 MSRVTT"),
        ('eval_pairs="eval.csv"', f'eval_pairs="eval.csv", batch_size=3, epochs=1, workers=0, model="{DEMO_MODEL}"'),
    ],
    "docs/video.md": [("https://example.org", "http://127.0.0.1:{port}")],
}


def is_run(snippet: Snippet) -> bool:
    if snippet.language == "text":  # is only shown
        return False
    if snippet.language == "python":
        return not any(line in NOT_RUN for line in snippet.code.splitlines())
    return any(command not in NOT_RUN for command, _ in snippet.commands())


def group_of(snippet: Snippet) -> object:
    """Return a key that the blocks which run in one process share, if they follow each other."""
    return snippet.page if snippet.language == "python" else snippet


GROUPS = [[*group] for _, group in itertools.groupby(filter(is_run, ALL), group_of)]
RUN_IN_TURN = """
import runpy, sys
for program in sys.argv[1:]:
    runpy.run_path(program, run_name="__main__")
"""


class PageFolder:
    """A copy of the folder ``prepared``, in which the blocks of one page run."""

    def __init__(self, folder: Path, replaced: list[tuple[str, str]], environment: dict[str, str]) -> None:
        self.root, self.folder, self.replaced = folder, folder / "srv", replaced
        self.environment = environment | {"HOME": str(folder / "home"), "HF_HOME": str(folder / "hf")}
        self.done: set[Snippet] = set()

    def run(self, group: list[Snippet]) -> None:
        """Run blocks, after the earlier blocks of their page that have not run yet."""
        for each in GROUPS:
            if each[0].page == group[0].page and each[0].line <= group[0].line and each[0] not in self.done:
                self.done.add(each[0])
                if each[0].language == "python":
                    self._python(each)
                else:
                    self._shell(each[0])

    def _replace(self, text: str) -> str:
        for old, new in [*self.replaced, ("clip_vit_b32", DEMO_MODEL)]:
            text = text.replace(old, new)
        if re.match("clip4clip (embed|eval|train)", text) and not re.search("-m |--model ", text):
            text += f" -m {DEMO_MODEL}"
        return text.replace("/srv/", f"{self.folder}/")

    def _python(self, group: list[Snippet]) -> None:
        programs = [f"line_{snippet.line}.py" for snippet in group]
        for snippet, program in zip(group, programs, strict=True):
            lines = [self._replace(snippet.code)]
            for name, shape in re.findall(r"^(\w+) = .*# (\(\d[\d, ]*\))$", lines[0], re.MULTILINE):
                lines.append(f"assert {name}.shape == {shape}, {name}.shape")
            (self.folder / program).write_text("\n".join(lines), "utf-8")
        self._run(group[0], [sys.executable, "-c", RUN_IN_TURN, *programs])

    def _shell(self, snippet: Snippet) -> None:
        with contextlib.ExitStack() as servers:
            for command, shown in snippet.commands():
                line = self._replace(command)
                if command in NOT_RUN:
                    continue
                if line.startswith("clip4clip serve"):
                    options = shlex.split(line.removesuffix("&"))[2:]  # a --uri among them replaces the default
                    page = PageServer("./videos.db", *options, cwd=self.folder, env=self.environment)
                    assert servers.enter_context(page).get("/")[0] == 200
                    continue
                failure = any(text.startswith("error ") for text in shown)
                printed = self._run(snippet, ["bash", "-c", line], (2,) if failure else (0, 1) if shown else (0,))
                for text in shown:
                    assert self._comparable(text) in self._comparable(printed), (
                        f"{snippet}: {text!r} is not in\n{printed}"
                    )

    def _comparable(self, text: str) -> str:
        """Return a text without what differs from run to run: numbers, fingerprints, the path of the folder."""
        return re.sub(r"\b([0-9a-f]{16}|\d+(\.\d+)?)\b", "0", text.replace(str(self.root), ""))

    def _run(self, snippet: Snippet, command: list[str], codes: tuple[int, ...] = (0,)) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode in codes, f"{snippet}: exit code {done.returncode}\n{command[-1]}\n{done.stdout}"
        return done.stdout


def write_csv(path: Path, rows: list[tuple[str, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, drawings: Path) -> Path:
    """A folder with all files that the pages name: videos, tables, checkpoints."""
    root = tmp_path_factory.mktemp("prepared")
    folder = root / "srv"
    (folder / "snapshot").mkdir(parents=True)
    state = load_file(Path(clip4clip.__file__).with_name(f"{DEMO_MODEL}.safetensors"))
    for name in ("mine.safetensors", "snapshot/model.safetensors"):
        save_file({name: tensor * 2 for name, tensor in state.items()}, folder / name)

    others, pairs = (read_pairs(drawings / "eval.csv", drawings)[start : start + 3] for start in (4, 7))
    for name in ("videos/holiday", "MSRVTT/videos/all", "clip4clip_demo"):
        (folder / name).mkdir(parents=True)
    (root / "home" / "Videos").mkdir(parents=True)
    shutil.copytree(drawings / "eval", folder / "clip4clip_demo" / "eval")
    shutil.copy(drawings / "eval.csv", folder / "clip4clip_demo")
    for number, (pair, other) in enumerate(zip(pairs, others, strict=True)):
        shutil.copy(other.path, root / "home" / "Videos")
        shutil.copy(pair.path, folder / "videos" / "holiday")
        shutil.copy(pair.path, folder / "MSRVTT" / "videos" / "all" / f"video{number}.mp4")
    for name in ("demo_video.mp4", "clip.mp4", "holiday.mp4", "party.mov", "upload.mp4"):
        shutil.copy(pairs[0].path, folder / name)
    (folder / "sentences.txt").write_text("kids feeding a horse\na city at night\n", "utf-8")
    clips.write(folder / "film.mp4", count=950)
    for name in ("half.mp4", "notes.mp4"):
        (folder / "videos" / name).write_text("not a video")
    rows = [("video", "sentence"), *((f"holiday/{pair.path.name}", pair.sentence) for pair in pairs)]
    for name in ("train.csv", "eval.csv"):
        write_csv(folder / name, rows)
    named = {f"video{number}": pair.sentence for number, pair in enumerate(pairs)}
    rows = [("key", "vid_key", "video_id", "sentence")]
    rows += [(f"ret{name}", f"msr{name}", name, sentence) for name, sentence in named.items()]
    write_csv(folder / "MSRVTT_JSFUSION_test.csv", rows)
    write_csv(folder / "MSRVTT_train.9k.csv", [("video_id",), *((name,) for name in named)])
    sentences = [{"video_id": name, "caption": sentence} for name, sentence in named.items()]
    (folder / "MSRVTT_data.json").write_text(json.dumps({"sentences": sentences}), "utf-8")
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    install_operators(root / "home" / ".towhee")
    return root


@pytest.fixture(scope="module")
def port(prepared: Path) -> Iterator[int]:
    """The port of a web server with the files of the pages."""
    with HttpServer(serve_folder(prepared / "srv")) as server:
        yield int(server.url.rsplit(":", 1)[1])


@pytest.fixture(scope="module")
def page_folders(tmp_path_factory: pytest.TempPathFactory, prepared: Path, port: int) -> Callable[[str], PageFolder]:
    """``(page)`` to the folder in which its blocks run, made when it is first needed."""
    made: dict[str, PageFolder] = {}
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": programs, "TOWHEE_URL": "http://127.0.0.1:9", "COLUMNS": "200"}
    environment = {name: value for name, value in environment.items() if name not in ("TOWHEE_HOME", "RAY_ADDRESS")}

    def folder_of(page: str) -> PageFolder:
        if page not in made:
            folder = tmp_path_factory.mktemp("page") / "root"
            shutil.copytree(prepared, folder, symlinks=True)
            replaced = [(old, new.format(port=port)) for old, new in REPLACED.get(page, [])]
            made[page] = PageFolder(folder, replaced, environment)
        return made[page]

    return folder_of


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[0]} to {group[-1].line}")
def test_it_runs(group: list[Snippet], page_folders: Callable[[str], PageFolder]) -> None:
    page_folders(group[0].page).run(group)


def test_what_is_listed_is_there() -> None:
    assert {snippet.language for snippet in ALL} <= {"python", "bash", "", "text"}
    for page, replaced in REPLACED.items():
        code = "".join(snippet.code for snippet in snippets(REPOSITORY / page))
        assert [old for old, _ in replaced if old not in code] == [], page
    lines = {line for snippet in ALL if snippet.language == "python" for line in snippet.code.splitlines()}
    shells = [snippet for snippet in ALL if snippet.language not in ("python", "text")]
    commands = {command for snippet in shells for command, _ in snippet.commands()}
    assert [listed for listed in NOT_RUN if listed not in lines | commands] == []
