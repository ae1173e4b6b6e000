"""The address of an index. It is checked before anything is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import InputTypeError, InputValueError, VideoIndexError, brief, first_line
from ..library.sources import absolute_path

_SERVER_FORM = "expected http(s)://HOST:PORT"


@dataclass(frozen=True)
class IndexAddress:
    """The address of a collection of vectors.

    Attributes:
        uri: a local folder whose name ends in ``.db``, made absolute; or a server, ``http(s)://HOST:PORT``.
        collection: name of the collection.
        token: ``USER:PASSWORD`` or a key, if the server needs one. It is left out of the ``repr``.

    Raises:
        InputTypeError: ``uri`` or ``collection`` is not a string.
        InputValueError: ``token`` is invalid. The message does not show it.
        VideoIndexError: ``uri`` or ``collection`` is invalid.
    """

    uri: str
    collection: str
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.uri, str):
            raise InputTypeError(f"uri must be a string or a path, not {brief(self.uri)}")
        _check_collection(self.collection)
        if self.token is not None and not (isinstance(self.token, str) and self.token.isprintable()):
            raise InputValueError("the token is not a string of printable characters: expected USER:PASSWORD or a key")
        if self.is_local:
            object.__setattr__(self, "uri", absolute_path(self.uri))
            _check_local(self.uri)
        else:
            _check_server(self.uri)

    @property
    def is_local(self) -> bool:
        """Whether the index is a folder on this machine rather than on a server."""
        return is_local(self.uri)


def is_local(uri: str) -> bool:
    """Return whether a ``uri`` names a folder on this machine rather than a server."""
    return "://" not in uri


def _check_collection(name: str) -> None:
    if not isinstance(name, str):
        raise InputTypeError(f"the name of a collection must be a string, not {brief(name)}")
    if not name.isprintable() or not name.strip() or name in (".", "..") or "/" in name or "\\" in name:
        raise VideoIndexError(
            f"{brief(name)} cannot be the name of a collection: use letters, digits and underscores, a letter first"
        )


def _check_local(uri: str) -> None:
    if not uri.endswith(".db"):
        raise VideoIndexError(f"{uri!r} is not an index: expected a name that ends in .db, or http(s)://HOST:PORT")
    if not Path(uri).parent.is_dir():
        raise VideoIndexError(f"{uri!r} cannot be an index: there is no folder {Path(uri).parent}")


def _check_server(uri: str) -> None:
    """Raise VideoIndexError for an invalid server address. For some, pymilvus would connect to localhost:19530."""
    if "@" in uri:  # the message must not show the password
        raise VideoIndexError(f"the address of an index must not hold a user and password: {_SERVER_FORM}, and a token")
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise VideoIndexError(f"{uri!r} is not the address of a server, {first_line(error)}: {_SERVER_FORM}") from error
    if parts.scheme not in ("http", "https", "tcp"):
        problem = f"{parts.scheme}:// is not a protocol of Milvus"
    elif not parts.hostname:
        problem = "it names no host"
    elif port == 0:
        problem = "the port must be 1 to 65535"
    elif not uri.isprintable() or " " in uri:
        problem = "it has characters that are not allowed in an address"
    elif parts.query or parts.fragment or not re.fullmatch(r"(/\w*)?/?", parts.path):  # the path names a database
        problem = "it has more than a host and a port"
    else:
        return
    raise VideoIndexError(f"{uri!r} is not the address of a server, {problem}: {_SERVER_FORM}")
