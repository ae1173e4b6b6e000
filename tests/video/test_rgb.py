"""Frames are upright, and their pixels are not stretched."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from clips import orient, picture, write
from frame_checks import assert_frames
from PIL import ExifTags, Image

from clip4clip.video import read_frames


@pytest.mark.parametrize(
    ("matrix", "filters"),
    [
        ((1, 0, 0, 1), []),
        ((-1, 0, 0, 1), [("hflip", None)]),
        ((1, 0, 0, -1), [("vflip", None)]),
        ((-1, 0, 0, -1), [("hflip", None), ("vflip", None)]),
        ((0, 1, -1, 0), [("transpose", "clock")]),
        ((0, -1, 1, 0), [("transpose", "cclock")]),
        ((0, 1, 1, 0), [("transpose", "cclock_flip")]),
        ((0, -1, -1, 0), [("transpose", "clock_flip")]),
    ],
)
def test_frames_are_rotated_and_mirrored_as_ffmpeg_does(
    matrix: tuple[int, ...], filters: list[tuple[str, str | None]], clip: Path, tmp_path: Path
) -> None:
    """With the filters that ``ffmpeg -autorotate`` inserts for each of the eight display matrices."""
    expected = []
    with av.open(str(clip)) as file:
        stream = file.streams.video[0]
        graph = av.filter.Graph()
        nodes = [graph.add_buffer(template=stream), *(graph.add(*name) for name in filters), graph.add("buffersink")]
        graph.link_nodes(*nodes).configure()
        for frame in file.decode(stream):
            graph.push(frame)
            expected.append(graph.pull().to_ndarray(format="rgb24"))
    path = orient(clip, matrix, tmp_path / "oriented.mp4")
    assert_frames(read_frames(path, 3), [0, 12, 24], expected)
    first = next(read_frames(path)).rgb
    assert first.shape == ((96, 160, 3) if matrix[0] else (160, 96, 3))


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_photo_is_rotated_as_its_camera_was(orientation: int, turns: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    for name, tags in (("plain.jpg", Image.Exif()), ("rotated.jpg", exif)):
        Image.fromarray(picture(0)).save(tmp_path / name, exif=tags)
    [plain], [rotated] = (list(read_frames(tmp_path / name)) for name in ("plain.jpg", "rotated.jpg"))
    np.testing.assert_array_equal(rotated.rgb, np.rot90(plain.rgb, turns))


def test_pixels_that_are_not_square_are_not_stretched(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", **{"x264-params": "sar=4/3"})
    assert next(read_frames(path)).rgb.shape == (96, 160, 3)
