"""The contenders of benchmarks/index.py: each stores the rows of a data set, and searches them in every mode.

Row number n has the id ``vn``, a path, the id of its video, and a duration. The databases return the path beside number
and score, as an application needs it. Those that cannot keep only the best row of each video are asked for ten times as
many rows, which is exact with ten rows a video.

Libraries are imported in methods: a child process imports what its own contender needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from index_data import (
    FIELD,
    FIELD_FILTER,
    FIELD_FILTERED,
    FILTER,
    FILTER_BELOW,
    FILTERED,
    NEAREST,
    PER_VIDEO,
    PLAIN,
    ROWS_PER_VIDEO,
    DataSet,
    Result,
)

MODEL, FINGERPRINT = "clip_vit_b32", "benchmark"
INSERT_BLOCK = 10_000  # rows

Client = Callable[[np.ndarray, str], list[Result]]  # of a vector and a mode


class Contender:
    """A way to store and search vectors.

    Args:
        place: folder of its own, or the address of a server.
        data: what is stored.

    Attributes:
        title: name in tables.
        modules: what has to be installed.
        modes: what it can be asked for.
        data_sets: kinds of vectors it is measured with. Times of a plain scan do not depend on the vectors.
        is_exact: whether a wrong answer is an error of the benchmark.
        indexing_seconds: time after :meth:`insert` until searches are as fast as they get; None if they are at once.
    """

    title: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    modes: ClassVar[tuple[str, ...]] = (PLAIN, FILTERED, PER_VIDEO)
    data_sets: ClassVar[tuple[str, ...]] = ("clustered",)
    is_exact: ClassVar[bool] = False
    indexing_seconds: float | None = None

    def __init__(self, place: str, data: DataSet) -> None:
        self.place, self.data = place, data

    def insert(self) -> float | None:
        """Store all rows; return the seconds, or None if there is nothing to store."""
        return None

    def files(self) -> list[Path]:
        """Return the files on disk."""
        return [path for path in Path(self.place).rglob("*") if path.is_file()]

    def open(self, shared: bool = False) -> None:
        """Prepare for searches.

        Args:
            shared: whether other processes search the same rows: arrays are then memory-mapped, not read.
        """
        raise NotImplementedError

    def client(self) -> Client:
        """Return a function that searches. Each thread calls for one of its own."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what :meth:`open` and :meth:`client` have opened."""


class Ours(Contender):
    """`VideoIndex` with a local file."""

    title = "clip4clip"
    modes = (PLAIN, FILTERED, FIELD_FILTERED, PER_VIDEO)
    data_sets = ("clustered", "random")
    is_exact = True
    options: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        PLAIN: {"per_video": None},
        FILTERED: {"per_video": None, "filter": FILTER},
        FIELD_FILTERED: {"per_video": None, "filter": FIELD_FILTER},
        PER_VIDEO: {"per_video": 1},
    }

    def _index(self) -> Any:
        from clip4clip.retrieval import VideoIndex

        return VideoIndex(self.uri, timeout=60)

    @property
    def uri(self) -> str:
        return str(Path(self.place) / "videos.db")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield rows as those of a table of vectors, with a video and a field of the user's own."""
        for start in range(0, len(self.data.vectors), INSERT_BLOCK):
            vectors = np.array(self.data.vectors[start : start + INSERT_BLOCK])
            durations = self.data.durations[start : start + INSERT_BLOCK].tolist()
            for number, vector, duration in zip(range(start, start + len(vectors)), vectors, durations, strict=True):
                yield {
                    "id": f"v{number}",
                    "path": path_of(number),
                    "video": path_of(number),
                    "vector": vector,
                    "duration": duration,
                    FIELD: duration,
                    "model": MODEL,
                    "fingerprint": FINGERPRINT,
                }

    def insert(self) -> float:
        with self._index() as index:
            start = time.perf_counter()
            index.add(self.rows())
            return time.perf_counter() - start

    def open(self, shared: bool = False) -> None:  # noqa: ARG002
        self.index = self._index()

    def client(self) -> Client:
        def search(vector: np.ndarray, mode: str) -> list[Result]:
            hits = self.index.search(vector=vector, limit=NEAREST, **self.options[mode])
            return [Result(int(hit.id[1:]), hit.score) for hit in hits]

        return search

    def close(self) -> None:
        self.index.close()


