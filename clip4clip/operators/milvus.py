"""``ops.ann_insert.milvus_client`` and ``ops.ann_search.milvus_client``: rows into and out of a Milvus collection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from towhee.operator import PyOperator

from ..errors import InputValueError, MissingExtraError, first_line

if TYPE_CHECKING:
    from ..index.video_index import Hit, VideoIndex


@dataclass(frozen=True)
class InsertResult:
    """What ``ops.ann_insert.milvus_client`` returns for a row: ``insert_count`` 1, and its key in ``primary_keys``."""

    insert_count: int
    primary_keys: list[Any]


class MilvusInsert(PyOperator):
    """``ops.ann_insert.milvus_client``: a row into a Milvus collection that exists.

    Args:
        host: of the server.
        port: of the server.
        collection_name: the collection.
        uri: instead of host and port: a local file ``*.db``, or a server as ``http(s)://host:port``.
        user: where the server asks for one, with ``password``; the connection is encrypted then.
        password: of the user.
        token: instead of both: ``user:password`` or a key.

    Raises:
        IndexUnavailableError, VideoIndexError: see :class:`clip4clip.retrieval.VideoIndex`.
        MissingExtraError: without pymilvus, see the extra ``retrieval``.
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
        self._index = _open_index(host, port, collection_name, uri, user, password, token)

    def __call__(self, *values: Any) -> InsertResult:
        """Adds a row, its values in the order of the collection's fields; of a ``VideoIndex`` the id and the vector.

        A row that has the same primary key is replaced.

        Raises:
            InputValueError: for another number of values than there are fields.
        """
        return InsertResult(1, [self._index.insert(*values)])


class MilvusSearch(PyOperator):
    """``ops.ann_search.milvus_client``: a vector to the nearest rows of a Milvus collection.

    Args:
        host: as for :class:`MilvusInsert`, like all others up to ``token``.
        port: of the server.
        collection_name: the collection.
        uri: a local file or a server.
        user: with ``password``.
        password: of the user.
        token: instead of both.
        **kwargs: of the search: ``limit`` (10), ``output_fields`` (none), ``expr`` (Milvus's filter), ``param``
            (``{'metric_type': …, 'params': {…}}``), ``metric_type``, ``anns_field``, ``timeout`` in seconds.

    Raises:
        IndexUnavailableError, VideoIndexError, MissingExtraError: as for :class:`MilvusInsert`.
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
        self._index = _open_index(host, port, collection_name, uri, user, password, token)
        self._fields = kwargs.pop("output_fields", None) or []
        param = dict(kwargs.pop("param", None) or {})
        if "metric_type" in kwargs:
            param["metric_type"] = kwargs.pop("metric_type")
        self._options = {"limit": kwargs.pop("limit", 10), "filter": kwargs.pop("expr", None) or "", **kwargs}
        if param:
            self._options["search_params"] = param

    def __call__(self, query: np.ndarray) -> list[list[Any]]:
        """Rows ``[id, score, *output_fields]``, the nearest first.

        Args:
            query: float32 of the length of the collection's vectors.

        Raises:
            InputValueError: for a vector of another length, or with values that are not finite.
        """
        hits = self._index.search(vector=query, output_fields=self._fields, **self._options)
        return [[hit.id, hit.score, *(_field(hit, name) for name in self._fields)] for hit in hits]


def _open_index(
    host: str,
    port: int | str,
    collection: str | None,
    uri: str | None,
    user: str | None,
    password: str | None,
    token: str | None,
) -> VideoIndex:
    try:
        from ..index.video_index import VideoIndex
    except MissingExtraError as error:  # which speaks of what else the package is for
        raise MissingExtraError(
            "ops.ann_insert.milvus_client and ops.ann_search.milvus_client need the extra 'retrieval' "
            f"({first_line(error.__cause__ or error)}): pip install 'towhee-clip4clip[retrieval]'"
        ) from error
    if not collection:
        raise InputValueError("collection_name is needed: the name of a Milvus collection that exists")
    if user and password:
        token = token or f"{user}:{password}"
    address = uri or f"{'https' if user and password else 'http'}://{host}:{port}"
    return VideoIndex(address, collection, token=token)


def _field(hit: Hit, name: str) -> Any:
    return hit.path if name == "path" else hit.fields.get(name)
