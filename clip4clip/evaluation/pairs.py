"""Read pairs of a video and a sentence from a table, such as those of MSR-VTT."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Clip4clipError, PairsError, brief
from ..progress import Track, no_progress
from ..video.reader import read_frames
from .tables import is_text, read_table
from .video_folder import VideoFolder

VIDEO_COLUMNS = ("video", "video_id")
SENTENCE_COLUMNS = ("sentence", "caption")
CAPTIONS_FILE = "MSRVTT_data.json"
ACCEPTED = "a table of videos and sentences in UTF-8: CSV, TSV (.tsv), JSON Lines (.jsonl) or a JSON array (.json)"


@dataclass(frozen=True)
class Pair:
    """A video and a sentence that describes it.

    Attributes:
        video: name of the video in its table.
        path: path of its file, which need not exist.
        sentence: the sentence, unchanged.
    """

    video: str
    path: Path
    sentence: str


def read_pairs(
    table: str | os.PathLike[str], videos: str | os.PathLike[str], captions: str | os.PathLike[str] | None = None
) -> list[Pair]:
    """Return the pairs of a table, in its order. A video with several sentences gives as many pairs.

    Args:
        table: one of

            - CSV with a header and the columns ``video`` (or ``video_id``) and ``sentence`` (or ``caption``), such as
              ``MSRVTT_JSFUSION_test.csv``; other columns are ignored;
            - CSV with only ``video_id``, such as ``MSRVTT_train.9k.csv``, whose sentences are in ``captions``;
            - TSV, the same with tabs;
            - JSON Lines, or a JSON array of objects, with the same keys; ``sentence`` may be a list.

            The extension decides the format: ``.tsv``; ``.jsonl`` or ``.ndjson``; ``.json``; CSV for all others.
        videos: folder that the names in the table are relative to. No name may lead out of it.
        captions: ``MSRVTT_data.json``; None looks for it in the folder of the table.

    Raises:
        PairsError: the table is missing, malformed or empty, or a name leads out of ``videos``.
    """
    table, folder = Path(table), Path(videos)
    if not folder.is_dir():
        raise PairsError(f"no folder of videos at {folder}")
    if not table.is_file():
        raise PairsError(f"no table at {table}")
    rows = list(_read_rows(table))
    if rows and all(sentence is None for _, sentence, _ in rows):
        captions = Path(captions) if captions else table.with_name(CAPTIONS_FILE)
        rows = list(_join_captions(rows, captions, table))
    if not rows:
        raise PairsError(f"{table} has no pairs")
    files = VideoFolder(folder)
    pairs = []
    for video, sentence, location in rows:
        if not is_text(video) or not video.strip() or "\0" in video:
            raise PairsError(f"{location}: expected the name of a video, not {brief(video)}")
        if not is_text(sentence):
            raise PairsError(f"{location}: the sentence must be text, not {brief(sentence)}")
        pairs.append(Pair(video, files.find(video, location), sentence))
    return pairs


def find_bad_pairs(pairs: Sequence[Pair], track: Track = no_progress) -> dict[int, str]:
    """Find the pairs that cannot be used. One frame of each video is decoded.

    Args:
        pairs: pairs from :func:`read_pairs`.
        track: progress callback; see :data:`clip4clip.progress.Track`.

    Returns:
        The problem of each bad pair, by the index of the pair: an empty sentence, a missing file, or a file that cannot
        be decoded.
    """
    paths = list(dict.fromkeys(pair.path for pair in pairs))
    with ThreadPoolExecutor() as pool:
        checked = track(pool.map(_decoding_problem, paths), len(paths), "checking all videos")
        problems = dict(zip(paths, checked, strict=True))
    bad = {}
    for index, pair in enumerate(pairs):
        if not pair.sentence.strip():
            bad[index] = f"{pair.video}: its sentence is empty"
        elif problem := problems[pair.path]:
            bad[index] = f"{pair.video}: {problem}"
    return bad


def _decoding_problem(path: Path) -> str | None:
    try:
        next(read_frames(path, None))
    except Clip4clipError as error:
        return str(error)
    return None


def _first_column(columns: Iterable[str], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _read_rows(table: Path) -> Iterator[tuple[Any, Any, str]]:
    """Yield the video, the sentence (None without such a column) and the location of each pair."""
    columns, rows = read_table(table, PairsError, ACCEPTED)
    if columns is None:
        yield from _json_rows(rows)
        return
    video, sentence = _first_column(columns, VIDEO_COLUMNS), _first_column(columns, SENTENCE_COLUMNS)
    if video is None:
        raise PairsError(
            f"{table} needs a header with the columns video and sentence; its first line is {brief(columns)}"
        )
    for row, location in rows:
        if None in row or (sentence and row[sentence] is None):  # type: ignore[comparison-overlap]
            raise PairsError(
                f"{location}: it has more or fewer fields than the header; a sentence with commas needs quotes"
            )
        yield row[video], row[sentence] if sentence else None, location


def _json_rows(rows: Iterable[tuple[Any, str]]) -> Iterator[tuple[Any, Any, str]]:
    for row, location in rows:
        video, sentence = _first_column(row, VIDEO_COLUMNS), _first_column(row, SENTENCE_COLUMNS)
        if video is None or sentence is None:
            raise PairsError(f"{location}: it needs the keys video and sentence, but is {brief(row)}")
        sentences = row[sentence] if isinstance(row[sentence], list) else [row[sentence]]
        if not sentences:
            raise PairsError(f"{location}: its list of sentences is empty")
        for each in sentences:
            yield row[video], each, location


def _join_captions(rows: Iterable[tuple[Any, Any, str]], captions: Path, table: Path) -> Iterator[tuple[Any, Any, str]]:
    """Yield the sentences in ``MSRVTT_data.json`` of the videos in ``MSRVTT_train.9k.csv``."""
    if not captions.is_file():
        raise PairsError(
            f"{table} has no column of sentences, and there is no file {captions}: pass the file of the sentences as "
            "captions"
        )
    try:
        sentences: dict[str, list[str]] = {}
        for entry in json.loads(captions.read_text("utf-8"))["sentences"]:
            sentences.setdefault(entry["video_id"], []).append(entry["caption"])
    except (OSError, RecursionError) as error:
        raise PairsError(f"{captions} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise PairsError(
            f"{captions} is not like MSRVTT_data.json, whose 'sentences' have 'video_id' and 'caption': {error!r}"
        ) from error
    for video, _, location in rows:
        if not isinstance(video, str) or video not in sentences:
            raise PairsError(f"{location}: {captions} has no sentence for {brief(video)}")
        for sentence in sentences[video]:
            yield video, sentence, location
