"""Compare text towers with sentence-transformers, which needs an environment of its own: the extra ``peers``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from text_towers import TEXTS, distilbert, write_mclip, write_sentence_transformer

from clip4clip import TextEncoder
from clip4clip.config import MODELS, CLIPConfig, Model
from clip4clip.runtime.multilingual import load_tokenizer
from clip4clip.weights.multilingual import find_text_model

sentence_transformers = pytest.importorskip("sentence_transformers")
NAME = "clip_vit_b32_multilingual"
REAL_SIZE = {"dim": 768, "n_heads": 12, "n_layers": 6, "hidden_dim": 3072, "max_position_embeddings": 512}


def assert_same_vectors(ours: np.ndarray, theirs: np.ndarray) -> None:
    reference = theirs / np.linalg.norm(theirs, axis=-1, keepdims=True)
    assert (ours * reference).sum(-1).min() >= 0.99999
    assert np.abs(ours - reference).max() <= 1e-4


def save(folder: Path, base: Path, max_length: int | None, bias: bool = False, safetensors: bool = True) -> Any:
    """Make a text tower of a DistilBERT with sentence-transformers, save it, and return it."""
    from sentence_transformers.models import Dense, Pooling, Transformer

    transformer = Transformer(str(base), max_seq_length=max_length)
    width = transformer.get_embedding_dimension()
    dense = Dense(width, 512, bias=bias, activation_function=torch.nn.Identity())
    model = sentence_transformers.SentenceTransformer(
        modules=[transformer, Pooling(width, "mean"), dense], device="cpu"
    )
    model.save(str(folder), safe_serialization=safetensors)
    return model


@pytest.mark.parametrize("max_length", [16, None])
@pytest.mark.parametrize("safetensors", [True, False])
def test_vectors_equal_those_of_sentence_transformers(
    max_length: int | None, safetensors: bool, tmp_path: Path
) -> None:
    distilbert(tmp_path)
    reference = save(tmp_path / "saved", tmp_path, max_length, bias=not safetensors, safetensors=safetensors)
    encoder = TextEncoder.load(NAME, tmp_path / "saved", "cpu")
    assert encoder.config.context_length == reference.max_seq_length == (max_length or 40)
    assert_same_vectors(encoder(TEXTS), reference.encode(TEXTS))


def test_a_folder_of_its_first_versions_is_read_as_sentence_transformers_does(tmp_path: Path) -> None:
    folder = write_sentence_transformer(tmp_path / "tower", 512, "0_Transformer")
    reference = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    assert_same_vectors(TextEncoder.load(NAME, folder, "cpu")(TEXTS), reference.encode(TEXTS))


@pytest.mark.slow
def test_vectors_of_real_size_equal_those_of_sentence_transformers(tmp_path: Path) -> None:
    distilbert(tmp_path, **REAL_SIZE)
    reference = save(tmp_path / "saved", tmp_path, 128)
    assert_same_vectors(TextEncoder.load(NAME, tmp_path / "saved", "cpu")(TEXTS), reference.encode(TEXTS))


def test_a_model_of_sentencepiece_is_converted_as_transformers_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("sentencepiece", "google.protobuf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    import sentencepiece
    from transformers import XLMRobertaTokenizer

    write_mclip(tmp_path / "tower", 64)
    (tmp_path / "tower" / "tokenizer.json").unlink()
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    prefix = str(tmp_path / "tower" / "sentencepiece.bpe")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "texts.txt"), model_prefix=prefix, vocab_size=80, hard_vocab_limit=False
    )
    monkeypatch.setitem(MODELS, "words", Model(CLIPConfig(embed_dim=64), aligned_with="clip_vit_b32"))  # type: ignore[arg-type]
    tokenizer = load_tokenizer(find_text_model(tmp_path / "tower", "words"), 200)
    reference = XLMRobertaTokenizer.from_pretrained(tmp_path / "tower")
    assert [tokenizer.encode(text, 512) for text in TEXTS] == [reference(text)["input_ids"] for text in TEXTS]
