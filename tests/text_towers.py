"""Small text towers with random weights, as sentence-transformers and M-CLIP store them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    DistilBertConfig,
    DistilBertModel,
    DistilBertTokenizerFast,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLMRobertaTokenizer,
)

# Of several scripts, with combining marks, special tokens of the tokenizers, and more ids than the towers take.
TEXTS = [
    *("a dog in the snow", "ein Hund läuft über die Straße", "кошка на снегу", "雪の中の犬", "قطة في الثلج", ""),
    *("สุนัข", "e\u0301té 😀", "[PAD] a [SEP] dog <pad> </s>", "a  dog\n\tin THE snow", "dog " * 100),
]
CHARACTERS = sorted({character for text in TEXTS for character in text if not character.isspace()} | set("abcdefgxyz"))
MAX_LENGTH = 24


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def word_pieces() -> list[str]:
    """Return a vocabulary of words and characters, "a" and "dog" among them."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return [*special, "dog", "snow", "Hund", *CHARACTERS, *(f"##{character}" for character in CHARACTERS)]


def randomize(model: PreTrainedModel) -> PreTrainedModel:
    """Make all parameters of a model random, always the same, so that no mix-up of tensors goes unnoticed."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator) + (name.endswith("Norm.weight")))
    return model.eval()


def distilbert(folder: Path, **sizes: int) -> None:
    """Write a DistilBERT and its tokenizer, as transformers does."""
    pieces = word_pieces()
    chosen: dict[str, Any] = {"dim": 48, "n_heads": 3, "n_layers": 2, "hidden_dim": 80, "max_position_embeddings": 40}
    config = DistilBertConfig(vocab_size=len(pieces), **(chosen | sizes))
    randomize(DistilBertModel(config)).save_pretrained(folder)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    DistilBertTokenizerFast(vocab=vocabulary, do_lower_case=False).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")


def write_sentence_transformer(folder: Path, dim: int, transformer: str = "", pickled: bool = False) -> Path:
    """Write a text tower as sentence-transformers does.

    Args:
        folder: the folder, which must not exist.
        dim: size of the vectors.
        transformer: folder of the transformer in it: "", or "0_Transformer" as in its first versions.
        pickled: write ``pytorch_model.bin`` rather than ``model.safetensors``.
    """
    (folder / transformer).mkdir(parents=True)
    distilbert(folder / transformer)
    types = ("models.Transformer", "models.Pooling", "models.Dense")
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.{kind}"}
        for index, (path, kind) in enumerate(zip((transformer, "1_Pooling", "2_Dense"), types, strict=True))
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / transformer / "sentence_bert_config.json", {"max_seq_length": MAX_LENGTH})
    pooling = {"word_embedding_dimension": 48, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    dense = {"in_features": 48, "out_features": dim, "bias": False}
    write_json(folder / "2_Dense" / "config.json", dense | {"activation_function": "torch.nn.modules.linear.Identity"})
    weight = torch.randn(dim, 48, generator=torch.Generator().manual_seed(1))
    save_file({"linear.weight": weight}, folder / "2_Dense" / "model.safetensors")
    if pickled:
        for part in (folder / transformer, folder / "2_Dense"):
            as_pickle(part / "model.safetensors")
    return folder


def xlm_roberta() -> XLMRobertaModel:
    """Return an XLM-RoBERTa with heads as wide as those of the published ones."""
    config = XLMRobertaConfig(
        vocab_size=len(unigrams()),
        hidden_size=128,
        num_attention_heads=2,
        num_hidden_layers=2,
        intermediate_size=96,
        max_position_embeddings=MAX_LENGTH + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    return randomize(XLMRobertaModel(config))


def unigrams() -> list[tuple[str, float]]:
    """Return a vocabulary for an XLM-RoBERTa: pieces with their logarithmic probabilities."""
    special = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = ["▁", "▁dog", "▁snow", "Hund", *CHARACTERS]
    return [*special, *((piece, -2.0 - index / 9) for index, piece in enumerate(pieces)), ("<mask>", 0.0)]


def write_mclip(folder: Path, dim: int, pickled: bool = True) -> tuple[XLMRobertaModel, torch.nn.Linear]:
    """Write a text tower as M-CLIP does, and return its network."""
    folder.mkdir()
    transformer, projection = xlm_roberta(), torch.nn.Linear(128, dim)
    state: Mapping[str, torch.Tensor] = {
        **{f"transformer.{name}": tensor for name, tensor in transformer.state_dict().items()},
        **{f"LinearTransformation.{name}": tensor.detach() for name, tensor in projection.state_dict().items()},
    }
    save_file(dict(state), folder / "model.safetensors")
    if pickled:
        as_pickle(folder / "model.safetensors")
    config = {"model_type": "M-CLIP", "modelBase": "xlm-roberta-large", "numDims": dim, "transformerDimensions": 128}
    write_json(folder / "config.json", config)
    XLMRobertaTokenizer(vocab=unigrams()).save_pretrained(folder)
    return transformer, projection


def as_pickle(path: Path) -> None:
    """Replace a safetensors file by a ``pytorch_model.bin``."""
    from safetensors.torch import load_file

    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()
