"""List the videos of a library: a folder, a table, a list, or paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import LibraryError, brief
from ..evaluation.tables import MAX_TABLE_BYTES, not_text, read_table
from ..evaluation.video_folder import VIDEO_EXTENSIONS
from ..video.source import is_url

ACCEPTED = (
    "a folder of videos, or a text file in UTF-8: a table (.csv, .tsv, .jsonl, .json) or a list with a path or URL in "
    "each line. Single videos are for `clip4clip embed-video`, tables of vectors for `clip4clip index`"
)
TABLE_EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
MIN_INT64, MAX_INT64 = -(1 << 63), (1 << 63) - 1
ID_COLUMNS = ("id", "video_id")
PATH_COLUMNS = ("path", "video_path", "video", "video_id")


@dataclass(frozen=True)
class Video:
    """A video of a library and the state of its file, when it was listed or when it was embedded.

    Attributes:
        id: id of the video in its table, or its path.
        path: absolute local path, or http(s) URL.
        size: in bytes; None for a URL, and for a file that does not exist.
        mtime: time of the last change, in nanoseconds since 1970, limited to 64 bits (1677 to 2262); None as ``size``.
        failed: whether an earlier run could not embed it.
    """

    id: str
    path: str
    size: int | None
    mtime: int | None
    failed: bool = False

    def is_same_file(self, other: Video) -> bool:
        """Return whether another record has the same path, file size and modification time."""
        own, others = ((display_path(video.path), video.size, video.mtime) for video in (self, other))
        return own == others


def list_videos(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    folder: str | os.PathLike[str] | None = None,
    unlisted: dict[str, str] | None = None,
) -> list[Video]:
    """Return the videos of a library, each once, in the order of the source; those of a folder are sorted by path.

    Args:
        source: one of

            - a folder: all files in it and in the folders below it that have the extension of a video. Names that
              begin with a dot are left out, and links to folders are not followed;
            - a table: ``*.csv`` or ``*.tsv`` with a header, ``*.jsonl``, or ``*.json`` with an array. The first of the
              columns (or keys) ``path``, ``video_path``, ``video`` and ``video_id`` holds the path, ``id`` or
              ``video_id`` the id; other columns are ignored. A video may be in several rows, as in
              ``MSRVTT_JSFUSION_test.csv``;
            - any other text file: a list with one path or http(s) URL per line. Lines beginning with ``#`` are ignored;
            - an iterable of paths and URLs.
        folder: folder that relative paths in a table or list start from; None for the folder of the table or list. For
            a path without a file there, the extensions of videos are tried.
        unlisted: receives the error of each folder below ``source`` that cannot be listed, by its path. Without it,
            such a folder raises LibraryError.

    Raises:
        LibraryError: ``source`` does not exist, is malformed, names no video, uses one id for several videos, or
            cannot be listed.
    """
    if isinstance(source, str) and not source.strip():
        raise LibraryError(f"{source!r} is not the name of a library: expected {ACCEPTED}")
    if not isinstance(source, str | os.PathLike):
        return _resolve(((None, os.fspath(path)) for path in source), Path(folder or "."), "the list of videos")
    path = Path(source)
    if path.is_dir():
        unreadable = {} if unlisted is None else unlisted
        videos = [_describe(None, file) for file in _walk(path, unreadable)]
        if unreadable and (unlisted is None or not videos):
            raise LibraryError("; ".join(unreadable.values()))
        if not videos:
            raise LibraryError(f"no videos in {path}: none of its files ends in {', '.join(VIDEO_EXTENSIONS)}")
        return videos
    if not path.is_file():
        raise LibraryError(f"no library at {path}: expected {ACCEPTED}")
    if folder is not None and not Path(folder).is_dir():
        raise LibraryError(f"no folder of videos at {folder}: paths in {path} are relative to it")
    rows = _read_rows(path) if path.suffix.lower() in TABLE_EXTENSIONS else _read_list(path)
    return _resolve(rows, Path(folder) if folder is not None else path.parent, str(path))


def absolute_path(path: str | os.PathLike[str]) -> str:
    """Return an absolute path without ``..``. Links are not resolved, as users know their files by these names."""
    return os.path.normpath(Path(path).absolute())


def display_path(path: str) -> str:
    """Replace the bytes of a path that are not UTF-8, which neither Parquet nor Milvus can store."""
    return path.encode(errors="surrogateescape").decode(errors="replace")


def _walk(folder: Path, unreadable: dict[str, str]) -> Iterator[str]:
    """Yield the paths of the videos in a folder; ``unreadable`` receives the error of each folder by its path."""

    def record_error(error: OSError) -> None:
        path = display_path(str(error.filename))
        unreadable[path] = f"the folder {path} cannot be listed: {error.strerror}"

    for parent, folders, files in os.walk(absolute_path(folder), onerror=record_error):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and name.lower().endswith(VIDEO_EXTENSIONS) and not _is_pipe(path):
                yield str(path)


def _is_pipe(path: Path) -> bool:
    """Return whether a path is a named pipe. Reading one would wait for a writer."""
    try:
        return path.is_fifo()
    except OSError:  # decoding reports what is wrong with it
        return False


def _read_rows(table: Path) -> Iterator[tuple[str | None, str]]:
    """Yield the id and the path in each row of a table; the id is None if the table has no column for it."""
    columns, rows = read_table(table, LibraryError, ACCEPTED)
    if columns is not None and not {*columns} & {*PATH_COLUMNS}:
        raise LibraryError(
            f"{table} needs a header with one of the columns {', '.join(PATH_COLUMNS)}; its first line is "
            f"{brief(columns)}"
        )
    for row, location in rows:
        path = next((row[column] for column in PATH_COLUMNS if column in row), None)
        has_id = any(column in row for column in ID_COLUMNS)
        video_id = next((row[column] for column in ID_COLUMNS if column in row), path)
        if type(video_id) is int:  # in JSON
            video_id = str(video_id)
        for text in (path, video_id):
            if not isinstance(text, str) or not text.strip():
                raise LibraryError(
                    f"{location}: the path and the id of a video must be non-empty strings, not {brief(text)}"
                )
            if re.search("[\ud800-\udfff]", text):  # lone surrogates, which JSON may hold
                raise LibraryError(f"{location}: {brief(text)} is not valid Unicode")
        yield (video_id if has_id else None), str(path)


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


def _resolve(rows: Iterable[tuple[str | None, str]], folder: Path, source: str) -> list[Video]:
    """Return the videos of rows (id or None, path relative to the folder), each once."""
    paths: dict[str, str] = {}  # by id
    videos: list[Video] = []
    for video_id, name in rows:
        if "\0" in name:
            raise LibraryError(f"{source}: {brief(name)} is not a path")
        path = name if is_url(name) else _add_extension(absolute_path(folder / os.path.expanduser(name)))
        other = paths.setdefault(video_id or path, path)
        if other != path:
            raise LibraryError(f"{source}: {brief(video_id)} is the id of two videos, {other} and {path}")
        if len(paths) > len(videos):
            videos.append(_describe(video_id, path))
    if not videos:
        raise LibraryError(f"{source} names no video")
    return videos


def _add_extension(path: str) -> str:
    """Return the path, or the path with the extension of a video if only that one is a file."""
    # Unlike Path.is_file, os.path.isfile does not raise for a name that is too long. Decoding reports it.
    if os.path.isfile(path):
        return path
    return next((path + extension for extension in VIDEO_EXTENSIONS if os.path.isfile(path + extension)), path)


def _describe(video_id: str | None, path: str) -> Video:
    size = mtime = None
    if not is_url(path):
        try:
            status = Path(path).stat()
        except OSError:
            pass  # decoding reports what is wrong with it
        else:
            size, mtime = status.st_size, min(max(status.st_mtime_ns, MIN_INT64), MAX_INT64)
    return Video(video_id or display_path(path), path, size, mtime)
