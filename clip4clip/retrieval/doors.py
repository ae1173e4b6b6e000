"""Who comes through to the page, and to what of it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response

MAX_BODY = 65_536  # bytes of what is asked
MAX_UPLOADS = 1 << 31  # bytes of all clips that were sent and not searched by yet
UPLOAD_SECONDS = 600  # that such a clip is kept

# What the page needs. All else that Gradio serves is shut: its screen recorder, for one, hands what it is sent to the
# program ffmpeg, and a playlist makes that read any video of this machine.
DOORS = {
    "GET": r"/|/library/(video|poster)|/(assets|static|svelte)/.*|/(config|theme\.css|favicon\.ico|manifest\.json)"
    r"|/gradio_api/(startup-events|upload_progress|heartbeat/\w+)",
    "POST": r"/gradio_api/(upload|run/\w+)/?",
}


class Doors:
    """Lets through to what the page needs, and to nothing else."""

    def __init__(self, app: Any, uploads: Path) -> None:
        self._app, self._uploads = app, os.path.realpath(uploads)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            method = scope.get("method", "").replace("HEAD", "GET")
            if method not in DOORS or not re.fullmatch(DOORS[method], scope["path"]):
                await _refuse(PlainTextResponse("there is nothing here", 404), scope, receive, send)
                return
            if "/upload" in scope["path"] and method == "POST" and not await run_in_threadpool(self._has_room):
                await _refuse(PlainTextResponse("too many clips are waiting", 503), scope, receive, send)
                return
            if method == "POST" and "/run/" in scope["path"]:
                body = await _body(receive)
                if body is None or not self._names_uploads_alone(body):
                    await _refuse(PlainTextResponse("that is not understood", 400), scope, receive, send)
                    return
                receive = _again(body, receive)
        await self._app(scope, receive, send)

    def _has_room(self) -> bool:
        """Whether another clip may be sent, once those are gone that nobody has searched by."""
        kept = 0
        for path in Path(self._uploads).rglob("*"):
            with contextlib.suppress(OSError):  # it may be gone by now
                status = path.lstat()
                if not stat.S_ISREG(status.st_mode):
                    continue
                if time.time() - status.st_mtime > UPLOAD_SECONDS:
                    path.unlink()
                else:
                    kept += status.st_size
        return kept < MAX_UPLOADS

    def _names_uploads_alone(self, body: bytes) -> bool:
        """Gradio would read any file of this machine, and fetch any address, that it is told of as an upload."""
        try:
            return all(self._is_upload(path) for path in _paths(json.loads(body)))
        except (ValueError, RecursionError):
            return False

    def _is_upload(self, path: Any) -> bool:
        if not isinstance(path, str):
            return False
        return Path(os.path.realpath(path)).is_relative_to(self._uploads) and os.path.isfile(path)


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


class Login:
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
