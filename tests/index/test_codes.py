"""Codes of vectors, and the file that holds them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clip4clip.index.codes import (
    Codes,
    CodesLostError,
    CodesState,
    can_append,
    encode,
    open_codes,
    random_rotation,
    rotate_query,
    unit_rows,
    write_codes,
)

STATE = CodesState("name", 0, 0)


def vectors_like_clip(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """Random vectors with two large numbers at the same places, as CLIP's have."""
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    vectors[:, 1] += 20
    vectors[:, dim // 2] -= 10
    return vectors


def check_bounds(vectors: np.ndarray, query: np.ndarray) -> None:
    rotation = random_rotation(vectors.shape[1])
    codes = Codes.of(encode(vectors, rotation), STATE, 1, [])
    unit = unit_rows(query[None])[0]
    similarities, highest = codes.bounds(rotate_query(unit, rotation))
    exact = unit_rows(vectors) @ unit
    assert (np.abs(exact - similarities) <= codes.errors).all()
    assert (exact <= highest).all()


@pytest.mark.parametrize("dim", [1, 2, 7, 64, 512, 1024])
def test_no_similarity_is_further_from_its_code_than_the_error_says(dim: int) -> None:
    rng = np.random.default_rng(dim)
    random = rng.standard_normal((300, dim)).astype(np.float32)
    for vectors in (random, random * 1e-30, random * 1e30, np.sign(random), vectors_like_clip(300, max(dim, 2))):
        check_bounds(vectors, vectors[0])
        check_bounds(vectors, rng.standard_normal(vectors.shape[1]).astype(np.float32))


NUMBERS = st.floats(-(2.0**60), 2.0**60, width=32)


@settings(deadline=None)
@given(arrays(np.float32, (3, 5), elements=NUMBERS).filter(lambda array: array.any(axis=1).all()))
def test_the_error_holds_for_any_vectors(vectors: np.ndarray) -> None:
    check_bounds(vectors[:2], vectors[2])


@pytest.mark.parametrize("dim", [1, 2, 3, 16, 512, 2048])
def test_the_rounding_of_float32_stays_below_what_the_errors_allow_for_it(dim: int) -> None:
    """Vectors that a code represents exactly have no other error, and all products of one sign add up the most."""
    rotation = random_rotation(dim)
    exact = np.ones((50, dim)) * np.random.default_rng(dim).choice([-1, 1], (50, 1))
    parts = exact.reshape(-1, len(rotation)) @ rotation.T.astype(np.float64)
    vectors = parts.reshape(exact.shape).astype(np.float32)
    check_bounds(vectors, vectors[0])
    codes = Codes.of(encode(vectors, rotation), STATE, 1, [])
    similarities, _ = codes.bounds(rotate_query(unit_rows(vectors[:1])[0], rotation))
    wrong = np.abs(unit_rows(vectors) @ unit_rows(vectors[:1])[0] - similarities)
    assert (wrong < codes.errors / 2).all()


def test_the_rotation_keeps_large_numbers_from_spoiling_the_others() -> None:
    vectors = vectors_like_clip(100, 512)
    assert encode(vectors, random_rotation(512))["error"].mean() < 0.013
    assert encode(vectors, np.eye(128, dtype=np.float32))["error"].mean() > 0.026


def test_records_behind_the_published_ones_are_not_seen(tmp_path: Path) -> None:
    records = encode(vectors_like_clip(6, 8), random_rotation(8))
    records["row"], records["stamp"] = range(1, 7), 5
    file = tmp_path / "codes"
    write_codes(file, [records[:2], records[2:4]], 0o600)
    write_codes(file, [records[4:]], 0o600)
    assert open_codes(file, 8, CodesState("name", 6, 5)).tobytes() == records.tobytes()
    assert can_append(file, 8, CodesState("name", 6, 5))
    with file.open("ab") as torn:
        torn.write(b"torn")
    assert open_codes(file, 8, CodesState("name", 6, 5)).tobytes() == records.tobytes()
    assert not can_append(file, 8, CodesState("name", 6, 5))
    assert open_codes(file, 8, CodesState("name", 4, 5))["row"].tolist() == [1, 2, 3, 4]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    records = encode(vectors_like_clip(6, 8), random_rotation(8))
    file = tmp_path / "codes"
    write_codes(file, [records[:4]], 0o600)

    def batches() -> Iterator[np.ndarray]:
        yield records[4:]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_codes(file, batches(), 0o600)
    assert file.read_bytes() == records[:4].tobytes()


@pytest.mark.skipif(sys.platform == "win32", reason="needs access modes")
def test_whoever_may_write_to_the_database_may_write_to_its_codes(tmp_path: Path) -> None:
    records = encode(vectors_like_clip(2, 8), random_rotation(8))
    umask = os.umask(0o077)
    try:
        write_codes(tmp_path / "codes", [records], 0o664)
    finally:
        os.umask(umask)
    assert (tmp_path / "codes").stat().st_mode & 0o777 == 0o664


def test_a_file_of_another_state_is_refused(tmp_path: Path) -> None:
    records = encode(vectors_like_clip(4, 8), random_rotation(8))
    records["stamp"] = [5, 5, 6, 6]
    file = tmp_path / "codes"
    write_codes(file, [records], 0o600)
    assert len(open_codes(file, 8, CodesState("name", 2, 5))) == 2
    for state in (CodesState("name", 4, 5), CodesState("name", 5, 6)):
        with pytest.raises(CodesLostError):
            open_codes(file, 8, state)
    with pytest.raises(CodesLostError):
        open_codes(tmp_path / "none", 8, CodesState("none", 1, 5))
    assert len(open_codes(tmp_path / "none", 8, CodesState("", 0, 0))) == 0


def test_codes_of_a_later_state_are_those_that_a_fresh_start_gives() -> None:
    records = encode(vectors_like_clip(8, 8), random_rotation(8))
    records["row"], records["video"] = range(1, 9), range(11, 19)
    first = Codes.of(records[:5], CodesState("name", 5, 1), 1, [(1, 2)])
    second = Codes.of(records, CodesState("name", 8, 2), 2, [(2, 4), (3, 7)], first)
    fresh = Codes.of(records, CodesState("name", 8, 2), 2, [(1, 2), (2, 4), (3, 7)])
    for name in ("rows", "videos", "scales", "errors"):
        np.testing.assert_array_equal(getattr(second, name), getattr(fresh, name))
    assert second.last_dead == fresh.last_dead == 3
    assert second.live_positions().tolist() == [0, 2, 4, 5, 7]
    assert first.live_positions().tolist() == [0, 2, 3, 4]
    assert second.positions(np.array([3, 100, 8])).tolist() == [2, 7]
    assert second.rows.base is first.rows.base  # nothing is copied


def test_a_state_stays_as_it_is_when_others_follow_it() -> None:
    records = encode(vectors_like_clip(3000, 8), random_rotation(8))
    records["row"], records["video"] = np.arange(1, 3001), 7
    first = Codes.of(records[:5], CodesState("name", 5, 1), 1, [(1, 2)])
    states = [first, Codes.of(records[:8], CodesState("name", 8, 2), 2, [(2, 4)], first)]
    other = records[:8].copy()
    other["row"][5:] += 100
    states.append(Codes.of(other, CodesState("name", 8, 3), 2, [(2, 3)], first))  # another follower of the first
    states.append(Codes.of(records, CodesState("name", 3000, 4), 3, [], states[1]))
    states.append(Codes.of(records, CodesState("name", 3000, 4), 4, [(3, 1)], states[3]))
    rows = [[*range(1, 6)], [*range(1, 9)], [1, 2, 3, 4, 5, 106, 107, 108], [*range(1, 3001)], [*range(1, 3001)]]
    dead = [[2], [2, 4], [2, 3], [2, 4], [1, 2, 4]]
    assert [state.rows.tolist() for state in states] == rows
    assert [state.rows[state.errors < 0].tolist() for state in states] == dead
    for state, expected in zip(states, [records[:5], records[:8], other, records, records], strict=True):
        np.testing.assert_array_equal(state.scales, expected["scale"])
        live = state.live_positions()
        np.testing.assert_array_equal(state.errors[live], expected["error"][live])
