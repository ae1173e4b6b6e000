"""Tables of videos and sentences, as MSR-VTT publishes them and as people write them, to pairs."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import Clip4clipError, PairsError, brief
from ..video.reader import read_frames

# Where a table names a video without its extension, the first of these that there is.
VIDEO_EXTENSIONS = (
    *(".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".flv", ".ts", ".gif"),
    *(".wmv", ".mts", ".m2ts", ".3gp", ".ogv", ".vob"),
)
VIDEO_COLUMNS = ("video", "video_id")
SENTENCE_COLUMNS = ("sentence", "caption")
CAPTIONS_BESIDE = "MSRVTT_data.json"
MAX_TABLE_BYTES = 1 << 30
ACCEPTED = "a table of videos and sentences in UTF-8: CSV, TSV (.tsv), JSON Lines (.jsonl) or a JSON array (.json)"


@dataclass(frozen=True)
class Pair:
    """A sentence and the video that it is right for.

    Attributes:
        video: name of the video in its table.
        path: where its file is, or should be.
        sentence: as the table has it.
    """

    video: str
    path: Path
    sentence: str


def read_pairs(
    table: str | os.PathLike[str], videos: str | os.PathLike[str], captions: str | os.PathLike[str] | None = None
) -> list[Pair]:
    """The pairs of a table, in its order. A video with several sentences gives as many pairs.

    Args:
        table: one of

            - CSV with a header and the columns ``video`` (or ``video_id``) and ``sentence`` (or ``caption``), such as
              ``MSRVTT_JSFUSION_test.csv``; other columns are ignored;
            - CSV with only ``video_id``, such as ``MSRVTT_train.9k.csv``, whose sentences ``captions`` holds;
            - TSV, the same with tabs;
            - JSON Lines, or a JSON array of objects, with the same keys; ``sentence`` may be a list there.

            The ending of its name decides which: ``.tsv``; ``.jsonl`` or ``.ndjson``; ``.json``; CSV for all others.
        videos: the folder that the names in the table are relative to. None may lead out of it.
        captions: ``MSRVTT_data.json``; None looks for it beside the table.

    Raises:
        PairsError: for a table that is missing, malformed or empty, or a name that leads out of ``videos``.
    """
    table, folder = Path(table), Path(videos)
    if not folder.is_dir():
        raise PairsError(f"no folder of videos at {folder}")
    if not table.is_file():
        raise PairsError(f"no table at {table}")
    rows = list(_sentences(table))
    if rows and all(sentence is None for _, sentence, _ in rows):
        rows = list(_join(rows, Path(captions) if captions else table.with_name(CAPTIONS_BESIDE), table))
    if not rows:
        raise PairsError(f"{table} has no pairs")
    files = _Files(folder)
    pairs = []
    for video, sentence, where in rows:
        if not _is_text(video) or not video.strip() or "\0" in video:
            raise PairsError(f"{where}: it names no video: {brief(video)}")
        if not _is_text(sentence):
            raise PairsError(f"{where}: its sentence is not a text but {brief(sentence)}")
        pairs.append(Pair(video, files.find(video, where), sentence))
    return pairs


def find_bad(
    pairs: Sequence[Pair],
    track: Any = lambda done, total: done,  # noqa: ARG005
) -> dict[int, str]:
    """What is wrong with which pair, by its index: an empty sentence, no file, or nothing in it that can be decoded.

    Of each video one frame is decoded.

    Args:
        pairs: from :func:`read_pairs`.
        track: wraps the iteration over the videos looked at, given how many they are; for a progress bar.
    """
    paths = list(dict.fromkeys(pair.path for pair in pairs))
    with ThreadPoolExecutor() as pool:
        problems = dict(zip(paths, track(pool.map(_problem, paths), len(paths)), strict=True))
    bad = {}
    for index, pair in enumerate(pairs):
        if not pair.sentence.strip():
            bad[index] = f"{pair.video}: its sentence is empty"
        elif problem := problems[pair.path]:
            bad[index] = f"{pair.video}: {problem}"
    return bad


def _problem(path: Path) -> str | None:
    try:
        next(read_frames(path, None))
    except Clip4clipError as error:
        return str(error)
    return None


def _is_text(value: Any) -> bool:
    """Whether it is a string that can be written: JSON may have halves of characters."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _column(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


