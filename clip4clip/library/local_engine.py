"""Embed videos on this machine, and decode the next frames while the model runs.

Videos that are not cut have few frames: they are decoded first, and embedded several at a time. The frames of a video
that is cut are embedded in chunks while it is decoded, so memory does not grow with its length.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import numpy as np
from av.error import FFmpegError

from ..config import CLIPConfig
from ..encoder import MAX_BATCH_FRAMES, VideoEncoder
from ..errors import Clip4clipError, VideoError, printable
from ..preprocess import crop_frame
from ..runtime.normalize import l2_normalize
from ..runtime.placement import available_cores
from ..video.limits import Limits
from ..video.reader import Frame, VideoInfo, read_sampled
from ..video.sampling import DEFAULT_SAMPLING, FrameSampling
from ..video.source import is_url
from .segments import Segment, Segmenter, is_uniform, segment_id
from .sources import Video, display_path

logger = logging.getLogger(__name__)

BATCH_SIZE = 8  # videos that are not cut and that the model embeds together
MAX_WAITING_CHUNKS = 4  # chunks of frames of videos that are cut, decoded and not yet embedded

Row = dict[str, Any]
ReportPosition = Callable[[Video, float, float | None], object]
"""Called again and again while a video that is cut is embedded: with the video, the seconds of it that are done, and
its duration in seconds, or None if the file does not state it."""


def embed_videos(
    videos: Iterable[Video],
    encoder: VideoEncoder,
    sampling: FrameSampling = DEFAULT_SAMPLING,
    workers: int | None = None,
    report_position: ReportPosition | None = None,
) -> Iterator[list[Row]]:
    """Yield the rows of each video, all together, without the columns ``model`` and ``fingerprint``.

    :meth:`clip4clip.library.table.TableSpec.schema` describes the columns. A video that is not cut has one row; one
    that is cut has a row for each segment, in order. A video that fails does not stop the others: it has one row with
    an ``error`` and no vector, even if some of its segments were complete. ``undecodable``, which is not a column of
    the table, says whether the video is a file that was opened and cannot be decoded: another attempt would fail as
    well, unless the file changes.

    Videos that are not cut come in the order of ``videos``. A video that is cut comes as soon as it is complete: it
    does not hold up the others, and an interruption costs only videos that are not complete.

    While the model runs, the next frames are decoded. Three batches of ``BATCH_SIZE`` videos that are not cut are in
    memory at most. Of videos that are cut, there are ``MAX_WAITING_CHUNKS`` chunks of 32 frames and one more for each
    worker, however long they are. Frames in memory are already cropped to the size that the model takes.

    Args:
        videos: videos to embed.
        encoder: encoder of the model.
        sampling: how each video is cut, and which of its frames are embedded.
        workers: number of threads that decode, each another video, or several the same where fewer videos are left;
            None for one per core.
        report_position: callback for the progress within a video that is cut. It runs in the caller's thread.
    """
    remaining = iter(videos)
    waiting: deque[_Job] = deque()  # in order, without those that are known to be cut
    cut: dict[_Job, _CutVideo] = {}
    with _Decoders(sampling, encoder.config, workers or available_cores()) as decoders:
        waiting += decoders.start(itertools.islice(remaining, 2 * BATCH_SIZE))
        while waiting or cut:
            decoded = decoders.next()
            job = decoded.job
            if not job.is_cut:
                job.frames = decoded
            else:
                if job not in cut:
                    waiting.remove(job)
                    waiting += decoders.start(itertools.islice(remaining, 1))
                    cut[job] = _CutVideo(job, encoder, Segmenter(sampling, encoder.head))
                cut[job].add(decoded, report_position)
                if decoded.is_end:
                    yield cut.pop(job).rows()
            while batch := _take_batch(waiting):
                waiting += decoders.start(itertools.islice(remaining, len(batch)))
                yield from _embed_batch(batch, encoder)


@dataclass(eq=False)
class _Job:
    """A video in work. A thread decodes it.

    Attributes:
        video: the video.
        is_cut: whether its frames come in chunks, to be pooled into segments.
        info: what is known about it; complete once its first frame has been decoded.
        error: why it failed; None unless it did.
        undecodable: see :func:`embed_videos`.
        frames: all its frames, if it is not cut and decoded.
    """

    video: Video
    is_cut: bool = False
    info: VideoInfo = field(default_factory=VideoInfo)
    error: str | None = None
    undecodable: bool = False
    frames: _Decoded | None = None

    def row(self, vector: np.ndarray | None) -> Row:
        """Return the row of the whole video."""
        return {
            "id": self.video.id,
            "video": self.video.id,
            "path": display_path(self.video.path),
            "start": None,
            "end": None,
            "vector": vector,
            "duration": self.info.duration,
            "frame_count": self.info.frame_count,
            "uniform": False,
            "size": self.video.size,
            "mtime": self.video.mtime,
            "error": self.error,
            "undecodable": self.undecodable,
        }


@dataclass
class _Decoded:
    """Cropped frames of a video: all, or the next ones of a video that is cut.

    Attributes:
        job: the video.
        crops: uint8 arrays of shape (R, R, 3).
        times: display times of the frames in seconds.
        uniform: whether each frame has one colour; only of a video that is cut.
        is_end: whether no more frames follow, because the video is complete or has failed.
    """

    job: _Job
    crops: list[np.ndarray] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    uniform: list[bool] = field(default_factory=list)
    is_end: bool = False

    def append(self, frame: Frame, config: CLIPConfig) -> None:
        """Resize one more frame to the square that the model takes. The encoder uses frames of this size unchanged."""
        crop = crop_frame(frame, config.resolution, config.image)
        self.crops.append(crop)
        self.times.append(frame.time)
        if self.job.is_cut:
            self.uniform.append(is_uniform(crop))


def _take_batch(waiting: deque[_Job]) -> list[_Job]:
    """Take the next videos that are embedded together if all of them are decoded; otherwise none."""
    batch = list(itertools.islice(waiting, BATCH_SIZE))
    if any(job.frames is None for job in batch):
        return []
    for _ in batch:
        waiting.popleft()
    return batch


def _embed_batch(batch: Sequence[_Job], encoder: VideoEncoder) -> Iterator[list[Row]]:
    """Embed videos that are not cut, and yield the row of each."""
    videos = [job.frames.crops for job in batch if job.frames and job.error is None]
    vectors = iter(encoder(videos) if videos else ())
    for job in batch:
        yield [job.row(next(vectors) if job.error is None else None)]


class _CutVideo:
    """A video that is cut: its frames become segments as they are decoded."""

    def __init__(self, job: _Job, encoder: VideoEncoder, segmenter: Segmenter) -> None:
        self._job, self._encoder, self._segmenter = job, encoder, segmenter
        self._segments: list[Segment] = []
        self._start: float | None = None  # display time of the first frame, which is not 0 in every file

    def add(self, decoded: _Decoded, report_position: ReportPosition | None) -> None:
        """Embed the next frames, unless the video has failed."""
        job = self._job
        if job.error is not None:
            return
        if decoded.crops:
            embeddings = self._encoder.frame_embeddings(decoded.crops)
            times, uniform = np.array(decoded.times), np.array(decoded.uniform)
            self._segments += self._segmenter.add(times, embeddings, uniform)
            self._start = decoded.times[0] if self._start is None else self._start
            if report_position is not None:
                report_position(job.video, decoded.times[-1] - self._start, job.info.duration)
        if decoded.is_end:
            self._segments += self._segmenter.finish(job.info.duration)

    def rows(self) -> list[Row]:
        """Return the rows of the video, which is complete or has failed."""
        job, segments = self._job, self._segments
        if job.error is not None:
            return [job.row(None)]
        if all(segment.is_uniform for segment in segments):  # the video must have some vector
            vector = l2_normalize(np.sum([segment.vector for segment in segments], axis=0))
            return [job.row(vector) | {"uniform": True}]
        return [
            job.row(None if segment.is_uniform else segment.vector)
            | {
                "id": segment_id(job.video.id, segment.start, segment.end),
                "start": segment.start,
                "end": segment.end,
                "uniform": segment.is_uniform,
            }
            for segment in segments
        ]


class _Decoders:
    """Threads that decode videos, each one video at a time."""

    def __init__(self, sampling: FrameSampling, config: CLIPConfig, threads: int) -> None:
        self._sampling, self._config, self._threads = sampling, config, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="clip4clip-videos")
        self._queue: SimpleQueue[_Decoded] = SimpleQueue()
        self._free_chunks = threading.Semaphore(MAX_WAITING_CHUNKS)
        self._in_work = 0  # videos
        self._is_closed = False

    def __enter__(self) -> _Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        self._free_chunks.release(self._threads)  # one for each thread that may be waiting
        self._pool.shutdown(cancel_futures=True)

    def start(self, videos: Iterable[Video]) -> list[_Job]:
        """Decode more videos as soon as threads are free."""
        jobs = [_Job(video) for video in videos]
        self._in_work += len(jobs)
        for job in jobs:
            self._pool.submit(self._decode, job)
        return jobs

    def next(self) -> _Decoded:
        """Wait for the next frames of any video that is cut, or for all frames of another one."""
        decoded = self._queue.get()
        if decoded.job.is_cut:
            self._free_chunks.release()
        self._in_work -= decoded.is_end
        return decoded

    def _decode(self, job: _Job) -> None:
        """Decode a video to its end, or until it fails."""
        decoded = _Decoded(job)
        try:
            job.video.path.encode()
            for frame in self._read(job):
                if job.is_cut and len(decoded.crops) == MAX_BATCH_FRAMES:
                    self._send(decoded)
                    decoded = _Decoded(job)
                decoded.append(frame, self._config)
        except Clip4clipError as reason:
            job.error, job.undecodable = str(reason), _is_permanent(reason, job.video)
        except UnicodeEncodeError:
            job.error = f"{printable(job.video.path)}: its name is not UTF-8; rename it"
        except Exception as reason:  # a bug in a decoder must not stop the other videos
            logger.debug("%s", printable(job.video.path), exc_info=True)
            job.error = printable(f"{job.video.path}: {type(reason).__name__}: {reason}")
        decoded.is_end = True
        self._send(decoded)

    def _read(self, job: _Job) -> Iterator[Frame]:
        """Yield the frames of a video, and find out whether it is cut."""
        threads = max(self._threads // max(self._in_work, 1), 1)
        frames = read_sampled(job.video.path, self._sampling, Limits(threads=threads))
        job.info = frames.info
        with contextlib.closing(frames):
            for number, frame in enumerate(frames):
                if not number and frames.info.is_cut:
                    job.is_cut = True
                    self._send(_Decoded(job))  # so that the videos behind it need not wait
                if self._is_closed:
                    return
                yield frame

    def _send(self, decoded: _Decoded) -> None:
        if decoded.job.is_cut and not self._is_closed:
            self._free_chunks.acquire()
        self._queue.put(decoded)


def _is_permanent(error: Clip4clipError, video: Video) -> bool:
    """Return whether an error comes from the content of a file, rather than from the disk, the network or permissions.

    FFmpeg's own errors about a local file come from its content: Python reads the file.
    """
    is_system_error = isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FFmpegError)
    return isinstance(error, VideoError) and not is_system_error and not is_url(video.path)
