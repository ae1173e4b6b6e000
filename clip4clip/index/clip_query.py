"""Search by a clip: its frames to the vectors to search for, and the results of several vectors to one."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ..encoder import MAX_BATCH_FRAMES, VideoEncoder
from ..library.segments import Segment, Segmenter, is_uniform
from ..preprocess import crop_frame
from ..video.image import read_image
from ..video.limits import DEFAULT_LIMITS, Limits
from ..video.moments import choose_moments
from ..video.reader import Frame, read_sampled
from ..video.sampling import FrameSampling
from ..video.source import Source
from .hit import Hit


def embed_clip(
    clip: Source, encoder: VideoEncoder, sampling: FrameSampling, limits: Limits = DEFAULT_LIMITS
) -> list[np.ndarray]:
    """Return the vectors to search for: of the whole clip or, if it has more than 30 seconds, of each segment.

    Args:
        clip: local path, http(s) URL, the bytes of a file, or a binary file object. It may also be an image.
        encoder: encoder of the model.
        sampling: how the videos of the index are cut. If they are not, the clip is not cut either.
        limits: how much work decoding may take.

    Returns:
        float32 arrays of shape (D,), norm 1; at least one. Segments of one colour are left out if there are others.

    Raises:
        VideoNotFoundError, VideoError, InputTypeError: ``clip`` cannot be read.
    """
    image = read_image(clip, limits)
    if image is not None:
        return [encoder([image])]
    cuts = "whole" if sampling.segments == "whole" else "auto"
    with contextlib.closing(read_sampled(clip, dataclasses.replace(sampling, segments=cuts), limits)) as frames:
        first = next(frames)  # from now on it is known whether the clip is cut
        every_frame = itertools.chain([first], frames)
        if not frames.info.is_cut:
            return [encoder(every_frame)]
        segmenter = Segmenter(sampling, encoder.head)
        segments = [segment for chunk in _chunks(every_frame) for segment in _add(segmenter, chunk, encoder)]
        segments += segmenter.finish(frames.info.duration)
    vectors = [segment.vector for segment in segments if not segment.is_uniform]
    return vectors or [segment.vector for segment in segments]


def _chunks(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
    while chunk := list(itertools.islice(frames, MAX_BATCH_FRAMES)):
        yield chunk


def _add(segmenter: Segmenter, frames: Sequence[Frame], encoder: VideoEncoder) -> list[Segment]:
    """Embed the next frames of a clip, and return the segments that are complete."""
    crops = [crop_frame(frame, encoder.config.resolution, encoder.config.image) for frame in frames]
    times, uniform = np.array([frame.time for frame in frames]), np.array([is_uniform(crop) for crop in crops])
    return segmenter.add(times, encoder.frame_embeddings(crops), uniform)


def merge_hits(results: Iterable[Sequence[Hit]], limit: int, per_video: int | None) -> list[Hit]:
    """Return the best hits of several searches as one result. Each moment gets its best score.

    Args:
        results: hits of each search, the best first.
        limit: largest number of hits.
        per_video: largest number of hits of each video; None for any.
    """
    best: dict[object, Hit] = {}
    for hit in itertools.chain.from_iterable(results):
        if hit.id not in best or hit.score > best[hit.id].score:
            best[hit.id] = hit
    hits = sorted(best.values(), key=lambda hit: -hit.score)
    chosen = choose_moments(((hit.video, hit.start, hit.end) for hit in hits), per_video)
    return [hits[position] for position in chosen[:limit]]
