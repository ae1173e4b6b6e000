"""A model name and a path or hub reference to a checkpoint file, and to what tells its vectors from others.

Nothing here needs torch: what is in the file is the matter of :mod:`clip4clip.weights.checkpoint`.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from ..config import get_model
from ..errors import WeightsNotFoundError, brief, first_line
from ..log import warn_once
from .hub import FILE_NAMES, HOW_TO_SUPPLY_WEIGHTS, download_checkpoint
from .network import check_network, configuration_folders, read_configurations

logger = logging.getLogger(__name__)

Reference = str | os.PathLike[str]  # a file, a folder, or hf://owner/repo[@revision][/file]

OPERATOR = "video-text-embedding/clip4clip"  # its name in Towhee

# The folder that holds the package. Not resolved: a hub download is made of symlinks.
OPERATOR_FOLDER = Path(__file__).parents[2]


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
        return download_checkpoint(reference, model_name)
    if not reference:  # which would mean the current folder
        raise WeightsNotFoundError(f"no checkpoint is named: the name is empty. {HOW_TO_SUPPLY_WEIGHTS}")
    try:
        path = Path(reference).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsNotFoundError(
            f"no checkpoint at {brief(reference)}: {first_line(error)}. {HOW_TO_SUPPLY_WEIGHTS}"
        ) from error
    if is_folder:
        file = next((path / name for name in FILE_NAMES if (path / name).is_file()), None)
        if file is None:
            raise WeightsNotFoundError(f"no checkpoint in the folder {path}: looked for {', '.join(FILE_NAMES)}")
        check_network(read_configurations([path], strict=True), file, model_name)
        return file
    if not is_file:
        raise WeightsNotFoundError(f"no checkpoint at {path}: there is no such file or folder. {HOW_TO_SUPPLY_WEIGHTS}")
    check_network(read_configurations(configuration_folders(path), strict=False), path, model_name)
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
        return Path(__file__).parents[1] / model.packaged
    tried: list[str] = []
    if model.beside:
        versions = towhee_home() / "operators" / OPERATOR / "versions"
        tags = sorted(_entries(versions), key=lambda tag: (tag.name != "main", tag.name))
        if folder is None and (__package__ != "clip4clip.weights" or OPERATOR_FOLDER in tags):
            folder = OPERATOR_FOLDER  # this package was loaded from an operator's folder
        places = dict.fromkeys([*([folder] if folder else []), versions / "main", *tags, OPERATOR_FOLDER])
        for place in places:
            # A broken link is found too: going on without a word would mean other weights.
            if os.path.lexists(path := place / model.beside):
                _check_versions(path, [tag / model.beside for tag in tags], known=place == folder)
                if not path.is_file():
                    raise WeightsNotFoundError(f"{path} is not a file that can be read. {HOW_TO_SUPPLY_WEIGHTS}")
                return path
            tried.append(f"{path} (no such file)")
    try:
        return download_checkpoint(model.hub, model_name, tried, trusted=True)
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
