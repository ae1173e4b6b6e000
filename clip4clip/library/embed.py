"""Embed a library of videos into a Parquet table. An interrupted run can be resumed."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..encoder import DEFAULT_ENCODER, EncoderSpec
from ..progress import Track, no_progress
from ..video.sampling import DEFAULT_SAMPLING, FrameSampling
from .local_engine import ReportPosition, Row, embed_videos
from .sources import Video, list_videos
from .table import TableSpec, TableWriter, check_table_path

if TYPE_CHECKING:
    from .ray_engine import RayCluster

PART_ROWS, PART_SECONDS = 256, 60.0  # a part is written after this many rows or seconds


@dataclass
class EmbedReport:
    """What :func:`embed_library` did.

    Attributes:
        videos: number of videos in the library.
        segments: number of vectors that the table has of these videos: one of a video that is not cut, and one of each
            segment of a video that is cut. Segments of one colour have none.
        processed: number of videos that this run embedded or failed to embed.
        unchanged: number of videos that were already in the table and have not changed.
        failed: error of each video without a vector, by its id. Includes failures of earlier runs.
        unlisted: error of each folder that could not be listed, by its path.
        seconds: duration of the run.
    """

    videos: int
    segments: int = 0
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
    report_position: ReportPosition | None = None,
) -> EmbedReport:
    """Embed every video of a library into a Parquet table. If the call is interrupted, repeat it to resume.

    By default, a video of up to 30 seconds gets one row, and a longer video a row for each of its shots.

    A video in the table is not embedded again if its file still has the same path, size and modification time. Rows of
    videos that are not in ``source`` are kept. A failed video does not stop the run: its row says why it failed.

    Args:
        source: a folder, a table, a list, or paths; see :func:`clip4clip.library.sources.list_videos`.
        output: table to write; :meth:`clip4clip.library.table.TableSpec.schema` describes its columns.
        encoder: which model computes the vectors. Vectors of different precisions may share a table.
        sampling: how each video is cut into segments, and which of its frames are embedded.
        folder: folder that relative paths in a table or list start from; None for the folder of the table or list.
        workers: number of threads that decode, on this machine or in each Ray actor; None for one per core.
        retry_failed: also try videos that failed in an earlier run.
        cluster: Ray cluster to embed on; None for this machine.
        track: progress callback; see :data:`clip4clip.progress.Track`. An item is the list of the rows of a video.
        report_position: callback for the progress within a video that is cut; see
            :data:`clip4clip.library.local_engine.ReportPosition`. It is not called for videos on a cluster.

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
    checkpoint = encoder.checkpoint()
    embed = _make_engine(encoder, sampling, workers, cluster)
    spec = TableSpec(checkpoint.identity, checkpoint.config.embed_dim, sampling)
    report = EmbedReport(len(videos), unlisted=unlisted)
    with TableWriter(output, spec) as table:
        stored = table.videos()
        to_embed = [video for video in videos if not _is_done(video, stored.get(video.id), retry_failed)]
        report.unchanged = len(videos) - len(to_embed)
        with _PartWriter(table, to_embed, report, report_position) as parts:
            embedded = embed(to_embed, report_position=parts.report_position)
            for rows in track(embedded, len(to_embed), "embedding"):
                parts.add(rows)
        table.finish()
        report.segments, report.failed = table.contents({video.id for video in videos})
    report.seconds = time.perf_counter() - start
    return report


class _Engine(Protocol):
    def __call__(self, videos: Sequence[Video], /, *, report_position: ReportPosition) -> Iterator[list[Row]]:
        """Yield the rows of each video, as :func:`clip4clip.library.local_engine.embed_videos` does."""


def _make_engine(
    encoder: EncoderSpec, sampling: FrameSampling, workers: int | None, cluster: RayCluster | None
) -> _Engine:
    if cluster is not None:
        from .ray_engine import RayEngine

        return RayEngine(cluster, encoder, sampling, workers)
    return functools.partial(embed_videos, encoder=encoder.video_encoder(), sampling=sampling, workers=workers)


def _is_done(video: Video, stored: Video | None, retry_failed: bool) -> bool:
    if stored is None or (stored.failed and retry_failed):
        return False
    return video.is_same_file(stored)


class _PartWriter:
    """Writes rows to a table in parts, and counts their videos in a report. An error does not cost the last part.

    Args:
        table: table to write.
        videos: the videos of the rows; those of a part are written in this order.
        report: its ``processed`` grows with each part.
        report_position: see :func:`embed_library`.
    """

    def __init__(
        self, table: TableWriter, videos: Iterable[Video], report: EmbedReport, report_position: ReportPosition | None
    ) -> None:
        self._table, self._report, self._report_position = table, report, report_position
        self._position = {video.id: position for position, video in enumerate(videos)}
        self._videos: list[list[Row]] = []  # the rows of each video
        self._part_start = time.monotonic()

    def __enter__(self) -> _PartWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def add(self, rows: list[Row]) -> None:
        """Add all rows of a video."""
        self._videos.append(rows)
        self._write_if_due()

    def report_position(self, video: Video, seconds: float, duration: float | None) -> None:
        """Report the progress within a video. It may take hours: write what was finished before it."""
        self._write_if_due()
        if self._report_position is not None:
            self._report_position(video, seconds, duration)

    def _write_if_due(self) -> None:
        rows = sum(map(len, self._videos))
        if rows >= PART_ROWS or time.monotonic() - self._part_start > PART_SECONDS:
            self._write()

    def _write(self) -> None:
        model = self._table.spec.model
        columns = {"model": model.model, "fingerprint": model.fingerprint}
        self._videos.sort(key=lambda rows: self._position[rows[0]["video"]])
        self._table.add([row | columns for rows in self._videos for row in rows])
        self._report.processed += len(self._videos)
        self._videos, self._part_start = [], time.monotonic()
