"""Pipelines in a model repository for Triton, and the answers of a real server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import towhee
from constants import DEMO_MODEL
from servers import TritonPlace, TritonServer, TritonUnavailableError
from snippets import code_with
from towhee import AutoConfig, ops, pipe
from towhee.runtime.node_config import NodeConfig
from towhee.runtime.runtime_conf import set_runtime_config

from clip4clip import TextEncoder, VideoEncoder
from clip4clip.encoder import MIN_CAPTION_TOKENS
from clip4clip.operators import Clip4clip
from clip4clip.operators.decoding import Ffmpeg
from clip4clip.operators.install import install_operators
from clip4clip.preprocess import pixel_values
from clip4clip.tokenizer import default_tokenizer

pytest.importorskip("dill", reason="Towhee saves a pipeline by dill")

TWELVE = {"sample_type": "uniform_temporal_subsample", "args": {"num_samples": 12}}
CAPTIONS = [
    "a dog",
    "",
    "a red circle moves to the left",
    "zwei grüne Dreiecke 😀",
    "two words " * 40,
    "kids and a horse",
]


def text_pipeline(config: Any = None) -> Any:
    operator = ops.video_text_embedding.clip4clip(model_name=DEMO_MODEL, modality="text", device="cpu")
    return pipe.input("text").map("text", "vec", operator, config=config).output("text", "vec")


def video_pipeline() -> Any:
    """The README's pipeline without its output ``flame_list``: 12 pictures as JSON take long."""
    return (
        pipe.input("video_path")
        .map("video_path", "flame_gen", ops.video_decode.ffmpeg(**TWELVE))
        .map("flame_gen", "flame_list", lambda x: [y for y in x])  # noqa: C416
        .map(
            "flame_list",
            "vec",
            ops.video_text_embedding.clip4clip(model_name=DEMO_MODEL, modality="video", device="cpu"),
        )
        .output("video_path", "vec")
    )


def build(pipeline: Any, root: Path) -> Path:
    assert towhee.build_pipeline_model(
        pipeline, model_root=str(root), format_priority=["onnx"], parallelism=1, server="triton"
    )
    return root


@pytest.fixture(scope="module")
def text_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(text_pipeline(), tmp_path_factory.mktemp("text") / "repository")


@pytest.fixture(scope="module")
def video_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(video_pipeline(), tmp_path_factory.mktemp("video") / "repository")


@pytest.fixture(scope="module")
def text() -> Clip4clip:
    return Clip4clip(DEMO_MODEL, "text", device="cpu")


@pytest.fixture(scope="module")
def video() -> Clip4clip:
    return Clip4clip(DEMO_MODEL, "video", device="cpu")


def model_of(repository: Path) -> Path:
    """Return the folder of the operator's tower."""
    (folder,) = repository.glob("video-text-embedding.clip4clip-*")
    return folder


def run(repository: Path, inputs: np.ndarray) -> np.ndarray:
    """Return the unit vectors of a repository's graph in a plain session."""
    session = onnxruntime.InferenceSession(model_of(repository) / "1" / "model.onnx")
    (rows,) = session.run(None, {session.get_inputs()[0].name: inputs})
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# The repository


def test_the_text_graph_gives_the_vectors_of_the_operator(text_repository: Path, text: Clip4clip) -> None:
    tokenizer, config = default_tokenizer(text._encoder.config.vocab_size), text._encoder.config
    ids = tokenizer.pad([tokenizer.encode(caption, config.context_length) for caption in CAPTIONS])
    np.testing.assert_allclose(run(text_repository, ids), text(CAPTIONS), atol=1e-5)


def test_the_video_graph_gives_the_vectors_of_the_operator(
    video_repository: Path, video: Clip4clip, bigbuckbunny: Path
) -> None:
    frames = list(Ffmpeg(**TWELVE)(bigbuckbunny))
    rows = run(video_repository, pixel_values(frames, video._encoder.config.resolution))
    mean = rows.mean(axis=0)
    np.testing.assert_allclose(mean / np.linalg.norm(mean), video(frames), atol=1e-5)


def test_the_configuration_allows_the_largest_batch_of_an_encoder(
    text_repository: Path, video_repository: Path
) -> None:
    config = (model_of(text_repository) / "config.pbtxt").read_text()
    assert config.splitlines()[1:3] == ['backend: "onnxruntime"', "max_batch_size: 256"]
    shortest = len(default_tokenizer(49408).encode("", 77))
    assert shortest == MIN_CAPTION_TOKENS
    assert TextEncoder.max_batch_size == 256
    config = (model_of(video_repository) / "config.pbtxt").read_text()
    assert config.splitlines()[1:3] == ['backend: "onnxruntime"', f"max_batch_size: {VideoEncoder.max_batch_size}"]


def test_the_batch_size_that_a_pipeline_sets_is_kept(tmp_path: Path) -> None:
    root = build(text_pipeline(AutoConfig.TritonCPUConfig(max_batch_size=64)), tmp_path / "repository")
    config = (model_of(root) / "config.pbtxt").read_text()
    assert config.count("max_batch_size") == 1
    assert "max_batch_size: 64\n" in config


