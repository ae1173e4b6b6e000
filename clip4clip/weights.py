"""A model name and a path or hub reference to a checkpoint file, and to what tells its vectors from others.

Nothing here needs torch: what is in the file is the matter of :mod:`clip4clip.checkpoint`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import sys
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import contradictions, get_model
from .errors import CacheError, CheckpointError, WeightsNotFoundError, brief, first_line
from .files import whole_file

logger = logging.getLogger(__name__)

Reference = str | os.PathLike[str]  # a file, a folder, or hf://owner/repo[@revision][/file]

OPERATOR = "video-text-embedding/clip4clip"  # its name in Towhee

# The folder that holds the package. Not resolved: a hub download is made of symlinks.
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

UNREACHABLE_SECONDS = 60  # for which the hub is not asked again after it could not be reached
ANSWER_SECONDS = 5  # within which the hub has to answer, unless HF_HUB_ETAG_TIMEOUT says otherwise
MAX_LINKS = 40  # from a checkpoint to its file, as many as Linux follows
HEAD_BYTES = 2**22  # of a checkpoint: its tensors' names lie within

_INSPECTION = re.compile(r"([0-9a-f]{16}) (meanP|seqLSTM|seqTransf)")
_DIGEST = re.compile(r"([0-9a-f]{32})")
_SAMPLES, _SAMPLE_BYTES = 256, 4096  # of a file's content, in its state
_HUB_REFERENCE = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/@]+))?(?:/(?P<file>.+))?")
_GELU_MODULE = re.compile(rb"torch\.nn\.modules\.activation(\.___torch_mangle_\d+)?\nGELU\n")  # in TorchScript
_COMMIT = re.compile(r"[0-9a-f]{40}")


def locate(weights: Reference | None, model_name: str, folder: Path | None = None) -> Path:
    """Return the checkpoint file that ``weights`` stands for, downloaded if need be.

    Args:
        weights: a file; a folder such as a Hugging Face snapshot; ``hf://owner/repo[@revision][/file]``; or None for
            the default of the model, searched for in the order of docs/checkpoints.md.
        model_name: key of :data:`clip4clip.config.MODELS`.
        folder: the operator's own folder, if Towhee has loaded it from one.

    Raises:
        WeightsNotFoundError: with all that was tried.
        CheckpointError: for a configuration, or a TorchScript archive, that contradicts this network.
        UnknownNameError: for an unknown model.
    """
    if weights is None:
        return _locate_default(model_name, folder)
    get_model(model_name)
    reference = os.fspath(weights)
    if reference.startswith("hf://"):
        return _download(reference, model_name)
    if not reference:  # which would mean the current folder
        raise WeightsNotFoundError(f"no checkpoint is named: the name is empty. {_HOW_TO_SUPPLY}")
    try:
        path = Path(reference).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsNotFoundError(
            f"no checkpoint at {brief(reference)}: {first_line(error)}. {_HOW_TO_SUPPLY}"
        ) from error
    if is_folder:
        file = next((path / name for name in FILE_NAMES if (path / name).is_file()), None)
        if file is None:
            raise WeightsNotFoundError(f"no checkpoint in the folder {path}: looked for {', '.join(FILE_NAMES)}")
        _check_network(_read_configurations([path], strict=True), file, model_name)
        return file
    if not is_file:
        raise WeightsNotFoundError(f"no checkpoint at {path}: there is no such file or folder. {_HOW_TO_SUPPLY}")
    _check_network(_read_configurations(_folders_of(path), strict=False), path, model_name)
    return path


def towhee_home() -> Path:
    """Return Towhee's folder: that of ``towhee.hub.set_local_dir``, ``$TOWHEE_HOME``, or ``~/.towhee``."""
    towhee = sys.modules.get("towhee.hub.cache_manager")  # knows best, but is not imported for it
    home = towhee.get_local_dir() if towhee else os.environ.get("TOWHEE_HOME", "~/.towhee")
    return Path(os.path.expanduser(home))


