from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from clip4clip import (
    InputValueError,
    PairsError,
    TextEncoder,
    TrainingError,
    UnknownNameError,
    VideoEncoder,
    WeightsNotFoundError,
)
from clip4clip.config import MODELS
from clip4clip.evaluation.pairs import read_pairs
from clip4clip.model import MeanPooling, SequenceLSTM, SequenceTransformer
from clip4clip.operators import Clip4clip
from clip4clip.preprocess import pixel_values
from clip4clip.training import TrainingConfig, VideoTextDataset, VideoTextModel, contrastive_loss, train, trainer
from clip4clip.training.data import Batch, Batches, collate
from clip4clip.training.model import save_checkpoint
from clip4clip.training.trainer import _backward
from clip4clip.video import read_frames

# `tiny` is a model name of these tests alone, so a process of its own has to be told of it.
WITH_TINY = """
from clip4clip.config import CLIPConfig
from clip4clip.config import MODELS, Model
towers = dict(patch_size=16, vision_width=128, vision_layers=2, text_width=64, text_layers=2)
MODELS["tiny"] = Model(CLIPConfig(embed_dim=64, resolution=32, **towers), hub="hf://owner/tiny")
"""
COMMAND = WITH_TINY + "from clip4clip.cli import main\nmain()\n"


@pytest.fixture
def config(drawings: Path, tiny_checkpoint: Path, tmp_path: Path) -> TrainingConfig:
    """Three steps an epoch, two epochs, no processes for decoding."""
    return TrainingConfig(
        pairs=drawings / "train.csv",
        videos=drawings,
        out=tmp_path / "run",
        model="tiny",
        init=str(tiny_checkpoint),
        epochs=2,
        batch_size=16,
        lr=1e-3,
        frames=2,
        device="cpu",
        workers=0,
        save_every=1,
        freeze_layers=-1,
    )


def quietly(config: TrainingConfig, resume: bool = False) -> Any:
    return train(config, resume, progress=False)


def log_of(config: TrainingConfig, key: str = "loss") -> list[float]:
    lines = [json.loads(line) for line in (Path(config.out) / "log.jsonl").read_text("utf-8").splitlines()]
    return [line[key] for line in lines if key in line]


def assert_same_tensors(ours: Path, theirs: Path, atol: float) -> None:
    mine, yours = load_file(ours), load_file(theirs)
    assert mine.keys() == yours.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(
            tensor, yours[name], atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


# The loss


def test_the_loss_is_that_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = MODELS["tiny"].config
    tower = {"num_hidden_layers": 2, "hidden_act": "quick_gelu"}
    text = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1, "eos_token_id": 49407, **tower}
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2, **tower}
    vision |= {"image_size": config.resolution, "patch_size": config.patch_size}
    theirs = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=config.embed_dim)
    ).eval()
    theirs.save_pretrained(tmp_path)
    ours = VideoTextModel.load("tiny", tmp_path)
    ids = torch.randint(1, 49000, (6, 9))
    ids[:, 0], ids[:, -1] = 49406, 49407
    pixels = torch.randn(6, 3, 32, 32)
    vectors = ours(ids, pixels, torch.ones(6, dtype=torch.int64))
    expected = theirs(input_ids=ids, pixel_values=pixels, return_loss=True).loss
    torch.testing.assert_close(contrastive_loss(*vectors), expected, atol=1e-5, rtol=0)


def test_a_loss_worked_by_hand() -> None:
    text, video = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    # Similarities: (0.6, 0) and (0.8, 1); rows are texts.
    rows = np.log(1 + np.exp(-0.6)) + np.log(1 + np.exp(-0.2))
    columns = np.log(1 + np.exp(0.2)) + np.log(1 + np.exp(-1.0))
    assert contrastive_loss(text, video, torch.tensor(1.0)).item() == pytest.approx((rows + columns) / 4, abs=1e-6)


# The model


@pytest.fixture(scope="module")
def batch(drawings: Path) -> Batch:
    dataset = VideoTextDataset(read_pairs(drawings / "train.csv", drawings), MODELS["tiny"].config, frames=3)
    return collate([dataset[index] for index in range(8)])