class Server(Ours):
    """`VideoIndex` with a Milvus server: its HNSW index is not exact."""

    title = "Milvus 2.3.5 server"
    modules = ("pymilvus", "milvus")
    data_sets = ("clustered",)
    is_exact = False

    @property
    def uri(self) -> str:
        return self.place

    def files(self) -> list[Path]:
        return []  # the folder of the server is measured where the server is started

    def insert(self) -> float:
        seconds = super().insert()
        start = time.perf_counter()
        self._wait_until_indexed()
        self.indexing_seconds = time.perf_counter() - start
        return seconds

    def _wait_until_indexed(self) -> None:
        """Wait until the server has loaded its finished index: until then searches are slower and less exact."""
        from pymilvus import MilvusClient

        client, deadline = MilvusClient(self.place), time.monotonic() + 1800
        while True:
            index = client.describe_index("videos", "vector")
            segments = client.list_loaded_segments("videos")
            loaded = sum(segment.num_rows for segment in segments if segment.index_name)
            is_indexed = all(segment.index_name for segment in segments)
            if index["pending_index_rows"] == 0 and loaded >= len(self.data.vectors) and is_indexed:
                client.close()
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"the server has not built its index in half an hour: {index}, {segments}")
            time.sleep(0.5)


class Numpy(Contender):
    """A float32 product with an array in memory."""

    title = "numpy product"
    data_sets = ("clustered", "random")

    def files(self) -> list[Path]:
        return [self.data.vectors_file]

    def open(self, shared: bool = False) -> None:
        self.vectors = np.load(self.data.vectors_file, mmap_mode="r" if shared else None)
        self.kept = np.flatnonzero(self.data.durations < FILTER_BELOW)

    def client(self) -> Client:
        def search(vector: np.ndarray, mode: str) -> list[Result]:
            scores = self.vectors @ vector
            rows = None
            if mode == FILTERED:
                rows, scores = self.kept, scores[self.kept]
            elif mode == PER_VIDEO:
                by_video = scores.reshape(-1, ROWS_PER_VIDEO)
                rows = by_video.argmax(1) + np.arange(0, len(scores), ROWS_PER_VIDEO)
                scores = scores[rows]
            best = np.argpartition(scores, -NEAREST)[-NEAREST:]
            best = best[np.argsort(-scores[best])]
            numbers = best if rows is None else rows[best]
            return [Result(int(row), float(score)) for row, score in zip(numbers, scores[best], strict=True)]

        return search


class Usearch(Contender):
    """The exact search of usearch, over an array in memory."""

    title = "usearch, exact"
    modules = ("usearch",)

    def files(self) -> list[Path]:
        return [self.data.vectors_file]

    def open(self, shared: bool = False) -> None:
        self.vectors = np.load(self.data.vectors_file, mmap_mode="r" if shared else None)
        self.kept = np.flatnonzero(self.data.durations < FILTER_BELOW)

    def client(self) -> Client:
        from usearch.index import MetricKind
        from usearch.index import search as search_exactly

        def search(vector: np.ndarray, mode: str) -> list[Result]:
            vectors = self.vectors[self.kept] if mode == FILTERED else self.vectors
            matches = search_exactly(vectors, vector, rows_to_fetch(mode), MetricKind.IP, exact=True)
            rows = self.kept[matches.keys] if mode == FILTERED else matches.keys
            results = [Result(int(row), 1 - float(each)) for row, each in zip(rows, matches.distances, strict=True)]
            return best_of_videos(results) if mode == PER_VIDEO else results

        return search


