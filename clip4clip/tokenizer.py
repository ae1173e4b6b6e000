"""Text to CLIP token ids: lower-cased byte-pair encoding with 49,408 symbols (arXiv 2103.00020, section 2.4).

The merges table is not ours to ship: it is read from the distribution ``towhee.models``, without importing it.
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

from .errors import WeightsNotFoundError

MERGES_FILE = "towhee/models/clip/bpe_simple_vocab_16e6.txt.gz"
N_BYTES = 256
VOCAB_SIZE = 49_408  # CLIP's; the table lists more merges than it uses
LONGEST_CACHED = 64
BEGINNING = 1024  # characters of a very long word that are looked at first
START, END = "<|startoftext|>", "<|endoftext|>"

# Contractions, letters, single digits and runs of anything else; the two special tokens are understood inside text.
_WORD = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)
_PLAIN = regex.compile(r"[\t\n\r -~]*")
_SPACE = regex.compile(r"\s+")
_NO_CHARACTER = regex.compile(r"&#[0-9]{100,};?")  # Python refuses to read such a number


def clean(text: str, unescape: str | bool = "auto") -> str:
    """``text`` as CLIP reads it: mojibake repaired, entities unescaped twice, white space folded, lower case.

    Args:
        text: of any length.
        unescape: ftfy's ``unescape_html``; its default tells markup from text by a ``<``.
    """
    # In plain ASCII only entities could be repaired. Searches are mostly that, and ftfy takes longer than the rest.
    if "&" in text or not _PLAIN.fullmatch(text):
        import ftfy

        text = ftfy.fix_text(text, unescape_html=unescape)
        for _ in range(2):
            text = html.unescape(_NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", text))
    return _SPACE.sub(" ", text).strip().lower()


def _clean_pieces(text: str) -> Iterator[str]:
    """``clean(text)`` in pieces that end where a line does: of a long text only the beginning is needed.

    Neither a word nor an entity crosses the end of a line, and ftfy repairs line by line.
    """
    start, unescape = 0, True
    while start < len(text):
        end = text.find("\n", start + BEGINNING) + 1 or len(text)
        piece = text[start:end]
        yield clean(piece, "auto" if unescape else False)
        unescape = unescape and "<" not in piece
        start = end


def _byte_symbols() -> list[tuple[int, str]]:
    """The 256 bytes, each with the printable character that stands for it in the table, in the order of their ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(N_BYTES) if byte not in printable]
    return [(byte, chr(byte)) for byte in printable] + [(byte, chr(N_BYTES + n)) for n, byte in enumerate(others)]


