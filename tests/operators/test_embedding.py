from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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
    WeightsNotFoundError,
)
from clip4clip.config import MODELS
from clip4clip.operators import Clip4clip
from clip4clip.weights.identity import inspect_checkpoint as inspect_file
from clip4clip.weights.locate import locate

ACCELERATED = {"name": "node", "acc_info": {"type": "mock", "params": None}}


def test_factory_has_the_published_signature() -> None:
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


def test_operator_gives_what_the_python_face_gives(tiny_checkpoint: Path, frames: list[np.ndarray]) -> None:
    text = Clip4clip("tiny", "text", tiny_checkpoint, "cpu")
    video = Clip4clip("tiny", "video", tiny_checkpoint, "cpu")
    np.testing.assert_array_equal(text(["a", "b c"]), TextEncoder.load("tiny", tiny_checkpoint, "cpu")(["a", "b c"]))
    np.testing.assert_array_equal(video(frames), VideoEncoder.load("tiny", tiny_checkpoint, "cpu")(frames))


def test_operators_on_the_same_weights_share_their_parameters(tiny_checkpoint: Path) -> None:
    first, second = (Clip4clip("tiny", "video", tiny_checkpoint, "cpu") for _ in range(2))
    assert first.model is second.model
    assert Clip4clip("tiny", "text", tiny_checkpoint, "cpu").model is not first.model


def test_unknown_names_are_errors_that_list_the_known_ones(tiny_checkpoint: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"'clip_vit_l14'.*clip_vit_b32, clip_vit_b16"):
        Clip4clip("clip_vit_l14", "text", tiny_checkpoint)
    with pytest.raises(UnknownNameError, match=r"'audio'.*'text' or 'video'"):
        Clip4clip("tiny", "audio", tiny_checkpoint)


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="this machine has the device that the test asks for")
def test_a_device_that_is_not_there_is_an_error_that_lists_those_that_are(tiny_checkpoint: Path) -> None:
    with pytest.raises(DeviceError, match=r"'cuda:1' does not exist.*has: .*cpu"):
        Clip4clip("tiny", "text", tiny_checkpoint, "cuda:1")


def test_no_device_follows_the_one_towhee_configures(tiny_checkpoint: Path) -> None:
    beyond = torch.cuda.device_count()
    with set_runtime_config(NodeConfig(name="node", device=beyond)), pytest.raises(DeviceError, match=f"cuda:{beyond}"):
        Clip4clip("tiny", "text", tiny_checkpoint)
    with set_runtime_config(NodeConfig(name="node", device=beyond)):
        Clip4clip("tiny", "text", tiny_checkpoint, "cpu")  # what was asked for goes before what was configured


def test_supported_model_names() -> None:
    assert {"clip_vit_b32", "clip_vit_b16", "clip_vit_tiny_demo"} <= set(Clip4clip.supported_model_names())


def test_input_errors_reach_the_caller(tiny_checkpoint: Path) -> None:
    video = Clip4clip("tiny", "video", tiny_checkpoint, "cpu")
    with pytest.raises(InputTypeError, match=r"path 'a\.mp4'.*ops\.video_decode\.ffmpeg"):
        video("a.mp4")
    with pytest.raises(InputValueError, match="no frames"):
        video([])


def test_eight_threads_on_one_operator(tiny_checkpoint: Path, frames: list[np.ndarray]) -> None:
    operator = Clip4clip("tiny", "video", tiny_checkpoint, "cpu")
    assert operator.shared_type is SharedType.Shareable
    videos = [[np.roll(frame, step, axis=1) for frame in frames] for step in range(32)]
    alone = [operator(video) for video in videos]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(operator, videos))
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize(("modality", "shape"), [("text", (3, 64)), ("video", (3, 64))])
def test_model_takes_one_tensor_and_gives_one(tiny_checkpoint: Path, modality: str, shape: tuple[int, int]) -> None:
    operator = Clip4clip("tiny", modality, tiny_checkpoint, "cpu")
    given = torch.ones(3, 5, dtype=torch.int64) if modality == "text" else torch.zeros(3, 3, 32, 32)
    with torch.inference_mode():
        assert operator.model(given).shape == shape


def test_a_model_that_towhee_serves_elsewhere_is_not_loaded() -> None:
    # The mock accelerator gives back its input, as a client gives back what its server answers.
    with set_runtime_config(NodeConfig(**ACCELERATED)):
        operator = Clip4clip("clip_vit_b32", "text", "/there/is/no/such/file", "cpu")
    received = operator.model(torch.ones(1, 2))
    assert received.tolist() == [[1, 1]]
    ids = operator("a photo of a cat")  # the mock's "embedding": normalised token ids
    assert ids.shape == (7,)


def test_in_a_pipeline(tiny_checkpoint: Path) -> None:
    pipeline = (
        pipe.input("text")
        .map("text", "vec", ops.video_text_embedding.clip4clip("tiny", "text", str(tiny_checkpoint)))
        .output("vec")
    )
    assert pipeline("a dog").get()[0].shape == (64,)
    batch = [queue.get()[0] for queue in pipeline.batch(["a dog", "a cat"])]
    assert not np.allclose(*batch)


