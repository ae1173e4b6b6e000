"""Download checkpoints from the Hugging Face hub."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, WeightsNotFoundError, first_line
from .configuration import check_configurations
from .configuration_files import CONFIG_NAMES, read_configurations
from .shards import shard_names

# Names of a checkpoint in a folder or hub repository, the preferred one first.
CHECKPOINT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",  # before model.safetensors, which in repositories of timm is the vision tower only
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin.1",
)

OUTAGE_SECONDS = 60  # after a failed connection, how long the hub is not asked again
REQUEST_TIMEOUT = 5  # seconds, unless HF_HUB_ETAG_TIMEOUT is set
_REFERENCE = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/@]+))?(?:/(?P<file>.+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")

WEIGHTS_SOURCES = "a checkpoint file, a folder such as a Hugging Face snapshot, or hf://owner/repo[@revision][/file]"
HOW_TO_SUPPLY_WEIGHTS = f"Pass weight_path (or --weights): {WEIGHTS_SOURCES}."


@dataclass(frozen=True)
class HubReference:
    """A repository on the hub, or a file in it: ``hf://owner/repo[@revision][/file]``.

    Attributes:
        repo: ``owner/repo``.
        revision: branch, tag or commit; None for the default branch.
        file: path in the repository; None for the first of :data:`CHECKPOINT_NAMES` that exists.
    """

    repo: str
    revision: str | None
    file: str | None

    @classmethod
    def parse(cls, reference: str) -> HubReference:
        """Parse a reference.

        Raises:
            WeightsNotFoundError: it does not have the form ``hf://owner/repo[@revision][/file]``.
        """
        match = _REFERENCE.fullmatch(reference)
        if match is None or ".." in (*reference.split("/"), match["revision"]):
            raise WeightsNotFoundError(
                f"{reference!r} is not a hub reference, which has the form hf://owner/repo[@revision][/file]"
            )
        return cls(match["repo"], match["revision"], match["file"])

    def uri(self, name: str) -> str:
        """Return the reference to a file of the repository."""
        return f"hf://{self.repo}{'@' + self.revision if self.revision else ''}/{name}"


def download_checkpoint(
    reference: str, model_name: str | None, tried: list[str] | None = None, trusted: bool = False
) -> Path:
    """Download a checkpoint with ``huggingface_hub``: cached, resumed after an interruption, with a progress bar.

    The configurations of the repository are downloaded first, so that a checkpoint of a different network is rejected
    before its download.

    Args:
        reference: ``hf://owner/repo[@revision][/file]``.
        model_name: key of :data:`clip4clip.config.MODELS`, with which the configurations must agree; None for any.
        tried: the places that were searched before, for the error message. The files that are tried here are appended.
        trusted: the checkpoint is known to be of this network: check nothing.

    Returns:
        The path of the file in the cache of ``huggingface_hub``.

    Raises:
        WeightsNotFoundError: the reference is malformed, or no file can be downloaded. The message says what was tried.
        CheckpointError: the checkpoint belongs to a different network.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    hub = HubReference.parse(reference)
    tried = [] if tried is None else tried
    reason: Exception | None = None
    for name in (hub.file,) if hub.file else CHECKPOINT_NAMES:
        tried.append(hub.uri(name))
        outage = ""
        try:
            config_files = [] if trusted else _config_files(name)
            commit, outage = _find_commit(hub, name, config_files)
            if commit and not outage:
                _check_remote_configurations(hub.repo, commit, config_files, model_name)
            path = Path(hf_hub_download(hub.repo, name, revision=hub.revision, local_files_only=bool(outage)))
            _download_shards(hub.repo, name, path, is_offline=bool(outage))
            return path
        except CheckpointError:
            raise
        except LocalEntryNotFoundError as error:
            reason = error
            cause = outage or (first_line(error.__cause__) if error.__cause__ else "")
            tried[-1] += f" (not cached, and the hub cannot be reached{': ' * bool(cause)}{cause})"
        except EntryNotFoundError as error:
            reason = error
            tried[-1] += " (no such file in the repository)"
        except Exception as error:  # huggingface_hub passes on errors of its HTTP client and of the system
            reason = error
            tried[-1] += f" ({first_line(error)})"
            break
    raise WeightsNotFoundError(
        f"could not find weights for {model_name or reference}. Tried: {'; '.join(tried)}. {HOW_TO_SUPPLY_WEIGHTS}"
    ) from reason


def _download_shards(repo: str, name: str, path: Path, is_offline: bool) -> None:
    """Download the shards that the index of a sharded checkpoint names, all from the same commit as the index.

    Args:
        repo: ``owner/repo``.
        name: path of the checkpoint in the repository.
        path: the checkpoint in the cache of ``huggingface_hub``. If it is not an index, nothing is downloaded.
        is_offline: whether to look in the cache only.

    Raises:
        CheckpointError: the index is invalid.
    """
    from huggingface_hub import hf_hub_download

    folder, commit = name.rpartition("/")[0], path.parents[name.count("/")].name
    for shard in shard_names(path):
        file = f"{folder}/{shard}".lstrip("/")
        hf_hub_download(repo, file, revision=commit, local_files_only=is_offline)


