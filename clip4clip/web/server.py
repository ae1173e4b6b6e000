"""Serve the page until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError, first_line
from ..index.video_index import VideoIndex
from .access import MAX_HEADERS, BasicAuthMiddleware, LoadLimitMiddleware, SameSiteMiddleware, SecurityHeadersMiddleware
from .app import make_app
from .connections import BoundedProtocol

try:
    import uvicorn
except ImportError as error:
    raise MissingExtraError("the page needs uvicorn: pip install 'towhee-clip4clip[retrieval]'") from error

# What uvicorn says where a visitor has stopped reading, and about requests that are not valid HTTP.
QUIET = ("ASGI callable returned without completing response.", "Invalid HTTP request received.")
SHUTDOWN_TIMEOUT = 5  # seconds for open connections to finish


def run_page(
    index: VideoIndex,
    host: str = "127.0.0.1",
    port: int = 7860,
    login: tuple[str, str] | None = None,
    on_ready: Callable[[str], object] = print,
    allowed_hosts: Iterable[str] = (),
) -> None:
    """Serve the page until Ctrl-C or SIGTERM. Call it from the main thread.

    Args:
        index: index to search.
        host: name or IP address to listen on; 127.0.0.1 can be reached from this machine only.
        port: port to listen on; 0 for a free one.
        login: user name and password that visitors must enter.
        on_ready: called with the URL of the page once it can be opened.
        allowed_hosts: further host names of the server, such as that of a reverse proxy. Requests for a host name other
            than these, ``host`` and the loopback names are rejected: see
            :class:`clip4clip.web.access.SameSiteMiddleware`.

    Raises:
        InputValueError: ``allowed_hosts`` has an invalid host name.
        VideoIndexError: the index cannot be searched with this model; see :meth:`VideoIndex.search`.
        OSError: the port is in use, or ``host`` is not an address of this machine.
    """
    index.search("a video", limit=1)  # loads the model, and raises errors that would fail every search
    index.calibration(wait=False)  # begins in the background, rather than beside the first search of a visitor
    # Of clips that visitors download. On Windows, one that is still open cannot be deleted.
    clips_folder = tempfile.TemporaryDirectory(prefix="clip4clip-page-", ignore_cleanup_errors=True)
    with clips_folder as folder, _listen(host, port) as listener:
        address, port = listener.getsockname()[:2]
        host = host or address
        app: Any = LoadLimitMiddleware(make_app(index, Path(folder)))
        if login is not None:
            app = BasicAuthMiddleware(app, *login)
        app = SecurityHeadersMiddleware(SameSiteMiddleware(app, address, [_host_header(host), *allowed_hosts]))
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            h11_max_incomplete_event_size=MAX_HEADERS,
            ws="none",
            lifespan="off",
            log_level="warning",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT,
        )
        server = uvicorn.Server(config)
        logging.getLogger("uvicorn.error").addFilter(_is_worth_printing)
        with contextlib.suppress(KeyboardInterrupt):  # raised once all connections are closed
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM must delete the clips, too
            on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
            server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, on which connections wait until the page accepts them."""
    listener = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sends without delay (TCP_NODELAY) only if it knows the protocol; otherwise, answers take 40 ms more.
        listener = socket.socket(family, kind, socket.IPPROTO_TCP)
        if sys.platform == "win32":  # where SO_REUSEADDR would let several servers take the same port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except (OSError, UnicodeError) as error:  # UnicodeError: a part of the name is empty or too long
        if listener is not None:
            listener.close()
        reason = getattr(error, "strerror", None) or first_line(error)
        raise OSError(
            f"the page cannot listen at {host!r}, port {port}: {reason}. Use an address of this machine and a free port"
        ) from error
    return listener


def _host_header(host: str) -> str:
    """Return the name that requests for a host have: in ASCII, and without the zone of an IPv6 address."""
    return host.encode("idna").decode("ascii").partition("%")[0]


def _is_worth_printing(record: logging.LogRecord) -> bool:
    """Return whether a log record is worth printing: not that a connection was closed, by the visitor or by a stop."""
    is_cancelled = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not is_cancelled and record.msg not in QUIET
