"""Connections with limits on their number and on slow visitors, for uvicorn."""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import MissingExtraError

try:
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise MissingExtraError("the page needs uvicorn: pip install 'towhee-clip4clip[retrieval]'") from error

MAX_CONNECTIONS = 200  # open at once; further ones are closed without an answer
REQUEST_SECONDS = 15  # for the headers of a request; and for the rest of a request that has been answered already
STALL_SECONDS = 120  # for a visitor to read on: a browser that plays a video reads ahead, then waits


class BoundedProtocol(H11Protocol):
    """A connection to a visitor that is cut if the visitor takes too long.

    uvicorn itself closes a connection on which nothing comes after an answer. It waits for ever for a visitor who sends
    headers slowly, who goes on sending what nobody reads, or who does not read.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._request_timer = _Timer(self.loop, self._cut)
        self._stall_timer = _Timer(self.loop, self._cut)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._request_timer.start(REQUEST_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_timer.stop()
        self._stall_timer.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._request_timer.start(REQUEST_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer.start(STALL_SECONDS)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall_timer.stop()

    def _watch_request(self) -> None:
        """Start the time of a request with the first bytes of its headers, and end it with the last."""
        is_answered = self.cycle is not None and self.cycle.response_complete
        if self.conn.their_state is h11.IDLE or (self.conn.their_state is h11.SEND_BODY and is_answered):
            self._request_timer.start(REQUEST_SECONDS)  # more bytes do not extend the time
        else:
            self._request_timer.stop()

    def _cut(self) -> None:
        self.transport.abort()


class _Timer:
    """Calls a function after a time, unless it is stopped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, function: Any) -> None:
        self._loop, self._function = loop, function
        self._handle: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """Start the time, unless it runs already."""
        if self._handle is None:
            self._handle = self._loop.call_later(seconds, self._function)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
