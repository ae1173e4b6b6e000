"""Find and check the files of a text tower that was trained for the vector space of another model.

Two layouts are known. That of sentence-transformers lists its modules in ``modules.json``: a DistilBERT, the mean over
its tokens, a linear projection. That of M-CLIP has one file with an XLM-RoBERTa and the projection.

Files are untrusted: what they say is checked, and none of them can name a file outside of its folder. Nothing in this
module imports torch.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..config import MAX_SIZE, MODELS, get_model, is_text_tower
from ..errors import CheckpointError, WeightsNotFoundError, brief, first_line
from .hub import HubFolder, HubReference
from .inspection import file_state
from .json_section import Section, UnsupportedNetworkError, read_json

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # the preferred one first
# The preferred one first.
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model")
XLM_ROBERTA_TOKENIZER_FILES = ("tokenizer.json", "sentencepiece.bpe.model")
MAX_TOKENIZER_BYTES = 2**26
MAX_LAYERS = 100
MAX_LENGTH = 512  # token ids; of both networks

_MODULE_FOLDER = re.compile(r"\w[\w.-]*|", re.ASCII)
_XLM_ROBERTA = re.compile(r"(FacebookAI/)?xlm-roberta-(base|large)")

FindFile = Callable[[str], "Path | None"]
Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class TextModelFiles:
    """The files of a text tower, and what they say about it.

    Attributes:
        architecture: ``'distilbert'`` or ``'xlm-roberta'``.
        sizes: of a DistilBERT: some fields of its configuration in transformers. The sizes of an XLM-RoBERTa are those
            of its tensors.
        embed_dim: size of the vectors.
        has_bias: whether the projection has a bias.
        max_length: the most token ids that the tower takes; for an XLM-RoBERTa, its tensors may allow less.
        weights: file with the tensors of the transformer.
        projection: file with the tensors of the projection; it can be the same.
        tokenizer: one of :data:`TOKENIZER_FILES`.
        tokenizer_options: what ``tokenizer_config.json`` says.
    """

    architecture: str
    sizes: Mapping[str, int]
    embed_dim: int
    has_bias: bool
    max_length: int
    weights: Path
    projection: Path
    tokenizer: Path
    tokenizer_options: Mapping[str, Any] = field(repr=False)

    def digest(self) -> str:
        """Return 32 hexadecimal digits that change whenever a file of the tower is rewritten or replaced."""
        options = json.dumps(self.tokenizer_options, sort_keys=True)
        digest = hashlib.sha256(repr((self.max_length, sorted(self.sizes.items()), options)).encode())
        for path in (self.weights, self.projection, self.tokenizer):
            digest.update(file_state(path).encode())
        return digest.hexdigest()[:32]


def find_text_model(weights: str | os.PathLike[str] | None, model_name: str) -> TextModelFiles:
    """Find the files of a text tower, and download them if necessary.

    Args:
        weights: a folder, ``hf://owner/repo[@revision]``, or None for the model's default.
        model_name: key of :data:`clip4clip.config.MODELS`, of a model that is only a text tower.

    Raises:
        UnknownNameError: there is no such model.
        WeightsNotFoundError: there is no such folder or repository, or it lacks a file.
        CheckpointError: a file is not valid, or the vectors have another size than the model's.
    """
    model = get_model(model_name)
    default = model.default_weights
    reference = default if weights is None else os.fspath(weights)
    if reference.startswith("hf://"):
        hub = HubFolder(reference)
        try:
            files = read_text_model(hub.find, reference)
        except WeightsNotFoundError as error:
            if not hub.outage:
                raise
            raise WeightsNotFoundError(
                f"the text tower of {model_name} is not cached, and the hub cannot be reached ({hub.outage}): {error}. "
                f"Pass the folder of a copy of {reference} as weights (--weights)."
            ) from error
    else:
        folder = _existing_folder(reference)
        if folder is None:
            raise WeightsNotFoundError(
                f"no text tower at {brief(reference)}: expected a folder, or hf://owner/repo[@revision]; without "
                f"weights, {model_name} is {default}"
            )
        files = _read_folder(folder)
    if model.config is not None and files.embed_dim != model.config.embed_dim:
        raise CheckpointError(
            f"the vectors of {reference} have {files.embed_dim} numbers, and those of {model.aligned_with} "
            f"{model.config.embed_dim}: they cannot be compared"
        )
    return files


def _existing_folder(reference: str) -> Path | None:
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # ~nobody, or characters that no path has
        folder = Path(reference).expanduser()
        if reference and folder.is_dir():
            return folder
    return None


def reject_text_model(weights: str | os.PathLike[str]) -> None:
    """Reject a reference to a text tower where a checkpoint of both towers is expected.

    Raises:
        CheckpointError: it is a folder with a text tower, or the repository of one.
    """
    names = [name for name in MODELS if is_text_tower(name)]
    reference = os.fspath(weights)
    if reference.startswith("hf://"):
        repo = HubReference.parse(reference).repo
        is_text_model = repo in {HubReference.parse(MODELS[name].hub).repo for name in names if MODELS[name].hub}
    else:
        is_text_model = False
        with contextlib.suppress(WeightsNotFoundError, CheckpointError):
            _read_folder(Path(reference))
            is_text_model = True
    if is_text_model:
        raise CheckpointError(
            f"{reference} is only a text tower, made for the vectors of another model. Pass its model_name (--model) "
            f"with it: {' or '.join(names)}"
        )


def _read_folder(folder: Path) -> TextModelFiles:
    def find(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    return read_text_model(find, str(folder))


def read_text_model(find: FindFile, source: str) -> TextModelFiles:
    """Find the files of a text tower and check what they say.

    Args:
        find: function from the name of a file, with slashes, to its path; None if there is no such file.
        source: the folder or repository, for messages.

    Raises:
        WeightsNotFoundError: a file is missing.
        CheckpointError: a file is not valid, or describes another network.
    """
    modules = find("modules.json")
    if modules is not None:
        return _read_sentence_transformer(modules, find, source)
    config = find("config.json")
    if config is None:
        raise WeightsNotFoundError(
            f"no text tower in {source}: it has neither modules.json, as sentence-transformers writes it, nor M-CLIP's "
            "config.json"
        )
    return _read_mclip(config, find, source)


def _read_sentence_transformer(modules: Path, find: FindFile, source: str) -> TextModelFiles:
    transformer, pooling, dense = _read(modules, _parse_modules)
    sizes = _read(_require(find, f"{transformer}config.json", source), _parse_transformer)
    _read(_require(find, f"{pooling}config.json", source), _check_pooling)
    embed_dim, has_bias = _read(
        _require(find, f"{dense}config.json", source), functools.partial(_parse_dense, width=sizes["dim"])
    )
    _read_optional(find("config_sentence_transformers.json"), _check_prompts)
    options = _read_optional(find(f"{transformer}tokenizer_config.json"), Section).values
    max_length = _read_optional(find(f"{transformer}sentence_bert_config.json"), _parse_settings)
    return TextModelFiles(
        "distilbert",
        sizes,
        embed_dim,
        has_bias,
        _max_length([max_length, options.get("model_max_length"), sizes["max_position_embeddings"]]),
        _require_any(find, transformer, WEIGHT_FILES, source),
        _require_any(find, dense, WEIGHT_FILES, source),
        _require_any(find, transformer, TOKENIZER_FILES, source),
        options,
    )


DISTILBERT_SIZES = ("vocab_size", "max_position_embeddings", "n_layers", "n_heads", "dim", "hidden_dim")


def _read_mclip(config: Path, find: FindFile, source: str) -> TextModelFiles:
    embed_dim = _read(config, _parse_mclip)
    options = _read_optional(find("tokenizer_config.json"), Section).values
    weights = _require_any(find, "", WEIGHT_FILES, source)
    return TextModelFiles(
        "xlm-roberta",
        {},
        embed_dim,
        True,
        _max_length([options.get("model_max_length")]),
        weights,
        weights,
        _require_any(find, "", XLM_ROBERTA_TOKENIZER_FILES, source),
        options,
    )


def _parse_mclip(content: Any) -> int:
    """Return the size of the vectors. Reject any network but an XLM-RoBERTa."""
    config = Section(content)
    if config.get("model_type") != "M-CLIP":
        raise ValueError(
            f"its model_type is {brief(config.get('model_type'))}, not 'M-CLIP', and there is no modules.json of "
            "sentence-transformers"
        )
    base = config.get("modelBase")
    if not isinstance(base, str) or not _XLM_ROBERTA.fullmatch(base):
        raise UnsupportedNetworkError(f"modelBase is {brief(base)}: only xlm-roberta-base and -large are supported")
    return config.integer("numDims", 0, MAX_SIZE)


def _parse_modules(content: Any) -> list[str]:
    """Return the folders of the transformer, of the pooling and of the projection, each "" or with a slash at its end.

    Raises:
        ValueError: the modules are others, or a folder is not one inside the folder of the file.
    """
    if not isinstance(content, list):
        raise ValueError("it is not a list of modules")
    modules = [Section(module, f"module {number}") for number, module in enumerate(content)]
    kinds = [str(module.get("type")) for module in modules]
    if [kind.rpartition(".")[2] for kind in kinds] != ["Transformer", "Pooling", "Dense"] or not all(
        kind.startswith("sentence_transformers.") for kind in kinds
    ):
        raise UnsupportedNetworkError(
            f"its modules are {brief(kinds)}; expected sentence-transformers' Transformer, Pooling and Dense"
        )
    folders = [module.get("path") for module in modules]
    for folder in folders:
        if not isinstance(folder, str) or not _MODULE_FOLDER.fullmatch(folder):
            raise ValueError(f"it has the path {brief(folder)}, which is not the name of a folder beside it")
    return [f"{folder}/" if folder else "" for folder in folders]


def _parse_transformer(content: Any) -> dict[str, int]:
    """Return the sizes of a DistilBERT. Reject other networks."""
    config = Section(content)
    for name, value in (("model_type", "distilbert"), ("activation", "gelu")):
        if config.get(name) != value:
            raise UnsupportedNetworkError(f"{name} is {brief(config.get(name))}; only {value!r} is supported")
    for name in ("auto_map", "quantization_config"):
        if config.get(name):
            raise UnsupportedNetworkError(f"it has {name}, which needs code of its own")
    return {name: config.integer(name, 0, MAX_LAYERS if name == "n_layers" else MAX_SIZE) for name in DISTILBERT_SIZES}


def _check_pooling(content: Any) -> None:
    """Reject any pooling but the mean over the tokens."""
    config = Section(content)
    mode = config.get("pooling_mode")
    modes = [name for name, value in config.values.items() if name.startswith("pooling_mode_") and value]
    if mode not in ("mean", ["mean"]) and (mode is not None or modes != ["pooling_mode_mean_tokens"]):
        raise UnsupportedNetworkError(f"its pooling is {brief(mode or modes)}; only the mean is supported")


def _parse_dense(content: Any, width: int) -> tuple[int, bool]:
    """Return the size of the vectors, and whether the projection has a bias. Reject any activation."""
    config = Section(content)
    expected = {
        "in_features": width,
        "activation_function": "torch.nn.modules.linear.Identity",
        "module_input_name": "sentence_embedding",
        "module_output_name": "sentence_embedding",
        "use_residual": False,
    }
    values = config.values
    unknown = sorted(values.keys() - expected.keys() - {"out_features", "bias"})
    wrong = [name for name, value in expected.items() if values.get(name, value) != value]
    if unknown or wrong or "activation_function" not in values:  # without it, sentence-transformers applies tanh
        names = ", ".join([*unknown, *wrong] or ["activation_function"])
        raise UnsupportedNetworkError(f"it is more than a linear projection of {width} numbers ({names})")
    return config.integer("out_features", 0, MAX_SIZE), values.get("bias", True) is not False


def _check_prompts(content: Any) -> None:
    config = Section(content)
    prompts, name = config.get("prompts"), config.get("default_prompt_name")
    if name is not None and (not isinstance(prompts, dict) or prompts.get(name) != ""):
        raise UnsupportedNetworkError(f"it has the default prompt {brief(name)}, and prompts are not supported")


def _parse_settings(content: Any) -> Any:
    """Return the limit of the length in the settings of sentence-transformers, of any type."""
    settings = Section(content)
    if settings.get("do_lower_case"):
        raise UnsupportedNetworkError("do_lower_case is set")
    return settings.get("max_seq_length")


def _max_length(limits: list[Any]) -> int:
    """Return the lowest of the limits of the length; some can be missing, and 1e30 stands for none."""
    numbers = [limit for limit in limits if isinstance(limit, int | float)]
    return min([MAX_LENGTH, *(int(limit) for limit in numbers if 2 < limit < MAX_LENGTH)])


def _require(find: FindFile, name: str, source: str) -> Path:
    path = find(name)
    if path is None:
        raise WeightsNotFoundError(f"{source} has no {name}")
    return path


def _require_any(find: FindFile, folder: str, names: tuple[str, ...], source: str) -> Path:
    for name in names:
        path = find(folder + name)
        if path is not None:
            return path
    raise WeightsNotFoundError(f"{source} has none of {', '.join(folder + name for name in names)}")


def _read_optional(path: Path | None, parse: Callable[[Any], Parsed]) -> Parsed:
    """Return what a parser makes of a JSON file, or of an empty object if there is no file."""
    return _read(path, parse) if path else parse({})


def _read(path: Path, parse: Callable[[Any], Parsed]) -> Parsed:
    """Return what a parser makes of the content of a JSON file.

    Raises:
        CheckpointError: the file cannot be read, or the parser rejects its content.
    """
    try:
        return parse(read_json(path))
    except UnsupportedNetworkError as error:
        raise CheckpointError(f"{path} describes a text tower that is not supported: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not the configuration of a text tower: {first_line(error)}") from error
