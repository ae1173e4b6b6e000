"""``ops.ann_insert.milvus_client`` and ``ops.ann_search.milvus_client``: insert rows into Milvus, and search them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from towhee.operator import PyOperator

from ..errors import InputValueError, MissingExtraError, first_line

if TYPE_CHECKING:
    from ..index.video_index import Hit, VideoIndex


@dataclass(frozen=True)
class InsertResult:
    """What ``ops.ann_insert.milvus_client`` returns for a row.

    Attributes:
        insert_count: 1.
        primary_keys: the primary key of the row.
    """

    insert_count: int
    primary_keys: list[Any]


class MilvusInsert(PyOperator):
    """``ops.ann_insert.milvus_client``: insert a row into an existing Milvus collection.

    Args:
        host: host of the server.
        port: port of the server.
        collection_name: the collection.
        uri: instead of host and port: a local file ``*.db``, or a server as ``http(s)://host:port``.
        user: user name, if the server needs a login; the connection is then encrypted.
        password: password of the user.
        token: instead of user and password: ``user:password`` or a key.

    Raises:
        IndexUnavailableError, VideoIndexError: see :class:`clip4clip.retrieval.VideoIndex`.
        InputValueError: ``collection_name`` is missing.
        MissingExtraError: pymilvus is not installed; see the extra ``retrieval``.
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
        self._index = _open_index(_Address(host, port, uri, user, password, token), collection_name)

    def __call__(self, *values: Any) -> InsertResult:
        """Insert a row. A row that has the same primary key is replaced.

        Args:
            *values: one for each field, in the order of the collection's fields; for a ``VideoIndex`` the id and the
                vector.

        Raises:
            InputValueError: the number of values is not the number of fields.
        """
        return InsertResult(1, [self._index.insert(*values)])


class MilvusSearch(PyOperator):
    """``ops.ann_search.milvus_client``: find the rows of a Milvus collection that are nearest to a vector.

    Args:
        host: host of the server.
        port: port of the server.
        collection_name: the collection.
        uri: instead of host and port, as for :class:`MilvusInsert`.
        user: user name, if the server needs a login.
        password: password of the user.
        token: instead of user and password.
        **kwargs: options of the search: ``limit`` (10), ``output_fields`` (none), ``expr`` (Milvus's filter), ``param``
            (``{'metric_type': …, 'params': {…}}``), ``metric_type``, ``anns_field``, ``timeout`` in seconds.

    Raises:
        IndexUnavailableError, VideoIndexError, InputValueError, MissingExtraError: as for :class:`MilvusInsert`.
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
        self._index = _open_index(_Address(host, port, uri, user, password, token), collection_name)
        self._fields = kwargs.pop("output_fields", None) or []
        param = dict(kwargs.pop("param", None) or {})
        if "metric_type" in kwargs:
            param["metric_type"] = kwargs.pop("metric_type")
        self._options = {"limit": kwargs.pop("limit", 10), "filter": kwargs.pop("expr", None) or "", **kwargs}
        if param:
            self._options["search_params"] = param

    def __call__(self, query: np.ndarray) -> list[list[Any]]:
        """Return rows ``[id, score, *output_fields]``, the nearest first.

        Args:
            query: float32, as long as the collection's vectors.

        Raises:
            InputValueError: the vector has another length, or values that are not finite.
        """
        hits = self._index.search(vector=query, output_fields=self._fields, **self._options)
        return [[hit.id, hit.score, *(_field(hit, name) for name in self._fields)] for hit in hits]


@dataclass(frozen=True)
class _Address:
    """Where Milvus is, in the arguments of the operators."""

    host: str
    port: int | str
    uri: str | None
    user: str | None
    password: str | None = field(repr=False)
    token: str | None = field(repr=False)

    def resolved_uri(self) -> str:
        """Return ``uri``, or that of host and port."""
        scheme = "https" if self.user and self.password else "http"
        return self.uri or f"{scheme}://{self.host}:{self.port}"

    def resolved_token(self) -> str | None:
        """Return ``token``, or that of user and password, or None without a login."""
        if self.token or not (self.user and self.password):
            return self.token
        return f"{self.user}:{self.password}"


def _open_index(address: _Address, collection: str | None) -> VideoIndex:
    try:
        from ..index.video_index import VideoIndex
    except MissingExtraError as error:  # its message does not name these operators
        raise MissingExtraError(
            "ops.ann_insert.milvus_client and ops.ann_search.milvus_client need the extra 'retrieval' "
            f"({first_line(error.__cause__ or error)}): pip install 'towhee-clip4clip[retrieval]'"
        ) from error
    if not collection:
        raise InputValueError("collection_name is missing: pass the name of an existing Milvus collection")
    return VideoIndex(address.resolved_uri(), collection, token=address.resolved_token())


def _field(hit: Hit, name: str) -> Any:
    return hit.path if name == "path" else hit.fields.get(name)
