"""Count how many samples an MP4 or MOV file declares, before FFmpeg allocates memory for them.

A sample is one frame or one piece of sound. FFmpeg allocates 24 bytes for each, and a file of 4 KB can declare 90
million: all of one size, in fragments that list nothing, or by an edit list that repeats them. Box layouts: ISO
14496-12, sections 8.4 to 8.9.
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

PARENT_BOXES = (
    *(b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"cmov"),
    # FFmpeg reads the content of these as boxes, too. It looks for a movie header in free and hoov.
    *(b"mvex", b"udta", b"wide", b"tref", b"dinf", b"avss", b"ilst", b"sinf", b"schi", b"wave", b"iprp", b"ipco"),
    *(b"free", b"hoov"),
)
# Boxes of which only the first bytes are read, and how many bytes.
HEAD_BYTES = {b"hdlr": 12, b"stts": 16, b"stsz": 12, b"stz2": 12, b"stco": 8, b"co64": 8, b"elst": 8}
HEAD_BYTES |= {b"tfhd": 8, b"trun": 8, b"senc": 8, b"sgpd": 20}
MAX_HEADER = 16  # bytes of size and type in front of a box's content
MAX_HEAD = MAX_HEADER + max(HEAD_BYTES.values())
TABLE_BOXES = (b"stsc", b"ctts", b"sbgp")  # read as far as their rows can matter
MAX_DEPTH = 12  # levels of nested boxes; FFmpeg stops at 10
MAX_BOXES = 2_000_000  # a day in fragments of one second has half as many
MAX_COMPRESSED_HEADER = 64 << 20  # bytes of a movie header that is stored compressed
MAX_TRACKS = 8  # with as many samples as the limit allows; a file may have more if they are smaller
FREE_EDITS = 10  # entries of a track's edit list; each further one may repeat all samples of the track
PCM_SAMPLES = 1024  # samples of uncompressed sound that FFmpeg keeps as one
SEARCH_BYTES = 1 << 20  # searched at a time
_HDLR = re.compile(b"hdlr")
_COUNTED_BOXES = re.compile(b"|".join((*HEAD_BYTES, *TABLE_BOXES)))


class _TooManyError(Exception):
    """Raised to stop counting: the file has a structure that no honest program writes."""


@dataclass
class _Track:
    """What the boxes of one track declare.

    Attributes:
        samples: number of samples.
        chunks: number of chunks, in which samples are stored.
        edits: number of entries of the edit list.
        handlers: types of media: ``b"vide"`` for video, ``b"soun"`` for sound.
        is_one_tick: whether each sample lasts one tick of the track's clock, as in uncompressed sound.
        chunk_runs: table of 32-bit numbers with three columns: first chunk of a run, samples per chunk, description.
        other_entries: largest number of entries of other tables that FFmpeg allocates memory for.
        has_sync_groups: whether a table groups samples by sync point. FFmpeg then lists each sample of the groups and
            of the time offsets.
        listed_samples: largest number of samples in these two tables.
    """

    samples: int = 0
    chunks: int = 0
    edits: int = 0
    handlers: set[bytes] = field(default_factory=set)
    is_one_tick: bool = True
    chunk_runs: bytes = b""
    other_entries: int = 0
    has_sync_groups: bool = False
    listed_samples: int = 0

    def add(self, box_type: bytes, content: bytes) -> None:
        """Read one more box of the track."""
        if box_type in (b"stsz", b"stz2"):
            self.samples = max(self.samples, _number(content[8:]))
        elif box_type == b"senc":
            self.other_entries = max(self.other_entries, _number(content[4:]))
        elif box_type in (b"stco", b"co64"):
            self.chunks = max(self.chunks, _number(content[4:]))
        elif box_type == b"elst":
            self.edits = max(self.edits, _number(content[4:]))
        elif box_type == b"hdlr":
            self.handlers.add(content[8:])
        elif box_type == b"stts":
            self.is_one_tick &= _number(content[4:8]) == _number(content[12:]) == 1
        elif box_type == b"stsc":
            self.chunk_runs = max(self.chunk_runs, content[8:], key=len)
        elif box_type == b"ctts":
            self._add_listed_samples(content[8:])
        elif box_type == b"sbgp" and content[4:8] == b"sync":
            self.has_sync_groups = True
            version = content[0]
            self._add_listed_samples(content[16 if version == 1 else 12 :])
        elif box_type == b"sgpd" and content[4:8] == b"sync":
            version = content[0]
            start = 8 + 4 * min(version, 2)
            self.other_entries = max(self.other_entries, _number(content[start : start + 4]))

    def _add_listed_samples(self, rows: bytes) -> None:
        self.listed_samples = max(self.listed_samples, int(_table(rows, 2)[:, 0].sum()))

    def entry_count(self) -> float:
        """Return how many entries FFmpeg allocates for the track."""
        count: float = self.samples
        if self.is_one_tick and b"soun" in self.handlers and b"vide" not in self.handlers:
            runs = _table(self.chunk_runs, 3)
            chunks_in_run = np.diff(runs[:, 0], append=self.chunks + 1).clip(0)
            count = float((chunks_in_run * np.ceil(runs[:, 1] / PCM_SAMPLES)).sum())
        count *= max(1, self.edits / FREE_EDITS)
        return max(count, self.other_entries, self.listed_samples if self.has_sync_groups else 0)


def count_samples(file: BinaryIO, limit: int) -> int:
    """Return how many samples the largest track of an MP4 or MOV file declares; 0 for any other file.

    Args:
        file: a seekable binary file. Its position changes.
        limit: most samples of one track. Counting stops above it, and at more boxes, tracks or compressed bytes than an
            honest program writes; the result is ``limit + 1`` then.
    """
    tracks = [_Track()]
    fragment_samples: Counter[bytes] = Counter()  # by number of the track
    fragment_track = b""
    compressed_headers = 0
    try:
        boxes = _boxes(file, 0, file.seek(0, os.SEEK_END), max_table=12 * limit)
        for number, (box_type, content) in enumerate(boxes):
            if box_type == b"trak":
                tracks.append(_Track())
            elif box_type == b"tfhd":
                fragment_track = content[4:]
            elif box_type == b"trun":
                fragment_samples[fragment_track] += _number(content[4:])
            elif box_type == b"cmvd":
                compressed_headers += 1
            else:
                tracks[-1].add(box_type, content)
            if number >= MAX_BOXES or fragment_samples[fragment_track] > limit or compressed_headers > 1:
                return limit + 1
    except _TooManyError:
        return limit + 1
    entries = [track.entry_count() for track in tracks]
    if sum(entries) + fragment_samples.total() > MAX_TRACKS * limit:
        return limit + 1
    return int(max(entries)) + max(fragment_samples.values(), default=0)


def _boxes(file: BinaryIO, start: int, end: int, max_table: int, depth: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Yield the type of every box between two positions, and the part of its content that matters.

    Parents come before their children.

    Args:
        file: a seekable binary file.
        start: position of the first box.
        end: position behind the last box.
        max_table: most bytes to read of a table.
        depth: level of nesting.
    """
    while end - start >= 8 and depth <= MAX_DEPTH:
        file.seek(start)
        head = file.read(MAX_HEAD)
        size, box_type, header = _number(head[:4]), head[4:8], 8
        if size == 1:
            size, header = _number(head[8:16]), MAX_HEADER
        elif size == 0:
            size = end - start
        if size < header:
            return
        content_start, content_end = start + header, min(start + size, end)
        if box_type in TABLE_BOXES:
            file.seek(content_start)
            yield box_type, file.read(min(content_end - content_start, max_table))
        else:
            yield box_type, head[header : min(header + HEAD_BYTES.get(box_type, 0), content_end - start)]
        yield from _child_boxes(file, box_type, content_start, content_end, max_table, depth + 1)
        start += size


