"""How many samples an MP4 or MOV names, counted before FFmpeg makes room for them.

A file of 4 KB can name 90 million: all of one size, in fragments that list nothing, or in an edit list that repeats
them. FFmpeg takes 24 bytes of memory for each. Box layouts: ISO 14496-12, 8.4 to 8.8.
"""

from __future__ import annotations

import io
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

PARENTS = (
    *(b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"cmov"),
    *(b"mvex", b"udta", b"wide", b"tref", b"dinf", b"tapt", b"avss"),  # whose content FFmpeg reads as boxes, too
)
# How much of a box is read; of the others nothing. Of stsc all that can matter.
HEADS = {b"hdlr": 12, b"stts": 16, b"stsz": 12, b"stz2": 12, b"stco": 8, b"co64": 8, b"elst": 8, b"tfhd": 8, b"trun": 8}
MAX_DEPTH = 10  # of boxes in boxes, as in FFmpeg
MAX_BOXES = 2_000_000  # a day in fragments of one second has half as many
MAX_COMPRESSED = 64 << 20  # bytes of a movie header that is stored compressed
FREE_EDITS = 10  # of a track; each one more may show all its samples once more
PCM_SAMPLES = 1024  # of uncompressed sound, which FFmpeg keeps as one


@dataclass
class _Track:
    samples: int = 0
    chunks: int = 0
    edits: int = 0
    handlers: set[bytes] = field(default_factory=set)
    is_one_tick: bool = True  # that each sample lasts
    per_chunk: bytes = b""

    def add(self, kind: bytes, content: bytes) -> None:
        if kind in (b"stsz", b"stz2"):
            self.samples = max(self.samples, _number(content[8:]))
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

    def entries(self) -> float:
        """How many FFmpeg makes of it."""
        count: float = self.samples
        if self.is_one_tick and b"soun" in self.handlers and b"vide" not in self.handlers:
            runs = np.frombuffer(self.per_chunk[: len(self.per_chunk) // 12 * 12], ">u4").reshape(-1, 3).astype(float)
            in_run = np.diff(runs[:, 0], append=self.chunks + 1).clip(0)
            count = float((in_run * np.ceil(runs[:, 1] / PCM_SAMPLES)).sum())
        return count * max(1, self.edits / FREE_EDITS)


def count_samples(file: BinaryIO, limit: int) -> int:
    """Return how many samples the largest track of an MP4 or MOV names; 0 for any other file.

    Args:
        file: seekable; its position changes.
        limit: counting stops once it is exceeded, and at ``MAX_BOXES`` boxes, which count as more than the limit.
    """
    tracks = [_Track()]
    in_fragments: Counter[bytes] = Counter()
    fragment_of = b""
    for number, (kind, content) in enumerate(_boxes(file, 0, file.seek(0, os.SEEK_END), 12 * limit)):
        if kind == b"trak":
            tracks.append(_Track())
        elif kind == b"tfhd":
            fragment_of = content[4:]
        elif kind == b"trun":
            in_fragments[fragment_of] += _number(content[4:])
        else:
            tracks[-1].add(kind, content)
        if number >= MAX_BOXES or in_fragments[fragment_of] > limit:
            return limit + 1
    return int(max(track.entries() for track in tracks)) + max(in_fragments.values(), default=0)


def _boxes(file: BinaryIO, start: int, end: int, longest: int, depth: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Every box between two places, parents before their children: its type, and the part of it that is read."""
    while end - start >= 8 and depth <= MAX_DEPTH:
        file.seek(start)
        head = file.read(16)
        size, kind, header = _number(head[:4]), head[4:8], 8
        if size == 1:
            size, header = _number(head[8:]), 16
        elif size == 0:
            size = end - start
        if size < header:
            return
        inside, stop = start + header, min(start + size, end)
        file.seek(inside)
        if kind == b"cmvd":  # a movie header, compressed, behind its length
            content = _decompressed(file.read(stop - inside)[4:])
            yield from _boxes(io.BytesIO(content), 0, len(content), longest, depth + 1)
        elif kind in PARENTS:
            yield kind, b""
            yield from _boxes(file, inside, stop, longest, depth + 1)
        else:
            yield kind, file.read(min(stop - inside, longest if kind == b"stsc" else HEADS.get(kind, 0)))
        start += size


def _decompressed(content: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(content, MAX_COMPRESSED)
    except zlib.error:
        return b""


def _number(content: bytes) -> int:
    return int.from_bytes(content, "big")
