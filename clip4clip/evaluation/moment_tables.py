"""Read annotated moments: QVHighlights, Charades-STA, ActivityNet Captions, DiDeMo, or any table with times."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..errors import PairsError, brief
from .tables import array_items, csv_rows, explained_read_errors, is_text, parsed_lines
from .video_folder import VIDEO_EXTENSIONS, VideoFolder

VIDEO_KEYS = ("video", "video_id", "vid")
SENTENCE_KEYS = ("sentence", "caption", "query")
ACCEPTED = (
    "moments in UTF-8: a CSV, TSV or JSON Lines table with the columns video, sentence, start and end, or a file of "
    "QVHighlights, Charades-STA, ActivityNet Captions or DiDeMo, as published"
)
CHUNK_SECONDS, CHUNKS = 5.0, 6  # DiDeMo: its videos are cut into chunks and end after 30 s
ANNOTATORS = 2  # how many annotators of DiDeMo must agree with a prediction


@dataclass(frozen=True)
class MomentQuery:
    """A sentence and the moments of a video that it describes.

    Attributes:
        video: name of the video in its table.
        path: absolute path of its file, which need not exist.
        sentence: the sentence, unchanged.
        windows: start and end of each moment in seconds.
        agreement: None if each window is a moment. A number if the windows are what several annotators marked for one
            moment: a prediction matches the moment if it matches so many of the windows.
    """

    video: str
    path: Path
    sentence: str
    windows: tuple[tuple[float, float], ...]
    agreement: int | None = None


class _Entry(NamedTuple):
    """An entry of a table, not checked yet."""

    video: Any
    sentence: Any
    windows: Any  # pairs of a start and an end
    location: str
    agreement: int | None = None


def read_moments(
    table: str | os.PathLike[str], videos: str | os.PathLike[str], left_out: dict[str, str] | None = None
) -> list[MomentQuery]:
    """Return the sentences of a table and the moments that they describe, in the order of the table.

    The content decides the format, whatever the extension:

    - QVHighlights (arXiv 2107.09609), JSON Lines: ``vid``, ``query`` and ``relevant_windows``, a list of ``[start,
      end]``. The test split is published without windows;
    - Charades-STA (arXiv 1705.02101), text: ``video start end##sentence`` in each line;
    - ActivityNet Captions (arXiv 1705.00754), one JSON object: ``timestamps`` and ``sentences`` of each video;
    - DiDeMo (arXiv 1708.01641), a JSON array: ``video``, ``description`` and ``times``, the first and the last chunk of
      5 s that each annotator marked. As in arXiv 1907.12763, a prediction must match two of the annotators;
    - CSV or TSV with a header, JSON Lines, or a JSON array: ``video``, ``sentence``, ``start`` and ``end``; other
      columns are ignored. Rows with the same video and sentence are one query with several moments.

    Times are in seconds; those below 0 are taken as 0.

    Args:
        table: a UTF-8 file.
        videos: folder that the names in the table are relative to, with or without extension. No name may lead out of
            it.
        left_out: receives the problem of each entry with an empty sentence, or with a window that does not end after
            its start, by its location; the published files have some. Without it, such an entry raises PairsError.

    Raises:
        PairsError: the table is missing, malformed or has no moment, or a name leads out of ``videos``.
    """
    table, folder = Path(table), Path(videos)
    if not folder.is_dir():
        raise PairsError(f"no folder of videos at {folder}")
    if not table.is_file():
        raise PairsError(f"no table at {table}")
    with explained_read_errors(table, PairsError, ACCEPTED):
        entries = list(_entries(table, table.read_text("utf-8-sig")))
    problems: dict[str, str] = {}
    files = VideoFolder(folder)
    queries = [query for entry in entries if (query := _check(entry, files, problems))]
    if problems and left_out is None:
        raise PairsError(next(iter(problems.values())))
    if not queries:
        raise PairsError(next(iter(problems.values()), f"{table} has no moments. Expected {ACCEPTED}"))
    if left_out is not None:
        left_out.update(problems)
    return queries


def _entries(table: Path, text: str) -> Iterator[_Entry]:
    """Yield the entries of a table, in the format that its content has."""
    start = text.lstrip()
    first_line = start.partition("\n")[0]
    if start.startswith("["):
        return _object_entries(array_items(table, text, PairsError))
    if start.startswith("{"):
        if (annotations := _parse_activitynet(table, text, first_line)) is not None:
            return _activitynet_entries(table, annotations)
        return _object_entries(parsed_lines(table, io.StringIO(text), PairsError))
    if "##" in first_line:
        return _charades_entries(table, text)
    return _csv_entries(table, text, is_tsv="\t" in first_line)


def _parse_activitynet(table: Path, text: str, first_line: str) -> Mapping[str, Any] | None:
    """Return the object that a file consists of if it is like that of ActivityNet Captions, else None."""
    try:
        is_lines = any(key in json.loads(first_line) for key in VIDEO_KEYS)
    except ValueError:  # the object goes over several lines
        is_lines = False
    if is_lines:
        return None
    try:
        annotations = json.loads(text)
    except ValueError as error:
        if first_line.rstrip().endswith("}"):
            return None  # JSON Lines, whose own error names the line
        raise PairsError(f"{table} is not JSON: {error}") from error
    return annotations if isinstance(annotations, Mapping) else None


def _activitynet_entries(table: Path, annotations: Mapping[str, Any]) -> Iterator[_Entry]:
    for video, annotation in annotations.items():
        location = f"{table}, {brief(video)}"
        timestamps, sentences = (
            annotation.get(key) if isinstance(annotation, Mapping) else None for key in ("timestamps", "sentences")
        )
        if not isinstance(timestamps, list) or not isinstance(sentences, list) or len(timestamps) != len(sentences):
            raise PairsError(
                f"{location}: expected as many timestamps as sentences, as in ActivityNet Captions, not "
                f"{brief(annotation)}"
            )
        for number, (window, sentence) in enumerate(zip(timestamps, sentences, strict=True), 1):
            yield _Entry(video, sentence, [window], f"{location}, sentence {number}")


def _charades_entries(table: Path, text: str) -> Iterator[_Entry]:
    for number, line in enumerate(io.StringIO(text), 1):
        if not line.strip():
            continue
        moment, _, sentence = line.partition("##")
        fields = moment.rsplit(maxsplit=2)
        if len(fields) != 3:
            raise PairsError(
                f"{table}, line {number}: expected `video start end##sentence`, as in Charades-STA, not "
                f"{brief(line.strip())}"
            )
        yield _Entry(fields[0], sentence.strip(), [fields[1:]], f"{table}, line {number}")


def _csv_entries(table: Path, text: str, is_tsv: bool) -> Iterator[_Entry]:
    columns, rows = csv_rows(table, io.StringIO(text), is_tsv)
    if not all(_key(columns, names) for names in (VIDEO_KEYS, SENTENCE_KEYS, ("start",), ("end",))):
        raise PairsError(
            f"{table} needs a header with the columns video, sentence, start and end; its first line is "
            f"{brief(columns)}. Expected {ACCEPTED}"
        )
    for row, location in rows:
        if None in row or None in row.values():  # type: ignore[comparison-overlap]
            raise PairsError(
                f"{location}: it has more or fewer fields than the header; a sentence with commas needs quotes"
            )
    return _object_entries(rows)


def _object_entries(items: Iterable[tuple[Any, str]]) -> Iterator[_Entry]:
    """Yield the entries of QVHighlights, of DiDeMo, or of a table with times."""
    moments: dict[tuple[Any, Any], list[Sequence[Any]]] = {}  # windows by video and sentence, of a table with times
    for item, location in items:
        if not isinstance(item, Mapping):
            raise PairsError(f"{location}: expected an object with keys, not {brief(item)}. Expected {ACCEPTED}")
        video = item.get(_key(item, VIDEO_KEYS))
        if "times" in item and "description" in item:
            windows = _didemo_windows(item["times"], location)
            yield _Entry(video, item["description"], windows, location, min(ANNOTATORS, len(windows)))
            continue
        sentence = item.get(_key(item, SENTENCE_KEYS))
        if "relevant_windows" in item:
            yield _Entry(video, sentence, item["relevant_windows"], location)
        elif "start" in item and "end" in item:
            window = (item["start"], item["end"])
            if not is_text(video) or not is_text(sentence):
                yield _Entry(video, sentence, [window], location)  # the check says what is wrong with it
            elif (video, sentence) in moments:
                moments[video, sentence].append(window)
            else:
                moments[video, sentence] = [window]
                yield _Entry(video, sentence, moments[video, sentence], location)
        else:
            raise PairsError(
                f"{location}: it has no times: expected relevant_windows, times, or start and end, but its keys are "
                f"{brief(list(item))}. Files of a test split are often published without them"
            )


def _key(keys: Iterable[str], names: Sequence[str]) -> str:
    """Return the first of some names that is a key, or an empty string."""
    return next((name for name in names if name in keys), "")


def _didemo_windows(times: Any, location: str) -> list[tuple[float, float]]:
    """Return what each annotator marked, in seconds, from the numbers of the first and the last chunk."""
    windows = []
    for chunks in times if isinstance(times, list) else [times]:
        is_pair = isinstance(chunks, list) and len(chunks) == 2 and all(type(chunk) is int for chunk in chunks)
        if not is_pair or not 0 <= chunks[0] <= chunks[1] < CHUNKS:
            raise PairsError(
                f"{location}: expected the numbers of the first and the last chunk, from 0 to {CHUNKS - 1}, as in "
                f"DiDeMo, not {brief(chunks)}"
            )
        windows.append((CHUNK_SECONDS * chunks[0], CHUNK_SECONDS * (chunks[1] + 1)))
    return windows


def _check(entry: _Entry, files: VideoFolder, problems: dict[str, str]) -> MomentQuery | None:
    """Return the query of an entry; None for one that must be left out, whose problem ``problems`` then receives.

    Raises:
        PairsError: the entry is malformed.
    """
    video, sentence, _, location, agreement = entry
    if not is_text(video) or not video.strip() or "\0" in video:
        raise PairsError(f"{location}: expected the name of a video, not {brief(video)}")
    if not is_text(sentence):
        raise PairsError(f"{location}: the sentence must be text, not {brief(sentence)}")
    if not isinstance(entry.windows, list) or not entry.windows:
        raise PairsError(f"{location}: expected a list of windows, [start, end], not {brief(entry.windows)}")
    windows = [_parse_window(window, location) for window in entry.windows]
    if not sentence.strip():
        problems[location] = f"{location}: its sentence is empty"
    elif empty := [window for window in windows if window[0] >= window[1]]:
        problems[location] = "{}: its window does not end after its start: {:g} s to {:g} s".format(location, *empty[0])
    else:
        return MomentQuery(video, _find(files, video, location), sentence, tuple(windows), agreement)
    return None


def _parse_window(window: Any, location: str) -> tuple[float, float]:
    """Return the start and the end in seconds, at least 0."""
    seconds = [math.nan]
    if isinstance(window, list | tuple) and len(window) == 2 and not any(isinstance(time, bool) for time in window):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            seconds = [float(time) for time in window]
    if not all(map(math.isfinite, seconds)):
        raise PairsError(f"{location}: expected a start and an end in seconds, not {brief(window)}")
    start, end = (max(time, 0.0) for time in seconds)
    return start, end


def _find(files: VideoFolder, video: str, location: str) -> Path:
    """Return the path of a video. DiDeMo's names have extensions that the files need not have."""
    path = files.find(video, location)
    name = PurePosixPath(video)
    if not os.path.isfile(path) and name.suffix.lower() in VIDEO_EXTENSIONS:
        other = files.find(str(name.with_suffix("")), location)
        path = other if os.path.isfile(other) else path
    return Path(os.path.normpath(path.absolute()))
