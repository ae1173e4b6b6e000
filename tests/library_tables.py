"""Embed videos by the demo model, and read the resulting table, for the tests of the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from constants import DEMO_MODEL

from clip4clip.encoder import EncoderSpec
from clip4clip.library.embed import EmbedReport, embed_library
from clip4clip.library.table import TableSpec, read_rows
from clip4clip.video import FrameSampling
from clip4clip.weights.identity import identify


def embed(source: Any, output: Path, **options: Any) -> EmbedReport:
    return embed_library(source, output, EncoderSpec(DEMO_MODEL), **options)


def demo_spec() -> TableSpec:
    """What the tables of :func:`embed` record."""
    return TableSpec(identify(None, DEMO_MODEL), 128, FrameSampling())


def rows_by_id(table: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_rows(table)}
