"""The cache folder: where it is, and what happens when it cannot be used."""

from __future__ import annotations

import sys
from pathlib import Path

import platformdirs
import pytest

from clip4clip import CacheError
from clip4clip.cache import cache_folder, cache_name, is_cache_writable
from clip4clip.weights.inspection import inspect_file


def test_the_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIP4CLIP_CACHE")
    assert cache_folder() == platformdirs.user_cache_path("clip4clip", appauthor=False)
    assert cache_name() == str(cache_folder())


@pytest.mark.skipif(sys.platform != "linux", reason="the XDG variables of Linux")
def test_the_cache_is_in_the_folder_of_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIP4CLIP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "clip4clip"


def test_the_variable_of_the_package_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("CLIP4CLIP_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.setenv("CLIP4CLIP_CACHE", "~/own")
    assert (cache_folder(), cache_name()) == (Path.home() / "own", str(Path("~/own")))


@pytest.mark.skipif(sys.platform == "win32", reason="user names of POSIX")
@pytest.mark.parametrize("configured", ["~nobody_such/x", None])
def test_a_checkpoint_is_read_even_if_the_cache_is_in_an_unknown_home_folder(
    configured: str | None, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("CLIP4CLIP_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    if configured is None:  # the user has no entry in the password database, as in some containers
        monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    else:
        monkeypatch.setenv("CLIP4CLIP_CACHE", configured)
    folder = configured or "the user's cache folder"
    with pytest.raises(CacheError, match=f"cannot find {folder}: .*home directory.*Set CLIP4CLIP_CACHE to a folder"):
        cache_folder()
    assert cache_name() == folder or configured is None
    assert not is_cache_writable()
    assert inspect_file(tiny_checkpoint).head == "meanP"


def test_a_checkpoint_is_read_even_if_a_file_is_in_the_place_of_the_cache_folder(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIP4CLIP_CACHE", str(tmp_path / "cache"))
    assert is_cache_writable()
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_bytes(b"")
    assert not is_cache_writable()
    assert inspect_file(tiny_checkpoint).head == "meanP"
