"""Encoders of one file share a tower; a changed file is loaded again; different weights of a model are warned about."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from graphs import RUNTIMES, State
from safetensors.torch import save_file

from clip4clip import TextEncoder, VideoEncoder, WeightsNotFoundError
from clip4clip.config import MODELS
from clip4clip.operators import Clip4clip
from clip4clip.runtime.torch_backend import TorchTower, build_tower
from clip4clip.weights.identity import find_checkpoint
from clip4clip.weights.inspection import inspect_file
from clip4clip.weights.locate import locate


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_encoders_of_one_file_share_their_tower(tiny_checkpoint: Path, runtime: str) -> None:
    first, second = (VideoEncoder.load("tiny", tiny_checkpoint, "cpu", runtime) for _ in range(2))
    assert first.model is second.model
    link = tiny_checkpoint.parent / "link.safetensors"
    if not link.is_symlink():
        link.symlink_to(tiny_checkpoint)
    assert VideoEncoder.load("tiny", link, "cpu", runtime).model is first.model


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_replaced_file_is_loaded_again(tmp_path: Path, tiny_state: State, runtime: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tiny_state, path)
    old = TextEncoder.load("tiny", path, "cpu", runtime)
    before = old("a dog")
    save_file({name: tensor.flip(0) for name, tensor in tiny_state.items()}, tmp_path / "new")
    (tmp_path / "new").replace(path)
    assert np.abs(TextEncoder.load("tiny", path, "cpu", runtime)("a dog") - before).max() > 1e-3
    np.testing.assert_array_equal(old("a dog"), before)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("replacement", ["renamed", "copied", "in an image"])
def test_a_replaced_file_of_the_same_size_and_time_is_loaded_again(
    replacement: str, runtime: str, cache: Path, tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, new = tmp_path / "model.safetensors", tmp_path / "new"
    save_file(tiny_state, checkpoint)
    save_file({name: tensor.flip(0) for name, tensor in tiny_state.items()}, new)
    status = checkpoint.stat()
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert new.stat().st_size == status.st_size
    # The encoder is not kept, because the file of a mapped tower must not change.
    before = TextEncoder.load("tiny", checkpoint, "cpu", runtime)("a dog")
    if replacement == "copied":
        shutil.copy2(new, checkpoint)
    else:
        new.replace(checkpoint)
    if replacement == "in an image":  # where files can even have the same inode and times
        fstat, replaced = os.fstat, checkpoint.stat()
        monkeypatch.setattr(
            "clip4clip.weights.inspection.os.fstat",
            lambda number: status if os.path.samestat(fstat(number), replaced) else fstat(number),
        )
    assert checkpoint.stat().st_mtime_ns == status.st_mtime_ns
    after = TextEncoder.load("tiny", checkpoint, "cpu", runtime)("a dog")
    expected = TextEncoder(TorchTower(build_tower(find_checkpoint(checkpoint, "tiny"), "text")), MODELS["tiny"].config)(
        "a dog"
    )
    np.testing.assert_allclose(after, expected, atol=1e-5)
    assert np.abs(after - before).max() > 1e-3


def write_published_checkpoint(folder: Path, state: State) -> Path:
    """Write the published checkpoint into the folder of an operator."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pytorch_model.bin.1"
    torch.save({f"clip.{name}": tensor for name, tensor in state.items()}, path)
    return path


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the operator's versions in an empty Towhee folder."""
    monkeypatch.setenv("TOWHEE_HOME", str(tmp_path))
    monkeypatch.setitem(MODELS, "own", MODELS["tiny"])  # a model that no other test has an encoder of
    return tmp_path / "operators" / "video-text-embedding" / "clip4clip" / "versions"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_two_operators_with_different_weights_are_warned_about(
    versions: Path, random_state: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    own = write_published_checkpoint(versions / "v1", random_state(MODELS["tiny"].config, 1))
    text = Clip4clip("own", "text", device="cpu", folder=own.parent)
    assert warnings_of(caplog) == []
    other = write_published_checkpoint(versions / "main", random_state(MODELS["tiny"].config, 2))
    video = Clip4clip("own", "video", device="cpu", folder=other.parent)
    fingerprints = [inspect_file(path).fingerprint for path in (own, other)]
    (warning,) = warnings_of(caplog)
    assert f"text from {own} (fingerprint {fingerprints[0]})" in warning
    assert f"video from {other} (fingerprint {fingerprints[1]})" in warning
    assert text.model is not video.model


def test_chosen_weights_and_different_default_ones_are_warned_about(
    versions: Path, random_state: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    write_published_checkpoint(versions / "main", random_state(MODELS["tiny"].config, 3))
    chosen = write_published_checkpoint(versions.parent / "elsewhere", random_state(MODELS["tiny"].config, 4))
    text, video = Clip4clip("own", "text", chosen, "cpu"), Clip4clip("own", "video", device="cpu")
    (warning,) = warnings_of(caplog)
    assert "Pass the same weight_path to both" in warning
    assert text.model is not video.model


def test_weights_that_were_all_chosen_or_are_the_same_are_not_warned_about(
    versions: Path, random_state: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [
        write_published_checkpoint(versions.parent / str(seed), random_state(MODELS["tiny"].config, seed))
        for seed in (5, 6)
    ]
    write_published_checkpoint(versions / "main", random_state(MODELS["tiny"].config, 5))
    encoders: list[TextEncoder | VideoEncoder] = [TextEncoder.load("own", path, "cpu") for path in paths]
    encoders += [TextEncoder.load("own", device="cpu")]  # perhaps to compare it with the two
    encoders += [VideoEncoder.load("own", path, "cpu") for path in paths[:1]]
    assert len(encoders) == 4  # all of them live
    assert warnings_of(caplog) == []


def test_the_default_is_the_only_version_of_the_checkpoint_or_main(
    versions: Path, random_state: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    first = write_published_checkpoint(versions / "v1", random_state(MODELS["tiny"].config, 7))
    assert locate(None, "tiny").path == first
    (versions / "v2").mkdir()
    (versions / "v2" / first.name).symlink_to(first)
    assert locate(None, "tiny").path == first  # the two are the same file
    (versions / "v2" / first.name).unlink()
    second = write_published_checkpoint(versions / "v2", random_state(MODELS["tiny"].config, 8))
    with pytest.raises(WeightsNotFoundError, match=f"several versions.*{first}, {second}.*weight_path"):
        locate(None, "tiny")
    assert locate(None, "tiny", second.parent).path == second
    assert warnings_of(caplog) == []
    main = write_published_checkpoint(versions / "main", random_state(MODELS["tiny"].config, 9))
    assert locate(None, "tiny").path == main
    (warning,) = warnings_of(caplog)
    assert f"{main} is used, but other versions of the operator hold a different one: {first}, {second}" in warning


def test_a_broken_link_to_the_checkpoint_is_an_error(versions: Path) -> None:
    (versions / "main").mkdir(parents=True)
    (versions / "main" / "pytorch_model.bin.1").symlink_to(versions / "gone")
    with pytest.raises(WeightsNotFoundError, match=r"pytorch_model\.bin\.1 is not a file that can be read"):
        Clip4clip("tiny", "text", device="cpu")
