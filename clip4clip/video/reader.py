"""Read sampled frames from a video: open it, decode the selected frames, convert them to RGB."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import VideoError
from .container import Container
from .decode import VideoInfo, decode_frames
from .limits import DEFAULT_LIMITS, Limits
from .rgb import to_rgb
from .sampling import FrameSampling, FrameSelection, select_frames, select_sampled
from .source import Source, source_name

__all__ = ["Frame", "Frames", "VideoInfo", "read_frames", "read_sampled"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        rgb: uint8 array of shape (height, width, 3), upright.
        time: display time in seconds, as stated by the file.
        key_frame: whether the frame was decoded without any other frame.
    """

    rgb: np.ndarray
    time: float
    key_frame: bool


class Frames(Iterator[Frame]):
    """The frames of a video, decoded one by one as they are taken.

    Attributes:
        info: what is known about the video; complete once the first frame has been taken.
    """

    def __init__(self, frames: Generator[Frame, None, None], info: VideoInfo) -> None:
        self.info = info
        self._frames = frames

    def __next__(self) -> Frame:
        return next(self._frames)

    def close(self) -> None:
        """Close the video before its last frame is taken."""
        self._frames.close()


def read_frames(
    source: Source,
    num_samples: int | None = 12,
    *,
    time_step: float | None = None,
    indices: Iterable[int] | Callable[[int], Iterable[int]] | None = None,
    times: Iterable[float] | None = None,
    start_time: float | None = None,
    end_time: float | None = None,
    seek: str = "exact",
    limits: Limits = DEFAULT_LIMITS,
) -> Frames:
    """Read frames of a video, lazily, in display order, each only once.

    The cost depends on which frames are selected, not on the length of the video. If the video has fewer frames than
    are asked for, each of its frames is returned once. A still image is a video of one frame.

    Args:
        source: local path, http(s) URL, the bytes of a file, or a binary file object, which is read from its start.
        num_samples: number of frames, spread evenly: the frames at ``linspace(0, n - 1, num_samples)``, rounded down,
            of a video of n frames. None for every frame. Ignored if one of the next three arguments is given.
        time_step: seconds. Selects the first frame at or after each of the times ``start_time + k * time_step``.
        indices: frame numbers, counted from 0, or from -1 backwards; or a function from the number of frames to these.
        times: seconds. Selects the frame that is displayed at each of these times.
        start_time: seconds, as stated by the file. Frames displayed before it are treated as if they did not exist.
        end_time: seconds, likewise for frames displayed after it.
        seek: ``'exact'`` for exactly the selected frames, or ``'keyframe'`` for the key frame nearest to each, at a
            small part of the cost. If the key frames of a video are unknown, the exact frames are returned.
        limits: how much work the video may cause, and how many threads decode it.

    Returns:
        An iterator over the frames. The video is opened, and its errors are raised, when the first frame is taken.

    Raises:
        VideoNotFoundError: ``source`` does not exist.
        VideoError: ``source`` is not a supported video, has no video stream, or exceeds a limit; or none of the
            selected frames can be decoded. Damage is not an error: the frames that can be decoded are returned, and
            one warning counts what was lost.
        InputValueError: an argument has an impossible value, or the video has no frame at one of the times or
            with one of the numbers.
        InputTypeError: ``source`` or a time has the wrong type.
        UnknownNameError: ``seek`` is unknown.
    """
    selection = select_frames(
        num_samples,
        time_step=time_step,
        indices=indices,
        times=times,
        start_time=start_time,
        end_time=end_time,
        seek=seek,
    )
    source_name(source)  # raises InputTypeError at once
    info = VideoInfo()
    return Frames(_read(source, selection, limits, info), info)


def read_sampled(source: Source, sampling: FrameSampling, limits: Limits = DEFAULT_LIMITS) -> Frames:
    """Read the frames that represent a video or its segments, lazily, in display order, each only once.

    Args:
        source: as for :func:`read_frames`.
        sampling: which frames these are. ``Frames.info.is_cut`` says whether they are those of a video that is cut,
            once the first frame has been taken.
        limits: as for :func:`read_frames`.

    Raises:
        VideoNotFoundError, VideoError, InputTypeError: as for :func:`read_frames`.
    """
    source_name(source)  # raises InputTypeError at once
    info = VideoInfo()

    def set_is_cut(seconds: float) -> None:
        info.is_cut = sampling.cuts(seconds)

    return Frames(_read(source, select_sampled(sampling, set_is_cut), limits, info), info)


def _read(source: Source, selection: FrameSelection, limits: Limits, info: VideoInfo) -> Generator[Frame, None, None]:
    with Container(source, limits) as container:
        info.duration = container.duration
        is_empty = True
        for time, frame in decode_frames(container, selection, info):
            yield Frame(to_rgb(frame), time, bool(frame.key_frame))
            is_empty = False
        if is_empty:
            raise _no_frame_error(container, selection)
        _warn_of_faults(container)


def _no_frame_error(container: Container, selection: FrameSelection) -> VideoError:
    if not container.stream.width:
        return VideoError(
            f"{container.name}: no frame of its video stream can be decoded, or all are over the limit of "
            f"{container.limits.pixels:,} pixels"
        )
    if selection.choose is None:
        return VideoError(f"{container.name}: no frame of its video stream can be decoded")
    return VideoError(f"{container.name}: none of the selected frames can be decoded: the file is cut off or damaged")


def _warn_of_faults(container: Container) -> None:
    """Log one warning that lists everything that is wrong with a video whose frames could be read."""
    faults = []
    if container.damage:
        faults.append(f"it is damaged, and {container.damage} of its packets or frames are lost or altered")
    if container.has_wrong_times:
        faults.append("its time stamps are missing, repeat or fall, so its frames got corrected times")
    if faults:
        logger.warning("%s: %s", container.name, "; ".join(faults))
