"""Embed videos on a Ray cluster: actors hold the model, and Ray Data distributes the videos to them."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

from ..encoder import EncoderSpec
from ..errors import LibraryError, MissingExtraError
from ..video.sampling import FrameSampling
from .local_engine import BATCH_SIZE, ReportPosition, Row, embed_videos
from .sources import Video

try:
    import pyarrow as pa
    import ray
except ImportError as error:  # pragma: no cover
    raise MissingExtraError("engine 'ray' needs ray: pip install 'towhee-clip4clip[ray]'") from error


COLUMN_TYPES = {  # of what an actor returns
    **dict.fromkeys(("id", "video", "path", "error"), pa.string()),
    **dict.fromkeys(("start", "end", "duration"), pa.float64()),
    **dict.fromkeys(("frame_count", "size", "mtime"), pa.int64()),
    **dict.fromkeys(("uniform", "undecodable", "is_last"), pa.bool_()),
    "vector": pa.list_(pa.float32()),
}


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster. Its machines must see the videos under the same paths as this one.

    Attributes:
        address: address of the cluster; None for the one that this machine belongs to, or else for a new one on this
            machine.
        actors: number of actors; None for as many as fit on the cluster.
        gpus: number of GPUs for each actor, which may be a fraction.
    """

    address: str | None = None
    actors: int | None = None
    gpus: float = 0


class RayEngine:
    """Embed videos on a cluster, as :func:`clip4clip.library.local_engine.embed_videos` does on this machine.

    The videos come in their order, and the progress within a video is not reported.

    Args:
        cluster: cluster to use. A call raises LibraryError if the cluster does not answer.
        encoder: which model computes the vectors.
        sampling: how each video is cut, and which of its frames are embedded.
        workers: number of threads that decode in each actor; None for one per core.
    """

    def __init__(self, cluster: RayCluster, encoder: EncoderSpec, sampling: FrameSampling, workers: int | None) -> None:
        self._cluster, self._arguments = cluster, (encoder, sampling, workers)

    def __call__(
        self,
        videos: Sequence[Video],
        *,
        report_position: ReportPosition | None = None,  # noqa: ARG002
    ) -> Iterator[list[Row]]:
        if not videos:
            return
        if not ray.is_initialized():
            self._connect()
        context = ray.data.DataContext.get_current()
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it would print its plan and times
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        blocks = -(-len(videos) // BATCH_SIZE)
        dataset = ray.data.from_items([asdict(video) for video in videos], override_num_blocks=blocks).map_batches(
            EmbedActor,
            fn_constructor_args=self._arguments,
            batch_size=BATCH_SIZE,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=self._cluster.actors),
            num_gpus=self._cluster.gpus or None,
        )
        rows: list[Row] = []  # Ray may split the rows of a video over two batches
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in cast("pa.Table", batch).to_pylist():
                is_last = row.pop("is_last")
                rows.append(row)
                if is_last:
                    yield rows
                    rows = []

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics unless the user enables them
        address = self._cluster.address
        try:
            _check_address(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except Exception as error:  # Ray raises many types, a bare Exception among them
            problem = f"no Ray cluster answers at {address}" if address else "Ray does not start on this machine"
            raise LibraryError(f"{problem}: {error}") from error


def _check_address(address: str | None) -> None:
    """Raise OSError if nothing listens at an address. Ray itself would try for many minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class EmbedActor:
    """The code of an actor: holds the model and embeds batches of videos."""

    def __init__(self, encoder: EncoderSpec, sampling: FrameSampling, workers: int | None) -> None:
        self._encoder = encoder.video_encoder()
        self._sampling, self._workers = sampling, workers

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Embed a batch.

        Args:
            batch: a row for each video, with the fields of ``Video`` as columns.

        Returns:
            The rows of :func:`embed_videos` in the order of the videos, with explicit column types, which Ray would
            guess from dictionaries. ``is_last`` marks the last row of each video.
        """
        videos = [Video(**row) for row in batch.to_pylist()]
        embedded = embed_videos(videos, self._encoder, self._sampling, self._workers)
        rows_of = {rows[0]["video"]: rows for rows in embedded}
        rows = [row | {"is_last": row is rows_of[video.id][-1]} for video in videos for row in rows_of[video.id]]
        return pa.table(
            {name: pa.array([_to_list(row[name]) for row in rows], type_) for name, type_ in COLUMN_TYPES.items()}
        )


def _to_list(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