def test_in_a_pipeline_with_a_configured_device(tiny_checkpoint: Path) -> None:
    operator = ops.video_text_embedding.clip4clip("tiny", "text", str(tiny_checkpoint))
    build: Callable = pipe.input("text").map("text", "vec", operator, config=AutoConfig.LocalCPUConfig()).output
    assert build("vec")("a dog").get()[0].shape == (64,)


def test_both_names_are_registered() -> None:
    assert clip4clip.__name__ == "clip4clip"
    assert {"video-text-embedding/clip4clip", "video-decode/ffmpeg"} <= set(OperatorRegistry.op_names())


def put(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    """The published file, in an operator's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pytorch_model.bin.1"
    torch.save({f"clip.{name}": tensor for name, tensor in state.items()}, path)
    return path


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOWHEE_HOME", str(tmp_path))
    monkeypatch.setitem(MODELS, "own", MODELS["tiny"])  # a model of which no other test has an encoder
    return tmp_path / "operators" / "video-text-embedding" / "clip4clip" / "versions"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_two_operators_with_different_weights_are_warned_about(
    versions: Path, random_state: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    own = put(versions / "v1", random_state(MODELS["tiny"].config, 1))
    text = Clip4clip("own", "text", device="cpu", folder=own.parent)
    assert warnings_of(caplog) == []
    other = put(versions / "main", random_state(MODELS["tiny"].config, 2))
    video = Clip4clip("own", "video", device="cpu", folder=other.parent)
    fingerprints = [inspect_file(path, "own").fingerprint for path in (own, other)]
    (warning,) = warnings_of(caplog)
    assert f"text from {own} (fingerprint {fingerprints[0]})" in warning
    assert f"video from {other} (fingerprint {fingerprints[1]})" in warning
    assert text.model is not video.model


def test_one_that_was_chosen_and_one_that_was_not_are_warned_about_too(
    versions: Path, random_state: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    put(versions / "main", random_state(MODELS["tiny"].config, 3))
    chosen = put(versions.parent / "elsewhere", random_state(MODELS["tiny"].config, 4))
    text, video = Clip4clip("own", "text", chosen, "cpu"), Clip4clip("own", "video", device="cpu")
    (warning,) = warnings_of(caplog)
    assert "Pass the same weight_path to both" in warning
    assert text.model is not video.model


def test_what_was_chosen_or_is_the_same_is_not_warned_about(
    versions: Path, random_state: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [put(versions.parent / str(seed), random_state(MODELS["tiny"].config, seed)) for seed in (5, 6)]
    put(versions / "main", random_state(MODELS["tiny"].config, 5))
    kept = [TextEncoder.load("own", path, "cpu") for path in paths]
    kept += [TextEncoder.load("own", device="cpu")]  # to be compared with the two
    assert len(kept) == 3
    kept_video = [VideoEncoder.load("own", path, "cpu") for path in paths[:1]]
    assert len(kept_video) == 1
    assert warnings_of(caplog) == []


def test_without_a_version_asked_for_the_only_one_is_taken_and_main_before_others(
    versions: Path, random_state: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    first = put(versions / "v1", random_state(MODELS["tiny"].config, 7))
    assert locate(None, "tiny") == first
    (versions / "v2").mkdir()
    (versions / "v2" / first.name).symlink_to(first)
    assert locate(None, "tiny") == first  # both are the same file
    (versions / "v2" / first.name).unlink()
    second = put(versions / "v2", random_state(MODELS["tiny"].config, 8))
    with pytest.raises(WeightsNotFoundError, match=f"several versions.*{first}, {second}.*weight_path"):
        locate(None, "tiny")
    assert locate(None, "tiny", second.parent) == second
    assert warnings_of(caplog) == []
    main = put(versions / "main", random_state(MODELS["tiny"].config, 9))
    assert locate(None, "tiny") == main
    (warning,) = warnings_of(caplog)
    assert f"{main} is used, but other versions of the operator hold another one: {first}, {second}" in warning


def test_a_broken_link_beside_the_operator_is_no_reason_to_take_other_weights(versions: Path) -> None:
    (versions / "main").mkdir(parents=True)
    (versions / "main" / "pytorch_model.bin.1").symlink_to(versions / "gone")
    with pytest.raises(WeightsNotFoundError, match=r"pytorch_model\.bin\.1 is not a file that can be read"):
        Clip4clip("tiny", "text", device="cpu")


def test_nothing_is_looked_for_before_the_other_arguments_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip4clip.weights.locate.download_checkpoint", None)
    wrong: list[dict[str, Any]] = [{"modality": "audio"}, {"device": "tpu"}, {"runtime": "jax"}, {"precision": "int3"}]
    for change in wrong:
        with pytest.raises((UnknownNameError, DeviceError)):
            Clip4clip(**{"model_name": "clip_vit_b16", "modality": "text", "device": "cpu"} | change)
    with pytest.raises(UnknownNameError):
        TextEncoder.load("clip_vit_l14", device="tpu")


@pytest.mark.parametrize("name", ["ann_insert", "ann_search"])
def test_a_milvus_operator_without_its_extra_names_itself_and_the_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.startswith("clip4clip.retrieval")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(RuntimeError, match=rf"ops\.{name}\.milvus_client.*pymilvus.*\[retrieval\]"):
        getattr(ops, name).milvus_client(collection_name="a").get_op()
