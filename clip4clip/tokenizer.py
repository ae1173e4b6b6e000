"""Convert text to CLIP's token ids: lower-cased byte-pair encoding with 49,408 symbols (arXiv 2103.00020, section 2.4).

This package does not contain the merges table. It is read from the distribution ``towhee.models``, which is not
imported.
"""

from __future__ import annotations

import functools
import gzip
import heapq
import html
import itertools
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import regex

from .errors import CheckpointError, WeightsNotFoundError

MERGES_FILE = "towhee/models/clip/bpe_simple_vocab_16e6.txt.gz"
N_BYTES = 256
MIN_VOCAB_SIZE = 2 * N_BYTES + 2  # each byte within and at the end of a word, the start and the end token
VOCAB_SIZE = 49_408  # of CLIP; the table lists more merges than CLIP uses
MAX_CACHED_WORD = 64  # characters of the longest word whose ids are cached, to limit the memory of the cache
FIRST_CHUNK = 1024  # characters of a long text or word that are encoded first; often they suffice
START_TOKEN, END_TOKEN = "<|startoftext|>", "<|endoftext|>"

# A word is a special token, a contraction, a run of letters, a single digit, or a run of other characters.
_WORD = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)
_ASCII = regex.compile(r"[\t\n\r -~]*")
_WHITE_SPACE = regex.compile(r"\s+")
_ENDLESS_ENTITY = regex.compile(r"&#[0-9]{100,};?")  # Python refuses to parse a number of so many digits


def clean(text: str, unescape: str | bool = "auto") -> str:
    """Normalise a text as CLIP does: repair mojibake, unescape HTML entities twice, fold white space, lower the case.

    Args:
        text: of any length.
        unescape: ftfy's ``unescape_html``. ``"auto"`` leaves entities alone if the text contains a ``<``.
    """
    # ASCII without an ampersand needs no repair. Most queries are like this, and ftfy takes longer than all else.
    if "&" in text or not _ASCII.fullmatch(text):
        import ftfy

        text = ftfy.fix_text(text, unescape_html=unescape)
        for _ in range(2):
            text = html.unescape(_ENDLESS_ENTITY.sub("\N{REPLACEMENT CHARACTER}", text))
    return _WHITE_SPACE.sub(" ", text).strip().lower()


def _clean_pieces(text: str) -> Iterator[str]:
    """Yield ``clean(text)`` in pieces, so that a caller who needs only the first ids does not clean a long text.

    A piece ends at the end of a line: neither a word nor an entity goes beyond it, and ftfy repairs line by line.
    """
    start, has_markup = 0, False
    while start < len(text):
        end = text.find("\n", start + FIRST_CHUNK) + 1 or len(text)
        piece = text[start:end]
        yield clean(piece, False if has_markup else "auto")
        has_markup = has_markup or "<" in piece
        start = end


