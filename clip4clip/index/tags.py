"""Tag videos with labels that nobody trained for: each label is a sentence, and the nearest ones are its tags."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..encoder import DEFAULT_ENCODER, EncoderSpec
from ..errors import InputTypeError, InputValueError, ModelMismatchError, brief
from ..progress import Track, no_progress
from .hit import Hit, to_hit
from .values import MAX_STRING_BYTES, TAG_FIELDS, TAG_TEMPLATE, check_min_score, check_text

MAX_LABELS = 10_000
BATCH = 1000  # vectors that are compared at once
DIGITS = 4  # of a score: more differ between machines, and would make the same tags look new


@dataclass(frozen=True)
class Tagged:
    """A video that is not cut, or a segment of one, with its tags.

    Attributes:
        hit: the video or the segment, with the score 1.
        tags: labels with their scores, the best first. There may be none.
    """

    hit: Hit
    tags: tuple[tuple[str, float], ...]

    def fields(self) -> dict[str, Any]:
        """Return the fields that an index stores: ``label``, ``label_score`` and ``labels``; None without tags."""
        if not self.tags:
            return dict.fromkeys(TAG_FIELDS)
        label, score = self.tags[0]
        return dict(zip(TAG_FIELDS, (label, score, [label for label, _ in self.tags]), strict=True))


class Tagger:
    """Compares vectors with labels.

    Args:
        labels: at least two different ones.
        encoder: model that computed the vectors.
        template: sentence with ``{}`` in the place of the label.
        top: largest number of tags of a vector.
        min_score: least score of a tag; None for any.

    Attributes:
        is_softmax: whether scores are shares of 1 that all labels have of a vector, and not cosine similarities. So
            they are if the checkpoint records its logit scale.

    Raises:
        InputTypeError, InputValueError: an argument is invalid.
        UnknownNameError, WeightsNotFoundError, CheckpointError, DeviceError: the encoder cannot be loaded.
    """

    def __init__(
        self,
        labels: Sequence[str],
        encoder: EncoderSpec = DEFAULT_ENCODER,
        template: str = TAG_TEMPLATE,
        top: int = 1,
        min_score: float | None = None,
    ) -> None:
        self._labels = check_labels(labels)
        sentences = _fill(template, self._labels)
        check_min_score(min_score, "a share or a similarity")
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise InputValueError(f"top must be a whole number from 1, not {brief(top)}")
        self._top, self._min_score = top, -np.inf if min_score is None else min_score
        from ..weights.logit_scale import read_logit_scale  # imports torch

        self._scale = read_logit_scale(encoder.checkpoint())
        self._vectors = encoder.text_encoder()(sentences)

    @property
    def is_softmax(self) -> bool:
        """See the attributes of the class."""
        return self._scale is not None

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return the score of each label for each vector, float64 of shape (n, labels).

        Args:
            vectors: float32 of shape (n, dim), norm 1.
        """
        similarities = (vectors @ self._vectors.T).astype(np.float64)
        if self._scale is None:
            return similarities
        logits = self._scale * similarities
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
        return shares

    def __call__(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Tagged]:
        """Yield the rows of a table or an index with their tags. Rows without a vector are left out.

        Args:
            rows: each with ``id`` and ``vector``, float32 of shape (dim,), and any other fields.
        """
        with_vector = (row for row in rows if row.get("vector") is not None)
        while batch := list(itertools.islice(with_vector, BATCH)):
            vectors = np.stack([row["vector"] for row in batch])
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            for row, scores in zip(batch, self.scores(vectors).round(DIGITS), strict=True):
                best = np.argsort(-scores, kind="stable")[: self._top]
                tags = ((self._labels[number], float(scores[number])) for number in best)
                yield Tagged(to_hit(row), tuple(tag for tag in tags if tag[1] >= self._min_score))