def _locate_default(model_name: str, folder: Path | None) -> Path:
    """The file for ``weights=None``: the only place where the search order of docs/checkpoints.md is implemented."""
    model = get_model(model_name)
    if model.packaged:
        return Path(__file__).with_name(model.packaged)
    tried: list[str] = []
    if model.beside:
        versions = towhee_home() / "operators" / OPERATOR / "versions"
        tags = sorted(_entries(versions), key=lambda tag: (tag.name != "main", tag.name))
        if folder is None and (__package__ != "clip4clip" or OPERATOR_FOLDER in tags):
            folder = OPERATOR_FOLDER  # this package was loaded from an operator's folder
        places = dict.fromkeys([*([folder] if folder else []), versions / "main", *tags, OPERATOR_FOLDER])
        for place in places:
            # A broken link is found too: going on without a word would mean other weights.
            if os.path.lexists(path := place / model.beside):
                _check_versions(path, [tag / model.beside for tag in tags], known=place == folder)
                if not path.is_file():
                    raise WeightsNotFoundError(f"{path} is not a file that can be read. {_HOW_TO_SUPPLY}")
                return path
            tried.append(f"{path} (no such file)")
    try:
        return _download(model.hub, model_name, tried, trusted=True)
    except WeightsNotFoundError as error:
        raise WeightsNotFoundError(
            f"{error} For a trial without a download: model_name='clip_vit_tiny_demo', which comes with the package."
        ) from error


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _check_versions(path: Path, others: list[Path], known: bool) -> None:
    """Says so when the operator's versions hold different checkpoints and nobody knows which version is meant.

    Towhee's registry does not pass on the version that a pipeline asks for.
    """
    different = {other for other in others if other.is_file() and other.resolve() != path.resolve()}
    if known or path not in others or not different:
        return
    listed = ", ".join(map(str, sorted(different)))
    if path.parent.name != "main":
        raise WeightsNotFoundError(
            f"several versions of the operator hold a checkpoint: {path}, {listed}. Pass one of them as weight_path."
        )
    warn_once(
        f"{path} is used, but other versions of the operator hold another one: {listed}. "
        "To use that, pass it as weight_path."
    )


@functools.lru_cache(maxsize=1024)
def warn_once(message: str) -> None:
    """Log a warning, once per process."""
    logger.warning("%s", message)


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


