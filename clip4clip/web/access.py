"""Access control for the page: known host names, no other sites, allowed routes, limits on requests, a login."""

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

MAX_BODY = 65_536  # bytes of a request without a clip

# What the page needs. All else that Gradio serves is shut: its screen recorder, for one, hands what it is sent to the
# program ffmpeg, and a playlist makes that read any video of this machine.
DOORS = {
    "GET": r"/|/library/(video|poster)|/(assets|static|svelte)/.*|/(config|theme\.css|favicon\.ico|manifest\.json)"
    r"|/gradio_api/(startup-events|upload_progress|heartbeat/\w+)",
    "POST": r"/gradio_api/(upload|run/\w+)/?",
}

# Gradio's own code needs the inline scripts and the evaluation. Videos that are URLs play from wherever they are.
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
    """Adds :data:`SECURITY_HEADERS` to every response that does not set them itself."""

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
    """Refuses requests under a foreign host name, and requests that another website makes.

    The first closes DNS rebinding: a website whose name suddenly means this server would be the page's own origin. The
    second closes cross-site requests: browsers say by ``Sec-Fetch-Site`` and ``Origin`` which site makes them. Programs
    that send neither are let through, and so is a link to here that somebody opens.

    Args:
        app: the ASGI application to protect.
        address: what the server listens on. Loopback names are always known; where it is ``0.0.0.0`` or ``::``, so are
            all IP addresses, which cannot be rebound, and the name of this machine.
        names: other host names by which it is reached, such as that of a proxy in front of it.

    Raises:
        InputValueError: when one of ``names`` is not a host name.
    """

    def __init__(self, app: Any, address: str, names: Iterable[str] = ()) -> None:
        self._app = app
        self._is_everywhere = ipaddress.ip_address(address).is_unspecified
        own = socket.gethostname() if self._is_everywhere else address
        self._names = {"localhost", "127.0.0.1", "::1", own.lower(), *map(_checked_name, names)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            headers = Headers(scope=scope)
            name = _host_name(headers.get("host", ""))
            if not self._knows(name):
                told = f"This server is not known as {name!r}. If it should be, start it with --allowed-host {name}"
                await _refuse(PlainTextResponse(told, 421), scope, receive, send)
                return
            if not _is_own_request(scope.get("method", ""), headers):
                await _refuse(PlainTextResponse("Another website may not ask this server.", 403), scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _knows(self, name: str) -> bool:
        return name in self._names or (self._is_everywhere and _is_address(name))


def _host_name(authority: str) -> str:
    """``host`` of ``host:port``, in lower case, ``::1`` of ``[::1]:port``; empty for what is neither."""
    match = re.fullmatch(r"(?:\[([\da-f:.]+)\]|([\w.-]+))(?::\d+)?", authority.lower(), re.ASCII)
    return (match[1] or match[2]) if match else ""


def _checked_name(name: str) -> str:
    checked = name.lower() if _is_address(name) else _host_name(name)
    if not checked:
        raise InputValueError(f"an allowed host must be a host name such as videos.example.com, not {name!r}")
    return checked


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_own_request(method: str, headers: Headers) -> bool:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site == "same-origin":  # the browser's word, which holds behind a proxy that changes the Host, too
        return True
    if origin is not None:
        try:
            return urlsplit(origin).netloc.lower() == headers["host"].lower()
        except ValueError:  # half an address of IPv6
            return False
    if site in (None, "none"):
        return True
    opened = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    return opened and method in ("GET", "HEAD")


class AllowlistMiddleware:
    """Lets through to what the page needs, and to nothing else; limits what is sent."""

    def __init__(self, app: Any, uploads: Uploads) -> None:
        self._app, self._uploads = app, uploads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            method = scope.get("method", "").replace("HEAD", "GET")
            if method not in DOORS or not re.fullmatch(DOORS[method], scope["path"]):
                await _refuse(PlainTextResponse("there is nothing here", 404), scope, receive, send)
                return
            if method == "POST" and "/run/" in scope["path"]:
                body = await _body(receive)
                asked = self._asked(body) if body is not None else None
                if asked is None:
                    await _refuse(PlainTextResponse("that is not understood", 400), scope, receive, send)
                    return
                receive = _again(asked, receive)
            else:
                limit = MAX_UPLOAD + MAX_BODY if method == "POST" else MAX_BODY
                if int(Headers(scope=scope).get("content-length", 0)) > limit:
                    await _refuse(PlainTextResponse(_too_large(limit), 413), scope, receive, send)
                    return
                receive = _limited(receive, limit)
        await self._app(scope, receive, send)

    def _asked(self, body: bytes) -> bytes | None:
        """What Gradio is to be asked; None for what it must not be.

        It would read any file of this machine, and fetch any address, that it is told of as an upload; and of whoever
        names a session it would keep the state of the whole page.
        """
        try:
            asked = json.loads(body)
            if not isinstance(asked, dict) or not all(map(self._uploads.holds, _paths(asked))):
                return None
            asked.pop("session_hash", None)
            # Raises ValueError for what JSON does not know, NaN, and for halves of characters.
            return json.dumps(asked, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            return None


def _limited(receive: Any, limit: int) -> Any:
    """``receive`` that raises once the body has more than ``limit`` bytes, whatever its headers say."""
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


async def _body(receive: Any) -> bytes | None:
    """What is asked; None where it is longer than anything that is asked here."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            return None
    return body


def _again(body: bytes, receive: Any) -> Any:
    """``receive`` as it was before the body was read."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Any:
        return waiting.pop() if waiting else await receive()

    return received


def _paths(value: Any) -> Iterator[Any]:
    """Whatever is called ``path``, at any depth: so Gradio's messages tell of files."""
    if isinstance(value, dict):
        if "path" in value:
            yield value["path"]
        value = list(value.values())
    for one in value if isinstance(value, list) else ():
        yield from _paths(one)


class BasicAuthMiddleware:
    """Asks for a user and a password (HTTP Basic) before anything else is reached."""

    def __init__(self, app: Any, user: str, password: str) -> None:
        self._app = app
        self._expected = b"Basic " + base64.b64encode(f"{user}:{password}".encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, self._expected):
                asked = {"WWW-Authenticate": 'Basic realm="clip4clip", charset="UTF-8"'}
                await _refuse(PlainTextResponse("a user and a password are due", 401, asked), scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _refuse(answer: Response, scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await answer(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008})
