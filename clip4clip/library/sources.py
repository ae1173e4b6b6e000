"""A folder, a table or a list of videos to what is to be embedded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import LibraryError, brief
from ..evaluation.tables import MAX_TABLE_BYTES, not_text, read_table
from ..evaluation.video_folder import VIDEO_EXTENSIONS
from ..video.container import is_url

ACCEPTED = (
    "a folder of videos, or a text file in UTF-8: a table (.csv, .tsv, .jsonl, .json) or a list with a path or URL in "
    "each line. Single videos are for `clip4clip embed-video`, tables of vectors for `clip4clip index`"
)
TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
INT64 = -(1 << 63), (1 << 63) - 1
ID_COLUMNS = ("id", "video_id")
PATH_COLUMNS = ("path", "video_path", "video", "video_id")


@dataclass(frozen=True)
class Video:
    """A video of a library, as it was when the library was listed.

    Attributes:
        id: its name in the table, or its path.
        path: absolute local path, or http(s) URL.
        size: bytes; None for a URL, and where there is no file.
        mtime: time of its last change, nanoseconds since 1970, cut to 64 bits (1677 to 2262); None likewise.
    """

    id: str
    path: str
    size: int | None
    mtime: int | None


def list_videos(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    folder: str | os.PathLike[str] | None = None,
    unlisted: dict[str, str] | None = None,
) -> list[Video]:
    """The videos of a library, each once, in the order of the source; a folder's by their paths.

    Args:
        source: one of

            - a folder, which is searched with the folders in it for the extensions of videos; names that begin with a
              dot are left out, and links to folders are not followed;
            - a table, ``*.csv`` or ``*.tsv`` with a header, ``*.jsonl`` or a JSON array ``*.json``, with a column (or
              key) ``path``, ``video_path``, ``video`` or ``video_id``, and with the name of each video in ``id`` or
              ``video_id``, if it has these; others are ignored, and a video may be in several rows, as in
              ``MSRVTT_JSFUSION_test.csv``;
            - any other text file: a list, one path or http(s) URL a line; ``#`` begins a line to be ignored;
            - paths and URLs.
        folder: what relative paths in a table or list are relative to; None for the folder that it lies in. A name that
            is no file there is tried with the extensions of videos.
        unlisted: gets the folders in ``source`` that cannot be listed, with the reason; without it they are an error.

    Raises:
        LibraryError: when there is nothing at ``source``, it is malformed, names no video, has one name for several, or
            cannot be listed.
    """
    if isinstance(source, str) and not source.strip():
        raise LibraryError(f"{source!r} is not the name of a library: expected {ACCEPTED}")
    if not isinstance(source, str | os.PathLike):
        return _distinct(((None, os.fspath(path)) for path in source), Path(folder or "."), "the list of videos")
    path = Path(source)
    if path.is_dir():
        closed = {} if unlisted is None else unlisted
        videos = [_describe(None, found) for found in _walk(path, closed)]
        if closed and (unlisted is None or not videos):
            raise LibraryError("; ".join(closed.values()))
        if not videos:
            raise LibraryError(f"no videos in {path}: none of its files ends in {', '.join(VIDEO_EXTENSIONS)}")
        return videos
    if not path.is_file():
        raise LibraryError(f"no library at {path}: expected {ACCEPTED}")
    if folder is not None and not Path(folder).is_dir():
        raise LibraryError(f"no folder of videos at {folder}: paths in {path} are relative to it")
    rows = _read_rows(path) if path.suffix.lower() in TABLE_ENDINGS else _read_list(path)
    return _distinct(rows, Path(folder) if folder is not None else path.parent, str(path))


def absolute(path: str | os.PathLike[str]) -> str:
    """The path from the root on, without ``..``; links stay, as people know their files by them."""
    return os.path.normpath(Path(path).absolute())


def _walk(folder: Path, closed: dict[str, str]) -> Iterator[str]:
    """The videos in a folder; ``closed`` gets the folders that cannot be listed, and why."""

    def note(error: OSError) -> None:
        path = shown(str(error.filename))
        closed[path] = f"the folder {path} cannot be listed: {error.strerror}"

    for parent, folders, files in os.walk(absolute(folder), onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and name.lower().endswith(VIDEO_EXTENSIONS) and not _is_pipe(path):
                yield str(path)


def _is_pipe(path: Path) -> bool:
    """Which would be waited for."""
    try:
        return path.is_fifo()
    except OSError:  # what is wrong with it is told when it is to be decoded
        return False


def _read_rows(table: Path) -> Iterator[tuple[str | None, str]]:
    columns, rows = read_table(table, LibraryError, ACCEPTED)
    if columns is not None and not {*columns} & {*PATH_COLUMNS}:
        raise LibraryError(
            f"{table} needs a header with one of the columns {', '.join(PATH_COLUMNS)}; its first line is "
            f"{brief(columns)}"
        )
    for row, where in rows:
        path = next((row[column] for column in PATH_COLUMNS if column in row), None)
        named = any(column in row for column in ID_COLUMNS)
        name = next((row[column] for column in ID_COLUMNS if column in row), path)
        if type(name) is int:  # of JSON
            name = str(name)
        for each in (path, name):
            if not isinstance(each, str) or not each.strip():
                raise LibraryError(f"{where}: it names no video, but has {brief(each)}")
            if re.search("[\ud800-\udfff]", each):  # JSON may have halves of characters
                raise LibraryError(f"{where}: {brief(each)} is not valid text")
        yield (name if named else None), str(path)


def _read_list(file: Path) -> Iterator[tuple[None, str]]:
    if file.stat().st_size > MAX_TABLE_BYTES:
        raise LibraryError(f"{file} is larger than the limit of {MAX_TABLE_BYTES:,} bytes")
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for line in lines:
                if line.strip() and not line.startswith("#"):
                    yield None, line.strip()
    except UnicodeDecodeError as error:
        raise not_text(file, LibraryError, ACCEPTED) from error


def _distinct(rows: Iterable[tuple[str | None, str]], folder: Path, where: str) -> list[Video]:
    paths: dict[str, str] = {}
    videos: list[Video] = []
    for name, given in rows:
        if "\0" in given:
            raise LibraryError(f"{where}: {brief(given)} is no path")
        path = given if is_url(given) else _find(absolute(folder / os.path.expanduser(given)))
        known = paths.setdefault(name or path, path)
        if known != path:
            raise LibraryError(f"{where}: {brief(name)} is the name of two videos, {known} and {path}")
        if len(paths) > len(videos):
            videos.append(_describe(name, path))
    if not videos:
        raise LibraryError(f"{where} names no video")
    return videos


def _find(path: str) -> str:
    """The path itself, or with the extension of a video where only so there is a file."""
    # os.path's do not raise where Path's do, such as for a name that is too long: that is told when it is decoded.
    if os.path.isfile(path):
        return path
    return next((path + extension for extension in VIDEO_EXTENSIONS if os.path.isfile(path + extension)), path)


def _describe(name: str | None, path: str) -> Video:
    size = mtime = None
    if not is_url(path):
        try:
            status = Path(path).stat()
        except OSError:
            pass  # what is wrong with it is told when it is to be decoded
        else:
            size, mtime = status.st_size, min(max(status.st_mtime_ns, INT64[0]), INT64[1])
    return Video(name or shown(path), path, size, mtime)


def shown(path: str) -> str:
    """The path, with marks for what is not UTF-8: neither Parquet nor Milvus takes that."""
    return path.encode(errors="surrogateescape").decode(errors="replace")
