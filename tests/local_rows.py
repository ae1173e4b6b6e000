"""Rows and operations that the tests of the local index and the processes that they start have in common."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from clip4clip.index.address import IndexAddress
from clip4clip.index.collection import VectorSpec
from clip4clip.index.local import LocalCollection
from clip4clip.video.sampling import FrameSampling
from clip4clip.weights.identity import Identity

DIM = 24
GROUP = 20  # rows that a writer always writes together
SPEC = VectorSpec(Identity("a_model", "0123456789abcdef"), FrameSampling())

Rows = dict[str, dict[str, Any]]


def vector_of(number: int, version: int = 0) -> np.ndarray:
    return np.random.default_rng([number, version]).standard_normal(DIM).astype(np.float32)


def make_rows(numbers: Iterable[int], version: int = 0) -> Rows:
    """Rows ``v<number>``, whose vectors and durations depend on number and version."""
    return {
        f"v{number}": {
            "id": f"v{number}",
            "path": f"/videos/v{number}.mp4",
            "vector": vector_of(number, version),
            "duration": float(number + 1000 * version),
        }
        for number in numbers
    }


def vector_of_generation(number: int, writer: int, generation: int) -> np.ndarray:
    return np.random.default_rng([number, writer, generation]).standard_normal(DIM).astype(np.float32)


def group_rows(writer: int, generation: int) -> Rows:
    """The rows of a writer, all of one generation."""
    return {
        f"{writer}-{number}": {
            "id": f"{writer}-{number}",
            "path": "/video.mp4",
            "vector": vector_of_generation(number, writer, generation),
            "writer": writer,
            "number": number,
            "generation": generation,
        }
        for number in range(GROUP)
    }


def next_operation(number: int) -> tuple[str, list[int], int]:
    """Return what the operation with a number does: its kind, the numbers of its rows, and their version."""
    rng = random.Random(number)
    kind = rng.choices(["add", "delete", "finish", "lose codes"], [6, 3, 2, 1])[0]
    return kind, rng.sample(range(60), rng.randrange(1, 25)), number


def open_for_tests(path: Path) -> LocalCollection:
    collection = LocalCollection(IndexAddress(str(path), "videos"), timeout=60)
    collection.create(SPEC, DIM)
    return collection


def apply(collection: LocalCollection, path: Path, kind: str, numbers: list[int], version: int) -> None:
    if kind == "add":
        collection.upsert(make_rows(numbers, version))
    elif kind == "delete":
        collection.delete([f"v{number}" for number in numbers])
    elif kind == "finish":
        collection.finish()
    else:
        for file in path.parent.glob("*-codes-*"):
            file.unlink()
        collection.search(vector_of(0), 1)  # rebuilds them


class Model:
    """What the index should have after a sequence of operations."""

    def __init__(self) -> None:
        self.rows: Rows = {}

    def apply(self, kind: str, numbers: list[int], version: int) -> None:
        if kind == "add":
            self.rows |= make_rows(numbers, version)
        elif kind == "delete":
            for number in numbers:
                self.rows.pop(f"v{number}", None)

    def durations(self) -> dict[str, float]:
        return {id_: row["duration"] for id_, row in self.rows.items()}
