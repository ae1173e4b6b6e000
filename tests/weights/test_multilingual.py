"""Folders with text towers: what is read, and what is refused because it is damaged, hostile or another network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from constants import DEMO_MODEL
from huggingface_hub import constants
from text_towers import MAX_LENGTH, write_json, write_mclip, write_sentence_transformer

from clip4clip import CheckpointError, WeightsNotFoundError
from clip4clip.config import MODELS, Model
from clip4clip.weights.identity import find_checkpoint
from clip4clip.weights.multilingual import find_text_model

DIM = MODELS[DEMO_MODEL].config.embed_dim
NAME = "demo_multilingual"


@pytest.fixture(autouse=True)
def text_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers a text tower for the vectors of the demo model."""
    model = Model(MODELS[DEMO_MODEL].config, hub="hf://owner/words", aligned_with=DEMO_MODEL)
    monkeypatch.setitem(MODELS, NAME, model)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sentence_transformer(tmp_path / "tower", DIM)


def change(path: Path, **values: Any) -> None:
    """Change values of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | values
    write_json(path, {name: value for name, value in content.items() if value is not None})


def change_module(folder: Path, index: int, **values: Any) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[index] |= values
    write_json(folder / "modules.json", modules)


def test_the_length_of_a_text_is_the_lowest_limit(folder: Path) -> None:
    assert find_text_model(folder, NAME).max_length == MAX_LENGTH
    change(folder / "sentence_bert_config.json", max_seq_length=None)
    assert find_text_model(folder, NAME).max_length == 40  # positions of the network
    change(folder / "tokenizer_config.json", model_max_length=16)
    assert find_text_model(folder, NAME).max_length == 16


def test_the_digest_changes_with_each_file(folder: Path) -> None:
    digests = {find_text_model(folder, NAME).digest()}
    for name in ("model.safetensors", "2_Dense/model.safetensors", "tokenizer.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        digests.add(find_text_model(folder, NAME).digest())
    change(folder / "sentence_bert_config.json", max_seq_length=20)
    digests.add(find_text_model(folder, NAME).digest())
    change(folder / "tokenizer_config.json", do_lower_case=True)
    digests.add(find_text_model(folder, NAME).digest())
    assert len(digests) == 6


REFUSED: dict[str, Callable[[Path], object]] = {
    # Paths that lead out of the folder.
    "not the name of a folder": lambda folder: change_module(folder, 2, path="../tower/2_Dense"),
    "path '/etc'": lambda folder: change_module(folder, 1, path="/etc"),
    r"path '\.\.'": lambda folder: change_module(folder, 0, path=".."),
    r"path '2_Dense\\\\x'": lambda folder: change_module(folder, 2, path="2_Dense\\x"),
    "path None": lambda folder: change_module(folder, 2, path=None),
    # Code of their own, and other modules.
    "its modules are": lambda folder: change_module(folder, 0, type="tower.modeling.Transformer"),
    "expected sentence-transformers' Transformer": lambda folder: change_module(
        folder, 2, type="sentence_transformers.models.Normalize"
    ),
    "has auto_map": lambda folder: change(folder / "config.json", auto_map={"AutoModel": "modeling.Model"}),
    "has quantization_config": lambda folder: change(folder / "config.json", quantization_config={"bits": 4}),
    "it is not a list of modules": lambda folder: write_json(folder / "modules.json", {"0": "Transformer"}),
    # Other networks.
    "model_type is 'bert'": lambda folder: change(folder / "config.json", model_type="bert"),
    "activation is 'relu'": lambda folder: change(folder / "config.json", activation="relu"),
    r"pooling is \['pooling_mode_cls_token'\]": lambda folder: change(
        folder / "1_Pooling" / "config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False
    ),
    "pooling is 'lasttoken'": lambda folder: change(folder / "1_Pooling" / "config.json", pooling_mode="lasttoken"),
    r"numbers \(activation_function\)": lambda folder: change(
        folder / "2_Dense" / "config.json", activation_function="torch.nn.modules.activation.Tanh"
    ),
    r"48 numbers \(activation_function\)": lambda folder: change(
        folder / "2_Dense" / "config.json", activation_function=None
    ),
    r"numbers \(use_residual\)": lambda folder: change(folder / "2_Dense" / "config.json", use_residual=True),
    r"numbers \(scale\)": lambda folder: change(folder / "2_Dense" / "config.json", scale=2.0),
    r"numbers \(in_features\)": lambda folder: change(folder / "2_Dense" / "config.json", in_features=47),
    "default prompt 'query'": lambda folder: write_json(
        folder / "config_sentence_transformers.json", {"prompts": {"query": "find: "}, "default_prompt_name": "query"}
    ),
    "do_lower_case is set": lambda folder: change(folder / "sentence_bert_config.json", do_lower_case=True),
    f"have 64 numbers, and those of {DEMO_MODEL} {DIM}": lambda folder: change(
        folder / "2_Dense" / "config.json", out_features=64
    ),
    # Numbers that would keep a machine busy, and damaged files.
    "n_layers must be .* of at most 100, not 1000000": lambda folder: change(folder / "config.json", n_layers=10**6),
    "vocab_size must be .* of at most 1,000,000, not 10": lambda folder: change(
        folder / "config.json", vocab_size=10**9
    ),
    "dim must be a positive whole number .* not 48.0": lambda folder: change(folder / "config.json", dim=48.0),
    "n_heads must be a positive whole number .* not null": lambda folder: change(folder / "config.json", n_heads=None),
    "of a text tower: it has more than 1,048,576 bytes": lambda folder: (folder / "config.json").write_bytes(
        b" " * 2**21
    ),
    "config.json is not the configuration": lambda folder: (folder / "config.json").write_text("[" * 100_000),
    "NaN is not JSON": lambda folder: (folder / "config.json").write_text('{"dim": NaN}'),
    "its content is 1, not an object": lambda folder: (folder / "2_Dense" / "config.json").write_text("1"),
    "module 1 is 1, not an object": lambda folder: write_json(folder / "modules.json", [{}, 1]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_folder_of_another_network_or_a_hostile_one_is_refused(message: str, folder: Path) -> None:
    REFUSED[message](folder)
    with pytest.raises(CheckpointError, match=message):
        find_text_model(folder, NAME)


@pytest.mark.parametrize(
    "name", ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "model.safetensors"]
)
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(WeightsNotFoundError, match=f"tower has no.*{name}"):
        find_text_model(folder, NAME)


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert find_text_model(folder, NAME).tokenizer == folder / "vocab.txt"
    (folder / "vocab.txt").unlink()
    with pytest.raises(WeightsNotFoundError, match=r"none of tokenizer\.json, vocab\.txt, sentencepiece"):
        find_text_model(folder, NAME)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "clip"}, "its model_type is 'clip'"),
        ({"modelBase": "../xlm-roberta-large"}, "modelBase is '../xlm-roberta-large'"),
        ({"modelBase": "LaBSE"}, "modelBase is 'LaBSE'"),
        ({"numDims": 0}, "numDims must be a positive whole number of at most 1,000,000, not 0"),
    ],
)
def test_a_folder_that_is_not_a_known_one_of_mclip_is_refused(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_mclip(tmp_path / "tower", DIM)
    change(tmp_path / "tower" / "config.json", **values)
    with pytest.raises(CheckpointError, match=message):
        find_text_model(tmp_path / "tower", NAME)


@pytest.mark.parametrize(
    "reference", ["", "none", "~nobody/x", "a\0b", "hf://owner/words/model.safetensors", "hf://words"]
)
def test_a_reference_to_no_folder_or_repository_is_refused(reference: str) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"expected a (folder|repository)|which has the form hf://"):
        find_text_model(reference, NAME)


def test_a_repository_in_the_cache_needs_no_connection(folder: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=f"the text tower of {NAME} is not cached, and the hub cannot"):
        find_text_model(None, NAME)
    repository = Path(constants.HF_HUB_CACHE) / "models--owner--words"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    folder.rename(repository / "snapshots" / commit)
    for reference in (None, f"hf://owner/words@{commit}"):
        files = find_text_model(reference, NAME)
        assert files.weights == repository / "snapshots" / commit / "model.safetensors"


def test_a_text_tower_without_its_model_name_is_refused_with_the_names(folder: Path, tmp_path: Path) -> None:
    write_mclip(tmp_path / "mclip", DIM)
    for reference in (folder, tmp_path / "mclip", "hf://owner/words@main", "hf://M-CLIP/XLM-Roberta-Large-Vit-B-32"):
        for model_name in (None, "clip_vit_b32"):
            with pytest.raises(CheckpointError, match=f"only a text tower.*clip_vit_b32_multilingual or.*{NAME}"):
                find_checkpoint(reference, model_name)


def test_the_checkpoint_of_a_text_tower_is_the_published_one_of_its_image_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_checkpoint(folder, NAME) == find_checkpoint(None, DEMO_MODEL)
    # Not that in the folder of an operator, which may be fine-tuned.
    monkeypatch.setitem(MODELS, "tiny_words", Model(MODELS["tiny"].config, aligned_with="tiny"))  # type: ignore[arg-type]
    (tmp_path / MODELS["tiny"].local_file).write_bytes(b"")
    with pytest.raises(WeightsNotFoundError, match="hf://owner/tiny/model"):
        find_checkpoint(folder, "tiny_words", tmp_path)
