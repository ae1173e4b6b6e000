"""Servers that tests and benchmarks start on loopback: a web server, Milvus, Triton, and `clip4clip serve`."""

from __future__ import annotations

import contextlib
import http.client
import os
import platform
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

CHUNK_SIZE = 1 << 14  # bytes that HttpServer sends, and counts, at once


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Request(NamedTuple):
    """A request to :class:`HttpServer`; ``headers`` ignores case."""

    method: str
    path: str
    headers: Mapping[str, str]


class Response(NamedTuple):
    """An answer of :class:`HttpServer`.

    Attributes:
        body: content; an iterable of pieces is sent without a Content-Length, and ends with the connection.
        status: HTTP status.
        headers: headers besides those about length and ranges.
        ranges: whether a ``Range`` of a request is honoured, with the status 206; ``body`` must be bytes then.
        cut_at: position in ``body``, in bytes, at which the connection breaks; None sends all.
    """

    body: bytes | Iterable[bytes] = b""
    status: int = 200
    headers: Mapping[str, str] = MappingProxyType({})
    ranges: bool = False
    cut_at: int | None = None


def serve_folder(*folders: Path, ranges: bool = True) -> Callable[[Request], Response]:
    """Return a ``respond`` for :class:`HttpServer` that serves the files of folders, of which the first one counts."""

    def respond(request: Request) -> Response:
        file = next(filter(Path.is_file, (folder / request.path.lstrip("/") for folder in folders)), None)
        return Response(status=404) if file is None else Response(file.read_bytes(), ranges=ranges)

    return respond


