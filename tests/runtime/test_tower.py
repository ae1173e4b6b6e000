"""Encoders and operators of both runtimes work in other processes, pickled or forked."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from constants import DEMO_MODEL
from graphs import CAPTIONS, RUNTIMES
from processes import in_a_fork, needs_fork

from clip4clip import TextEncoder, VideoEncoder
from clip4clip.operators import Clip4clip

FRAMES = np.random.default_rng(0).integers(0, 256, (8, 70, 90, 3), np.uint8)
Embedding = tuple[Callable, object]  # something that embeds, and its input
EMBEDDINGS: dict[str, Callable[[str], Embedding]] = {
    "texts": lambda runtime: (TextEncoder.load(DEMO_MODEL, None, "cpu", runtime), CAPTIONS * 20),
    "videos": lambda runtime: (VideoEncoder.load(DEMO_MODEL, None, "cpu", runtime), FRAMES),
    "operator": lambda runtime: (Clip4clip(DEMO_MODEL, "text", None, "cpu", runtime=runtime), "a dog " * 20),
}


@pytest.mark.parametrize("runtime", [pytest.param("torch", marks=pytest.mark.slow), "onnxruntime"])
def test_pickled_encoders_give_the_same_vectors_in_another_process(runtime: str) -> None:
    embeddings = [make(runtime) for make in EMBEDDINGS.values()]
    expected = [embed(data) for embed, data in embeddings]
    code = (
        "import pickle, sys\n"
        "embeddings = pickle.load(sys.stdin.buffer)\n"
        "vectors = [(embed(data), pickle.loads(pickle.dumps(embed))(data)) for embed, data in embeddings]\n"
        "pickle.dump(vectors, sys.stdout.buffer)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(embeddings), capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for vectors, (unpickled, pickled_again) in zip(expected, pickle.loads(done.stdout), strict=True):
        np.testing.assert_allclose(unpickled, vectors, atol=1e-6)
        np.testing.assert_allclose(pickled_again, vectors, atol=1e-6)


@needs_fork
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_used_encoders_give_the_same_vectors_in_a_forked_process(kind: str, runtime: str, torch_threads: None) -> None:
    embed, data = EMBEDDINGS[kind](runtime)
    expected = embed(data)
    forked_vectors = in_a_fork(lambda: embed(data))
    assert isinstance(forked_vectors, np.ndarray), forked_vectors
    np.testing.assert_allclose(forked_vectors, expected, atol=1e-6)
