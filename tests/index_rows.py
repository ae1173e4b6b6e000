"""Rows of videos with random vectors, for the tests of the index and the programs that they start."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from constants import DEMO_MODEL

from clip4clip.index.hit import Hit
from clip4clip.weights.identity import identify


def random_rows(count: int, start: int = 0, dim: int = 128) -> list[dict[str, Any]]:
    """Rows ``v0``, ``v1``, … from ``start`` on, with vectors of the demo model: random, but the same for every call."""
    demo = identify(None, DEMO_MODEL)
    vectors = np.random.default_rng(start).normal(size=(count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        {"id": f"v{number}", "path": f"/videos/v{number}.mp4", "vector": vector, "duration": float(number)}
        | {"model": demo.model, "fingerprint": demo.fingerprint}
        for number, vector in enumerate(vectors, start)
    ]


def ids(hits: Iterable[Hit]) -> list[str]:
    return [hit.id for hit in hits]
