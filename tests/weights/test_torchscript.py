"""TorchScript archives, written by torch itself or forged by hand, are read without running any code in them."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import flip_bytes, mapped_addresses
from safetensors.torch import save_file
from torch import nn

from clip4clip import CheckpointError, TextEncoder, VideoEncoder
from clip4clip.config import MODELS
from clip4clip.model import TextTower, VisionTower
from clip4clip.runtime.torch_backend import TorchTower
from clip4clip.weights.checkpoint import read_state_dict
from clip4clip.weights.state_dict import tower_state
from clip4clip.weights.torchscript import _rebuild_tensor, is_torchscript, read_torchscript


def save_archive(module: nn.Module, path: Path, *example: torch.Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript, the format of OpenAI's files
        torch.jit.trace(module.eval(), example).save(str(path))


class Odd(nn.Module):
    """Tensors that are easily read wrong: transposed, in half precision, without dimensions, sharing a storage, …"""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        self.transposed = nn.Parameter(torch.randn(5, 3).T)
        self.halved = nn.Parameter(torch.randn(3).half())
        self.scalar = nn.Parameter(torch.tensor(2.5))
        shared = torch.randn(10)
        self.register_buffer("head", shared[:4])
        self.register_buffer("tail", shared[4:])
        self.register_buffer("context_length", torch.tensor(77))
        self.register_buffer("flags", torch.tensor([True, False]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (
            self.inner(x) @ self.inner[0].weight * self.scalar
            + self.transposed.sum()
            + self.halved
            + self.head.sum()
            + self.tail.sum()
        )


def test_a_traced_archive_is_read_as_it_was_saved(tmp_path: Path) -> None:
    module = Odd()
    save_archive(module, tmp_path / "odd.pt", torch.zeros(2, 3))
    assert is_torchscript(tmp_path / "odd.pt")
    read = read_torchscript(tmp_path / "odd.pt")
    state = torch.jit.load(str(tmp_path / "odd.pt")).state_dict()  # torch runs the code in it
    assert state.keys() <= read.keys()
    for name, tensor in state.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    assert torch.equal(read["transposed"], module.transposed)


class Scripted(nn.Module):
    """Attributes that torch.jit.script stores along with the tensors, unlike a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3, bias=False)])
        self.layers[1].weight = self.layers[0].weight
        self.number, self.ratio, self.flag, self.nothing, self.word = 3, 0.5, True, None, "quick_gelu"
        self.pair, self.sizes, self.names, self.table = (1, 2.5), [1, 2], ["a", "b"], {"a": 1}
        for name, kind in {"u8": torch.uint8, "i8": torch.int8, "i16": torch.int16, "i32": torch.int32}.items():
            self.register_buffer(name, torch.arange(-2, 3).to(kind))
        for name, kind in {"f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}.items():
            self.register_buffer(name, torch.randn(4).to(kind))
        self.register_buffer("empty", torch.zeros(0, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x * self.table["a"] * self.sizes[0] * self.pair[1] * len(self.names) * self.number * self.ratio


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_archive_is_read_with_all_kinds_of_tensors(tmp_path: Path) -> None:
    module = Scripted().eval()
    torch.jit.script(module).save(str(tmp_path / "scripted.pt"))
    read = read_torchscript(tmp_path / "scripted.pt")
    state = module.state_dict()
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    assert read["layers.0.weight"].data_ptr() == read["layers.1.weight"].data_ptr()


class Clip(nn.Module):
    """Both towers as one module with OpenAI's names."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        config = MODELS["tiny"].config
        self.visual = VisionTower(config)
        text = TextTower(config)
        self.token_embedding, self.transformer, self.ln_final = text.token_embedding, text.transformer, text.ln_final
        self.positional_embedding, self.text_projection = text.positional_embedding, text.text_projection
        self.logit_scale = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("input_resolution", torch.tensor(config.resolution))
        self.load_state_dict(state, strict=False)

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.transformer(self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]], causal=True)
        return self.visual(pixels), self.ln_final(x)[:, -1] @ self.text_projection * self.logit_scale


def test_an_archive_of_clip_gives_the_vectors_of_its_state_dict(
    tmp_path: Path, tiny_state: dict[str, torch.Tensor], tiny_checkpoint: Path, frames: list[np.ndarray]
) -> None:
    path = tmp_path / "ViT.pt"
    save_archive(Clip(tiny_state), path, torch.zeros(1, 3, 32, 32), torch.ones(1, 4, dtype=torch.long))
    assert tower_state(read_state_dict(path), "text").keys() == tower_state(tiny_state, "text").keys()
    for encoder, data in ((TextEncoder, "a"), (VideoEncoder, frames)):
        ours, theirs = (encoder.load("tiny", weights, "cpu")(data) for weights in (path, tiny_checkpoint))
        np.testing.assert_array_equal(ours, theirs)


def test_an_archive_in_half_precision_gives_the_vectors_of_its_state_dict(
    tmp_path: Path, tiny_state: dict[str, torch.Tensor], frames: list[np.ndarray]
) -> None:
    half = {name: tensor.half() for name, tensor in tiny_state.items()}
    save_file(half, tmp_path / "half.safetensors")
    # Like OpenAI's files it is traced in half precision.
    save_archive(Clip(half).half(), tmp_path / "ViT.pt", torch.zeros(1, 3, 32, 32).half(), torch.ones(1, 4).long())
    assert read_state_dict(tmp_path / "ViT.pt")["visual.conv1.weight"].dtype == torch.float16
    for encoder, data in ((TextEncoder, "a dog"), (VideoEncoder, frames)):
        paths = tmp_path / "ViT.pt", tmp_path / "half.safetensors"
        ours, theirs = (encoder.load("tiny", path, "cpu", "torch")(data) for path in paths)
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_parameters_are_mapped_from_the_archive(tmp_path: Path, tiny_state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "ViT.pt"
    save_archive(Clip(tiny_state), path, torch.zeros(1, 3, 32, 32), torch.ones(1, 4, dtype=torch.long))
    tower = VideoEncoder.load("tiny", path, "cpu", "torch").model
    assert isinstance(tower, TorchTower)
    mapped = mapped_addresses(path)
    for parameter in tower.module.parameters():
        assert any(parameter.data_ptr() in addresses for addresses in mapped)


def test_the_code_inside_is_never_compiled(tmp_path: Path, tiny_state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "ViT.pt"
    save_archive(Clip(tiny_state), path, torch.zeros(1, 3, 32, 32), torch.ones(1, 4, dtype=torch.long))
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "broken.pt", "w") as target:
        for entry in source.infolist():
            is_code = "/code/" in entry.filename
            target.writestr(entry.filename, b"this is no program" if is_code else source.read(entry))
    with pytest.raises(RuntimeError):
        torch.jit.load(str(tmp_path / "broken.pt"))
    assert TextEncoder.load("tiny", tmp_path / "broken.pt", "cpu", "torch")("a dog").shape == (64,)


# Forged archives


def forge(path: Path, pickled: bytes, storage: bytes = bytes(16), compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/constants.pkl", b"\x80\x02).")
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", storage, compression)


def glob(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


STORAGE = (
    b"(X\x07\x00\x00\x00storage" + glob("torch", "FloatStorage") + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
)


def module_with(tensor: bytes) -> bytes:
    """Return a pickled module. The pickle instructions ``tensor`` build its only parameter."""
    name = b"X\x16\x00\x00\x00token_embedding.weight"
    return b"\x80\x02" + glob("__torch__.a", "Clip") + b")\x81}" + name + tensor + b"sb."


def rebuild(offset: int, size: tuple[int, ...], stride: tuple[int, ...], storage: bytes = STORAGE) -> bytes:
    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    head = glob("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + b"J" + struct.pack("<i", offset)
    return head + numbers(size) + numbers(stride) + b"\x89" + glob("collections", "OrderedDict") + b")RtR"


def test_a_valid_forged_archive_is_read(tmp_path: Path) -> None:
    forge(tmp_path / "a.pt", module_with(rebuild(0, (2, 2), (2, 1))), struct.pack("<4f", 1, 2, 3, 4))
    assert read_state_dict(tmp_path / "a.pt")["token_embedding.weight"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (1, (2, 2), (2, 1)),
        (0, (5,), (1,)),
        (0, (2, 2), (3, 1)),
        (-1, (2,), (1,)),
        (3, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2**30, 2**30), (1, 0)),
    ],
)
def test_a_tensor_that_reaches_outside_of_its_storage_is_refused(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...], tmp_path: Path
) -> None:
    forge(tmp_path / "a.pt", module_with(rebuild(offset, size, stride)))
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "function",
    [
        "os.system",
        "posix.system",
        "builtins.eval",
        "builtins.exec",
        "builtins.getattr",
        "torch.load",
        "subprocess.call",
        "torch._utils._rebuild_wrapper_subclass",
        "pathlib.Path.touch",
    ],
)
def test_an_archive_that_would_call_a_function_is_refused_and_calls_none(function: str, tmp_path: Path) -> None:
    marker = tmp_path / "it_ran"
    module, _, name = function.rpartition(".")
    command = f"touch {marker}".encode()
    call = glob(module, name) + b"(X" + struct.pack("<I", len(command)) + command + b"tR"
    forge(tmp_path / "a.pt", module_with(call))
    with pytest.raises(CheckpointError, match="neither a module nor a tensor"):
        read_state_dict(tmp_path / "a.pt")
    assert not marker.exists()


def test_a_function_in_pickle_protocol_4_is_refused(tmp_path: Path) -> None:
    forge(tmp_path / "a.pt", pickle.dumps(sys.exit, protocol=4))
    with pytest.raises(CheckpointError, match="neither a module nor a tensor"):
        read_state_dict(tmp_path / "a.pt")


def nested(depth: int) -> bytes:
    """Return pickled modules, each the attribute of the one before."""
    opened = (glob("__torch__.a", "M") + b")\x81}X\x01\x00\x00\x00a") * depth
    return b"\x80\x02" + opened + b"N" + b"sb" * depth + b"."


PAIR = rebuild(0, (2,), (1,))
ELSEWHERE = STORAGE.replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009")
FORGED: dict[str, Callable[[Path], None]] = {
    "compressed storage": lambda path: forge(path, module_with(PAIR), bytes(16), zipfile.ZIP_DEFLATED),
    "storage of another size": lambda path: forge(path, module_with(PAIR), bytes(12)),
    "storage that is not there": lambda path: forge(path, module_with(rebuild(0, (2,), (1,), ELSEWHERE))),
    "no storage at all": lambda path: forge(path, b"\x80\x02X\x01\x00\x00\x00aQ."),
    "root is a list": lambda path: forge(path, b"\x80\x02]."),
    "endless nesting": lambda path: forge(path, nested(5000)),
    "truncated pickle": lambda path: forge(path, module_with(PAIR)[:-20]),
    "no pickle": lambda path: forge(path, b"hello"),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_archive_is_refused(forgery: str, tmp_path: Path) -> None:
    FORGED[forgery](tmp_path / "a.pt")
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "a.pt")


def test_a_module_that_contains_itself_is_refused(tmp_path: Path) -> None:
    # By way of the pickle's memo the module becomes its own attribute.
    itself = b"\x80\x02" + glob("__torch__.a", "M") + b")\x81q\x00}X\x01\x00\x00\x00ah\x00sb."
    forge(tmp_path / "a.pt", itself)
    with pytest.raises(CheckpointError, match="contains itself"):
        read_state_dict(tmp_path / "a.pt")


def test_modules_that_contain_each_other_twice_are_refused_quickly(tmp_path: Path) -> None:
    # Each of 64 modules holds the next one under two names: 2**64 paths to the last.
    opened = (glob("__torch__.a", "M") + b")\x81}(X\x01\x00\x00\x00a") * 64
    closed = b"X\x01\x00\x00\x00bNub" + b"q\x00X\x01\x00\x00\x00bh\x00ub" * 63
    forge(tmp_path / "a.pt", b"\x80\x02" + opened + b"N" + closed + b".")
    with pytest.raises(CheckpointError, match="modules"):
        read_state_dict(tmp_path / "a.pt")


def test_too_many_names_are_refused(tmp_path: Path) -> None:
    # A module has 2,000 names for one tensor, and another one has 1,000 names for this module: together two million
    # names in 40 KB.
    def named(letter: str, count: int, value: bytes) -> bytes:
        return b"".join(b"X\x05\x00\x00\x00" + f"{letter}{number:04}".encode() + value for number in range(count))

    inner = (
        glob("__torch__.a", "M") + b")\x81}(X\x01\x00\x00\x00t" + PAIR + b"q\x01" + named("t", 2000, b"h\x01") + b"ub"
    )
    outer = (
        glob("__torch__.a", "M") + b")\x81}(X\x01\x00\x00\x00a" + inner + b"q\x00" + named("m", 1000, b"h\x00") + b"ub"
    )
    forge(tmp_path / "a.pt", b"\x80\x02" + outer + b".", bytes(16))
    with pytest.raises(CheckpointError, match="names of over"):
        read_state_dict(tmp_path / "a.pt")


def test_a_compressed_pickle_is_refused(tmp_path: Path) -> None:
    forge(tmp_path / "a.pt", module_with(PAIR))
    with zipfile.ZipFile(tmp_path / "a.pt") as source, zipfile.ZipFile(tmp_path / "b.pt", "w") as target:
        for entry in source.infolist():
            compression = zipfile.ZIP_DEFLATED if entry.filename.endswith("data.pkl") else zipfile.ZIP_STORED
            target.writestr(entry.filename, source.read(entry), compression)
    with pytest.raises(CheckpointError, match="compressed"):
        read_state_dict(tmp_path / "b.pt")


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    save_archive(Odd(), tmp_path / "odd.pt", torch.zeros(2, 3))
    content = (tmp_path / "odd.pt").read_bytes()
    for cut in range(0, len(content), 997):
        (tmp_path / "cut.pt").write_bytes(content[:cut])
        with pytest.raises(CheckpointError):
            read_state_dict(tmp_path / "cut.pt")


def test_an_archive_with_flipped_bytes_is_refused(tmp_path: Path) -> None:
    save_archive(Odd(), tmp_path / "odd.pt", torch.zeros(2, 3))
    content = (tmp_path / "odd.pt").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        (tmp_path / "damaged.pt").write_bytes(flip_bytes(content, random))
        with pytest.raises(CheckpointError):  # refused at the latest because it is no CLIP
            read_state_dict(tmp_path / "damaged.pt")


@pytest.mark.parametrize(
    "function",
    [
        "torch.storage._load_from_bytes",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_from_type_v2",
        "torch.jit.load",
        "torch.jit._pickle.restore_type_tag.__globals__",
        "torch.hub.load",
        "torch.Storage.from_file",
        "numpy.load",
        "collections.OrderedDict.fromkeys",
        "importlib.import_module",
        "_torch__.a",
    ],
)
def test_no_other_function_of_torch_or_python_can_be_reached(function: str, tmp_path: Path) -> None:
    module, _, name = function.rpartition(".")
    forge(tmp_path / "a.pt", module_with(glob(module, name)))
    with pytest.raises(CheckpointError, match="neither a module nor a tensor"):
        read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["os", "os.system", "posix"])
def test_a_class_of_an_archive_is_never_imported(name: str, tmp_path: Path) -> None:
    command = f"touch {tmp_path / 'it_ran'}".encode()
    call = glob(f"__torch__.{name}", "system") + b"(X" + struct.pack("<I", len(command)) + command + b"tR"
    forge(tmp_path / "a.pt", module_with(call))
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "a.pt")
    assert not (tmp_path / "it_ran").exists()


def test_a_view_used_as_a_storage_cannot_reach_outside_of_it(tmp_path: Path) -> None:
    # With a stride of 0 a view of any length has only four numbers behind it. It must not be used as a storage.
    forge(tmp_path / "a.pt", module_with(rebuild(0, (1000,), (1,), rebuild(0, (1000,), (0,)))))
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize("offset", [0, 26, 30], ids=["signature", "length of the name", "name"])
def test_a_storage_with_a_damaged_local_header_is_refused(offset: int, tmp_path: Path) -> None:
    # A zip file describes each entry in its directory and in a local header. The header says where its bytes begin.
    path = tmp_path / "a.pt"
    forge(path, module_with(rebuild(0, (2, 2), (2, 1))))
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("archive/data/0").header_offset
    content = bytearray(path.read_bytes())
    content[start + offset] -= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        read_state_dict(path)


def doubling(leaf: bytes, levels: int, template: bytes) -> bytes:
    """Return nested objects with 2**levels paths to ``leaf``: each template refers twice to the level below."""
    pickled = leaf
    for level in range(levels):
        pickled += b"q" + bytes([level]) + b"0" + template.replace(b"BELOW", b"h" + bytes([level]))
    return pickled


def test_archives_forged_to_exhaust_or_crash_the_reader_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="the peak of the memory")
    twice = glob("__torch__.a", "M") + b")\x81}(X\x01\x00\x00\x00aBELOWX\x01\x00\x00\x00bBELOWub"
    forgeries = {
        "modules.pt": b"\x80\x02" + doubling(b"N", 60, twice) + b".",
        # An error message that contains such a list would have 2**60 pairs of brackets.
        "lists.pt": module_with(b"(" + doubling(b"]", 60, b"](BELOWBELOWe") + b"K\x01K\x01K\x01K\x01tQ"),
        # The memo of the unpickler in C would have an entry for each number up to this one: 512 MB.
        "memo.pt": b"\x80\x02Nr" + struct.pack("<I", 2**25) + b".",
        # With a stride of 0 one number is a tensor of any length. As a list it would have a tensor for each element.
        "list.pt": module_with(glob("torch.jit._pickle", "build_intlist") + b"(" + rebuild(0, (2**22,), (0,)) + b"tR"),
        # The hash of a nested tuple is computed by unlimited recursion in C.
        "hash.pt": b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.",
    }
    for name, pickled in forgeries.items():
        forge(tmp_path / name, pickled)
    # They are read in a process of their own, which may hang or crash.
    program = """
import pathlib, resource, sys
from clip4clip.weights.checkpoint import read_state_dict
from clip4clip.errors import CheckpointError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in map(pathlib.Path, sys.argv[1:]):
    try:
        read_state_dict(path)
    except CheckpointError:
        print(path.name, flush=True)
unit = 1 if sys.platform == "darwin" else 1024
print("small" if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 300e6 else "large")
"""
    paths = [str(tmp_path / name) for name in forgeries]
    done = subprocess.run([sys.executable, "-c", program, *paths], stdout=subprocess.PIPE, text=True, timeout=300)
    assert done.stdout.split() == [*forgeries, "small"]


NOTHING = STORAGE.replace(b"K\x04tQ", b"K\x00tQ")
STATES = {
    # The __setstate__ of torch would let the tensor grow over uninitialised memory.
    "a tensor": rebuild(0, (0,), (1,), NOTHING) + b"q\x01(h\x01K\x00K\x64\x85K\x01\x85tb",
    "a function": glob("torch._utils", "_rebuild_tensor_v2") + b"(N}X\x0c\x00\x00\x00__defaults__K\x07\x85stb",
    "a class": glob("__torch__.a", "M") + b"(N}X\x01\x00\x00\x00aK\x07stb",
    "an item of a tensor": rebuild(0, (0,), (1,), NOTHING) + b"NK\x07s",
}


@pytest.mark.parametrize("target", STATES)
def test_only_modules_can_be_given_a_state(target: str, tmp_path: Path) -> None:
    forge(tmp_path / "a.pt", module_with(STATES[target]), b"")
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "a.pt")
    assert not _rebuild_tensor.__defaults__


def test_a_damaged_pickle_with_a_valid_checksum_is_refused(tmp_path: Path) -> None:
    save_archive(Odd(), tmp_path / "odd.pt", torch.zeros(2, 3))
    with zipfile.ZipFile(tmp_path / "odd.pt") as source:
        entries = {entry.filename: source.read(entry) for entry in source.infolist() if "/code/" not in entry.filename}
    pickled = next(name for name in entries if name.endswith("/data.pkl"))
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = flip_bytes(entries[pickled], random)
        with zipfile.ZipFile(tmp_path / "damaged.pt", "w") as target:
            for name, content in (entries | {pickled: damaged}).items():
                target.writestr(name, content)
        with pytest.raises(CheckpointError):  # refused at the latest because it is no CLIP
            read_state_dict(tmp_path / "damaged.pt")
