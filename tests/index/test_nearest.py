"""The exact nearest rows, compared with a plain product in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moment_choice import TIMES, choose_by_comparing_all

from clip4clip.index import nearest as nearest_module
from clip4clip.index.codes import Codes, CodesState, encode, random_rotation, unit_rows
from clip4clip.index.nearest import find_nearest

Times = Sequence[tuple["float | None", "float | None"]] | None


def make_codes(
    vectors: np.ndarray, rotation: np.ndarray, videos: Sequence[int] = (), dead: Sequence[int] = ()
) -> Codes:
    """The codes of rows 10, 20, 30, …, some of which were deleted."""
    records = encode(vectors, rotation)
    records["row"] = np.arange(1, len(vectors) + 1) * 10
    records["video"] = videos if len(videos) else records["row"]
    return Codes.of(records, CodesState("name", len(records), 0), 1, [*enumerate(dead)])


def nearest_by_product(
    vectors: np.ndarray,
    query: np.ndarray,
    limit: int,
    per_video: int | None,
    videos: Sequence[int],
    allowed: set[int],
    times: Times = None,
) -> list[tuple[int, float]]:
    scores = (unit_rows(vectors) * unit_rows(query[None])[0]).sum(axis=1)
    order = [index for index in np.argsort(-scores, kind="stable").tolist() if 10 * (index + 1) in allowed]
    moments = [(videos[i] if len(videos) else i, *(times[i] if times else (None, None))) for i in order]
    chosen = choose_by_comparing_all(moments, per_video)[:limit]
    return [(10 * (order[position] + 1), scores[order[position]]) for position in chosen]


def no_times(rows: Sequence[int]) -> list[tuple[None, None]]:
    return [(None, None)] * len(rows)


def assert_same(nearest: list[tuple[int, float]], expected: list[tuple[int, float]]) -> None:
    assert [row for row, _ in nearest] == [row for row, _ in expected]
    np.testing.assert_allclose([score for _, score in nearest], [score for _, score in expected], rtol=1e-12)


DATA = ["random", "clustered", "equal", "nearly equal"]


def make_vectors(kind: str, count: int, dim: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    if kind == "clustered":
        vectors = vectors[rng.integers(0, 5, count)] + 0.05 * vectors
    elif kind == "equal":
        vectors = vectors[rng.integers(0, 3, count)]
    elif kind == "nearly equal":  # differences that the codes cannot tell apart
        vectors = vectors[0] + 1e-4 * vectors
    return vectors


@pytest.mark.parametrize("per_video", [None, 1, 3])
@pytest.mark.parametrize("kind", DATA)
def test_the_nearest_rows_are_those_of_a_plain_product(kind: str, per_video: int | None) -> None:
    vectors, rotation = make_vectors(kind, 2000, 48), random_rotation(48)
    rng = np.random.default_rng(1)
    videos = rng.integers(0, 400, len(vectors)).tolist()
    rows = [10 * (index + 1) for index in range(len(vectors))]
    dead = rng.choice(rows, 300, replace=False).tolist()
    codes = make_codes(vectors, rotation, videos, dead)
    for query in (vectors[5], rng.standard_normal(48).astype(np.float32)):
        for limit in (1, 10, 3000):
            for selected in (None, rng.choice(rows, 1500, replace=False), rng.choice(rows, 7, replace=False)):
                allowed = ({*rows} if selected is None else {*selected.tolist()}) - {*dead}
                nearest = find_nearest(
                    codes,
                    query,
                    rotation,
                    lambda rows: vectors[np.array(rows) // 10 - 1],
                    no_times,
                    limit,
                    per_video,
                    selected,
                )
                expected = nearest_by_product(vectors, query, limit, per_video, videos, allowed)
                assert_same(nearest, expected)


def check_drawn(
    data: st.DataObject,
    number: st.SearchStrategy[float],
    count: int,
    dim: int,
    last_video: int,
    limit: int,
    per_video: int | None,
) -> None:
    """Draw vectors, a query and videos, and compare the search with a plain product."""
    numbers = st.lists(number, min_size=dim, max_size=dim).filter(any)
    vectors = np.array(data.draw(st.lists(numbers, min_size=count, max_size=count)), np.float32)
    query = np.array(data.draw(numbers), np.float32)
    videos = data.draw(st.lists(st.integers(0, last_video), min_size=count, max_size=count))
    times = data.draw(st.lists(TIMES, min_size=count, max_size=count))
    rotation = random_rotation(dim)
    nearest = find_nearest(
        make_codes(vectors, rotation, videos),
        query,
        rotation,
        lambda rows: vectors[np.array(rows) // 10 - 1],
        lambda rows: [times[row // 10 - 1] for row in rows],
        limit,
        per_video,
    )
    rows = {10 * (index + 1) for index in range(count)}
    expected = nearest_by_product(vectors, query, limit, per_video, videos, rows, times)
    assert [row for row, _ in nearest] == [row for row, _ in expected]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 12), st.sampled_from([None, 1, 2]), st.data())
def test_small_collections_of_any_vectors_are_searched_exactly(
    count: int, dim: int, limit: int, per_video: int | None, data: st.DataObject
) -> None:
    check_drawn(data, st.integers(-3, 3), count, dim, 5, limit, per_video)


def test_few_vectors_are_read_for_vectors_like_those_of_clip() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((50, 512))
    vectors = (centres[rng.integers(0, 50, 8000)] + rng.standard_normal((8000, 512))).astype(np.float32)
    vectors[:, 7] += 20
    rotation, reads = random_rotation(512), []

    def read(rows: Sequence[int]) -> np.ndarray:
        reads.append(len(rows))
        return vectors[np.array(rows) // 10 - 1]

    codes = make_codes(vectors, rotation)
    for query in vectors[:20]:
        find_nearest(codes, query, rotation, read, no_times, 10)
    assert sum(reads) / 20 < 200  # of 8,000


@pytest.mark.parametrize("selected", [None, np.arange(10, 80_010, 10)])
def test_few_vectors_are_read_if_one_video_has_most_of_the_nearest_rows(selected: np.ndarray | None) -> None:
    rng = np.random.default_rng(0)
    query = rng.standard_normal(512).astype(np.float32)
    vectors = rng.standard_normal((8000, 512)).astype(np.float32)
    vectors[:6000] += query * np.linspace(2, 0.5, 6000, dtype=np.float32)[:, None]  # all nearer than the others
    videos = [1] * 6000 + [*range(2, 2002)]
    rotation, reads = random_rotation(512), []

    def read(rows: Sequence[int]) -> np.ndarray:
        reads.append(len(rows))
        return vectors[np.array(rows) // 10 - 1]

    nearest = find_nearest(make_codes(vectors, rotation, videos), query, rotation, read, no_times, 10, 1, selected)
    rows = {10 * (index + 1) for index in range(8000)}
    assert_same(nearest, nearest_by_product(vectors, query, 10, 1, videos, rows))
    assert sum(reads) < 500  # of 8,000
    # With fewer videos than results, all rows of the video stay candidates.
    reads.clear()
    few = [*range(10, 60_010, 10), 79_990, 80_000]
    nearest = find_nearest(make_codes(vectors, rotation, videos), query, rotation, read, no_times, 10, 1, np.array(few))
    assert_same(nearest, nearest_by_product(vectors, query, 10, 1, videos, {*few}))
    assert sum(reads) < 500


# Vectors that are made so that each result depends on the last bits.
ADVERSE = st.sampled_from([1.0, -1.0, 1 + 2**-23, 1 - 2**-24, 2**-12, 2**-24, 1e-30, 1e-45, 3e38, -3e38, 0.0, 127.5])


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 12), st.sampled_from([None, 1, 2]), st.data())
def test_vectors_that_differ_in_their_last_bits_are_ordered_exactly(
    count: int, dim: int, limit: int, per_video: int | None, data: st.DataObject
) -> None:
    check_drawn(data, ADVERSE, count, dim, 3, limit, per_video)


@pytest.mark.parametrize("per_video", [None, 3])
@pytest.mark.parametrize("kind", DATA)
def test_half_overlapping_windows_are_searched_exactly_and_few_are_read(kind: str, per_video: int | None) -> None:
    vectors, rotation = make_vectors(kind, 900, 48), random_rotation(48)
    videos = [index // 150 for index in range(len(vectors))]
    times = [(5.0 * (index % 150), 5.0 * (index % 150) + 10) for index in range(len(vectors))]
    reads: list[int] = []

    def read(rows: Sequence[int]) -> np.ndarray:
        reads.append(len(rows))
        return vectors[np.array(rows) // 10 - 1]

    rows = {10 * (index + 1) for index in range(len(vectors))}
    for query, limit in ((vectors[5], 10), (-vectors[834], 40), (vectors[7], 4000)):
        nearest = find_nearest(
            make_codes(vectors, rotation, videos),
            query,
            rotation,
            read,
            lambda rows: [times[row // 10 - 1] for row in rows],
            limit,
            per_video,
        )
        assert_same(nearest, nearest_by_product(vectors, query, limit, per_video, videos, rows, times))
        if kind == "random" and limit == 10:
            assert sum(reads) < 200


def test_a_row_comes_back_when_the_ones_that_kept_it_out_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third row looks far by its code, but is the nearest, and overlaps the two that were read before it."""
    monkeypatch.setattr(nearest_module, "EXTRA_CANDIDATES", 0)
    similarities, rough = np.array([0.9, 0.8, 0.95, 0.3]), np.array([0.9, 0.8, 0.5, 0.3])
    times = [(0, 10), (20, 30), (5, 25), (40, 50)]
    vectors, rough_vectors = (
        np.stack([values, np.sqrt(1 - values**2)], axis=1).astype(np.float32) for values in (similarities, rough)
    )
    rotation = random_rotation(2)
    codes = make_codes(rough_vectors, rotation, [1] * 4)
    codes.errors[:] += np.linalg.norm(vectors - rough_vectors, axis=1)
    for per_video, expected in ((None, [30, 40]), (2, [30, 40]), (1, [30])):
        nearest = find_nearest(
            codes,
            np.array([1, 0], np.float32),
            rotation,
            lambda rows: vectors[np.array(rows) // 10 - 1],
            lambda rows: [times[row // 10 - 1] for row in rows],
            2,
            per_video,
        )
        assert [row for row, _ in nearest] == expected


def test_an_empty_collection_has_no_nearest_rows() -> None:
    codes = make_codes(np.empty((0, 4), np.float32), random_rotation(4))
    assert (
        find_nearest(codes, np.ones(4, np.float32), random_rotation(4), lambda rows: np.empty((0, 4)), no_times, 5)
        == []
    )
