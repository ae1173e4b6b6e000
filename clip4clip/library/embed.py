"""A library of videos to a table of vectors: decoding goes on while the model runs, and what is stopped can go on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..encoder import VideoEncoder
from ..errors import UnknownNameError
from ..weights.identity import identify
from ..weights.locate import Reference
from .local_engine import Row, embed_videos
from .sources import Video, list_videos, shown
from .table import Known, TableSpec, TableWriter, table_path

ENGINES = ("local", "ray")
PART_VIDEOS, PART_SECONDS = 256, 60.0  # a part is written when it has so many rows, or is so old

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]


@dataclass
class Report:
    """What came of :func:`embed_library`.

    Attributes:
        videos: how many the library has.
        embedded: how many were embedded now.
        kept: how many had been done before and have not changed since.
        failed: why a video has no vector, by its id; those of earlier runs among them.
        unlisted: why the videos of a folder are not known, by its path.
        seconds: that it took.
    """

    videos: int
    embedded: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    unlisted: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def embed_library(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    folder: str | os.PathLike[str] | None = None,
    model_name: str = "clip_vit_b32",
    weights: Reference | None = None,
    device: str | None = None,
    runtime: str | None = None,
    precision: str = "float32",
    frames: int = 12,
    seek: str = "exact",
    workers: int | None = None,
    retry_failed: bool = False,
    engine: str = "local",
    address: str | None = None,
    actors: int | None = None,
    gpus: float = 0,
    track: Track = lambda items, total, what: items,  # noqa: ARG005
) -> Report:
    """Embeds every video of a library into a Parquet table; stopped at any moment, the same call goes on.

    Videos that the table has and whose files have not changed in path, size or time are not embedded again, and rows of
    videos that are not in ``source`` stay. A video that fails has a row that says why; it does not stop the others.

    Args:
        source: a folder, a CSV table, a list, or paths; see :func:`clip4clip.library.sources.list_videos`.
        output: the table; :meth:`clip4clip.library.table.TableSpec.schema` tells its columns.
        folder: what relative paths in a table or list are relative to.
        model_name: as for :meth:`clip4clip.VideoEncoder.load`, like ``weights``.
        weights: a file, a folder, a hub reference or None.
        device: of the model, like ``runtime`` and ``precision``, whose vectors are near enough to be in one table.
        runtime: as for :meth:`clip4clip.VideoEncoder.load`.
        precision: likewise.
        frames: to take of each video, spread evenly.
        seek: ``'exact'`` or ``'keyframe'``, see :func:`clip4clip.video.read_frames`.
        workers: videos that are decoded at once, on this machine or in each actor; None for one per core.
        retry_failed: try again the videos whose rows tell of an error.
        engine: ``'local'``, or ``'ray'`` for actors on a Ray cluster, whose machines must see the same paths.
        address: of the cluster; None for the one that this machine is in, or else for one that is started here.
        actors: of the Ray engine; None for as many as the cluster has room for.
        gpus: that each actor takes.
        track: wraps the iteration over the videos, given how many they are and what is done; for a progress bar.

    Raises:
        LibraryError: for a source that cannot be listed, or a table that was made in another way, that another process
            writes, or that cannot be written.
        UnknownNameError, WeightsNotFoundError, CheckpointError, DeviceError: see :mod:`clip4clip.errors`.
        MissingExtraError: without pyarrow, or for ``engine='ray'`` without ray.
    """
    if engine not in ENGINES:
        raise UnknownNameError(f"unknown engine {engine!r}; it must be {' or '.join(map(repr, ENGINES))}")
    began = time.perf_counter()
    table_path(output)  # before the work, not after it
    unlisted: dict[str, str] = {}
    videos = list_videos(source, folder, unlisted)
    identity = identify(weights, model_name)
    encode: Callable[[Sequence[Video]], Iterator[Row]]
    if engine == "ray":
        from .ray_engine import RayEngine

        model = (model_name, weights, device, runtime, precision)
        encode = RayEngine(model, frames, seek, workers, address, actors, gpus)
        dim = encode.dim
    else:
        encoder = VideoEncoder.load(model_name, weights, device, runtime, precision)
        dim = encoder.config.embed_dim

        def encode(todo: Sequence[Video]) -> Iterator[Row]:
            return embed_videos(todo, encoder, frames, seek, workers)

    report = Report(len(videos), unlisted=unlisted)
    with TableWriter(output, TableSpec(identity, dim, frames, seek)) as table:
        known = table.known()
        todo = [video for video in videos if not _is_done(video, known.get(video.id), retry_failed)]
        report.kept = len(videos) - len(todo)
        rows: list[Row] = []
        since = time.monotonic()
        try:
            for row in track(encode(todo), len(todo), "embedding"):
                rows.append({**row, "model": identity.model, "fingerprint": identity.fingerprint})
                if len(rows) >= PART_VIDEOS or time.monotonic() - since > PART_SECONDS:
                    table.add(rows)
                    report.embedded += len(rows)
                    rows, since = [], time.monotonic()
        finally:
            table.add(rows)
            report.embedded += len(rows)
        table.finish()
        report.failed = table.errors({video.id for video in videos})
    report.seconds = time.perf_counter() - began
    return report


def _is_done(video: Video, known: Known | None, retry_failed: bool) -> bool:
    if known is None or (known.failed and retry_failed):
        return False
    return (known.path, known.size, known.mtime) == (shown(video.path), video.size, video.mtime)
