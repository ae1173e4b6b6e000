"""The local engine's work on a Ray cluster: actors that hold the model, fed and watched over by Ray Data."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np

from ..config import get_model
from ..encoder import VideoEncoder
from ..errors import LibraryError, MissingExtraError
from ..weights.locate import Reference
from .local_engine import VIDEOS_AT_ONCE, Row, embed_videos
from .sources import Video

try:
    import pyarrow as pa
    import ray
except ImportError as error:  # pragma: no cover
    raise MissingExtraError("engine 'ray' needs ray: pip install 'towhee-clip4clip[ray]'") from error

# Those of ``VideoEncoder.load``: name, weights, device, runtime, precision.
ModelArguments = tuple[str, Reference | None, str | None, str | None, str]


class RayEngine:
    """Videos to rows, as :func:`clip4clip.library.local_engine.embed_videos`; arguments as of ``embed_library``.

    Calling it raises LibraryError when no cluster answers.
    """

    def __init__(
        self,
        model: ModelArguments,
        frames: int,
        seek: str,
        workers: int | None,
        address: str | None,
        actors: int | None,
        gpus: float,
    ) -> None:
        self.dim = get_model(model[0]).config.embed_dim
        self._arguments = (model, frames, seek, workers)
        self._address, self._actors, self._gpus = address, actors, gpus

    def __call__(self, videos: Sequence[Video]) -> Iterator[Row]:
        if not videos:
            return
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unless it is wanted
            try:
                _check_address(self._address)
                ray.init(self._address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
            except Exception as error:  # of many kinds, a bare Exception among them
                place = f"no Ray cluster answers at {self._address}" if self._address else "Ray does not start here"
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
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=self._actors),
            num_gpus=self._gpus or None,
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

    def __init__(
        self,
        model: ModelArguments,
        frames: int,
        seek: str,
        workers: int | None,
    ) -> None:
        self._encoder = VideoEncoder.load(*model)
        self._frames, self._seek, self._workers = frames, seek, workers

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of ``Video`` to rows of a table of vectors, as dictionaries in one column would lose their types."""
        videos = [Video(**row) for row in batch.to_pylist()]
        rows: list[dict[str, Any]] = list(embed_videos(videos, self._encoder, self._frames, self._seek, self._workers))
        types = {"vector": pa.list_(pa.float32()), "duration": pa.float64(), "frame_count": pa.int64()}
        types |= {"size": pa.int64(), "mtime": pa.int64(), "error": pa.string()}
        return pa.table(
            {name: pa.array([_plain(row[name]) for row in rows], types.get(name, pa.string())) for name in rows[0]}
        )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
