"""Token ids equal those of the reference implementations, also of long and hostile texts."""

from __future__ import annotations

import gzip
import importlib.util
import tracemalloc
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution
from itertools import islice
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import ftfy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip4clip import CheckpointError, WeightsNotFoundError
from clip4clip.tokenizer import Tokenizer, clean, default_tokenizer

CLIP_FOLDER = Path(str(distribution("towhee.models").locate_file("towhee/models/clip")))


def _reference_module() -> ModuleType:
    """Load OpenAI's tokenizer from towhee.models by its path: importing the package would need torchvision."""
    path = CLIP_FOLDER / "simple_tokenizer.py"
    spec = importlib.util.spec_from_file_location("reference_tokenizer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference() -> Callable[[str], list[int]]:
    return _reference_module().SimpleTokenizer().encode


def test_ids_equal_the_reference_on_thousands_of_strings(reference: Callable, many_strings: list[str]) -> None:
    assert len(set(many_strings)) >= 2000
    ours = default_tokenizer()
    different = [text for text in many_strings if list(ours.iter_ids(text)) != reference(text)]
    assert different == []


@given(st.text(max_size=60))
@settings(max_examples=1000, deadline=None)
def test_ids_equal_the_reference_on_any_text(text: str) -> None:
    assert list(default_tokenizer().iter_ids(text)) == _shared_reference(text)


@given(st.text(alphabet=[chr(code) for code in range(128)], max_size=80))
@settings(max_examples=1500, deadline=None)
def test_ids_equal_the_reference_on_ascii(text: str) -> None:
    assert list(default_tokenizer().iter_ids(text)) == _shared_reference(text)


@given(st.text(alphabet="ab'sthe&;#<|>03 ", max_size=80))
@settings(max_examples=1500, deadline=None)
def test_ids_equal_the_reference_on_text_near_the_rules(text: str) -> None:
    assert list(default_tokenizer().iter_ids(text)) == _shared_reference(text)


@given(st.lists(st.sampled_from(["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'\u017f", "'", "dog", "I", "2"])))
@settings(max_examples=500, deadline=None)
def test_ids_equal_the_reference_on_contractions(parts: list[str]) -> None:
    assert list(default_tokenizer().iter_ids("".join(parts))) == _shared_reference("".join(parts))


_reference_encode: Callable[[str], list[int]] | None = None


def _shared_reference(text: str) -> list[int]:
    global _reference_encode
    _reference_encode = _reference_encode or _reference_module().SimpleTokenizer().encode
    return _reference_encode(text)


def transformers_tokenizer() -> Any:
    """The byte-pair encoder of ``tokenizers``, with the vocabulary of the same merges table."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    with gzip.open(CLIP_FOLDER / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as table:
        merges = [tuple(line.split()) for line in table.read().split("\n")[1:48895]]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=merges)


def test_ids_of_clean_text_equal_those_of_transformers(many_strings: list[str]) -> None:
    # Unlike ours it neither repairs nor unescapes text. Characters that Unicode has not assigned yet are left out: the
    # two are built on different versions of Unicode.
    texts = [text for text in many_strings if all(unicodedata.category(char) != "Cn" for char in clean(text))]
    assert len(texts) >= 2000
    ours, theirs = default_tokenizer(), transformers_tokenizer()
    different = [text for text in texts if [49406, *ours.iter_ids(text), 49407] != theirs(clean(text))["input_ids"]]
    assert different == []


def test_the_ids_of_a_simple_caption() -> None:
    assert default_tokenizer().encode("a photo of a cat") == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert default_tokenizer().vocab_size == 49408


def test_a_smaller_vocabulary_has_the_first_merges_and_its_special_tokens_at_its_end() -> None:
    small, whole = default_tokenizer(8192), default_tokenizer()
    assert small.vocab_size == 8192
    assert small.encode("a photo of a cat") == [8190, *whole.encode("a photo of a cat")[1:-1], 8191]
    rare = small.encode("an elephant")
    assert max(rare) == rare[-1] == 8191
    assert len(rare) > len(whole.encode("an elephant"))  # in more pieces


def test_text_is_cleaned_as_by_clip() -> None:
    assert clean("  L&amp;amp;Ã©on\n\t \u00a0DOG ") == "l&éon dog"


def test_a_batch_is_as_wide_as_its_longest_caption() -> None:
    batch = default_tokenizer()(["a", "a dog runs", ""])
    assert batch.dtype == np.int64
    assert batch.tolist() == [[49406, 320, 49407, 0, 0], [49406, 320, 1929, 5586, 49407], [49406, 49407, 0, 0, 0]]


@pytest.mark.parametrize("words", [74, 75, 76, 500])
def test_a_long_caption_keeps_its_first_tokens_and_the_end_token(words: int) -> None:
    ids = default_tokenizer().encode("dog " * words)
    assert ids == [49406, *[1929] * min(words, 75), 49407]


def test_an_end_token_inside_a_caption_is_recognised() -> None:
    assert default_tokenizer().encode("a <|endoftext|> b") == [49406, 320, 49407, 321, 49407]


def test_a_megabyte_without_a_space_is_truncated_like_any_text(reference: Callable) -> None:
    ids = default_tokenizer().encode("ab" * 500_000)
    assert ids == [49406, *reference("ab" * 500)[:75], 49407]
    assert list(default_tokenizer().iter_ids("abcde" * 400)) == reference("abcde" * 400)


@pytest.mark.parametrize("unit", ["ab", "a", "haha", "é", "😂😂😍", "antidisestablishmentarianism", "qzxj"])
@pytest.mark.parametrize("length", [700, 1025, 5000])
def test_a_very_long_word_has_the_first_ids_of_the_reference(unit: str, length: int, reference: Callable) -> None:
    word = (unit * length)[:length]
    assert default_tokenizer().encode(word) == [49406, *reference(word)[:75], 49407]


@given(st.integers(0), st.integers(1030, 1400), st.integers(1, 120))
@settings(max_examples=25, deadline=None)
def test_the_first_ids_of_a_long_word_are_those_of_the_whole(seed: int, length: int, count: int) -> None:
    word = "".join(Random(seed).choices("abehimnorst", k=length))
    tokenizer = default_tokenizer()
    ids = list(tokenizer.iter_ids(word))
    assert list(islice(tokenizer.iter_ids(word, count), count)) == ids[:count]


@pytest.mark.parametrize("text", ["ab" * 5_000_000, "é\n" * 3_000_000, " \n" * 4_000_000 + "dog"])
def test_only_the_beginning_of_ten_megabytes_is_encoded(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, repaired = [], []
    encode, fix_text = Tokenizer._encode_bytes, ftfy.fix_text
    monkeypatch.setattr(
        Tokenizer,
        "_encode_bytes",
        lambda self, word, is_whole: encoded.append(len(word)) or encode(self, word, is_whole),
    )
    monkeypatch.setattr(
        "ftfy.fix_text", lambda text, **options: repaired.append(len(text)) or fix_text(text, **options)
    )
    default_tokenizer().encode(text)
    assert sum(encoded) < 500_000
    assert sum(repaired) < 500_000


@given(st.lists(st.sampled_from(["<b>", "&amp;amp;lt;", "&lt", "dog", "Ã©", "\r", "ΑΣ", "x" * 600, "\n", "\n", " "])))
@settings(max_examples=300, deadline=None)
def test_a_text_of_many_lines_has_the_ids_of_the_reference(parts: list[str]) -> None:
    text = "".join(parts)
    assert list(default_tokenizer().iter_ids(text)) == _shared_reference(text)


def test_long_words_are_not_cached() -> None:
    tokenizer = Tokenizer()
    tracemalloc.start()
    for count in range(10):
        tokenizer.encode("xq" * 5_000 + "x" * count)
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert memory < 500_000


def test_lone_surrogates_are_accepted() -> None:
    assert default_tokenizer().encode("\ud800 dog")[-2:] == [1929, 49407]


def test_an_entity_that_names_no_character_becomes_a_replacement_character() -> None:
    for digits in (10, 90, 200, 5000):
        for entity in (f"&#{'9' * digits};", f"&amp;#{'9' * digits};", f"&#{'9' * digits}"):
            assert clean(f"a dog {entity} runs") == "a dog \ufffd runs"


def test_eight_threads_get_the_same_ids(many_strings: list[str]) -> None:
    tokenizer = Tokenizer()
    texts = many_strings[:400]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(tokenizer.encode, texts * 4))
    assert together == [default_tokenizer().encode(text) for text in texts] * 4


def test_a_missing_or_damaged_merges_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"merges table at .*nowhere\.gz"):
        Tokenizer(tmp_path / "nowhere.gz")
    (tmp_path / "not.gz").write_text("no gzip")
    with pytest.raises(WeightsNotFoundError, match=r"not\.gz"):
        Tokenizer(tmp_path / "not.gz")


@pytest.mark.parametrize("vocab_size", [513, 49_409])
def test_a_vocabulary_that_is_not_clips_is_refused(vocab_size: int) -> None:
    with pytest.raises(CheckpointError, match=r"CLIP's tokenizer has 514 to 49,408: .*another tokenizer"):
        default_tokenizer(vocab_size)