def gradients(model: VideoTextModel, batch: Batch, accumulate: int = 1) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    loss = _backward(model, batch, torch.device("cpu"), torch.float32, scaler, accumulate)
    return loss, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]


@pytest.mark.parametrize("head", ["meanP", "seqLSTM", "seqTransf"])
def test_accumulation_gives_the_gradients_of_the_whole_batch(tiny_checkpoint: Path, batch: Batch, head: str) -> None:
    torch.manual_seed(0)
    model = VideoTextModel.load("tiny", tiny_checkpoint, head)
    loss, expected = gradients(model, batch)
    for parts in (2, 4):
        found, accumulated = gradients(model, batch, parts)
        assert found == pytest.approx(loss, abs=1e-6)
        for name, gradient in expected.items():
            torch.testing.assert_close(accumulated[name], gradient, atol=1e-6, rtol=1e-4)


def test_recomputed_activations_give_the_same_gradients(tiny_checkpoint: Path, batch: Batch) -> None:
    model = VideoTextModel.load("tiny", tiny_checkpoint)
    loss, expected = gradients(model, batch)
    model.recompute_activations()
    found, recomputed = gradients(model, batch)
    assert found == pytest.approx(loss, abs=1e-7)
    for name, gradient in expected.items():
        torch.testing.assert_close(recomputed[name], gradient)


def test_videos_of_different_lengths_are_pooled_alone(tiny_checkpoint: Path, batch: Batch) -> None:
    model = VideoTextModel.load("tiny", tiny_checkpoint, "seqTransf").eval()
    counts = torch.tensor([2, 1, 3])
    with torch.inference_mode():
        _, together, _ = model(batch.ids[:3], batch.pixels[:6], counts)
        alone = [
            model(batch.ids[:1], pixels, torch.tensor([len(pixels)]))[1][0]
            for pixels in batch.pixels[:6].split(counts.tolist())
        ]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=0)


def test_heads_begin_as_in_the_paper(tiny_checkpoint: Path) -> None:
    assert isinstance(VideoTextModel.load("tiny", tiny_checkpoint).head, MeanPooling)
    assert isinstance(VideoTextModel.load("tiny", tiny_checkpoint, "seqLSTM").head, SequenceLSTM)
    model = VideoTextModel.load("tiny", tiny_checkpoint, "seqTransf")
    head = model.head
    assert isinstance(head, SequenceTransformer)
    torch.testing.assert_close(head.frame_position_embeddings.weight, model.text.positional_embedding)
    assert len(head.transformerClip.resblocks) == 2  # four, but this text transformer has no more than two
    for ours, theirs in zip(head.transformerClip.resblocks, model.text.transformer.resblocks, strict=False):
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, theirs.state_dict()[name])
    # Trained apart from what they began as.
    assert head.frame_position_embeddings.weight.data_ptr() != model.text.positional_embedding.data_ptr()
    with pytest.raises(UnknownNameError, match=r"unknown head 'maxP'.*meanP, seqLSTM, seqTransf"):
        VideoTextModel.load("tiny", tiny_checkpoint, "maxP")


def test_the_scale_of_the_logits_stays_at_100(tiny_checkpoint: Path, config: TrainingConfig, tmp_path: Path) -> None:
    state = load_file(tiny_checkpoint) | {"logit_scale": torch.tensor(4.8)}
    save_file(state, tmp_path / "steep.safetensors")
    quietly(replace(config, init=str(tmp_path / "steep.safetensors"), epochs=1))
    assert max(log_of(config, "logit_scale")) <= 100.001
    assert load_file(tmp_path / "run/last.safetensors")["clip.logit_scale"].exp() <= 100.001


def test_frozen_layers_stay_as_they_are(config: TrainingConfig, tiny_checkpoint: Path) -> None:
    quietly(replace(config, epochs=1, freeze_layers=1))
    before, after = load_file(tiny_checkpoint), load_file(Path(config.out) / "last.safetensors")
    same = {name for name, tensor in before.items() if torch.equal(after[f"clip.{name}"], tensor)}
    frozen = ["token_embedding.weight", "positional_embedding", "visual.conv1.weight", "visual.class_embedding"]
    frozen += ["visual.ln_pre.weight", "transformer.resblocks.0.attn.in_proj_weight"]
    frozen += ["visual.transformer.resblocks.0.mlp.c_fc.bias"]
    trained = ["text_projection", "visual.proj", "ln_final.weight", "visual.ln_post.bias"]
    trained += ["transformer.resblocks.1.ln_1.weight", "visual.transformer.resblocks.1.attn.out_proj.weight"]
    assert set(frozen) <= same
    assert not set(trained) & same


