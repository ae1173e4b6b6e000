"""Both engines against a plain dictionary, by random sequences of operations."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from moment_choice import TIMES, choose_by_comparing_all
from servers import MilvusServer

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
    },
)
# Several rows of a video, with times or without.
places = st.tuples(st.sampled_from([None, "a", "b", "c"]), TIMES)


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
    'video == "a"': lambda row: row["video"] == "a",
    "start > 5 and not (end > 12.5)": lambda row: row.get("start", 0) > 5 and not row.get("end", 0) > 12.5,
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

    @rule(
        ids=id_lists,
        fields=st.lists(values, min_size=8, max_size=8),
        places=st.lists(places, min_size=8, max_size=8),
        replace=st.booleans(),
    )
    def add(self, ids: list[str], fields: list[dict[str, Any]], places: list[Any], replace: bool) -> None:
        rows: dict[str, dict[str, Any]] = {}
        for id_, extra, (video, (start, end)) in zip(ids, fields, places, strict=False):
            rows[id_] = {"id": id_, "path": f"/{id_}", "video": video or id_, "vector": vector_of(next(self.seeds))}
            rows[id_] |= extra | ({} if start is None else {"start": start, "end": end})
        replaced = {row["video"] for row in rows.values()} if replace else set()
        self.engine.upsert(rows, replaced)
        kept = {id_: row for id_, row in self.rows.items() if id_ not in rows and row["video"] not in replaced}
        self.rows = kept | rows

    def has_all_kinds(self) -> bool:
        """Whether the rows have a value of each kind that the filters compare with. Others are errors."""
        kinds = {(name, type(value)) for row in self.rows.values() for name, value in row.items()}
        return {("duration", float), ("camera", str), ("rating", int), ("rating", str)} <= kinds

    @rule(ids=st.lists(st.sampled_from([*IDS, "a", "b"]), min_size=1, max_size=4, unique=True))
    def delete(self, ids: list[str]) -> None:
        """Delete rows by their ids, and all rows of videos by theirs."""
        matching = [id_ for id_, row in self.rows.items() if id_ in ids or row["video"] in ids]
        assert self.engine.delete(ids) == len(matching)
        for id_ in matching:
            del self.rows[id_]

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
        best_first = sorted(scores, key=lambda id_: -scores[id_])
        rows = [self.rows[id_] for id_ in best_first]
        moments = [(row["video"], row.get("start"), row.get("end")) for row in rows]
        expected = [best_first[position] for position in choose_by_comparing_all(moments, per_video)]
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
        assert (hit.path, hit.fields, hit.video) == (row["path"], fields, row["video"])
        assert (hit.start, hit.end) == (row.get("start"), row.get("end"))

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(sorted(self.rows)))
        free = sorted({*IDS} - self.rows.keys() - {row["video"] for row in self.rows.values()})
        if not free:
            return
        new = data.draw(st.sampled_from(free))
        videos = {old: new} if self.rows[old]["video"] == old else {}
        self.engine.update_paths({old: (new, f"/{new}")}, videos)
        self.rows[new] = self.rows.pop(old) | {"id": new, "path": f"/{new}"}
        for row in self.rows.values():
            row["video"] = videos.get(row["video"], row["video"])

    @rule(ids=id_lists, rating=st.sampled_from([None, 1, "good"]))
    def update_fields(self, ids: list[str], rating: Any) -> None:
        self.engine.update_fields({id_: {"rating": rating} for id_ in ids})
        for row in (self.rows[id_] for id_ in ids if id_ in self.rows):
            row.pop("rating", None)
            if rating is not None:
                row["rating"] = rating

    @rule()
    def reopen(self) -> None:
        self.engine.close()
        self.engine = self.open()

    @rule(text=st.sampled_from([*FILTERS]), by_video=st.booleans())
    def iterate(self, text: str, by_video: bool) -> None:
        if not self.has_all_kinds():
            text = ""
        rows = [*self.engine.rows(["id", "path", "camera", "video", "vector"], text, by_video)]
        expected = {id_ for id_, row in self.rows.items() if FILTERS[text](row)}
        assert sorted(row["id"] for row in rows) == sorted(expected)
        for row in rows:
            np.testing.assert_array_equal(np.asarray(row["vector"], np.float32), self.rows[row["id"]]["vector"])
            assert row.get("camera") == self.rows[row["id"]].get("camera")
        if by_video:
            groups = [video for video, _ in itertools.groupby(row["video"] for row in rows)]
            assert len(groups) == len(set(groups))

    @rule(video=st.sampled_from(["a", "b", "v1"]))
    def rows_of_video(self, video: str) -> None:
        hits = self.engine.rows_of_video(video)
        assert {hit.id for hit in hits} == {id_ for id_, row in self.rows.items() if row["video"] == video}
        for hit in hits:
            self.check_hit(hit)

    @invariant()
    def count(self) -> None:
        if hasattr(self, "engine"):
            assert self.engine.count() == len(self.rows)
            assert self.engine.count_videos() == len({row["video"] for row in self.rows.values()})

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


class ServerMachine(EngineMachine):
    def make_address(self) -> IndexAddress:
        return self.address  # one for all examples, as to create a collection takes seconds

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.delete(filter="exists id")
        super().teardown()


def test_a_server_does_what_a_plain_list_does(milvus: MilvusServer) -> None:
    machine = type("Machine", (ServerMachine,), {"address": IndexAddress(milvus.uri, "model")})
    short = settings(SETTINGS, max_examples=8, stateful_step_count=15, derandomize=True, phases=[Phase.generate])
    run_state_machine_as_test(machine, settings=short)
