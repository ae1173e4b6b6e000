"""Find the checkpoint file for a path, a hub reference or the name of a model, and the configuration beside it.

Nothing in this module imports torch: :mod:`clip4clip.weights.checkpoint` reads the file.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ..config import DEFAULT_MODEL, get_model
from ..errors import WeightsNotFoundError, brief, first_line, printable
from ..log import warn_once
from .configuration_files import Configuration, find_configurations
from .hub import CHECKPOINT_NAMES, HOW_TO_SUPPLY_WEIGHTS, HubReference, download_checkpoint
from .multilingual import reject_text_model

logger = logging.getLogger(__name__)

Reference = str | os.PathLike[str]  # a file, a folder, or hf://owner/repo[@revision][/file]

OPERATOR = "video-text-embedding/clip4clip"  # its name in Towhee

# The folder that holds this package, not resolved: the files of a hub download are symbolic links.
OPERATOR_FOLDER = Path(__file__).parents[2]


@dataclass(frozen=True)
class Located:
    """A checkpoint file, and what lies beside it.

    Attributes:
        path: the file; of a sharded checkpoint, its index.
        configurations: what the configuration files beside it say about its network.
        is_trusted: whether the file is known to hold the network of the model, so that nothing need say so.
    """

    path: Path
    configurations: list[Configuration] = field(default_factory=list)
    is_trusted: bool = False


def locate(
    weights: Reference | None, model_name: str | None = None, folder: Path | None = None, *, published: bool = False
) -> Located:
    """Return the checkpoint file that ``weights`` refers to, and download it if necessary.

    Args:
        weights: a file; a folder such as a Hugging Face snapshot; ``hf://owner/repo[@revision][/file]``; or None for
            the model's default, which is searched for in the order of docs/checkpoints.md.
        model_name: key of :data:`clip4clip.config.MODELS`; it is needed if ``weights`` is None.
        folder: the operator's own folder, if Towhee loaded it from one.
        published: the default is the model's published checkpoint, whatever lies in the folder of an operator.

    Raises:
        WeightsNotFoundError: there is no such file; the message lists what was tried.
        CheckpointError: a configuration cannot be read; or one on the hub contradicts the model.
        UnknownNameError: there is no such model.
    """
    if weights is None:
        return _locate_default(model_name or DEFAULT_MODEL, folder, published)
    network = model_name if model_name is not None and get_model(model_name).config else None
    reference = os.fspath(weights)
    if reference.startswith("hf://"):
        reject_text_model(reference)
        path = download_checkpoint(reference, network)
        return Located(path, find_configurations(path, strict=True))
    return _locate_path(reference)


def _locate_path(reference: str) -> Located:
    """Return the checkpoint that is, or is in, the file or folder with this path."""
    if not reference:  # pathlib would take it for the current folder
        raise WeightsNotFoundError(f"no checkpoint: its path is empty. {HOW_TO_SUPPLY_WEIGHTS}")
    try:
        path = Path(reference).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        reason = first_line(error).removesuffix(".")
        raise WeightsNotFoundError(f"no checkpoint at {brief(reference)}: {reason}. {HOW_TO_SUPPLY_WEIGHTS}") from error
    name = printable(str(path))
    if is_folder:
        reject_text_model(path)
        file = next((path / name for name in CHECKPOINT_NAMES if os.path.lexists(path / name)), None)
        if file is None:
            raise WeightsNotFoundError(f"no checkpoint in the folder {name}: looked for {', '.join(CHECKPOINT_NAMES)}")
        if not file.is_file():  # as a broken link: other weights must not take its place silently
            raise WeightsNotFoundError(
                f"{printable(str(file))} is not a file that can be read. {HOW_TO_SUPPLY_WEIGHTS}"
            )
        return Located(file, find_configurations(file, strict=True))
    if not is_file:
        raise WeightsNotFoundError(f"no checkpoint at {name}: there is no such file or folder. {HOW_TO_SUPPLY_WEIGHTS}")
    return Located(path, find_configurations(path, strict=False))


def towhee_home() -> Path:
    """Return Towhee's folder: that of ``towhee.hub.set_local_dir``, ``$TOWHEE_HOME``, or ``~/.towhee``."""
    towhee = sys.modules.get("towhee.hub.cache_manager")  # if Towhee is imported, ask it for the folder
    home = towhee.get_local_dir() if towhee else os.environ.get("TOWHEE_HOME", "~/.towhee")
    return Path(os.path.expanduser(home))


