"""The Parquet table of a library's vectors: written part by part, so that work that was stopped can go on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
import numpy as np

from ..errors import LibraryError, MissingExtraError, first_line
from ..files import atomic_write, check_writable, remove_partial_files
from ..weights.identity import Identity

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError as error:  # pragma: no cover
    raise MissingExtraError("a table of vectors needs pyarrow: pip install 'towhee-clip4clip[retrieval]'") from error

METADATA = b"clip4clip"
READ_AT_ONCE = 1000
ENDINGS = (".parquet", ".pq")
ACCEPTED = "a Parquet table as `clip4clip embed` writes it from videos"


@dataclass(frozen=True)
class TableSpec:
    """How the vectors of a table are made. One table holds vectors of one recipe.

    Attributes:
        model: of which model, and with which weights.
        dim: length of a vector.
        frames: how many are taken of a video.
        seek: ``'exact'`` or ``'keyframe'``, see :func:`clip4clip.video.read_frames`.
    """

    model: Identity
    dim: int
    frames: int
    seek: str

    def schema(self) -> pa.Schema:
        """The columns of a table.

        ``id`` and ``path``; ``vector``, float32, of norm 1, null for a video that failed; ``duration`` in seconds and
        ``frame_count``, null where they are not known; ``model`` and ``fingerprint`` of what made the vector; ``size``
        in bytes and ``mtime`` in nanoseconds since 1970, null for a URL; ``error``, null unless it failed.
        """
        fields = [
            pa.field("id", pa.string(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), self.dim)),
            pa.field("duration", pa.float64()),
            pa.field("frame_count", pa.int64()),
            pa.field("model", pa.string(), nullable=False),
            pa.field("fingerprint", pa.string(), nullable=False),
            pa.field("size", pa.int64()),
            pa.field("mtime", pa.int64()),
            pa.field("error", pa.string()),
        ]
        return pa.schema(fields, {METADATA: json.dumps(asdict(self))})

    @classmethod
    def of(cls, path: Path) -> TableSpec:
        """The recipe of a table; LibraryError when there is none, the file is not one of ours, or is damaged."""
        if not path.is_file():
            raise LibraryError(f"no table of vectors at {path}: expected {ACCEPTED}")
        try:
            schema = pq.read_schema(path)
            told = json.loads((schema.metadata or {})[METADATA])
            recipe = cls(Identity(**told.pop("model")), **told)
            if not schema.equals(recipe.schema()):
                raise ValueError(f"its columns are {', '.join(schema.names)}")
        except (OSError, KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
            raise LibraryError(
                f"{path} is not a table of vectors: {first_line(error)[:200].rstrip('.')}. Expected {ACCEPTED}"
            ) from error
        return recipe

    def __str__(self) -> str:
        return f"{self.model}, {self.frames} frames, seek {self.seek}"


@dataclass(frozen=True)
class Known:
    """What a table has of a video: its file as it was then, and whether it failed."""

    path: str
    size: int | None
    mtime: int | None
    failed: bool


class TableWriter:
    """Adds rows to a table, so that a kill at any moment costs no more than the rows since the last part.

    Parts go to the folder ``<path>.parts``, each under another name until it is complete. :meth:`finish` puts what was
    in the table and all parts together and removes the folder. Only one process at a time can write a table: it holds a
    lock on the file ``.<name>.lock`` beside the table, which stays there, as a file that is removed cannot keep others
    out.

    Args:
        path: of the table; rows that it has already stay, unless one with the same id is added.
        recipe: of its vectors.

    Raises:
        LibraryError: when the table or its parts are of another recipe, another process writes it, or it cannot be
            written.
    """

    def __init__(self, path: str | os.PathLike[str], recipe: TableSpec) -> None:
        self.path, self.recipe = table_path(path), recipe
        self._folder = self.path.with_name(f"{self.path.name}.parts")
        self._schema = recipe.schema()
        self._lock = filelock.FileLock(self.path.with_name(f".{self.path.name}.lock"), mode=0o666, thread_local=False)
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise LibraryError(f"another process is writing {self.path}: wait until it has ended") from None
        try:
            remove_partial_files([self.path])
            for file in self._files():
                if (found := TableSpec.of(file)) != recipe:
                    raise LibraryError(
                        f"{file} was made with {found}, not with {recipe}: write to another file, or delete it"
                    )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Lets other processes write; what was added stays."""
        self._lock.release()

    def known(self) -> dict[str, Known]:
        """What the table and its parts have, by id."""
        rows: dict[str, Known] = {}
        for file in self._files():
            columns = pq.read_table(file, columns=["id", "path", "size", "mtime", "error"]).to_pydict()
            for name, path, size, mtime, error in zip(*columns.values(), strict=True):
                rows[name] = Known(path, size, mtime, error is not None)
        return rows

    def errors(self, ids: set[str]) -> dict[str, str]:
        """Why videos have no vector, for those among ``ids`` that have none, by id."""
        found: dict[str, str] = {}
        for file in self._files():
            columns = pq.read_table(file, columns=["id", "error"], filters=pc.field("error").is_valid())
            pairs = zip(columns["id"].to_pylist(), columns["error"].to_pylist(), strict=True)
            found.update((name, error) for name, error in pairs if name in ids)
        return found

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Writes a part: rows with the columns of :meth:`TableSpec.schema`. They are on the disk when this returns."""
        if not rows:
            return
        self._folder.mkdir(exist_ok=True)
        numbers = [int(part.stem.removeprefix("part-")) for part in self._parts()]
        part = self._folder / f"part-{max(numbers, default=-1) + 1:06}.parquet"
        self._write(part, [pa.Table.from_pylist(rows, self._schema)])

    def finish(self) -> None:
        """Makes one table of all there is, each id once, with the row that was added last."""
        last = {name: place for place, name in enumerate(self._ids())}
        keep = np.zeros(max(last.values(), default=-1) + 1, bool)
        keep[list(last.values())] = True

        def kept() -> Iterator[pa.Table]:
            place = 0
            for batch in self._batches():
                end = place + len(batch)
                yield pa.Table.from_batches([batch]).filter(pa.array(keep[place:end]))
                place = end

        if self._parts():
            self._write(self.path, kept())
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("part-*.parquet"))

    def _files(self) -> list[Path]:
        return [*([self.path] if self.path.exists() else []), *self._parts()]

    def _ids(self) -> Iterator[str]:
        for file in self._files():
            yield from pq.read_table(file, columns=["id"])["id"].to_pylist()

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for file in self._files():
            with pq.ParquetFile(file) as parquet:
                yield from parquet.iter_batches(READ_AT_ONCE)

    def _write(self, path: Path, tables: Iterable[pa.Table]) -> None:
        with atomic_write(path) as fresh, fresh.open("wb") as file:
            with pq.ParquetWriter(file, self._schema, compression="zstd") as writer:
                for table in tables:
                    writer.write_table(table.cast(self._schema))
            file.flush()
            os.fsync(file.fileno())


def table_path(path: str | os.PathLike[str]) -> Path:
    """Return where a table can be written: its path, through links.

    Raises:
        LibraryError: for a name that does not end in ``.parquet`` or ``.pq``, and where no file can be written.
    """
    given = Path(path)
    table = Path(os.path.realpath(given)) if given.is_symlink() else given
    if given.is_dir() or not table.parent.is_dir():
        raise LibraryError(f"{given} cannot be written: expected the name of a file in a folder that exists")
    if given.exists() and not given.is_file():
        raise LibraryError(f"{given} is not a regular file: a table is written in parts and read again")
    if not given.suffix.lower().endswith(ENDINGS):
        raise LibraryError(f"{given}: a table of vectors is written as Parquet, so its name must end in .parquet")
    try:
        check_writable(table)
    except OSError as error:
        raise LibraryError(f"{given} cannot be written: {error.strerror}") from error
    return table


def read_rows(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The rows of a table as dictionaries; ``vector`` is a float32 array of norm 1, or None.

    Raises:
        LibraryError: when it is not a table that was written here, or holds vectors that are not of norm 1.
    """
    recipe = TableSpec.of(Path(path))
    try:
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(READ_AT_ONCE):
                vectors = batch["vector"]
                there = np.array(vectors.is_valid())
                array = np.zeros((len(batch), recipe.dim), np.float32)
                array[there] = vectors.drop_null().flatten().to_numpy().reshape(-1, recipe.dim)
                if not np.allclose(np.linalg.norm(array[there], axis=1), 1, atol=1e-3):  # so written that NaN fails too
                    raise LibraryError(f"{path} holds a vector whose norm is not 1")
                for place, row in enumerate(batch.drop_columns("vector").to_pylist()):
                    yield {**row, "vector": array[place] if there[place] else None}
    except (OSError, pa.ArrowException) as error:
        raise LibraryError(f"{path} cannot be read: {error}") from error


def count_rows(path: str | os.PathLike[str]) -> int:
    """How many rows a table has, without reading them."""
    return int(pq.read_metadata(path).num_rows)
