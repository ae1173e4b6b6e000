"""Text towers of other languages, by ``transformers``: token ids to vectors of the space of a CLIP.

:mod:`clip4clip.weights.multilingual` finds and checks their files.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError, Clip4clipError, MissingExtraError, first_line
from ..threads import fork_safe
from ..weights.checkpoint import read_tensors
from ..weights.multilingual import MAX_LAYERS, MAX_TOKENIZER_BYTES, TextModelFiles
from ..weights.state_dict import assign
from .placement import Placement
from .torch_backend import TorchTower

if TYPE_CHECKING:
    import tokenizers

# Buffers that earlier versions stored, and the pooler, whose output is not used.
_UNUSED = re.compile(r"transformer\.(embeddings\.(position|token_type)_ids$|pooler\.)")
NO_TOKEN = -1  # in a batch, after the ids of a text. The id of the padding token can also stand within a text.
MIN_LENGTH = 3  # token ids: the start token, one of the text, the end token
XLM_ROBERTA_HEAD_WIDTH = 64  # of the base and of the large one
XLM_ROBERTA_EPS = 1e-5
WORD_PIECE_OPTIONS = {"do_lower_case": "lowercase", "strip_accents": "strip_accents"}


def require_transformers() -> None:
    """Raise MissingExtraError unless transformers is installed."""
    if find_spec("transformers") is None:
        raise MissingExtraError(
            "text towers of other languages need transformers: pip install 'towhee-clip4clip[multilingual]'"
        )


@contextlib.contextmanager
def _report_damage(path: Path) -> Iterator[None]:
    """Raise CheckpointError for what the ``tokenizers`` library raises, which is written in Rust."""
    try:
        yield
    except Clip4clipError:
        raise
    except BaseException as error:
        # A failed assertion in Rust, after which its objects can still be used, is not an Exception in Python.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{path} cannot be read as a tokenizer: {first_line(error)}") from error


class MultilingualTokenizer:
    """The tokenizer of a text tower. Several threads may use it at once.

    Args:
        backend: of the ``tokenizers`` library. It must begin each text with one special token and end it with another.
        vocab_size: number of token ids that the tower has embeddings for.
        path: file of the tokenizer, for messages.

    Raises:
        CheckpointError: the tokenizer does not fit the tower.
    """

    def __init__(self, backend: tokenizers.Tokenizer, vocab_size: int, path: Path) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend, self._path = backend, path
        special_ids = self._encode("")
        if len(special_ids) != 2:
            raise CheckpointError(
                f"{path} encodes an empty text as {len(special_ids)} ids, not as a start token and an end token"
            )
        largest = max([*special_ids, *backend.get_vocab(with_added_tokens=True).values()])
        if largest >= vocab_size:
            raise CheckpointError(f"{path} has the id {largest}, but the tower only has embeddings for {vocab_size}")

    def encode(self, text: str, context_length: int) -> list[int]:
        """Return the ids of one text with start and end token, without padding.

        A text of more than ``context_length`` ids is cut. The end token is always the last id.

        Raises:
            CheckpointError: the file of the tokenizer is damaged.
        """
        ids = self._encode(text)
        return ids if len(ids) <= context_length else [*ids[: context_length - 1], ids[-1]]

    def _encode(self, text: str) -> list[int]:
        with _report_damage(self._path):
            ids: list[int] = self._backend.encode(text).ids
            return ids

    @staticmethod
    def pad(rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Return rows of ids as an int64 array of shape (len(rows), longest row), with -1 after the end of each row."""
        batch = np.full((len(rows), max(map(len, rows))), NO_TOKEN, dtype=np.int64)
        for row, ids in zip(batch, rows, strict=True):
            row[: len(ids)] = ids
        return batch


