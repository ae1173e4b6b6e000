"""Embed a library of videos into a Parquet table, so that an interrupted run can be resumed."""

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

PART_VIDEOS, PART_SECONDS = 256, 60.0  # a part is written when it has so many rows, or after so many seconds

Engine = Callable[[Sequence[Video]], Iterator[Row]]


@dataclass
class EmbedReport:
    """What :func:`embed_library` did.

    Attributes:
        videos: number of videos in the library.
        embedded: number of videos that were tried in this run.
        kept: number of videos that were already in the table and have not changed.
        failed: why a video has no vector, by its id; includes failures of earlier runs.
        unlisted: why a folder could not be listed, by its path.
        seconds: duration of the run.
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
    track: Track = no_progress,
) -> EmbedReport:
    """Embed every video of a library into a Parquet table. If the call is interrupted, repeat it to resume.

    Videos that are in the table and whose files have the same path, size and time are not embedded again. Rows of
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
        track: wraps the iteration over the videos to embed, for a progress bar; it also gets their number and
            ``'embedding'``.

    Raises:
        LibraryError: for a source that cannot be listed; a table whose vectors were computed in another way, that
            another process is writing, or that cannot be written; and a cluster that does not answer.
        UnknownNameError, WeightsNotFoundError, CheckpointError, DeviceError: see :mod:`clip4clip.errors`.
        MissingExtraError: without pyarrow, or for a ``cluster`` without ray.
    """
    start = time.perf_counter()
    check_table_path(output)  # before the work rather than after it
    unlisted: dict[str, str] = {}
    videos = list_videos(source, folder, unlisted)
    identity = encoder.identify()
    embed = _make_engine(encoder, sampling, workers, cluster)
    spec = TableSpec(identity, get_model(identity.model).config.embed_dim, sampling)
    report = EmbedReport(len(videos), unlisted=unlisted)
    with TableWriter(output, spec) as table:
        stored = table.videos()
        to_embed = [video for video in videos if not _is_done(video, stored.get(video.id), retry_failed)]
        report.kept = len(videos) - len(to_embed)
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
    """Write rows to a table part by part, also the last ones if stopped midway; count them in the report."""
    identity = table.spec.model
    rows: list[Row] = []
    part_start = time.monotonic()
    try:
        for row in embedded:
            rows.append({**row, "model": identity.model, "fingerprint": identity.fingerprint})
            if len(rows) >= PART_VIDEOS or time.monotonic() - part_start > PART_SECONDS:
                table.add(rows)
                report.embedded += len(rows)
                rows, part_start = [], time.monotonic()
    finally:
        table.add(rows)
        report.embedded += len(rows)
