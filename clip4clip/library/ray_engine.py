"""The local engine's work on a Ray cluster: actors that hold the model, fed and watched over by Ray Data."""

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
from .local_engine import VIDEOS_AT_ONCE, Row, embed_videos
from .sources import Video

try:
    import pyarrow as pa
    import ray
except ImportError as error:  # pragma: no cover
    raise MissingExtraError("engine 'ray' needs ray: pip install 'towhee-clip4clip[ray]'") from error


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster, whose machines must see the videos under the same paths.

    Attributes:
        address: of the cluster; None for the one that this machine belongs to, or else a new one on this machine.
        actors: number of actors; None for as many as the cluster has room for.
        gpus: number of GPUs for each actor.
    """

    address: str | None = None
    actors: int | None = None
    gpus: float = 0


class RayEngine:
    """Videos to rows, as :func:`clip4clip.library.local_engine.embed_videos`; arguments as of ``embed_library``.

    Calling it raises LibraryError when no cluster answers.
    """

    def __init__(self, cluster: RayCluster, encoder: EncoderSpec, sampling: FrameSampling, workers: int | None) -> None:
        self._cluster, self._arguments = cluster, (encoder, sampling, workers)

    def __call__(self, videos: Sequence[Video]) -> Iterator[Row]:
        if not videos:
            return
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unless it is wanted
            try:
                _check_address(self._cluster.address)
                ray.init(
                    self._cluster.address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False
                )
            except Exception as error:  # of many kinds, a bare Exception among them
                place = (
                    f"no Ray cluster answers at {self._cluster.address}"
                    if self._cluster.address
                    else "Ray does not start here"
                )
                raise LibraryError(f"{place}: {error}") from error
        context = ray.data.DataContext.get_current()
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # its plan and its times, of every call
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        blocks = -(-len(videos) // VIDEOS_AT_ONCE)
        dataset = ray.data.from_items([asdict(video) for video in videos], override_num_blocks=blocks).map_batches(
            Embedder,
            fn_constructor_args=self._arguments,
            batch_size=VIDEOS_AT_ONCE,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=self._cluster.actors),
            num_gpus=self._cluster.gpus or None,
        )
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from cast("pa.Table", batch).to_pylist()


def _check_address(address: str | None) -> None:
    """OSError where nobody listens: Ray itself would try for many minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class Embedder:
    """What an actor does: holds the model, turns batches of videos into rows."""

    def __init__(self, encoder: EncoderSpec, sampling: FrameSampling, workers: int | None) -> None:
        self._encoder = encoder.video_encoder()
        self._sampling, self._workers = sampling, workers

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of ``Video`` to rows of a table of vectors, as dictionaries in one column would lose their types."""
        videos = [Video(**row) for row in batch.to_pylist()]
        rows: list[dict[str, Any]] = list(embed_videos(videos, self._encoder, self._sampling, self._workers))
        types = {"vector": pa.list_(pa.float32()), "duration": pa.float64(), "frame_count": pa.int64()}
        types |= {"size": pa.int64(), "mtime": pa.int64(), "error": pa.string()}
        return pa.table(
            {name: pa.array([_plain(row[name]) for row in rows], types.get(name, pa.string())) for name in rows[0]}
        )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