def _config_files(name: str) -> list[str]:
    """Return the paths in a repository that may hold the configuration of a checkpoint file, the likeliest first."""
    folders = dict.fromkeys([name.rpartition("/")[0], ""])
    return [f"{folder}/{config}".lstrip("/") for folder in folders for config in CONFIG_NAMES]


def _find_commit(hub: HubReference, name: str, config_files: list[str]) -> tuple[str | None, str]:
    """Return what :func:`_ask_hub` returns; without a request if all files at a commit are cached."""
    from huggingface_hub import try_to_load_from_cache

    if _COMMIT.fullmatch(hub.revision or "") and all(
        try_to_load_from_cache(hub.repo, file, revision=hub.revision) is not None for file in [name, *config_files]
    ):
        return hub.revision, ""
    return _ask_hub(hub.repo, name, hub.revision)


def _check_remote_configurations(repo: str, commit: str, config_files: list[str], model_name: str | None) -> None:
    """Download those configurations that are not cached, and check those that belong to the checkpoint.

    Raises:
        CheckpointError: a configuration is unreadable, or describes a network that is different or not supported.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    folders: list[Path] = []
    for config_file in config_files:
        cached = try_to_load_from_cache(repo, config_file, revision=commit)
        if cached is None:  # neither cached nor known to be missing
            with contextlib.suppress(EntryNotFoundError):
                cached = hf_hub_download(repo, config_file, revision=commit)
        if isinstance(cached, str):
            folders.append(Path(cached).parent)
    # The folder of the checkpoint comes first. If it has a configuration, that of the repository's root, which may be
    # of another model, does not count.
    check_configurations(read_configurations(dict.fromkeys(folders), strict=True), model_name)


class HubFolder:
    """The files of a repository on the hub, all of one commit. Each is downloaded when it is asked for.

    Args:
        reference: ``hf://owner/repo[@revision]``.

    Attributes:
        outage: why the hub does not give files that are not cached, or "" if it does.

    Raises:
        WeightsNotFoundError: the reference is malformed, or names a file.
    """

    def __init__(self, reference: str) -> None:
        hub = HubReference.parse(reference)
        if hub.file:
            raise WeightsNotFoundError(f"{reference!r} names a file; expected a repository, hf://owner/repo[@revision]")
        self._repo, self._revision = hub.repo, hub.revision
        self._commit = hub.revision if _COMMIT.fullmatch(hub.revision or "") else None
        self.outage = ""

    def find(self, name: str) -> Path | None:
        """Return the path of a file in the cache of ``huggingface_hub``; None if the repository does not have it.

        Raises:
            WeightsNotFoundError: the download fails.
        """
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            if self._commit is None and not self.outage:
                self._commit, self.outage = _ask_hub(self._repo, name, self._revision)
            if self._commit is not None:
                cached = try_to_load_from_cache(self._repo, name, revision=self._commit)
                if cached is not None:  # a path, or a mark that there is no such file
                    return Path(cached) if isinstance(cached, str) else None
            path = hf_hub_download(self._repo, name, revision=self._revision, local_files_only=bool(self.outage))
            self._revision = self._commit or self._revision  # the first download has recorded which commit a branch has
            return Path(path)
        except LocalEntryNotFoundError as error:  # it is not cached, and the hub does not give it
            self.outage = self.outage or first_line(error.__cause__ or error)
            return None
        except EntryNotFoundError:
            return None
        except Exception as error:  # huggingface_hub passes on errors of its HTTP client and of the system
            raise WeightsNotFoundError(f"could not download {name} of {self._repo}: {first_line(error)}") from error


_outages: dict[str, tuple[float, str]] = {}  # endpoint -> until when it is not asked again, and why


def _ask_hub(repo: str, name: str, revision: str | None) -> tuple[str | None, str]:
    """Ask the hub for the commit that has a file, in one short request.

    ``hf_hub_download`` itself would try to reach the hub for half a minute, for each file.

    Returns:
        The commit, or None if the hub does not say; and why the hub cannot be reached, or "" if it can.

    Raises:
        huggingface_hub.errors.EntryNotFoundError: there is no such file.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled

    outage_end, reason = _outages.get(constants.ENDPOINT, (0.0, ""))
    if time.monotonic() < outage_end:
        return None, reason
    timeout = constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else REQUEST_TIMEOUT
    try:
        return get_hf_file_metadata(hf_hub_url(repo, name, revision=revision), timeout=timeout).commit_hash, ""
    except EntryNotFoundError:
        raise
    except HfHubHTTPError:  # hf_hub_download tells the user more about it
        return None, ""
    except OfflineModeIsEnabled as error:
        return None, first_line(error)
    except Exception as error:  # each version of huggingface_hub has the errors of its own HTTP client
        _outages[constants.ENDPOINT] = time.monotonic() + OUTAGE_SECONDS, first_line(error)
        return None, first_line(error)
