"""Access control for the page, as ASGI middlewares.

A request passes, from the outside in: security headers, known host names and origins, HTTP Basic login (where the
server asks for one), and the allowlist of routes with its limits on request bodies.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import secrets
import socket
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from ..errors import InputValueError, MissingExtraError

try:
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.responses import PlainTextResponse, Response
except ImportError as error:
    raise MissingExtraError("the page needs starlette: pip install 'towhee-clip4clip[retrieval]'") from error

from .uploads import MAX_UPLOAD, Uploads

MAX_BODY = 65_536  # bytes of a request body that carries no clip

# The paths that the page needs, as a pattern for each method. Gradio's other routes stay closed. Its screen recorder,
# for example, passes uploads to the program ffmpeg, and a playlist makes ffmpeg read any video of this machine.
ALLOWED_PATHS = {
    "GET": r"/|/library/(video|poster)|/(assets|static|svelte)/.*|/(config|theme\.css|favicon\.ico|manifest\.json)"
    r"|/gradio_api/(startup-events|upload_progress|heartbeat/\w+)",
    "POST": r"/gradio_api/(upload|run/\w+)/?",
}

# Gradio's code needs 'unsafe-inline' and 'unsafe-eval'. Videos that are URLs may come from any host.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "media-src 'self' http: https:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
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
        own_name = socket.gethostname() if self._accepts_any_address else address
        self._names = {"localhost", "127.0.0.1", "::1", own_name.lower(), *map(_parse_allowed_host, names)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            headers = Headers(scope=scope)
            name = _host_name(headers.get("host", ""))
            if not self._is_known(name):
                text = f"This server is not known as {name!r}. If it should be, start it with --allowed-host {name}"
                await _reject(PlainTextResponse(text, 421), scope, receive, send)
                return
            if not _is_same_site(scope.get("method", ""), headers):
                response = PlainTextResponse("Requests from other websites are not allowed.", 403)
                await _reject(response, scope, receive, send)
                return
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


class AllowlistMiddleware:
    """Reject routes that the page does not need, bodies that are too large, and files that are not uploads.

    Args:
        app: ASGI application to protect.
        uploads: uploaded clips, the only files that a request may name.
    """

    def __init__(self, app: Any, uploads: Uploads) -> None:
        self._app, self._uploads = app, uploads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            method = scope.get("method", "").replace("HEAD", "GET")
            if method not in ALLOWED_PATHS or not re.fullmatch(ALLOWED_PATHS[method], scope["path"]):
                await _reject(PlainTextResponse("Not found.", 404), scope, receive, send)
                return
            if method == "POST" and "/run/" in scope["path"]:
                body = await _read_body(receive)
                safe_body = self._sanitise(body) if body is not None else None
                if safe_body is None:
                    await _reject(PlainTextResponse("Invalid request.", 400), scope, receive, send)
                    return
                receive = _replay(safe_body, receive)
            else:
                limit = MAX_UPLOAD + MAX_BODY if method == "POST" else MAX_BODY
                if int(Headers(scope=scope).get("content-length", 0)) > limit:
                    await _reject(PlainTextResponse(_too_large(limit), 413), scope, receive, send)
                    return
                receive = _limit_body(receive, limit)
        await self._app(scope, receive, send)

    def _sanitise(self, body: bytes) -> bytes | None:
        """Return the JSON body of an event in a form that is safe for Gradio, or None if the body is not acceptable.

        Gradio would read any file of this machine, and fetch any address, that a request names as an uploaded file. For
        each ``session_hash`` it would keep the state of the whole page in memory.
        """
        try:
            event = json.loads(body)
            if not isinstance(event, dict) or not all(map(self._uploads.holds, _find_paths(event))):
                return None
            event.pop("session_hash", None)
            # Raises ValueError for NaN, which JSON does not have, and for lone surrogates.
            return json.dumps(event, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            return None


def _find_paths(value: Any) -> Iterator[Any]:
    """Yield every value under a key ``path``, at any depth: Gradio's messages name files in this way."""
    if isinstance(value, dict):
        if "path" in value:
            yield value["path"]
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from _find_paths(item)


async def _read_body(receive: Any) -> bytes | None:
    """Return the body of a request, or None if it has more than ``MAX_BODY`` bytes."""
    body, has_more = b"", True
    while has_more:
        message = await receive()
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            return None
    return body


def _replay(body: bytes, receive: Any) -> Any:
    """Return a ``receive`` that delivers ``body`` as if it had not been read yet."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_replayed() -> Any:
        return pending.pop() if pending else await receive()

    return receive_replayed


def _limit_body(receive: Any, limit: int) -> Any:
    """Return a ``receive`` that raises once the body exceeds ``limit`` bytes, whatever Content-Length says."""
    received = 0

    async def receive_limited() -> Any:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise HTTPException(413, _too_large(limit))
        return message

    return receive_limited


def _too_large(limit: int) -> str:
    return f"That is larger than {limit:,} bytes."


class BasicAuthMiddleware:
    """Require a user name and a password (HTTP Basic) for every request."""

    def __init__(self, app: Any, user: str, password: str) -> None:
        self._app = app
        self._expected = b"Basic " + base64.b64encode(f"{user}:{password}".encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            credentials = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(credentials, self._expected):
                challenge = {"WWW-Authenticate": 'Basic realm="clip4clip", charset="UTF-8"'}
                response = PlainTextResponse("A user name and a password are required.", 401, challenge)
                await _reject(response, scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _reject(response: Response, scope: Any, receive: Any, send: Any) -> None:
    """Answer a request with ``response``, or close a websocket, which cannot carry one."""
    if scope["type"] == "http":
        await response(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008})
