"""How many samples an MP4 or MOV names, counted before FFmpeg makes room for them.

A file of 4 KB can name 90 million: all of one size, in fragments that list nothing, or in an edit list that repeats
them. FFmpeg takes 24 bytes of memory for each. Box layouts: ISO 14496-12, 8.4 to 8.9.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

PARENTS = (
    *(b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"cmov"),
    # Whose content FFmpeg reads as boxes, too. It looks for a movie header in free and hoov.
    *(b"mvex", b"udta", b"wide", b"tref", b"dinf", b"avss", b"ilst", b"sinf", b"schi", b"wave", b"iprp", b"ipco"),
    *(b"free", b"hoov"),
)
# How much of a box is read; of the others nothing.
HEADS = {b"hdlr": 12, b"stts": 16, b"stsz": 12, b"stz2": 12, b"stco": 8, b"co64": 8, b"elst": 8, b"tfhd": 8, b"trun": 8}
HEADS |= {b"senc": 8, b"sgpd": 20}
LONGEST_HEAD = 16 + max(HEADS.values())  # with size and type
TABLES = (b"stsc", b"ctts", b"sbgp")  # of which all is read that can matter
MAX_DEPTH = 12  # of boxes in boxes; FFmpeg stops at 10
MAX_BOXES = 2_000_000  # a day in fragments of one second has half as many
MAX_COMPRESSED = 64 << 20  # bytes of a movie header that is stored compressed
MAX_TRACKS = 8  # as large as the limit allows one; smaller ones may be more
FREE_EDITS = 10  # of a track; each one more may show all its samples once more
PCM_SAMPLES = 1024  # of uncompressed sound, which FFmpeg keeps as one
PIECE = 1 << 20  # bytes that are searched at once
_HDLR, _TABLES = re.compile(b"hdlr"), re.compile(b"|".join((*HEADS, *TABLES)))


class _TooManyError(Exception):
    """Ends the count of a file that no honest program writes."""


@dataclass
class _Track:
    samples: int = 0
    chunks: int = 0
    edits: int = 0
    handlers: set[bytes] = field(default_factory=set)
    is_one_tick: bool = True  # that each sample lasts
    per_chunk: bytes = b""
    others: int = 0  # entries of other tables, which FFmpeg makes room for, too
    is_grouped: bool = False  # so that it lists every sample of the groups and of the time offsets
    grouped: int = 0

    def add(self, kind: bytes, content: bytes) -> None:
        if kind in (b"stsz", b"stz2"):
            self.samples = max(self.samples, _number(content[8:]))
        elif kind == b"senc":
            self.others = max(self.others, _number(content[4:]))
        elif kind in (b"stco", b"co64"):
            self.chunks = max(self.chunks, _number(content[4:]))
        elif kind == b"elst":
            self.edits = max(self.edits, _number(content[4:]))
        elif kind == b"hdlr":
            self.handlers.add(content[8:])
        elif kind == b"stts":
            self.is_one_tick &= _number(content[4:8]) == _number(content[12:]) == 1
        elif kind == b"stsc":
            self.per_chunk = max(self.per_chunk, content[8:], key=len)
        elif kind == b"ctts":
            self.grouped = max(self.grouped, int(_columns(content[8:], 2)[:, 0].sum()))
        elif kind == b"sbgp" and content[4:8] == b"sync":
            self.is_grouped = True
            start = 16 if content[0] == 1 else 12  # by its version
            self.grouped = max(self.grouped, int(_columns(content[start:], 2)[:, 0].sum()))
        elif kind == b"sgpd" and content[4:8] == b"sync":
            start = 8 + 4 * min(content[0], 2)
            self.others = max(self.others, _number(content[start : start + 4]))

    def entries(self) -> float:
        """How many FFmpeg makes of it."""
        count: float = self.samples
        if self.is_one_tick and b"soun" in self.handlers and b"vide" not in self.handlers:
            runs = _columns(self.per_chunk, 3)
            in_run = np.diff(runs[:, 0], append=self.chunks + 1).clip(0)
            count = float((in_run * np.ceil(runs[:, 1] / PCM_SAMPLES)).sum())
        return max(count * max(1, self.edits / FREE_EDITS), self.others, self.grouped if self.is_grouped else 0)


def count_samples(file: BinaryIO, limit: int) -> int:
    """Return how many samples the largest track of an MP4 or MOV names; 0 for any other file.

    Args:
        file: seekable; its position changes.
        limit: of one track. What exceeds it, or more boxes, tracks or compressed bytes than an honest program writes,
            counts as ``limit + 1``, and counting stops.
    """
    tracks = [_Track()]
    in_fragments: Counter[bytes] = Counter()
    fragment_of = b""
    compressed = 0
    try:
        for number, (kind, content) in enumerate(_boxes(file, 0, file.seek(0, os.SEEK_END), 12 * limit)):
            if kind == b"trak":
                tracks.append(_Track())
            elif kind == b"tfhd":
                fragment_of = content[4:]
            elif kind == b"trun":
                in_fragments[fragment_of] += _number(content[4:])
            elif kind == b"cmvd":
                compressed += 1
            else:
                tracks[-1].add(kind, content)
            if number >= MAX_BOXES or in_fragments[fragment_of] > limit or compressed > 1:
                return limit + 1
    except _TooManyError:
        return limit + 1
    entries = [track.entries() for track in tracks]
    if sum(entries) + in_fragments.total() > MAX_TRACKS * limit:
        return limit + 1
    return int(max(entries)) + max(in_fragments.values(), default=0)


def _boxes(file: BinaryIO, start: int, end: int, longest: int, depth: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Every box between two places, parents before their children: its type, and the part of it that is read."""
    while end - start >= 8 and depth <= MAX_DEPTH:
        file.seek(start)
        head = file.read(LONGEST_HEAD)
        size, kind, header = _number(head[:4]), head[4:8], 8
        if size == 1:
            size, header = _number(head[8:16]), 16
        elif size == 0:
            size = end - start
        if size < header:
            return
        inside, stop = start + header, min(start + size, end)
        if kind in TABLES:
            file.seek(inside)
            yield kind, file.read(min(stop - inside, longest))
        else:
            yield kind, head[header : min(header + HEADS.get(kind, 0), stop - start)]
        if kind in PARENTS:
            yield from _boxes(file, inside, stop, longest, depth + 1)
        elif kind == b"meta":  # FFmpeg looks for its first box, too
            places = (place for place in _find(_HDLR, file, inside, stop) if (place - inside) % 4 == 0)
            if (place := next(places, None)) is not None:
                yield from _boxes(file, place - 4, stop, longest, depth + 1)
        elif kind == b"stsd" and any(_find(_TABLES, file, inside, stop)):
            raise _TooManyError  # FFmpeg would read them behind the fields of a codec; nobody else writes them there
        elif kind == b"cmvd":  # a movie header, compressed, behind its length
            file.seek(inside)
            content = _decompressed(file.read(min(stop - inside, MAX_COMPRESSED))[4:])
            yield from _boxes(io.BytesIO(content), 0, len(content), longest, depth + 1)
        start += size


def _find(types: re.Pattern[bytes], file: BinaryIO, start: int, stop: int) -> Iterator[int]:
    """Where a type of box stands between two places, whatever surrounds it."""
    for begin in range(start, stop, PIECE):
        file.seek(begin)
        for found in types.finditer(file.read(min(PIECE + 3, stop - begin))):
            yield begin + found.start()


def _decompressed(content: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        found = decompressor.decompress(content, MAX_COMPRESSED)
    except zlib.error:
        return b""
    if decompressor.unconsumed_tail:
        raise _TooManyError
    return found


def _columns(content: bytes, count: int) -> np.ndarray:
    """A table of 32-bit numbers, of which the last row may be cut off."""
    width = 4 * count
    return np.frombuffer(content[: len(content) // width * width], ">u4").reshape(-1, count).astype(float)


def _number(content: bytes) -> int:
    return int.from_bytes(content, "big")
