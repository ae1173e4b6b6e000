"""The local engine against a plain list, by random sequences of operations."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from clip4clip.index.address import IndexAddress
from clip4clip.index.collection import VectorSpec
from clip4clip.index.engine import Engine, open_engine
from clip4clip.index.hit import Hit
from clip4clip.video.sampling import FrameSampling
from clip4clip.weights.identity import Identity

DIM = 8
SPEC = VectorSpec(Identity("a_model", "0123456789abcdef"), FrameSampling())
IDS = [f"v{number}" for number in range(12)] + ["it's", 'a "quote"', "back\\slash", "new\nline", "😀", "%_*?["]
names = itertools.count()

id_lists = st.lists(st.sampled_from(IDS), min_size=1, max_size=8, unique=True)
values = st.fixed_dictionaries(
    {},
    optional={
        "duration": st.sampled_from([0.0, 1.5, 60.0]),
        "camera": st.sampled_from(["front", "back", "", 'O\'Neil "x"']),
        "rating": st.sampled_from([1, 2, 2.5, "good", True]),
        "video": st.sampled_from(["a", "b", "c"]),
    },
)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


FILTERS = {
    "": lambda row: True,
    "duration < 60": lambda row: row.get("duration", 100) < 60,
    "not (duration < 60)": lambda row: not row.get("duration", 100) < 60,
    'camera == "front"': lambda row: row.get("camera") == "front",
    'camera != "front"': lambda row: row.get("camera") != "front",
    "camera == 'O\\'Neil \"x\"'": lambda row: row.get("camera") == 'O\'Neil "x"',
    "exists camera and rating >= 2": lambda row: "camera" in row and is_number(row.get("rating")) and row["rating"] > 1,
    'rating in [1, "good"]': lambda row: row.get("rating") in (1, "good") and row["rating"] is not True,
    'id like "v1%" or path == "/it\'s"': lambda row: row["id"].startswith("v1") or row["path"] == "/it's",
    'video == "a"': lambda row: row.get("video", row["id"]) == "a",
}


SETTINGS = settings(stateful_step_count=25, deadline=None, suppress_health_check=[*HealthCheck])


def vector_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


class EngineMachine(RuleBasedStateMachine):
    """Does the same to an engine and to a dictionary, and compares what they say."""

    address: IndexAddress

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, dict[str, Any]] = {}
        self.seeds = itertools.count()
        self.engine: Engine

    def open(self) -> Engine:
        return open_engine(self.address)

    @initialize()
    def create(self) -> None:
        self.address = self.make_address()
        self.engine = self.open()
        self.engine.create(SPEC, DIM)

    def make_address(self) -> IndexAddress:
        raise NotImplementedError

    @rule(ids=id_lists, fields=st.lists(values, min_size=8, max_size=8))
    def add(self, ids: list[str], fields: list[dict[str, Any]]) -> None:
        rows = {
            id_: {"id": id_, "path": f"/{id_}", "vector": vector_of(next(self.seeds)), **extra}
            for id_, extra in zip(ids, fields, strict=False)
        }
        self.engine.upsert(rows)
        self.rows = {id_: row for id_, row in self.rows.items() if id_ not in rows} | rows

    def has_all_kinds(self) -> bool:
        """Whether the rows have a value of each kind that the filters compare with. Others are errors."""
        kinds = {(name, type(value)) for row in self.rows.values() for name, value in row.items()}
        return {("duration", float), ("camera", str), ("rating", int), ("rating", str)} <= kinds

    @rule(ids=id_lists)
    def delete(self, ids: list[str]) -> None:
        assert self.engine.delete(ids) == len(self.rows.keys() & {*ids})
        for id_ in ids:
            self.rows.pop(id_, None)

    @precondition(lambda self: self.has_all_kinds())
    @rule(text=st.sampled_from([text for text in FILTERS if text]))
    def delete_matching(self, text: str) -> None:
        matching = [id_ for id_, row in self.rows.items() if FILTERS[text](row)]
        assert self.engine.delete(filter=text) == len(matching)
        for id_ in matching:
            del self.rows[id_]

    @rule(
        seed=st.integers(0, 100),
        limit=st.integers(1, 20),
        per_video=st.sampled_from([None, 1, 2]),
        text=st.sampled_from([*FILTERS]),
    )
    def search(self, seed: int, limit: int, per_video: int | None, text: str) -> None:
        if not self.has_all_kinds():
            text = ""
        query = vector_of(seed).astype(np.float64)
        query /= np.linalg.norm(query)
        scores = {
            id_: float(row["vector"] @ query / np.linalg.norm(row["vector"].astype(np.float64)))
            for id_, row in self.rows.items()
            if FILTERS[text](row)
        }
        expected, videos = [], []
        for id_ in sorted(scores, key=lambda id_: -scores[id_]):
            videos.append(self.rows[id_].get("video", id_))
            if per_video is None or videos.count(videos[-1]) <= per_video:
                expected.append(id_)
        hits = self.engine.search(vector_of(seed), limit, filter=text, per_video=per_video)
        assert [hit.id for hit in hits] == expected[:limit]
        np.testing.assert_allclose([hit.score for hit in hits], [scores[hit.id] for hit in hits], atol=1e-5)
        for hit in hits:
            self.check_hit(hit)

    @rule(id_=st.sampled_from(IDS))
    def get(self, id_: str) -> None:
        hit = self.engine.get(id_)
        assert (hit is not None) == (id_ in self.rows)
        if hit is not None:
            self.check_hit(hit)

    def check_hit(self, hit: Hit) -> None:
        row = self.rows[hit.id]
        attributes = ("id", "path", "video", "start", "end", "vector")
        fields = {name: value for name, value in row.items() if name not in attributes}
        video = row.get("video", hit.id)
        assert (hit.path, hit.fields, hit.video) == (row["path"], fields, video)
        assert (hit.start, hit.end) == (row.get("start"), row.get("end"))

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(sorted(self.rows)))
        free = sorted({*IDS} - self.rows.keys())
        if not free or self.rows[old].get("video"):
            return
        new = data.draw(st.sampled_from(free))
        self.engine.update_paths({old: (new, f"/{new}")})
        self.rows[new] = self.rows.pop(old) | {"id": new, "path": f"/{new}"}

    @rule()
    def reopen(self) -> None:
        self.engine.close()
        self.engine = self.open()

    @rule(text=st.sampled_from([*FILTERS]))
    def iterate(self, text: str) -> None:
        if not self.has_all_kinds():
            text = ""
        rows = [*self.engine.rows(["id", "path", "camera", "vector"], text)]
        expected = {id_ for id_, row in self.rows.items() if FILTERS[text](row)}
        assert sorted(row["id"] for row in rows) == sorted(expected)
        for row in rows:
            np.testing.assert_array_equal(np.asarray(row["vector"], np.float32), self.rows[row["id"]]["vector"])
            assert row.get("camera") == self.rows[row["id"]].get("camera")

    @invariant()
    def count(self) -> None:
        if hasattr(self, "engine"):
            assert self.engine.count() == len(self.rows)

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()


class LocalMachine(EngineMachine):
    folder: Path

    def make_address(self) -> IndexAddress:
        return IndexAddress(str(self.folder / f"{next(names)}.db"), "videos")

    @rule()
    def finish(self) -> None:  # a server lets nobody do this more often than every ten seconds
        self.engine.finish()

    @rule()
    def lose_codes(self) -> None:
        for file in self.folder.glob("*-codes-*"):
            file.unlink()


@pytest.mark.parametrize("examples", [10, pytest.param(150, marks=pytest.mark.slow)])
def test_a_local_index_does_what_a_plain_list_does(examples: int, tmp_path: Path) -> None:
    machine = type("Machine", (LocalMachine,), {"folder": tmp_path})
    run_state_machine_as_test(machine, settings=settings(SETTINGS, max_examples=examples))
