"""Find out which default checkpoints are on this machine already. Nothing is downloaded, and no hub is asked."""

from __future__ import annotations

import os
from pathlib import Path

from ..config import get_model
from ..errors import WeightsNotFoundError
from .hub import CHECKPOINT_NAMES, HubReference
from .locate import locate_in_operator_folders


def find_available(model_name: str) -> Path | None:
    """Return where the default checkpoint of a model is on this machine; None if it would have to be downloaded.

    Raises:
        UnknownNameError: there is no such model.
    """
    model = get_model(model_name)
    if model.packaged_file:
        return Path(__file__).parents[1] / model.packaged_file
    if model.local_file:
        try:
            path = locate_in_operator_folders(model.local_file, None, [])
        except WeightsNotFoundError:  # unreadable, or it is unclear which of several files is meant
            return None
        if path is not None:
            return path
    if model.weights and not model.weights.startswith("hf://"):
        return Path(model.weights) if Path(model.weights).exists() else None
    return _find_cached(HubReference.parse(model.default_weights)) if model.default_weights else None


def _find_cached(hub: HubReference) -> Path | None:
    """Return a checkpoint in the cache of ``huggingface_hub``, whose own function takes a second to import."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE, f"models--{hub.repo.replace('/', '--')}")
    revision = hub.revision or "main"
    try:
        commit = (folder / "refs" / revision).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    for name in (hub.file,) if hub.file else CHECKPOINT_NAMES:
        path = folder / "snapshots" / commit / name
        if os.path.isfile(path):  # false for a link whose target is gone
            return path
    return None