class ProjectedTransformer(nn.Module):
    """A transformer, the mean of its last hidden states, and a linear projection of it.

    Args:
        transformer: a model of ``transformers`` without a head.
        projection: from the hidden size to the size of the vectors.
    """

    def __init__(self, transformer: nn.Module, projection: nn.Linear) -> None:
        super().__init__()
        self.transformer: Any = transformer
        self.projection = projection

    def forward(self, ids: Tensor) -> Tensor:
        """Embed texts.

        Args:
            ids: (B, L) int64, with -1 after the end of each text.

        Returns:
            (B, D), not normalised.
        """
        mask = ids >= 0
        padded = ids.where(mask, self.transformer.config.pad_token_id)
        states = self.transformer(input_ids=padded, attention_mask=mask.long()).last_hidden_state  # (B, L, W)
        total = (states * mask.unsqueeze(-1)).sum(1, dtype=torch.float32)  # (B, W)
        mean = total / mask.sum(1, keepdim=True)
        return self.projection(mean.to(states.dtype))


class MultilingualTower(TorchTower):
    """A text tower on a device, with its tokenizer.

    Args:
        module: the tower.
        device: the device that the module is on.
        tokenizer: converts text to the token ids of the tower.
        max_length: the most token ids of a text.

    Attributes:
        embed_dim: size of the vectors.
    """

    def __init__(
        self,
        module: ProjectedTransformer,
        device: str | torch.device,
        tokenizer: MultilingualTokenizer,
        max_length: int,
    ) -> None:
        super().__init__(module, device)
        self.tokenizer, self.max_length = tokenizer, max_length
        self.embed_dim = module.projection.out_features

    def __reduce__(self) -> tuple[type[MultilingualTower], tuple[Any, ...]]:
        return type(self), (self.module, self.device, self.tokenizer, self.max_length)


@fork_safe
def load_text_tower(files: TextModelFiles, placement: Placement) -> MultilingualTower:
    """Load a text tower onto a device of torch.

    Raises:
        MissingExtraError: transformers, or a package that the tokenizer needs, is not installed.
        CheckpointError: a file is not valid, or does not fit the others.
    """
    require_transformers()
    module = build_text_model(files)
    embeddings = module.transformer.embeddings
    vocab_size, positions = embeddings.word_embeddings.num_embeddings, embeddings.position_embeddings.num_embeddings
    if files.architecture == "xlm-roberta":
        positions -= module.transformer.config.pad_token_id + 1  # those before the first token are never used
    max_length = min(files.max_length, positions)
    if max_length < MIN_LENGTH:
        raise CheckpointError(f"{files.weights} has positions for {positions} token ids; expected {MIN_LENGTH} or more")
    tokenizer = load_tokenizer(files, vocab_size)
    module = module.to(placement.device, getattr(torch, placement.precision))
    return MultilingualTower(module, placement.device, tokenizer, max_length)


def build_text_model(files: TextModelFiles) -> ProjectedTransformer:
    """Build a text tower, for inference, in float32 on the CPU. Tensors stay mapped where possible."""
    tensors = read_tensors(files.weights)
    if files.architecture == "distilbert":
        state = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
        state |= {
            name.replace("linear.", "projection.", 1): tensor for name, tensor in read_tensors(files.projection).items()
        }
    else:
        state = {name.replace("LinearTransformation.", "projection.", 1): tensor for name, tensor in tensors.items()}
    state = {name: tensor for name, tensor in state.items() if not _UNUSED.match(name)}
    try:
        with torch.device("meta"):  # neither allocate nor initialise what is replaced anyway
            transformer: Any = _empty_transformer(files, tensors)
            linear = nn.Linear(transformer.config.hidden_size, files.embed_dim, bias=files.has_bias)
            module = ProjectedTransformer(transformer, linear)
    except (ValueError, TypeError, AssertionError) as error:  # transformers and torch check how the sizes fit together
        raise CheckpointError(f"{files.weights} holds no network of transformers: {first_line(error)}") from error
    assign(module, state, files.weights)
    _fill_buffers(module)
    return module.requires_grad_(False).eval()


def _empty_transformer(files: TextModelFiles, tensors: Mapping[str, Tensor]) -> nn.Module:
    import transformers

    if files.architecture == "distilbert":
        sizes: Any = files.sizes
        return transformers.DistilBertModel(transformers.DistilBertConfig(**sizes))
    return transformers.XLMRobertaModel(_infer_xlm_roberta(tensors, files.weights), add_pooling_layer=False)