# The data


def test_each_epoch_takes_other_frames_and_the_same_ones_when_repeated(drawings: Path) -> None:
    pairs = read_pairs(drawings / "train.csv", drawings)
    moving = next(index for index, pair in enumerate(pairs) if "moving in a circle" in pair.sentence)
    first, again = (VideoTextDataset(pairs, MODELS["tiny"].config, 3, seed=1) for _ in range(2))
    epochs = [first[moving, epoch][1] for epoch in range(4)]
    assert any(not torch.equal(epochs[0], other) for other in epochs[1:])
    assert torch.equal(epochs[2], again[moving, 2][1])
    even = list(read_frames(pairs[moving].path, 3))
    torch.testing.assert_close(first[moving][1], torch.from_numpy(pixel_values(even, MODELS["tiny"].config.resolution)))


def test_every_epoch_has_every_pair_once_and_ranks_share_each_batch() -> None:
    whole, parts = Batches(50, 8, 7), [Batches(50, 8, 7, rank, 2) for rank in range(2)]
    for each in (whole, *parts):
        each.begin_at(3, 0)
    batches = list(whole)
    assert len(batches) == len(whole) == 6
    seen = [index for batch in batches for index, epoch in batch if epoch == 3]
    assert len(set(seen)) == len(seen) == 48
    assert [first + second for first, second in zip(*parts, strict=True)] == batches
    whole.begin_at(3, 4)
    assert list(whole) == batches[4:]
    whole.begin_at(4, 0)
    assert next(iter(whole)) != batches[0]


# The run


def test_training_lowers_the_loss_and_its_checkpoints_load_everywhere(config: TrainingConfig, drawings: Path) -> None:
    config = replace(config, init="random", epochs=12, eval_pairs=drawings / "eval.csv", seed=1)
    result = quietly(config)
    assert (result.steps, result.finished) == (36, True)
    losses = log_of(config)
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])
    out = Path(config.out)
    assert {path.name for path in out.iterdir()} == {
        *("last.safetensors", "best.safetensors", "resume.safetensors", "log.jsonl", "tensorboard")
    }
    recalls = [entry["recall_at_1"] for entry in log_of(config, "text_to_video")]
    assert len(recalls) == 12
    assert recalls[-1] == result.evaluation.text_to_video.recall_at_1
    assert list((out / "tensorboard").iterdir())
    assert (out / "last.safetensors").stat().st_mode & 0o777 == (out / "log.jsonl").stat().st_mode & 0o777
    last = out / "last.safetensors"
    text, video = TextEncoder.load("tiny", last, "cpu"), VideoEncoder.load("tiny", last, "cpu")
    frames = list(read_frames(drawings / "eval/0-000000.mp4", 2))
    np.testing.assert_array_equal(Clip4clip("tiny", "text", last, "cpu")("a red ring"), text("a red ring"))
    np.testing.assert_array_equal(Clip4clip("tiny", "video", last, "cpu")(frames), video(frames))
    command = [sys.executable, "-c", COMMAND, "embed-text", "a red ring", "--json", "-m", "tiny", "-w", str(last)]
    shell = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    np.testing.assert_allclose(shell["vector"], text("a red ring"), atol=1e-6)


