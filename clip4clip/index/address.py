"""The address of an index. It is checked before anything is opened."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import InputTypeError, InputValueError, MissingExtraError, VideoIndexError, brief, first_line
from ..library.sources import absolute_path

_SERVER_FORM = "expected http(s)://HOST:PORT"

# File systems whose files other machines may have open, too. SQLite's readers and writers share memory, which works on
# one machine only. Linux puts "fuse." before the names of some of them.
NETWORK_FILE_SYSTEMS = {
    *("nfs", "nfs3", "nfs4", "cifs", "smb2", "smb3", "smbfs", "smbnetfs", "afs", "openafs", "auristorfs", "coda"),
    *("afpfs", "webdav", "davfs", "davfs2", "ncpfs", "ftp", "ftpfs", "curlftpfs", "sshfs"),
    *("s3fs", "rclone", "gcsfuse", "goofys", "mountpoint-s3", "blobfuse", "blobfuse2", "juicefs"),
    *("ceph", "glusterfs", "lustre", "gpfs", "beegfs", "beegfs_nodev", "moosefs", "mfs", "panfs", "pvfs2", "orangefs"),
    *("ocfs2", "gfs2"),
    *("9p", "vboxsf", "vmhgfs", "vmhgfs-fuse", "prl_fs"),  # folders that a virtual machine shares with its host
}


@dataclass(frozen=True)
class IndexAddress:
    """The address of a collection of vectors.

    Attributes:
        uri: a local file whose name ends in ``.db``, which need not exist, as an absolute path, of a symlink the file
            it leads to; or a server, ``http(s)://HOST:PORT``.
        collection: name of the collection.
        token: ``USER:PASSWORD`` or a key, if the server needs one. It is left out of the ``repr``.

    Raises:
        InputTypeError: ``uri`` or ``collection`` is not a string.
        InputValueError: ``token`` is invalid. The message does not show it.
        VideoIndexError: ``uri`` or ``collection`` is invalid, or the file is on a network drive.
        MissingExtraError: ``uri`` is a local file, and the extra ``retrieval`` is not installed.
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
            object.__setattr__(self, "uri", _check_local(absolute_path(self.uri)))
        else:
            _check_server(self.uri)

    @property
    def is_local(self) -> bool:
        """Whether the index is a file on this machine rather than on a server."""
        return is_local(self.uri)


def is_local(uri: str) -> bool:
    """Return whether a ``uri`` names a file on this machine rather than a server."""
    return "://" not in uri


def _check_collection(name: str) -> None:
    if not isinstance(name, str):
        raise InputTypeError(f"the name of a collection must be a string, not {brief(name)}")
    if not name.isprintable() or not name.strip() or name in (".", "..") or "/" in name or "\\" in name:
        raise VideoIndexError(
            f"{brief(name)} cannot be the name of a collection: use letters, digits and underscores, a letter first"
        )


def check_not_on_network(path: str) -> None:
    """Raise VideoIndexError if a file is, or would be, on a network drive or a cluster file system.

    Args:
        path: absolute path, without symlinks in it.

    Raises:
        MissingExtraError: psutil is not installed.
    """
    try:
        import psutil
    except ImportError as error:
        raise MissingExtraError("a local index needs psutil: pip install 'towhee-clip4clip[retrieval]'") from error
    if re.match(r"\\\\(\?\\UNC\\|[^?.])", path, re.IGNORECASE):  # of Windows: \\server\share, \\?\UNC\server\share
        raise _network_error(path, "it is a network path")
    mounts = [part for part in psutil.disk_partitions(all=True) if Path(path).is_relative_to(part.mountpoint)]
    if not mounts:
        return
    # Of several at the same place, the last one hides the others.
    mount = max(reversed(mounts), key=lambda part: len(part.mountpoint))
    kind = mount.fstype.lower().removeprefix("fuse.")
    is_remote = "remote" in mount.opts.split(",")  # of Windows
    if kind in NETWORK_FILE_SYSTEMS or is_remote or "://" in mount.device:
        name = mount.fstype or "remote"
        raise _network_error(path, f"{mount.mountpoint} is a network drive, or is shared with other machines ({name})")


def _network_error(path: str, problem: str) -> VideoIndexError:
    return VideoIndexError(
        f"{path!r} cannot be an index, {problem}: put the index on a disk of this machine, or use a Milvus server"
    )


def _check_local(uri: str) -> str:
    """Return the path of the file of an index. Files of SQLite lie beside it, so a symlink to the file is followed."""
    if not uri.endswith(".db"):
        raise VideoIndexError(f"{uri!r} is not an index: expected a name that ends in .db, or http(s)://HOST:PORT")
    try:
        if Path(uri).is_symlink():
            uri = os.path.realpath(uri)
        is_folder, parent, has_parent = Path(uri).is_dir(), Path(uri).parent, Path(uri).parent.is_dir()
    except OSError as error:  # such as a name that is too long, or a drive that does not answer
        raise VideoIndexError(f"{uri!r} cannot be an index: {error.strerror}") from error
    if is_folder:
        raise VideoIndexError(
            f"{uri!r} is a folder, such as Milvus Lite makes, but a local index is a file: make a new one with "
            "`clip4clip index TABLE.parquet|FOLDER --uri another.db`, or move the folder away"
        )
    if not has_parent:
        raise VideoIndexError(f"{uri!r} cannot be an index: there is no folder {parent}")
    check_not_on_network(os.path.realpath(uri))
    return uri


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
