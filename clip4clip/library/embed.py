"""A library of videos to a table of vectors: decoding goes on while the model runs, and what is stopped can go on."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..config import get_model
from ..encoder import DEFAULT_ENCODER, EncoderSpec
from ..video.sampling import DEFAULT_SAMPLING, FrameSampling
from .local_engine import Row, embed_videos
from .sources import Video, list_videos, shown
from .table import Known, TableSpec, TableWriter, table_path

if TYPE_CHECKING:
    from .ray_engine import RayCluster

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
    encoder: EncoderSpec = DEFAULT_ENCODER,
    sampling: FrameSampling = DEFAULT_SAMPLING,
    *,
    folder: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    cluster: RayCluster | None = None,
    track: Track = lambda items, total, what: items,  # noqa: ARG005
) -> Report:
    """Embeds every video of a library into a Parquet table; stopped at any moment, the same call goes on.

    Videos that the table has and whose files have not changed in path, size or time are not embedded again, and rows of
    videos that are not in ``source`` stay. A video that fails has a row that says why; it does not stop the others.

    Args:
        source: a folder, a CSV table, a list, or paths; see :func:`clip4clip.library.sources.list_videos`.
        output: the table; :meth:`clip4clip.library.table.TableSpec.schema` tells its columns.
        encoder: which model computes the vectors. Vectors of different precisions may share a table.
        sampling: which frames of each video are embedded.
        folder: folder that relative paths in a table or list start from.
        workers: number of videos decoded at once, on this machine or in each Ray actor; None for one per core.
        retry_failed: try videos again that failed in an earlier run.
        cluster: the Ray cluster that does the work; None for this machine.
        track: wraps the iteration over the videos, given how many they are and what is done; for a progress bar.

    Raises:
        LibraryError: for a source that cannot be listed, or a table that was made in another way, that another process
            writes, or that cannot be written.
        UnknownNameError, WeightsNotFoundError, CheckpointError, DeviceError: see :mod:`clip4clip.errors`.
        MissingExtraError: without pyarrow, or for a ``cluster`` without ray.
    """
    began = time.perf_counter()
    table_path(output)  # before the work, not after it
    unlisted: dict[str, str] = {}
    videos = list_videos(source, folder, unlisted)
    identity = encoder.identify()
    encode: Callable[[Sequence[Video]], Iterator[Row]]
    if cluster is not None:
        from .ray_engine import RayEngine

        encode = RayEngine(cluster, encoder, sampling, workers)
    else:
        encode = functools.partial(embed_videos, encoder=encoder.video_encoder(), sampling=sampling, workers=workers)
    dim = get_model(identity.model).config.embed_dim
    report = Report(len(videos), unlisted=unlisted)
    with TableWriter(output, TableSpec(identity, dim, sampling.frames, sampling.seek)) as table:
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
