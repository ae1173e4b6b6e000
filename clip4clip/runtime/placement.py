"""Where and how a model is computed: by which runtime, on which device, in which precision."""

from __future__ import annotations

import logging
import os
import platform
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..cache import cache_name, is_cache_writable
from ..errors import DeviceError, MissingExtraError, UnknownNameError

logger = logging.getLogger(__name__)

# Microsoft is told nothing of what onnxruntime computes here, unless it is wanted. It looks when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

RUNTIMES = ("torch", "onnxruntime")

# What a runtime can do on a kind of device, the default first.
PRECISIONS = {
    ("torch", "cpu"): ("float32", "bfloat16", "float16"),
    ("torch", "cuda"): ("float32", "float16", "bfloat16"),
    ("torch", "mps"): ("float32", "float16"),
    ("onnxruntime", "cpu"): ("float32", "int8"),
    ("onnxruntime", "cuda"): ("float32", "float16"),
    ("onnxruntime", "openvino"): ("float32", "int8"),
}

# onnxruntime's names of what computes on a device, the best first.
PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}

# Where a driver for a GPU that torch could use leaves its traces: NVIDIA's, AMD's, and Windows' own under WSL.
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def may_have_gpu() -> bool:
    """Whether torch may find a GPU here. False is certain, and known without importing torch."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    return any(Path(driver).exists() for driver in _DRIVERS)


def available_devices() -> list[str]:
    """Names of the devices of this machine, best first: ``cuda:0`` …, ``mps``, ``cpu``."""
    import torch

    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def resolve_device(device: str | None = None) -> str:
    """The torch device to compute on, by name.

    Args:
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``, ``'mps'``, or None for the best there is.

    Raises:
        DeviceError: when this machine has no such device; the message lists those it has.
    """
    import torch

    devices = available_devices()
    if device is None:
        return devices[0]
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"{device!r} is not the name of a device; this machine has: {', '.join(devices)}") from error
    name = f"cuda:{wanted.index or 0}" if wanted.type == "cuda" else str(wanted).removesuffix(":0")
    if name not in devices:
        raise DeviceError(
            f"device {str(device)!r} does not exist on this machine, which has: {', '.join(devices)}. "
            "Pass one of these, or leave device out to take the best."
        )
    return name


@dataclass(frozen=True)
class Placement:
    """Where and how a model is computed.

    Attributes:
        runtime: one of :data:`RUNTIMES`.
        device: ``'cpu'``, ``'cuda:1'``, ``'mps'`` or, of onnxruntime, ``'openvino'``.
        precision: one of those that :data:`PRECISIONS` has for them.
        compiled: by ``torch.compile``, for a few fixed shapes.
    """

    runtime: str
    device: str
    precision: str = "float32"
    compiled: bool = False

    @property
    def kind(self) -> str:
        """Of the device: its name without a number."""
        return self.device.split(":")[0]


def resolve_placement(
    device: str | None = None, runtime: str | None = None, precision: str = "float32", compiled: bool = False
) -> Placement:
    """Where a model is computed when so much is asked for.

    Args:
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``, ``'mps'``, ``'openvino'``, or None for the best there is.
        runtime: ``'torch'``, ``'onnxruntime'``, or None for the faster one: onnxruntime on a CPU if it is installed and
            has the precision, else torch.
        precision: ``'float32'``, ``'float16'``, ``'bfloat16'`` or ``'int8'``.
        compiled: by ``torch.compile``: the first calls take a minute, the others less than without. For torch alone.

    Raises:
        UnknownNameError: for a runtime or precision that there is none of, or that this device cannot do; the message
            lists those that it can.
        DeviceError: when this machine, or this runtime, has no such device.
        MissingExtraError: when onnxruntime is asked for and not installed.
    """
    known = tuple(dict.fromkeys(name for names in PRECISIONS.values() for name in names))
    if runtime is not None and runtime not in RUNTIMES:
        raise UnknownNameError(f"unknown runtime {runtime!r}; it must be {' or '.join(map(repr, RUNTIMES))}")
    if precision not in known:
        raise UnknownNameError(f"unknown precision {precision!r}; it must be one of {', '.join(known)}")
    if runtime == "onnxruntime":
        check_onnx()
    wanted = str(device) if device is not None else None
    if wanted is None and not may_have_gpu():
        wanted = "cpu"  # without asking torch, which takes seconds to answer
    if compiled and runtime == "onnxruntime":
        raise UnknownNameError("compiled=True is for the runtime 'torch', not 'onnxruntime', which compiles by itself")
    if runtime is None:
        runtime = "torch" if compiled else _faster(wanted, precision)
    if runtime == "torch":
        found = Placement(runtime, resolve_device(wanted), precision, compiled)
    else:
        found = Placement(runtime, _onnx_device(wanted), precision)
    able = PRECISIONS[found.runtime, found.kind]
    if precision not in able:
        others = [
            f"{name} by {one}" for (one, kind), names in PRECISIONS.items() if kind == found.kind for name in names
        ]
        raise UnknownNameError(
            f"{found.runtime} on {found.device} cannot compute in {precision!r}, but in {', '.join(able)}; "
            f"on {found.kind} there are: {', '.join(others)}"
        )
    return found


def _faster(device: str | None, precision: str) -> str:
    """The runtime for a device when none is asked for."""
    if device is None:
        device = available_devices()[0]
    kind = device.split(":")[0]
    if kind == "openvino":
        return "onnxruntime"
    if kind == "cpu" and precision in PRECISIONS["onnxruntime", "cpu"]:
        if _has_onnxruntime():
            if is_cache_writable() or precision not in PRECISIONS["torch", "cpu"]:
                return "onnxruntime"
            logger.warning("torch and not onnxruntime is used: nothing can be written to %s", cache_name())
        elif precision not in PRECISIONS["torch", "cpu"]:
            check_onnx()
    return "torch"


def check_onnx() -> None:
    """MissingExtraError when the packages are not there that make and compute ONNX graphs."""
    if not _has_onnxruntime():
        raise MissingExtraError("this needs onnx and onnxruntime: pip install 'towhee-clip4clip[onnx]'")


def _has_onnxruntime() -> bool:
    return find_spec("onnxruntime") is not None and find_spec("onnx") is not None


def _onnx_device(device: str | None) -> str:
    """The device of onnxruntime by name: CUDA, if it is there, when none is asked for; DeviceError when it is not."""
    import onnxruntime

    there = onnxruntime.get_available_providers()
    devices = [name for name, provider in PROVIDERS.items() if provider in there]
    wanted = device if device is not None else ("cuda" if "cuda" in devices else "cpu")
    kind, _, number = wanted.partition(":")
    if kind not in devices or (number and not (number.isdecimal() and (kind == "cuda" or number == "0"))):
        raise DeviceError(
            f"the installed onnxruntime has no device {wanted!r}; it has: {', '.join(devices)}. CUDA comes with the "
            "distribution onnxruntime-gpu, OpenVINO with onnxruntime-openvino, in place of onnxruntime"
        )
    return f"cuda:{int(number or 0)}" if kind == "cuda" else kind
