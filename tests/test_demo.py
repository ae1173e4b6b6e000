"""The demo model finds the right clips, in Python, in Towhee pipelines and on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from constants import REPOSITORY
from PIL import Image
from safetensors import safe_open
from towhee import ops, pipe
from typer.testing import CliRunner

import clip4clip
from clip4clip import CheckpointError, PairsError, TextEncoder, VideoEncoder
from clip4clip.cli import app
from clip4clip.config import MODELS
from clip4clip.demo import MODEL, Demo, run_demo
from clip4clip.demo_picture import save_picture
from clip4clip.evaluation.evaluate import evaluate
from clip4clip.evaluation.metrics import RetrievalMetrics
from clip4clip.evaluation.pairs import Pair, read_pairs
from clip4clip.training.drawing import draw
from clip4clip.training.scenes import Scene, describe, random_scene, scenes
from clip4clip.training.synthetic import write_dataset
from clip4clip.video import read_frames
from clip4clip.weights.identity import find_checkpoint


@pytest.fixture(scope="module")
def text() -> TextEncoder:
    return TextEncoder.load(MODEL, device="cpu")


@pytest.fixture(scope="module")
def video() -> VideoEncoder:
    return VideoEncoder.load(MODEL, device="cpu")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return run_demo(tmp_path_factory.mktemp("demo"), ["two large green stars moving up and down"], clips=16)


def test_the_weights_are_in_the_package_small_and_in_half_precision() -> None:
    path = find_checkpoint(None, MODEL).path
    assert path.parent == Path(clip4clip.__file__).parent
    assert path.stat().st_size <= 8e6
    with safe_open(path, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118  not a mapping
        assert all(name.startswith("clip.") for name in file.keys())  # noqa: SIM118
    with pytest.raises(CheckpointError, match=f"It fits model_name='{MODEL}'"):
        TextEncoder.load("clip_vit_b32", path)


@pytest.mark.slow
def test_recall_on_clips_of_unseen_combinations(text: TextEncoder, video: VideoEncoder, tmp_path: Path) -> None:
    write_dataset(tmp_path, train=0, evaluation=500)
    tables = [read_pairs(tmp_path / f"{name}.csv", tmp_path) for name in ("eval", "eval_paraphrased")]
    result = evaluate([*tables[0], *tables[1]], text, video)  # together, so that every clip is decoded once
    assert result.failed == {}
    plain, paraphrased = (RetrievalMetrics.of(ranks, 500) for ranks in np.split(result.text_ranks, 2))
    assert plain.recall_at_1 >= 60
    assert plain.recall_at_5 >= 95
    assert paraphrased.recall_at_1 >= plain.recall_at_1 - 10


@pytest.mark.parametrize("attribute", ["shape", "colour", "texture", "size", "count", "background", "motion"])
def test_clips_are_distinguished_by_each_attribute(text: TextEncoder, video: VideoEncoder, attribute: str) -> None:
    correct = []
    for scene, random in scenes(12, 5, held_out=True):
        other = scene
        while getattr(other, attribute) == getattr(scene, attribute):
            other = replace(scene, **{attribute: getattr(random_scene(random, held_out=True), attribute)})
        # One shape has a position and several have none, and some motions cannot be seen in some positions.
        pair = [replace(each, position="middle" if each.count == 1 else None) for each in (scene, other)]
        captions = text([describe(each, random) for each in pair])
        similarity = captions @ video([draw(each, random) for each in pair]).T
        correct += [*(similarity.argmax(0) == [0, 1]), *(similarity.argmax(1) == [0, 1])]
    assert np.mean(correct) > 0.75  # 0.5 by chance


def test_a_vector_hardly_depends_on_the_number_and_size_of_frames(text: TextEncoder, video: VideoEncoder) -> None:
    clip = draw(Scene("heart", "pink", "plain", "large", 2, "black", "horizontal", None), np.random.default_rng(0))
    wide = [np.asarray(Image.fromarray(frame).resize((360, 360))) for frame in clip[::3]]
    caption = text("two big pink hearts sliding left and right on a black background")
    assert caption @ video(clip) > 0.5
    assert caption @ video(wide) > 0.5
    assert video(clip) @ video(wide) > 0.9


def test_the_demo_finds_the_right_clips(demo: Demo) -> None:
    assert demo.metrics.queries == 16
    assert demo.metrics.recall_at_1 >= 80
    assert demo.metrics.recall_at_5 == 100
    assert demo.similarity.shape == (17, 16)
    assert demo.matches[:2] == [None, 0]
    query = (
        pipe.input("text")
        .map("text", "vec", ops.video_text_embedding.clip4clip(MODEL, "text", device="cpu"))
        .output("vec")
    )
    np.testing.assert_allclose(
        query(demo.captions[3]).get()[0], TextEncoder.load(MODEL, device="cpu")(demo.captions[3]), atol=1e-6
    )


def test_the_demo_finds_the_right_moments_of_a_longer_video(demo: Demo) -> None:
    moments = demo.moments
    assert len(moments.sentences) == len(moments.scenes) >= 15
    assert moments.segments[0, 0] == 0
    assert moments.segments[-1, 1] == pytest.approx(moments.scenes[-1, 1], abs=0.5)
    assert np.mean([moments.is_right(sentence) for sentence in range(len(moments.sentences))]) >= 0.7
    assert len(moments.sentences_to_show()) == 4


def test_the_demo_writes_a_picture(demo: Demo, tmp_path: Path) -> None:
    save_picture(demo, tmp_path / "results.png")
    assert demo.sentences_to_show()[0] == 0  # the caller's sentence comes first
    assert len(demo.sentences_to_show()) == 4
    with Image.open(tmp_path / "results.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    green = (np.abs(pixels - [31, 157, 85]).sum(-1) < 10).sum()
    assert green > 1000  # the frames around the right clips
    assert [path.name for path in tmp_path.iterdir()] == ["results.png"]


def test_a_second_demo_keeps_the_clips_of_the_first(tmp_path: Path) -> None:
    for clips, drawn in ((4, 4), (2, 4), (5, 5)):
        result = run_demo(tmp_path, clips=clips, device="cpu")
        assert [clip.name for clip in result.clips] == [f"0-{number:06}.mp4" for number in range(clips)]
        assert len(read_pairs(tmp_path / "eval.csv", tmp_path)) == drawn


@pytest.mark.parametrize("name", ["eval.csv", "eval_paraphrased.csv", "long.csv"])
@pytest.mark.parametrize("rows", ["mine.mp4,a dog\n", "eval/0-000000.mp4,a dog\n", "a,b\n" * 1100, "\0"])
def test_the_demo_does_not_replace_the_table_of_another_data_set(tmp_path: Path, name: str, rows: str) -> None:
    table = tmp_path / name
    table.write_text(f"video,sentence\n{rows}")
    with pytest.raises(PairsError, match=rf"{name} is the table of another data set"):
        run_demo(tmp_path, clips=2, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert table.read_text() == f"video,sentence\n{rows}"


def test_the_demo_command_works_offline(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOWHEE_URL": "http://127.0.0.1:9", "COLUMNS": "200"}
    command = [sys.executable, "-m", "clip4clip", "demo", "a big [red] star", "--clips", "10", "-d", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "“a big [red] star”" in done.stdout
    for word in ("score", "R@1", "R@5", "R@10", "moments of the", "trained on drawings", "not for real", "results.png"):
        assert word in done.stdout
    assert "pkg_resources" not in done.stderr
    assert (tmp_path / "clip4clip_demo/results.png").is_file()
    assert len((tmp_path / "clip4clip_demo/eval.csv").read_text("utf-8").splitlines()) == 11


def test_the_commands_find_the_right_clips(demo: Demo, tmp_path: Path) -> None:
    pairs = [Pair(clip.name, clip, caption) for clip, caption in zip(demo.clips, demo.captions, strict=True)][:8]
    model = ["-m", MODEL, "-d", "cpu"]
    files = [str(pair.path) for pair in pairs]
    done = CliRunner().invoke(app, ["embed-video", *files, *model, "-o", str(tmp_path / "videos.npz")])
    assert done.exit_code == 0, done.stderr
    done = CliRunner().invoke(app, ["embed-text", *(pair.sentence for pair in pairs), *model, "--json"])
    texts = np.array([json.loads(line)["vector"] for line in done.stdout.splitlines()])
    similarity = texts @ np.load(tmp_path / "videos.npz")["vectors"].T
    assert np.mean(similarity.argmax(1) == np.arange(8)) >= 0.75


def test_the_weights_are_part_of_a_hub_download(demo: Demo, tmp_path: Path) -> None:
    listing = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    operator = tmp_path / "operators/video-text-embedding/clip4clip/versions/main"
    for name in listing.stdout.splitlines():  # as a hub download leaves them
        (operator / name).parent.mkdir(parents=True, exist_ok=True)
        (operator / name).symlink_to(REPOSITORY / name)
    code = f"""
import sys
sys.modules["clip4clip"] = None  # nothing is installed
import numpy
from towhee import ops
encode = ops.video_text_embedding.clip4clip({MODEL!r}, "text", device="cpu")
numpy.save("vec.npy", encode({demo.captions[0]!r}))
"""
    environment = {**os.environ, "TOWHEE_HOME": str(tmp_path), "TOWHEE_URL": "http://127.0.0.1:9"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, env=environment, check=True)
    vector = VideoEncoder.load(MODEL, device="cpu")(read_frames(demo.clips[0]))
    assert np.load(tmp_path / "vec.npy") @ vector > 0.5


def test_readme_help_and_operator_say_that_the_model_is_for_drawings() -> None:
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    assert "trained on drawings" in readme.split(f"`{MODEL}`", 1)[1][:200]
    for command in ("embed-text", "eval", "demo"):
        assert "drawings" in CliRunner().invoke(app, [command, "--help"]).stdout
    assert "drawings" in (clip4clip.operators.Clip4clip.__doc__ or "")  # type: ignore[attr-defined]
    assert MODELS[MODEL].config.embed_dim == 128
