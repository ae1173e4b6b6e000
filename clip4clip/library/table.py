"""The Parquet table of the vectors of a library. It is written in parts, so that an interrupted run can be resumed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
import numpy as np

from ..errors import LibraryError, MissingExtraError, first_line
from ..files import atomic_write, check_writable, remove_partial_files
from ..video.sampling import FrameSampling
from ..weights.identity import Identity
from .sources import Video

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:  # pragma: no cover
    raise MissingExtraError("a table of vectors needs pyarrow: pip install 'towhee-clip4clip[retrieval]'") from error

METADATA_KEY = b"clip4clip"
READ_BATCH = 1000  # rows
EXTENSION = ".parquet"
ACCEPTED = "a Parquet table as `clip4clip embed` writes it from videos"


@dataclass(frozen=True)
class TableSpec:
    """How all vectors of a table are computed. The table records it.

    Attributes:
        model: model and weights.
        dim: length of a vector.
        sampling: how videos are cut into segments, and which of their frames are embedded.
    """

    model: Identity
    dim: int
    sampling: FrameSampling

    def schema(self) -> pa.Schema:
        """Return the columns of a table.

        Each segment of a video that is cut has a row; so has each video that is not cut or failed.

        - ``id``: of a segment, ``<id of the video>#t=<start>,<end>``, otherwise the id of the video;
        - ``video``: id of the video, which the rows of its segments share;
        - ``path``;
        - ``start`` and ``end`` of a segment in seconds, null for a whole video;
        - ``vector``: float32 with norm 1; null for a video that failed, and for a segment that is ``uniform``;
        - ``duration`` of the video in seconds and its ``frame_count``: null if unknown;
        - ``uniform``: whether the frames of a segment, or of all segments of a video, have one colour. A video of
          which all segments are uniform has one row, without times but with a vector;
        - ``model`` and ``fingerprint``: model and weights that computed the vector;
        - ``size`` in bytes and ``mtime`` in nanoseconds since 1970: null for a URL;
        - ``error``: why the video failed, null unless it did.
        """
        fields = [
            pa.field("id", pa.string(), nullable=False),
            pa.field("video", pa.string(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("start", pa.float64()),
            pa.field("end", pa.float64()),
            pa.field("vector", pa.list_(pa.float32(), self.dim)),
            pa.field("duration", pa.float64()),
            pa.field("frame_count", pa.int64()),
            pa.field("uniform", pa.bool_(), nullable=False),
            pa.field("model", pa.string(), nullable=False),
            pa.field("fingerprint", pa.string(), nullable=False),
            pa.field("size", pa.int64()),
            pa.field("mtime", pa.int64()),
            pa.field("error", pa.string()),
        ]
        record = {"model": asdict(self.model), "dim": self.dim, **asdict(self.sampling)}
        return pa.schema(fields, {METADATA_KEY: json.dumps(record)})

    @classmethod
    def read(cls, path: Path) -> TableSpec:
        """Return the specification that a table records.

        Raises:
            LibraryError: the file does not exist, was not written by this package, or is damaged.
        """
        if not path.is_file():
            raise LibraryError(f"no table of vectors at {path}: expected {ACCEPTED}")
        try:
            schema = pq.read_schema(path)
            record = json.loads((schema.metadata or {})[METADATA_KEY])
            sampling = FrameSampling.from_record(record)
            spec = cls(Identity(**record["model"]), record["dim"], sampling)
            if not schema.equals(spec.schema()):
                raise ValueError(f"its columns are {', '.join(schema.names)}")
        except (OSError, KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
            raise LibraryError(
                f"{path} is not a table of vectors: {first_line(error)[:200].rstrip('.')}. Expected {ACCEPTED}"
            ) from error
        return spec

    def __str__(self) -> str:
        return f"{self.model}, {self.sampling}"


class TableWriter:
    """Add rows to a table in parts. A process that is killed loses only the rows since the last part.

    Parts are written to the folder ``<path>.parts``, each under a temporary name until it is complete. :meth:`finish`
    merges the table and all parts, and removes the folder. Only one process at a time can write a table. It holds a
    lock on the file ``.<name>.lock`` next to the table. The lock file is never deleted, as deleting a locked file would
    let another process lock a new one.

    Args:
        path: table to write. Its rows are kept, except those of videos of which rows are added.
        spec: how the vectors are computed.

    Raises:
        LibraryError: the table or its parts have another specification, another process is writing the table, or the
            table cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], spec: TableSpec) -> None:
        self.path, self.spec = check_table_path(path), spec
        self._folder = self.path.with_name(f"{self.path.name}.parts")
        self._schema = spec.schema()
        self._lock = filelock.FileLock(self.path.with_name(f".{self.path.name}.lock"), mode=0o666, thread_local=False)
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise LibraryError(f"another process is writing {self.path}: wait until it has ended") from None
        try:
            remove_partial_files([self.path])
            for file in self._files():
                if (other := TableSpec.read(file)) != spec:
                    raise LibraryError(
                        f"{file} was made with {other}, not with {spec}: write to another file, or delete this one"
                    )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock, so that other processes can write the table. Added rows are kept."""
        self._lock.release()

    def videos(self) -> dict[str, Video]:
        """Return the videos in the table and its parts by id, with the state of their files when they were embedded."""
        videos: dict[str, Video] = {}
        for video_id, path, size, mtime, error in self._values("video", "path", "size", "mtime", "error"):
            videos[video_id] = Video(video_id, path, size, mtime, failed=error is not None)
        return videos

    def contents(self, videos: set[str]) -> tuple[int, dict[str, str]]:
        """Return what the finished table has of some videos, given by their ids.

        Returns:
            The number of vectors, and the error of each failed video by its id.
        """
        vectors, errors = 0, {}
        for video_id, start, uniform, error in self._values("video", "start", "uniform", "error"):
            if video_id not in videos:
                continue
            if error is not None:
                errors[video_id] = error
            elif start is None or not uniform:
                vectors += 1
        return vectors, errors

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Write a part. Its rows are on the disk when this returns.

        Args:
            rows: rows with the columns of :meth:`TableSpec.schema`: all rows of each of their videos. They replace all
                rows of these videos that were added before.
        """
        if not rows:
            return
        self._folder.mkdir(exist_ok=True)
        numbers = [int(part.stem.removeprefix("part-")) for part in self._parts()]
        part = self._folder / f"part-{max(numbers, default=-1) + 1:06}.parquet"
        self._write(part, [pa.Table.from_pylist(rows, self._schema)])

    def finish(self) -> None:
        """Merge the table and its parts into one table. Of each video, the rows that were added last are kept."""
        files = self._files()
        last_file = {video: file for file in files for batch in _read(file, ["video"]) for video in _videos_of(batch)}

        def last_rows() -> Iterator[pa.Table]:
            for file in files:
                for batch in _read(file):
                    is_last = [last_file[video] == file for video in _videos_of(batch)]
                    yield pa.Table.from_batches([batch]).filter(pa.array(is_last))

        if self._parts():
            self._write(self.path, last_rows())
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("part-*.parquet"))

    def _files(self) -> list[Path]:
        return [*([self.path] if self.path.exists() else []), *self._parts()]

    def _values(self, *columns: str) -> Iterator[tuple[Any, ...]]:
        """Yield the values of some columns for each row."""
        for file in self._files():
            for batch in _read(file, columns):
                yield from zip(*(batch[column].to_pylist() for column in columns), strict=True)

    def _write(self, path: Path, tables: Iterable[pa.Table]) -> None:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            with pq.ParquetWriter(file, self._schema, compression="zstd") as writer:
                for table in tables:
                    writer.write_table(table.cast(self._schema))
            file.flush()
            os.fsync(file.fileno())


