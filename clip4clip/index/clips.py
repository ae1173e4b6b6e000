"""Cut what a search has found out of its videos: a file for each hit."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..errors import Clip4clipError
from ..progress import Track, no_progress
from ..video.clip import clip_ending, source_file_name, write_clip
from ..video.limits import DEFAULT_LIMITS, Limits
from .hit import Hit

# Not allowed in file names of Windows, or with a meaning elsewhere; and marks that change the direction of text.
_UNSAFE = re.compile('[<>:"/\\\\|?*\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
MAX_NAME_BYTES = 150  # of the video's name in the name of a clip; file systems allow 255 in all
WAIT_SECONDS = 0.2  # between two looks whether a clip is finished; Windows delivers Ctrl-C only between them


@dataclass
class ClipReport:
    """The files that were cut out, and those that were not.

    Attributes:
        saved: the files, in the order of the hits.
        failed: why there is no file for a hit, by the name that it would have had.
    """

    saved: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def save_clips(
    hits: Sequence[Hit],
    folder: str | os.PathLike[str],
    *,
    exact: bool = False,
    padding: float = 0.0,
    limits: Limits = DEFAULT_LIMITS,
    report: ClipReport | None = None,
    track: Track = no_progress,
) -> ClipReport:
    """Cut moments out of their videos. A hit that is a whole video is copied whole.

    A video that is gone or broken does not stop the others. A file that exists already is never replaced.

    Args:
        hits: what a search has found, best first.
        folder: gets a file for each hit, ``01 holiday 12.30-12.45.mp4``; created if it does not exist.
        exact: re-encode each clip, to the frame, as by :func:`clip4clip.video.clip.write_clip`.
        padding: seconds to add before and after each moment.
        limits: how much work each video may cause.
        report: is filled while the work goes on, so that it can be read after an interrupt.
        track: shows the progress.

    Raises:
        OSError: the folder or a file cannot be written.
        KeyboardInterrupt: the unfinished file is discarded.
    """
    report = report or ClipReport()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    digits = max(len(str(len(hits))), 2)
    stopped = threading.Event()
    # In a thread: PyAV would swallow the KeyboardInterrupt of Ctrl-C in the main thread, and the file would be cut off.
    with ThreadPoolExecutor(1) as pool:
        try:
            for number, hit in enumerate(track(hits, len(hits), "cutting"), 1):
                output = folder / f"{number:0{digits}} {clip_name(hit, exact)}"
                problem = _problem(hit, output)
                if problem is None:
                    start, end = padded_range(hit, padding)
                    write = partial(write_clip, exact=exact, limits=limits, stopped=stopped)
                    problem = _error(pool.submit(write, hit.path, output, start, end))
                if problem is None:
                    report.saved.append(output)
                else:
                    report.failed[output.name] = problem
        finally:
            stopped.set()
    return report


def clip_name(hit: Hit, exact: bool = False) -> str:
    """Return the file name of a clip, without its number: ``holiday 12.30-12.45.mp4``.

    It is valid on every system, and names no other folder, whatever the path of the video is.
    """
    source = hit.path or str(hit.id)
    name = source_file_name(source)
    stem = (
        _UNSAFE.sub("_", Path(name).stem).encode(errors="replace")[:MAX_NAME_BYTES].decode(errors="ignore").strip(" .")
    )
    times = hit.time_range.replace(":", ".").replace("–", "-")
    return " ".join(part for part in (stem or "video", times) if part) + clip_ending(source, exact)


def padded_range(hit: Hit, padding: float) -> tuple[float | None, float | None]:
    """Return start and end of a hit in seconds, with so many more on either side; None for those of a whole video."""
    if hit.start is None or hit.end is None:
        return None, None
    return max(hit.start - padding, min(hit.start, 0.0)), hit.end + padding


def _problem(hit: Hit, output: Path) -> str | None:
    """Return why a hit cannot be cut out into a file; None if it can be tried."""
    if not hit.path:
        return f"{output.name}: the index has no path for the video {hit.id!r}"
    if output.exists():
        return f"{output}: this file exists already. Delete it, or choose another folder"
    return None


def _error(result: Future[None]) -> str | None:
    """Wait for a clip. Return why it cannot be written, if that is due to its video; raise any other error."""
    while not result.done():
        wait([result], WAIT_SECONDS)
    try:
        result.result()
    except Clip4clipError as error:
        return str(error)
    return None
