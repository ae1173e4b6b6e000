"""The seam between :class:`~clip4clip.index.video_index.VideoIndex` and the two places that store its rows.

:class:`~clip4clip.index.local.LocalCollection` stores them in one file, and
:class:`~clip4clip.index.milvus.MilvusCollection` on a Milvus server. Both have the methods of :class:`Engine`, with the
same results.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .address import IndexAddress
from .collection import CollectionInfo, VectorSpec
from .hit import Hit
from .info import Content


@dataclass(frozen=True)
class Failure:
    """A video of a folder that could not be decoded, and the state of its file at that time.

    Attributes:
        path: absolute local path.
        size: in bytes.
        mtime: time of the last change, in nanoseconds since 1970.
        error: message of the error.
    """

    path: str
    size: int
    mtime: int
    error: str


class Engine(Protocol):
    """A collection of rows, which need not exist yet. Safe to use from several threads at once.

    All methods raise IndexUnavailableError if the index cannot be reached now: the server does not answer, or another
    process keeps the file locked. They raise VideoIndexError if the collection does not exist (except :meth:`find`,
    :meth:`create`, :meth:`finish` and :meth:`close`), if the index has been closed, and for errors that the database
    reports.
    """

    @property
    def address(self) -> IndexAddress:
        """Where the collection is."""
        ...

    def find(self) -> CollectionInfo | None:
        """Return the metadata of the collection; None if it does not exist."""
        ...

    def require(self) -> CollectionInfo:
        """Return the metadata of the collection; raise VideoIndexError if it does not exist."""
        ...

    def create(self, spec: VectorSpec, dim: int) -> None:
        """Create the collection for rows of videos. Do nothing if it exists, whatever its metadata.

        Args:
            spec: how the vectors are computed.
            dim: length of a vector.
        """
        ...

    def insert(self, *values: Any) -> Any:
        """Add one row by its values, or replace the row with the same id. For the Towhee operator.

        Args:
            *values: id and vector, or id, path and vector; without a path, the id is the path. On a server, a
                collection of another program takes one value for each field, in the order of its schema.

        Returns:
            The id of the row.

        Raises:
            InputTypeError, InputValueError: the number of values is wrong, or a value cannot be stored.
        """
        ...

    def upsert(self, rows: Mapping[str, dict[str, Any]], videos: Iterable[str] = ()) -> None:
        """Add rows, or replace those with the same ids with all their fields. They are stored when this returns.

        Args:
            rows: rows from :func:`clip4clip.index.values.to_stored_row`, by id.
            videos: ids of videos whose other rows are deleted.

        Raises:
            InputTypeError, InputValueError: a vector has the wrong length or cannot be stored.
        """
        ...

    def check_filter(self, text: str, strict: bool = False) -> None:
        """Check a filter without running it. Log a warning about fields that no row has.

        Args:
            text: filter; empty for none.
            strict: raise an error for a field that no row has, rather than log a warning.

        Raises:
            InputTypeError, InputValueError: ``text`` is not a string of valid Unicode.
            VideoIndexError: the filter is invalid, for example because it compares a field with a value of another
                kind.
        """
        ...

    def search(
        self,
        vector: Any,
        limit: int = 10,
        *,
        filter: str = "",  # noqa: A002  Milvus's word
        per_video: int | None = None,
        output_fields: Sequence[str] = ("*",),
        **options: Any,
    ) -> list[Hit]:
        """Return the rows nearest to a vector, the nearest first.

        Rows whose time ranges overlap that of a nearer row of the same video are left out, as by
        :func:`clip4clip.video.moments.choose_moments`.

        Args:
            vector: float32, with the length of the stored vectors.
            limit: largest number of rows, up to 16,384.
            filter: filter; empty for none. Unlike :meth:`check_filter`, this logs no warning.
            per_video: largest number of rows of each video, its nearest ones; None for all.
            output_fields: fields to return; ``*`` for all except the vector, which is float32 of shape (dim,).
            **options: options of ``MilvusClient.search``, for a server only.

        Raises:
            InputTypeError, InputValueError: an argument is invalid.
            VideoIndexError: the filter is invalid.
        """
        ...

    def best_scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return the cosine similarity of the nearest row to each vector.

        In a local file, it is wrong by some thousandths.

        Args:
            vectors: float32 of shape (m, dim), norm 1.

        Returns:
            float32 or float64 of shape (m,); of shape (0,) if there are no rows.
        """
        ...

    def get(self, id: Any) -> Hit | None:  # noqa: A002
        """Return the row with an id, with the score 1; None if there is no such row."""
        ...

    def rows_of_video(self, video: str) -> list[Hit]:
        """Return all rows of a video by its id, with the score 1; none if there is no such video."""
        ...

    def rows(
        self,
        fields: Sequence[str],
        filter: str = "",  # noqa: A002
        by_video: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Yield all rows, as they were when the iteration began, in any order.

        Args:
            fields: names of fields, such as ``path`` and ``vector``; ``*`` for all except the vector. A row lacks those
                that it does not have. It always has its ``id``.
            filter: filter; empty for none. Unlike :meth:`check_filter`, this logs no warning.
            by_video: yield the rows of a video one after another. On a server with videos of several rows, all rows are
                then held in memory.

        Raises:
            VideoIndexError: the filter is invalid.
        """
        ...

    def delete(self, ids: Sequence[Any] = (), *, filter: str = "") -> int:  # noqa: A002
        """Delete rows by their ids or those of their videos, and those that match a filter.

        Args:
            ids: ids of rows, or of videos, all of whose rows are deleted; those that do not exist are ignored.
            filter: filter; empty for none.

        Returns:
            The number of deleted rows.

        Raises:
            VideoIndexError: the filter is invalid, or has a field that no row has. Nothing is deleted then.
        """
        ...

    def count(self) -> int:
        """Return the number of rows."""
        ...

    def version(self) -> str:
        """Return a text that changes with the rows. On a server, it is their number."""
        ...

    def count_videos(self) -> int:
        """Return the number of videos. On a server with videos of several rows, it reads all of these rows."""
        ...

    def content(self) -> Content:
        """Return how many rows and videos there are, and which fields they have."""
        ...

    def update_paths(self, changes: Mapping[str, tuple[str, str]], videos: Mapping[str, str]) -> None:
        """Give rows new ids and paths, and videos new ids. Vectors and all other fields stay.

        Args:
            changes: new id and new path of each row, by its old id. Ids that do not exist are ignored.
            videos: new id of each video, by its old id, for all rows of the video.

        Raises:
            VideoIndexError: another row or video has one of the new ids. Nothing is changed then.
        """
        ...

    def update_fields(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        """Set fields of rows. Vectors and all other fields stay.

        Args:
            changes: new values of fields that have no column of their own, by the id of the row; None removes a field.
                Ids that do not exist are ignored.
        """
        ...

    def failures(self, paths: Sequence[str]) -> dict[str, Failure]:
        """Return what :meth:`record_failures` has stored about these paths, by path. On a server: always nothing."""
        ...

    def record_failures(self, failures: Iterable[Failure]) -> None:
        """Remember videos that cannot be decoded, so that they are not tried again. On a server: do nothing."""
        ...

    def forget_failures(self, paths: Sequence[str]) -> None:
        """Forget what :meth:`record_failures` has stored about these paths. On a server: do nothing."""
        ...

    def index_field(self, name: str) -> None:
        """Make filters on a field faster.

        Args:
            name: name of the field.

        Raises:
            InputTypeError, InputValueError: ``name`` is invalid, or the field cannot have an index.
            VideoIndexError: the index is on a server, which has means of its own.
        """
        ...

    def finish(self) -> None:
        """Tidy up after a series of writes, so that searches are fast. What was written is stored already."""
        ...

    def close(self) -> None:
        """Close the index. A second call does nothing."""
        ...


def open_engine(address: IndexAddress, timeout: float = 10.0) -> Engine:
    """Open a collection with the engine for its address.

    Args:
        address: a local file or a server.
        timeout: seconds to wait for an answer from a server, or for another process that writes to the file.

    Raises:
        IndexUnavailableError: the server does not answer, or another process keeps the file locked.
        VideoIndexError: the file cannot be opened.
        MissingExtraError: a package of the extra ``retrieval`` or, for a server, ``milvus`` is not installed.
    """
    # Imported here, because a local index needs no pymilvus.
    if address.is_local:
        from .local import LocalCollection

        return LocalCollection(address, timeout)
    from .milvus import MilvusCollection

    return MilvusCollection(address, timeout)