def _infer_xlm_roberta(tensors: Mapping[str, Tensor], path: Path) -> Any:
    """Return the configuration of M-CLIP's XLM-RoBERTa: that of all published ones, and the sizes of the tensors."""
    from transformers import XLMRobertaConfig

    def shape(name: str) -> tuple[int, int]:
        tensor = tensors.get(f"transformer.{name}.weight")
        if tensor is None or tensor.ndim != 2:
            raise CheckpointError(f"{path} is not M-CLIP's: it has no matrix transformer.{name}.weight")
        rows, columns = tensor.shape
        return rows, columns

    vocab_size, width = shape("embeddings.word_embeddings")
    layers = {name.split(".")[3] for name in tensors if name.startswith("transformer.encoder.layer.")}
    if len(layers) > MAX_LAYERS:
        raise CheckpointError(f"{path} has {len(layers)} layers; {MAX_LAYERS} are read at most")
    return XLMRobertaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=max(width // XLM_ROBERTA_HEAD_WIDTH, 1),
        intermediate_size=shape("encoder.layer.0.intermediate.dense")[0],
        max_position_embeddings=shape("embeddings.position_embeddings")[0],
        type_vocab_size=shape("embeddings.token_type_embeddings")[0],
        layer_norm_eps=XLM_ROBERTA_EPS,
    )


def _fill_buffers(module: nn.Module) -> None:
    """Give values to the buffers that are not in a state dict: token positions and types, which are all 0."""
    for name, buffer in list(module.named_buffers()):
        if buffer.is_meta:
            parent, _, kind = name.rpartition(".")
            row = torch.arange(buffer.shape[-1]) if kind == "position_ids" else torch.zeros(buffer.shape[-1]).long()
            setattr(module.get_submodule(parent), kind, row.expand(buffer.shape))


def load_tokenizer(files: TextModelFiles, vocab_size: int) -> MultilingualTokenizer:
    """Load the tokenizer of a text tower from ``tokenizer.json``, ``vocab.txt`` or a model of SentencePiece.

    Raises:
        CheckpointError: the file is not valid, or does not fit the tower.
        MissingExtraError: SentencePiece's model cannot be read without packages that are not installed.
    """
    path = files.tokenizer
    with _report_damage(path):
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise ValueError(f"it is larger than {MAX_TOKENIZER_BYTES:,} bytes")
        backend = _READERS[path.name](path, files.tokenizer_options)
    return MultilingualTokenizer(backend, vocab_size, path)


def _read_tokenizer_json(path: Path, options: Mapping[str, Any]) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(path))
    for option, name in WORD_PIECE_OPTIONS.items():
        value = getattr(backend.normalizer, name, None)
        if options.get(option, value) != value:
            raise ValueError(f"{name} is {value}, but {option} is {options[option]} in tokenizer_config.json beside it")
    return backend


def _read_vocabulary(path: Path, options: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Build the tokenizer of a DistilBERT from its list of word pieces, one a line."""
    from transformers import DistilBertTokenizerFast

    pieces = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    chosen = {name: options[name] for name in _VOCABULARY_OPTIONS if isinstance(options.get(name), bool)}
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return DistilBertTokenizerFast(vocab=vocabulary, **chosen).backend_tokenizer


_VOCABULARY_OPTIONS = (*WORD_PIECE_OPTIONS, "tokenize_chinese_chars")


def _read_sentencepiece(path: Path, _: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Build the tokenizer of an XLM-RoBERTa from its model of SentencePiece."""
    if find_spec("sentencepiece") is None or find_spec("google.protobuf") is None:
        raise MissingExtraError(
            f"reading {path} needs two more packages, because there is no tokenizer.json beside it: "
            "pip install sentencepiece protobuf"
        )
    from transformers import XLMRobertaTokenizer

    settings = XLMRobertaTokenizer.convert_to_native_format(vocab_file=str(path))
    return XLMRobertaTokenizer(**settings).backend_tokenizer


_READERS: Mapping[str, Callable[[Path, Mapping[str, Any]], tokenizers.Tokenizer]] = {
    "tokenizer.json": _read_tokenizer_json,
    "vocab.txt": _read_vocabulary,
    "sentencepiece.bpe.model": _read_sentencepiece,
}