def _download(reference: str, model_name: str, tried: list[str] | None = None, trusted: bool = False) -> Path:
    """Fetch a hub reference by ``huggingface_hub``: cached, resumed when interrupted, with its progress bar.

    The configurations of its repository come first, so that a checkpoint of another network is not fetched at all. A
    ``trusted`` one is known to be of this network.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    match = _HUB_REFERENCE.fullmatch(reference)
    if match is None or ".." in reference.split("/"):
        raise WeightsNotFoundError(
            f"{reference!r} is not a hub reference, which has the form hf://owner/repo[@revision][/file]"
        )
    repo, revision, file = match["repo"], match["revision"], match["file"]
    tried = [] if tried is None else tried
    reason: Exception | None = None
    for name in (file,) if file else FILE_NAMES:
        tried.append(f"hf://{repo}{'@' + revision if revision else ''}/{name}")
        folders = dict.fromkeys([name.rpartition("/")[0], ""])  # of the repository
        configs = [] if trusted else [f"{folder}/{config}".lstrip("/") for folder in folders for config in CONFIG_NAMES]
        try:
            commit, unreachable = revision, ""
            if not _COMMIT.fullmatch(revision or "") or any(
                try_to_load_from_cache(repo, wanted, revision=revision) is None for wanted in [name, *configs]
            ):
                commit, unreachable = _ask_hub(repo, name, revision)
            for config in configs if commit and not unreachable else []:
                known = try_to_load_from_cache(repo, config, revision=commit)
                if known is None:  # neither there nor known not to be
                    with contextlib.suppress(EntryNotFoundError):
                        known = hf_hub_download(repo, config, revision=commit)
                if isinstance(known, str):
                    _check_network(_read_configurations([Path(known).parent], strict=True), None, model_name)
            found = Path(hf_hub_download(repo, name, revision=revision, local_files_only=bool(unreachable)))
            if not trusted:
                root = found.parents[name.count("/")]
                _check_network(_read_configurations([found.parent, root], strict=True), found, model_name)
            return found
        except CheckpointError:
            raise
        except LocalEntryNotFoundError as error:
            reason = error
            cause = unreachable or (first_line(error.__cause__) if error.__cause__ else "")
            tried[-1] += f" (not cached, and the hub cannot be reached{': ' * bool(cause)}{cause})"
        except EntryNotFoundError as error:
            reason = error
            tried[-1] += " (no such file in the repository)"
        except Exception as error:  # huggingface_hub lets the errors of its HTTP client and of the system through
            reason = error
            tried[-1] += f" ({first_line(error)})"
            break
    raise WeightsNotFoundError(
        f"could not find weights for {model_name}. Tried: {'; '.join(tried)}. {_HOW_TO_SUPPLY}"
    ) from reason


_silence: dict[str, tuple[float, str]] = {}  # hub -> until when it is not asked again, and why


def _ask_hub(repo: str, name: str, revision: str | None) -> tuple[str | None, str]:
    """Return the commit that has a file, and why the hub cannot be reached, which is empty when it can.

    The commit is None when the hub refuses to tell. One short request: ``hf_hub_download`` by itself would try to reach
    the hub for half a minute, for each file.

    Raises:
        huggingface_hub.errors.EntryNotFoundError: when there is no such file.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled

    until, why = _silence.get(constants.ENDPOINT, (0.0, ""))
    if time.monotonic() < until:
        return None, why
    seconds = constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else ANSWER_SECONDS
    try:
        return get_hf_file_metadata(hf_hub_url(repo, name, revision=revision), timeout=seconds).commit_hash, ""
    except EntryNotFoundError:
        raise
    except HfHubHTTPError:  # hf_hub_download knows what to make of it
        return None, ""
    except OfflineModeIsEnabled as error:
        return None, first_line(error)
    except Exception as error:  # of whichever HTTP client huggingface_hub has
        _silence[constants.ENDPOINT] = time.monotonic() + UNREACHABLE_SECONDS, first_line(error)
        return None, first_line(error)


@dataclass(frozen=True)
class _Description:
    """What a configuration says of a network.

    Attributes:
        path: of the configuration.
        activations: of its towers, ``'quick_gelu'``, ``'gelu'``, ….
        sizes: fields of :class:`clip4clip.config.CLIPConfig`.
    """

    path: Path
    activations: frozenset[str]
    sizes: dict[str, int]


def _read_configurations(folders: Iterable[Path], strict: bool) -> list[_Description]:
    """What the configurations of a CLIP say, in the first of the folders that has one.

    ``strict``: one that cannot be read is an error, because the folders are those of a model.
    """
    for folder in folders:
        found = []
        for name, describe in zip(CONFIG_NAMES, (_describe_hugging_face, _describe_open_clip), strict=True):
            path = folder / name
            try:
                config = json.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, RecursionError) as error:
                if strict:
                    raise _not_a_configuration(path, error) from error
                continue
            try:
                description = describe(path, config)
            except (AttributeError, TypeError) as error:
                if strict:
                    raise _not_a_configuration(path, error) from error
                continue
            if description is not None:
                found.append(description)
        if found:
            return found
    return []


