"""Download a checkpoint from the Hugging Face hub."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from ..errors import CheckpointError, WeightsNotFoundError, first_line
from .network import CONFIG_NAMES, check_network, read_configurations

FILE_NAMES = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.1",
)

UNREACHABLE_SECONDS = 60  # for which the hub is not asked again after it could not be reached
ANSWER_SECONDS = 5  # within which the hub has to answer, unless HF_HUB_ETAG_TIMEOUT says otherwise
_HUB_REFERENCE = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/@]+))?(?:/(?P<file>.+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


HOW_TO_SUPPLY_WEIGHTS = (
    "Pass weight_path (or --weights): a checkpoint file, a folder such as a Hugging Face snapshot, "
    "or hf://owner/repo[@revision][/file]."
)


def download_checkpoint(reference: str, model_name: str, tried: list[str] | None = None, trusted: bool = False) -> Path:
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
                    check_network(read_configurations([Path(known).parent], strict=True), None, model_name)
            found = Path(hf_hub_download(repo, name, revision=revision, local_files_only=bool(unreachable)))
            if not trusted:
                root = found.parents[name.count("/")]
                check_network(read_configurations([found.parent, root], strict=True), found, model_name)
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
        f"could not find weights for {model_name}. Tried: {'; '.join(tried)}. {HOW_TO_SUPPLY_WEIGHTS}"
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
