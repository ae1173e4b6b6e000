"""Access control for the page and the API, as ASGI middlewares.

A request passes, from the outside in: security headers, known host names and origins, HTTP Basic login (where the
server asks for one), a limit on requests at a time, and limits on the size and the time of its body.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import secrets
import socket
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from ..errors import InputValueError, MissingExtraError

try:
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise MissingExtraError("the page needs fastapi: pip install 'towhee-clip4clip[retrieval]'") from error

from .problems import problem
from .uploads import MAX_UPLOAD

MAX_REQUESTS = 100  # that are answered at once; further ones are refused
MAX_HEADERS = 32_768  # bytes of the address and the headers of a request
MAX_BODY = 65_536  # bytes of a request body that carries no clip
BODY_SECONDS = 30  # for such a body to arrive; for a clip, between two pieces of it
UPLOADS = ("POST", b"/api/search")  # the one address that takes a clip

# Videos that are URLs may come from any host. Everything else is this server's own, and nothing is inline.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' http: https: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
}


class SecurityHeadersMiddleware:
    """Add :data:`SECURITY_HEADERS` to every response, except for the headers that the response sets itself."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class SameSiteMiddleware:
    """Reject requests for an unknown host name and requests made by another website.

    Checking the host name prevents DNS rebinding, where the name of a hostile website is changed to mean this server.
    Checking ``Sec-Fetch-Site`` and ``Origin``, which browsers send, prevents cross-site requests. Programs send neither
    header and are let through; so is a person who follows a link to this server.

    Args:
        app: ASGI application to protect.
        address: IP address that the server listens on. Loopback names are always known. If the address is ``0.0.0.0``
            or ``::``, every IP address is known too, because an address cannot be rebound, and so is the host name of
            this machine.
        names: further host names of the server, such as that of a reverse proxy.

    Raises:
        InputValueError: ``names`` has an invalid host name.
    """

    def __init__(self, app: Any, address: str, names: Iterable[str] = ()) -> None:
        self._app = app
        self._accepts_any_address = ipaddress.ip_address(address).is_unspecified
        own_name = socket.gethostname() if self._accepts_any_address else address.partition("%")[0]  # without a zone
        self._names = {"localhost", "127.0.0.1", "::1", own_name.lower(), *map(_parse_allowed_host, names)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = Headers(scope=scope)
        name = _host_name(headers.get("host", ""))
        if not self._is_known(name):
            text = f"This server is not known as {name!r}. If it should be, start it with --allowed-host {name}"
            await problem(421, text)(scope, receive, send)
        elif not _is_same_site(scope["method"], headers):
            await problem(403, "Requests from other websites are not allowed.")(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_known(self, name: str) -> bool:
        return name in self._names or (self._accepts_any_address and _is_ip_address(name))


def _host_name(authority: str) -> str:
    """Return the host of ``host:port`` or ``[IPv6 address]:port`` in lower case, or "" if it is neither."""
    match = re.fullmatch(r"(?:\[([\da-f:.]+)\]|([\w.-]+))(?::\d+)?", authority.lower(), re.ASCII)
    return (match[1] or match[2]) if match else ""


def _parse_allowed_host(text: str) -> str:
    name = text.lower() if _is_ip_address(text) else _host_name(text)
    if not name:
        raise InputValueError(f"an allowed host must be a host name such as videos.example.com, not {text!r}")
    return name


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_same_site(method: str, headers: Headers) -> bool:
    """Return whether a request comes from this page, from a program, or from a person who follows a link."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site == "same-origin":  # holds behind a proxy that changes Host, where Origin and Host differ
        return True
    if origin is not None:
        try:
            return urlsplit(origin).netloc.lower() == headers["host"].lower()
        except ValueError:  # malformed, such as "http://["
            return False
    if site in (None, "none"):
        return True
    is_link = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    return is_link and method in ("GET", "HEAD")


class BasicAuthMiddleware:
    """Require a user name and a password (HTTP Basic) for every request."""

    def __init__(self, app: Any, user: str, password: str) -> None:
        self._app = app
        self._expected = b"Basic " + base64.b64encode(f"{user}:{password}".encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        credentials = dict(scope["headers"]).get(b"authorization", b"")
        if secrets.compare_digest(credentials, self._expected):
            await self._app(scope, receive, send)
        else:
            challenge = {"WWW-Authenticate": 'Basic realm="clip4clip", charset="UTF-8"'}
            response = problem(401, "A user name and a password are required.", challenge)
            await response(scope, receive, send)


class LoadLimitMiddleware:
    """Refuse requests while ``MAX_REQUESTS`` others are being answered, even if their visitors have left."""

    def __init__(self, app: Any) -> None:
        self._app, self._count = app, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._count >= MAX_REQUESTS:
            response = problem(503, "The server has too much to do. Try again in a few seconds.", {"Retry-After": "5"})
            await response(scope, receive, send)
            return
        self._count += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._count -= 1


class RawPathMiddleware:
    """Route by the path as it was sent, so that an id with ``%2F`` stays one segment of the path."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope | {"path": scope["raw_path"].decode("ascii")}, receive, send)


class SizeLimitMiddleware:
    """Reject headers and bodies that are too large, and bodies that arrive too slowly."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        sizes = [len(name) + len(value) for name, value in scope["headers"]]
        if sum(sizes) + len(scope["raw_path"]) + len(scope["query_string"]) > MAX_HEADERS:
            text = f"The address and the headers of the request are longer than {MAX_HEADERS:,} bytes."
            await problem(431, text)(scope, receive, send)
            return
        is_upload = (scope["method"], scope["raw_path"]) == UPLOADS
        limit = MAX_UPLOAD + MAX_BODY if is_upload else MAX_BODY
        if int(Headers(scope=scope).get("content-length", 0)) > limit:
            await problem(413, _too_large(limit))(scope, receive, send)
        else:
            body = _limit_body(receive, limit, is_upload) if _has_body(scope) else receive
            await self._app(scope, body, send)


def _has_body(scope: Any) -> bool:
    headers = Headers(scope=scope)
    return int(headers.get("content-length", 0)) > 0 or "transfer-encoding" in headers


def _limit_body(receive: Any, limit: int, is_upload: bool) -> Any:
    """Return a ``receive`` that raises once the body exceeds ``limit`` bytes, whatever Content-Length says, or is late.

    After the body, the message that the visitor has left may come at any time.
    """
    received, has_more = 0, True
    deadline = time.monotonic() + BODY_SECONDS

    async def receive_limited() -> Any:
        nonlocal received, has_more
        if not has_more:
            return await receive()
        seconds = BODY_SECONDS if is_upload else max(0, deadline - time.monotonic())
        try:
            message = await asyncio.wait_for(receive(), seconds)
        except asyncio.TimeoutError:
            raise HTTPException(408, "The rest of the request did not arrive in time. Send it again.") from None
        received += len(message.get("body", b""))
        has_more = message.get("more_body", False)
        if received > limit:
            raise HTTPException(413, _too_large(limit))
        return message

    return receive_limited


def _too_large(limit: int) -> str:
    return f"The request is larger than {limit:,} bytes."