def read_table(
    table: Path, error: type[Clip4clipError], accepted: str
) -> tuple[Sequence[str] | None, list[tuple[Mapping[str, Any], str]]]:
    """Read CSV, TSV, JSON Lines or a JSON array, by the ending of its name.

    Args:
        table: a file, UTF-8.
        error: raised for a file that is too large, not text, or malformed.
        accepted: the kinds of file that the caller takes, for its message.

    Returns:
        The columns of CSV or TSV, None for JSON; and each row with where it is, for messages. Values of CSV are
        strings; None for a field that is missing, and under the key None those beyond the columns.
    """
    if table.stat().st_size > MAX_TABLE_BYTES:
        raise error(f"{table} is larger than the limit of {MAX_TABLE_BYTES:,} bytes")
    ending = table.suffix.lower()
    try:
        if ending in (".jsonl", ".ndjson", ".json"):
            return None, list(_read_json(table, error))
        with table.open(encoding="utf-8-sig", newline="") as file:
            # Tables of tabs are often written without quotes: a stray one must not swallow the lines after it.
            dialect: dict[str, Any] = {"delimiter": "\t", "strict": True} if ending == ".tsv" else {}
            reader = csv.DictReader(file, **dialect)
            columns = list(reader.fieldnames or ())
            return columns, [(row, f"{table}, line {reader.line_num}") for row in reader]
    except UnicodeDecodeError as reason:
        raise not_text(table, error, accepted) from reason
    except (OSError, csv.Error, RecursionError) as reason:
        raise error(f"{table} cannot be read: {reason}. Expected {accepted}") from reason


def not_text(file: Path, error: type[Clip4clipError], accepted: str) -> Clip4clipError:
    """Return the error for a file that is not UTF-8 text, which says what it seems to be."""
    with file.open("rb") as opened:
        begin = opened.read(4)
    if file.name.lower().endswith(VIDEO_EXTENSIONS):
        kind = "a video"
    else:
        kind = next((kind for mark, kind in _KINDS.items() if begin.startswith(mark)), "not UTF-8 text")
    return error(f"{file} is {kind}. Expected {accepted}")


# How files begin that are given by mistake.
_KINDS = {
    b"PAR1": "a Parquet file",
    b"PK\3\4": "a ZIP archive, as NumPy and PyTorch write it",
    b"\x80": "a Python pickle",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUM": "a NumPy array",
    b"\xff\xfe": "text in UTF-16; save it as UTF-8",
    b"\xfe\xff": "text in UTF-16; save it as UTF-8",
}


def _read_json(table: Path, error: type[Clip4clipError]) -> Iterator[tuple[Mapping[str, Any], str]]:
    found: Iterator[tuple[str, Any]]
    with table.open(encoding="utf-8-sig") as file:
        if table.suffix.lower() == ".json" and file.read(4096).lstrip().startswith("["):
            file.seek(0)
            try:
                rows = enumerate(json.loads(file.read()), 1)
            except ValueError as reason:
                raise error(f"{table} is not JSON: {reason}") from reason
            found = ((f"{table}, item {number}", row) for number, row in rows)
        else:
            file.seek(0)
            found = _parsed_lines(table, file, error)
        for where, row in found:
            if not isinstance(row, Mapping):
                raise error(f"{where}: expected an object with keys, not {brief(row)}")
            yield row, where


def _parsed_lines(table: Path, lines: Iterable[str], error: type[Clip4clipError]) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{table}, line {number}"
            try:
                yield where, json.loads(line)
            except ValueError as reason:
                raise error(f"{where}: it is not JSON: {reason}. Expected one object in each line") from reason


