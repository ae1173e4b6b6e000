"""Networks of other families in all parts of the package: training, evaluation, index, Towhee's repositories, Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import towhee
from constants import DEMO_MODEL
from fine_tuned import PERCEPTION_ENCODER, UNUSUAL
from graphs import run_graph
from safetensors.torch import save_file
from towhee import ops, pipe

from clip4clip import EncoderSpec, ModelMismatchError, TextEncoder, register_model
from clip4clip.config import MODELS
from clip4clip.evaluation.evaluate import evaluate
from clip4clip.evaluation.pairs import read_pairs
from clip4clip.library.embed import embed_library
from clip4clip.library.table import read_rows
from clip4clip.retrieval import VideoIndex
from clip4clip.tokenizer import default_tokenizer
from clip4clip.training import TrainingConfig, train
from clip4clip.weights.identity import find_checkpoint

NETWORKS = {"unusual": UNUSUAL, "perception": PERCEPTION_ENCODER}


@pytest.fixture(scope="module", params=list(NETWORKS))
def registered(
    request: pytest.FixtureRequest, random_state: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The name of a registered model with random weights."""
    name, config = f"own_{request.param}", NETWORKS[request.param]
    weights = tmp_path_factory.mktemp("own") / "model.safetensors"
    save_file(random_state(config), weights)
    register_model(name, config, weights)
    yield name
    del MODELS[name]  # type: ignore[attr-defined]


def test_a_network_is_trained_evaluated_and_searched(registered: str, drawings: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = TrainingConfig(
        pairs=drawings / "train.csv",
        videos=drawings,
        out=run,
        model=registered,
        eval_pairs=drawings / "eval.csv",
        epochs=1,
        batch_size=16,
        freeze_layers=-1,
        frames=1,
        device="cpu",
        workers=0,
    )
    assert train(config).finished
    trained = EncoderSpec(weights=run / "last.safetensors", device="cpu")  # without a name
    assert trained.checkpoint().config == NETWORKS[registered.removeprefix("own_")]
    pairs = read_pairs(drawings / "eval.csv", drawings)
    assert 0 <= evaluate(pairs, trained.text_encoder(), trained.video_encoder()).text_to_video.recall_at_1 <= 100

    table = tmp_path / "vectors.parquet"
    assert embed_library(drawings / "eval", table, encoder=trained).failed == {}
    with VideoIndex(tmp_path / "videos.db", encoder=trained) as index:
        index.add(table)
        hits = index.search(pairs[0].sentence, limit=24)
        expected = trained.text_encoder()(pairs[0].sentence) @ np.stack([row["vector"] for row in read_rows(table)]).T
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1], atol=1e-5)
    for other in (EncoderSpec(registered), EncoderSpec(DEMO_MODEL)):  # untrained, and another network
        with VideoIndex(tmp_path / "videos.db", encoder=other) as index, pytest.raises(ModelMismatchError):
            index.search(pairs[0].sentence)


def test_a_network_is_served_from_a_repository_of_triton(registered: str, tmp_path: Path) -> None:
    operator = ops.video_text_embedding.clip4clip(model_name=registered, modality="text", device="cpu")
    pipeline: Any = pipe.input("text").map("text", "vec", operator).output("text", "vec")
    root = tmp_path / "models"
    assert towhee.build_pipeline_model(pipeline, model_root=str(root), format_priority=["onnx"], server="triton")
    (graph,) = root.rglob("model.onnx")
    vectors = run_graph(graph, default_tokenizer()(["a dog"]))
    vectors /= np.linalg.norm(vectors)
    np.testing.assert_allclose(vectors[0], TextEncoder.load(registered, device="cpu")("a dog"), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("registered", ["perception"], indirect=True)
def test_a_registered_network_is_known_to_the_actors_of_ray(registered: str, drawings: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    from clip4clip.library.ray_engine import RayCluster

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        encoder, tables = EncoderSpec(registered, device="cpu"), [tmp_path / "local.parquet", tmp_path / "ray.parquet"]
        embed_library(drawings / "eval", tables[0], encoder=encoder)
        embed_library(drawings / "eval", tables[1], encoder=encoder, cluster=RayCluster(actors=1), workers=1)
    finally:
        ray.shutdown()
    local, remote = ([row["vector"] for row in read_rows(table)] for table in tables)
    np.testing.assert_allclose(remote, local, atol=1e-5)


def test_the_checkpoint_of_a_registered_network_is_found_by_its_name(registered: str) -> None:
    checkpoint = find_checkpoint(None, registered)
    assert (checkpoint.model_name, checkpoint.config) == (registered, MODELS[registered].config)