def _not_a_configuration(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is not a model's configuration: {first_line(error)}")


def _describe_hugging_face(path: Path, config: dict[str, Any]) -> _Description | None:
    kind = config.get("model_type")  # timm's config.json has none
    if kind is None or "clip" not in kind:
        return None
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    if kind == "clip_text_model":
        text = config
    if kind == "clip_vision_model":
        vision = config
    towers = [tower for tower in (text, vision) if tower] or [config]
    sizes = {
        "embed_dim": config.get("projection_dim"),
        "resolution": vision.get("image_size"),
        "patch_size": vision.get("patch_size"),
        "vision_width": vision.get("hidden_size"),
        "vision_layers": vision.get("num_hidden_layers"),
        "context_length": text.get("max_position_embeddings"),
        "vocab_size": text.get("vocab_size"),
        "text_width": text.get("hidden_size"),
        "text_layers": text.get("num_hidden_layers"),
    }
    activations = frozenset(str(tower.get("hidden_act", "quick_gelu")) for tower in towers)
    return _Description(path, activations, _only_int(sizes))


def _describe_open_clip(path: Path, config: dict[str, Any]) -> _Description | None:
    model = config.get("model_cfg")
    if model is None:
        return None
    text, vision = model.get("text_cfg") or {}, model.get("vision_cfg") or {}
    sizes = {
        "embed_dim": model.get("embed_dim"),
        "resolution": vision.get("image_size"),
        "patch_size": vision.get("patch_size"),
        "vision_width": vision.get("width"),
        "vision_layers": vision.get("layers"),
        "context_length": text.get("context_length"),
        "vocab_size": text.get("vocab_size"),
        "text_width": text.get("width"),
        "text_layers": text.get("layers"),
    }
    return _Description(path, frozenset(["quick_gelu" if model.get("quick_gelu") else "gelu"]), _only_int(sizes))


def _only_int(sizes: dict[str, Any]) -> dict[str, int]:
    return {name: value for name, value in sizes.items() if isinstance(value, int)}


def _folders_of(file: Path) -> list[Path]:
    """Where the configuration of a file may lie, the likeliest first.

    That is beside it, at the root of its snapshot in the Hugging Face cache, and the same for what it is a link to.
    """
    links = [file.absolute()]
    while links[-1].is_symlink() and len(links) < MAX_LINKS:
        links.append(links[-1].parent / links[-1].readlink())
    folders: list[Path] = []
    for link in links:
        folders += [link.parent, *(up for up in link.parents if up.parent.name == "snapshots")]
    return list(dict.fromkeys(folders))


def _check_network(descriptions: list[_Description], file: Path | None, model_name: str) -> None:
    """Refuse a checkpoint whose activation is another one than CLIP's, which no tensor's shape would betray.

    Args:
        descriptions: what its configurations say. Their sizes count as long as there is no file.
        file: the checkpoint, if it is there.
        model_name: key of :data:`clip4clip.config.MODELS`.

    Raises:
        CheckpointError: with all that is wrong.
    """
    own = _activation_in(file) if file is not None else None
    if own == "gelu":
        descriptions = [_Description(file, frozenset([own]), {})]  # type: ignore[arg-type]
    elif own is None and file is not None and not descriptions:
        warn_once(
            f"{file} does not tell the activation of its network, and no configuration (config.json, "
            "open_clip_config.json) beside it does: QuickGELU is assumed, as in OpenAI's CLIP. If it was trained with "
            "GELU, as many of open_clip's models are, its vectors are wrong."
        )
    for description in descriptions:
        wrong = [
            f"the activation is {name}, not QuickGELU" for name in sorted(description.activations - {"quick_gelu"})
        ]
        sizes = description.sizes if file is None else {}
        if wrong and file is not None:
            from .checkpoint import observed_config, read_state_dict  # which bring torch along

            with contextlib.suppress(CheckpointError):
                sizes = observed_config(read_state_dict(file))
        others, hint = contradictions(sizes, model_name)
        if wrong or others:
            raise CheckpointError(
                f"{description.path} describes another network than {model_name}: {'; '.join(wrong + others)}."
                + (" Its vectors would be wrong." if wrong else hint)
            )


def _activation_in(file: Path) -> str | None:
    """The activation that a checkpoint file itself tells: ``'quick_gelu'``, ``'gelu'``, or None when it does not.

    CLIP4Clip's training runs, whose names begin with ``clip.``, have QuickGELU, and so has OpenAI's archive. Another
    TorchScript archive names torch's GELU where it has it.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                with archive.open(next(name for name in names if name.endswith("/data.pkl"))) as content:
                    head = content.read(HEAD_BYTES)
            if any(name.endswith("/constants.pkl") for name in names):
                return "gelu" if _GELU_MODULE.search(head) else "quick_gelu"
        else:
            with file.open("rb") as content:
                head = content.read(HEAD_BYTES)
    except Exception:  # a damaged file is reported where its tensors are read
        return None
    return "quick_gelu" if re.search(rb"\bclip\.(visual|transformer|token_embedding)\.", head) else None
