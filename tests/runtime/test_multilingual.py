"""Text towers of other languages give the vectors that their networks give in transformers.

test_peers_multilingual.py compares with sentence-transformers itself.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from text_towers import MAX_LENGTH, TEXTS, write_json, write_mclip, write_sentence_transformer
from transformers import DistilBertModel, DistilBertTokenizerFast, XLMRobertaTokenizer

from clip4clip import CheckpointError, MissingExtraError, TextEncoder
from clip4clip.config import CLIPConfig
from clip4clip.runtime import multilingual
from clip4clip.runtime.multilingual import MultilingualTower, load_text_tower, load_tokenizer
from clip4clip.runtime.placement import Placement
from clip4clip.weights.multilingual import TextModelFiles, read_text_model

DIM = 32


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentence_transformer(tmp_path_factory.mktemp("towers") / "sentence_transformer", DIM)


def files_in(folder: Path) -> TextModelFiles:
    return read_text_model(lambda name: folder / name if (folder / name).is_file() else None, str(folder))


def load(folder: Path, precision: str = "float32") -> MultilingualTower:
    return load_text_tower(files_in(folder), Placement("torch", "cpu", precision))


def encoder_of(tower: MultilingualTower) -> TextEncoder:
    return TextEncoder(tower, CLIPConfig(context_length=tower.max_length), tower.tokenizer)


@torch.inference_mode()
def mean_and_projection(
    transformer: Any, tokenizer: Any, projection: Callable[[torch.Tensor], torch.Tensor]
) -> np.ndarray:
    """Return unit vectors as both reference implementations compute them: padded to the longest, mean over the mask."""
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    batch.pop("token_type_ids", None)
    states = transformer(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return F.normalize(projection((states * mask).sum(1) / mask.sum(1)), dim=-1).numpy()


def assert_same_vectors(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert (ours * theirs).sum(-1).min() >= 0.99999
    assert np.abs(ours - theirs).max() <= 1e-4


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("transformer", ["", "0_Transformer"])
def test_a_text_tower_of_sentence_transformers_equals_its_network(
    transformer: str, pickled: bool, tmp_path: Path
) -> None:
    folder = write_sentence_transformer(tmp_path / "tower", DIM, transformer, pickled)
    twin = write_sentence_transformer(tmp_path / "twin", DIM)
    weight = load_file(twin / "2_Dense" / "model.safetensors")["linear.weight"]
    reference = mean_and_projection(
        DistilBertModel.from_pretrained(twin),
        DistilBertTokenizerFast.from_pretrained(twin),
        lambda mean: mean @ weight.T,
    )
    assert_same_vectors(encoder_of(load(folder))(TEXTS), reference)


@pytest.mark.parametrize("pickled", [False, True])
def test_a_text_tower_of_mclip_equals_its_network(pickled: bool, tmp_path: Path) -> None:
    transformer, projection = write_mclip(tmp_path / "tower", DIM, pickled)
    tokenizer = XLMRobertaTokenizer.from_pretrained(tmp_path / "tower")
    reference = mean_and_projection(transformer, tokenizer, projection)
    assert_same_vectors(encoder_of(load(tmp_path / "tower"))(TEXTS), reference)


def test_the_vector_of_a_text_does_not_depend_on_its_batch(distilbert: Path) -> None:
    encoder = encoder_of(load(distilbert))
    assert_same_vectors(encoder(TEXTS), np.stack([encoder(text) for text in TEXTS]))


def test_a_long_text_is_cut_and_still_ends_with_the_end_token(distilbert: Path) -> None:
    tower = load(distilbert)
    ids = tower.tokenizer.encode("dog " * 100, tower.max_length)
    end = tower.tokenizer.encode("", tower.max_length)[-1]
    assert (len(ids), ids[-1]) == (MAX_LENGTH, end)
    assert ids[:-1] == tower.tokenizer.encode("dog " * 30, tower.max_length)[:-1]
    assert len(tower.tokenizer.encode("dog " * 100, 5)) == 5


def test_half_precision_gives_nearly_the_same_vectors(distilbert: Path) -> None:
    exact = encoder_of(load(distilbert))(TEXTS)
    for precision in ("bfloat16", "float16"):
        vectors = encoder_of(load(distilbert, precision))(TEXTS)
        assert (vectors.dtype, bool(((vectors * exact).sum(-1) > 0.99).all())) == (np.dtype(np.float32), True)


def test_a_text_tower_can_be_sent_to_another_process(distilbert: Path) -> None:
    tower = load(distilbert)
    copy = pickle.loads(pickle.dumps(tower))
    np.testing.assert_allclose(encoder_of(copy)(TEXTS), encoder_of(tower)(TEXTS), atol=1e-6)
    assert copy.max_length == tower.max_length


def test_a_list_of_word_pieces_is_as_good_as_a_tokenizer_file(distilbert: Path) -> None:
    files = files_in(distilbert)
    lists = replace(files, tokenizer=distilbert / "vocab.txt")
    from_list, from_file = (load_tokenizer(each, files.sizes["vocab_size"]) for each in (lists, files))
    assert [from_list.encode(text, MAX_LENGTH) for text in TEXTS] == [
        from_file.encode(text, MAX_LENGTH) for text in TEXTS
    ]


def test_a_model_of_sentencepiece_says_which_packages_it_needs(distilbert: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("sentencepiece"):
        pytest.skip("sentencepiece is installed")
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"")
    files = replace(files_in(distilbert), tokenizer=tmp_path / "sentencepiece.bpe.model")
    with pytest.raises(MissingExtraError, match="pip install sentencepiece protobuf"):
        load_tokenizer(files, 100)


def test_without_transformers_the_message_names_the_extra(distilbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multilingual, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"towhee-clip4clip\[multilingual\]"):
        load(distilbert)


BROKEN_TOKENIZERS: dict[str, Callable[[str], str]] = {
    "cannot be read as a tokenizer": lambda text: text[: len(text) // 2],
    "has the id 90000": lambda text: text.replace('"id": 4,', '"id": 90000,').replace('"[MASK]": 4', '"[MASK]": 90000'),
    "not as a start token and an end token": lambda text: (
        text[: text.index('"post_processor"')] + '"post_processor": null,' + text[text.index('"decoder"') :]
    ),
    "lowercase is True, but do_lower_case is False": lambda text: text.replace(
        '"lowercase": false', '"lowercase": true'
    ),
}


@pytest.mark.parametrize("message", BROKEN_TOKENIZERS)
def test_a_tokenizer_that_does_not_fit_is_refused(message: str, tmp_path: Path) -> None:
    folder = write_sentence_transformer(tmp_path / "tower", DIM)
    path = folder / "tokenizer.json"
    path.write_text(BROKEN_TOKENIZERS[message](path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize("table", [b"", b"\xff" * 4, (256).to_bytes(4, "little") + bytes(range(256)) + b"abc"])
def test_a_damaged_table_of_characters_is_refused_although_rust_panics(table: bytes, tmp_path: Path) -> None:
    write_mclip(tmp_path / "tower", DIM)
    path = tmp_path / "tower" / "tokenizer.json"
    normalizer = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"normalizer": normalizer})
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        encoder_of(load(tmp_path / "tower"))(TEXTS)


def test_tensors_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    folder = write_sentence_transformer(tmp_path / "tower", DIM)
    config = (folder / "config.json").read_text()
    for name, value, message in (
        ("n_layers", 3, "lacks"),
        ("hidden_dim", 81, "lin1.weight"),
        ("n_heads", 5, "holds no network"),
    ):
        old = {"n_layers": 2, "hidden_dim": 80, "n_heads": 3}[name]
        (folder / "config.json").write_text(config.replace(f'"{name}": {old}', f'"{name}": {value}'))
        with pytest.raises(CheckpointError, match=message):
            load(folder)


def test_an_xlm_roberta_of_impossible_sizes_is_refused(tmp_path: Path) -> None:
    write_mclip(tmp_path / "tower", DIM, pickled=False)
    path = tmp_path / "tower" / "model.safetensors"
    tensors = load_file(path)
    layer = {f"transformer.encoder.layer.{number}.x": torch.ones(1) for number in range(200)}
    for change, message in (
        ({"transformer.embeddings.position_embeddings.weight": torch.ones(4, 128)}, "has positions for 2 token ids"),
        ({"transformer.embeddings.word_embeddings.weight": torch.ones(1, 128)}, "holds no network"),
        (layer, "has 200 layers"),
        ({"transformer.extra": torch.ones(1)}, "of another network"),
    ):
        save_file(tensors | change, path)
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path / "tower")


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    folder = write_sentence_transformer(tmp_path / "tower", DIM, pickled=True)
    marker = tmp_path / "ran"

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    torch.save({"linear.weight": Code()}, folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="more than tensors"):
        load(folder)
    assert not marker.exists()


def test_a_file_without_the_tensors_of_mclip_is_refused(tmp_path: Path) -> None:
    write_mclip(tmp_path / "tower", DIM, pickled=False)
    other = write_sentence_transformer(tmp_path / "other", DIM)
    (tmp_path / "tower" / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"no matrix transformer\.embeddings\.word_embeddings\.weight"):
        load(tmp_path / "tower")
