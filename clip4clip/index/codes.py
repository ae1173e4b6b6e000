"""Vectors as codes of one byte per number: a quarter of the size, and a bound on the error of each similarity.

The vectors are scaled to length 1. Each part of a vector is multiplied by a random orthogonal matrix, the rotation of
the collection, and the vector is rounded to ``scale · code`` with int8 numbers in ``code``. The rotation changes no
similarity. It spreads each of the few large numbers that vectors of CLIP have over its part, as the largest number
decides the scale. Each code has its ``error``, the length of what was rounded away. By the inequality of Cauchy and
Schwarz, the cosine similarity to a query differs from ``scale · code · rotated query`` by at most ``error``. All
rounding of float32 is included.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import is_writable
from ..runtime.placement import available_cores
from ..threads import thread_pool

BLOCK = 512  # codes converted to float32 at once: they stay in the cache of a core
BEST_BLOCK = 2048  # codes compared with many queries at once
MAX_PART = 128  # numbers of a vector that are rotated together; more cost more and hardly spread large numbers better
ENCODE_BLOCK = 256  # vectors encoded at once, for the same reason
COPY_BLOCK = 4096  # records whose columns are copied at once
GATHER_LIMIT = 0.25  # share of the codes up to which selected codes are scanned one by one


def record_type(dim: int) -> np.dtype:
    """Return the type of a record in a file of codes.

    Its fields are ``code``; ``scale`` and ``error``; ``row`` and ``video``, the numbers of a row and of its video; and
    ``stamp``, a random number of the transaction that added it.

    Args:
        dim: length of a vector.
    """
    fields = [("code", "i1", (dim,)), ("scale", "<f4"), ("error", "<f4"), ("row", "<i8"), ("video", "<i8")]
    return np.dtype([*fields, ("stamp", "<u4"), ("_padding", "u1", (-(dim + 28) % 8,))])


def part_size(dim: int) -> int:
    """Return how many numbers of a vector are rotated together: the largest divisor of ``dim`` up to ``MAX_PART``."""
    return next(size for size in range(min(dim, MAX_PART), 0, -1) if dim % size == 0)


def random_rotation(dim: int) -> np.ndarray:
    """Return a random orthogonal matrix for vectors of length ``dim``, float32 of shape (part, part)."""
    size = part_size(dim)
    matrix, _ = np.linalg.qr(np.random.default_rng().standard_normal((size, size)))
    return matrix.astype(np.float32)


def _rotate(vectors: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Return vectors with each part rotated; they keep their shape and dtype, which is that of the rotation."""
    return (vectors.reshape(-1, len(rotation)) @ rotation).reshape(vectors.shape)


