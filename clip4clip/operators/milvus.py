"""``ops.ann_insert.milvus_client`` and ``ops.ann_search.milvus_client``: add rows to a collection, search it.

The collection is on a Milvus server, or in the file of a local index.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from towhee.operator import PyOperator

from ..errors import InputValueError, MissingExtraError

if TYPE_CHECKING:
    from ..index.engine import Engine
    from ..index.hit import Hit


@dataclass(frozen=True)
class InsertResult:
    """What ``ops.ann_insert.milvus_client`` returns for a row.

    Attributes:
        insert_count: 1.
        primary_keys: the primary key of the row, in a list.
    """

    insert_count: int
    primary_keys: list[Any]


class MilvusInsert(PyOperator):
    """``ops.ann_insert.milvus_client``: add a row to an existing collection.

    Args:
        host: host name of the server.
        port: port of the server.
        collection_name: name of the collection; required.
        uri: address to use instead of ``host`` and ``port``: the file of a local index, whose name ends in ``.db``, or
            a server as ``http(s)://HOST:PORT``.
        user: user name, if the server needs one. If ``password`` is set too, the connection is encrypted.
        password: password of the user.
        token: ``USER:PASSWORD`` or a key, instead of ``user`` and ``password``.

    Raises:
        IndexUnavailableError, VideoIndexError, InputTypeError: see :class:`clip4clip.retrieval.VideoIndex`.
        InputValueError: ``collection_name`` is missing, or ``token`` is invalid.
        MissingExtraError: the extra ``milvus`` or, for a local index, ``retrieval`` is not installed.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int | str = 19530,
        collection_name: str | None = None,
        uri: str | None = None,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
    ) -> None:
        super().__init__()
        self._collection = _open_collection(host, port, collection_name, uri, user, password, token)

    def __call__(self, *values: Any) -> InsertResult:
        """Add a row, or replace the row with the same primary key.

        Args:
            *values: the id and the vector, or the id, the path and the vector. A collection that was not made by
                ``VideoIndex`` takes one value for each field, in the order of its schema.

        Raises:
            InputTypeError, InputValueError: the number of values is not the number of fields, or a value cannot be
                stored.
            IndexUnavailableError: the server does not answer, or another process keeps the file locked.
            VideoIndexError: the collection does not exist.
        """
        return InsertResult(1, [self._collection.insert(*values)])


class MilvusSearch(PyOperator):
    """``ops.ann_search.milvus_client``: find the rows of a collection that are nearest to a vector.

    Args:
        host: as for :class:`MilvusInsert`, like all arguments up to ``token``.
        port: port of the server.
        collection_name: name of the collection; required.
        uri: a local index or a server.
        user: user name.
        password: password of the user.
        token: ``USER:PASSWORD`` or a key.
        **kwargs: options of the search: ``limit`` (default 10), ``output_fields`` (default none), ``per_video``, and
            ``expr`` or ``filter``, as in ``VideoIndex.search``; for a collection that was not made by ``VideoIndex``,
            the filter is in Milvus's own language. For a server also ``param`` (``{'metric_type': …, 'params': {…}}``),
            ``metric_type``, ``anns_field``, and ``timeout`` in seconds.

    Raises:
        IndexUnavailableError, VideoIndexError, InputTypeError, InputValueError, MissingExtraError: as for
            :class:`MilvusInsert`.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int | str = 19530,
        collection_name: str | None = None,
        uri: str | None = None,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self._collection = _open_collection(host, port, collection_name, uri, user, password, token)
        self._fields = kwargs.pop("output_fields", None) or []
        param = dict(kwargs.pop("param", None) or {})
        if "metric_type" in kwargs:
            param["metric_type"] = kwargs.pop("metric_type")
        expression = kwargs.pop("expr", None)
        self._filter = kwargs.pop("filter", expression) or ""
        self._options = {"limit": kwargs.pop("limit", 10), **kwargs}
        if param:
            self._options["search_params"] = param

    def __call__(self, query: np.ndarray) -> list[list[Any]]:
        """Return rows ``[id, score, *output_fields]``, the nearest first.

        Args:
            query: float32 of shape (dim,), where dim is the length of the collection's vectors.

        Raises:
            InputTypeError, InputValueError: the vector is not numbers, has the wrong shape or is not finite, or an
                option of the search is invalid.
            IndexUnavailableError: the server does not answer, or another process keeps the file locked.
            VideoIndexError: the collection does not exist, or the filter is invalid.
        """
        self._collection.check_filter(self._filter)  # logs a warning about unknown fields
        hits = self._collection.search(query, filter=self._filter, output_fields=self._fields, **self._options)
        return [[hit.id, hit.score, *(_field(hit, name) for name in self._fields)] for hit in hits]


def _open_collection(
    host: str,
    port: int | str,
    collection: str | None,
    uri: str | None,
    user: str | None,
    password: str | None,
    token: str | None,
) -> Engine:
    from ..index.address import IndexAddress
    from ..index.engine import open_engine

    if not collection:
        raise InputValueError("collection_name is missing: pass the name of an existing collection")
    if user and password:
        token = token or f"{user}:{password}"
    uri = uri or f"{'https' if user and password else 'http'}://{host}:{port}"
    address = IndexAddress(os.fspath(uri) if isinstance(uri, os.PathLike) else uri, collection, token)
    try:
        return open_engine(address)
    except MissingExtraError as error:  # Towhee shows only the message, which does not name the operators
        raise MissingExtraError(
            f"ops.ann_insert.milvus_client and ops.ann_search.milvus_client cannot open {address.uri}: {error}"
        ) from error


def _field(hit: Hit, name: str) -> Any:
    return hit.fields.get(name, getattr(hit, name) if name in ("path", "video", "start", "end") else None)
