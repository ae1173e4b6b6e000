"""Embed videos on this machine, and decode the next ones while the model runs."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.error import FFmpegError

from ..encoder import VideoEncoder
from ..errors import Clip4clipError, VideoError, printable
from ..preprocess import resize_and_crop, to_image
from ..runtime.placement import available_cores
from ..video.limits import Limits
from ..video.reader import VideoInfo, read_frames
from ..video.sampling import DEFAULT_SAMPLING, FrameSampling
from ..video.source import is_url
from .sources import Video, display_path

logger = logging.getLogger(__name__)

BATCH_SIZE = 8  # videos that the model embeds together

Row = dict[str, Any]


def embed_videos(
    videos: Iterable[Video],
    encoder: VideoEncoder,
    sampling: FrameSampling = DEFAULT_SAMPLING,
    workers: int | None = None,
) -> Iterator[Row]:
    """Yield a row of the table for each video, in the same order, without the columns ``model`` and ``fingerprint``.

    ``undecodable``, which is not a column of the table, says whether the video is a file that was opened and cannot be
    decoded: another attempt would fail as well, unless the file changes.

    While the model runs, the next videos are decoded. At most three batches of videos are in memory. Their frames are
    already cropped to the size that the model takes. A video that fails does not stop the others: its row has an
    ``error`` and no vector.

    Args:
        videos: videos to embed.
        encoder: encoder of the model.
        sampling: which frames of each video are embedded.
        workers: number of videos decoded at once, each by one thread; None for one per core.
    """
    remaining = iter(videos)
    with ThreadPoolExecutor(workers or available_cores(), thread_name_prefix="clip4clip-videos") as pool:
        decoding = deque(
            pool.submit(_decode, video, sampling, encoder.config.resolution)
            for video in itertools.islice(remaining, 2 * BATCH_SIZE)
        )
        try:
            while decoding:
                batch = [decoding.popleft().result() for _ in range(min(BATCH_SIZE, len(decoding)))]
                for video in itertools.islice(remaining, len(batch)):
                    decoding.append(pool.submit(_decode, video, sampling, encoder.config.resolution))
                frames = [decoded.frames for decoded in batch if decoded.error is None]
                vectors = iter(encoder(frames) if frames else ())
                for decoded in batch:
                    yield decoded.row(None if decoded.error else next(vectors))
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Decoded:
    """The cropped frames of a video, or why it could not be decoded."""

    video: Video
    frames: list[np.ndarray]
    info: VideoInfo
    error: str | None
    undecodable: bool = False

    def row(self, vector: np.ndarray | None) -> Row:
        return {
            "id": self.video.id,
            "path": display_path(self.video.path),
            "vector": vector,
            "duration": self.info.duration,
            "frame_count": self.info.frame_count,
            "size": self.video.size,
            "mtime": self.video.mtime,
            "error": self.error,
            "undecodable": self.undecodable,
        }


def _decode(video: Video, sampling: FrameSampling, resolution: int) -> _Decoded:
    crops: list[np.ndarray] = []
    info, error, undecodable = VideoInfo(), None, False
    try:
        video.path.encode()
        frames = read_frames(video.path, sampling.frames, seek=sampling.seek, limits=Limits(threads=1))
        info = frames.info
        # The encoder uses frames of this size unchanged.
        crops.extend(np.asarray(resize_and_crop(to_image(frame), resolution)) for frame in frames)
    except Clip4clipError as reason:
        error, undecodable = str(reason), _is_permanent(reason, video)
    except UnicodeEncodeError:
        error = f"{printable(video.path)}: its name is not UTF-8; rename it"
    except Exception as reason:  # a bug in a decoder must not stop the other videos
        logger.debug("%s", printable(video.path), exc_info=True)
        error = printable(f"{video.path}: {type(reason).__name__}: {reason}")
    return _Decoded(video, crops, info, error, undecodable)


def _is_permanent(error: Clip4clipError, video: Video) -> bool:
    """Return whether an error comes from the content of a file, rather than from the disk, the network or permissions.

    FFmpeg's own errors about a local file come from its content: Python reads the file.
    """
    is_system_error = isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FFmpegError)
    return isinstance(error, VideoError) and not is_system_error and not is_url(video.path)