@pytest.mark.parametrize("head", ["seqLSTM", "seqTransf"])
def test_a_trained_head_is_applied_where_the_checkpoint_is_loaded(
    config: TrainingConfig, drawings: Path, head: str
) -> None:
    quietly(replace(config, head=head, epochs=1, new_lr=1e-3))
    last = Path(config.out) / "last.safetensors"
    model = VideoTextModel.load("tiny", last).eval()  # no head is named: the checkpoint's own
    dataset = VideoTextDataset(read_pairs(drawings / "eval.csv", drawings), model.config, frames=4)
    sample = collate([dataset[0]])
    with torch.inference_mode():
        _, vector, _ = model(*sample)
    encoder = VideoEncoder.load("tiny", last, "cpu")
    frames = list(read_frames(drawings / "eval/0-000000.mp4", 4))
    np.testing.assert_allclose(encoder(frames), vector[0].numpy(), atol=1e-5)
    plain = load_file(last)
    save_file({name: tensor for name, tensor in plain.items() if name.startswith("clip.")}, last)
    assert not np.allclose(VideoEncoder.load("tiny", last, "cpu")(frames), vector[0].numpy(), atol=1e-3)


def test_half_precision_checkpoints_are_half_as_large(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = VideoTextModel.load("tiny", tiny_checkpoint)
    save_checkpoint(model, tmp_path / "half.safetensors", torch.float16)
    save_checkpoint(model, tmp_path / "full.safetensors")
    half, full = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "full"))
    assert 0.49 < half / full < 0.52
    vectors = [TextEncoder.load("tiny", tmp_path / f"{name}.safetensors", "cpu")("a dog") for name in ("half", "full")]
    assert np.dot(*vectors) > 0.9999


def test_stopping_and_going_on_gives_the_weights_of_an_uninterrupted_run(
    config: TrainingConfig, tmp_path: Path
) -> None:
    straight = replace(config, out=tmp_path / "straight")
    quietly(straight)

    # Killed without warning, in the middle of the second epoch.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    arguments = ["train", config.pairs, "--videos", config.videos, "--out", config.out, "-m", "tiny", "-d", "cpu"]
    arguments += ["--init", config.init, "--epochs", 2, "--batch-size", 16, "--lr", 1e-3, "--frames", 2]
    arguments += ["--workers", 0, "--save-every", 1, "--freeze-layers", -1]
    waiting = COMMAND.replace(
        "main()",
        "import threading, clip4clip.training.trainer as trainer\n"
        "step = trainer._Run._train_step\n"
        "def wait(run, batch):\n"
        "    if run.step == 4:\n"
        "        print('reached', flush=True)\n"
        "        threading.Event().wait()\n"
        "    return step(run, batch)\n"
        "trainer._Run._train_step = wait\nmain()",
    )
    command = [sys.executable, "-c", waiting, *map(str, arguments)]
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert running.stdout.readline() == "reached\n"
    log = Path(config.out) / "log.jsonl"
    running.kill()
    running.communicate()
    assert sum(line.startswith('{"step": ') for line in log.read_text("utf-8").splitlines()) == 4

    result = quietly(config, resume=True)
    assert (result.steps, result.finished) == (6, True)
    assert log_of(config, "step") == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(log_of(config), log_of(straight), atol=1e-6)
    assert_same_tensors(Path(config.out) / "last.safetensors", tmp_path / "straight/last.safetensors", atol=1e-6)


