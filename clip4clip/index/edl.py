"""Write what a search has found as an edit decision list in the format CMX 3600, which editing programs read.

Each hit is an event: the part of its video (the source) that is shown, and its place in the new sequence (the record).
Both are timecodes, ``hours:minutes:seconds:frames``, which count frames; here without dropped numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from ..errors import Clip4clipError, InputValueError, printable
from ..progress import Track, no_progress
from ..video.clip import source_file_name
from ..video.container import Container
from ..video.limits import DEFAULT_LIMITS, Limits
from ..video.timestamps import DEFAULT_FRAME_RATE
from .clips import padded_range
from .hit import Hit

MAX_EVENTS = 999  # an event's number has three digits
MAX_RATE = 99  # a frame's number has two digits
MAX_TITLE = 70  # characters
REEL_LENGTH = 8  # characters
DEFAULT_REEL = "AX"  # a source without a name: auxiliary
RECORD_START = 3600  # seconds: sequences begin at 01:00:00:00 by custom
DAY = 24 * 3600  # seconds, after which timecodes begin again
NTSC = Fraction(1000, 1001)  # rates such as 29.97 are whole ones times this


@dataclass
class EditList:
    """An edit decision list.

    Attributes:
        rate: frames a second.
        text: content of the file; empty if no hit can be in it.
        events: number of hits in the list.
        failed: why a hit is not in the list, by its path.
        notes: what is approximate in the list.
    """

    rate: Fraction
    text: str = ""
    events: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def rate_name(self) -> str:
        """The frame rate as editing programs write it: ``25``, ``29.97``."""
        return _name(self.rate)


@dataclass(frozen=True)
class _Clock:
    """How the time of a video counts.

    Attributes:
        rate: frames a second.
        start: time of its first frame, in seconds.
        duration: seconds; None if unknown.
        timecode: of its first frame, in frames.
        drops_frames: whether it has a timecode that leaves out numbers. It is not used.
        has_sound: whether it has sound.
    """

    rate: Fraction
    start: float
    duration: float | None
    timecode: int
    drops_frames: bool
    has_sound: bool


def parse_rate(text: str) -> Fraction:
    """Return the frame rate that a text states: ``25``, ``29.97``, ``30000/1001``.

    Raises:
        InputValueError: it is not a number from 1 to 99.
    """
    try:
        rate = standard_rate(Fraction(text))
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    return _check_rate(rate, f"{text!r}")


def standard_rate(rate: Fraction) -> Fraction:
    """Return the nearest frame rate of editing programs: a whole number, or 23.976, 29.97, 47.952 or 59.94."""
    nearest = round(rate)
    ntsc = round(rate / NTSC)
    is_ntsc = ntsc % 6 == 0 and abs(rate / NTSC - ntsc) < 0.01 < abs(rate - nearest)
    return ntsc * NTSC if is_ntsc else Fraction(nearest)


def make_edit_list(
    hits: Sequence[Hit],
    title: str,
    *,
    rate: Fraction | None = None,
    padding: float = 0.0,
    limits: Limits = DEFAULT_LIMITS,
    track: Track = no_progress,
) -> EditList:
    """Return the edit decision list of what a search has found: its moments one after the other, best first.

    A video that is gone or broken does not stop the others.

    Args:
        hits: at most 999.
        title: title of the list.
        rate: frames a second of the list; None for those of the first video.
        padding: seconds to add before and after each moment, within its video.
        limits: how much work each video may cause.
        track: shows the progress.

    Raises:
        InputValueError: there are too many hits, or the frame rate is not from 1 to 99.
    """
    if len(hits) > MAX_EVENTS:
        raise InputValueError(f"an edit list has at most {MAX_EVENTS} events, but there are {len(hits):,} hits")
    clocks: dict[str, _Clock] = {}
    failed: dict[str, str] = {}
    paths = list(dict.fromkeys(hit.path for hit in hits))
    for path in track(paths, len(paths), "reading frame rates"):
        try:
            clocks[path] = _read_clock(path, limits)
        except Clip4clipError as error:
            failed[path] = str(error)
    if rate is None:
        path, clock = next(iter(clocks.items()), ("", None))
        rate = Fraction(DEFAULT_FRAME_RATE) if clock is None else _check_rate(clock.rate, path)
    edit_list = EditList(rate, failed=failed, notes=_notes(clocks, rate))
    _write_events(edit_list, hits, title, clocks, padding)
    return edit_list


def _check_rate(rate: Fraction, name: str) -> Fraction:
    if not 1 <= rate <= MAX_RATE:
        raise InputValueError(f"{name}: the frame rate of an edit list must be a number from 1 to {MAX_RATE}, like 25")
    return rate


def _read_clock(path: str, limits: Limits) -> _Clock:
    if not path:
        raise InputValueError("the index has no path for a video, so that it cannot be in the list")
    with Container(path, limits) as container:
        stream = container.stream
        rate = standard_rate(stream.guessed_rate or stream.average_rate or Fraction(DEFAULT_FRAME_RATE))
        match = re.fullmatch(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)", container.timecode or "")
        drops_frames = match is not None and match[4] != ":"
        timecode = 0
        if match is not None and not drops_frames:
            hours, minutes, seconds, frames = (int(match[group]) for group in (1, 2, 3, 5))
            timecode = (hours * 3600 + minutes * 60 + seconds) * round(rate) + frames
        start = float(container.seconds(stream.start_time or 0))
        return _Clock(rate, start, container.duration, timecode, drops_frames, bool(container.sound))


def _notes(clocks: dict[str, _Clock], rate: Fraction) -> list[str]:
    notes = []
    for path, clock in clocks.items():
        if clock.rate != rate:
            notes.append(f"{path}: it has {_name(clock.rate)} frames a second, the list {_name(rate)}")
        if clock.drops_frames:
            notes.append(f"{path}: its timecode is drop-frame, which the list is not; its source times begin at 0")
    return notes


def _name(rate: Fraction) -> str:
    return f"{float(rate):.3f}".rstrip("0").rstrip(".")


def _write_events(
    edit_list: EditList, hits: Sequence[Hit], title: str, clocks: dict[str, _Clock], padding: float
) -> None:
    """Write the text of a list. Hits of unknown length are added to those that failed."""
    rate = edit_list.rate
    lines = [f"TITLE: {printable(title)[:MAX_TITLE]}", "FCM: NON-DROP FRAME"]
    reels = _reel_names(clocks)
    record = RECORD_START * round(rate)
    for hit in hits:
        clock = clocks.get(hit.path)
        if clock is None:
            continue
        try:
            begin, end = _source_frames(hit, clock, rate, padding)
        except InputValueError as error:
            edit_list.failed[hit.path] = str(error)
            continue
        edit_list.events += 1
        times = [begin, end, record, record + end - begin]
        record = times[-1]
        channels = "AA/V" if clock.has_sound else "V"
        timecodes = " ".join(_timecode(frame, rate) for frame in times)
        lines += [
            f"{edit_list.events:03}  {reels[hit.path]:<{REEL_LENGTH}} {channels:<5} C        {timecodes}",
            f"* FROM CLIP NAME: {printable(source_file_name(hit.path))}",
            f"* SOURCE FILE: {printable(hit.path)}",
        ]
    if edit_list.events:
        edit_list.text = "\r\n".join([*lines, ""])


def _source_frames(hit: Hit, clock: _Clock, rate: Fraction, padding: float) -> tuple[int, int]:
    """Return the first frame of a hit in its video, and the frame after its last one, at the rate of the list."""
    start, end = padded_range(hit, padding)
    if start is None or end is None:
        if clock.duration is None:
            raise InputValueError(f"{hit.path}: its length is not known, so that it cannot be in an edit list")
        start, end = clock.start, clock.start + clock.duration
    elif clock.duration is not None:
        end = max(min(end, clock.start + clock.duration), hit.end or 0.0)
    offset = round(Fraction(clock.timecode * round(rate), round(clock.rate)))
    begin = max(round(Fraction(start - clock.start) * rate), 0)
    return offset + begin, offset + max(round(Fraction(end - clock.start) * rate), begin + 1)


def _timecode(frame: int, rate: Fraction) -> str:
    """Return the timecode of a frame: ``01:00:00:00``."""
    seconds, frame = divmod(frame, round(rate))
    minutes, seconds = divmod(seconds % DAY, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}:{frame:02}"


def _reel_names(paths: Iterable[str]) -> dict[str, str]:
    """Return a name of at most eight capital letters and digits for each video, such as ``HOLIDAY``; all differ."""
    names: dict[str, str] = {}
    for path in paths:
        stem = source_file_name(path).rpartition(".")[0] or source_file_name(path)
        base = re.sub("[^A-Z0-9]", "", stem.upper())[:REEL_LENGTH] or DEFAULT_REEL
        name, number = base, 1
        while name in names.values():
            number += 1
            name = f"{base[: REEL_LENGTH - len(str(number))]}{number}"
        names[path] = name
    return names