def _sentences(table: Path) -> Iterator[tuple[Any, Any, str]]:
    """Video, sentence (None where the table has no such column) and place of each pair."""
    columns, rows = read_table(table, PairsError, ACCEPTED)
    if columns is not None:
        video, sentence = _column(columns, VIDEO_COLUMNS), _column(columns, SENTENCE_COLUMNS)
        if video is None:
            raise PairsError(
                f"{table} needs a header with the columns video and sentence; its first line is {brief(columns)}"
            )
        for row, where in rows:
            if None in row or (sentence and row[sentence] is None):  # type: ignore[comparison-overlap]
                raise PairsError(f"{where}: it has not as many fields as the header; quote a sentence with commas")
            yield row[video], row[sentence] if sentence else None, where
        return
    for row, where in rows:
        video, sentence = _column(row, VIDEO_COLUMNS), _column(row, SENTENCE_COLUMNS)
        if video is None or sentence is None:
            raise PairsError(f"{where}: it needs the keys video and sentence, but is {brief(row)}")
        sentences = row[sentence] if isinstance(row[sentence], list) else [row[sentence]]
        if not sentences:
            raise PairsError(f"{where}: its list of sentences is empty")
        for one in sentences:
            yield row[video], one, where


def _join(rows: Iterable[tuple[Any, Any, str]], captions: Path, table: Path) -> Iterator[tuple[Any, Any, str]]:
    """The sentences of ``MSRVTT_data.json`` for the videos of ``MSRVTT_train.9k.csv``."""
    if not captions.is_file():
        raise PairsError(
            f"{table} has no column of sentences, and there are none at {captions}: name their file with captions"
        )
    try:
        entries = json.loads(captions.read_text("utf-8"))["sentences"]
        by_video: dict[str, list[str]] = {}
        for entry in entries:
            by_video.setdefault(entry["video_id"], []).append(entry["caption"])
    except (OSError, RecursionError) as error:
        raise PairsError(f"{captions} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise PairsError(
            f"{captions} is not like MSRVTT_data.json, whose 'sentences' have 'video_id' and 'caption': {error!r}"
        ) from error
    for video, _, where in rows:
        if not isinstance(video, str) or video not in by_video:
            raise PairsError(f"{where}: {captions} has no sentence for {brief(video)}")
        for sentence in by_video[video]:
            yield video, sentence, where


class _Files:
    """The files below a folder, found with and without their extension."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed: dict[Path, dict[str, str]] = {}

    def find(self, video: str, where: str) -> Path:
        """The file of ``video``; when there is none, where it should be."""
        # By its text alone: a data set may well be made of links that lead elsewhere.
        path = Path(os.path.normpath(self._folder / video))
        root = Path(os.path.normpath(self._folder))
        if not path.is_relative_to(root) or path == root:
            raise PairsError(f"{where}: {brief(video)} leads out of the folder {self._folder}")
        names = self._list(path.parent)
        return path.with_name(names.get(path.name, path.name))

    def _list(self, folder: Path) -> dict[str, str]:
        if folder not in self._listed:
            names: dict[str, str] = {}
            try:
                entries = {entry.name for entry in os.scandir(folder) if not _is_folder(entry)}
            except OSError:
                entries = set()
            videos = (name for name in entries if _rank(name) < len(VIDEO_EXTENSIONS))
            for name in sorted(videos, key=lambda name: (_rank(name), name)):
                names.setdefault(PurePosixPath(name).stem, name)
            self._listed[folder] = names | {name: name for name in entries}
        return self._listed[folder]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle: an error of that entry, not of all
        return False


def _rank(name: str) -> int:
    extension = PurePosixPath(name).suffix.lower()
    return VIDEO_EXTENSIONS.index(extension) if extension in VIDEO_EXTENSIONS else len(VIDEO_EXTENSIONS)
