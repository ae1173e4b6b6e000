"""Embed a library of videos into a Parquet table. An interrupted run can be resumed."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..config import get_model
from ..encoder import DEFAULT_ENCODER, EncoderSpec
from ..progress import Track, no_progress
from ..video.sampling import DEFAULT_SAMPLING, FrameSampling
from .local_engine import Row, embed_videos
from .sources import Video, list_videos
from .table import TableSpec, TableWriter, check_table_path

if TYPE_CHECKING:
    from .ray_engine import RayCluster

PART_VIDEOS, PART_SECONDS = 256, 60.0  # a part is written after this many rows or seconds

Engine = Callable[[Sequence[Video]], Iterator[Row]]


@dataclass
class EmbedReport:
    """What :func:`embed_library` did.

    Attributes:
        videos: number of videos in the library.
        processed: number of videos that this run embedded or failed to embed.
        unchanged: number of videos that were already in the table and have not changed.
        failed: error of each video without a vector, by its id. Includes failures of earlier runs.
        unlisted: error of each folder that could not be listed, by its path.
        seconds: duration of the run.
    """

    videos: int
    processed: int = 0
    unchanged: int = 0
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
    track: Track = no_progress,
) -> EmbedReport:
    """Embed every video of a library into a Parquet table. If the call is interrupted, repeat it to resume.

    A video in the table is not embedded again if its file still has the same path, size and modification time. Rows of
    videos that are not in ``source`` are kept. A failed video does not stop the run: its row says why it failed.

    Args:
        source: a folder, a table, a list, or paths; see :func:`clip4clip.library.sources.list_videos`.
        output: table to write; :meth:`clip4clip.library.table.TableSpec.schema` describes its columns.
        encoder: which model computes the vectors. Vectors of different precisions may share a table.
        sampling: which frames of each video are embedded.
        folder: folder that relative paths in a table or list start from; None for the folder of the table or list.
        workers: number of videos decoded at once, on this machine or in each Ray actor; None for one per core.
        retry_failed: also try videos that failed in an earlier run.
        cluster: Ray cluster to embed on; None for this machine.
        track: progress callback; see :data:`clip4clip.progress.Track`.

    Raises:
        LibraryError: the source cannot be listed; the vectors of the table were computed with another model or
            sampling; another process is writing the table; the table cannot be written; or the cluster does not answer.
        UnknownNameError, WeightsNotFoundError, CheckpointError, DeviceError: see :mod:`clip4clip.errors`.
        MissingExtraError: pyarrow or, for a ``cluster``, ray is not installed.
    """
    start = time.perf_counter()
    check_table_path(output)  # an error here costs no work
    unlisted: dict[str, str] = {}
    videos = list_videos(source, folder, unlisted)
    identity = encoder.identify()
    embed = _make_engine(encoder, sampling, workers, cluster)
    spec = TableSpec(identity, get_model(identity.model).config.embed_dim, sampling)
    report = EmbedReport(len(videos), unlisted=unlisted)
    with TableWriter(output, spec) as table:
        stored = table.videos()
        to_embed = [video for video in videos if not _is_done(video, stored.get(video.id), retry_failed)]
        report.unchanged = len(videos) - len(to_embed)
        _write_parts(table, track(embed(to_embed), len(to_embed), "embedding"), report)
        table.finish()
        report.failed = table.errors({video.id for video in videos})
    report.seconds = time.perf_counter() - start
    return report


def _make_engine(
    encoder: EncoderSpec, sampling: FrameSampling, workers: int | None, cluster: RayCluster | None
) -> Engine:
    if cluster is not None:
        from .ray_engine import RayEngine

        return RayEngine(cluster, encoder, sampling, workers)
    return functools.partial(embed_videos, encoder=encoder.video_encoder(), sampling=sampling, workers=workers)


def _is_done(video: Video, stored: Video | None, retry_failed: bool) -> bool:
    if stored is None or (stored.failed and retry_failed):
        return False
    return video.is_same_file(stored)


def _write_parts(table: TableWriter, embedded: Iterable[Row], report: EmbedReport) -> None:
    """Write rows to a table in parts, and count them in the report. The last part is written even after an error."""
    identity = table.spec.model
    rows: list[Row] = []
    part_start = time.monotonic()
    try:
        for row in embedded:
            rows.append({**row, "model": identity.model, "fingerprint": identity.fingerprint})
            if len(rows) >= PART_VIDEOS or time.monotonic() - part_start > PART_SECONDS:
                table.add(rows)
                report.processed += len(rows)
                rows, part_start = [], time.monotonic()
    finally:
        table.add(rows)
        report.processed += len(rows)
