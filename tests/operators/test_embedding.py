"""``ops.video_text_embedding.clip4clip`` and its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from constants import DEMO_MODEL
from text_towers import write_sentence_transformer
from towhee import AutoConfig, ops, pipe
from towhee.operator import NNOperator, SharedType
from towhee.runtime.node_config import NodeConfig
from towhee.runtime.operator_manager import OperatorRegistry
from towhee.runtime.runtime_conf import set_runtime_config

import clip4clip
from clip4clip import (
    DeviceError,
    InputTypeError,
    InputValueError,
    TextEncoder,
    UnknownNameError,
    VideoEncoder,
)
from clip4clip.config import MODELS, Model
from clip4clip.operators import Clip4clip

ACCELERATED = {"name": "node", "acc_info": {"type": "mock", "params": None}}


def test_the_operator_has_the_published_signature() -> None:
    parameters = inspect.signature(Clip4clip).parameters
    positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["model_name", "modality", "weight_path", "device"]
    assert parameters["weight_path"].default is None
    assert parameters["device"].default is None


def test_positional_and_keyword_calls_give_the_same_operator(tiny_checkpoint: Path) -> None:
    by_position = Clip4clip("tiny", "text", str(tiny_checkpoint), "cpu")
    by_keyword = Clip4clip(device="cpu", weight_path=str(tiny_checkpoint), modality="text", model_name="tiny")
    assert isinstance(by_position, NNOperator)
    np.testing.assert_array_equal(by_position("a dog"), by_keyword("a dog"))


def test_the_operator_gives_the_vectors_of_the_encoders(tiny_checkpoint: Path, frames: list[np.ndarray]) -> None:
    text = Clip4clip("tiny", "text", tiny_checkpoint, "cpu")
    video = Clip4clip("tiny", "video", tiny_checkpoint, "cpu")
    np.testing.assert_array_equal(text(["a", "b c"]), TextEncoder.load("tiny", tiny_checkpoint, "cpu")(["a", "b c"]))
    np.testing.assert_array_equal(video(frames), VideoEncoder.load("tiny", tiny_checkpoint, "cpu")(frames))


def test_operators_of_one_checkpoint_share_a_tower(tiny_checkpoint: Path) -> None:
    first, second = (Clip4clip("tiny", "video", tiny_checkpoint, "cpu") for _ in range(2))
    assert first.model is second.model
    assert Clip4clip("tiny", "text", tiny_checkpoint, "cpu").model is not first.model


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(tiny_checkpoint: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"'clip_vit_h14'.*clip_vit_b32, clip_vit_b16"):
        Clip4clip("clip_vit_h14", "text", tiny_checkpoint)
    with pytest.raises(UnknownNameError, match=r"'audio'.*'text' or 'video'"):
        Clip4clip("tiny", "audio", tiny_checkpoint)


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="this machine has the device that the test asks for")
def test_an_unavailable_device_is_an_error_that_lists_the_available_ones(tiny_checkpoint: Path) -> None:
    with pytest.raises(DeviceError, match=r"'cuda:1' does not exist.*has: .*cpu"):
        Clip4clip("tiny", "text", tiny_checkpoint, "cuda:1")


def test_the_default_device_is_the_one_that_towhee_configures(tiny_checkpoint: Path) -> None:
    beyond = torch.cuda.device_count()
    with set_runtime_config(NodeConfig(name="node", device=beyond)), pytest.raises(DeviceError, match=f"cuda:{beyond}"):
        Clip4clip("tiny", "text", tiny_checkpoint)
    with set_runtime_config(NodeConfig(name="node", device=beyond)):
        Clip4clip("tiny", "text", tiny_checkpoint, "cpu")  # the argument overrides the configuration


def test_supported_model_names_lists_the_models() -> None:
    assert {"clip_vit_b32", "clip_vit_b16", "clip_vit_tiny_demo"} <= set(Clip4clip.supported_model_names())


def test_input_errors_reach_the_caller(tiny_checkpoint: Path) -> None:
    video = Clip4clip("tiny", "video", tiny_checkpoint, "cpu")
    with pytest.raises(InputTypeError, match=r"path 'a\.mp4'.*ops\.video_decode\.ffmpeg"):
        video("a.mp4")
    with pytest.raises(InputValueError, match="no frames"):
        video([])


def test_eight_threads_can_share_an_operator(tiny_checkpoint: Path, frames: list[np.ndarray]) -> None:
    operator = Clip4clip("tiny", "video", tiny_checkpoint, "cpu")
    assert operator.shared_type is SharedType.Shareable
    videos = [[np.roll(frame, step, axis=1) for frame in frames] for step in range(32)]
    expected = [operator(video) for video in videos]
    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(operator, videos))
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


@pytest.mark.parametrize(("modality", "shape"), [("text", (3, 64)), ("video", (3, 64))])
def test_the_model_takes_one_tensor_and_returns_one(
    tiny_checkpoint: Path, modality: str, shape: tuple[int, int]
) -> None:
    operator = Clip4clip("tiny", modality, tiny_checkpoint, "cpu")
    inputs = torch.ones(3, 5, dtype=torch.int64) if modality == "text" else torch.zeros(3, 3, 32, 32)
    with torch.inference_mode():
        assert operator.model(inputs).shape == shape


def test_a_served_text_tower_is_not_loaded() -> None:
    # The mock accelerator returns its input, as a client returns the answer of its server.
    with set_runtime_config(NodeConfig(**ACCELERATED)):
        operator = Clip4clip("clip_vit_b32", "text", "/no/such/file", "cpu")
    received = operator.model(torch.ones(1, 2))
    assert received.tolist() == [[1, 1]]
    ids = operator("a photo of a cat")  # the mock's "embedding": normalised token ids
    assert ids.shape == (7,)


def test_the_operator_works_in_a_pipeline(tiny_checkpoint: Path) -> None:
    pipeline = (
        pipe.input("text")
        .map("text", "vec", ops.video_text_embedding.clip4clip("tiny", "text", str(tiny_checkpoint)))
        .output("vec")
    )
    assert pipeline("a dog").get()[0].shape == (64,)
    batch = [queue.get()[0] for queue in pipeline.batch(["a dog", "a cat"])]
    assert not np.allclose(*batch)


def test_the_operator_works_in_a_pipeline_with_a_configured_device(tiny_checkpoint: Path) -> None:
    operator = ops.video_text_embedding.clip4clip("tiny", "text", str(tiny_checkpoint))
    build: Callable = pipe.input("text").map("text", "vec", operator, config=AutoConfig.LocalCPUConfig()).output
    assert build("vec")("a dog").get()[0].shape == (64,)


def test_the_operators_are_registered_with_towhee() -> None:
    assert clip4clip.__name__ == "clip4clip"
    assert {"video-text-embedding/clip4clip", "video-decode/ffmpeg"} <= set(OperatorRegistry.op_names())


def test_weights_are_looked_for_after_the_other_arguments_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip4clip.weights.locate.download_checkpoint", None)
    wrong: list[dict[str, Any]] = [{"modality": "audio"}, {"device": "tpu"}, {"runtime": "jax"}, {"precision": "int3"}]
    for change in wrong:
        with pytest.raises((UnknownNameError, DeviceError)):
            Clip4clip(**{"model_name": "clip_vit_b16", "modality": "text", "device": "cpu"} | change)
    with pytest.raises(UnknownNameError):
        TextEncoder.load("clip_vit_h14", device="tpu")


def test_a_model_that_is_only_a_text_tower_embeds_but_is_not_exported_served_or_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: list[np.ndarray]
) -> None:
    model = Model(MODELS[DEMO_MODEL].config, aligned_with=DEMO_MODEL)
    monkeypatch.setitem(MODELS, "words", model)  # type: ignore[arg-type]
    folder = write_sentence_transformer(tmp_path / "words", 128)
    text, video = (Clip4clip("words", modality, folder, "cpu") for modality in ("text", "video"))
    np.testing.assert_array_equal(text("ein Hund"), TextEncoder.load("words", folder)("ein Hund"))
    np.testing.assert_array_equal(video(frames), VideoEncoder.load(DEMO_MODEL, device="cpu")(frames))
    assert text.supported_formats == []
    with pytest.raises(UnknownNameError, match="words cannot be exported as ONNX"):
        text.save_model("onnx", tmp_path / "a.onnx")
    for operator in (text, video):
        with pytest.raises(UnknownNameError, match=f"words cannot be trained.*{DEMO_MODEL}"):
            operator.setup_trainer()
    with set_runtime_config(NodeConfig(**ACCELERATED)), pytest.raises(UnknownNameError, match="served by Triton"):
        Clip4clip("words", "text", folder, "cpu")


def test_arguments_of_save_model_are_checked(tiny_checkpoint: Path, tmp_path: Path) -> None:
    text = Clip4clip("tiny", "text", tiny_checkpoint, "cpu")
    assert text.supported_formats == ["onnx"]
    with pytest.raises(UnknownNameError, match="unknown format 'tensorrt'; it must be 'onnx'"):
        text.save_model("tensorrt", tmp_path / "a")
    with pytest.raises(UnknownNameError, match="unknown precision 'bfloat16' of a graph"):
        text.save_model("onnx", tmp_path / "a.onnx", precision="bfloat16")
    with pytest.raises(InputValueError, match="pooled=True is for video"):
        text.save_model("onnx", tmp_path / "a.onnx", pooled=True)
    with pytest.raises(InputValueError, match="there is no folder"):
        text.save_model("onnx", tmp_path / "none" / "a.onnx")