def _locate_default(model_name: str, folder: Path | None, published: bool) -> Located:
    """Return the checkpoint for ``weights=None``. Only this function implements the order of docs/checkpoints.md."""
    model = get_model(model_name)
    if model.packaged_file:
        return Located(Path(__file__).parents[1] / model.packaged_file, is_trusted=True)
    if model.weights:
        return locate(model.weights, model_name)
    if not model.hub:
        raise WeightsNotFoundError(f"{model_name} was registered without default weights. {HOW_TO_SUPPLY_WEIGHTS}")
    tried: list[str] = []
    if model.local_file and not published:
        path = locate_in_operator_folders(model.local_file, folder, tried)
        if path is not None:
            return Located(path, find_configurations(path, strict=False))
    try:
        path = download_checkpoint(model.hub, model_name, tried, trusted=model.is_trusted)
    except WeightsNotFoundError as error:
        raise WeightsNotFoundError(
            f"{error}{_advice_if_gone(model.hub, error)} For a trial without a download: "
            "model_name='clip_vit_tiny_demo', which comes with the package."
        ) from error
    if model.is_trusted:
        return Located(path, is_trusted=True)
    return Located(path, find_configurations(path, strict=True))


def _advice_if_gone(reference: str, error: WeightsNotFoundError) -> str:
    """Return what to do if the hub answered that it does not have the file that this package has recorded."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    answer = error.__cause__
    is_gone = isinstance(answer, EntryNotFoundError) or (
        isinstance(answer, HfHubHTTPError) and getattr(answer.response, "status_code", None) == 404
    )
    if not is_gone or isinstance(answer, LocalEntryNotFoundError):
        return ""
    repo = HubReference.parse(reference).repo
    return f" The hub does not have this revision or file (any more): pass weights='hf://{repo}' for its newest one."


def locate_in_operator_folders(name: str, folder: Path | None, tried: list[str]) -> Path | None:
    """Return the checkpoint in the operator's own folder or in Towhee's versions of the operator, or None.

    Args:
        name: name of the checkpoint file.
        folder: the operator's own folder, if Towhee loaded it from one.
        tried: the paths that do not exist are appended to it.

    Raises:
        WeightsNotFoundError: the file cannot be read, or it is unclear which of several files is meant.
    """
    versions = towhee_home() / "operators" / OPERATOR / "versions"
    tags = sorted(_list_folder(versions), key=lambda tag: (tag.name != "main", tag.name))
    if folder is None and (__package__ != "clip4clip.weights" or OPERATOR_FOLDER in tags):
        folder = OPERATOR_FOLDER  # Towhee loaded this package from an operator's folder
    own = [folder] if folder else []
    for candidate in dict.fromkeys([*own, versions / "main", *tags, OPERATOR_FOLDER]):
        path = candidate / name
        if not os.path.lexists(path):  # true for a broken link: other weights must not take its place silently
            tried.append(f"{path} (no such file)")
            continue
        if candidate != folder:
            _check_versions(path, [tag / name for tag in tags])
        if not path.is_file():
            raise WeightsNotFoundError(f"{path} is not a file that can be read. {HOW_TO_SUPPLY_WEIGHTS}")
        return path
    return None


def _list_folder(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _check_versions(path: Path, versions: list[Path]) -> None:
    """Warn, or refuse to choose, if the versions of the operator hold different checkpoints.

    Towhee's registry does not say which version a pipeline asked for. The version ``main`` is used with a warning.

    Args:
        path: the checkpoint to use.
        versions: paths of the checkpoints of all versions, whether or not they exist.

    Raises:
        WeightsNotFoundError: they differ, and the checkpoint is not that of ``main``.
    """
    different = {other for other in versions if other.is_file() and other.resolve() != path.resolve()}
    if path not in versions or not different:
        return
    listed = ", ".join(map(str, sorted(different)))
    if path.parent.name != "main":
        raise WeightsNotFoundError(
            f"several versions of the operator hold a checkpoint: {path}, {listed}. Pass one of them as weight_path."
        )
    warn_once(
        logger,
        f"{path} is used, but other versions of the operator hold a different one: {listed}. "
        "To use one of these, pass it as weight_path.",
    )