class Tokenizer:
    """CLIP's tokenizer. Instances are immutable but for a bounded cache, and safe to use from several threads.

    Args:
        merges: path of ``bpe_simple_vocab_16e6.txt.gz``; None finds the copy in the distribution ``towhee.models``.
        vocab_size: number of ids. A smaller one than CLIP's 49,408 takes the first merges of the table alone, so that
            rare words become more ids.

    Raises:
        WeightsNotFoundError: when the merges table is not there.
    """

    def __init__(self, merges: str | Path | None = None, vocab_size: int = VOCAB_SIZE) -> None:
        symbols = _byte_symbols()
        vocabulary = [symbol for _, symbol in symbols]
        vocabulary += [symbol + "</w>" for symbol in vocabulary]  # the same byte at the end of a word
        ids = {symbol: index for index, symbol in enumerate(vocabulary)}
        # A merged pair takes the next id, so the id of a merge is also its rank.
        self._merges: dict[tuple[int, int], int] = {}
        for left, right in _read_merges(merges, vocab_size - 2 * N_BYTES - 2):
            self._merges[ids[left], ids[right]] = ids[left + right] = len(ids)
        self._byte_ids = [0] * N_BYTES
        for index, (byte, _) in enumerate(symbols):
            self._byte_ids[byte] = index
        self.start_id = len(ids)
        self.end_id = len(ids) + 1
        self._longest = max(len(symbol.removesuffix("</w>")) for symbol in ids)  # of all symbols, in bytes
        self._word_ids = functools.lru_cache(maxsize=65_536)(self._encode_word)

    @property
    def vocab_size(self) -> int:
        """Number of distinct ids: 49,408 for CLIP's table."""
        return self.end_id + 1

    def iter_ids(self, text: str, limit: int | None = None) -> Iterator[int]:
        """The ids of ``text`` without start and end marks, one after the other, as far as the caller asks.

        Args:
            text: of any length.
            limit: how many ids are asked for at most: with it a word of any length costs no more than its beginning.
        """
        for word in itertools.chain.from_iterable(map(_WORD.finditer, _clean_pieces(text))):
            match word.group():
                case token if token == START:
                    yield self.start_id
                case token if token == END:
                    yield self.end_id
                case token:
                    # Only words of a usual length are kept: their number is bounded, so their length must be too.
                    yield from self._word_ids(token) if len(token) <= LONGEST_CACHED else self._long_word(token, limit)

    def encode(self, text: str, context_length: int = 77) -> list[int]:
        """Ids of one caption with its start and end marks, unpadded.

        A caption longer than ``context_length - 2`` ids loses its tail, never its end mark.
        """
        ids = [self.start_id]
        ids += itertools.islice(self.iter_ids(text, context_length - 2), context_length - 2)
        return [*ids, self.end_id]

    def __call__(self, texts: Sequence[str], context_length: int = 77) -> np.ndarray:
        """Ids of a batch: int64 of shape (len(texts), longest), shorter rows filled up with 0.

        The width is that of the longest caption of this batch, at most ``context_length``.
        """
        return self.pad([self.encode(text, context_length) for text in texts])

    @staticmethod
    def pad(rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Rows of ids as one array, int64 of shape (len(rows), longest), shorter rows filled up with 0."""
        batch = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        for row, ids in zip(batch, rows, strict=True):
            row[: len(ids)] = ids
        return batch

    def _long_word(self, word: str, limit: int | None) -> Sequence[int]:
        """The ids of a word or, of one that is very long, at least the first ``limit``.

        No merge crosses the end of an id, so what lies before it has the ids that it would have by itself. An id is at
        most ``self._longest`` bytes long: one ends within the last so many bytes of any beginning of the word. If the
        beginnings that end there all have the same first ids, then the word has them too.
        """
        length = BEGINNING
        while limit is not None and len(word) > length:
            beginning = word[:length].encode("utf-8")
            ends = range(len(beginning) - self._longest, len(beginning))
            ids = {tuple(self._encode_bytes(beginning[:end], ended=False)[:limit]) for end in ends}
            if len(ids) == 1 and len(first := ids.pop()) == limit:
                return first
            length *= 4
        return self._encode_word(word)

    def _encode_word(self, word: str) -> tuple[int, ...]:
        """The ids of a whole word."""
        return self._encode_bytes(word.encode("utf-8"), ended=True)

    def _encode_bytes(self, word: bytes, ended: bool) -> tuple[int, ...]:
        """Byte-pair encoding of a word, or of its beginning: always the lowest merge first, the leftmost of equals.

        A heap over a linked list keeps this O(n log n), so that a megabyte without a space cannot stall a server.
        """
        ids: list[int | None] = [self._byte_ids[byte] for byte in word]
        if ended:
            ids[-1] += N_BYTES  # type: ignore[operator]  # the end-of-word twin of the last byte
        count = len(ids)
        following = list(range(1, count + 1))
        preceding = list(range(-1, count - 1))
        candidates: list[tuple[int, int, int | None, int | None]] = []

        def offer(left: int) -> None:
            if left >= 0 and (right := following[left]) < count:
                merged = self._merges.get((ids[left], ids[right]))  # type: ignore[arg-type]
                if merged is not None:
                    heapq.heappush(candidates, (merged, left, ids[left], ids[right]))

        for position in range(count - 1):
            offer(position)
        while candidates:
            merged, left, left_id, right_id = heapq.heappop(candidates)
            right = following[left]
            if ids[left] != left_id or right >= count or ids[right] != right_id:
                continue  # one of the two has been merged with another neighbour since
            ids[left], ids[right] = merged, None
            following[left] = following[right]
            if following[left] < count:
                preceding[following[left]] = left
            offer(preceding[left])
            offer(left)
        return tuple(token_id for token_id in ids if token_id is not None)


@functools.lru_cache(maxsize=4)
def default_tokenizer(vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """The tokenizer with CLIP's own table, built once per process and size."""
    return Tokenizer(vocab_size=vocab_size)


def _read_merges(path: str | Path | None, count: int) -> list[tuple[str, str]]:
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
            next(lines)  # a version line
            merges = [tuple(line.split()) for line, _ in zip(lines, range(count), strict=False)]
    except (OSError, EOFError) as error:
        raise WeightsNotFoundError(f"cannot read CLIP's merges table at {path}: {error}") from error
    return merges  # type: ignore[return-value]