def stop_in_step(last: int, monkeypatch: pytest.MonkeyPatch, number: signal.Signals = signal.SIGTERM) -> None:
    """A signal during the step ``last``, counted from now on."""
    step = trainer._Run._train_step
    steps = 0

    def interrupted(*given: Any) -> float:
        nonlocal steps
        steps += 1
        if steps == last:
            os.kill(os.getpid(), number)
        return step(*given)

    monkeypatch.setattr(trainer._Run, "_train_step", interrupted)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_and_keeps_its_state(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    stop_in_step(2, monkeypatch, number)
    handler = signal.getsignal(number)
    result = quietly(replace(config, save_every=100))
    assert (result.steps, result.finished) == (2, False)
    assert signal.getsignal(number) is handler
    assert quietly(config, resume=True).steps == 6


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("last", [3, 6])
def test_an_epoch_is_ended_after_a_stop_in_its_last_step(
    config: TrainingConfig, drawings: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    config = replace(config, eval_pairs=drawings / "eval.csv")
    with monkeypatch.context() as patched:
        stop_in_step(last, patched)
        result = quietly(config)
    out = Path(config.out)
    assert (result.steps, result.finished) == (last, False)
    assert len(log_of(config, "text_to_video")) == last // 3 - 1
    result = quietly(config, resume=True)
    assert (result.steps, result.finished) == (6, True)
    assert result.evaluation.pairs == 24
    assert log_of(config, "step") == [1, 2, 3, 3, 4, 5, 6, 6]
    assert (out / "best.safetensors").is_file()
    state = load_file(out / "resume.safetensors")
    torch.testing.assert_close(
        load_file(out / "last.safetensors")["clip.text_projection"], state["model.text.text_projection"]
    )


def test_a_state_that_does_not_tell_whether_its_epoch_was_ended(config: TrainingConfig) -> None:
    quietly(config)
    state, last = Path(config.out) / "resume.safetensors", Path(config.out) / "last.safetensors"
    with safe_open(state, framework="pt") as file:
        about = json.loads(file.metadata()["clip4clip"])
    del about["ended"]
    save_file(load_file(state), state, {"clip4clip": json.dumps(about)})
    last.unlink()
    assert quietly(config, resume=True).finished
    assert last.is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_stop_or_a_kill_during_an_evaluation_costs_no_step(
    config: TrainingConfig, drawings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any) -> Any:
        raise Killed

    def stopped(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return encoders(*given)

    encoders = trainer.encoders
    config = replace(config, eval_pairs=drawings / "eval.csv", save_every=100)
    monkeypatch.setattr(trainer, "encoders", killed)
    with pytest.raises(Killed):
        quietly(config)
    monkeypatch.setattr(trainer, "encoders", stopped)
    result = quietly(config, resume=True)
    assert (result.steps, result.finished) == (3, False)
    assert log_of(config, "text_to_video") == []
    monkeypatch.setattr(trainer, "encoders", encoders)
    assert quietly(config, resume=True).finished
    assert log_of(config, "step") == [1, 2, 3, 3, 4, 5, 6, 6]


def test_bars_of_what_is_done_go_away() -> None:
    with Progress(disable=True) as bar:
        for item in trainer._tracker(bar, threading.Event())([1, 2], 2, "embedding"):
            assert [(task.description, task.total) for task in bar.tasks] == [("embedding", 2)]
            assert item in (1, 2)
        assert bar.tasks == []


def test_the_speed_is_that_of_decoding_and_training(config: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "collate", lambda samples: (time.sleep(0.2), collate(samples))[1])
    monkeypatch.setattr(trainer._Run, "_train_step", lambda *_: 1.0)
    quietly(replace(config, epochs=1))
    assert max(log_of(config, "videos_per_second")) < 16 / 0.2


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_processes_that_decode_as_well_keeps_the_state(
    config: TrainingConfig, tmp_path: Path, number: signal.Signals
) -> None:
    # As torchrun, timeout and terminals send it.
    script = tmp_path / "script.py"
    script.write_text(
        f"""{WITH_TINY}
import signal, time
from clip4clip.training import TrainingConfig, train, trainer
step = trainer._Run._train_step
def wait(run, batch):
    if run.step == 1:  # for the signal
        handler, came = signal.getsignal({int(number)}), []
        signal.signal({int(number)}, lambda *given: (handler(*given), came.append(given)))
        print("reached", flush=True)
        while not came:
            time.sleep(0.01)
    return step(run, batch)
trainer._Run._train_step = wait
paths = dict(pairs={str(config.pairs)!r}, videos={str(config.videos)!r}, out={str(config.out)!r})
small = dict(model="tiny", init={config.init!r}, batch_size=16, frames=2, device="cpu")
result = train(TrainingConfig(**paths, **small, epochs=40, workers=1), progress=False)
raise SystemExit(10 + result.steps)
"""
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, script], start_new_session=True, text=True, **pipes) as running:
        assert running.stdout.readline() == "reached\n"
        os.killpg(running.pid, number)
        _, errors = running.communicate()
    assert running.returncode == 12, errors
    with safe_open(Path(config.out) / "resume.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["clip4clip"])["step"] == 2


def test_what_a_kill_during_a_save_left_is_removed(config: TrainingConfig) -> None:
    out = Path(config.out)
    out.mkdir()
    left = [out / f".{name}.safetensors.123" for name in ("last", "best", "resume")]
    for path in (*left, out / ".mine"):
        path.touch()
    config = replace(config, epochs=1)
    quietly(config)
    assert [path.name for path in out.glob(".*")] == [".mine"]
    left[0].touch()
    quietly(config, resume=True)
    assert [path.name for path in out.glob(".*")] == [".mine"]


def test_tensorboard_has_every_step_once_after_going_on(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with monkeypatch.context() as patched:
        stop_in_step(2, patched)
        assert quietly(config).steps == 2
    quietly(replace(config, accumulate=2), resume=True)  # in how many parts is no matter
    events = board.EventAccumulator(os.fspath(Path(config.out) / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_a_run_is_only_resumed_as_itself(config: TrainingConfig, drawings: Path) -> None:
    with pytest.raises(TrainingError, match="holds no run to resume"):
        quietly(config, resume=True)
    quietly(replace(config, epochs=1))
    with pytest.raises(TrainingError, match="holds a run already: resume it, or choose another folder"):
        quietly(config)
    with pytest.raises(TrainingError, match=r"in which lr was 0\.001, not 0\.002"):
        quietly(replace(config, epochs=1, lr=2e-3), resume=True)
    with pytest.raises(TrainingError, match=r"in which pairs was '48 pairs.*not '24 pairs"):
        quietly(replace(config, epochs=1, pairs=drawings / "eval.csv"), resume=True)
    state = Path(config.out) / "resume.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="cannot be resumed from"):
        quietly(replace(config, epochs=1), resume=True)


def test_bad_pairs_are_reported_before_anything_is_trained(
    config: TrainingConfig, drawings: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (drawings / "no_video.mp4").write_text("text")
    table = tmp_path / "pairs.csv"
    table.write_text((drawings / "train.csv").read_text("utf-8") + "nowhere,a dog\nno_video,a cat\n")
    bad = replace(config, pairs=table, epochs=1)
    with pytest.raises(PairsError, match=r"(?s)2 of 50 pairs.*nowhere.*no_video.*skip_bad \(--skip-bad\)"):
        quietly(bad)
    assert not Path(config.out).exists()
    assert quietly(replace(bad, skip_bad=True)).finished
    assert "going on without them" in caplog.text


def test_bad_pairs_of_the_evaluation_are_told_and_all_of_them_refused(
    config: TrainingConfig, drawings: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(config, epochs=1, eval_pairs=tmp_path / "eval.csv")
    Path(config.eval_pairs).write_text("video,sentence\nnowhere,a dog\neval/0-000000.mp4,a cat\n")
    with pytest.raises(PairsError, match=r"(?s)2 of 2 pairs.*eval\.csv.*nowhere.*eval_videos \(--eval-videos\)"):
        quietly(replace(config, eval_videos=tmp_path))
    assert not Path(config.out).exists()
    assert list(quietly(config).evaluation.failed) == ["nowhere"]
    assert "1 of 2 pairs" in caplog.text
    assert "a miss in every evaluation" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"epochs": 0}, InputValueError, "epochs must be at least 1"),
        ({"seed": -1}, InputValueError, "seed must be from 0"),
        ({"workers": -1}, InputValueError, "workers must be at least 0"),
        ({"head": "seqTransf", "frames": 78}, InputValueError, "at most 77 frames of a video, not 78"),
        ({"lr": float("nan")}, InputValueError, "lr must be a number from 0 to 1"),
        ({"lr": 1e38}, InputValueError, r"lr must be a number from 0 to 1, not 1e\+38"),
        ({"weight_decay": 1e300}, InputValueError, "weight_decay must be a number from 0 to 1"),
        ({"warmup": 1.0}, InputValueError, "warmup must be a number from 0 to 1"),
        ({"max_words": 2}, InputValueError, "max_words must be at least 3"),
        ({"precision": "int8"}, UnknownNameError, "unknown precision 'int8'.*float32, bfloat16, float16"),
        ({"save_dtype": "float64"}, UnknownNameError, "unknown save_dtype"),
        ({"precision": "float16"}, InputValueError, "cpu cannot train in float16; it can in float32, bfloat16"),
        ({"batch_size": 15, "accumulate": 2}, InputValueError, "15 cannot be shared"),
        ({"batch_size": 64}, TrainingError, "48 usable pairs, fewer than one batch of 64"),
        ({"init": "nowhere.safetensors"}, WeightsNotFoundError, "nowhere.safetensors"),
        ({"model": "clip_vit_l14"}, UnknownNameError, "clip_vit_l14"),
        ({"head": "maxP"}, UnknownNameError, "unknown head"),
    ],
)
def test_bad_settings_are_refused(config: TrainingConfig, wrong: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        quietly(replace(config, **wrong))


def test_a_loss_that_is_not_finite_ends_the_run(config: TrainingConfig, tiny_checkpoint: Path, tmp_path: Path) -> None:
    state = load_file(tiny_checkpoint)
    state["text_projection"][0, 0] = float("nan")
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(TrainingError, match="the loss of step 1 is nan"):
        quietly(replace(config, init=str(tmp_path / "broken.safetensors")))


def test_bfloat16_trains_too(config: TrainingConfig) -> None:
    quietly(replace(config, epochs=1, precision="bfloat16"))
    quietly(replace(config, epochs=1, out=Path(config.out).with_name("full")))
    full = log_of(replace(config, out=Path(config.out).with_name("full")))
    np.testing.assert_allclose(log_of(config), full, rtol=0.05)


# Several processes

GLOBAL = (
    WITH_TINY
    + """
import sys, torch, torch.distributed as dist
from pathlib import Path
from torch.nn.parallel import DistributedDataParallel
from clip4clip.training.data import Batch
from clip4clip.training.model import VideoTextModel
from clip4clip.training.trainer import _backward
folder, head, accumulate = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = VideoTextModel.load("tiny", folder / "init.safetensors")
ids, pixels, counts = torch.load(folder / "batch.pt")
batch = Batch(ids.chunk(2)[rank], pixels.chunk(2)[rank], counts.chunk(2)[rank])
scaler = torch.amp.GradScaler("cpu", enabled=False)
cpu = torch.device("cpu")
loss = _backward(DistributedDataParallel(model), batch, cpu, torch.float32, scaler, accumulate)
torch.save((loss, {name: p.grad for name, p in model.named_parameters()}), folder / f"{rank}.pt")
dist.destroy_process_group()
"""
)


def torchrun(*arguments: object) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "FutureWarning" not in done.stderr
    assert done.stderr.count("wrote ") <= 1


@pytest.mark.parametrize(("head", "accumulate"), [("meanP", 1), ("seqTransf", 2)])
def test_two_processes_have_the_loss_and_the_gradients_of_one(
    tiny_checkpoint: Path, batch: Batch, tmp_path: Path, head: str, accumulate: int
) -> None:
    model = VideoTextModel.load("tiny", tiny_checkpoint, head)
    save_checkpoint(model, tmp_path / "init.safetensors")
    loss, expected = gradients(model, batch)
    torch.save(tuple(batch), tmp_path / "batch.pt")
    (tmp_path / "script.py").write_text(GLOBAL)
    torchrun(tmp_path / "script.py", tmp_path, head, accumulate)
    for rank in range(2):
        found, shared = torch.load(tmp_path / f"{rank}.pt")
        assert found == pytest.approx(loss, abs=1e-5)
        for name, gradient in expected.items():
            torch.testing.assert_close(shared[name], gradient, atol=1e-5, rtol=0, msg=lambda text, n=name: n + text)


def test_a_run_of_two_processes_ends_with_the_weights_of_one(config: TrainingConfig, tmp_path: Path) -> None:
    config = replace(config, lr=1e-4)
    quietly(config)
    (tmp_path / "script.py").write_text(COMMAND)
    arguments = ["train", config.pairs, "--videos", config.videos, "--out", tmp_path / "two", "-m", "tiny", "-d", "cpu"]
    arguments += ["--init", config.init, "--epochs", 2, "--batch-size", 16, "--lr", 1e-4, "--frames", 2]
    torchrun(tmp_path / "script.py", *arguments, "--workers", 0, "--freeze-layers", -1)
    np.testing.assert_allclose(log_of(replace(config, out=tmp_path / "two")), log_of(config), atol=1e-4)
    assert_same_tensors(Path(config.out) / "last.safetensors", tmp_path / "two/last.safetensors", atol=1e-4)
