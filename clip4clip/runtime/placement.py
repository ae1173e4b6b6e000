"""Choose what computes a model: the runtime, the device and the precision."""

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

# Turns off onnxruntime's telemetry, unless the user has set it. onnxruntime reads it when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

RUNTIMES = ("torch", "onnxruntime")

# For each runtime and kind of device, the precisions that are supported, the default first.
PRECISIONS = {
    ("torch", "cpu"): ("float32", "bfloat16", "float16"),
    ("torch", "cuda"): ("float32", "float16", "bfloat16"),
    ("torch", "mps"): ("float32", "float16"),
    ("onnxruntime", "cpu"): ("float32", "int8"),
    ("onnxruntime", "cuda"): ("float32", "float16"),
    ("onnxruntime", "openvino"): ("float32", "int8"),
}

# For each kind of device, onnxruntime's execution provider; the best device first.
PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}

# Files of the GPU drivers that torch can use: NVIDIA's, AMD's, and that of Windows under WSL.
_GPU_DRIVER_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


@dataclass(frozen=True)
class Placement:
    """What computes a model.

    Attributes:
        runtime: one of :data:`RUNTIMES`.
        device: ``'cpu'``, ``'cuda:1'``, ``'mps'``, or for onnxruntime ``'openvino'``.
        precision: one that :data:`PRECISIONS` lists for the runtime and the device.
        compiled: compile with ``torch.compile``, for a few fixed shapes.
    """

    runtime: str
    device: str
    precision: str = "float32"
    compiled: bool = False

    @property
    def device_kind(self) -> str:
        """The name of the device without its number."""
        return self.device.split(":")[0]


def resolve_placement(
    device: str | None = None, runtime: str | None = None, precision: str = "float32", compiled: bool = False
) -> Placement:
    """Check what the caller asked for and choose the rest.

    Args:
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``, ``'mps'`` or ``'openvino'``; None for the best one available.
        runtime: ``'torch'`` or ``'onnxruntime'``. None chooses the faster one: onnxruntime on a CPU if it is installed
            and supports the precision, otherwise torch.
        precision: ``'float32'``, ``'float16'``, ``'bfloat16'`` or ``'int8'``.
        compiled: compile with ``torch.compile``: the first calls take a minute, later ones less time than without it.
            Only for torch.

    Raises:
        UnknownNameError: the runtime or the precision does not exist, or the device does not support it; the message
            lists what it supports.
        DeviceError: this machine, or the runtime, does not have the device.
        MissingExtraError: onnxruntime was chosen but is not installed.
    """
    _check_names(runtime, precision, compiled)
    if device is not None:
        device = str(device)
    elif not may_have_gpu():
        device = "cpu"  # known without importing torch, which takes seconds
    if runtime is None:
        runtime = "torch" if compiled else _faster_runtime(device, precision)
    if runtime == "torch":
        placement = Placement(runtime, resolve_device(device), precision, compiled)
    else:
        placement = Placement(runtime, _resolve_onnx_device(device), precision)
    _check_precision(placement)
    return placement


def _check_names(runtime: str | None, precision: str, compiled: bool) -> None:
    precisions = tuple(dict.fromkeys(name for names in PRECISIONS.values() for name in names))
    if runtime is not None and runtime not in RUNTIMES:
        raise UnknownNameError(f"unknown runtime {runtime!r}; it must be {' or '.join(map(repr, RUNTIMES))}")
    if precision not in precisions:
        raise UnknownNameError(f"unknown precision {precision!r}; it must be one of {', '.join(precisions)}")
    if runtime == "onnxruntime":
        require_onnx()
        if compiled:
            raise UnknownNameError(
                "compiled=True is for the runtime 'torch', not for 'onnxruntime', which always compiles its graphs"
            )


def _check_precision(placement: Placement) -> None:
    supported = PRECISIONS[placement.runtime, placement.device_kind]
    if placement.precision in supported:
        return
    alternatives = [
        f"{name} by {runtime}"
        for (runtime, kind), names in PRECISIONS.items()
        if kind == placement.device_kind
        for name in names
    ]
    raise UnknownNameError(
        f"{placement.runtime} on {placement.device} does not support the precision {placement.precision!r}, only "
        f"{', '.join(supported)}. Available on {placement.device_kind}: {', '.join(alternatives)}"
    )


def _faster_runtime(device: str | None, precision: str) -> str:
    """Return the runtime for a device when the caller chose none."""
    if device is None:
        device = available_devices()[0]
    kind = device.split(":")[0]
    if kind == "openvino":
        return "onnxruntime"
    if kind != "cpu" or precision not in PRECISIONS["onnxruntime", "cpu"]:
        return "torch"
    can_use_torch = precision in PRECISIONS["torch", "cpu"]
    if not _has_onnx():
        if not can_use_torch:
            require_onnx()
        return "torch"
    if can_use_torch and not is_cache_writable():
        logger.warning("using torch instead of onnxruntime, because %s is not writable", cache_name())
        return "torch"
    return "onnxruntime"


def require_onnx() -> None:
    """Raise MissingExtraError unless onnx and onnxruntime are installed."""
    if not _has_onnx():
        raise MissingExtraError("this needs onnx and onnxruntime: pip install 'towhee-clip4clip[onnx]'")


def _has_onnx() -> bool:
    return find_spec("onnxruntime") is not None and find_spec("onnx") is not None


def available_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def may_have_gpu() -> bool:
    """Return False if torch certainly finds no GPU on this machine. Does not import torch."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    return any(Path(driver).exists() for driver in _GPU_DRIVER_FILES)


def available_devices() -> list[str]:
    """Return the names of torch's devices on this machine, the best first: ``cuda:0`` …, ``mps``, ``cpu``."""
    import torch

    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def resolve_device(device: str | None = None) -> str:
    """Return the name of a torch device of this machine.

    Args:
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'`` or ``'mps'``; None for the best one available.

    Raises:
        DeviceError: the device is not available; the message lists those that are.
    """
    import torch

    devices = available_devices()
    if device is None:
        return devices[0]
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"{device!r} is not the name of a device; this machine has: {', '.join(devices)}") from error
    name = f"cuda:{parsed.index or 0}" if parsed.type == "cuda" else str(parsed).removesuffix(":0")
    if name not in devices:
        raise DeviceError(
            f"device {str(device)!r} does not exist on this machine, which has: {', '.join(devices)}. "
            "Pass one of these, or leave device out to take the best."
        )
    return name


def _resolve_onnx_device(device: str | None) -> str:
    """Return the name of an onnxruntime device; without a name, CUDA if it is available, otherwise the CPU.

    Raises:
        DeviceError: the installed onnxruntime does not have the device.
    """
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    devices = [kind for kind, provider in PROVIDERS.items() if provider in providers]
    if device is None:
        device = "cuda" if "cuda" in devices else "cpu"
    kind, _, number = device.partition(":")
    is_valid_number = not number or (number.isdecimal() and (kind == "cuda" or number == "0"))
    if kind not in devices or not is_valid_number:
        raise DeviceError(
            f"the installed onnxruntime has no device {device!r}; it has: {', '.join(devices)}. CUDA comes with the "
            "distribution onnxruntime-gpu, OpenVINO with onnxruntime-openvino, in place of onnxruntime"
        )
    return f"cuda:{int(number or 0)}" if kind == "cuda" else kind