def _byte_symbols() -> list[tuple[int, str]]:
    """Return the 256 bytes in the order of their ids, each with the printable character that the table has for it."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(N_BYTES) if byte not in printable]
    return [(byte, chr(byte)) for byte in printable] + [(byte, chr(N_BYTES + n)) for n, byte in enumerate(others)]


class Tokenizer:
    """CLIP's tokenizer. An instance can be used by several threads at once.

    Args:
        merges: path of ``bpe_simple_vocab_16e6.txt.gz``. None for the copy in the distribution ``towhee.models``.
        vocab_size: number of distinct ids, at most CLIP's 49,408. With fewer, only the first merges of the table are
            used, and rare words are split into more ids.

    Attributes:
        start_id: id of the start token.
        end_id: id of the end token (EOT).

    Raises:
        WeightsNotFoundError: the merges table is missing or cannot be read.
    """

    def __init__(self, merges: str | Path | None = None, vocab_size: int = VOCAB_SIZE) -> None:
        vocabulary, pairs = read_vocabulary(vocab_size, merges)
        ids = {symbol: index for index, symbol in enumerate(vocabulary)}
        # A merged pair with a lower id also has a higher priority.
        self._merges = {(ids[left], ids[right]): ids[left + right] for left, right in pairs}
        self._byte_ids = [0] * N_BYTES
        for index, (byte, _) in enumerate(_byte_symbols()):
            self._byte_ids[byte] = index
        self.start_id, self.end_id = len(vocabulary) - 2, len(vocabulary) - 1
        self._max_symbol_bytes = max(len(symbol.removesuffix("</w>")) for symbol in vocabulary[:-2])
        self._encode_cached = functools.lru_cache(maxsize=65_536)(self._encode_word)

    @property
    def vocab_size(self) -> int:
        """Number of distinct ids, the start and end tokens included."""
        return self.end_id + 1

    def iter_ids(self, text: str, limit: int | None = None) -> Iterator[int]:
        """Yield the ids of a text, without start and end tokens. Text is processed only as far as ids are taken.

        Args:
            text: of any length.
            limit: the most ids that the caller takes. With it, the end of a very long word is not processed either.
        """
        for match in itertools.chain.from_iterable(map(_WORD.finditer, _clean_pieces(text))):
            word = match.group()
            if word == START_TOKEN:
                yield self.start_id
            elif word == END_TOKEN:
                yield self.end_id
            elif len(word) <= MAX_CACHED_WORD:
                yield from self._encode_cached(word)
            else:
                yield from self._encode_long_word(word, limit)

    def encode(self, text: str, context_length: int = 77) -> list[int]:
        """Return the ids of one text with start and end tokens, without padding.

        A text of more than ``context_length - 2`` ids is truncated. The end token is always the last id.
        """
        ids = [self.start_id]
        ids += itertools.islice(self.iter_ids(text, context_length - 2), context_length - 2)
        return [*ids, self.end_id]

    def __call__(self, texts: Sequence[str], context_length: int = 77) -> np.ndarray:
        """Return the ids of several texts as :meth:`encode` and :meth:`pad` do.

        Returns:
            int64 array of shape (len(texts), L), where L is the length of the longest text, at most ``context_length``.
        """
        return self.pad([self.encode(text, context_length) for text in texts])

    @staticmethod
    def pad(rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Return rows of ids as an int64 array of shape (len(rows), longest row), with 0 after the end of each row."""
        batch = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        for row, ids in zip(batch, rows, strict=True):
            row[: len(ids)] = ids
        return batch

    def _encode_long_word(self, word: str, limit: int | None) -> Sequence[int]:
        """Return the ids of a word; of a very long one only the first ``limit``, if its first characters suffice.

        If two ids of the word meet at a byte, the ids before it depend only on the bytes before it. An id stands for at
        most ``_max_symbol_bytes`` bytes, so two ids meet at one of the last ``_max_symbol_bytes`` bytes of any prefix.
        If the prefixes that end at each of these bytes all begin with the same ids, the word begins with them, too.
        """
        length = FIRST_CHUNK
        while limit is not None and len(word) > length:
            prefix = word[:length].encode("utf-8")
            ends = range(len(prefix) - self._max_symbol_bytes, len(prefix))
            first_ids = {self._encode_bytes(prefix[:end], is_whole=False)[:limit] for end in ends}
            if len(first_ids) == 1 and len(ids := first_ids.pop()) == limit:
                return ids
            length *= 4
        return self._encode_word(word)

    def _encode_word(self, word: str) -> tuple[int, ...]:
        """Return the ids of a whole word."""
        return self._encode_bytes(word.encode("utf-8"), is_whole=True)

    def _encode_bytes(self, word: bytes, is_whole: bool) -> tuple[int, ...]:
        """Return the ids of a word or of a prefix of a word, by byte-pair encoding.

        The pair of neighbours with the lowest id in the table is merged, the leftmost if there are several, until no
        pair is in the table. A heap of the pairs and a linked list of the ids keep this O(n log n), so that a
        megabyte without a space cannot stall a server.
        """
        ids: list[int | None] = [self._byte_ids[byte] for byte in word]
        if is_whole:
            ids[-1] += N_BYTES  # type: ignore[operator]  # the id of the last byte at the end of a word
        count = len(ids)
        # A merged id stays at the position of its left part. These are the neighbours of each position.
        next_position = list(range(1, count + 1))
        previous_position = list(range(-1, count - 1))
        pairs: list[tuple[int, int, int | None, int | None]] = []  # merged id, left position, left id, right id

        def push_pair(left: int) -> None:
            if left >= 0 and (right := next_position[left]) < count:
                merged = self._merges.get((ids[left], ids[right]))  # type: ignore[arg-type]
                if merged is not None:
                    heapq.heappush(pairs, (merged, left, ids[left], ids[right]))

        for position in range(count - 1):
            push_pair(position)
        while pairs:
            merged, left, left_id, right_id = heapq.heappop(pairs)
            right = next_position[left]
            if ids[left] != left_id or right >= count or ids[right] != right_id:
                continue  # outdated: one of the two was merged with its other neighbour
            ids[left], ids[right] = merged, None
            next_position[left] = next_position[right]
            if next_position[left] < count:
                previous_position[next_position[left]] = left
            push_pair(previous_position[left])
            push_pair(left)
        return tuple(token_id for token_id in ids if token_id is not None)


