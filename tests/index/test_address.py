"""Addresses of an index, valid and invalid."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from typer.testing import CliRunner

from clip4clip import InputTypeError, InputValueError, MissingExtraError, VideoIndexError
from clip4clip.cli import app
from clip4clip.index.address import IndexAddress, check_not_on_network
from clip4clip.operators import MilvusSearch
from clip4clip.retrieval import VideoIndex


@pytest.mark.parametrize("name", ["videos.sqlite", "none/videos.db", "videos"])
def test_an_invalid_local_uri_is_rejected_and_nothing_is_created(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoIndexError, match=f"'.*{name}' (is not an index|cannot be an index)"):
        VideoIndex(name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_at_the_place_of_an_index_is_reported_with_what_to_run(tmp_path: Path) -> None:
    folder = tmp_path / "videos.db"
    (folder / "collections").mkdir(parents=True)
    with pytest.raises(VideoIndexError, match=r"videos.db' is a folder, such as Milvus Lite makes") as caught:
        VideoIndex(folder)
    assert "`clip4clip index TABLE.parquet|FOLDER --uri another.db`, or move the folder away" in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["collections"]


def test_a_name_that_the_file_system_rejects_is_reported(tmp_path: Path) -> None:
    with pytest.raises(VideoIndexError, match=r"cannot be an index: "):
        IndexAddress(str(tmp_path / ("x" * 300) / "videos.db"), "videos")


def test_a_symlink_to_an_index_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "videos.db"
    try:
        link.symlink_to(tmp_path / "disk" / "real")
    except OSError:
        pytest.skip("this user may not make links")
    real = os.path.realpath(tmp_path / "disk" / "real")
    assert IndexAddress(str(link), "videos").uri == real  # also before the file exists
    Path(real).touch()
    assert IndexAddress(str(link), "videos").uri == real
    link.unlink()
    link.symlink_to(tmp_path / "none" / "real")
    with pytest.raises(VideoIndexError, match=r"cannot be an index: there is no folder .*none"):
        IndexAddress(str(link), "videos")


REFUSED = "put the index on a disk of this machine, or use a Milvus server"


@pytest.mark.parametrize(
    ("device", "kind", "options"),
    [
        ("server:/export", "nfs", "rw"),
        ("server:/export", "nfs4", "rw"),
        ("//server/share", "cifs", "rw"),
        ("//server/share", "smb3", "rw"),
        ("//me@server/share", "smbfs", "rw"),
        ("me@host:/", "fuse.sshfs", "rw"),
        ("s3fs", "fuse.s3fs", "rw"),
        ("remote:", "fuse.rclone", "rw"),
        ("https://server/dav", "fuse", "rw"),
        ("drvfs", "9p", "rw"),
        ("mds:/", "lustre", "rw"),
        ("10.0.0.1:/", "ceph", "rw"),
        ("Z:\\", "NTFS", "rw,remote"),
    ],
)
def test_a_network_drive_is_refused(
    device: str, kind: str, options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, place = tmp_path.anchor, os.path.realpath(tmp_path)
    mounts = [SimpleNamespace(device="disk", mountpoint=root, fstype="ext4", opts="rw")]
    mounts += [SimpleNamespace(device=device, mountpoint=place, fstype=kind, opts=options)]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    with pytest.raises(VideoIndexError, match=f"cannot be an index, .* is a network drive, .*{REFUSED}") as caught:
        IndexAddress(str(tmp_path / "videos.db"), "videos")
    assert place in str(caught.value)
    assert kind in str(caught.value)
    (tmp_path / "local").mkdir()
    mounts += [SimpleNamespace(device="disk", mountpoint=str(Path(place, "local")), fstype="xfs", opts="rw")]
    IndexAddress(str(tmp_path / "local" / "videos.db"), "videos")
    mounts += [SimpleNamespace(device="disk", mountpoint=place, fstype="tmpfs", opts="rw")]  # hides the drive
    IndexAddress(str(tmp_path / "videos.db"), "videos")


def test_network_paths_of_windows_are_refused() -> None:
    for path in (r"\\server\share\videos.db", r"\\?\UNC\server\share\videos.db", r"\\wsl.localhost\u\videos.db"):
        with pytest.raises(VideoIndexError, match=f"it is a network path: {REFUSED}"):
            check_not_on_network(path)
    check_not_on_network(r"\\?\C:\videos.db")


@pytest.fixture
def network_drive(tmp_path: Path) -> Iterator[Path]:
    """A folder that Linux takes for a drive of sshfs. No program answers for it."""
    folder = tmp_path / "a drive"
    folder.mkdir()
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"FUSE cannot be used: {error}")
    command = ["mount", "-i", "-t", "fuse.sshfs", "me@host:/", folder]
    command += ["-o", f"fd={device},rootmode=40000,user_id=0,group_id=0"]
    done = subprocess.run(command, pass_fds=[device], capture_output=True, text=True)
    os.close(device)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a drive of Linux")
def test_a_mounted_network_drive_is_refused(network_drive: Path) -> None:
    with pytest.raises(VideoIndexError, match=r"a drive is a network drive, .*\(fuse.sshfs\)"):
        check_not_on_network(os.path.realpath(network_drive / "videos.db"))
    with pytest.raises(VideoIndexError, match=r"cannot be an index: .*not connected"):
        IndexAddress(str(network_drive / "videos.db"), "videos")
    check_not_on_network(os.path.realpath(network_drive.parent / "videos.db"))


INVALID_SERVERS = {
    "http://": "it names no host",
    "http://:19530": "it names no host",
    "https:///x": "it names no host",
    "tcp://": "it names no host",
    "http://?x": "it names no host",
    "http://127.0.0.1:99999": "Port out of range",
    "http://127.0.0.1:0": "the port must be 1 to 65535",
    "http://127.0.0.1:-1": "Port",
    "http://127.0.0.1:x": "Port could not be cast",
    "http://[::1": "Invalid IPv6 URL",
    "http://127.0.0.1 :1": "it has characters that are not allowed in an address",
    "http:// 127.0.0.1:1": "it has characters that are not allowed in an address",
    " http://127.0.0.1:1": "it has characters that are not allowed in an address",
    "http://127.0.0.1\n:1": "it has characters that are not allowed in an address",
    "http://a\udcff:1": "it has characters that are not allowed in an address",
    "http://127.0.0.1:1?x=1": "it has more than a host and a port",
    "http://127.0.0.1:1/x.db": "it has more than a host and a port",
    "ftp://127.0.0.1/x.db": "ftp:// is not a protocol of Milvus",
    "unix:///x": "unix:// is not a protocol of Milvus",
    "://": ":// is not a protocol of Milvus",
}


def test_an_invalid_server_address_is_rejected_before_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clip4clip.index.milvus.MilvusClient", lambda *_, **__: pytest.fail("connected"))
    for address, problem in INVALID_SERVERS.items():
        with pytest.raises(VideoIndexError, match=f"is not the address of a server, {problem}.*: expected http"):
            VideoIndex(address)
    result = CliRunner().invoke(app, ["search", "a", "--uri", " http://127.0.0.1:1"])
    assert isinstance(result.exception, VideoIndexError)
    with pytest.raises(VideoIndexError, match=r"must not hold a user and password: .*a token") as caught:
        VideoIndex("http://me:secret@127.0.0.1:1")
    assert "secret" not in str(caught.value)
    for value in (5, None):
        with pytest.raises(InputTypeError, match="uri must be a string or a path"):
            VideoIndex(value)  # type: ignore[arg-type]
    for token in ("secret\udcff", "secret\n", 5):
        with pytest.raises(InputValueError, match="the token is not a string of printable characters") as refused:
            VideoIndex("http://127.0.0.1:1", token=token)  # type: ignore[arg-type]
        assert "secret" not in str(refused.value)
    with pytest.raises(VideoIndexError, match="it names no host"):
        MilvusSearch(host="", collection_name="videos")


def test_valid_server_addresses_reach_the_client_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    uris: list[str] = []
    monkeypatch.setattr("clip4clip.index.milvus.MilvusClient", lambda uri, **_: uris.append(uri))
    addresses = ["http://milvus", "http://127.0.0.1:19530", "https://in03-1a.serverless.gcp-us-west1.cloud.zilliz.com"]
    addresses += ["https://milvus:443/library", "tcp://milvus:19530", "HTTP://[::1]:19530/", "http://my_milvus:19530"]
    for address in addresses:
        VideoIndex(address)
    assert uris == addresses


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "", " ", ".", "..", "a\n", "a\0", "a\udcff"])
def test_an_invalid_collection_name_is_rejected(name: str, tmp_path: Path) -> None:
    for uri in (str(tmp_path / "videos.db"), "http://127.0.0.1:1"):
        with pytest.raises(VideoIndexError, match="cannot be the name of a collection: use letters"):
            VideoIndex(uri, name)
    with pytest.raises(InputTypeError, match="the name of a collection must be a string, not 5"):
        VideoIndex(tmp_path / "videos.db", 5)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_the_token_is_not_in_the_repr() -> None:
    address = IndexAddress("http://127.0.0.1:1", "videos", "me:secret")
    assert address.token == "me:secret"
    assert "secret" not in repr(address)


def test_a_local_address_is_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    address = IndexAddress("./videos.db", "videos")
    assert (address.uri, address.is_local) == (str(tmp_path / "videos.db"), True)
    assert not IndexAddress("https://milvus:443/library", "videos").is_local


def test_a_local_address_without_psutil_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(MissingExtraError, match=r"needs psutil: pip install 'towhee-clip4clip\[retrieval\]'"):
        IndexAddress(str(tmp_path / "videos.db"), "videos")
    IndexAddress("http://127.0.0.1:1", "videos")
