"""Folding of copies: a hit that shows the same as a better one is listed with it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clip4clip.errors import InputValueError
from clip4clip.index.copies import MIN_COSINE, fold_copies
from clip4clip.index.hit import Hit


def at_cosine(cosine: float) -> np.ndarray:
    """Return a unit vector of this cosine to the first axis."""
    return np.array([cosine, math.sqrt(1 - cosine**2), 0], np.float32)


def video(name: str, duration: float | None = 20.0) -> Hit:
    return Hit(name, f"/{name}.mp4", 0.5, {} if duration is None else {"duration": duration})


def moment(video: str, start: float, end: float) -> Hit:
    return Hit(f"{video}#t={start},{end}", f"/{video}.mp4", 0.5, {"duration": 600.0}, video, start, end)


def folded(hits: list[Hit], cosines: list[float]) -> dict[str, list[str]]:
    """Return the ids of the copies of each listed hit, by its id."""
    found = fold_copies(hits, np.stack([at_cosine(cosine) for cosine in cosines]))
    return {hit.id: [copy.id for copy in copies] for hit, copies in found}


def test_a_hit_that_shows_the_same_as_a_better_one_is_its_copy_and_the_order_is_kept() -> None:
    hits = [video("a"), video("other"), video("b"), video("c")]
    assert folded(hits, [1, 0.5, MIN_COSINE + 1e-4, MIN_COSINE - 1e-4]) == {"a": ["b"], "other": [], "c": []}


def test_copies_of_a_copy_are_listed_if_they_differ_from_the_listed_one() -> None:
    near, far = math.cos(0.09), math.cos(0.18)  # each like the one before it
    assert far < MIN_COSINE < near
    assert folded([video("a"), video("b"), video("c")], [1, near, far]) == {"a": ["b"], "c": []}


def test_moments_of_one_video_are_never_copies_of_each_other() -> None:
    hits = [moment("a", 0, 10), moment("a", 10, 20), moment("b", 40, 50)]
    assert folded(hits, [1, 1, 1]) == {"a#t=0,10": ["b#t=40,50"], "a#t=10,20": []}


@pytest.mark.parametrize(
    ("length", "other", "is_copy"),
    [(4, 4.9, True), (4, 5.2, False), (20, 21.9, True), (20, 22.5, False), (20, 600, False), (20, None, True)],
)
def test_copies_are_of_about_the_same_length(length: float, other: float | None, is_copy: bool) -> None:
    assert folded([video("a", length), video("b", other)], [1, 1]) == ({"a": ["b"]} if is_copy else {"a": [], "b": []})


def test_a_clip_is_a_copy_of_the_moment_that_it_was_cut_from() -> None:
    assert folded([moment("film", 100, 108), video("clip", 8)], [1, 1]) == {"film#t=100,108": ["clip"]}


def test_the_norm_of_vectors_does_not_matter_and_those_of_zeros_are_copies_of_nothing() -> None:
    vectors = np.array([[0, 0], [3, 0], [0, 0], [0.1, 0], [math.nan, 0]])
    found = fold_copies([video(str(number)) for number in range(5)], vectors)
    assert [(hit.id, [copy.id for copy in copies]) for hit, copies in found] == [
        ("0", []),
        ("1", ["3"]),
        ("2", []),
        ("4", []),
    ]
    assert fold_copies([], np.empty((0, 2))) == []
    with pytest.raises(InputValueError, match="got 1 hits and 2 vectors"):
        fold_copies([video("a")], np.eye(2))