def _read(file: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read a table or a part in batches; None for all columns."""
    with pq.ParquetFile(file) as parquet:
        yield from parquet.iter_batches(READ_BATCH, columns=columns)


def _videos_of(batch: pa.RecordBatch) -> list[str]:
    videos: list[str] = batch["video"].to_pylist()
    return videos


def check_table_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a table that can be written, with links resolved.

    Raises:
        LibraryError: the name does not end in ``.parquet``, or the file cannot be written.
    """
    path = Path(path)
    table = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.is_dir() or not table.parent.is_dir():
        raise LibraryError(f"{path} cannot be written: expected the name of a file in a folder that exists")
    if path.exists() and not path.is_file():
        raise LibraryError(f"{path} is not a regular file: a table is written in parts and read again")
    if path.suffix.lower() != EXTENSION:
        raise LibraryError(f"{path}: a table of vectors is written as Parquet, so its name must end in .parquet")
    try:
        check_writable(table)
    except OSError as error:
        raise LibraryError(f"{path} cannot be written: {error.strerror}") from error
    return table


def read_rows(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table as dictionaries; ``vector`` is a float32 array of shape (dim,) with norm 1, or None.

    Raises:
        LibraryError: the file is not a table written by this package, or has a vector whose norm is not 1.
    """
    dim = TableSpec.read(Path(path)).dim
    try:
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(READ_BATCH):
                column = batch["vector"]
                has_vector = np.array(column.is_valid())
                vectors = np.zeros((len(batch), dim), np.float32)
                vectors[has_vector] = column.drop_null().flatten().to_numpy().reshape(-1, dim)
                if not np.allclose(np.linalg.norm(vectors[has_vector], axis=1), 1, atol=1e-3):  # also for NaN
                    raise LibraryError(f"{path} holds a vector whose norm is not 1")
                for index, row in enumerate(batch.drop_columns("vector").to_pylist()):
                    yield {**row, "vector": vectors[index] if has_vector[index] else None}
    except (OSError, pa.ArrowException) as error:
        raise LibraryError(f"{path} cannot be read: {error}") from error


def count_rows(path: str | os.PathLike[str]) -> int:
    """Return the number of rows of a table, without reading them."""
    return int(pq.read_metadata(path).num_rows)