class HttpServer:
    """A web server, at ``url`` from the start of a ``with`` to its end. Each request has a thread of its own.

    A test decides what the server does by ``respond``: it may look at the request's headers, wait before it answers,
    and return another response each time.

    Args:
        respond: called with each request; returns the response, or None to close the connection without one.
        tls: certificate and key for HTTPS, loaded into a server-side context.

    Attributes:
        respond: the same; may be replaced while the server runs.
        url: address without a slash at its end.
        requests: all requests so far.
        bytes_sent: bytes of bodies sent so far, including what the client did not read.
    """

    def __init__(self, respond: Callable[[Request], Response | None], tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.bytes_sent = 0
        self.respond, self._lock = respond, threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HttpServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def clear(self) -> None:
        """Forget the requests and the bytes that were counted."""
        with self._lock:
            self.requests.clear()
            self.bytes_sent = 0

    def record(self, *requests: Request, bytes_sent: int = 0) -> None:
        """Count what a handler has received and sent, in its own thread."""
        with self._lock:
            self.requests.extend(requests)
            self.bytes_sent += bytes_sent


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: HttpServer

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client has what it wants
            super().handle()

    def do_GET(self) -> None:
        request = Request(self.command, self.path, self.headers)
        self.owner.record(request)
        response = self.owner.respond(request)
        if response is None:
            self.close_connection = True
        elif isinstance(response.body, bytes):
            self._send(response, response.body)
        else:
            self.send_response(response.status)
            self._send_headers({**response.headers, "Connection": "close"})
            self._send_pieces(response.body)
            self.close_connection = True

    do_HEAD = do_GET  # noqa: N815

    def _send(self, response: Response, body: bytes) -> None:
        sent, status, headers = range(len(body)), response.status, dict(response.headers)
        if response.ranges and status == 200:
            headers["Accept-Ranges"] = "bytes"
            if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                sent = sent[int(match[1]) : int(match[2]) + 1 if match[2] else len(body)]
                status = 206 if sent else 416
                headers["Content-Range"] = f"bytes {sent[0]}-{sent[-1]}/{len(body)}" if sent else f"bytes */{len(body)}"
        self.send_response(status)
        self._send_headers({**headers, "Content-Length": str(len(sent))})
        if self.command != "HEAD":
            stop = sent.stop if response.cut_at is None else min(response.cut_at, sent.stop)
            self._send_pieces(body[i : min(i + CHUNK_SIZE, stop)] for i in range(sent.start, stop, CHUNK_SIZE))
            self.close_connection = self.close_connection or stop < sent.stop

    def _send_headers(self, headers: Mapping[str, str]) -> None:
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_pieces(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.wfile.write(piece)
            self.owner.record(bytes_sent=len(piece))

    def log_message(self, *_: object) -> None:
        pass


# The launcher of the wheel takes another port while the last connections to the wanted one are still closing.
MILVUS_LAUNCHER = """
import socket, sys
from milvus import MilvusServerConfig, main

def bind(port):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        return None
    listener.listen()
    return listener

MilvusServerConfig.try_bind_port = staticmethod(bind)
main()
"""


# Settings of a Milvus server that notices sooner what there is to do, by their names as environment variables: it
# spends most of a test waiting for its own timers. What it does is the same. In milliseconds, the session's in seconds.
SHORT_INTERVALS = {
    "PROXY_TIMETICKINTERVAL": "20",  # a count waits for it
    "DATANODE_TIMETICK_INTERVAL": "20",
    "QUERYCOORD_CHECKINTERVAL": "200",
    "QUERYCOORD_CHECKCHANNELINTERVAL": "200",
    "QUERYCOORD_CHECKSEGMENTINTERVAL": "200",
    "QUERYCOORD_CHECKHANDOFFINTERVAL": "1000",
    "QUERYCOORD_DISTPULLINTERVAL": "100",
    "INDEXCOORD_SCHEDULER_INTERVAL": "200",
    "DATACOORD_SEGMENT_ASSIGNMENTEXPIRATION": "100",  # a flush waits for it
    "COMMON_SESSION_TTL": "15",  # until it passes, a server that was killed counts as running after its restart
}


class MilvusServer:
    """Milvus standalone from the wheel ``milvus``. A machine can run one at a time.

    Args:
        folder: existing folder for the data and the log.
        settings: environment variables that replace settings of the server.

    Attributes:
        uri: address, the same after each start.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self.folder, self.port, self._settings = folder, free_port(), settings
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        from pymilvus import MilvusClient, MilvusException

        command = [sys.executable, "-c", MILVUS_LAUNCHER]
        command += ["--data", str(self.folder / "data"), "--proxy-port", str(self.port)]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **self._settings}
            )
        deadline = time.monotonic() + 600
        while True:
            try:
                client = MilvusClient(self.uri, timeout=5, grpc_options={"grpc.max_reconnect_backoff_ms": 1000})
                client.list_collections(timeout=5)
                client.close()
                return
            except MilvusException:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise AssertionError((self.folder / "log").read_text(errors="replace")[-2000:]) from None
                time.sleep(0.5)

    def kill(self) -> None:
        """Kill the server, as a power failure would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has exited
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
TRITON_PACKAGES = ["numpy==1.26.4", "nvidia-pytriton==0.7.0"]  # its Python backend was built for numpy 1


class TritonUnavailableError(Exception):
    """The Triton server cannot be installed on this machine."""


class TritonPlace:
    """The Triton server of the wheel ``nvidia-pytriton``, installed into a folder, with two backends.

    The wheel has the server, its HTTP front end, its scheduler and the backend ``python``. The backend ``onnxruntime``
    is ``triton_onnxruntime.py``: it has the name of NVIDIA's backend and runs the same model files.

    Args:
        folder: existing folder to install into.

    Attributes:
        folder: the same.
        program: path of the server.
        environment: environment variables to run it with.

    Raises:
        TritonUnavailableError: there is no wheel for this machine, or pip cannot download it.
    """

    def __init__(self, folder: Path) -> None:
        if sys.platform != "linux" or platform.machine() != "x86_64":
            raise TritonUnavailableError("the wheel of the Triton server is for Linux on x86-64 only")
        self.folder = folder
        venv = folder / "venv"
        packages = venv / "lib" / PYTHON / "site-packages"
        self._install(venv)
        self._share_packages(packages)
        wheel = packages / "pytriton" / "tritonserver"
        self.program = wheel / "bin" / "tritonserver"
        self.environment = os.environ | {
            "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",  # the backend's Python is the first python3 there
            "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}",
            "TOWHEE_HOME": str(folder / "towhee"),
            "OMP_NUM_THREADS": "1",
        }
        self._copy_backends(wheel)

    def _install(self, venv: Path) -> None:
        """Make an environment of its own, as the server needs another numpy than the tests."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "--quiet", "--no-deps"]
        done = subprocess.run([*pip, "--only-binary=:all:", *TRITON_PACKAGES], capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-500:]]
            raise TritonUnavailableError(f"pip cannot install {' and '.join(TRITON_PACKAGES)}: {errors[-1]}")

    def _share_packages(self, packages: Path) -> None:
        """Add all other packages of the tests' environment, by a .pth file, as the server ignores PYTHONPATH."""
        import clip4clip

        code = Path(str(clip4clip.__file__)).parent.parent
        add_packages = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
        (packages / "tests.pth").write_text(f"{code}\n{add_packages}\n")

    def _copy_backends(self, wheel: Path) -> None:
        stub = wheel / "python_backend_stubs" / PYTHON.removeprefix("python") / "triton_python_backend_stub"
        linked = subprocess.run(["ldd", stub], env=self.environment, capture_output=True, text=True).stdout
        if missing := re.findall(r"(\S+) => not found", linked):
            raise TritonUnavailableError(f"Triton's Python backend needs {', '.join(missing)}")
        backends = self.folder / "backends"
        for name in ("python", "onnxruntime"):
            (backends / name).mkdir(parents=True)
        for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
            shutil.copy2(wheel / "backends" / "python" / name, backends / "python")
        shutil.copy2(stub, backends / "python")
        model = Path(__file__).parent / "operators" / "triton_onnxruntime.py"
        shutil.copy2(model, backends / "onnxruntime" / "model.py")


class TritonServer:
    """A Triton server with a model repository, at ``url`` from its construction to the end of a ``with``."""

    def __init__(self, installation: TritonPlace, repository: Path) -> None:
        self.url = f"127.0.0.1:{free_port()}"
        command = [installation.program, "--model-repository", repository]
        command += ["--backend-directory", installation.folder / "backends"]
        command += ["--http-address", "127.0.0.1", "--http-port", self.url.split(":")[1], "--allow-grpc", "false"]
        command += ["--allow-metrics", "false", "--exit-timeout-secs", "10"]
        self._log = repository.with_name(f"{repository.name}.log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                list(map(str, command)), env=installation.environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 300
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(self._log.read_text(errors="replace")[-4000:])
            time.sleep(0.2)

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self.kill()

    def ready(self) -> bool:
        """Return whether the server answers and all models are loaded."""
        try:
            urllib.request.urlopen(f"http://{self.url}/v2/health/ready", timeout=5).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Kill the server and the processes of its models, which would outlive it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class PageServer:
    """`clip4clip serve` in a process of its own, at ``url`` from its construction to the end of a ``with``.

    Args:
        uri: index to serve.
        options: further options of the command.
        cwd: working directory of the process.
        env: environment variables of the process.

    Attributes:
        url: address, with a slash at its end.
    """

    def __init__(self, uri: str, *options: str, cwd: Path | None = None, env: Mapping[str, str] = os.environ) -> None:
        command = [sys.executable, "-m", "clip4clip", "serve", "--uri", uri, "--port", "0", *options]
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, cwd=cwd, env={**env, "COLUMNS": "200"}
        )
        assert self._process.stderr is not None
        self._stderr = ""
        for line in self._process.stderr:
            self._stderr += line
            if match := re.search(r"open (http://\S+)", line):
                self.url = match[1]
                return
        raise AssertionError(self._stderr)

    def __enter__(self) -> PageServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop()

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Return status and body of a GET request."""
        return get(self.url, path, **headers)

    def request(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of a request, see :func:`request`."""
        return request(self.url, method, path, **options)

    def stop(self, signal_number: int = signal.SIGINT) -> str:
        """Stop the server by Ctrl-C or another signal, and return all that it wrote to stderr."""
        self._process.send_signal(signal_number)
        self._stderr += self._process.communicate(timeout=300)[1]
        return self._stderr


def get(url: str, path: str, **headers: str) -> tuple[int, bytes]:
    """Return status and body of a GET request."""
    status, _, body = request(url, "GET", path, headers=headers)
    return status, body


def request(url: str, method: str, path: str, **options: Any) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers (lower-case names) and body of a request to a server.

    Args:
        url: address of the server.
        method: GET, POST, …
        path: sent as it is, unlike by a browser, which would resolve ``..``.
        options: further arguments of :meth:`http.client.HTTPConnection.request`.
    """
    connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=300)
    try:
        connection.request(method, path, **options)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def drip(connection: socket.socket) -> bytes:
    """Send a byte now and then until the server answers or closes the connection, and return what comes."""
    connection.settimeout(0.05)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            connection.sendall(b"x")
            return connection.recv(10_000)
        except TimeoutError:
            continue
        except ConnectionError:
            return b""
    raise AssertionError("the server waits for ever")
