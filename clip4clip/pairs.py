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

from .errors import Clip4clipError, PairsError, brief
from .video import read_frames

# Where a table names a video without its extension, the first of these that there is.
EXTENSIONS = (
    *(".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".flv", ".ts", ".gif"),
    *(".wmv", ".mts", ".m2ts", ".3gp", ".ogv", ".vob"),
)
VIDEO_COLUMNS = ("video", "video_id")
SENTENCE_COLUMNS = ("sentence", "caption")
CAPTIONS_BESIDE = "MSRVTT_data.json"
MAX_TABLE_BYTES = 1 << 30


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
            - CSV with ``video_id`` alone, such as ``MSRVTT_train.9k.csv``, whose sentences ``captions`` holds;
            - JSON Lines with the same keys; ``sentence`` may be a list there.
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
    if table.stat().st_size > MAX_TABLE_BYTES:
        raise PairsError(f"{table} is larger than the limit of {MAX_TABLE_BYTES:,} bytes")
    try:
        rows = list(_read_jsonl(table) if table.suffix.lower() in (".jsonl", ".ndjson", ".json") else _read_csv(table))
        if rows and all(sentence is None for _, sentence, _ in rows):
            rows = list(_join(rows, Path(captions) if captions else table.with_name(CAPTIONS_BESIDE), table))
    except (OSError, UnicodeDecodeError, csv.Error, RecursionError) as error:
        raise PairsError(f"{table} cannot be read: {error}") from error
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


def _read_csv(table: Path) -> Iterator[tuple[Any, Any, str]]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        names = reader.fieldnames or ()
        video, sentence = _column(names, VIDEO_COLUMNS), _column(names, SENTENCE_COLUMNS)
        if video is None:
            raise PairsError(
                f"{table} needs a header with the columns video and sentence; its first line is {brief(list(names))}"
            )
        for row in reader:
            where = f"{table}, line {reader.line_num}"
            if None in row or (sentence and row[sentence] is None):
                raise PairsError(f"{where}: it has not as many fields as the header; quote a sentence with commas")
            yield row[video], row[sentence] if sentence else None, where


def _read_jsonl(table: Path) -> Iterator[tuple[Any, Any, str]]:
    with table.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{table}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise PairsError(f"{where}: it is not JSON: {error}. One object a line is due") from error
            video = _column(row, VIDEO_COLUMNS) if isinstance(row, Mapping) else None
            sentence = _column(row, SENTENCE_COLUMNS) if isinstance(row, Mapping) else None
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
            videos = (name for name in entries if _rank(name) < len(EXTENSIONS))
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
    return EXTENSIONS.index(extension) if extension in EXTENSIONS else len(EXTENSIONS)
