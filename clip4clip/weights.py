"""A model name and a path or hub reference to a checkpoint file, and to what tells its vectors from others.

Nothing here needs torch: what is in the file is the matter of :mod:`clip4clip.checkpoint`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .config import get_model
from .errors import CacheError, CheckpointError, WeightsNotFoundError, brief, first_line
from .files import whole_file

logger = logging.getLogger(__name__)

Reference = str | os.PathLike[str]  # a file, a folder, or hf://owner/repo[@revision][/file]

# In an operator's folder its checkpoint lies beside the package. Not resolved: a hub download is made of symlinks.
OPERATOR_FOLDER = Path(__file__).parent.parent

# What a folder or a hub repository may call its configuration and its checkpoint, the latter best first.
CONFIG_NAMES = ("config.json", "open_clip_config.json")
FILE_NAMES = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.1",
)

_INSPECTION = re.compile(r"([0-9a-f]{16}) (meanP|seqLSTM|seqTransf)")
_DIGEST = re.compile(r"([0-9a-f]{32})")
_SAMPLES, _SAMPLE_BYTES = 256, 4096  # of a file's content, in its state
_HUB_REFERENCE = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/@]+))?(?:/(?P<file>.+))?")


def locate(weights: Reference | None, model_name: str, folder: Path = OPERATOR_FOLDER) -> Path:
    """The checkpoint file that ``weights`` stands for, downloaded if need be.

    Args:
        weights: a file; a folder such as a Hugging Face snapshot; ``hf://owner/repo[@revision][/file]``; or None for
            what comes with this package and, where nothing does, the published operator's file in ``folder`` and,
            without it, the model's default on the Hugging Face hub.
        model_name: key of :data:`clip4clip.config.MODELS`.
        folder: the operator's own folder.

    Raises:
        WeightsNotFoundError: with all that was tried.
        CheckpointError: for a folder whose configuration contradicts this network.
        UnknownNameError: for an unknown model.
    """
    model = get_model(model_name)
    if weights is None:
        beside = folder / model.beside if model.beside else None
        if beside is not None and beside.is_file():
            logger.info("weights of %s: %s", model_name, beside)
            return beside
        if model.packaged:
            return Path(__file__).with_name(model.packaged)
        tried = [f"{beside} (no such file)"] if beside else []
        return _download(model.hub, tried)[0]
    reference = os.fspath(weights)
    if reference.startswith("hf://"):
        file, snapshot = _download(reference, [])
        _check_folder(snapshot)
        return file
    try:
        path = Path(reference).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsNotFoundError(
            f"no checkpoint at {brief(reference)}: {first_line(error)}. {_HOW_TO_SUPPLY}"
        ) from error
    if is_folder:
        _check_folder(path)
        for name in FILE_NAMES:
            if (path / name).is_file():
                return path / name
        raise WeightsNotFoundError(f"no checkpoint in the folder {path}: looked for {', '.join(FILE_NAMES)}")
    if not is_file:
        raise WeightsNotFoundError(f"no checkpoint at {path}: there is no such file or folder. {_HOW_TO_SUPPLY}")
    return path


@dataclass(frozen=True)
class Identity:
    """Which vectors can be compared: those of one model with the same weights.

    Attributes:
        model: key of :data:`clip4clip.config.MODELS`.
        fingerprint: of the weights, 16 hexadecimal digits; the same for the same numbers in another kind of file.
    """

    model: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.model} with the weights {self.fingerprint}"


def identify(weights: Reference | None, model_name: str) -> Identity:
    """The identity of a checkpoint; arguments and errors are those of :func:`locate` and :func:`inspect`."""
    return Identity(model_name, inspect(locate(weights, model_name), model_name).fingerprint)


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint file is, beside its numbers.

    Attributes:
        fingerprint: see :func:`clip4clip.checkpoint.fingerprint`.
        head: ``'meanP'``, ``'seqLSTM'`` or ``'seqTransf'``.
    """

    fingerprint: str
    head: str


