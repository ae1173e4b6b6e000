"""Videos to rows on this machine: the next ones are decoded while the model runs."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..encoder import VideoEncoder
from ..errors import Clip4clipError, printable
from ..preprocess import resize_and_crop, to_image
from ..runtime.placement import available_cores
from ..video.limits import Limits
from ..video.reader import VideoInfo, read_frames
from .sources import Video, shown

logger = logging.getLogger(__name__)

VIDEOS_AT_ONCE = 8  # that the model takes together

Row = dict[str, Any]


def embed_videos(
    videos: Iterable[Video], encoder: VideoEncoder, frames: int = 12, seek: str = "exact", workers: int | None = None
) -> Iterator[Row]:
    """Rows of a table, without ``model`` and ``fingerprint``, in the order of the videos.

    While the model runs, the next videos are decoded: at most three batches of them are in memory, already cropped to
    what the model takes. What is wrong with a video is told in its row.

    Args:
        videos: to embed.
        encoder: of the model.
        frames: to take of each.
        seek: ``'exact'`` or ``'keyframe'``.
        workers: videos that are decoded at once, each by one thread; None for one per core.
    """
    left = iter(videos)
    with ThreadPoolExecutor(workers or available_cores(), thread_name_prefix="clip4clip-videos") as pool:
        ahead = deque(
            pool.submit(_decode, video, frames, seek, encoder.config.resolution)
            for video in itertools.islice(left, 2 * VIDEOS_AT_ONCE)
        )
        try:
            while ahead:
                batch = [ahead.popleft().result() for _ in range(min(VIDEOS_AT_ONCE, len(ahead)))]
                for video in itertools.islice(left, len(batch)):
                    ahead.append(pool.submit(_decode, video, frames, seek, encoder.config.resolution))
                found = [decoded.frames for decoded in batch if decoded.error is None]
                vectors = iter(encoder(found) if found else ())
                for decoded in batch:
                    yield decoded.row(None if decoded.error else next(vectors))
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Decoded:
    video: Video
    frames: list[np.ndarray]
    info: VideoInfo
    error: str | None

    def row(self, vector: np.ndarray | None) -> Row:
        return {
            "id": self.video.id,
            "path": shown(self.video.path),
            "vector": vector,
            "duration": self.info.duration,
            "frame_count": self.info.frame_count,
            "size": self.video.size,
            "mtime": self.video.mtime,
            "error": self.error,
        }


def _decode(video: Video, count: int, seek: str, resolution: int) -> _Decoded:
    crops: list[np.ndarray] = []
    info, error = VideoInfo(), None
    try:
        video.path.encode()
        frames = read_frames(video.path, count, seek=seek, limits=Limits(threads=1))
        info = frames.info
        # The encoder leaves frames of this very size as they are.
        crops.extend(np.asarray(resize_and_crop(to_image(frame), resolution)) for frame in frames)
    except Clip4clipError as reason:
        error = str(reason)
    except UnicodeEncodeError:
        error = f"{printable(video.path)}: its name is not UTF-8; rename it"
    except Exception as reason:  # one bad file must not stop ten thousand good ones
        logger.debug("%s", printable(video.path), exc_info=True)
        error = printable(f"{video.path}: {type(reason).__name__}: {reason}")
    return _Decoded(video, crops, info, error)
