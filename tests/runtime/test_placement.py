"""The choice of runtime, device and precision."""

from __future__ import annotations

import onnxruntime
import pytest

from clip4clip import DeviceError, UnknownNameError
from clip4clip.runtime.placement import available_devices, resolve_device, resolve_placement


def test_the_default_on_a_cpu_is_onnxruntime_if_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    default = resolve_placement("cpu")
    assert (default.runtime, default.device, default.precision) == ("onnxruntime", "cpu", "float32")
    assert resolve_placement("cpu", precision="bfloat16").runtime == "torch"
    assert resolve_placement("cpu", precision="int8").runtime == "onnxruntime"
    monkeypatch.setattr("clip4clip.runtime.placement._has_onnx", lambda: False)
    assert resolve_placement("cpu").runtime == "torch"
    for arguments in ({"precision": "int8"}, {"runtime": "onnxruntime"}):
        with pytest.raises(ImportError, match=r"pip install 'towhee-clip4clip\[onnx\]'"):
            resolve_placement("cpu", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cpu", "jax"), "unknown runtime 'jax'; it must be 'torch' or 'onnxruntime'"),
        (("cpu", None, "int4"), "unknown precision 'int4'; it must be one of float32, bfloat16, float16, int8"),
        (
            ("cpu", "torch", "int8"),
            "torch on cpu does not support the precision 'int8', only float.*: .*int8 by onnx",
        ),
        (("cpu", "onnxruntime", "bfloat16"), "does not support the precision 'bfloat16', only float32, int8"),
        (("openvino",), "the installed onnxruntime has no device 'openvino'; it has: cpu"),
        (("cuda:0", "onnxruntime"), "the installed onnxruntime has no device 'cuda:0'"),
        (("cpu:1", "onnxruntime"), "no device 'cpu:1'"),
    ],
)
def test_an_unsupported_choice_is_an_error_that_lists_alternatives(arguments: tuple[str, ...], message: str) -> None:
    if arguments[0] in ("openvino", "cuda:0") and len(onnxruntime.get_available_providers()) > 2:
        pytest.skip("this onnxruntime has the device")
    with pytest.raises(ValueError, match=message):
        resolve_placement(*arguments)


def test_only_torch_can_be_compiled() -> None:
    with pytest.raises(UnknownNameError, match="compiled=True is for the runtime 'torch'"):
        resolve_placement("cpu", "onnxruntime", compiled=True)


def test_the_default_device_is_the_best_one() -> None:
    assert str(resolve_device(None)) == available_devices()[0]
    assert available_devices()[-1] == "cpu"


@pytest.mark.parametrize("device", ["cuda:99", "cuda:-1", "tpu", "", "meta", "cpu:1"])
def test_an_unavailable_device_is_an_error_that_lists_the_available_ones(device: str) -> None:
    with pytest.raises(DeviceError, match=r"has: .*cpu"):
        resolve_device(device)