def file_state(path: Path) -> str:
    """Return 32 hexadecimal digits that change whenever a file is rewritten or replaced.

    They are of its inode, its size, its times of modification and of change, and a megabyte of its content. Copying a
    file can preserve the first time but not the second. The content decides where a file system keeps no such time,
    as on Windows and in read-only images.
    """
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        known = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        digest = hashlib.sha256(repr(known).encode())
        last = max(status.st_size - _SAMPLE_BYTES, 0)
        for number in range(_SAMPLES):
            file.seek(last * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def inspect(path: Path, model_name: str) -> Inspection:
    """Return what a checkpoint file is; remembered for its place and :func:`file_state`.

    Raises:
        CheckpointError: when it cannot be read, is of another shape than the model, or has a ``tightTransf`` head.
    """

    def find() -> tuple[str, ...]:
        from .checkpoint import check_shape, fingerprint, read_state_dict, sim_header  # which bring torch along

        tensors = read_state_dict(path)
        check_shape(tensors, model_name, path)
        return fingerprint(tensors), sim_header(tensors, path)

    return Inspection(*_remembered(path, model_name, _INSPECTION, find))


def tower_digest(path: Path, modality: str) -> str:
    """Return :func:`clip4clip.checkpoint.digest` of a tower; remembered for the file's place and :func:`file_state`.

    Raises:
        CheckpointError: when the file cannot be read.
    """

    def find() -> tuple[str, ...]:
        from .checkpoint import digest, read_state_dict

        return (digest(read_state_dict(path), modality),)

    return _remembered(path, modality, _DIGEST, find)[0]


def _remembered(path: Path, key: str, form: re.Pattern[str], find: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    """What ``find`` returns for a file, kept as one line of the given form."""
    state = file_state(path)
    name = hashlib.sha256(f"{key} {path.resolve()} {state}".encode(errors="surrogateescape")).hexdigest()[:32]
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if known := form.fullmatch((cache_folder() / "inspections" / name).read_text("utf-8")):
            return known.groups()
    found = find()
    with contextlib.suppress(OSError):  # without a place to keep it, the file is read again
        if file_state(path) != state:
            return found  # it was replaced meanwhile, and nobody knows which of the two was read
        kept = cache_folder() / "inspections" / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(kept) as fresh:
            fresh.write_text(" ".join(found), "utf-8")
    return found


def can_keep() -> bool:
    """Whether something can be kept in :func:`cache_folder`; makes it if there is none."""
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def cache_folder() -> Path:
    """Where what is made from checkpoints is kept: ``$CLIP4CLIP_CACHE``, or ``clip4clip`` in the user's cache folder.

    Everything in it can be deleted at any time: it is made again.

    Raises:
        CacheError: when its name begins with a home folder that there is none of.
    """
    try:
        return Path(cache_name()).expanduser()
    except RuntimeError as error:
        raise CacheError(
            f"nothing can be kept in {cache_name()}: {first_line(error)} Set CLIP4CLIP_CACHE to a folder that there is"
        ) from error


def cache_name() -> str:
    """:func:`cache_folder` as it is named, which may begin with ``~``."""
    if chosen := os.environ.get("CLIP4CLIP_CACHE"):
        return chosen
    usual = "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return f"{usual}/clip4clip"


_HOW_TO_SUPPLY = (
    "Pass weight_path (or --weights): a checkpoint file, a folder such as a Hugging Face snapshot, "
    "or hf://owner/repo[@revision][/file]."
)


def _download(reference: str, tried: list[str]) -> tuple[Path, Path]:
    """Fetches a hub reference by ``huggingface_hub``: cached, resumed when interrupted, with its progress bar.

    Returns the file and the folder of its snapshot, which then also holds the configurations that the repository has.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    match = _HUB_REFERENCE.fullmatch(reference)
    if match is None or ".." in reference.split("/"):
        raise WeightsNotFoundError(
            f"{reference!r} is not a hub reference, which has the form hf://owner/repo[@revision][/file]"
        )
    repo, revision, file = match["repo"], match["revision"], match["file"]
    reason: Exception | None = None
    out_of_reach = False
    for name in (file,) if file else FILE_NAMES:
        tried.append(f"hf://{repo}{'@' + revision if revision else ''}/{name}")
        try:
            found = Path(hf_hub_download(repo, name, revision=revision, local_files_only=out_of_reach))
            commit = found.parts[-2 - name.count("/")]
            for config in CONFIG_NAMES:
                if try_to_load_from_cache(repo, config, revision=commit) is None:  # neither there nor known not to be
                    with contextlib.suppress(EntryNotFoundError):
                        hf_hub_download(repo, config, revision=commit, local_files_only=out_of_reach)
            return found, found.parents[name.count("/")]
        except LocalEntryNotFoundError as error:
            reason = error
            cause = f": {first_line(error.__cause__)}" if error.__cause__ else ""
            tried[-1] += f" (not cached, and the hub cannot be reached{cause})"
            out_of_reach = True  # do not wait for it again: the other names are looked for in the cache alone
        except EntryNotFoundError as error:
            reason = error
            tried[-1] += " (no such file in the repository)"
        except Exception as error:  # huggingface_hub lets the errors of its HTTP client and of the system through
            reason = error
            tried[-1] += f" ({first_line(error)})"
            break
    raise WeightsNotFoundError(
        "no weights could be had. Tried: " + "; ".join(tried) + f". {_HOW_TO_SUPPLY}"
    ) from reason


def _check_folder(folder: Path) -> None:
    """A snapshot's configuration may name another activation, which no tensor's shape would betray."""

    def hugging_face_fits(config: dict) -> bool:
        if "model_type" not in config:
            return True  # timm's config.json has no word of it
        towers = [config, config.get("text_config") or {}, config.get("vision_config") or {}]
        return all(tower.get("hidden_act", "quick_gelu") == "quick_gelu" for tower in towers)

    def open_clip_fits(config: dict) -> bool:
        return bool(config.get("model_cfg", {}).get("quick_gelu", False))

    for name, uses_quick_gelu in zip(CONFIG_NAMES, (hugging_face_fits, open_clip_fits), strict=True):
        try:
            config = json.loads((folder / name).read_text(encoding="utf-8"))
            fits = uses_quick_gelu(config)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{folder / name} is not a model's configuration: {first_line(error)}") from error
        if not fits:
            raise CheckpointError(
                f"{folder / name} asks for another activation than CLIP's QuickGELU: its vectors would be wrong"
            )
