"""Compute towers with ONNX Runtime."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile

from ..errors import DeviceError, first_line
from ..threads import thread_pool
from .placement import PROVIDERS, available_cores
from .tower import Tower

# The errors of onnxruntime on a CPU when the files of a graph are missing, truncated or overwritten. It raises the last
# one if its message quotes bytes of the file.
DAMAGED_GRAPH_ERRORS = (NoSuchFile, InvalidProtobuf, InvalidArgument, InvalidGraph, Fail, UnicodeDecodeError)
MAX_IDLE_SHARE = 0.25  # share of the cores' time that may be lost when each computes rows of its own


class OnnxTower(Tower):
    """A tower computed from a graph file.

    A CPU computes a batch in one of two modes. All cores compute each operator together and wait for each other after
    it: this is best for one row or a few. Or the batch is split, and each core computes its rows from beginning to end:
    this is best when it keeps all cores busy. Each mode has a session of its own, with the weights in memory, created
    when it is first used. A process that is forked, or unpickles the tower, loads the graph again.

    Args:
        create_session: returns a session of the graph that computes with a number of threads.
        device: ``'cpu'``, ``'cuda:1'`` or ``'openvino'``.
        batch_size: the batch size of most calls. Its session is created at once.
    """

    def __init__(
        self,
        create_session: Callable[[int], onnxruntime.InferenceSession],
        device: str = "cpu",
        batch_size: int = 1,
    ) -> None:
        self._create_session, self._device, self._cores = create_session, device, available_cores()
        self._drop_sessions()
        _towers.add(self)
        self._session(1 if self._should_split(batch_size) else self._cores)

    def __getstate__(self) -> dict[str, Any]:
        return {"_create_session": self._create_session, "_device": self._device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _cores=available_cores())
        self._drop_sessions()
        _towers.add(self)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        inputs = np.asarray(inputs)  # Towhee's users pass tensors
        if not self._should_split(len(inputs)):
            return run_session(self._session(self._cores), inputs)
        run = functools.partial(run_session, self._session(1))
        parts = np.array_split(inputs, min(len(inputs), self._cores))
        return np.concatenate(list(thread_pool("onnx", self._cores).map(run, parts)))

    def _should_split(self, batch_size: int) -> bool:
        """Return whether a batch keeps the cores busy if each computes one row at a time."""
        rounds = -(-batch_size // self._cores)
        return self._device == "cpu" and batch_size >= (1 - MAX_IDLE_SHARE) * rounds * self._cores

    def _session(self, threads: int) -> onnxruntime.InferenceSession:
        with self._lock:
            if threads not in self._sessions:
                self._sessions[threads] = self._create_session(threads)
            return self._sessions[threads]

    def _drop_sessions(self) -> None:
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}  # by their number of threads
        self._lock = threading.Lock()


_towers: weakref.WeakSet[OnnxTower] = weakref.WeakSet()
_inherited: list[dict[int, onnxruntime.InferenceSession]] = []  # sessions of the parent process


def _after_fork() -> None:
    """Have a forked process create its own sessions.

    It has none of the threads of its parent's sessions, so it cannot run them. It must not delete them either, as that
    would wait for these threads.
    """
    for tower in list(_towers):
        _inherited.append(tower._sessions)
        tower._drop_sessions()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def create_session(path: Path, device: str = "cpu", threads: int = 1) -> onnxruntime.InferenceSession:
    """Load a graph.

    Args:
        path: the graph file.
        device: ``'cpu'``, ``'cuda:1'`` or ``'openvino'``.
        threads: number of threads of each run on a CPU.

    Raises:
        DeviceError: onnxruntime cannot compute on the device, although a CPU can load the graph.
        Exception: one of :data:`DAMAGED_GRAPH_ERRORS` if a CPU cannot load the graph either.
    """
    kind, _, number = device.partition(":")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: users can do nothing about the warnings of its optimiser
    options.intra_op_num_threads = threads
    provider_options: dict[str, Any] = {"device_id": int(number)} if kind == "cuda" else {}
    providers = [(PROVIDERS[kind], provider_options), *(["CPUExecutionProvider"] if kind != "cpu" else [])]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's errors have no class in common
        if kind == "cpu":
            raise
        create_session(path)  # raises if the file is damaged
        raise _device_error(device, first_line(error)) from error
    session.disable_fallback()  # onnxruntime 1.20 ignores enable_fallback=0
    if session.get_providers()[0] != PROVIDERS[kind]:
        raise _device_error(device, f"it would have computed with {session.get_providers()[0]}")
    return session


def _device_error(device: str, reason: str) -> DeviceError:
    return DeviceError(
        f"onnxruntime cannot compute on {device!r} with {PROVIDERS[device.split(':')[0]]}: {reason}. Check that this "
        "machine has the driver and the libraries that it needs, or choose the device 'cpu' or the runtime 'torch'"
    )


def run_session(session: onnxruntime.InferenceSession, inputs: np.ndarray) -> np.ndarray:
    """Run a graph that has one input and one output."""
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]