class SqliteVec(Contender):
    """A table of sqlite-vec, by apsw, as Python's sqlite3 often cannot load extensions."""

    title = "sqlite-vec"
    modules = ("apsw", "sqlite_vec")

    def _connect(self) -> Any:
        import apsw
        import sqlite_vec

        connection = apsw.Connection(str(Path(self.place) / "vectors.db"))
        connection.enable_load_extension(True)
        connection.load_extension(sqlite_vec.loadable_path())
        return connection

    def insert(self) -> float:
        start_time = time.perf_counter()
        connection = self._connect()
        connection.execute("pragma journal_mode = wal")
        connection.execute("create virtual table rows using vec0(vector float[512], duration float, +path text)")
        for start in range(0, len(self.data.vectors), INSERT_BLOCK):
            vectors = np.array(self.data.vectors[start : start + INSERT_BLOCK])
            durations = self.data.durations[start : start + INSERT_BLOCK].tolist()
            numbers = range(start, start + len(vectors))
            rows = (
                (number, vector.tobytes(), duration, path_of(number))
                for number, vector, duration in zip(numbers, vectors, durations, strict=True)
            )
            with connection:
                connection.executemany("insert into rows(rowid, vector, duration, path) values (?, ?, ?, ?)", rows)
        connection.close()
        return time.perf_counter() - start_time

    def open(self, shared: bool = False) -> None:  # noqa: ARG002
        self.connections: list[Any] = []

    def client(self) -> Client:
        connection = self._connect()
        self.connections.append(connection)
        text = "select rowid, distance, path from rows where vector match ? and k = ?"

        def search(vector: np.ndarray, mode: str) -> list[Result]:
            query = f"{text} and {FILTER}" if mode == FILTERED else text
            found = connection.execute(query, (vector.tobytes(), rows_to_fetch(mode))).fetchall()
            results = [Result(row, 1 - distance**2 / 2) for row, distance, _ in found]  # of vectors of norm 1
            return best_of_videos(results) if mode == PER_VIDEO else results

        return search

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


class LanceDB(Contender):
    """A table of LanceDB without an index of its vectors: its exact search."""

    title = "LanceDB, flat"
    modules = ("lancedb", "pyarrow")

    def insert(self) -> float:
        import lancedb
        import pyarrow as pa

        vector_type = pa.list_(pa.float32(), self.data.vectors.shape[1])
        schema = pa.schema(
            [("id", pa.string()), ("path", pa.string()), ("duration", pa.float64()), ("vector", vector_type)]
        )

        def batches() -> Iterator[Any]:
            for start in range(0, len(self.data.vectors), INSERT_BLOCK):
                vectors = np.array(self.data.vectors[start : start + INSERT_BLOCK])
                numbers = range(start, start + len(vectors))
                columns = [
                    pa.array([f"v{number}" for number in numbers]),
                    pa.array([path_of(number) for number in numbers]),
                    pa.array(self.data.durations[start : start + len(vectors)]),
                    pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=vector_type),
                ]
                yield pa.record_batch(columns, schema=schema)

        start_time = time.perf_counter()
        lancedb.connect(self.place).create_table("rows", data=batches(), schema=schema)
        return time.perf_counter() - start_time

    def open(self, shared: bool = False) -> None:  # noqa: ARG002
        import lancedb

        self.table = lancedb.connect(self.place).open_table("rows")

    def client(self) -> Client:
        def search(vector: np.ndarray, mode: str) -> list[Result]:
            query = self.table.search(vector, vector_column_name="vector").distance_type("dot")
            if mode == FILTERED:
                query = query.where(FILTER, prefilter=True)
            found = query.limit(rows_to_fetch(mode)).select(["id", "path", "_distance"]).to_arrow().to_pylist()
            results = [Result(int(row["id"][1:]), 1 - row["_distance"]) for row in found]
            return best_of_videos(results) if mode == PER_VIDEO else results

        return search


def path_of(number: int) -> str:
    """Return the path of the video that a row belongs to."""
    return f"/videos/{number // ROWS_PER_VIDEO}.mp4"


def rows_to_fetch(mode: str) -> int:
    """Return how many rows have the ten nearest in them, if all rows of a video may be nearest."""
    return NEAREST * ROWS_PER_VIDEO if mode == PER_VIDEO else NEAREST


def best_of_videos(results: list[Result]) -> list[Result]:
    """Return the first row of each of the first ten videos."""
    best: dict[int, Result] = {}
    for result in results:
        best.setdefault(result.row // ROWS_PER_VIDEO, result)
    return list(best.values())[:NEAREST]


CONTENDERS: dict[str, type[Contender]] = {
    "ours": Ours,
    "numpy": Numpy,
    "usearch": Usearch,
    "sqlite-vec": SqliteVec,
    "lancedb": LanceDB,
    "server": Server,
}
OURS, PRODUCT, SERVER = "ours", "numpy", "server"