def tag_table(
    table: str | os.PathLike[str],
    labels: Sequence[str],
    *,
    template: str = TAG_TEMPLATE,
    top: int = 1,
    min_score: float | None = None,
    encoder: EncoderSpec = DEFAULT_ENCODER,
    track: Track = no_progress,
) -> Iterator[Tagged]:
    """Return an iterator over the videos and segments of a table, with their tags.

    Args:
        table: table written by ``clip4clip embed``.
        labels: at least two different ones.
        template: sentence with ``{}`` in the place of the label.
        top: largest number of tags of each video or segment.
        min_score: least score of a tag; None for any.
        encoder: model of the table. If it names neither a model nor weights, it is the one that the table records.
        track: progress callback; see :data:`clip4clip.progress.Track`.

    Raises:
        LibraryError: the table cannot be read.
        ModelMismatchError: the vectors are from a different model, or different weights, than the encoder.
        InputTypeError, InputValueError: an argument is invalid.
        UnknownNameError, WeightsNotFoundError, CheckpointError, DeviceError: the encoder cannot be loaded.
    """
    from ..library.table import TableSpec, count_rows, read_rows

    spec = TableSpec.read(Path(table))
    encoder = encoder.for_vectors_of(spec.model)
    other = encoder.model_name if encoder.contradicts(spec.model) else encoder.identify()
    if other != spec.model:
        raise ModelMismatchError(
            f"the table {os.fspath(table)} has vectors of {spec.model}, which cannot be compared with labels of {other}"
        )
    tagger = Tagger(labels, encoder, template, top, min_score)
    return tagger(track(read_rows(table), count_rows(table), "tagging"))


def read_labels(file: str | os.PathLike[str]) -> list[str]:
    """Return the labels of a text file in UTF-8, one per line. Space around them, and empty lines at the end, are cut.

    Raises:
        InputValueError: the file is not text in UTF-8; a line is empty or repeats a label; or there are less than two.
        OSError: the file cannot be read.
    """
    path = Path(file)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputValueError(f"{path} is not text in UTF-8: expected one label per line") from error
    # Universal newlines, and no others: str.splitlines would also split at U+2028.
    lines = [line.strip() for line in io.StringIO(text.rstrip(), newline=None)]
    try:
        return check_labels(lines)
    except InputValueError as error:
        raise InputValueError(f"{path}: {error}") from error


def check_labels(labels: Sequence[str]) -> list[str]:
    """Return labels as a list.

    Raises:
        InputTypeError: they are not a list of strings.
        InputValueError: one is empty, too long or a repetition, or there are too few or too many.
    """
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise InputTypeError(f"labels must be a list of strings, not {brief(labels)}")
    numbers: dict[str, int] = {}
    for number, label in enumerate(labels, 1):
        if not check_text(label, f"label {number}").strip():
            raise InputValueError(f"label {number} is empty: remove it, or write a word")
        if len(label.encode()) > MAX_STRING_BYTES:
            raise InputValueError(f"label {number} is longer than {MAX_STRING_BYTES} bytes: {brief(label)}")
        if label in numbers:
            raise InputValueError(f"label {number} is {brief(label)}, as label {numbers[label]} is: remove one of them")
        numbers[label] = number
    if not 2 <= len(numbers) <= MAX_LABELS:
        raise InputValueError(
            f"expected 2 to {MAX_LABELS:,} labels, got {len(numbers)}: a label is chosen from several, such as "
            "'something else'"
        )
    return [*labels]


def _fill(template: str, labels: Sequence[str]) -> list[str]:
    """Return the sentence of each label.

    Raises:
        InputTypeError: the template is not a string.
        InputValueError: the template does not have ``{}`` once.
    """
    if check_text(template, "the template").count("{}") != 1:
        raise InputValueError(f"the template must have {{}} once, in the place of the label, unlike {brief(template)}")
    before, after = template.split("{}")
    return [f"{before}{label}{after}" for label in labels]
