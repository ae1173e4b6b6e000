"""``op.train`` through Towhee's own trainer, which needs the extra ``towhee-train``."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch
from snippets import code_with
from towhee import ops

from clip4clip import InputTypeError, InputValueError, MissingExtraError, TextEncoder, TrainingError, VideoEncoder
from clip4clip.config import MODELS
from clip4clip.evaluation.evaluate import evaluate
from clip4clip.evaluation.pairs import read_pairs
from clip4clip.operators import Clip4clip
from clip4clip.training import VideoTextDataset, VideoTextModel
from clip4clip.video import FrameSampling
from clip4clip.weights.identity import find_checkpoint
from clip4clip.weights.metadata import read_metadata


def has_towhee_train() -> bool:
    try:
        return version("torchmetrics") == "0.7.0" and bool(version("torchvision") and version("ruamel.yaml"))
    except PackageNotFoundError:
        return False


needs_towhee_train = pytest.mark.skipif(not has_towhee_train(), reason="needs the extra towhee-train")


@pytest.fixture(scope="module")
def train_dataset(drawings: Path) -> VideoTextDataset:
    return VideoTextDataset(read_pairs(drawings / "train.csv", drawings), MODELS["tiny"].config, frames=2)


@pytest.fixture(scope="module")
def eval_dataset(drawings: Path) -> VideoTextDataset:
    return VideoTextDataset(read_pairs(drawings / "eval.csv", drawings), MODELS["tiny"].config, frames=2)


@pytest.mark.skipif(has_towhee_train(), reason="the extra towhee-train is installed")
def test_without_the_extra_the_error_names_it(tiny_checkpoint: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"towhee-clip4clip\[towhee-train\].*clip4clip train"):
        Clip4clip("tiny", "text", tiny_checkpoint, "cpu").train()


@pytest.mark.slow
@needs_towhee_train
def test_a_trained_operator_uses_its_new_weights(
    tiny_checkpoint: Path, train_dataset: VideoTextDataset, eval_dataset: VideoTextDataset, tmp_path: Path
) -> None:
    from towhee.trainer.callback import Callback
    from towhee.trainer.training_config import TrainingConfig

    operator = ops.video_text_embedding.clip4clip("tiny", "video", str(tiny_checkpoint), "cpu").get_op()
    other_operator = Clip4clip("tiny", "video", tiny_checkpoint, "cpu")
    frames = list(np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8))
    before = operator(frames)

    class Recorder(Callback):
        def __init__(self) -> None:
            self.steps: list[dict] = []
            self.epochs: list[dict] = []

        def on_train_batch_end(self, batch: tuple, logs: dict) -> None:
            self.steps.append(dict(logs))

        def on_epoch_end(self, epochs: int, logs: dict) -> None:
            self.epochs.append(dict(logs))

    # Towhee's other defaults: early stopping, a checkpoint and an evaluation after every epoch, a progress bar.
    config = TrainingConfig(
        output_dir=str(tmp_path / "out"), epoch_num=4, batch_size=16, lr=1e-3, device_str="cpu", tensorboard=None
    )
    recorder = Recorder()
    operator.setup_trainer(config)
    operator.trainer.add_callback(recorder)
    operator.train(config, train_dataset, eval_dataset)

    losses = [logs["step_loss"] for logs in recorder.steps]
    assert len(losses) == 4 * (48 // 16)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    rates = [logs["lr"] for logs in recorder.steps]
    assert rates[0] == pytest.approx(1e-3, rel=0.1)
    assert rates[-1] < 1e-4, "the learning rate is scheduled over steps, not over pairs"

    after = operator(frames)
    assert not np.allclose(after, before, atol=1e-4)
    np.testing.assert_array_equal(other_operator(frames), before)
    saved = tmp_path / "out" / "final_epoch" / "model.safetensors"
    np.testing.assert_allclose(Clip4clip("tiny", "video", saved, "cpu")(frames), after, atol=1e-6)
    assert (tmp_path / "out" / "epoch_1" / "model.safetensors").is_file()

    encoders = TextEncoder.load("tiny", saved, "cpu"), VideoEncoder.load("tiny", saved, "cpu")
    measured = evaluate(eval_dataset.pairs, *encoders, sampling=FrameSampling(frames=2))
    assert recorder.epochs[-1]["eval_epoch_metric"] == pytest.approx(measured.text_to_video.recall_at_1 / 100, abs=0.05)
    json.dumps(recorder.epochs[-1])  # plain numbers
    metadata = read_metadata(saved)
    assert metadata is not None
    assert (metadata.model_name, metadata.epoch, metadata.settings["lr"]) == ("tiny", 4, 1e-3)
    assert metadata.recall_at_1 == pytest.approx(100 * recorder.epochs[-1]["eval_epoch_metric"])
    assert str(tmp_path).encode() not in saved.read_bytes()[: 2**16]


@pytest.mark.slow
@needs_towhee_train
def test_the_example_in_the_docs_trains(drawings: Path, tmp_path: Path) -> None:
    replaced = [("clip_vit_b32", "clip_vit_tiny_demo")]
    for name in ("train.csv", "eval.csv"):
        replaced.append((f'"{name}", "videos"', f"{str(drawings / name)!r}, {str(drawings)!r}"))
    code = code_with("docs/training.md", "op.train(", replaced)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    saved = tmp_path / "run" / "final_epoch" / "model.safetensors"
    trained, before = (TextEncoder.load("clip_vit_tiny_demo", path, "cpu")("a dog") for path in (saved, None))
    assert not np.array_equal(trained, before)


@needs_towhee_train
def test_training_resumes_from_towhees_checkpoint(
    tiny_checkpoint: Path, train_dataset: VideoTextDataset, tmp_path: Path
) -> None:
    from towhee.trainer.training_config import TrainingConfig

    def config(name: str, epochs: int) -> TrainingConfig:
        return TrainingConfig(
            output_dir=str(tmp_path / name),
            epoch_num=epochs,
            batch_size=16,
            lr=1e-3,
            lr_scheduler_type="constant",
            device_str="cpu",
            tensorboard=None,
            eval_strategy="no",
            early_stopping=None,
            print_steps=100,
        )

    first = Clip4clip("tiny", "text", tiny_checkpoint, "cpu")
    first.train(config("first", 1), train_dataset)
    checkpoint = str(tmp_path / "first" / "epoch_1")
    loaded = Clip4clip("tiny", "text", tiny_checkpoint, "cpu")
    loaded.train(config("loaded", 1), train_dataset, resume_checkpoint_path=checkpoint)
    np.testing.assert_array_equal(loaded("a red circle"), first("a red circle"))
    further = Clip4clip("tiny", "text", tiny_checkpoint, "cpu")
    further.train(config("further", 2), train_dataset, resume_checkpoint_path=checkpoint)
    assert further.trainer.epoch == 2
    assert not np.allclose(further("a red circle"), first("a red circle"), atol=1e-4)
    first.train(config("first", 2), train_dataset)
    assert not np.allclose(first("a red circle"), loaded("a red circle"), atol=1e-4)


@needs_towhee_train
def test_other_data_sets_data_parallel_and_too_few_pairs_are_rejected(
    tiny_checkpoint: Path, train_dataset: VideoTextDataset, tmp_path: Path
) -> None:
    from towhee.trainer.training_config import TrainingConfig

    operator = Clip4clip("tiny", "text", tiny_checkpoint, "cpu")
    out = str(tmp_path / "out")
    with pytest.raises(InputTypeError, match=r"train_dataset must be a .*VideoTextDataset, not list"):
        operator.train(TrainingConfig(output_dir=out), [1, 2])
    with pytest.raises(InputValueError, match="device_str='cuda' would split"):
        operator.train(TrainingConfig(output_dir=out, device_str="cuda"), train_dataset)
    with pytest.raises(TrainingError, match=r"48 pairs, fewer than one batch of 64"):
        operator.train(TrainingConfig(output_dir=out, device_str="cpu", batch_size=64), train_dataset)


@needs_towhee_train
def test_the_loss_is_that_of_clip4clip_train(tiny_checkpoint: Path, train_dataset: VideoTextDataset) -> None:
    from clip4clip.operators.trainer import Clip4clipTrainer
    from clip4clip.training.data import collate
    from clip4clip.training.loss import global_loss

    model = VideoTextModel.load(find_checkpoint(tiny_checkpoint, "tiny"))
    batch = collate([train_dataset[index] for index in range(8)])
    torch.testing.assert_close(
        Clip4clipTrainer.compute_loss(Clip4clipTrainer.__new__(Clip4clipTrainer), model, batch),
        global_loss(*model(*batch)),
    )
