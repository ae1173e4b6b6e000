"""Towers computed by ONNX Runtime."""

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

# What loading a graph on a CPU raises when its files are missing, cut off or overwritten; the last where the message
# would have quoted some of what stands in them.
DAMAGED = (NoSuchFile, InvalidProtobuf, InvalidArgument, InvalidGraph, Fail, UnicodeDecodeError)
IDLE = 0.25  # of the cores' time at most, where each computes rows of its own


class OnnxTower(Tower):
    """A tower of a graph file.

    A CPU computes a batch in one of two ways. All cores compute each operator together, and wait for each other after
    it: best for one row, or few. Or the rows are shared out, and each core computes its own from beginning to end: best
    where that keeps all of them busy. Each way has the weights in memory once, from its first use on. A process
    that is forked, or gets the tower pickled, loads the graph for itself.

    Args:
        load: number of threads of each run to a graph that is ready to run.
        device: ``'cpu'``, ``'cuda:1'`` or ``'openvino'``.
        rows: that most calls have; what these need is loaded at once.
    """

    def __init__(self, load: Callable[[int], onnxruntime.InferenceSession], device: str = "cpu", rows: int = 1) -> None:
        self._load, self._device, self._cores = load, device, available_cores()
        self._start_empty()
        _towers.add(self)
        self._session(1 if self._to_share_out(rows) else self._cores)

    def __getstate__(self) -> dict[str, Any]:
        return {"_load": self._load, "_device": self._device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _cores=available_cores())
        self._start_empty()
        _towers.add(self)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        inputs = np.asarray(inputs)  # Towhee's users give tensors
        if not self._to_share_out(len(inputs)):
            return run(self._session(self._cores), inputs)
        session, shares = self._session(1), np.array_split(inputs, min(len(inputs), self._cores))
        return np.concatenate(list(thread_pool("onnx", self._cores).map(functools.partial(run, session), shares)))

    def _to_share_out(self, rows: int) -> bool:
        turns = -(-rows // self._cores)
        return self._device == "cpu" and rows >= (1 - IDLE) * turns * self._cores

    def _session(self, threads: int) -> onnxruntime.InferenceSession:
        """The one whose runs have so many threads."""
        with self._loading:
            if threads not in self._sessions:
                self._sessions[threads] = self._load(threads)
            return self._sessions[threads]

    def _start_empty(self) -> None:
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}
        self._loading = threading.Lock()


_towers: weakref.WeakSet[OnnxTower] = weakref.WeakSet()
_inherited: list[dict[int, onnxruntime.InferenceSession]] = []


def _after_fork() -> None:
    """A forked process has none of the threads of its parent's sessions.

    So it does not run them; nor does it let go of them, which would wait for these threads.
    """
    for tower in list(_towers):
        _inherited.append(tower._sessions)
        tower._start_empty()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def load(path: Path, device: str = "cpu", threads: int = 1) -> onnxruntime.InferenceSession:
    """A graph, ready to run; on a CPU each run has so many threads.

    Raises:
        DeviceError: when onnxruntime cannot compute on another device than a CPU, though a CPU can load the graph.
        onnxruntime's: one of :data:`DAMAGED` when a CPU cannot load it either.
    """
    kind, _, number = device.partition(":")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: a warning of its optimiser is nobody's business
    options.intra_op_num_threads = threads
    given: dict[str, Any] = {"device_id": int(number)} if kind == "cuda" else {}
    providers = [(PROVIDERS[kind], given), *(["CPUExecutionProvider"] if kind != "cpu" else [])]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's have no class in common
        if kind == "cpu":
            raise
        load(path)  # raises what is wrong with the file, if it is the file
        raise _no_device(device, first_line(error)) from error
    session.disable_fallback()  # of runs; onnxruntime 1.20 does not know the argument
    if session.get_providers()[0] != PROVIDERS[kind]:
        raise _no_device(device, f"it would have computed with {session.get_providers()[0]}")
    return session


def _no_device(device: str, why: str) -> DeviceError:
    return DeviceError(
        f"onnxruntime cannot compute on {device!r} with {PROVIDERS[device.split(':')[0]]}: {why}. Look whether this "
        "machine has the driver and the libraries that it wants, or choose the device 'cpu' or the runtime 'torch'"
    )


def run(session: onnxruntime.InferenceSession, inputs: np.ndarray) -> np.ndarray:
    """What a graph of one input and one output makes of an array."""
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]
