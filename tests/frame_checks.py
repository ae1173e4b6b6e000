"""What the tests of decoded frames share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import av
import numpy as np
import pytest

from clip4clip.video import Frame
from clip4clip.video.container import Container


def evenly_spaced(count: int, samples: int) -> list[int]:
    """Return the numbers of so many frames, spread evenly over ``count`` frames, each only once."""
    return sorted(set(np.linspace(0, count - 1, samples).astype(int).tolist()))


def times_of(frames: Iterable[Frame]) -> list[float]:
    return [frame.time for frame in frames]


def assert_frames(frames: Iterable[Frame], numbers: list[int], expected: list[np.ndarray]) -> None:
    """Assert that these are the expected pictures of these numbers, bit for bit, at rising times."""
    frames = list(frames)
    assert len(frames) == len(numbers)
    for frame, number in zip(frames, numbers, strict=True):
        assert np.array_equal(frame.rgb, expected[number]), number
    assert times_of(frames) == sorted(set(times_of(frames)))


class Work:
    """Counts the packets that decoders get, and how often a video is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.packets = self.opened = 0
        decode, av_open = Container.decode, av.open

        def counting_decode(container: Container, packet: av.Packet | None) -> list[av.VideoFrame]:
            self.packets += packet is not None
            return decode(container, packet)

        def counting_open(*arguments: Any, **options: Any) -> Any:
            self.opened += 1
            return av_open(*arguments, **options)

        monkeypatch.setattr(Container, "decode", counting_decode)
        monkeypatch.setattr(av, "open", counting_open)
