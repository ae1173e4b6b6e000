"""Draw long videos, embed videos by the demo model, and read the resulting table, for the tests of the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from constants import DEMO_MODEL

from clip4clip.encoder import EncoderSpec
from clip4clip.library.embed import EmbedReport, embed_library
from clip4clip.library.table import TableSpec, read_rows
from clip4clip.training.drawing import draw
from clip4clip.training.scenes import scenes
from clip4clip.video import FrameSampling
from clip4clip.weights.identity import identify


def embed(source: Any, output: Path, **options: Any) -> EmbedReport:
    return embed_library(source, output, EncoderSpec(DEMO_MODEL), **options)


def demo_spec() -> TableSpec:
    """What the tables of :func:`embed` record."""
    return TableSpec(identify(None, DEMO_MODEL), 128, FrameSampling())


def rows_by_id(table: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_rows(table)}


def write_scenes(path: Path, *parts: tuple[int | None, float]) -> Path:
    """Encode a video of drawn scenes in which nothing moves, two frames a second, and return its path.

    Args:
        path: its extension decides on the container.
        parts: of each scene, the seed of its drawing, or None for black; and its length in seconds.
    """
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=2, options={"preset": "ultrafast", "crf": "18", "g": "4"})
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        stream.codec_context.thread_count = 1
        for seed, seconds in parts:
            picture = np.zeros((128, 128, 3), np.uint8) if seed is None else draw(*next(scenes(1, seed, False)))[0]
            for _ in range(round(2 * seconds)):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    return path