def test_in_the_server_the_device_of_the_operator_is_ignored() -> None:
    with set_runtime_config(NodeConfig(name="node", acc_info={"type": "mock", "params": None})):
        assert Clip4clip(DEMO_MODEL, "text", device="cuda:63")("a dog").shape == (4,)  # the mock returns ids


# The server. Its tests are slow, because pip installs it.


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> TritonPlace:
    pytest.importorskip("tritonclient.http.aio", reason="Towhee's client for Triton needs tritonclient[http]")
    try:
        place = TritonPlace(tmp_path_factory.mktemp("triton"))
    except TritonUnavailableError as error:
        pytest.skip(str(error))
    install_operators(place.environment["TOWHEE_HOME"])
    return place


@pytest.fixture(scope="module")
def text_server(triton: TritonPlace, text_repository: Path) -> Iterator[TritonServer]:
    with TritonServer(triton, text_repository) as server:
        yield server


@pytest.fixture(scope="module")
def video_server(triton: TritonPlace, video_repository: Path) -> Iterator[TritonServer]:
    with TritonServer(triton, video_repository) as server:
        yield server


def ask(server: TritonServer, call: Callable[[Any], Any]) -> Any:
    """Return what a call of Towhee's client returns."""

    class Client(towhee.triton_client.Client):  # type: ignore[name-defined]
        def __del__(self) -> None:
            """Do not close it again, as Towhee's client does, with an event loop that may be closed by then."""

    async def connect() -> Client:  # aiohttp needs a running loop
        return Client(server.url)

    def run_call() -> Any:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            client = loop.run_until_complete(connect())
            try:
                return call(client)
            finally:
                client.close()
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    # In a thread of its own: if playwright ran in this process, a loop is still running in the main thread.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run_call).result()


@pytest.mark.slow
def test_the_server_gives_the_vector_of_a_caption(text_server: TritonServer, text: Clip4clip) -> None:
    caption, vector = ask(text_server, lambda client: client("a dog"))[0]
    assert caption == "a dog"
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, text("a dog"), atol=1e-5)


@pytest.mark.slow
def test_the_example_of_the_docs_works(text_server: TritonServer, text: Clip4clip, tmp_path: Path) -> None:
    code = code_with("docs/triton.md", "triton_client.Client", [("localhost:8000", text_server.url)])
    code += (
        "import numpy\nnumpy.savez('vectors.npz', vector=vector, vectors=vectors, rows=[row[0][1] for row in rows])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr  # nor when the interpreter ends
    with np.load(tmp_path / "vectors.npz") as answers:
        np.testing.assert_allclose(answers["vector"], text("a dog"), atol=1e-5)
        for name in ("vectors", "rows"):
            np.testing.assert_allclose(answers[name], text(["a dog", "a cat", "two horses"]), atol=1e-5)


@pytest.mark.slow
def test_concurrent_requests_may_have_captions_of_different_lengths(text_server: TritonServer, text: Clip4clip) -> None:
    captions = CAPTIONS * 4
    rows = ask(text_server, lambda client: client.batch(captions, batch_size=3))
    assert [row[0][0] for row in rows] == captions
    np.testing.assert_allclose([row[0][1] for row in rows], text(captions), atol=1e-5)


@pytest.mark.parametrize("captions", [CAPTIONS * 20, [""] * 300], ids=["mixed", "the most at once"])
@pytest.mark.slow
def test_a_request_may_have_a_list_of_captions(captions: list[str], text_server: TritonServer, text: Clip4clip) -> None:
    _, vectors = ask(text_server, lambda client: client(captions))[0]
    np.testing.assert_allclose(vectors, text(captions), atol=1e-5)


@pytest.mark.slow
def test_the_server_computes_the_tower(text_server: TritonServer, text_repository: Path) -> None:
    def computed() -> int:
        address = f"http://{text_server.url}/v2/models/{model_of(text_repository).name}/stats"
        with urllib.request.urlopen(address, timeout=120) as answer:
            return json.load(answer)["model_stats"][0]["inference_count"]

    before = computed()
    ask(text_server, lambda client: client(["one two", "three four", "five six"]))
    assert computed() == before + 3


@pytest.mark.slow
def test_the_server_gives_the_vector_of_a_video_of_twelve_frames(
    video_server: TritonServer, video: Clip4clip, bigbuckbunny: Path
) -> None:
    path, vector = ask(video_server, lambda client: client(str(bigbuckbunny)))[0]
    assert path == str(bigbuckbunny)
    np.testing.assert_allclose(vector, video(list(Ffmpeg(**TWELVE)(bigbuckbunny))), atol=1e-5)


@pytest.mark.slow
def test_wrong_input_is_an_error_of_the_request_and_the_server_continues(
    text_server: TritonServer, video_server: TritonServer, text: Clip4clip
) -> None:
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="text must be a str or a list of str, not int"):
        ask(text_server, lambda client: client(3))
    with pytest.raises(InferenceServerException, match=r"no-such\.mp4"):
        ask(video_server, lambda client: client("/no-such.mp4"))
    assert ask(text_server, lambda client: client.batch([3, "a dog"], batch_size=1, safe=True))[0] is None
    np.testing.assert_allclose(ask(text_server, lambda client: client("a dog"))[0][1], text("a dog"), atol=1e-5)
    assert video_server.ready()
