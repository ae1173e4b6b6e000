"""Whole training runs."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from training_runs import MINI, read_log
from typer.testing import CliRunner

from clip4clip import (
    InputValueError,
    TextEncoder,
    TrainingError,
    UnknownNameError,
    VideoEncoder,
    WeightsNotFoundError,
)
from clip4clip.cli import app
from clip4clip.evaluation.pairs import read_pairs
from clip4clip.operators import Clip4clip
from clip4clip.training import TrainingConfig, VideoTextDataset, VideoTextModel, train
from clip4clip.training.checkpoint import save_checkpoint
from clip4clip.training.data import collate
from clip4clip.video import read_frames
from clip4clip.weights.identity import find_checkpoint
from clip4clip.weights.metadata import read_metadata


@pytest.fixture(scope="module")
def trained(drawings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingConfig, Path]:
    """A run from an untrained network that learns something, with an evaluation after each of its 6 epochs."""
    config = TrainingConfig(
        pairs=drawings / "train.csv",
        videos=drawings,
        out=tmp_path_factory.mktemp("trained") / "run",
        model="mini",
        init="random",
        eval_pairs=drawings / "eval.csv",
        epochs=6,
        batch_size=16,
        lr=1e-3,
        frames=1,
        seed=1,
        device="cpu",
        workers=0,
    )
    result = train(config)
    assert (result.steps, result.finished) == (18, True)
    recalls = [entry["recall_at_1"] for entry in read_log(config, "text_to_video")]
    assert len(recalls) == 6
    assert recalls[-1] == result.evaluation.text_to_video.recall_at_1
    return config, Path(config.out)


def test_training_lowers_the_loss(trained: tuple[TrainingConfig, Path]) -> None:
    losses = read_log(trained[0])
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])


def test_a_run_writes_its_checkpoints_its_state_and_its_logs(trained: tuple[TrainingConfig, Path]) -> None:
    _, out = trained
    assert {path.name for path in out.iterdir()} == {
        *("last.safetensors", "best.safetensors", "resume.safetensors", "log.jsonl", "tensorboard")
    }
    assert list((out / "tensorboard").iterdir())
    assert (out / "last.safetensors").stat().st_mode & 0o777 == (out / "log.jsonl").stat().st_mode & 0o777


def test_a_checkpoint_loads_in_python_in_the_operators_and_in_the_command_line(
    trained: tuple[TrainingConfig, Path], drawings: Path
) -> None:
    last = trained[1] / "last.safetensors"
    text, video = TextEncoder.load("mini", last, "cpu"), VideoEncoder.load("mini", last, "cpu")
    frames = list(read_frames(drawings / "eval/0-000000.mp4", 2))
    np.testing.assert_array_equal(Clip4clip("mini", "text", last, "cpu")("a red ring"), text("a red ring"))
    np.testing.assert_array_equal(Clip4clip("mini", "video", last, "cpu")(frames), video(frames))
    command = ["embed-text", "a red ring", "--json", "-m", "mini", "-w", str(last), "-d", "cpu"]
    printed = json.loads(CliRunner().invoke(app, command).stdout)
    np.testing.assert_allclose(printed["vector"], text("a red ring"), atol=1e-6)


def test_checkpoints_say_how_they_were_trained_and_load_without_the_name_of_the_model(
    trained: tuple[TrainingConfig, Path], drawings: Path
) -> None:
    config, out = trained
    recalls = [entry["recall_at_1"] for entry in read_log(config, "text_to_video")]
    for name, recall in (("last", recalls[-1]), ("best", max(recalls))):
        path = out / f"{name}.safetensors"
        metadata = read_metadata(path)
        assert metadata is not None
        assert (metadata.model_name, metadata.config, metadata.head) == ("mini", MINI, "meanP")
        assert metadata.recall_at_1 == recall
        assert metadata.step == 3 * (metadata.epoch or 0)
        expected = {"recipe": "clip4clip train", "init": "random", "lr": 1e-3, "freeze_layers": -1, "frames": 1}
        assert metadata.settings.items() >= expected.items()
        assert str(metadata.settings["pairs"]).startswith("48 pairs, ")
        header = path.read_bytes()[: 2**16]
        assert str(out.parent).encode() not in header
        assert str(drawings).encode() not in header
        with_name, without = TextEncoder.load("mini", path, "cpu"), TextEncoder.load(weights=path, device="cpu")
        np.testing.assert_array_equal(with_name("a red ring"), without("a red ring"))


def test_a_run_from_a_checkpoint_needs_no_name_and_does_not_tell_where_the_checkpoint_was(
    config: TrainingConfig, mini_checkpoint: Path, tmp_path: Path
) -> None:
    start = tmp_path / "secret" / "start.safetensors"
    start.parent.mkdir()
    save_checkpoint(VideoTextModel.load(find_checkpoint(mini_checkpoint, "mini")), start)
    assert train(replace(config, model=None, init=str(start), epochs=1, max_words=100)).finished
    last = Path(config.out) / "last.safetensors"
    metadata = read_metadata(last)
    assert metadata is not None
    assert metadata.config == MINI
    assert metadata.settings["init"] == "a file"
    assert metadata.settings["init_fingerprint"] == find_checkpoint(start).fingerprint
    assert metadata.settings["max_words"] == MINI.context_length
    assert b"secret" not in last.read_bytes()[: 2**16]


@pytest.mark.parametrize("head", ["seqLSTM", "seqTransf"])
def test_a_trained_head_is_applied_where_the_checkpoint_is_loaded(
    config: TrainingConfig, drawings: Path, head: str
) -> None:
    train(replace(config, head=head, epochs=1, new_lr=1e-3))
    last = Path(config.out) / "last.safetensors"
    model = VideoTextModel.load(find_checkpoint(last, "mini")).eval()  # without a name: the checkpoint's own head
    dataset = VideoTextDataset(read_pairs(drawings / "eval.csv", drawings), model.config, frames=4)
    with torch.inference_mode():
        _, vector, _ = model(*collate([dataset[0]]))
    frames = list(read_frames(drawings / "eval/0-000000.mp4", 4))
    np.testing.assert_allclose(VideoEncoder.load("mini", last, "cpu")(frames), vector[0].numpy(), atol=1e-5)
    towers = {name: tensor for name, tensor in load_file(last).items() if name.startswith("clip.")}
    save_file(towers, last)
    assert not np.allclose(VideoEncoder.load("mini", last, "cpu")(frames), vector[0].numpy(), atol=1e-3)


def test_the_scale_of_the_logits_never_exceeds_100(
    config: TrainingConfig, mini_checkpoint: Path, tmp_path: Path
) -> None:
    state = load_file(mini_checkpoint) | {"logit_scale": torch.tensor(4.8)}
    save_file(state, tmp_path / "steep.safetensors")
    train(replace(config, init=str(tmp_path / "steep.safetensors"), epochs=1))
    assert max(read_log(config, "logit_scale")) <= 100.001
    assert load_file(tmp_path / "run/last.safetensors")["clip.logit_scale"].exp() <= 100.001


def test_frozen_layers_do_not_change(config: TrainingConfig, mini_checkpoint: Path) -> None:
    train(replace(config, epochs=1, freeze_layers=1))
    before, after = load_file(mini_checkpoint), load_file(Path(config.out) / "last.safetensors")
    unchanged = {name for name, tensor in before.items() if torch.equal(after[f"clip.{name}"], tensor)}
    frozen = ["token_embedding.weight", "positional_embedding", "visual.conv1.weight", "visual.class_embedding"]
    frozen += ["visual.ln_pre.weight", "transformer.resblocks.0.attn.in_proj_weight"]
    frozen += ["visual.transformer.resblocks.0.mlp.c_fc.bias"]
    trained = ["text_projection", "visual.proj", "ln_final.weight", "visual.ln_post.bias"]
    trained += ["transformer.resblocks.1.ln_1.weight", "visual.transformer.resblocks.1.attn.out_proj.weight"]
    assert set(frozen) <= unchanged
    assert not set(trained) & unchanged


def test_bfloat16_training_has_nearly_the_losses_of_float32(config: TrainingConfig) -> None:
    full = replace(config, epochs=1, out=Path(config.out).with_name("full"))
    train(replace(config, epochs=1, precision="bfloat16"))
    train(full)
    np.testing.assert_allclose(read_log(config), read_log(full), rtol=0.05)


def test_progress_bars_show_the_work_and_a_line_for_each_evaluation(config: TrainingConfig, drawings: Path) -> None:
    printed, descriptions = io.StringIO(), []

    class RecordedBars(Progress):
        def update(self, task_id: int, **options: object) -> None:  # type: ignore[override]
            descriptions.append(options.get("description"))
            super().update(task_id, **options)  # type: ignore[arg-type]

    config = replace(config, epochs=1, eval_pairs=drawings / "eval.csv")
    train(config, progress=lambda: RecordedBars(console=Console(file=printed, width=200)))
    shown = [text for text in descriptions if text]
    assert len(shown) == 3
    assert all(text.startswith("epoch 1/1  loss ") and text.endswith(" videos/s") for text in shown)
    assert "epoch 1: text→video R@1 " in printed.getvalue()


def test_without_progress_nothing_is_printed(config: TrainingConfig, capfd: pytest.CaptureFixture[str]) -> None:
    train(replace(config, epochs=1))
    assert capfd.readouterr() == ("", "")


def test_partial_files_of_a_killed_save_are_removed(config: TrainingConfig) -> None:
    out = Path(config.out)
    out.mkdir()
    partial = [out / f".{name}.safetensors.123" for name in ("last", "best", "resume")]
    for path in (*partial, out / ".mine"):
        path.touch()
    config = replace(config, epochs=1)
    train(config)
    assert [path.name for path in out.glob(".*")] == [".mine"]
    partial[0].touch()
    train(config, resume=True)
    assert [path.name for path in out.glob(".*")] == [".mine"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"head": "seqTransf", "frames": 78}, InputValueError, "at most 77 frames of a video, not 78"),
        ({"precision": "float16"}, InputValueError, "cpu cannot train in float16; it can in float32, bfloat16"),
        ({"batch_size": 15, "accumulate": 2}, InputValueError, "15 cannot be shared.* must be a multiple of 2"),
        ({"batch_size": 64}, TrainingError, "48 usable pairs, fewer than one batch of 64"),
        ({"init": "nowhere.safetensors"}, WeightsNotFoundError, "nowhere.safetensors"),
        ({"model": "clip_vit_h14"}, UnknownNameError, "clip_vit_h14"),
        ({"head": "maxP"}, UnknownNameError, "unknown head"),
    ],
)
def test_impossible_settings_are_rejected(config: TrainingConfig, settings: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        train(replace(config, **settings))


def test_a_loss_that_is_not_finite_ends_the_run(config: TrainingConfig, mini_checkpoint: Path, tmp_path: Path) -> None:
    state = load_file(mini_checkpoint)
    state["text_projection"][0, 0] = float("nan")
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(TrainingError, match="the loss of step 1 is nan"):
        train(replace(config, init=str(tmp_path / "broken.safetensors")))