def encode(vectors: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Return the codes of vectors, records of shape (n,) whose numbers of rows and videos are 0.

    Args:
        vectors: float32 of shape (n, dim), finite, none of them all zeros.
        rotation: float32 of shape (part, part).
    """
    records = np.zeros(len(vectors), record_type(vectors.shape[1]))
    blocks = [slice(start, start + ENCODE_BLOCK) for start in range(0, len(vectors), ENCODE_BLOCK)]
    unit = np.empty(vectors.shape, np.float32)
    for block in blocks:
        unit[block] = unit_rows(vectors[block])
    rotated = _rotate(unit, rotation)
    for block in blocks:
        _encode_block(rotated[block], records[block])
    records["error"] += _rounding(vectors.shape[1])
    return records


def _encode_block(rotated: np.ndarray, records: np.ndarray) -> None:
    scale = np.abs(rotated).max(axis=1) / np.float32(127)
    code = np.rint(rotated / scale[:, None]).clip(-127, 127)
    rotated -= code * scale[:, None]
    records["code"], records["scale"] = code, scale
    rounding = 1 + (rotated.shape[1] + 8) * 2.0**-24  # of this line
    records["error"] = np.sqrt(np.einsum("ij,ij->i", rotated, rotated)) * rounding


def _rounding(dim: int) -> float:
    """Return how much the rounding of float32 can change a similarity.

    A sum of n products, in any order, is wrong by at most ``n · 2⁻²⁴`` times the lengths of the two vectors. This
    counts once for the scan, with n = dim, and once for each number of the rotated vector, with n = part. What is added
    covers single roundings, and those of the rotation.
    """
    part = part_size(dim)
    return ((dim + 8) * 2 + (part + 8) * part**0.5) * 2.0**-24


def rotate_query(unit: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Return queries rotated as the codes are, float32 of the same shape.

    Args:
        unit: queries of length 1, of shape (dim,) or (m, dim).
        rotation: float32 of shape (part, part).
    """
    return _rotate(unit, rotation.astype(np.float64)).astype(np.float32)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return vectors scaled to length 1, float64 of shape (n, dim)."""
    vectors = vectors.astype(np.float64)
    return vectors / np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class CodesState:
    """Which records of which file are the codes of a collection. A transaction of the database publishes it.

    Attributes:
        name: ending of the name of the file; empty as long as there is none.
        count: number of records that count. What follows them in the file belongs to a write that was not completed, or
            to another copy of the database.
        stamp: stamp of the last of these records.
    """

    name: str
    count: int
    stamp: int


class CodesLostError(Exception):
    """Raised when a file of codes is missing, or does not have the records that the database says.

    Attributes:
        state: which records those are.
    """

    def __init__(self, reason: str, state: CodesState) -> None:
        super().__init__(reason)
        self.state = state


def open_codes(path: Path, dim: int, state: CodesState) -> np.ndarray:
    """Map a file of codes into memory.

    Returns:
        Records of shape (state.count,).

    Raises:
        CodesLostError: the file does not have these records.
    """
    kind = record_type(dim)
    if state.count == 0:
        return np.empty(0, kind)
    try:
        if path.stat().st_size < state.count * kind.itemsize:
            raise CodesLostError(f"{path} is too short", state)
        # A plain array, as a memmap costs microseconds at each step.
        records = np.asarray(np.memmap(path, kind, "r", shape=(state.count,)))
    except (OSError, ValueError) as error:
        raise CodesLostError(str(error), state) from error
    # Nothing in it is overwritten. So if its last record is the one that was published last, all before it are, too.
    if records[-1]["stamp"] != state.stamp:
        raise CodesLostError(f"{path} belongs to another state of the index", state)
    return records


def write_codes(path: Path, batches: Iterable[np.ndarray], mode: int) -> None:
    """Append records to a file, and wait until they are on the disk. What is in the file is never overwritten.

    Args:
        path: file, created if it does not exist.
        batches: records, in arrays of any length.
        mode: access mode of the file, whatever the umask is.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_BINARY", 0), mode)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        if hasattr(os, "fchmod"):
            with contextlib.suppress(OSError):  # the file may belong to another user
                os.fchmod(descriptor, mode)
        end = file.seek(0, os.SEEK_END)
        try:
            for records in batches:
                view = np.ascontiguousarray(records).view(np.uint8).data
                while len(view):
                    view = view[file.write(view) :]
            os.fsync(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                file.truncate(end)  # gives a full disk its space back
            raise


def can_append(path: Path, dim: int, state: CodesState) -> bool:
    """Return whether this process can write to a file of codes, and it ends with the records that count."""
    try:
        return is_writable(path) and path.stat().st_size == state.count * record_type(dim).itemsize
    except OSError:
        return False


@dataclass(frozen=True)
class Codes:
    """The codes of a collection in one state of its database. Never changed: a new state gets a new object.

    Attributes:
        state: which records of which file these are.
        version: version of the collection.
        last_dead: number of the last entry of the list of dead rows that is applied.
        records: records of shape (n,), mapped from the file.
        rows: number of the row of each record, int64 of shape (n,), rising.
        videos: number of the video of each record, int64 of shape (n,).
        scales: float32 of shape (n,).
        errors: float32 of shape (n,); infinite and negative for the records of rows that were deleted.
    """

    state: CodesState
    version: int
    last_dead: int
    records: np.ndarray
    rows: np.ndarray
    videos: np.ndarray
    scales: np.ndarray
    errors: np.ndarray
    _columns: _Columns

    @classmethod
    def of(
        cls,
        records: np.ndarray,
        state: CodesState,
        version: int,
        dead: Sequence[tuple[int, int]],
        previous: Codes | None = None,
    ) -> Codes:
        """Return the codes of a state of the database.

        Args:
            records: records of shape (state.count,).
            state: which records of which file these are.
            version: version of the collection.
            dead: number of the entry, and number of the row, of each deleted row that ``previous`` does not know.
            previous: codes of an earlier state of the same file, whose columns need not be read again.
        """
        columns = previous._columns.extended(previous.errors, records) if previous else _Columns(records)
        last_dead = dead[-1][0] if dead else previous.last_dead if previous else 0
        if dead:
            columns.errors = columns.errors.copy()  # earlier states keep theirs
        count = len(records)
        rows, videos, scales = columns.rows[:count], columns.videos[:count], columns.scales[:count]
        codes = cls(state, version, last_dead, records, rows, videos, scales, columns.errors[:count], columns)
        codes.errors[codes.positions(np.array([row for _, row in dead], np.int64))] = -np.inf
        return codes

    def is_before(self, state: CodesState) -> bool:
        """Return whether a state of the same file has these records and more."""
        return self.state.name == state.name and self.state.count <= state.count

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """Return the positions of the records of rows; those without a record are left out.

        Args:
            rows: numbers of rows, int64 of shape (m,).
        """
        if not len(self.rows):
            return np.empty(0, np.int64)
        positions = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        return positions[self.rows[positions] == rows]

    def live_positions(self) -> np.ndarray:
        """Return the positions of the records of rows that were not deleted."""
        return np.flatnonzero(self.errors >= 0)

    def bounds(self, query: np.ndarray, positions: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return an approximate similarity to a query for each record, and a number that the exact one never exceeds.

        Args:
            query: rotated query of length 1, float32 of shape (dim,).
            positions: positions of the records, int64 of shape (m,); None for all.

        Returns:
            Two float32 arrays of shape (m,) or (n,). Both are minus infinity for rows that were deleted.
        """
        codes = self.records["code"]
        if positions is None:
            similarities = _multiply(codes, query) * self.scales
            return self._mark_dead(similarities, self.errors)
        if len(positions) > GATHER_LIMIT * len(codes):
            similarities = (_multiply(codes, query) * self.scales)[positions]
        else:
            similarities = _multiply(codes, query, positions) * self.scales[positions]
        return self._mark_dead(similarities, self.errors[positions])

    def best_similarities(self, queries: np.ndarray) -> np.ndarray:
        """Return an approximate similarity of the nearest record to each query, float32 of shape (m,).

        It differs from the exact one by at most the largest error. It is minus infinity without records of live rows.

        Args:
            queries: rotated queries of length 1, float32 of shape (m, dim).
        """
        best = np.full(len(queries), -np.inf, np.float32)
        for start in range(0, len(self.records), BEST_BLOCK):
            block = slice(start, start + BEST_BLOCK)
            products = self.records["code"][block].astype(np.float32) @ queries.T
            products *= self.scales[block, None]
            products[self.errors[block] < 0] = -np.inf
            np.maximum(best, products.max(axis=0), out=best)
        return best

    @staticmethod
    def _mark_dead(similarities: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        similarities[errors < 0] = -np.inf
        return similarities, similarities + errors


class _Columns:
    """Columns of records, with space behind them, so that a state with a few more records does not copy all.

    Attributes:
        count: number of records that they have.
        rows, videos, scales, errors: columns, longer than ``count``.
    """

    def __init__(self, records: np.ndarray) -> None:
        capacity = len(records) + len(records) // 8 + 1024
        self.count = 0
        self.rows, self.videos = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
        self.scales, self.errors = np.empty(capacity, np.float32), np.empty(capacity, np.float32)
        self._append(records)

    def extended(self, errors: np.ndarray, records: np.ndarray) -> _Columns:
        """Return columns of records whose first ones these columns have, with the errors of an earlier state."""
        if self.count == len(errors) and len(records) <= len(self.rows):
            self._append(records)
            return self
        columns = _Columns(records)
        columns.errors[: len(errors)] = errors
        return columns

    def _append(self, records: np.ndarray) -> None:
        # In blocks, because all columns of a record are in one line of the cache.
        for start in range(self.count, len(records), COPY_BLOCK):
            block = records[start : start + COPY_BLOCK]
            part = slice(start, start + len(block))
            self.rows[part], self.videos[part] = block["row"], block["video"]
            self.scales[part], self.errors[part] = block["scale"], block["error"]
        self.count = len(records)


def _multiply(codes: np.ndarray, query: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
    """Return the products of codes, int8 of shape (n, dim), with a query, float32 of shape (n,) or of the positions."""
    total = len(codes) if positions is None else len(positions)
    products = np.empty(total, np.float32)

    def multiply(first: int, last: int) -> None:
        block = np.empty((BLOCK, len(query)), np.float32)
        for start in range(first, last, BLOCK):
            end = min(start + BLOCK, last)
            part = block[: end - start]
            part[...] = codes[start:end] if positions is None else codes[positions[start:end]]
            np.dot(part, query, out=products[start:end])

    _share_out(multiply, total)
    return products


def _share_out(work: Callable[[int, int], None], total: int) -> None:
    """Run ``work(first, last)`` for all of ``range(total)``, in parts on all cores."""
    cores = available_cores()
    parts = min(cores, -(-total // (8 * BLOCK)))
    if parts <= 1:
        work(0, total)
        return
    edges: Sequence[int] = np.linspace(0, total, parts + 1).astype(int).tolist()
    pool = thread_pool("scan", cores)
    futures = [pool.submit(work, first, last) for first, last in itertools.pairwise(edges[1:])]
    work(edges[0], edges[1])
    for future in futures:
        future.result()
