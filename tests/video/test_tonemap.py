"""HDR frames look as on an ordinary screen."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import numpy as np
import pytest

from clip4clip.video import read_frames

BT709, BT2020 = (1, 1), (9, 9)  # primaries and matrix
PQ, HLG = 16, 18


def read_grey(path: Path, transfer: int, signal: float, colours: tuple[int, int] = BT2020) -> np.ndarray:
    """Write a video of one grey, a signal from 0 to 1 in 10 bits; return the RGB values that are read from it."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.colorspace = colours
        context.color_trc, context.color_range = transfer, 1
        frame = av.VideoFrame(160, 96, "yuv420p10le")
        for plane, value in zip(frame.planes, (round(64 + 876 * signal), 512, 512), strict=True):
            plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
        frame.pts = 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return next(read_frames(path)).rgb[48, 80].astype(int)


@pytest.mark.parametrize(
    ("transfer", "signal", "expected"),
    [
        (PQ, 0.0, 0),
        (PQ, 0.3022, 73),  # 10 cd/m²; white has 203: 255 * (10 / 203) ** (1 / 2.4)
        (PQ, 0.4402, 141),  # 49 cd/m²
        (PQ, 0.7518, 255),  # 1000 cd/m²
        (PQ, 1.0, 255),
        (HLG, 0.0, 0),
        (HLG, 0.5, 143),  # 1000 * (1 / 12) ** 1.2 cd/m²
        (HLG, 1.0, 255),
    ],
)
def test_hdr_looks_as_on_an_ordinary_screen(transfer: int, signal: float, expected: int, tmp_path: Path) -> None:
    np.testing.assert_allclose(read_grey(tmp_path / "a.mp4", transfer, signal), expected, atol=2)


def test_light_above_sdr_white_stays_distinguishable(tmp_path: Path) -> None:
    greys = [read_grey(tmp_path / "a.mp4", PQ, signal)[0] for signal in (0.50, 0.55, 0.60, 0.65)]
    assert all(darker + 5 < brighter for darker, brighter in itertools.pairwise(greys))
    assert greys[-1] < 255


def test_sdr_is_not_changed(tmp_path: Path) -> None:
    np.testing.assert_allclose(read_grey(tmp_path / "a.mp4", 1, 0.3022, BT709), 77, atol=2)