@functools.lru_cache(maxsize=4)
def default_tokenizer(vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Return the tokenizer with CLIP's own merges table. It is built once per process and size.

    Raises:
        CheckpointError: CLIP's tokenizer cannot have so many ids: the network was trained with another one.
        WeightsNotFoundError: the merges table is missing or cannot be read.
    """
    if not MIN_VOCAB_SIZE <= vocab_size <= VOCAB_SIZE:
        raise CheckpointError(
            f"the network has a vocabulary of {vocab_size:,} tokens, and CLIP's tokenizer has {MIN_VOCAB_SIZE:,} to "
            f"{VOCAB_SIZE:,}: it was trained with another tokenizer, which is not supported"
        )
    return Tokenizer(vocab_size=vocab_size)


def read_vocabulary(
    vocab_size: int = VOCAB_SIZE, path: str | Path | None = None
) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the symbol of each id, and the pairs of symbols that are merged, those with the highest priority first.

    Args:
        vocab_size: number of distinct ids, at most CLIP's 49,408.
        path: path of ``bpe_simple_vocab_16e6.txt.gz``. None for the copy in the distribution ``towhee.models``.

    Raises:
        WeightsNotFoundError: the merges table is missing or cannot be read.
    """
    symbols = [symbol for _, symbol in _byte_symbols()]
    merges = _read_merges(path, vocab_size - 2 * N_BYTES - 2)
    symbols += [symbol + "</w>" for symbol in symbols]  # the same byte at the end of a word
    return [*symbols, *(left + right for left, right in merges), START_TOKEN, END_TOKEN], merges


def _read_merges(path: str | Path | None, count: int) -> list[tuple[str, str]]:
    """Return the first merges of a table, each a pair of symbols.

    Raises:
        WeightsNotFoundError: the table is missing or cannot be read.
    """
    if path is None:
        try:
            path = Path(str(distribution("towhee.models").locate_file(MERGES_FILE)))
        except PackageNotFoundError as error:
            raise WeightsNotFoundError(
                "CLIP's merges table comes with the distribution towhee.models, which is not installed: "
                "pip install towhee.models"
            ) from error
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            next(lines)  # the version of the format
            merges = [tuple(line.split()) for line, _ in zip(lines, range(count), strict=False)]
    except (OSError, EOFError) as error:
        raise WeightsNotFoundError(f"cannot read CLIP's merges table at {path}: {error}") from error
    return merges  # type: ignore[return-value]
