"""Servers that tests and benchmarks start on the loopback: a real Milvus, a real Triton, and the page."""

from __future__ import annotations

import contextlib
import http.client
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# The wheel's launcher takes another port when the last connections to this one are still being closed.
LAUNCH = """
import socket, sys
from milvus import MilvusServerConfig, main

def bind(port):
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(("127.0.0.1", port))
    except OSError:
        return None
    taken.listen()
    return taken

MilvusServerConfig.try_bind_port = staticmethod(bind)
main()
"""


class MilvusServer:
    """Milvus standalone from the wheel ``milvus``, with its data in a folder. A machine can run one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        from pymilvus import MilvusClient, MilvusException

        command = [sys.executable, "-c", LAUNCH, "--data", str(self.folder / "data"), "--proxy-port", str(self.port)]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 300  # should it neither answer nor end
        while True:
            try:
                client = MilvusClient(self.uri, timeout=5, grpc_options={"grpc.max_reconnect_backoff_ms": 1000})
                client.list_collections(timeout=5)
                client.close()
                return
            except MilvusException:
                if self._process.poll() is not None or time.monotonic() > end:
                    self.kill()
                    raise AssertionError((self.folder / "log").read_text(errors="replace")[-2000:]) from None
                time.sleep(0.5)

    def kill(self) -> None:
        """As a failure of the power would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
TRITON = ["numpy==1.26.4", "nvidia-pytriton==0.7.0"]  # its Python backend was built for numpy 1


class TritonUnavailableError(Exception):
    """There is no Triton server to be had here."""


class TritonPlace:
    """A folder with the Triton server of the wheel ``nvidia-pytriton`` and the backends ``python`` and ``onnxruntime``.

    The wheel has the server, its HTTP front end, its scheduler and the backend ``python``. ``onnxruntime`` is
    ``triton_onnxruntime.py``, which has the name of NVIDIA's, and runs the same files.

    Raises:
        TritonUnavailableError: the wheel is not for this machine, or pip cannot get it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv = folder / "venv"
        packages = venv / "lib" / PYTHON / "site-packages"
        if sys.platform != "linux" or platform.machine() != "x86_64":
            raise TritonUnavailableError("there is a wheel of the Triton server for Linux on x86-64 only")
        # An environment of its own, for numpy's sake. All the rest it takes from the one that runs the tests, by way of
        # a file, as the server's Python does not regard PYTHONPATH.
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "--quiet", "--no-deps"]
        done = subprocess.run([*pip, "--only-binary=:all:", *TRITON], capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-500:]]
            raise TritonUnavailableError(f"pip cannot get {' and '.join(TRITON)}: {errors[-1]}")
        import clip4clip

        code = Path(str(clip4clip.__file__)).parent.parent
        others = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
        (packages / "tests.pth").write_text(f"{code}\n{others}\n")

        wheel = packages / "pytriton" / "tritonserver"
        self.program = wheel / "bin" / "tritonserver"
        self.environment = os.environ | {
            "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",  # the backend's Python is the first python3 there
            "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}",
            "TOWHEE_HOME": str(folder / "towhee"),
            "OMP_NUM_THREADS": "1",
        }
        stub = wheel / "python_backend_stubs" / PYTHON.removeprefix("python") / "triton_python_backend_stub"
        linked = subprocess.run(["ldd", stub], env=self.environment, capture_output=True, text=True).stdout
        if missing := re.findall(r"(\S+) => not found", linked):
            raise TritonUnavailableError(f"Triton's Python backend needs {', '.join(missing)}")
        backends = folder / "backends"
        for name in ("python", "onnxruntime"):
            (backends / name).mkdir(parents=True)
        for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
            shutil.copy2(wheel / "backends" / "python" / name, backends / "python")
        shutil.copy2(stub, backends / "python")
        shutil.copy2(
            Path(__file__).parent / "operators" / "triton_onnxruntime.py", backends / "onnxruntime" / "model.py"
        )


class TritonServer:
    """Triton with a model repository, at ``url`` from the start of a ``with`` to its end."""

    def __init__(self, place: TritonPlace, repository: Path) -> None:
        self.url = f"127.0.0.1:{free_port()}"
        command = [place.program, "--model-repository", repository, "--backend-directory", place.folder / "backends"]
        command += ["--http-address", "127.0.0.1", "--http-port", self.url.split(":")[1], "--allow-grpc", "false"]
        command += ["--allow-metrics", "false", "--exit-timeout-secs", "10"]
        self._log = repository.with_name(f"{repository.name}.log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                list(map(str, command)), env=place.environment, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 300  # should it neither get ready nor end
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise AssertionError(self.said()[-4000:])
            time.sleep(0.2)

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self.kill()

    def ready(self) -> bool:
        """Whether it answers, and all models are loaded."""
        try:
            urllib.request.urlopen(f"http://{self.url}/v2/health/ready", timeout=5).close()
        except OSError:
            return False
        return True

    def said(self) -> str:
        """Its log."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """With the processes of its models, which live longer than a server that was killed."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class PageServer:
    """`clip4clip serve` in a process of its own, at ``url`` from the start of a ``with`` to its end."""

    def __init__(self, uri: str, *options: str, cwd: Path | None = None, env: Mapping[str, str] = os.environ) -> None:
        command = [sys.executable, "-m", "clip4clip", "serve", "--uri", uri, "--port", "0", *options]
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, cwd=cwd, env={**env, "COLUMNS": "200"}
        )
        assert self._process.stderr is not None
        self.said = ""
        for line in self._process.stderr:
            self.said += line
            if found := re.search(r"open (http://\S+)", line):
                self.url = found[1]
                return
        raise AssertionError(self.said)

    def __enter__(self) -> PageServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop()

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Status and body; the path goes out as it is, unlike from a browser."""
        status, _, body = self.request("GET", path, headers=headers)
        return status, body

    def request(self, method: str, path: str, **rest: Any) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, and body; ``rest`` is for ``http.client``'s method ``request``."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://").rstrip("/"), timeout=60)
        try:
            connection.request(method, path, **rest)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def stop(self, how: int = signal.SIGINT) -> str:
        """By Ctrl-C or another signal; what it said."""
        self._process.send_signal(how)
        self.said += self._process.communicate(timeout=120)[1]
        return self.said


def posted(name: str, content: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a form with a file."""
    form = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a.mp4"\r\n\r\n{content}\r\n--x--\r\n'
    return form.encode(), {"Content-Type": "multipart/form-data; boundary=x"}


def ask(tab: Any, query: str) -> None:
    """Types a query into the page and sends it."""
    tab.wait_for_function("document.activeElement.closest('#query')")  # from then on the page listens
    tab.get_by_label("What the video shows").fill(query)
    tab.keyboard.press("Enter")
