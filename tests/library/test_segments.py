"""Videos cut into segments: shots and windows of a fixed length."""

from __future__ import annotations

import numpy as np
import pytest

from clip4clip import InputValueError
from clip4clip.library.segments import Segment, Segmenter, is_uniform, segment_id
from clip4clip.runtime.tower import MeanPooling
from clip4clip.video.sampling import FrameSampling


def contents(*parts: tuple[float, int], every: float, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the times, the embeddings and the uniformity of the frames of parts of a video.

    Args:
        parts: seconds and content of each. Equal numbers have the same content, 0 is one colour.
        every: seconds between frames.
        noise: length of the random part of each embedding; that of the content is 1.
    """
    random = np.random.default_rng(0)
    directions = np.eye(64)[[content for seconds, content in parts for _ in range(round(seconds / every))]]
    noises = random.standard_normal(directions.shape) * noise / 8
    embeddings = (directions + noises).astype(np.float32) * random.uniform(5, 15, (len(directions), 1)).astype("f4")
    return np.arange(len(embeddings)) * every, embeddings, directions[:, 0] == 1


def cut(frames: tuple[np.ndarray, np.ndarray, np.ndarray], segments: str | float = "shots", chunk: int = 32):
    """Return the segments of a video that ends one step after its last frame."""
    every = float(frames[0][1] - frames[0][0])
    segmenter = Segmenter(FrameSampling(segments=segments, every=every), MeanPooling())
    found: list[Segment] = []
    for first in range(0, len(frames[0]), chunk):
        found += segmenter.add(*(values[first : first + chunk] for values in frames))
    return found + segmenter.finish(None)


def ranges(segments: list[Segment]) -> list[tuple[float, float]]:
    return [(segment.start, segment.end) for segment in segments]


@pytest.mark.parametrize("every", [0.5, 1, 2, 4])
def test_a_video_is_cut_where_its_content_changes(every: float) -> None:
    segments = cut(contents((8, 1), (20, 2), (12, 3), (24, 1), every=every))
    half = every / 2  # the change lies somewhere between two frames
    assert ranges(segments) == [(0, 8 - half), (8 - half, 28 - half), (28 - half, 40 - half), (40 - half, 64)]
    for segment, content in zip(segments, (1, 2, 3, 1), strict=True):
        assert segment.vector.dtype == np.float32
        assert np.linalg.norm(segment.vector) == pytest.approx(1)
        assert segment.vector[content] > 0.95
        assert not segment.is_uniform


def test_windows_overlap_by_half() -> None:
    frames = contents((21, 1), every=1)
    assert ranges(cut(frames, 10.0)) == [(0, 10), (5, 15), (10, 20), (15, 21)]
    assert ranges(cut(frames, 21.0)) == [(0, 21)]
    assert ranges(cut(frames, 100.0)) == [(0, 21)]


def test_the_id_of_a_segment_is_a_media_fragment() -> None:
    assert segment_id("a/b.mp4", 12.5, 20.0) == "a/b.mp4#t=12.5,20"
    assert segment_id("a", 0.0, 0.001) == "a#t=0,0.001"
    assert segment_id("a", 36000.25, 36010) == "a#t=36000.25,36010"


def test_what_cuts_nothing_is_rejected() -> None:
    with pytest.raises(InputValueError, match="'whole' cuts nothing"):
        Segmenter(FrameSampling(segments="whole"), MeanPooling())


def test_a_frame_of_one_colour_is_uniform_in_spite_of_noise() -> None:
    noise = np.random.default_rng(0).integers(-6, 7, (64, 64, 3))
    for colour in (0, 16, 128, (20, 90, 200), 255):
        assert is_uniform(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))
    black = np.zeros((64, 64, 3), np.uint8)
    black[30:33, 30:33] = 200
    assert not is_uniform(black)
