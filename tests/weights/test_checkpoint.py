"""Checkpoint files of every family are read. Other files are refused, and are neither run nor unpacked."""

from __future__ import annotations

import json
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, State, embed, flip_bytes, mapped_addresses
from constants import REPOSITORY
from safetensors.torch import save_file

from clip4clip import CheckpointError, TextEncoder, VideoEncoder
from clip4clip.config import MODELS, CLIPConfig, Model
from clip4clip.model import random_state_dict
from clip4clip.runtime.torch_backend import TorchTower
from clip4clip.weights.checkpoint import read_state_dict


@pytest.mark.parametrize("modality", ["text", "video"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_checkpoints_gives_the_same_vectors(
    family: str, modality: str, tiny_state: State, expected_vectors: Callable, tmp_path: Path
) -> None:
    FAMILIES[family](tiny_state, tmp_path / "checkpoint")
    np.testing.assert_allclose(embed(tmp_path / "checkpoint", modality), expected_vectors(modality), atol=1e-6)


@pytest.mark.parametrize("modality", ["text", "video"])
def test_weights_in_half_precision_are_computed_in_single_precision(
    modality: str, tiny_state: State, expected_vectors: Callable, tmp_path: Path
) -> None:
    halved = {name: tensor.half() for name, tensor in tiny_state.items()}
    save_file(halved, tmp_path / "model.safetensors")
    save_file({name: tensor.float() for name, tensor in halved.items()}, tmp_path / "single.safetensors")
    half = embed(tmp_path / "model.safetensors", modality)
    np.testing.assert_allclose(half, expected_vectors(modality), atol=1e-2)
    np.testing.assert_allclose(half, embed(tmp_path / "single.safetensors", modality), atol=1e-6)


def test_a_checkpoint_with_the_state_of_an_optimizer_is_read(
    tiny_state: State, tmp_path: Path, expected_vectors: Callable
) -> None:
    moments = {n: {part: torch.zeros(2) for part in ("step", "exp_avg", "exp_avg_sq")} for n in range(400)}
    torch.save({"state_dict": tiny_state, "optimizer": {"state": moments}}, tmp_path / "a")
    np.testing.assert_allclose(embed(tmp_path / "a", "text"), expected_vectors("text"), atol=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("family", ["safetensors", "zip"])
def test_parameters_are_mapped_from_the_file(family: str, tiny_state: State, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    FAMILIES[family](tiny_state, path)
    tower = TextEncoder.load("tiny", path, "cpu", "torch").model
    assert isinstance(tower, TorchTower)
    mapped = mapped_addresses(path)
    for parameter in tower.module.parameters():
        assert any(parameter.data_ptr() in addresses for addresses in mapped)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_the_values_of_the_other_tower_are_not_read(runtime: str, tiny_state: State, tmp_path: Path) -> None:
    # One tensor of the vision tower is filled with NaN, which is an error when it is read.
    path = tmp_path / "model.safetensors"
    save_file(tiny_state, path)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    offsets = json.loads(path.read_bytes()[8 : 8 + header])
    start, end = offsets["visual.transformer.resblocks.0.mlp.c_fc.weight"]["data_offsets"]
    damaged = bytearray(path.read_bytes())
    damaged[8 + header + start : 8 + header + end] = b"\xff" * (end - start)  # NaN in float32
    path.write_bytes(damaged)
    assert np.isfinite(TextEncoder.load("tiny", path, "cpu", runtime)("a dog")).all()
    with pytest.raises(CheckpointError, match="not finite"):
        VideoEncoder.load("tiny", path, "cpu", runtime)(np.zeros((1, 32, 32, 3), np.uint8))


def resident(path: Path) -> int:
    """Return how many bytes of a mapped file are in the memory of this process."""
    total, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_ours = line.endswith(str(path))
        elif is_ours and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("modality", ["text", "video"])
@pytest.mark.parametrize("family", ["safetensors", "zip"])
def test_only_the_tower_in_use_is_read_from_the_disk(
    family: str, modality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CLIPConfig(64, 32, 16, vision_width=512, vision_layers=4, text_width=64, text_layers=1)
    monkeypatch.setitem(MODELS, "large towers", Model(config, hub="hf://owner/model"))
    state, path = random_state_dict(config), tmp_path / "checkpoint"
    FAMILIES[family](state, path)
    sizes = {"text": 0, "video": 0}
    for name, tensor in state.items():
        sizes["video" if name.startswith("visual.") else "text"] += tensor.nbytes
    margin = 2**22  # the system also reads some pages around each one in use
    assert min(sizes.values()) > 2 * margin
    if modality == "text":
        encoder = TextEncoder.load("large towers", path, "cpu", "torch")
        encoder("a dog")
    else:
        encoder = VideoEncoder.load("large towers", path, "cpu", "torch")
        encoder(np.zeros((1, 32, 32, 3), np.uint8))
        assert resident(path) > sizes["video"] / 2  # otherwise the measurement would be wrong
    assert resident(path) < sizes[modality] + margin


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello world, this is text", "neither safetensors nor a PyTorch file"),
        (b"<!DOCTYPE html><html>404</html>", "neither safetensors nor"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "neither safetensors nor"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 605143284\n", "git lfs pull"),
        (bytes([255] * 7) + b"\x7f{" + bytes(100), "cannot be read as a checkpoint"),
        (pickle.dumps([1, 2, 3]), "cannot be read as a checkpoint"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_reason(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        TextEncoder.load("tiny", tmp_path / "file", "cpu")


def test_other_zip_files_and_other_networks_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError):
        TextEncoder.load("tiny", tmp_path / "zip", "cpu")
    torch.save({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, tmp_path / "resnet.pt")
    with pytest.raises(
        CheckpointError, match=r"no CLIP with a vision transformer; its tensors are: conv1\.weight, fc\.bias"
    ):
        TextEncoder.load("tiny", tmp_path / "resnet.pt", "cpu")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(CheckpointError, match="it holds a Tensor, not a state dict"):
        TextEncoder.load("tiny", tmp_path / "tensor.pt", "cpu")


@pytest.mark.parametrize("entries", [["[Content_Types].xml"], ["a/data.pkl"], ["a/version"], ["a/constants.pkl"], []])
def test_a_zip_file_of_another_kind_is_refused_with_the_reason(entries: list[str], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.docx", "w") as archive:
        for name in entries:
            archive.writestr(name, b"hello")
    with pytest.raises(CheckpointError, match=r"a\.docx cannot be read as a checkpoint: \w+ \w+") as error:
        read_state_dict(tmp_path / "a.docx")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [{}, {"a": 1, "b": "x"}, {"state_dict": {"a": None}}, {"state_dict": None}, [], "x"]
)
def test_a_pickle_without_tensors_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"none at all|not a state dict"):
        TextEncoder.load("tiny", tmp_path / "a.pt", "cpu")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(64).to_sparse(),
        torch.ones(64, device="meta"),
        torch.ones(64, dtype=torch.complex64),
        torch.ones(64, dtype=torch.bool),
    ],
    ids=["sparse", "without numbers", "complex", "bool"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_sparse_complex_or_integer_tensor_is_refused_by_its_name(
    tensor: torch.Tensor, tiny_state: State, tmp_path: Path
) -> None:
    torch.save(tiny_state | {"ln_final.weight": tensor}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"ln_final\.weight is"):
        TextEncoder.load("tiny", tmp_path / "a.pt", "cpu")


@pytest.mark.parametrize("family", ["safetensors", "zip", "legacy pickle"])
def test_a_truncated_file_is_refused(family: str, tiny_state: State, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    FAMILIES[family]({name: value for name, value in tiny_state.items() if "token" not in name}, whole)
    content = whole.read_bytes()
    cuts = [0, 1, 7, 8, 9, 20, 100, 1000, *np.linspace(2000, len(content) - 1, 30).astype(int), len(content) - 1]
    for cut in cuts:
        (tmp_path / "cut").write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match="cut"):
            read_state_dict(tmp_path / "cut")


SMALL = {"token_embedding.weight": torch.arange(6.0).view(3, 2), "visual.conv1.weight": torch.ones(2, 3, 2, 2)}


@pytest.mark.parametrize("family", ["safetensors", "zip", "legacy pickle"])
def test_a_file_truncated_at_any_byte_is_refused(family: str, tmp_path: Path) -> None:
    FAMILIES[family](SMALL, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for cut in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match="cut"):
            read_state_dict(tmp_path / "cut")


@pytest.mark.parametrize("family", ["safetensors", "zip", "legacy pickle"])
def test_a_file_with_flipped_bytes_is_refused_or_read_with_other_numbers(family: str, tmp_path: Path) -> None:
    state = {"token_embedding.weight": torch.randn(3, 2), "visual.conv1.weight": torch.randn(2, 3, 2, 2)}
    FAMILIES[family](state, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        (tmp_path / "damaged").write_bytes(flip_bytes(content, random))
        try:
            read_state_dict(tmp_path / "damaged")
        except CheckpointError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("family", ["safetensors", "zip", "legacy pickle"])
def test_too_many_tensors_are_refused_before_they_are_read(
    family: str, tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FAMILIES[family](tiny_state | {f"visual.extra{n}": torch.zeros(1) for n in range(12_000)}, tmp_path / "a")
    monkeypatch.setattr("torch.load", None)
    with pytest.raises(CheckpointError, match=r"cannot be read as a checkpoint: .*(at most|more than 1,048,576)"):
        read_state_dict(tmp_path / "a")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_too_many_keys_are_refused_before_they_are_read(
    new: bool, tiny_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tiny_state | {f"key {n}": n for n in range(100_000)}
    torch.save(content, tmp_path / "a", _use_new_zipfile_serialization=new)
    monkeypatch.setattr("torch.load", None)
    with pytest.raises(CheckpointError, match=r"more than 1,048,576 bytes.*save its state dict only"):
        read_state_dict(tmp_path / "a")


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(new: bool, tiny_state: State, tmp_path: Path) -> None:
    marker = tmp_path / "it_ran"
    content = dict(tiny_state) | {"bomb": _Bomb(marker)}
    torch.save(content, tmp_path / "bomb.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError):
        TextEncoder.load("tiny", tmp_path / "bomb.pt", "cpu")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(_Bomb(marker)))
    with pytest.raises(CheckpointError):
        TextEncoder.load("tiny", tmp_path / "plain.pkl", "cpu")
    assert not marker.exists()


def test_versions_of_torch_with_an_unsafe_unpickler_are_excluded() -> None:
    # CVE-2025-32434: up to version 2.5.1, weights_only=True did not prevent code from running.
    for file in ("pyproject.toml", "requirements.txt"):
        floor = re.search(r"\btorch>=(\d+)\.(\d+)", (REPOSITORY / file).read_text("utf-8"))
        assert floor is not None
        assert (int(floor[1]), int(floor[2])) >= (2, 6)


def rezip(source: Path, target: Path, change: Callable[[str, bytes], tuple[bytes, int]]) -> None:
    """Copy a zip file with valid checksums; ``change`` returns the content and the compression of each entry."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, *change(entry.filename, old.read(entry)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns about unknown pickle protocols
def test_a_damaged_pickle_with_a_valid_checksum_is_refused_or_read_with_other_numbers(tmp_path: Path) -> None:
    torch.save(SMALL, tmp_path / "whole")
    random = np.random.default_rng(0)
    refused = 0

    def damage(name: str, content: bytes) -> tuple[bytes, int]:
        return flip_bytes(content, random) if name.endswith("data.pkl") else content, zipfile.ZIP_STORED

    for _ in range(300):
        rezip(tmp_path / "whole", tmp_path / "damaged", damage)
        try:
            read_state_dict(tmp_path / "damaged")
        except CheckpointError:
            refused += 1
    assert refused > 200


def test_compressed_tensors_are_never_mapped_as_plain_ones(tmp_path: Path) -> None:
    torch.save(SMALL, tmp_path / "plain")
    kinds = {"0": zipfile.ZIP_DEFLATED}  # the first tensor: enough bytes follow it for a plain one
    rezip(
        tmp_path / "plain",
        tmp_path / "packed",
        lambda name, content: (content, kinds.get(name.rsplit("/", 1)[1], zipfile.ZIP_STORED)),
    )
    try:
        tensors = read_state_dict(tmp_path / "packed")
    except CheckpointError as error:
        assert "compressed" in str(error)  # noqa: PT017  both outcomes are correct
    else:
        assert torch.equal(tensors["token_embedding.weight"], SMALL["token_embedding.weight"])


@pytest.mark.parametrize("packed", ["data.pkl", "byteorder"])
def test_a_zip_bomb_is_refused(packed: str, tmp_path: Path) -> None:
    torch.save(SMALL, tmp_path / "plain")
    rezip(
        tmp_path / "plain",
        tmp_path / "bomb",
        lambda name, content: (
            (content + bytes(10**7), zipfile.ZIP_DEFLATED) if name.endswith(packed) else (content, zipfile.ZIP_STORED)
        ),
    )
    with pytest.raises(CheckpointError, match="compressed"):
        read_state_dict(tmp_path / "bomb")


def entry(shape: list, offsets: list, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS: dict[str, object] = {
    "reaching past the end": {"visual.conv1.weight": entry([8], [0, 32])},
    "far past the end": {"visual.conv1.weight": entry([2**62], [0, 2**64 - 1])},
    "overflowing": {"visual.conv1.weight": entry([2**32, 2**32], [0, 16])},
    "overlapping": {"visual.conv1.weight": entry([2], [0, 8]), "token_embedding.weight": entry([2], [4, 12])},
    "with a hole": {"visual.conv1.weight": entry([1], [0, 4]), "token_embedding.weight": entry([1], [12, 16])},
    "backwards": {"visual.conv1.weight": entry([4], [16, 0])},
    "negative": {"visual.conv1.weight": entry([4], [-16, 0])},
    "of another size": {"visual.conv1.weight": entry([3], [0, 16])},
    "of no known type": {"visual.conv1.weight": entry([4], [0, 16], "F31")},
    "without a shape": {"visual.conv1.weight": {"dtype": "F32", "data_offsets": [0, 16]}},
    "of numbers": {"visual.conv1.weight": 1},
    "with strange metadata": {"__metadata__": {"a": 1}, "visual.conv1.weight": entry([4], [0, 16])},
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_forged_safetensors_header_is_refused(kind: str, tmp_path: Path) -> None:
    header = json.dumps(HEADERS[kind]).encode()
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_state_dict(tmp_path / "a")


@pytest.mark.parametrize("length", [0, 1, 2**27, 2**28 - 9, 2**28 - 8, 2**28, 2**63 - 1, 2**64 - 1])
def test_a_forged_safetensors_header_length_is_refused(length: int, tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.write(length.to_bytes(8, "little") + b"{" * 1000)
        file.truncate(2**28)  # a sparse file, which takes no room on the disk
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_state_dict(tmp_path / "a")


def test_a_deeply_nested_safetensors_header_is_refused(tmp_path: Path) -> None:
    header = b'{"a":' * 200_000
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_state_dict(tmp_path / "a")