def _child_boxes(
    file: BinaryIO, box_type: bytes, start: int, end: int, max_table: int, depth: int
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the boxes in the content of a box, as ``_boxes`` does."""
    if box_type in PARENT_BOXES:
        yield from _boxes(file, start, end, max_table, depth)
    elif box_type == b"meta":  # FFmpeg searches for its first child, too
        positions = (position for position in _find(_HDLR, file, start, end) if (position - start) % 4 == 0)
        if (position := next(positions, None)) is not None:
            yield from _boxes(file, position - 4, end, max_table, depth)
    elif box_type == b"stsd" and any(_find(_COUNTED_BOXES, file, start, end)):
        # FFmpeg would read tables behind the fields of a codec. No honest program writes them there.
        raise _TooManyError
    elif box_type == b"cmvd":  # a compressed movie header, after its length
        file.seek(start)
        content = _decompress(file.read(min(end - start, MAX_COMPRESSED_HEADER))[4:])
        yield from _boxes(io.BytesIO(content), 0, len(content), max_table, depth)


def _find(box_types: re.Pattern[bytes], file: BinaryIO, start: int, end: int) -> Iterator[int]:
    """Yield the positions of box types between two positions, whatever surrounds them."""
    for position in range(start, end, SEARCH_BYTES):
        file.seek(position)
        overlap = 3  # a type of four bytes may begin at the end of a piece
        for match in box_types.finditer(file.read(min(SEARCH_BYTES + overlap, end - position))):
            yield position + match.start()


def _decompress(content: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        decompressed = decompressor.decompress(content, MAX_COMPRESSED_HEADER)
    except zlib.error:
        return b""
    if decompressor.unconsumed_tail:
        raise _TooManyError
    return decompressed


def _table(content: bytes, columns: int) -> np.ndarray:
    """Return a table of 32-bit numbers as a float array of shape (rows, columns). An incomplete last row is dropped."""
    row_bytes = 4 * columns
    return np.frombuffer(content[: len(content) // row_bytes * row_bytes], ">u4").reshape(-1, columns).astype(float)


def _number(content: bytes) -> int:
    return int.from_bytes(content, "big")
