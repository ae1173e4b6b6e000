"""Choice of the torch device."""

from __future__ import annotations

import torch

from .errors import DeviceError


def available_devices() -> list[str]:
    """Names of the devices of this machine, best first: ``cuda:0`` …, ``mps``, ``cpu``."""
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """The device to compute on.

    Args:
        device: ``'cpu'``, ``'cuda'``, ``'cuda:1'``, ``'mps'``, or None for the best there is.

    Raises:
        DeviceError: when this machine has no such device; the message lists those it has.
    """
    devices = available_devices()
    if device is None:
        return torch.device(devices[0])
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
    return torch.device(name)
